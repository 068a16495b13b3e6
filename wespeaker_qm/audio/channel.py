"""The channel of a recording: what another room, microphone, recorder and codec would have made of it.

::

    speech -> noise of the room -> equaliser (room and microphone) -> band -> level -> codec

For evaluation, and meant to be no mirror of what training draws (:mod:`wespeaker_qm.audio.augment`: zero-phase filters
that are linear between eight fixed points, cut-offs of 2.8 to 4 kHz, recorded noise and white hiss, simulated rooms).
Here equalisers are causal and of second order, with random frequencies and widths; the noise is coloured, and passes
them; there are codecs. A telephone's band is left out for the same reason, and because trials of a narrow and a wide
recording would be about bandwidth.

All is computed in float64 but for the codecs, which are integer arithmetic, and rounded to 16 bits.

Legend: S samples, K sections of a filter.
"""

import io
import math
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from wespeaker_qm.audio.io import read_audio

NOISE_SNR_DB = (30.0, 50.0)
"""Speech to noise: a quiet room."""
NOISE_CORNER_HZ = 100.0
"""The noise is flat up to a corner between this and half the sample rate, and falls with 6 dB an octave above."""
NUM_PEAKS = 4
PEAK_HZ = 100.0
"""Lowest centre of a peak or dip; the highest is 7/8 of half the sample rate."""
PEAK_Q = (0.5, 2.0)
"""Width of peaks and dips: 2.5 octaves to 0.7."""
LOW_SHELF_HZ = (100.0, 500.0)
GAIN_DEVIATION_DB = 4.0
"""Standard deviation of the gains of peaks, dips and shelves."""
LOW_EDGE_HZ = (50.0, 200.0)
HIGH_EDGE = (0.6875, 0.9375)
"""As fractions of half the sample rate: 5.5 to 7.5 kHz."""
LEVEL_DB = (-36.0, -18.0)
"""Root mean square below full scale; lower where peaks would be clipped."""
PEAK_LIMIT = 0.99
CODECS = ("PCM_16", "ULAW", "ALAW", "IMA_ADPCM")
"""libsndfile's names: 16 bits, the two logarithmic laws of G.711 (8 bits), and 4 bits adaptively. All are exact integer
arithmetic, so that every machine decodes the same samples, which no MP3 or Opus promises."""


class Channel(NamedTuple):
    """A recording's channel."""

    snr_db: float
    """Speech to noise."""
    noise_corner_hz: float
    """Above it the noise falls."""
    equaliser: NDArray[np.float64]
    """(K, 6) second-order sections: numerator and denominator in powers of z^-1."""
    band_hz: tuple[float, float]
    """Edges (-3 dB) of a Butterworth band-pass, 12 dB an octave on either side."""
    level_db: float
    """Root mean square below full scale."""
    codec: str
    """One of :data:`CODECS`."""


def draw_channel(rng: np.random.Generator, sample_rate: int) -> Channel:
    """Draw a channel: levels uniformly, gains normally, frequencies and widths uniformly in their logarithm."""
    nyquist_hz = sample_rate / 2
    snr_db = rng.uniform(*NOISE_SNR_DB)
    noise_corner_hz = _log_uniform(rng, NOISE_CORNER_HZ, 0.99 * nyquist_hz)
    sections = [
        peak_section(
            _log_uniform(rng, PEAK_HZ, 0.875 * nyquist_hz),
            GAIN_DEVIATION_DB * rng.standard_normal(),
            _log_uniform(rng, *PEAK_Q),
            sample_rate,
        )
        for _ in range(NUM_PEAKS)
    ]
    low_hz, high_hz = _log_uniform(rng, *LOW_SHELF_HZ), _log_uniform(rng, 0.25 * nyquist_hz, 0.75 * nyquist_hz)
    sections += [
        shelf_section(low_hz, GAIN_DEVIATION_DB * rng.standard_normal(), sample_rate, is_high=False),
        shelf_section(high_hz, GAIN_DEVIATION_DB * rng.standard_normal(), sample_rate, is_high=True),
    ]
    low, high = _log_uniform(rng, *LOW_EDGE_HZ), nyquist_hz * rng.uniform(*HIGH_EDGE)
    level_db = rng.uniform(*LEVEL_DB)
    return Channel(
        snr_db, noise_corner_hz, np.stack(sections), (low, high), level_db, CODECS[rng.integers(len(CODECS))]
    )


def apply_channel(
    waveform: NDArray[np.float32], channel: Channel, sample_rate: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Send a recording through a channel.

    Args:
        waveform: (S,) in [-1, 1], not all zero.
        channel: of :func:`draw_channel`, for the same sample rate.
        sample_rate: samples a second.
        rng: of the noise.

    Returns:
        (S,) in [-1, 1], multiples of 2^-15.
    """
    from scipy.signal import butter, sosfilt

    speech = waveform.astype(np.float64)
    noise = sosfilt(butter(1, channel.noise_corner_hz, fs=sample_rate, output="sos"), rng.standard_normal(len(speech)))
    noise *= _rms(speech) / _rms(noise) * 10 ** (-channel.snr_db / 20)
    band = butter(2, channel.band_hz, "bandpass", fs=sample_rate, output="sos")
    recorded = sosfilt(np.concatenate([channel.equaliser, band]), speech + noise)
    recorded *= 10 ** (channel.level_db / 20) / _rms(recorded)
    recorded *= min(1.0, PEAK_LIMIT / np.abs(recorded).max())
    return through_codec(recorded, channel.codec, sample_rate)


def through_codec(waveform: NDArray[np.float64], codec: str, sample_rate: int) -> NDArray[np.float32]:
    """Encode and decode (S,) samples in [-1, 1]: (S,), multiples of 2^-15.

    Args:
        waveform: rounded to 16 bits first.
        codec: libsndfile's name of an encoding that a WAV may have.
        sample_rate: of the file.
    """
    pcm = np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, sample_rate, subtype=codec, format="WAV")
    encoded.seek(0)
    return read_audio(encoded)[0][: len(pcm)]  # a codec of blocks fills up the last


def peak_section(frequency_hz: float, gain_db: float, q: float, sample_rate: int) -> NDArray[np.float64]:
    """A peak or dip of an equaliser, (6,): b0, b1, b2, 1, a1, a2.

    The bilinear transform of H(s) = (s^2 + s A / Q + 1) / (s^2 + s / (A Q) + 1), A^2 being the gain at the centre
    (R. Bristow-Johnson, "Cookbook formulae for audio equalizer biquad filter coefficients").

    Args:
        frequency_hz: its centre, where the gain is exactly ``gain_db``.
        gain_db: negative for a dip.
        q: the centre over the bandwidth, which is measured at half the gain in dB.
        sample_rate: samples a second.
    """
    amplitude, angle = 10 ** (gain_db / 40), 2 * math.pi * frequency_hz / sample_rate
    alpha, middle = math.sin(angle) / (2 * q), -2 * math.cos(angle)
    numerator = (1 + alpha * amplitude, middle, 1 - alpha * amplitude)
    return _normalised(numerator, (1 + alpha / amplitude, middle, 1 - alpha / amplitude))


def shelf_section(frequency_hz: float, gain_db: float, sample_rate: int, *, is_high: bool) -> NDArray[np.float64]:
    """A shelf of an equaliser, (6,): the gain is ``gain_db`` at 0 Hz (high shelf: at half the sample rate).

    The bilinear transform of H(s) = A (s^2 + s sqrt(2 A) + A) / (A s^2 + s sqrt(2 A) + 1), A^2 being the gain, and of
    H(1 / s) for a high shelf: the same source, the steepest slope without overshoot.

    Args:
        frequency_hz: where half the gain in dB is reached.
        gain_db: of the shelf.
        sample_rate: samples a second.
        is_high: whether what lies above is changed, or what lies below.
    """
    a, angle = 10 ** (gain_db / 40), 2 * math.pi * frequency_hz / sample_rate
    # A high shelf is a low one with its frequencies mirrored at a quarter of the sample rate: z becomes -z.
    sign = -1 if is_high else 1
    cosine, slope = sign * math.cos(angle), math.sin(angle) * math.sqrt(2 * a)
    up, down = a + 1, a - 1
    numerator = (
        a * (up - down * cosine + slope),
        sign * 2 * a * (down - up * cosine),
        a * (up - down * cosine - slope),
    )
    denominator = (up + down * cosine + slope, sign * -2 * (down + up * cosine), up + down * cosine - slope)
    return _normalised(numerator, denominator)


def _normalised(numerator: tuple[float, ...], denominator: tuple[float, ...]) -> NDArray[np.float64]:
    return np.array([*numerator, *denominator]) / denominator[0]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()


def _rms(waveform: NDArray[np.float64]) -> float:
    return math.sqrt(np.square(waveform).mean())
