"""Reading the samples that a batch of training chunks needs, and nothing else.

::

    BatchId -> DrawSource.draw -> chunks, noise chunks, impulse responses, all int16 as stored -> Batch

Augmentation and features come after, batched (:mod:`wespeaker_qm.dataset.frontend`).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from wespeaker_qm.audio.speed import speed_input_length
from wespeaker_qm.dataset.draws import NOISE, REVERB, SPEEDS, Draws, DrawSettings, DrawSource
from wespeaker_qm.dataset.plan import BatchId
from wespeaker_qm.packing.reader import ShardReader


class Batch(NamedTuple):
    """B samples of S samples each after the change of speed; ``*_rows`` say which rows of the batch a tensor holds.

    Waveforms are int16: half the bytes to move, to a GPU too.
    """

    epoch: int
    position: int
    """Position of the first row in its epoch."""
    utterance: torch.Tensor
    """(B,) position of the utterance among those that are trained on."""
    label: torch.Tensor
    """(B,) class: of the speaker at that speed."""
    speed_rows: tuple[torch.Tensor, ...]
    """The rows of each of SPEEDS."""
    waveform: tuple[torch.Tensor, ...]
    """For each of SPEEDS (number of its rows, samples from which that speed makes S), as read."""
    noise_rows: torch.Tensor
    noise: torch.Tensor
    """(number of noise rows, S)."""
    snr_db: torch.Tensor
    rir_rows: torch.Tensor
    rir_index: tuple[int, ...]
    """Which of the impulse responses."""
    rir: torch.Tensor
    """(number of rir rows, longest of these), zero-padded."""
    tilt_rows: torch.Tensor
    tilt_db: torch.Tensor
    band_limit_rows: torch.Tensor
    band_limit_hz: torch.Tensor
    high_pass_rows: torch.Tensor
    high_pass_hz: torch.Tensor
    hiss_rows: torch.Tensor
    hiss_snr_db: torch.Tensor
    hiss_start: torch.Tensor
    """float64, a fraction for each of the hiss rows."""
    mask_rows: torch.Tensor
    time_spans: torch.Tensor
    """(number of mask rows, num_t_mask, 2)."""
    frequency_spans: torch.Tensor
    """(number of mask rows, num_f_mask, 2)."""
    dither_start: torch.Tensor
    """(B,) float64 fractions."""


class _Place(NamedTuple):
    """Of an array within a packed batch."""

    first: int
    """Its first byte."""
    dtype: torch.dtype
    shape: torch.Size


class PackedBatch:
    """A batch whose arrays are one: sent to another process, page-locked and copied to a GPU once, not thirty times."""

    def __init__(self, batch: Batch) -> None:
        self._places, num_bytes = _placed(tuple(batch), 0)
        self._data = torch.empty(num_bytes, dtype=torch.uint8)
        for value, place in _pairs(batch, self._places):
            _at(self._data, place).copy_(value)

    def pin_memory(self) -> "PackedBatch":
        """The same in page-locked memory; the loader calls it."""
        self._data = self._data.pin_memory()
        return self

    def on(self, device: torch.device) -> Batch:
        """The batch with every tensor on ``device``, but for ``utterance``, which stays on the CPU."""
        data = self._data.to(device, non_blocking=True)
        batch = Batch(*_found(data, self._places))
        place = self._places[Batch._fields.index("utterance")]
        return batch._replace(utterance=_at(self._data, place).clone())  # which may be kept when the rest is gone


_ALIGNED_BYTES = 64


# Functions of the module, not of the methods that need them: a function that calls itself and holds a batch is a cycle,
# and the batch would stay in memory, a GPU's too, until Python next looks for cycles.
def _placed(value: Any, first: int) -> tuple[Any, int]:
    """Places in the stead of arrays, from byte ``first`` on, and the first byte after them."""
    if isinstance(value, torch.Tensor):
        end = first + -(-value.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
        return _Place(first, value.dtype, value.shape), end
    if not isinstance(value, tuple):
        return value, first
    places = []
    for item in value:
        place, first = _placed(item, first)
        places.append(place)
    return tuple(places), first


def _found(data: torch.Tensor, place: Any) -> Any:
    """Arrays in the stead of places."""
    if isinstance(place, _Place):
        return _at(data, place)
    return tuple(_found(data, item) for item in place) if isinstance(place, tuple) else place


def _pairs(value: Any, place: Any) -> Iterator[tuple[torch.Tensor, _Place]]:
    """The arrays of a batch, and their places."""
    if isinstance(place, _Place):
        yield value, place
    elif isinstance(place, tuple):
        for each, its in zip(value, place, strict=True):
            yield from _pairs(each, its)


def _at(data: torch.Tensor, place: _Place) -> torch.Tensor:
    """The array that is a stretch of bytes."""
    num_bytes = place.shape.numel() * place.dtype.itemsize
    return data[place.first : place.first + num_bytes].view(place.dtype).view(place.shape)


def read_tiled(reader: ShardReader, index: int, start: float, pcm: np.ndarray) -> None:
    """Read a chunk of an utterance; one that is shorter is repeated.

    Args:
        reader: the packed set.
        index: of the utterance in it.
        start: where the chunk begins, as a fraction in [0, 1) of the places where it can.
        pcm: (S,) int16, to be filled.
    """
    available = int(reader.num_samples[index])
    if available >= len(pcm):
        reader.read_pcm(index, int(start * (available - len(pcm) + 1)), pcm)
    else:
        reader.read_pcm(index, 0, pcm[:available])
        pcm[available:] = np.resize(pcm[:available], len(pcm) - available)


class ChunkDataset(Dataset[Batch]):
    """Map-style access to batches of chunks by :class:`BatchId`.

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
        self.draw_source = DrawSource(settings)
        self.noise = noise
        self.rirs = rirs

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.utterances)

    def key(self, utterance: int) -> str:
        """Key of an utterance of a batch."""
        return self.reader.index.key(int(self.utterances[utterance]))

    def __getitem__(self, batch: BatchId) -> Batch:
        """Read a batch: its chunks, noises and impulse responses."""
        draws = self.draw_source.draw(batch.epoch, batch.position, len(batch.utterances))
        speed_rows = [np.flatnonzero(draws.speed_index == index) for index in range(len(SPEEDS))]
        noise_rows = np.flatnonzero(draws.augmentation == NOISE)
        rir_rows = np.flatnonzero(draws.augmentation == REVERB)
        tilt_rows, band_limit_rows = np.flatnonzero(draws.has_tilt), np.flatnonzero(draws.has_band_limit)
        high_pass_rows, hiss_rows = np.flatnonzero(draws.has_high_pass), np.flatnonzero(draws.has_hiss)
        mask_rows = np.flatnonzero(draws.is_masked)
        rir_index = draws.choice[rir_rows]
        return Batch(
            epoch=batch.epoch,
            position=batch.position,
            utterance=torch.from_numpy(batch.utterances),
            label=torch.from_numpy(self.labels[batch.utterances] + self.num_speakers * draws.speed_index),
            speed_rows=tuple(torch.from_numpy(rows) for rows in speed_rows),
            waveform=tuple(
                self._chunks(
                    batch.utterances[rows], draws.chunk_start[rows], speed_input_length(self.num_samples, speed)
                )
                for rows, speed in zip(speed_rows, SPEEDS, strict=True)
            ),
            noise_rows=torch.from_numpy(noise_rows),
            noise=self._noises(draws, noise_rows),
            snr_db=torch.from_numpy(draws.snr_db[noise_rows]),
            rir_rows=torch.from_numpy(rir_rows),
            rir_index=tuple(rir_index.tolist()),
            rir=self._rirs(rir_index),
            tilt_rows=torch.from_numpy(tilt_rows),
            tilt_db=torch.from_numpy(draws.tilt_db[tilt_rows]),
            band_limit_rows=torch.from_numpy(band_limit_rows),
            band_limit_hz=torch.from_numpy(draws.band_limit_hz[band_limit_rows]),
            high_pass_rows=torch.from_numpy(high_pass_rows),
            high_pass_hz=torch.from_numpy(draws.high_pass_hz[high_pass_rows]),
            hiss_rows=torch.from_numpy(hiss_rows),
            hiss_snr_db=torch.from_numpy(draws.hiss_snr_db[hiss_rows]),
            hiss_start=torch.from_numpy(draws.hiss_start[hiss_rows]),
            mask_rows=torch.from_numpy(mask_rows),
            time_spans=torch.from_numpy(draws.time_spans[mask_rows]),
            frequency_spans=torch.from_numpy(draws.frequency_spans[mask_rows]),
            dither_start=torch.from_numpy(draws.dither_start.copy()),
        )

    def _chunks(self, utterances: np.ndarray, starts: np.ndarray, num_samples: int) -> torch.Tensor:
        rows = np.empty((len(utterances), num_samples), dtype=np.int16)
        for row, index, start in zip(rows, self.utterances[utterances].tolist(), starts.tolist(), strict=True):
            read_tiled(self.reader, index, start, row)
        return torch.from_numpy(rows)

    def _noises(self, draws: Draws, noise_rows: np.ndarray) -> torch.Tensor:
        rows = np.empty((len(noise_rows), self.num_samples), dtype=np.int16)
        choices, starts = draws.choice[noise_rows].tolist(), draws.noise_start[noise_rows].tolist()
        for row, index, start in zip(rows, choices, starts, strict=True):
            if self.noise is not None:
                read_tiled(self.noise, index, start, row)
        return torch.from_numpy(rows)

    def _rirs(self, rir_index: np.ndarray) -> torch.Tensor:
        if self.rirs is None or not len(rir_index):
            return torch.zeros(len(rir_index), 0, dtype=torch.int16)
        lengths = self.rirs.num_samples[rir_index]
        rows = np.zeros((len(rir_index), int(lengths.max())), dtype=np.int16)
        for row, index, length in zip(rows, rir_index.tolist(), lengths.tolist(), strict=True):
            self.rirs.read_pcm(index, 0, row[:length])
        return torch.from_numpy(rows)
