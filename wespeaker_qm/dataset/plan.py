"""Which utterance stands at which place of an epoch, and which places make a batch on which rank."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from wespeaker_qm.utils.errors import RecipeError, counted

# Keeps the stream of an epoch's order apart from the streams of its samples' draws.
_ORDER_STREAM = 0x5EED


class BatchId(NamedTuple):
    """Samples of the training in a row: everything drawn for one is a function of (seed, epoch, position)."""

    epoch: int
    position: int
    """Of the first; the others follow."""
    utterances: np.ndarray
    """(B,) which utterance stands at each position."""


class Rest(NamedTuple):
    """What is left of an epoch."""

    position: int
    """Samples of the epoch's order that are done."""
    length: int
    """Samples in that order: of the whole epoch, as it was begun."""
    steps: int
    """Over which the others are divided evenly, and over the processes in each."""

    def start(self, part: int, num_parts: int) -> int:
        """Where a part begins, of ``num_parts`` for all steps and processes: the first ones have at most one more."""
        size, larger = divmod(self.length - self.position, num_parts)
        return self.position + part * size + min(part, larger)


def _repeated_permutations(num_items: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """The first ``length`` items of one random permutation after another of 0 ... num_items - 1."""
    rounds = -(-length // num_items)
    return np.concatenate([rng.permutation(num_items) for _ in range(rounds)])[:length]


def epoch_order(
    labels: np.ndarray,
    *,
    sampler: str,
    num_samples: int,
    seed: int,
    epoch: int,
    shards: np.ndarray | None = None,
    shard_window: int = 0,
) -> np.ndarray:
    """Utterance index at each of ``num_samples`` positions of an epoch.

    Args:
        labels: (N,) speaker index of each utterance.
        sampler: ``utterance`` takes every utterance equally often; ``speaker_balanced`` every speaker equally often,
            and each speaker's utterances equally often: for sets in which some speakers have minutes and some hours.
        num_samples: positions to fill; beyond the set's size the order starts over with a new permutation.
        seed: of the run.
        epoch: from 1.
        shards: (N,) shard of each utterance, needed with ``shard_window``.
        shard_window: 0 permutes all utterances. Otherwise shards are permuted, and the utterances of so many shards at
            a time: reading then stays within a few files, which slow and remote disks reward. ``utterance`` only.
    """
    rng = np.random.default_rng((seed, epoch, _ORDER_STREAM))
    if shard_window and shards is not None:
        return _windowed_permutations(shards, shard_window, num_samples, rng)
    if sampler == "utterance":
        return _repeated_permutations(len(labels), num_samples, rng)
    groups = _positions_by_value(labels)
    visits = _repeated_permutations(len(groups), num_samples, rng)
    order = np.empty(num_samples, dtype=np.int64)
    # An epoch of fewer samples than speakers visits some of them only.
    for places in _positions_by_value(visits):
        group = groups[visits[places[0]]]
        order[places] = group[_repeated_permutations(len(group), len(places), rng)]
    return order


def _positions_by_value(values: np.ndarray) -> list[np.ndarray]:
    """The positions of each distinct value, values and positions ascending."""
    positions = np.argsort(values, kind="stable")
    return np.split(positions, np.flatnonzero(np.diff(values[positions])) + 1)


def _windowed_permutations(shards: np.ndarray, window: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """The first ``length`` utterances of one order after another in which ``window`` shards are mixed at a time."""
    groups = _positions_by_value(shards)
    rounds = []
    for _ in range(-(-length // len(shards))):
        shuffled = rng.permutation(len(groups))
        for first in range(0, len(groups), window):
            rounds.append(rng.permutation(np.concatenate([groups[g] for g in shuffled[first : first + window]])))
    return np.concatenate(rounds)[:length]


class BatchPlan(Sampler[BatchId]):
    """Batches for one rank; the global batch of a step is the same for any number of ranks.

    Args:
        labels: (N,) speaker index of each utterance.
        sampler: see :func:`epoch_order`.
        samples_per_epoch: 0 means N; what does not fill a whole batch on every rank is left out.
        batch_size: samples a rank and step.
        seed: of the run.
        rank: this process.
        world_size: number of processes.
        shards: (N,) shard of each utterance.
        shard_window: see :func:`epoch_order`.

    Raises:
        RecipeError: an epoch is smaller than one batch.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        sampler: str,
        samples_per_epoch: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        shards: np.ndarray | None = None,
        shard_window: int = 0,
    ) -> None:
        self.labels = labels
        self.shards = shards
        self.shard_window = shard_window
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        num_samples = samples_per_epoch or len(labels)
        self.steps = num_samples // self.global_batch
        if self.steps == 0:
            raise RecipeError(
                f"dataloader_args.batch_size {batch_size} on {counted(world_size, 'process', 'processes')} needs "
                f"{self.global_batch} samples, but an epoch has {num_samples}; lower the batch size or raise "
                "dataset_args.sample_num_per_epoch"
            )
        self.num_samples = num_samples
        self.set_epoch(1)

    @property
    def global_batch(self) -> int:
        """Samples of a step on all ranks."""
        return self.batch_size * self.world_size

    def set_epoch(self, epoch: int, rest: Rest | None = None) -> None:
        """Choose the epoch (from 1) that the next iteration walks, or what is left of it."""
        self.epoch = epoch
        self.rest = rest or Rest(0, self.steps * self.global_batch, self.steps)

    def rest_after(self, step: int) -> Rest:
        """What will be left of the chosen epoch, or of its rest, after so many steps of it."""
        position = self.rest.start(step * self.world_size, self.rest.steps * self.world_size)
        return Rest(position, self.rest.length, self.rest.steps - step)

    def samples_of(self, step: int) -> int:
        """Samples of a step of the chosen epoch, or of its rest, on all ranks."""
        return self.rest_after(step + 1).position - self.rest_after(step).position

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self.steps

    def __iter__(self) -> Iterator[BatchId]:
        """Yield this rank's batch of every step that is left."""
        rest = self.rest
        order = epoch_order(
            self.labels,
            sampler=self.sampler,
            num_samples=rest.length,
            seed=self.seed,
            epoch=self.epoch,
            shards=self.shards,
            shard_window=self.shard_window,
        )
        num_parts = rest.steps * self.world_size
        for part in range(self.rank, num_parts, self.world_size):
            first, end = rest.start(part, num_parts), rest.start(part + 1, num_parts)
            yield BatchId(self.epoch, first, order[first:end])
