"""Everything random about training samples, as a pure function of (seed, epoch, position).

A sample owns a fixed stretch of a counter-based generator's stream, so that the draws of a batch are one array
operation, and neither the size of a batch, nor the number of loader workers, nor an interruption can change one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

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

HIGH_PASS_HZ = (50.0, 400.0)
"""Range of the high-pass cutoff, uniform in its logarithm: small microphones and telephone lines."""

HISS_SNR_DB = (15.0, 50.0)
"""Speech over the white noise of a recorder or a line, uniform."""

KEEP, REVERB, NOISE = 0, 1, 2

# Keeps the stream of the draws that came later apart from that of the first ones, which stay what they were.
_CHANNEL_STREAM = 1 << 32

# A step of the generator's counter makes four numbers.
_PER_COUNT = 4


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """What may be drawn, and how likely. Probabilities lie in [0, 1].

    Attributes:
        seed: of the run.
        speed_perturb: draw a speed of :data:`SPEEDS`; otherwise always 1.0.
        aug_prob: probability of reverberation or noise, with equal chance of the two.
        channel_prob: probability of each part of a random channel, drawn apart: response, low-pass, high-pass, hiss.
            For small corpora whose recording channels give the speaker away.
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


class Draws(NamedTuple):
    """The draws of B samples in a row. Fractions in [0, 1) say where in an audio file a chunk starts."""

    speed_index: np.ndarray
    """(B,) positions in :data:`SPEEDS`."""
    chunk_start: np.ndarray
    """(B,) fractions."""
    augmentation: np.ndarray
    """(B,) KEEP, REVERB or NOISE."""
    choice: np.ndarray
    """(B,) which impulse response, or which noise; without meaning where KEEP."""
    noise_start: np.ndarray
    """(B,) fractions."""
    snr_db: np.ndarray
    """(B,) float32, without meaning but where NOISE."""
    has_tilt: np.ndarray
    """(B,) whether there is a random channel response."""
    tilt_db: np.ndarray
    """(B, NUM_TILT_POINTS) float32, its gains."""
    has_band_limit: np.ndarray
    """(B,) whether there is a low-pass filter."""
    band_limit_hz: np.ndarray
    """(B,) float32, its cutoff."""
    has_high_pass: np.ndarray
    """(B,) whether there is a high-pass filter."""
    high_pass_hz: np.ndarray
    """(B,) float32, its cutoff."""
    has_hiss: np.ndarray
    """(B,) whether there is white noise behind the filters."""
    hiss_snr_db: np.ndarray
    """(B,) float32, the speech's level over it."""
    hiss_start: np.ndarray
    """(B,) fractions: where in the bank of hiss a sample's begins."""
    is_masked: np.ndarray
    """(B,) whether spans of the features are masked."""
    time_spans: np.ndarray
    """(B, num_t_mask, 2) frames [start, end) to mask."""
    frequency_spans: np.ndarray
    """(B, num_f_mask, 2) mel bins [start, end)."""
    dither_start: np.ndarray
    """(B,) fractions: where in the bank of dither a sample's begins."""


class DrawSource:
    """Draws for any samples of a run."""

    def __init__(self, settings: DrawSettings) -> None:
        self.settings = settings
        ranges = [SNR_RANGES_DB[category] for category in settings.noise_categories]
        self._snr_range_db = np.array(ranges or [(0.0, 0.0)])
        self._kinds = np.array([REVERB] * (settings.num_rirs > 0) + [NOISE] * bool(ranges) or [KEEP])

    def draw(self, epoch: int, first: int, count: int) -> Draws:
        """Draw for ``count`` samples from position ``first`` (from 0) of ``epoch`` (from 1)."""
        settings = self.settings
        columns = _Columns(settings.seed, epoch, first, count, 12 + NUM_TILT_POINTS + 2 * self._num_masks)
        speed_index = columns.integers(len(SPEEDS)) if settings.speed_perturb else columns.integers(1)
        chunk_start = columns.fractions()
        is_augmented = columns.happens(settings.aug_prob)
        augmentation = np.where(is_augmented, self._kinds[columns.integers(len(self._kinds))], KEEP)
        choice_fraction = columns.fractions()
        num_choices = np.where(augmentation == REVERB, settings.num_rirs, len(settings.noise_categories))
        choice = (choice_fraction * num_choices).astype(np.int64)
        noise_start = columns.fractions()
        low, high = self._snr_range_db[np.where(augmentation == NOISE, choice, 0)].T
        snr_db = (low + (high - low) * columns.fractions()).astype(np.float32)
        has_tilt = columns.happens(settings.channel_prob)
        has_band_limit = columns.happens(settings.channel_prob)
        low_hz, high_hz = BAND_LIMIT_HZ
        band_limit_hz = (low_hz + (high_hz - low_hz) * columns.fractions()).astype(np.float32)
        is_masked = columns.happens(settings.spec_aug_prob)
        dither_start = columns.fractions()
        channel = _Columns(settings.seed, epoch + _CHANNEL_STREAM, first, count, 5)
        has_high_pass = channel.happens(settings.channel_prob)
        low_hz, high_hz = HIGH_PASS_HZ
        high_pass_hz = (low_hz * (high_hz / low_hz) ** channel.fractions()).astype(np.float32)
        has_hiss = channel.happens(settings.channel_prob)
        low, high = HISS_SNR_DB
        hiss_snr_db = (low + (high - low) * channel.fractions()).astype(np.float32)
        # ndtri(0) would be minus infinity; numbers are multiples of 2^-53.
        normals = ndtri(np.maximum(columns.block(NUM_TILT_POINTS), 2.0**-54))
        return Draws(
            speed_index=speed_index,
            chunk_start=chunk_start,
            augmentation=augmentation,
            choice=choice,
            noise_start=noise_start,
            snr_db=snr_db,
            has_tilt=has_tilt,
            tilt_db=(TILT_DEVIATION_DB * normals).astype(np.float32),
            has_band_limit=has_band_limit,
            band_limit_hz=band_limit_hz,
            has_high_pass=has_high_pass,
            high_pass_hz=high_pass_hz,
            has_hiss=has_hiss,
            hiss_snr_db=hiss_snr_db,
            hiss_start=channel.fractions(),
            is_masked=is_masked,
            time_spans=_spans(columns.block(2 * settings.num_t_mask), settings.max_t, settings.num_frames),
            frequency_spans=_spans(columns.block(2 * settings.num_f_mask), settings.max_f, settings.num_mel_bins),
            dither_start=dither_start,
        )

    @property
    def _num_masks(self) -> int:
        return self.settings.num_t_mask + self.settings.num_f_mask


class _Columns:
    """Uniform numbers in [0, 1), a row a sample, handed out column by column."""

    def __init__(self, seed: int, epoch: int, first: int, count: int, num_columns: int) -> None:
        counts = -(-num_columns // _PER_COUNT)  # of the generator's counter, for each sample
        bits = np.random.Philox(
            counter=np.array([first * counts, 0, 0, 0], dtype=np.uint64), key=np.array([seed, epoch], dtype=np.uint64)
        )
        self._numbers = np.random.Generator(bits).random((count, counts * _PER_COUNT))
        self._next = 0

    def block(self, width: int) -> np.ndarray:
        """(B, width)."""
        block = self._numbers[:, self._next : self._next + width]
        self._next += width
        return block

    def fractions(self) -> np.ndarray:
        """(B,)."""
        return self.block(1)[:, 0]

    def integers(self, end: int) -> np.ndarray:
        """(B,) from 0 to ``end`` - 1, equally likely."""
        return (self.fractions() * end).astype(np.int64)

    def happens(self, probability: float) -> np.ndarray:
        """(B,) booleans."""
        return self.fractions() < probability


def _spans(numbers: np.ndarray, longest: int, length: int) -> np.ndarray:
    """(B, M, 2) spans [start, end) within ``length``: start and width uniform, cut at the end, as WeSpeaker.

    Args:
        numbers: (B, 2 M) uniform in [0, 1).
        longest: the greatest width; the least is 1.
        length: frames, or bins.
    """
    num_spans = numbers.shape[1] // 2
    start = (numbers[:, :num_spans] * length).astype(np.int64)
    end = np.minimum(start + 1 + (numbers[:, num_spans:] * longest).astype(np.int64), length)
    return np.stack((start, end), axis=-1)
