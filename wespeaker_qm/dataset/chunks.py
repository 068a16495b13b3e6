"""What a loader worker does: read the samples that a training chunk needs, and nothing else.

::

    SampleId -> draw_sample -> read chunk, noise chunk, impulse response -> Chunk -> collate -> Batch

Augmentation and features come after, batched, on the training device (:mod:`wespeaker_qm.dataset.frontend`).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from wespeaker_qm.audio.resample import speed_input_length
from wespeaker_qm.corpus.shards import ShardReader
from wespeaker_qm.dataset.draws import NOISE, REVERB, SPEEDS, DrawSettings, SampleDraw, draw_sample
from wespeaker_qm.dataset.plan import SampleId


class Chunk(NamedTuple):
    """One sample as read: float32 waveforms in [-1, 1]."""

    sample: SampleId
    key: str
    label: int
    draw: SampleDraw
    waveform: np.ndarray
    noise: np.ndarray | None
    rir: np.ndarray | None


class Batch(NamedTuple):
    """B samples of S samples each after the change of speed; ``*_rows`` say which rows a tensor belongs to."""

    epoch: int
    position: int
    """Position of the first row in its epoch."""
    keys: list[str]
    label: torch.Tensor
    """(B,) class, speed counted in."""
    waveform: torch.Tensor
    """(B, longest input) as read, zero-padded; row b has ``speed_input_length(S, SPEEDS[speed_index[b]])`` samples."""
    speed_index: torch.Tensor
    """(B,)."""
    noise_rows: torch.Tensor
    noise: torch.Tensor
    """(number of noise rows, S)."""
    snr_db: torch.Tensor
    rir_rows: torch.Tensor
    rir: torch.Tensor
    """(number of rir rows, longest), zero-padded."""
    tilt_rows: torch.Tensor
    tilt_db: torch.Tensor
    band_limit_rows: torch.Tensor
    band_limit_hz: torch.Tensor
    time_spans: torch.Tensor
    """(B, num_t_mask, 2)."""
    frequency_spans: torch.Tensor
    """(B, num_f_mask, 2)."""

    def to(self, device: torch.device) -> "Batch":
        """The batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in self._asdict().items()
            if isinstance(value, torch.Tensor)
        }
        return self._replace(**moved)


def read_tiled(reader: ShardReader, index: int, start: float, num_samples: int) -> np.ndarray:
    """``num_samples`` samples of an utterance from a place given as a fraction; a shorter one is repeated."""
    available = int(reader.num_samples[index])
    if available >= num_samples:
        first = int(start * (available - num_samples + 1))
        return reader.read(index, first, num_samples)
    whole = reader.read(index)
    return np.tile(whole, -(-num_samples // available))[:num_samples]


class ChunkDataset(Dataset[Chunk]):
    """Map-style access to chunks by :class:`SampleId`.

    Args:
        reader: the packed training set.
        utterances: (N,) positions in ``reader`` of the utterances to train on.
        labels: (N,) speaker index of each of them.
        num_speakers: distance between the classes of two speeds.
        num_samples: S, samples of a chunk after the change of speed.
        settings: what may be drawn.
        noise: noises, or None where ``settings`` has none.
        rirs: impulse responses, likewise.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        utterances: np.ndarray,
        labels: np.ndarray,
        num_speakers: int,
        num_samples: int,
        settings: DrawSettings,
        noise: ShardReader | None,
        rirs: ShardReader | None,
    ) -> None:
        self.reader = reader
        self.utterances = utterances
        self.labels = labels
        self.num_speakers = num_speakers
        self.num_samples = num_samples
        self.settings = settings
        self.noise = noise
        self.rirs = rirs

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.utterances)

    def __getitem__(self, sample: SampleId) -> Chunk:
        """Read the chunk, and the noise or impulse response, of one sample."""
        draw = draw_sample(self.settings, sample.epoch, sample.position)
        utterance = int(self.utterances[sample.utterance])
        needed = speed_input_length(self.num_samples, SPEEDS[draw.speed_index])
        noise = rir = None
        if draw.augmentation == NOISE and self.noise is not None:
            noise = read_tiled(self.noise, draw.noise, draw.noise_start, self.num_samples)
        elif draw.augmentation == REVERB and self.rirs is not None:
            rir = self.rirs.read(draw.rir)
        return Chunk(
            sample=sample,
            key=self.reader.keys[utterance],
            label=int(self.labels[sample.utterance]) + self.num_speakers * draw.speed_index,
            draw=draw,
            waveform=read_tiled(self.reader, utterance, draw.chunk_start, needed),
            noise=noise,
            rir=rir,
        )


def _stack_padded(rows: list[np.ndarray]) -> torch.Tensor:
    longest = max((len(row) for row in rows), default=0)
    stacked = torch.zeros(len(rows), longest)
    for target, row in zip(stacked, rows, strict=True):
        target[: len(row)] = torch.from_numpy(row)
    return stacked


def _rows_where(values: list[Any]) -> tuple[torch.Tensor, list[Any]]:
    """Indices and values of those that are not None."""
    rows = [row for row, value in enumerate(values) if value is not None]
    return torch.tensor(rows, dtype=torch.int64), [values[row] for row in rows]


def collate(chunks: list[Chunk]) -> Batch:
    """Stack chunks into a batch."""
    draws = [chunk.draw for chunk in chunks]
    noise_rows, noises = _rows_where([chunk.noise for chunk in chunks])
    rir_rows, rirs = _rows_where([chunk.rir for chunk in chunks])
    tilt_rows, tilts = _rows_where([draw.tilt_db for draw in draws])
    band_limit_rows, cutoffs = _rows_where([draw.band_limit_hz for draw in draws])
    return Batch(
        epoch=chunks[0].sample.epoch,
        position=chunks[0].sample.position,
        keys=[chunk.key for chunk in chunks],
        label=torch.tensor([chunk.label for chunk in chunks]),
        waveform=_stack_padded([chunk.waveform for chunk in chunks]),
        speed_index=torch.tensor([draw.speed_index for draw in draws]),
        noise_rows=noise_rows,
        noise=_stack_padded(noises),
        snr_db=torch.tensor([draws[row].snr_db for row in noise_rows.tolist()], dtype=torch.float32),
        rir_rows=rir_rows,
        rir=_stack_padded(rirs),
        tilt_rows=tilt_rows,
        tilt_db=_stack_padded(tilts),
        band_limit_rows=band_limit_rows,
        band_limit_hz=torch.tensor(cutoffs, dtype=torch.float32),
        time_spans=torch.from_numpy(np.stack([draw.time_spans for draw in draws])),
        frequency_spans=torch.from_numpy(np.stack([draw.frequency_spans for draw in draws])),
    )
