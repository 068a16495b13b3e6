"""From batches of waveforms to features, on the device of the training or on a loader worker.

::

    Batch -> change speed -> reverberate | add noise -> channel: response, low-pass, high-pass, hiss
          -> fbank (dithered) -> mean normalisation -> masks -> features (B, T, F)
"""

import numpy as np
import torch
from torch import Tensor, nn

from wespeaker_qm.audio.augment import (
    add_hiss,
    band_limit,
    convolve,
    high_pass,
    mix_noise,
    peak_normalise,
    reverberation_size,
    rir_spectrum,
    shape_spectrum,
    spec_augment,
)
from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.audio.mel import INT16_SCALE
from wespeaker_qm.audio.speed import change_speed
from wespeaker_qm.dataset.chunks import Batch
from wespeaker_qm.dataset.draws import SPEEDS

RIR_CACHE_BYTES = 80 * 2**20
"""Spectra of impulse responses are kept if those of all fit; responses are drawn at random, so a part of them would
seldom be used again."""


_HISS_PLACES = 1 << 16
_HISS_SEED = 0x4155


class TrainingFrontend(nn.Module):
    """Augmentation and features of a training batch: a function of the batch alone.

    Hiss is taken from a bank of normal numbers, drawn once with a fixed seed, at a place that is drawn for the sample.

    Args:
        fbank: with the dither of the training.
        num_samples: S, samples of a chunk.
        rir_lengths: (N,) samples of each impulse response that may be drawn; empty without reverberation.
    """

    hiss_bank: Tensor

    def __init__(self, fbank: Fbank, *, num_samples: int, rir_lengths: np.ndarray) -> None:
        super().__init__()
        self.fbank = fbank
        self.num_samples = num_samples
        self.spectra = _RirSpectra(num_samples, rir_lengths)
        generator = torch.Generator().manual_seed(_HISS_SEED)
        hiss = torch.randn(_HISS_PLACES + num_samples, generator=generator)
        self.register_buffer("hiss_bank", hiss, persistent=False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """Features (B, T, F), float32, on the device of the batch."""
        return self.features(self.augment(self.at_speed(batch), batch), batch)

    def at_speed(self, batch: Batch) -> Tensor:
        """The batch's waveforms (B, S) after the change of speed."""
        waveform = batch.snr_db.new_empty(len(batch.label), self.num_samples)
        for speed, rows, source in zip(SPEEDS, batch.speed_rows, batch.waveform, strict=True):
            if len(rows):
                waveform[rows] = change_speed(_from_pcm16(source), speed)[:, : self.num_samples]
        return waveform

    def augment(self, waveform: Tensor, batch: Batch) -> Tensor:
        """``waveform`` (B, S) itself, with reverberation, noise and channel."""
        if len(batch.rir_rows):
            reverberant = convolve(
                waveform[batch.rir_rows], self.spectra(batch.rir_index, batch.rir), self.spectra.size
            )
            waveform[batch.rir_rows] = peak_normalise(reverberant)
        if len(batch.noise_rows):
            noisy = mix_noise(waveform[batch.noise_rows], _from_pcm16(batch.noise), batch.snr_db)
            waveform[batch.noise_rows] = peak_normalise(noisy)
        sample_rate = self.fbank.sample_rate
        if len(batch.tilt_rows):
            waveform[batch.tilt_rows] = shape_spectrum(waveform[batch.tilt_rows], batch.tilt_db, sample_rate)
        if len(batch.band_limit_rows):
            limited = band_limit(waveform[batch.band_limit_rows], batch.band_limit_hz, sample_rate)
            waveform[batch.band_limit_rows] = limited
        if len(batch.high_pass_rows):
            passed = high_pass(waveform[batch.high_pass_rows], batch.high_pass_hz, sample_rate)
            waveform[batch.high_pass_rows] = passed
        if len(batch.hiss_rows):
            places = self.hiss_bank.unfold(0, self.num_samples, 1)  # (places, S), a view
            hiss = places[(batch.hiss_start * _HISS_PLACES).long()]
            waveform[batch.hiss_rows] = add_hiss(waveform[batch.hiss_rows], hiss, batch.hiss_snr_db)
        return waveform

    def features(self, waveform: Tensor, batch: Batch) -> Tensor:
        """Features (B, T, F) of ``waveform`` (B, S), mean-normalised and masked."""
        features: Tensor = self.fbank(waveform, batch.dither_start)
        features -= features.mean(dim=1, keepdim=True)
        if len(batch.mask_rows):
            features[batch.mask_rows] = spec_augment(features[batch.mask_rows], batch.time_spans, batch.frequency_spans)
        return features


def _from_pcm16(pcm: Tensor) -> Tensor:
    return pcm.float().mul_(1 / INT16_SCALE)


class _RirSpectra:
    """Spectra of impulse responses; each is computed once if there is room for all.

    All have one size, that of the longest, so that they do not depend on the batch.
    """

    def __init__(self, num_samples: int, lengths: np.ndarray) -> None:
        self.num_samples = num_samples
        self.lengths = lengths
        self.size = reverberation_size(num_samples, int(lengths.max(initial=1)))
        self.is_kept = len(lengths) * 8 * (self.size // 2 + 1) <= RIR_CACHE_BYTES
        self.kept: dict[int, Tensor] = {}

    def __call__(self, index: tuple[int, ...], rir: Tensor) -> Tensor:
        """Spectra (R, size / 2 + 1) of impulse responses (R, longest) int16, whose positions are ``index``."""
        if not self.is_kept:
            return rir_spectrum(rir.float(), self.num_samples, self.size)
        for position, row in zip(index, rir, strict=True):
            if position not in self.kept:
                # One by one, though several at once are faster, and without the zeros that pad it: the last digits of
                # a spectrum depend on which others are transformed with it and on how many zeros its energy is summed
                # over, and after an interruption, or on another worker, a response first appears in another batch.
                own = row[: self.lengths[position]].float()
                self.kept[position] = rir_spectrum(own[None], self.num_samples, self.size)[0]
        return torch.stack([self.kept[position] for position in index])
