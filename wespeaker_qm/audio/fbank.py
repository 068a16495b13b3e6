"""Log mel filter-bank features, as Kaldi and WeSpeaker compute them, in batches and on any device.

Its numbers stand in :mod:`wespeaker_qm.audio.mel`; where there is no torch, :mod:`wespeaker_qm.audio.numpy_fbank`
computes the same.

Shapes: B batch, S samples, T frames, N frame length in samples, K FFT size, F mel bins.
"""

import torch
from torch import Tensor, nn

from wespeaker_qm.audio.fft import rfft
from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.mel import FLOOR, INT16_SCALE, PREEMPHASIS, fft_size, hamming_window, mel_filters
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.precision import exact_float32

# Frames that a CPU works on at a time: what it makes of them stays in its cache.
_FRAMES_TOGETHER = 800
_DITHER_FRAMES = 4096
_DITHER_SEED = 0xD17


class Fbank(nn.Module):
    """Kaldi's ``compute-fbank-feats`` for a batch of waveforms of one length, on the device the module is on.

    Each frame of 25 ms is scaled to the 16-bit range, dithered, freed of its mean, pre-emphasised (0.97), weighted
    with a Hamming window and transformed; the power spectrum is summed under triangles that are equally wide on the
    mel scale from 20 Hz to half the sample rate, and the natural logarithm is taken (floor: the float32 epsilon, so
    that silence gives -15.942385). Only whole frames are used (Kaldi's ``snip-edges``).

    One row equals ``torchaudio.compliance.kaldi.fbank(waveform * 32768, window_type="hamming", ...)``.

    Dither is taken from a bank of 4,096 frames of noise, drawn once with a fixed seed: normals for every frame of
    every batch would take longer to draw than all the rest. In the bank they have already had their mean removed, been
    pre-emphasised and weighted, as the frames that they are added to: all of that is linear.

    Args:
        sample_rate: samples a second.
        num_mel_bins: F.
        frame_length_ms: frame length in milliseconds.
        frame_shift_ms: frame shift in milliseconds.
        dither: standard deviation of the Gaussian noise added to each frame, in 16-bit units; 1 is usual in
            training, 0 (no noise) in evaluation.
    """

    window: Tensor
    dither_bank: Tensor
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
        self.frames = Frames.of(sample_rate, frame_length_ms, frame_shift_ms)
        self.frame_length, self.frame_shift = self.frames.length, self.frames.shift
        self.fft_size = fft_size(self.frame_length)
        self.dither = dither
        # Facts, not weights: a checkpoint must not hold them.
        window = torch.from_numpy(hamming_window(self.frame_length))
        self.register_buffer("window", window.float(), persistent=False)
        filters = torch.from_numpy(mel_filters(sample_rate, self.fft_size, num_mel_bins))
        self.register_buffer("mel_filters", filters.float(), persistent=False)
        self.register_buffer("dither_bank", self._draw_dither(), persistent=False)
        # Half of the bands lie in a quarter of the spectrum: two products of half the work.
        half = num_mel_bins // 2
        self._parts = [(bands, _support(filters[bands])) for bands in (slice(0, half), slice(half, num_mel_bins))]

    def num_frames(self, num_samples: int) -> int:
        """Number of whole frames in ``num_samples`` samples; 0 where there is none."""
        return self.frames.num_frames(num_samples)

    def num_samples(self, num_frames: int) -> int:
        """Smallest number of samples that holds ``num_frames`` frames (200 -> 32,240 at 16 kHz)."""
        return self.frames.num_samples(num_frames)

    @torch.no_grad()
    def forward(self, waveform: Tensor, dither_start: Tensor | None = None) -> Tensor:
        """Features (B, T, F), float32, of ``waveform`` (B, S) in [-1, 1].

        Args:
            waveform: (B, S); at least one frame long.
            dither_start: (B,) float64, on the device of the waveform: where each row's dither begins in the bank, as a
                fraction in [0, 1); needed, and used, only where ``dither`` is not 0.

        Raises:
            RecipeError: the waveform is shorter than a frame.
            ValueError: dither without a ``dither_start`` for every row.
        """
        if waveform.shape[-1] < self.frame_length:
            raise RecipeError(
                f"fbank: a waveform of {waveform.shape[-1]} samples is shorter than one frame of {self.frame_length} "
                f"samples at {self.sample_rate} Hz; remove such utterances when preparing the data"
            )
        if self.dither and (dither_start is None or len(dither_start) != len(waveform)):
            found = "none" if dither_start is None else len(dither_start)
            raise ValueError(
                f"fbank: dither needs a start in its bank for each of {len(waveform)} rows, found {found}; another "
                "source could not be repeated"
            )
        num_rows, num_frames = waveform.shape[0], self.num_frames(waveform.shape[-1])
        together = max(1, _FRAMES_TOGETHER // num_frames) if waveform.device.type == "cpu" else max(1, num_rows)
        features = waveform.new_empty(num_rows, num_frames, self.num_mel_bins, dtype=torch.float32)
        # Autocast or TF32 would round the filter sums to 8 or 11 bits, an error far above that of the features.
        with exact_float32(), torch.autocast(waveform.device.type, enabled=False):
            for first in range(0, num_rows, together):
                rows = slice(first, first + together)
                start = dither_start[rows] if dither_start is not None and self.dither else None
                features[rows] = self._log_energies(waveform[rows].float(), start)
        return features

    def _log_energies(self, waveform: Tensor, dither_start: Tensor | None) -> Tensor:
        frames = self._windowed(waveform)
        if dither_start is not None:
            add_dither = _add_dither_by_rows if frames.device.type == "cpu" else _add_dither_at_once
            add_dither(frames[..., : self.frame_length], self.dither_bank, (dither_start * _DITHER_FRAMES).long())
        spectrum = rfft(frames, self.fft_size)  # (B, T, K / 2 + 1)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        energies = torch.cat(
            [power[..., inside] @ self.mel_filters[bands, inside].T for bands, inside in self._parts], -1
        )
        return energies.clamp_min_(FLOOR).log_()

    def _windowed(self, waveform: Tensor) -> Tensor:
        """Frames (B, T, K) in 16-bit units: mean removed, pre-emphasised, weighted, and padded with zeros.

        The difference of neighbours is taken once for the waveform, not for each frame that a sample is in; the mean m
        of a frame then goes out as (1 - 0.97) m.
        """
        samples = waveform.unfold(-1, self.frame_length, self.frame_shift)  # (B, T, N)
        mean = samples.mean(dim=-1, keepdim=True)
        difference = torch.empty_like(waveform)
        torch.sub(waveform[:, 1:], waveform[:, :-1], alpha=PREEMPHASIS, out=difference[:, 1:])
        frames = waveform.new_zeros(*samples.shape[:2], self.fft_size)
        inside = frames[..., : self.frame_length]
        torch.sub(difference.unfold(-1, self.frame_length, self.frame_shift), mean, alpha=1 - PREEMPHASIS, out=inside)
        # As in Kaldi, the sample before a frame's first is taken to equal it.
        inside[..., :1] = (1 - PREEMPHASIS) * (samples[..., :1] - mean)
        inside *= self.window
        return frames

    def _draw_dither(self) -> Tensor:
        """The bank (frames, N); empty without dither."""
        if not self.dither:
            return torch.empty(0, self.frame_length)
        generator = torch.Generator().manual_seed(_DITHER_SEED)
        noise = torch.randn(_DITHER_FRAMES, self.frame_length, generator=generator)
        return self.dither / INT16_SCALE * self._windowed(noise)[:, 0, : self.frame_length]


def _add_dither_by_rows(frames: Tensor, bank: Tensor, first: Tensor) -> None:
    """Add frames of ``bank`` (K, N), from ``first`` (B,) on and going round, to each row of ``frames`` (B, T, N)."""
    for row, start in zip(frames, first.tolist(), strict=True):
        begin, done = start, 0
        while done < len(row):
            piece = bank[begin : begin + len(row) - done]
            row[done : done + len(piece)] += piece
            begin, done = 0, done + len(piece)


def _add_dither_at_once(frames: Tensor, bank: Tensor, first: Tensor) -> None:
    """The same by one look-up: a copy of all that is added, which costs a GPU less than many small sums."""
    place = first[:, None] + torch.arange(frames.shape[1], device=frames.device)
    frames += bank[place % len(bank)]


def normalise_mean(features: Tensor) -> Tensor:
    """Cepstral mean normalisation: ``features`` (B, T, F) less their mean over the T frames."""
    return features - features.mean(dim=-2, keepdim=True)


def _support(filters: Tensor) -> slice:
    """The frequencies at which any of the filters has weight."""
    places = filters.any(dim=0).nonzero()[:, 0].tolist()
    return slice(places[0], places[-1] + 1)
