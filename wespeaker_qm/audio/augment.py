"""Augmentation of batches: reverberation, noise, channel filters and spectrogram masks.

Each function works on all rows of its batch, on any device, and draws nothing itself: whoever plans the epoch chooses
rows, RIRs, noise, ratios and spans. Rows that are to stay as they are do not pass through here.

Shapes: B batch, S samples, R RIR samples, T frames, F bins, K control points, M masks.
"""

import math
from collections.abc import Callable

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from wespeaker_qm.audio.fft import irfft, rfft

# WeSpeaker's guard against silence, in levels and in the peak.
SILENCE = 1e-4
# Ends of a waveform are mirrored over this many samples, so that its end does not ring into its start.
FILTER_PADDING = 512
BAND_EDGE_HZ = 200.0


def reverberate(waveform: Tensor, rir: Tensor) -> Tensor:
    """Convolve each row with its room impulse response, scaled to unit energy: (B, S).

    The convolution is cut to the first S samples and not moved in time. WeSpeaker then normalises the peak:
    ``peak_normalise(reverberate(waveform, rir))``.

    Args:
        waveform: (B, S) float32.
        rir: (B, R) float32 at any scale, not all zero; shorter ones are padded with zeros at their end.
    """
    size = reverberation_size(waveform.shape[-1], rir.shape[-1])
    return convolve(waveform, rir_spectrum(rir, waveform.shape[-1], size), size)


def reverberation_size(num_samples: int, rir_length: int) -> int:
    """A fast FFT size for waveforms of ``num_samples`` samples and impulse responses up to ``rir_length``."""
    # The result is cut to num_samples, which what comes later in a response cannot reach.
    return int(next_fast_len(num_samples + min(rir_length, num_samples) - 1, real=True))


def rir_spectrum(rir: Tensor, num_samples: int, size: int) -> Tensor:
    """Spectrum (B, size / 2 + 1) of impulse responses (B, R) scaled to unit energy, then cut to ``num_samples``."""
    rir = rir / rir.square().sum(dim=-1, keepdim=True).sqrt()
    return rfft(rir[..., :num_samples], size)


def convolve(waveform: Tensor, spectrum: Tensor, size: int) -> Tensor:
    """Filter each row of ``waveform`` (B, S) by spectra, or gains, (B, size / 2 + 1): the first S samples."""
    return irfft(rfft(waveform, size) * spectrum, size)[..., : waveform.shape[-1]]


def mix_noise(waveform: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Add noise to each row at its signal-to-noise ratio: (B, S).

    Levels are WeSpeaker's 10 log10(mean(x^2) + 1e-4), so noise is not pushed up to match near-silent speech. WeSpeaker
    then normalises the peak: ``peak_normalise(mix_noise(waveform, noise, snr_db))``.

    Args:
        waveform: (B, S) float32.
        noise: (B, S) float32 in [-1, 1]; the caller repeats a noise shorter than S.
        snr_db: (B,) float32.
    """
    gain_db = _level_db(waveform) - _level_db(noise) - snr_db[:, None]
    return waveform + noise * 10.0 ** (gain_db / 20.0)


def peak_normalise(waveform: Tensor) -> Tensor:
    """Divide each row by its largest magnitude plus 1e-4: (B, S) within (-1, 1)."""
    return waveform / (waveform.abs().amax(dim=-1, keepdim=True) + SILENCE)


def band_limit(waveform: Tensor, cutoff_hz: Tensor, sample_rate: int = 16000) -> Tensor:
    """Remove from each row what lies above its cut-off, as a channel of lower sample rate does: (B, S).

    Zero-phase; a squared sine falls from 1 to 0 over 200 Hz, half of the amplitude being left at the cut-off.

    Args:
        waveform: (B, S) float32.
        cutoff_hz: (B,); 3,900 Hz is what 8 kHz telephone speech has.
        sample_rate: samples a second.
    """

    def response(frequency_hz: Tensor) -> Tensor:
        below = (0.5 + (cutoff_hz[:, None] - frequency_hz) / BAND_EDGE_HZ).clamp(0.0, 1.0)
        return torch.sin(below * (math.pi / 2)).square()

    return _filter(waveform, response, sample_rate)


def high_pass(waveform: Tensor, cutoff_hz: Tensor, sample_rate: int = 16000) -> Tensor:
    """Weaken in each row what lies below its cut-off, as a small microphone or a telephone line does: (B, S).

    Zero-phase, with the gains of a Butterworth filter of second order, 1 / sqrt(1 + (cutoff / f)^4): 3 dB less at the
    cut-off, 12 dB less an octave below, nothing at 0 Hz.

    Args:
        waveform: (B, S) float32.
        cutoff_hz: (B,), above 0.
        sample_rate: samples a second.
    """

    def response(frequency_hz: Tensor) -> Tensor:
        square = frequency_hz.square()
        return square / (square.square() + cutoff_hz[:, None] ** 4).sqrt()

    return _filter(waveform, response, sample_rate)


def add_hiss(waveform: Tensor, hiss: Tensor, snr_db: Tensor) -> Tensor:
    """Add noise of unit power to each row, the stated ratio below the row's own power: (B, S).

    Unlike :func:`mix_noise` there is no guard against silence: the hiss of a recorder scales with the recording.

    Args:
        waveform: (B, S) float32.
        hiss: (B, S) float32, of mean square 1.
        snr_db: (B,) float32.
    """
    level = waveform.square().mean(dim=-1, keepdim=True).sqrt()
    return waveform + hiss * (level * 10.0 ** (-snr_db[:, None] / 20.0))


def shape_spectrum(waveform: Tensor, gains_db: Tensor, sample_rate: int = 16000) -> Tensor:
    """Give each row a smooth equaliser curve, as another microphone and room would: (B, S).

    Zero-phase. The gain in dB is linear between K points that are equally spaced on the mel scale from 0 Hz to half
    the sample rate. It is exact for a tone, up to a few hundred samples at the ends.

    Args:
        waveform: (B, S) float32.
        gains_db: (B, K) gains at the control points, lowest frequency first; K >= 2.
        sample_rate: samples a second.
    """
    num_points = gains_db.shape[-1]

    def response(frequency_hz: Tensor) -> Tensor:
        position = torch.log1p(frequency_hz / 700.0) * ((num_points - 1) / math.log1p(sample_rate / 2 / 700.0))
        left = position.long().clamp_max(num_points - 2)
        weight = position - left
        gain_db = torch.lerp(gains_db[:, left], gains_db[:, left + 1], weight)
        return 10.0 ** (gain_db / 20.0)

    return _filter(waveform, response, sample_rate)


def spec_augment(features: Tensor, time_spans: Tensor, frequency_spans: Tensor) -> Tensor:
    """Set spans of frames and of bins to 0, the mean of mean-normalised features: (B, T, F).

    Park et al., "SpecAugment" (Interspeech 2019), without time warping.

    Args:
        features: (B, T, F), mean-normalised.
        time_spans: (B, M, 2) integers, frames [start, end) to mask; start = end masks nothing.
        frequency_spans: (B, M', 2) integers, bins [start, end) to mask.
    """
    _, num_frames, num_bins = features.shape
    masked = _inside(time_spans, num_frames)[:, :, None] | _inside(frequency_spans, num_bins)[:, None, :]
    return features.masked_fill(masked, 0.0)


def _inside(spans: Tensor, length: int) -> Tensor:
    """Whether each position 0 .. length - 1 lies in any of a row's spans: (B, M, 2) -> (B, length)."""
    position = torch.arange(length, device=spans.device)
    return ((position >= spans[..., :1]) & (position < spans[..., 1:])).any(dim=1)


def _level_db(waveform: Tensor) -> Tensor:
    return 10.0 * torch.log10(waveform.square().mean(dim=-1, keepdim=True) + SILENCE)


def _filter(waveform: Tensor, response: Callable[[Tensor], Tensor], sample_rate: int) -> Tensor:
    """Apply a zero-phase filter, ``response`` being (B, bins) gains of (bins,) frequencies in Hz."""
    num_samples = waveform.shape[-1]
    padding = min(FILTER_PADDING, num_samples - 1)
    padded = functional.pad(waveform, (padding, padding), mode="reflect")
    size = next_fast_len(padded.shape[-1], real=True)
    frequency_hz = torch.fft.rfftfreq(size, 1.0 / sample_rate, device=waveform.device)
    return convolve(padded, response(frequency_hz), size)[..., padding : padding + num_samples]
