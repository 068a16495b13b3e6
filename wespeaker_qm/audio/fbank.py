"""Log mel filter-bank features, as Kaldi and WeSpeaker compute them: the only fbank of the project.

Shapes: B batch, S samples, T frames, N frame length in samples, K FFT size, F mel bins.
"""

import math

import torch
from torch import Tensor, nn

from wespeaker_qm.utils.errors import RecipeError

PREEMPHASIS = 0.97
LOWEST_FREQUENCY_HZ = 20.0
# Kaldi reads 16-bit integers; waveforms here lie in [-1, 1].
INT16_SCALE = 32768.0


class Fbank(nn.Module):
    """Kaldi's ``compute-fbank-feats`` for a batch of waveforms of one length, on the device the module is on.

    Each frame of 25 ms is scaled to the 16-bit range, dithered, freed of its mean, pre-emphasised (0.97), weighted
    with a Hamming window and transformed; the power spectrum is summed under triangles that are equally wide on the
    mel scale from 20 Hz to half the sample rate, and the natural logarithm is taken (floor: the float32 epsilon, so
    that silence gives -15.942385). Only whole frames are used (Kaldi's ``snip-edges``).

    One row equals ``torchaudio.compliance.kaldi.fbank(waveform * 32768, window_type="hamming", ...)``.

    Args:
        sample_rate: samples a second.
        num_mel_bins: F.
        frame_length_ms: frame length in milliseconds.
        frame_shift_ms: frame shift in milliseconds.
        dither: standard deviation of the Gaussian noise added to each frame, in 16-bit units; 1 is usual in
            training, 0 (no noise) in evaluation.
    """

    window: Tensor
    mel_filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        num_mel_bins: int = 80,
        frame_length_ms: float = 25,
        frame_shift_ms: float = 10,
        dither: float = 0.0,
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.num_mel_bins = num_mel_bins
        self.frame_length = int(sample_rate * frame_length_ms / 1000)
        self.frame_shift = int(sample_rate * frame_shift_ms / 1000)
        self.fft_size = 1 << (self.frame_length - 1).bit_length()
        self.dither = dither
        # Facts, not weights: a checkpoint must not hold them.
        window = torch.hamming_window(self.frame_length, periodic=False, dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)
        filters = mel_filters(sample_rate, self.fft_size, num_mel_bins)
        self.register_buffer("mel_filters", filters.float(), persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Number of whole frames in ``num_samples`` samples; 0 where there is none."""
        return max(0, 1 + (num_samples - self.frame_length) // self.frame_shift)

    def num_samples(self, num_frames: int) -> int:
        """Smallest number of samples that holds ``num_frames`` frames (200 -> 32,240 at 16 kHz)."""
        return (num_frames - 1) * self.frame_shift + self.frame_length

    def forward(self, waveform: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features (B, T, F), float32, of ``waveform`` (B, S) in [-1, 1].

        Args:
            waveform: (B, S); at least one frame long.
            generator: source of the dither; needed, and used, only where ``dither`` is not 0. The noise is drawn on
                the generator's device and moved, so that a CPU generator gives the same noise for every device.

        Raises:
            RecipeError: the waveform is shorter than a frame.
            ValueError: dither without a generator.
        """
        if waveform.shape[-1] < self.frame_length:
            raise RecipeError(
                f"fbank: a waveform of {waveform.shape[-1]} samples is shorter than one frame of {self.frame_length} "
                f"samples at {self.sample_rate} Hz; remove such utterances when preparing the data"
            )
        # Autocast would round the filter sums to 8 or 11 bits, an error far above that of the features.
        with torch.autocast(waveform.device.type, enabled=False):
            frames = waveform.float().unfold(-1, self.frame_length, self.frame_shift) * INT16_SCALE  # (B, T, N)
            if self.dither:
                frames = frames + self.dither * _gaussian_like(frames, generator)
            frames = frames - frames.mean(dim=-1, keepdim=True)
            # As in Kaldi, the sample before a frame's first is taken to equal it.
            previous = torch.cat((frames[..., :1], frames[..., :-1]), dim=-1)
            frames = (frames - PREEMPHASIS * previous) * self.window
            spectrum = torch.fft.rfft(frames, n=self.fft_size)  # (B, T, K / 2 + 1)
            power = spectrum.real.square() + spectrum.imag.square()
            energies = power @ self.mel_filters.T  # (B, T, F)
            return energies.clamp_min(torch.finfo(torch.float32).eps).log()


def normalise_mean(features: Tensor) -> Tensor:
    """Cepstral mean normalisation: ``features`` (B, T, F) less their mean over the T frames."""
    return features - features.mean(dim=-2, keepdim=True)


def mel_filters(sample_rate: int, fft_size: int, num_mel_bins: int) -> Tensor:
    """Kaldi's triangular filters (F, K / 2 + 1), float64: equally wide in mel(f) = 1127 ln(1 + f / 700).

    The filters run from 20 Hz to half the sample rate; the bin at half the sample rate itself has no weight.
    """
    lowest, highest = _mel(LOWEST_FREQUENCY_HZ), _mel(sample_rate / 2)
    width = (highest - lowest) / (num_mel_bins + 1)
    left = lowest + width * torch.arange(num_mel_bins, dtype=torch.float64)[:, None]
    frequency_hz = torch.arange(fft_size // 2 + 1, dtype=torch.float64) * (sample_rate / fft_size)
    position = (1127.0 * torch.log1p(frequency_hz / 700.0) - left) / width  # 0 at the left corner, 1 at the top
    filters = torch.minimum(position, 2.0 - position).clamp_min(0.0)
    filters[:, -1] = 0.0
    return filters


def _mel(frequency_hz: float) -> float:
    return 1127.0 * math.log1p(frequency_hz / 700.0)


def _gaussian_like(frames: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        raise ValueError("fbank: dither needs a generator; noise from a hidden one could not be reproduced")
    return torch.randn(frames.shape, generator=generator, device=generator.device).to(frames.device)
