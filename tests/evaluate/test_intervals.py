"""Influence functions, corrections, p-values, and how often intervals hold the truth."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wespeaker_qm.evaluate.bootstrap import SortedTrials, resample
from wespeaker_qm.evaluate.comparison import compare_all
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import EER, TAR_AT_FAR, figure_named
from wespeaker_qm.evaluate.intervals import (
    Error,
    Spread,
    _correction,
    _spread,
    band,
    pair_noise,
    seed_error,
    speaker_influence,
    spread,
)
from wespeaker_qm.evaluate.scales import LINEAR, LOG, LOGIT
from wespeaker_qm.trials.speakers import TrialSpeakers

ROOT = Path(__file__).parents[2]


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
    for name in ("EER", "TAR@FAR 1e-1", "minCllr", "FAR@TAR 0.9", "threshold@FAR 1e-1"):
        each = spread(figure_named(name), [three[0]])
        low, high = each.interval()
        wide_low, wide_high = each.interval(0.99)
        assert wide_low < low < each.estimate < high < wide_high, name


errors = st.lists(st.builds(Error, st.floats(1e-6, 30), st.floats(0.3, 1e6)), min_size=1, max_size=2).map(tuple)


@settings(max_examples=300, deadline=None)
@given(
    estimate=st.floats(1e-6, 1 - 1e-6),
    bias=st.floats(-3, 3),
    errors=errors,
    confidences=st.tuples(st.floats(0.01, 0.9999), st.floats(0.01, 0.9999)),
    scale=st.sampled_from([LOGIT, LOG, LINEAR]),
)
def test_intervals_never_invert_and_stay_in_range(estimate, bias, errors, confidences, scale):
    """Whatever bias, errors and degrees of freedom: wider with confidence, around the estimate, inside the range."""
    centre = float(scale.forward(np.array(estimate))) + bias
    each = Spread(estimate=estimate, centre=centre, errors=errors, scale=scale)
    (low, high), (wide_low, wide_high) = (each.interval(confidence) for confidence in sorted(confidences))
    assert scale.low <= wide_low <= low <= estimate <= high <= wide_high <= scale.high


@settings(max_examples=300, deadline=None)
@given(
    estimate=st.floats(-1, 1).filter(lambda value: abs(value) > 1e-6),
    errors=errors,
    confidence=st.floats(0.01, 0.999),
)
def test_p_values_belong_to_the_intervals(estimate, errors, confidence):
    """p < 1 - confidence exactly where the interval does not hold 0."""
    each = Spread(estimate=estimate, centre=estimate, errors=errors)
    low, high = each.interval(confidence)
    p_value = each.p_value()
    assert 0 <= p_value <= 1
    if abs(p_value - (1 - confidence)) > 1e-6:
        assert (p_value < 1 - confidence) == (not low <= 0 <= high)


def test_student_t_by_hand():
    """2.228 is the 97.5 % quantile of Student's t with 10 degrees of freedom, 4.303 that with 2."""
    each = Spread(estimate=1.0, centre=1.0, errors=(Error(0.5, 10.0),))
    assert each.interval() == pytest.approx((1 - 1.114, 1 + 1.114), abs=1e-3)
    assert each.p_value() == pytest.approx(0.0734, abs=1e-4)
    two = Spread(estimate=1.0, centre=1.0, errors=(Error(0.5, 10.0), Error(0.2, 2.0)))
    assert two.interval()[1] - 1 == pytest.approx((1.114**2 + (0.2 * 4.303) ** 2) ** 0.5, abs=1e-3)
    # Seeds that happen to agree leave the speakers' error, and the other way round.
    for errors in ((Error(0.5, 10.0), Error(0.0, 2.0)), (Error(0.0, 2.0), Error(0.5, 10.0))):
        assert Spread(estimate=1.0, centre=1.0, errors=errors).p_value() == pytest.approx(0.0734, abs=1e-4)
    assert Spread(estimate=0.0, centre=0.0, errors=(Error(0.0, 10.0),)).p_value() == 1
    assert Spread(estimate=1.0, centre=1.0, errors=(Error(1e-9, 1e6), Error(1e-9, 1e6))).p_value() < 1e-11


def test_equal_systems_do_not_differ_and_different_ones_do(three):
    same = spread(Figure(EER), [three[2]], [three[0]])
    assert (same.estimate, same.interval(), same.p_value()) == (0, (0, 0), 1)
    different = spread(Figure(EER), [three[1]], [three[0]])
    low, high = different.interval()
    assert low < different.estimate < high < 0
    assert 0 < different.p_value() < 0.02
    unsure = dataclasses.replace(different, errors=(Error(10.0, 1.0),))
    assert unsure.interval() == (-1, 1), "two rates differ by no more"
    turned = spread(Figure(EER), [three[0]], [three[1]])
    assert turned.interval() == pytest.approx((-high, -low), rel=1e-9)
    assert turned.p_value() == pytest.approx(different.p_value(), rel=1e-9)
    # Paired: the difference is surer than its sides.
    one = spread(Figure(EER), [three[0]]).interval()
    assert high - low < one[1] - one[0]


def test_two_resamples_know_little(simulate):
    """Their deviation has one degree of freedom: the interval says so, instead of being the range of two values."""
    speakers, is_target, scores = simulate(num_speakers=60, num_targets=3000, num_nontargets=6000)
    (few,) = resample([SortedTrials.of(scores, is_target)], speakers, num_resamples=2)
    (many,) = resample([SortedTrials.of(scores, is_target)], speakers, num_resamples=100)
    assert spread(Figure(EER), [few]).errors[0].degrees < 1 < 5 < spread(Figure(EER), [many]).errors[0].degrees
    low, high = spread(Figure(EER), [few]).interval()
    assert 0 <= low <= few.estimate(Figure(EER)) <= high <= 1
    (none,) = resample([SortedTrials.of(scores, is_target)], speakers, num_resamples=0)
    assert spread(Figure(EER), [none]).interval() is None


def test_jackknife_by_hand():
    """A mean over all pairs of 5 speakers whose score is the sum of their effects: V is 4 / n times the variance."""
    effects = np.array([0.3, -1.0, 0.7, 2.0, -0.4])
    one, two = np.triu_indices(5, 1)
    speakers = TrialSpeakers(
        np.concatenate([np.arange(5), one]).astype(np.int32), np.concatenate([np.arange(5), two]).astype(np.int32), 5
    )
    is_target = speakers.enrolment == speakers.test
    values = effects[one] + effects[two]
    influence = np.concatenate([np.zeros(5), (values - values.mean()) / len(values)])
    ratio, degrees = _correction(influence, speakers, is_target)
    psi = speaker_influence(influence, speakers)
    resampled = (psi**2).sum() + pair_noise(influence, speakers)
    assert ratio * resampled == pytest.approx(4 / 5 * effects.var(ddof=1) - pair_noise(influence, speakers))
    # jack_a is 2 / n (effect - mean) up to a factor: the kurtosis is that of the effects
    centred = effects - effects.mean()
    kurtosis = 5 * (centred**4).sum() / (centred**2).sum() ** 2
    assert degrees == pytest.approx(min(5 / (kurtosis - 1), 2))


@pytest.mark.parametrize(
    ("counts", "outlier"), [((3, 3, 3, 3), 0), ((1, 2, 3, 6), 0), ((2, 2, 2, 20), 0), ((3,) * 12, 20), ((3,) * 12, -20)]
)
def test_jackknife_of_a_mean_over_targets_is_what_leaving_a_speaker_out_does(counts, outlier):
    """Of a mean the influence is exact, so that jack_a is the mean less the mean without speaker a; a at most 3/4."""
    n = len(counts)
    owner = np.repeat(np.arange(n), counts)
    values = np.random.default_rng(0).standard_normal(len(owner)) + outlier * (owner == 1)
    mean = values.mean()
    left_out = np.array([mean - values[owner != a].mean() for a in range(n)])
    share = np.array(counts) / sum(counts)
    left_out *= np.minimum(1, (1 - share) / 0.25)  # where a has more than 3/4 of the trials, as if it had 3/4
    speakers = TrialSpeakers(np.append(owner, 0).astype(np.int32), np.append(owner, 1).astype(np.int32), n)
    is_target = np.append(np.ones(len(owner), bool), False)  # one non-target trial, without influence
    ratio, degrees = _correction(np.append((values - mean) / len(values), 0.0), speakers, is_target)
    psi = np.bincount(owner, values - mean) / len(values)
    assert ratio * (psi**2).sum() == pytest.approx((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    kurtosis = n * (left_out**4).sum() / (left_out**2).sum() ** 2
    assert degrees == pytest.approx(min(n / (kurtosis - 1), (n - 1) / 2))
    assert (degrees < (n - 1) / 2) == (outlier != 0), "fewer where one speaker decides"


def resamples(num_trials=1000, speakers=None):
    system = SimpleNamespace(scores=np.zeros(num_trials), is_target=None)
    return SimpleNamespace(system=system, speakers=speakers)


def test_a_rate_by_hand():
    """On the logit's scale: mean and deviation of the resamples, and twice the estimate less that mean."""
    values = np.array([0.1, 0.2, 0.4, 0.25])
    moved = np.log(values / (1 - values))
    centre = np.log(0.2 / 0.8)
    each = _spread(0.2, values, None, resamples(), LOGIT)
    assert each.centre == pytest.approx(2 * centre - moved.mean())
    assert each.errors == (pytest.approx((np.sqrt(5 / 4) * moved.std(ddof=1), 3)),)
    # 0 and 1 have no logit: half an error of 1,000 is taken.
    ends = _spread(0.2, np.array([0.0, 1.0, 0.5]), None, resamples(), LOGIT)
    assert ends.centre == pytest.approx(2 * centre)
    assert ends.errors[0].size == pytest.approx(np.sqrt(4 / 3) * np.log(0.9995 / 0.0005))


def test_costs_differences_and_thresholds_by_hand():
    values = np.array([0.5, 1.0, 2.0])
    cost = _spread(1.5, values, None, resamples(), LOG)
    assert cost.centre == pytest.approx(2 * np.log(1.5))  # the logarithms' mean is 0
    assert cost.errors[0] == pytest.approx((np.sqrt(4 / 3) * np.log(2), 2))
    plain = _spread(1.5, values, None, resamples(), LINEAR)
    assert plain.centre == 1.5, "a difference's bias is left alone"
    assert plain.errors[0].size == pytest.approx(np.sqrt(4 / 3) * values.std(ddof=1))
    for estimate, reason in ((0.25, "the same on all resamples"), (0.0, None)):
        assert _spread(estimate, np.full(3, estimate), None, resamples(), LINEAR).reason == reason


def test_corrections_go_into_centre_error_and_degrees(monkeypatch):
    monkeypatch.setattr("wespeaker_qm.evaluate.intervals._correction", lambda *_: (0.25, 6.0))
    values = np.array([0.1, 0.2, 0.4, 0.25])
    plain = _spread(0.2, values, None, resamples(), LOGIT)
    corrected = _spread(0.2, values, np.ones(3), resamples(speakers="some"), LOGIT)
    centre = np.log(0.2 / 0.8)
    assert corrected.centre - centre == pytest.approx((plain.centre - centre) / 4)
    assert corrected.errors[0] == pytest.approx((plain.errors[0].size / 2, 1 / (1 / 6 + 1 / 3)))


def test_influences_that_cancel_within_each_speaker_are_no_fault():
    speakers = TrialSpeakers(*np.repeat(np.arange(4, dtype=np.int32), 2)[None].repeat(2, 0), 4)
    influence = np.tile([1.0, -1.0], 4)
    is_target = np.ones(8, bool)
    is_target[-2:] = False  # of one speaker only: never a list, but a difference's influences may be such
    assert _correction(influence, speakers, is_target) == (1, 0.5)


def runs_of(simulate, shifts):
    """Runs of one system that differ in how far apart targets are."""
    speakers, is_target, scores = simulate(num_speakers=60, num_targets=3000, num_nontargets=6000)
    runs = [SortedTrials.of(scores + shift * is_target, is_target) for shift in shifts]
    return resample(runs, speakers, num_resamples=300)


def test_seeds_add_their_own_uncertainty(three, simulate):
    results = runs_of(simulate, (-0.2, 0, 0.2))
    combined, alone = spread(Figure(EER), results), spread(Figure(EER), [results[1]])
    assert combined.estimate == pytest.approx(np.mean([run.estimate(Figure(EER)) for run in results]))
    assert np.ptp(combined.interval()) > 1.2 * np.ptp(alone.interval())
    (comparison,) = compare_all({"one": [three[0]], "two": [three[1]]}, [Figure(EER)])
    assert comparison.difference < 0
    assert comparison.p_holm == comparison.p_value


def test_seed_errors_by_hand():
    assert seed_error([[1, 3, 5]]) == pytest.approx(((4 / 3) ** 0.5, 2))
    # Sums of squares 8 and 2 with 2 + 1 degrees of freedom; means of 3 and 2 runs.
    assert seed_error([[1, 3, 5], [2, 4]]) == pytest.approx(((10 / 3 * (1 / 3 + 1 / 2)) ** 0.5, 3))
    # One run: its seeds vary as those of the other side, whichever that is.
    assert seed_error([[1, 3, 5], [2]]) == seed_error([[2], [1, 3, 5]]) == pytest.approx(((4 * 4 / 3) ** 0.5, 2))
    assert seed_error([[2], [1]]) is seed_error([[2]]) is None


def test_one_run_against_several_has_the_error_of_its_own_seed(simulate, three):
    several = runs_of(simulate, (-0.2, 0, 0.2))
    figures = [run.estimate(Figure(EER)) for run in several]
    for each in (spread(Figure(EER), several, [three[1]]), spread(Figure(EER), [three[1]], several)):
        assert each.errors[1].size ** 2 == pytest.approx(np.var(figures, ddof=1) * (1 / 3 + 1))
        assert each.errors[1].degrees == 2
    alone = spread(Figure(EER), several)
    rate = alone.estimate
    assert alone.errors[1].size * rate * (1 - rate) == pytest.approx((np.var(figures, ddof=1) / 3) ** 0.5)


def test_bands_are_the_intervals_of_each_point(simulate):
    speakers, is_target, scores = simulate(num_speakers=60)
    grid = np.array([1e-5, 0.05, 0.1, 0.5])
    (result,) = resample([SortedTrials.of(scores, is_target)], speakers, num_resamples=100, far_grid=grid)
    far, low, high = band(result)
    assert far.tolist() == [0.05, 0.1]  # 1e-5 is less than 1 in 60 speakers; at 0.5 hardly a target is missed
    tar_low, tar_high = spread(Figure(TAR_AT_FAR, 0.1), [result]).interval()
    assert (1 - high[1], 1 - low[1]) == pytest.approx((tar_low, tar_high), abs=1e-9)


@pytest.fixture(scope="module")
def tool():
    """tools/validate_intervals.py, whose table in docs/evaluation.md is from a large run."""
    spec = importlib.util.spec_from_file_location("validate_intervals", ROOT / "tools" / "validate_intervals.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


def shares(tool, name, *, num_lists, num_resamples, by="speaker", **changes):
    """Figure -> row of a small run of the design of that name, with ``changes``."""
    (design,) = (each for each in tool.DESIGNS if each.name == name)
    design = dataclasses.replace(design, **changes)
    return {
        row.figure.name: row for row in tool.validate(design, num_lists=num_lists, num_resamples=num_resamples, by=by)
    }


def test_coverage_of_few_speakers(tool):
    """Of the intervals of 8 speakers 79 to 91 % held the truth, and 11 % of equal systems differed."""
    rows = shares(tool, "strong effects, 8 speakers", num_lists=60, num_resamples=60)
    for figure in ("EER", "TAR@FAR 1e-1", "minCllr"):
        assert rows[figure].holds_all > 0.925, figure  # of 120 intervals
        assert rows[figure].differs_all < 0.1, figure  # of 60 differences


def test_nothing_is_given_where_it_would_not_hold(tool):
    """minDCF at the default priors: 33 to 86 % of what were 95 % intervals held the truth."""
    rows = shares(tool, "exponential, 40 speakers", num_lists=20, num_resamples=40)
    assert rows["minDCF 0.001"].holds_all < 0.5
    for figure in ("minDCF 0.001", "minDCF 0.01", "actDCF 0.001", "FAR@TAR 0.99"):
        assert rows[figure].given == rows[figure].pairs_given == 0, figure
    assert rows["EER"].given == 1
    assert rows["EER"].holds > 0.8


def test_what_was_never_given_is_null_in_json(tool, tmp_path, monkeypatch):
    """A share of no lists is no number, which JSON has no name for: the program ended there."""
    options = [
        "--lists",
        "2",
        "--resamples",
        "5",
        "--rows",
        "strong effects, 3 speakers",
        "--json",
        f"{tmp_path}/x.json",
    ]
    monkeypatch.setattr(sys, "argv", ["validate_intervals.py", *options, "--json", str(tmp_path / "x.json")])
    tool.main()
    (rows,) = json.loads((tmp_path / "x.json").read_text()).values()
    eer = next(row for row in rows if row["figure"] == "EER")
    assert (eer["given"], eer["holds"]) == (0, None)
    assert 0 <= eer["holds_all"] <= 1


def test_by_trial_is_far_too_narrow(tool):
    rows = shares(tool, "strong effects, 22 speakers", num_lists=20, num_resamples=40, by="trial")
    assert rows["EER"].holds_all < 0.75


def test_unequal_numbers_of_seeds(tool):
    """Three runs against one: the seed of the one was left out, and far more than 5 % of equal systems differed."""
    rows = shares(tool, "seeds 3 v 1, 22 speakers", num_lists=30, num_resamples=30, seed_effect=0.5)
    assert rows["EER"].differs <= 0.1
    assert rows["EER"].pairs_given == 1
