"""Epoch orders and batch plans."""

from collections import Counter

import numpy as np
import pytest

from wespeaker_qm.dataset.plan import BatchPlan, epoch_order
from wespeaker_qm.utils.errors import RecipeError

LABELS = np.array([0] * 10 + [1] * 3 + [2] * 7)


def plan(**changes: object) -> BatchPlan:
    options: dict = {
        "sampler": "utterance",
        "samples_per_epoch": 0,
        "batch_size": 4,
        "seed": 1,
        "rank": 0,
        "world_size": 1,
    }
    return BatchPlan(LABELS, **{**options, **changes})


def test_every_utterance_once_an_epoch() -> None:
    order = epoch_order(LABELS, sampler="utterance", num_samples=20, seed=1, epoch=1)
    assert sorted(order) == list(range(20))
    other = epoch_order(LABELS, sampler="utterance", num_samples=20, seed=1, epoch=2)
    assert sorted(other) == list(range(20))
    assert list(order) != list(other)


def test_longer_epoch_starts_over() -> None:
    counts = Counter(epoch_order(LABELS, sampler="utterance", num_samples=50, seed=1, epoch=1).tolist())
    assert set(counts) == set(range(20))
    assert set(counts.values()) == {2, 3}


def test_speaker_balanced_visits_speakers_and_their_utterances_equally() -> None:
    order = epoch_order(LABELS, sampler="speaker_balanced", num_samples=90, seed=1, epoch=1)
    assert Counter(LABELS[order].tolist()) == {0: 30, 1: 30, 2: 30}
    counts = Counter(order.tolist())
    assert {counts[utterance] for utterance in range(10)} == {3}
    assert {counts[utterance] for utterance in range(10, 13)} == {10}
    assert {counts[utterance] for utterance in range(13, 20)} == {4, 5}


def test_ranks_share_the_global_batch() -> None:
    whole = list(plan(batch_size=8))
    halves = [list(plan(rank=rank, world_size=2)) for rank in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole


def test_epochs_differ_and_positions_count_up() -> None:
    batches = plan()
    first = [sample for batch in batches for sample in batch]
    batches.set_epoch(2)
    second = [sample for batch in batches for sample in batch]
    assert [sample.position for sample in first] == list(range(20))
    assert {sample.epoch for sample in second} == {2}
    assert [sample.utterance for sample in first] != [sample.utterance for sample in second]


def test_too_large_a_batch_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"batch_size 16 on 2 process.* needs 32 samples.* has 20"):
        plan(batch_size=16, world_size=2)
