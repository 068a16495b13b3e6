"""Everything random about one training sample, as a pure function of (seed, epoch, position).

Neither the number of loader workers nor an interruption can change a draw, because no generator outlives a sample.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SPEEDS = (1.0, 0.9, 1.1)
"""Speed factors, equally likely; each makes its own classes (label + number of speakers * index)."""

SNR_RANGES_DB = {"noise": (0.0, 15.0), "speech": (10.0, 30.0), "music": (5.0, 15.0)}
"""Signal-to-noise ratios by the category of the noise, uniform, as in WeSpeaker and Kaldi."""

NUM_TILT_POINTS = 8
"""Control points of the random channel response, equally spaced from 0 Hz to half the sample rate."""

TILT_DEVIATION_DB = 6.0
"""Standard deviation of the channel response at each control point."""

BAND_LIMIT_HZ = (2800.0, 4000.0)
"""Range of the low-pass cutoff: the telephone band and a little below."""

KEEP, REVERB, NOISE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """What may be drawn, and how likely. Probabilities lie in [0, 1].

    Attributes:
        seed: of the run.
        speed_perturb: draw a speed of :data:`SPEEDS`; otherwise always 1.0.
        aug_prob: probability of reverberation or noise, with equal chance of the two.
        channel_prob: probability of a random channel response, and, apart from that, of a low-pass filter: for small
            corpora whose recording channels give the speaker away.
        num_rirs: impulse responses to choose from; 0 leaves noise as the only augmentation.
        noise_categories: the category of every noise to choose from; empty leaves reverberation only.
        num_frames: T of the features; num_mel_bins: F.
        spec_aug_prob: probability of masking; num_t_mask, max_t, num_f_mask, max_f: masks and their longest width.
    """

    seed: int
    speed_perturb: bool
    aug_prob: float
    channel_prob: float
    num_rirs: int
    noise_categories: tuple[str, ...]
    num_frames: int
    num_mel_bins: int
    spec_aug_prob: float
    num_t_mask: int
    max_t: int
    num_f_mask: int
    max_f: int


class SampleDraw(NamedTuple):
    """The draw of one sample. Fractions in [0, 1) say where in an audio file a chunk starts."""

    speed_index: int
    chunk_start: float
    augmentation: int
    """KEEP, REVERB or NOISE."""
    rir: int
    noise: int
    noise_start: float
    snr_db: float
    tilt_db: np.ndarray | None
    """(NUM_TILT_POINTS,) gains of the channel response, or None."""
    band_limit_hz: float | None
    time_spans: np.ndarray
    """(num_t_mask, 2) frames [start, end) to mask; empty spans where nothing is masked."""
    frequency_spans: np.ndarray
    """(num_f_mask, 2) mel bins [start, end)."""


def sample_rng(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator of one sample: a counter-based one, so that a million of them cost nothing to seed."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, (epoch << 40) + position], dtype=np.uint64)))


def draw_sample(settings: DrawSettings, epoch: int, position: int) -> SampleDraw:
    """Draw for the sample at ``position`` (from 0) of ``epoch`` (from 1)."""
    rng = sample_rng(settings.seed, epoch, position)
    speed_index = int(rng.integers(len(SPEEDS))) if settings.speed_perturb else 0
    chunk_start = rng.random()
    augmentation, rir, noise, noise_start, snr_db = KEEP, 0, 0, 0.0, 0.0
    if rng.random() < settings.aug_prob:
        choices = [REVERB] * (settings.num_rirs > 0) + [NOISE] * bool(settings.noise_categories)
        augmentation = int(rng.choice(choices))
    if augmentation == REVERB:
        rir = int(rng.integers(settings.num_rirs))
    elif augmentation == NOISE:
        noise = int(rng.integers(len(settings.noise_categories)))
        noise_start = rng.random()
        snr_db = float(rng.uniform(*SNR_RANGES_DB[settings.noise_categories[noise]]))
    tilt_db = None
    if rng.random() < settings.channel_prob:
        tilt_db = (TILT_DEVIATION_DB * rng.standard_normal(NUM_TILT_POINTS)).astype(np.float32)
    band_limit_hz = float(rng.uniform(*BAND_LIMIT_HZ)) if rng.random() < settings.channel_prob else None
    masked = rng.random() < settings.spec_aug_prob
    return SampleDraw(
        speed_index=speed_index,
        chunk_start=chunk_start,
        augmentation=augmentation,
        rir=rir,
        noise=noise,
        noise_start=noise_start,
        snr_db=snr_db,
        tilt_db=tilt_db,
        band_limit_hz=band_limit_hz,
        time_spans=_draw_spans(rng, settings.num_t_mask, settings.max_t, settings.num_frames, masked),
        frequency_spans=_draw_spans(rng, settings.num_f_mask, settings.max_f, settings.num_mel_bins, masked),
    )


def _draw_spans(rng: np.random.Generator, num_spans: int, longest: int, length: int, masked: bool) -> np.ndarray:
    """(num_spans, 2) spans [start, end) within ``length``: start and width uniform, cut at the end, as WeSpeaker."""
    if not masked:
        return np.zeros((num_spans, 2), dtype=np.int64)
    start = rng.integers(length, size=num_spans)
    end = np.minimum(start + rng.integers(1, longest + 1, size=num_spans), length)
    return np.stack((start, end), axis=1)
