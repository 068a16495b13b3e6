"""Epoch orders and batch plans."""

from collections import Counter

import numpy as np
import pytest

from wespeaker_qm.dataset.plan import BatchPlan, Rest, epoch_order
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
    for batch, first, second in zip(whole, *halves, strict=True):
        assert (first.position, second.position) == (batch.position, batch.position + 4)
        np.testing.assert_array_equal(np.concatenate([first.utterances, second.utterances]), batch.utterances)


def test_epochs_differ_and_positions_count_up() -> None:
    batches = plan()
    first = list(batches)
    batches.set_epoch(2)
    second = list(batches)
    assert [batch.position for batch in first] == list(range(0, 20, 4))
    assert {batch.epoch for batch in second} == {2}
    assert any((one.utterances != other.utterances).any() for one, other in zip(first, second, strict=True))


SHARDS = np.arange(20) // 4


@pytest.mark.parametrize("window", [1, 2, 3, 5, 100])
def test_a_window_of_shards_at_a_time(window: int) -> None:
    def order(epoch: int, num_samples: int = 20) -> np.ndarray:
        return epoch_order(
            LABELS,
            sampler="utterance",
            num_samples=num_samples,
            seed=1,
            epoch=epoch,
            shards=SHARDS,
            shard_window=window,
        )

    for epoch in (1, 2):
        assert sorted(order(epoch)) == list(range(20))
        together = [set(SHARDS[order(epoch)[first : first + 4 * window]]) for first in range(0, 20, 4 * window)]
        assert all(len(shards) <= window for shards in together)
        assert sum(len(shards) for shards in together) == 5
    assert list(order(1)) != list(order(2))
    assert set(Counter(order(1, 50).tolist()).values()) == {2, 3}


def test_balance_holds_for_every_speaker_and_utterance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 50, 2000)
    order = epoch_order(labels, sampler="speaker_balanced", num_samples=1730, seed=5, epoch=3)
    counts = np.bincount(labels[order], minlength=50)
    assert set(counts) <= {34, 35}
    for label in range(50):
        mine = order[labels[order] == label]
        times = np.bincount(mine, minlength=2000)[labels == label]
        assert times.max() - times.min() <= 1


def test_too_large_a_batch_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"batch_size 16 on 2 process.* needs 32 samples.* has 20"):
        plan(batch_size=16, world_size=2)


@pytest.mark.parametrize(
    ("changes", "order"),
    [
        ({}, {"sampler": "utterance", "num_samples": 20}),
        ({"samples_per_epoch": 50}, {"sampler": "utterance", "num_samples": 48}),
        ({"samples_per_epoch": 11}, {"sampler": "utterance", "num_samples": 8}),
        ({"sampler": "speaker_balanced", "batch_size": 6}, {"sampler": "speaker_balanced", "num_samples": 18}),
        (
            {"shards": SHARDS, "shard_window": 2},
            {"sampler": "utterance", "num_samples": 20, "shards": SHARDS, "shard_window": 2},
        ),
    ],
)
@pytest.mark.parametrize("epoch", [1, 3])
def test_batches_are_the_epoch_order_cut_into_pieces(changes: dict, order: dict, epoch: int) -> None:
    """What does not fill a batch is left out."""
    batches = plan(seed=9, **changes)
    assert batches.epoch == 1
    batches.set_epoch(epoch)
    found = list(batches)
    expected = epoch_order(LABELS, seed=9, epoch=epoch, **order)
    np.testing.assert_array_equal(np.concatenate([batch.utterances for batch in found]), expected)
    size = changes.get("batch_size", 4)
    assert len(batches) == len(found) == order["num_samples"] // size
    assert [batch.position for batch in found] == list(range(0, order["num_samples"], size))
    assert {(batch.epoch, len(batch.utterances)) for batch in found} == {(epoch, size)}


def test_an_epoch_of_just_one_batch_is_enough() -> None:
    (batch,) = plan(batch_size=10, world_size=2, rank=1)
    assert batch.position == 10
    assert len(batch.utterances) == 10


def test_an_epoch_smaller_than_the_number_of_speakers_visits_as_many_as_it_can() -> None:
    order = epoch_order(LABELS, sampler="speaker_balanced", num_samples=2, seed=1, epoch=1)
    assert len(set(LABELS[order].tolist())) == 2


@pytest.mark.parametrize("done", range(5))
def test_the_rest_of_an_epoch_is_what_the_whole_has_after_its_first_steps(done: int) -> None:
    batches = plan()
    batches.set_epoch(3)
    whole = list(batches)
    rest = batches.rest_after(done)
    assert rest == Rest(4 * done, 20, 5 - done)
    batches.set_epoch(3, rest)
    for batch, expected in zip(batches, whole[done:], strict=True):
        assert (batch.epoch, batch.position) == (expected.epoch, expected.position)
        np.testing.assert_array_equal(batch.utterances, expected.utterances)
    batches.set_epoch(4)
    assert len(list(batches)) == 5


@pytest.mark.parametrize("rest", [Rest(3, 20, 2), Rest(0, 19, 4), Rest(7, 13, 1), Rest(1, 20, 6)])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_rest_is_divided_evenly_however_often_it_is_interrupted(rest: Rest, world_size: int) -> None:
    """Each position once, in order; sizes differ by one at most; a rest of the rest has the same steps."""
    plans = [plan(batch_size=1, rank=rank, world_size=world_size) for rank in range(world_size)]

    def steps(rest: Rest) -> list[list[list[int]]]:
        for each in plans:
            each.set_epoch(2, rest)
        found = [[list(range(b.position, b.position + len(b.utterances))) for b in each] for each in plans]
        return [list(step) for step in zip(*found, strict=True)]

    whole = steps(rest)
    assert [place for step in whole for part in step for place in part] == list(range(rest.position, rest.length))
    sizes = {len(part) for step in whole for part in step}
    assert max(sizes) - min(sizes) <= 1
    assert len(whole) == rest.steps
    for done in range(1, rest.steps):
        steps(rest)
        assert steps(plans[0].rest_after(done)) == whole[done:]
