"""Half of the bits, where nobody sees it in a score."""

from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.export import cohort as module
from wespeaker_qm.export.cohort import stored_cohort
from wespeaker_qm.score.cosine import Directions
from wespeaker_qm.score.normalisation import cohort_statistics
from wespeaker_qm.trials.table import TrialTable


def system(spread, num_speakers=40, seed=0):
    """A cohort of that spread around a common direction, the directions of 12 utterances and all their trials."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(32)
    cohort = (common + spread * rng.standard_normal((num_speakers, 32))).astype(np.float32)
    embeddings = rng.standard_normal((12, 32)).astype(np.float32)
    names = [f"u{number}" for number in range(12)]
    sides = np.array([(one, two) for one in range(12) for two in range(one)], np.int32).T
    trials = TrialTable(Path("all"), names, sides[0], sides[1], np.zeros(sides.shape[1], bool))
    return cohort, trials, Directions.of(embeddings, None, names)


def scores(cohort, trials, directions, top_n):
    """By the formula, trial for trial."""
    statistics = cohort_statistics(directions, cohort.astype(np.float32), top_n)
    found = []
    for one, two in zip(trials.enrolment, trials.test, strict=True):
        cosine = directions.cosines(np.array([one]), np.array([two]))[0]
        sides = [(cosine - statistics.mean[side]) / statistics.deviation[side] for side in (one, two)]
        found.append(sum(sides) / 2)
    return np.array(found)


@pytest.mark.parametrize("top_n", [None, 100])
def test_float16_where_no_printed_digit_changes(top_n):
    cohort, trials, directions = system(spread=1.0, num_speakers=300)
    stored = stored_cohort(cohort, top_n, trials, directions)
    assert stored.speakers.dtype == np.float16
    change = scores(stored.speakers, trials, directions, top_n) - scores(cohort, trials, directions, top_n)
    assert stored.largest_change == pytest.approx(np.abs(change).max(), rel=1e-6)
    assert 0 < stored.largest_change < 0.0005


def test_float32_where_a_digit_would_change():
    cohort, trials, directions = system(spread=1e-3)
    stored = stored_cohort(cohort, None, trials, directions)
    assert stored.speakers is cohort
    assert stored.largest_change == 0
    changed = scores(cohort.astype(np.float16), trials, directions, None) - scores(cohort, trials, directions, None)
    assert np.abs(changed).max() > 0.0005


def test_values_beyond_float16_stay(recwarn):
    cohort, trials, directions = system(spread=1.0)
    stored = stored_cohort(1e6 * cohort, None, trials, directions)
    assert stored.speakers.dtype == np.float32
    assert np.isfinite(stored.speakers).all()
    assert not recwarn.list


def test_of_a_long_list_some_trials_are_tried(monkeypatch):
    cohort, trials, directions = system(spread=1.0)
    monkeypatch.setattr(module, "MOST_TRIALS", 7)
    chosen = np.unique(np.linspace(0, 65, 7).astype(int))
    change = scores(cohort.astype(np.float16), trials, directions, None) - scores(cohort, trials, directions, None)
    stored = stored_cohort(cohort, None, trials, directions)
    assert stored.largest_change == pytest.approx(np.abs(change[chosen]).max(), rel=1e-6)
