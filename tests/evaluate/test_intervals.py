"""Influence functions, corrections, p-values, and how often intervals hold the truth."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.evaluate.bootstrap import FigureSet, SortedTrials, figures, resample
from wespeaker_qm.evaluate.comparison import compare_all
from wespeaker_qm.evaluate.influence import Influence
from wespeaker_qm.evaluate.intervals import band, pair_noise, speaker_influence, spread

ROOT = Path(__file__).parents[2]
SMOOTH = FigureSet(fars=(0.1, 0.03), tars=(0.9,), p_targets=(0.1,), is_llr=True)


@pytest.mark.parametrize("name", [name for name in SMOOTH.names() if not name.startswith("threshold")])
def test_influence_foretells_what_reweighting_does(name, simulate):
    """The figure of a list with some trials left out, against the sum of their influences."""
    _, is_target, scores = simulate(num_targets=30000, num_nontargets=30000, effect=0.0, distance=2.0)
    system = SortedTrials.of(scores, is_target, SMOOTH)
    influence = Influence(system).of(name)
    assert influence[is_target].sum() == pytest.approx(0, abs=1e-12)
    assert influence[~is_target].sum() == pytest.approx(0, abs=1e-12)
    position = SMOOTH.names().index(name)
    whole = figures(system, np.ones(len(scores), np.int32))[0][position]
    rng = np.random.default_rng(0)
    changes = []
    for _ in range(40):  # leave out trials of a random range of scores
        low = rng.uniform(-1, 3)
        out = (scores > low) & (scores < low + 0.5) & (rng.random(len(scores)) < 0.2)
        weights = (~out).astype(np.int32)
        # the derivative is with respect to shares: weights divided by their mean in each kind
        relative = np.where(is_target, weights / weights[is_target].mean(), weights / weights[~is_target].mean())
        changes.append((influence @ (relative - 1), figures(system, weights)[0][position] - whole))
    foretold, found = np.array(changes).T
    assert np.corrcoef(foretold, found)[0, 1] > 0.97
    assert foretold @ found / (foretold @ foretold) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("num_unheard", [0, 100])
def test_variances_are_those_of_all_pairs_of_trials_that_share_a_speaker(simulate, num_unheard):
    speakers, is_target, scores = simulate(num_speakers=9, num_targets=40, num_nontargets=90)
    speakers = speakers._replace(num_speakers=9 + num_unheard)
    phi = np.random.default_rng(0).standard_normal(len(scores))
    sides = [set(pair) for pair in zip(speakers.enrolment.tolist(), speakers.test.tolist(), strict=True)]
    dyadic = sum(phi[i] * phi[j] for i in range(len(phi)) for j in range(len(phi)) if sides[i] & sides[j])
    psi, noise = speaker_influence(phi, speakers), pair_noise(phi, speakers)
    assert (psi**2).sum() - noise == pytest.approx(dyadic)
    by_speaker = [sum(value for value, side in zip(phi, sides, strict=True) if s in side) for s in range(9)]
    np.testing.assert_allclose(psi[:9], by_speaker)
    assert not psi[9:].any()
    assert not is_target.all()


@pytest.fixture(scope="module")
def three(simulate):
    """A system, one a bit better on the same trials, one with the same scores; 300 resamples."""
    speakers, is_target, scores = simulate(num_speakers=60, num_targets=3000, num_nontargets=6000)
    noise = np.random.default_rng(5).standard_normal(len(scores))
    better = scores + 0.5 * is_target + 0.1 * noise
    systems = [SortedTrials.of(each, is_target) for each in (scores, better, scores)]
    return resample(systems, speakers, num_resamples=300)


def test_intervals_hold_the_estimate_and_grow_with_confidence(three):
    for name in ("EER", "TAR@FAR 1e-1", "TAR@FAR 1e-2", "minDCF 0.01", "minCllr", "FAR@TAR 0.9"):
        each = spread(name, [three[0]])
        low, high = each.interval()
        wide_low, wide_high = each.interval(0.99)
        assert wide_low <= low < each.estimate < high <= wide_high, name


def test_equal_systems_do_not_differ_and_different_ones_do(three):
    same = spread("EER", [three[2]], [three[0]])
    assert (same.estimate, same.interval(), same.p_value()) == (0, (0, 0), 1)
    different = spread("EER", [three[1]], [three[0]])
    low, high = different.interval()
    assert low < different.estimate < high < 0
    assert 2 / 301 <= different.p_value() < 0.02
    turned = spread("EER", [three[0]], [three[1]])
    assert turned.interval() == pytest.approx((-high, -low), abs=2e-4)
    # Paired: the difference is surer than its sides.
    one = spread("EER", [three[0]]).interval()
    assert high - low < one[1] - one[0]


def test_p_values_belong_to_the_intervals(three):
    """The interval of confidence 1 - p ends at 0."""
    each = spread("TAR@FAR 1e-1", [three[1]], [three[0]])
    moved = type(each)(each.estimate - 0.055, each.values - 0.055, each.acceleration, each.degrees)
    p = moved.p_value()
    assert 0.01 < p < 0.9
    assert min(abs(end) for end in moved.interval(1 - p)) < 0.1 * np.ptp(moved.interval(1 - p))


def test_seeds_add_their_own_uncertainty(three, simulate):
    speakers, is_target, scores = simulate(num_speakers=60, num_targets=3000, num_nontargets=6000)
    runs = [scores + 0.05 * shift * is_target for shift in (-4, 0, 4)]
    results = resample([SortedTrials.of(run, is_target) for run in runs], speakers, num_resamples=300)
    combined, alone = spread("EER", results), spread("EER", [results[1]])
    assert combined.estimate == pytest.approx(np.mean([run.estimate("EER") for run in results]))
    assert np.ptp(combined.interval()) > 1.2 * np.ptp(alone.interval())
    (comparison,) = compare_all({"one": [three[0]], "two": [three[1]]}, ["EER"])
    assert comparison.difference < 0
    assert comparison.p_holm == comparison.p_value


def test_bands_are_the_intervals_of_each_point(simulate):
    speakers, is_target, scores = simulate()
    grid = np.array([1e-5, 0.01, 0.1, 0.5])
    (result,) = resample([SortedTrials.of(scores, is_target)], speakers, num_resamples=100, far_grid=grid)
    far, low, high = band(result)
    assert far.tolist() == [0.01, 0.1, 0.5]  # 1,500 non-target trials cannot show 1e-5
    for position, name in enumerate(("TAR@FAR 1e-2", "TAR@FAR 1e-1")):
        tar_low, tar_high = spread(name, [result]).interval()
        assert (1 - high[position], 1 - low[position]) == pytest.approx((tar_low, tar_high), abs=0.01)


def test_coverage_by_speaker_is_near_nominal_and_by_trial_is_not():
    """A small run of tools/validate_intervals.py, whose table in README.md is from a large one."""
    spec = importlib.util.spec_from_file_location("validate_intervals", ROOT / "tools" / "validate_intervals.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    share = tool.covers(tool.DESIGNS[1]._replace(num_speakers=80), num_lists=50, num_resamples=100, seed=1)
    # The mean over 8 shares of 50 lists each, which depend on each other: 0.95 with a deviation of about 0.02.
    assert 0.86 < share["speaker"].mean() <= 1
    assert share["trial"].mean() < 0.75
