"""From batches of waveforms to features, on the device of the training.

::

    Batch -> change speed -> reverberate | add noise -> channel response -> fbank (dithered) -> mean normalisation
          -> masks -> features (B, T, F)
"""

import torch
from torch import nn

from wespeaker_qm.audio.augment import (
    band_limit,
    mix_noise,
    peak_normalise,
    reverberate,
    shape_spectrum,
    spec_augment,
)
from wespeaker_qm.audio.fbank import Fbank, normalise_mean
from wespeaker_qm.audio.resample import change_speed, speed_input_length
from wespeaker_qm.dataset.chunks import Batch
from wespeaker_qm.dataset.draws import SPEEDS


class TrainingFrontend(nn.Module):
    """Augmentation and features of a training batch.

    Args:
        fbank: with the dither of the training.
        num_samples: S, samples of a chunk.
        seed: of the run; the dither of a batch is a function of (seed, epoch, position of its first row).
    """

    def __init__(self, fbank: Fbank, *, num_samples: int, seed: int) -> None:
        super().__init__()
        self.fbank = fbank
        self.num_samples = num_samples
        self.seed = seed

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """Features (B, T, F), float32, on the device of the batch."""
        waveform = augment_waveform(batch, self.num_samples, self.fbank.sample_rate)
        # On the waveform's device: millions of normals a batch take longer to draw on a CPU than a GPU's whole step.
        generator = torch.Generator(device=waveform.device)
        generator.manual_seed((self.seed * 1_000_003 + (batch.epoch << 36) + batch.position) % (1 << 63))
        features = normalise_mean(self.fbank(waveform, generator))
        return spec_augment(features, batch.time_spans, batch.frequency_spans)


def augment_waveform(batch: Batch, num_samples: int, sample_rate: int) -> torch.Tensor:
    """The batch's waveforms (B, S) after speed, reverberation, noise and channel."""
    waveform = batch.waveform.new_empty(len(batch.keys), num_samples)
    for index, speed in enumerate(SPEEDS):
        rows = (batch.speed_index == index).nonzero()[:, 0]
        if len(rows):
            source = batch.waveform[rows, : speed_input_length(num_samples, speed)]
            waveform[rows] = change_speed(source, speed)[:, :num_samples]
    if len(batch.rir_rows):
        waveform[batch.rir_rows] = peak_normalise(reverberate(waveform[batch.rir_rows], batch.rir))
    if len(batch.noise_rows):
        noisy = mix_noise(waveform[batch.noise_rows], batch.noise, batch.snr_db)
        waveform[batch.noise_rows] = peak_normalise(noisy)
    if len(batch.tilt_rows):
        waveform[batch.tilt_rows] = shape_spectrum(waveform[batch.tilt_rows], batch.tilt_db, sample_rate)
    if len(batch.band_limit_rows):
        limited = band_limit(waveform[batch.band_limit_rows], batch.band_limit_hz, sample_rate)
        waveform[batch.band_limit_rows] = limited
    return waveform
