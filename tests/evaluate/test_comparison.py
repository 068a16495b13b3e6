"""All pairs of systems, and the correction for their number."""

import pytest

from wespeaker_qm.evaluate.bootstrap import SortedTrials, resample
from wespeaker_qm.evaluate.comparison import compare_all, holm
from wespeaker_qm.evaluate.figures import figure_named
from wespeaker_qm.evaluate.intervals import spread


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_every_pair_has_the_interval_of_its_difference_and_a_p_value_corrected_within_its_figure(simulate):
    speakers, is_target, scores = simulate(num_speakers=60, num_targets=2000, num_nontargets=3000)
    shifts = {"a": 0.0, "b": 0.1, "c": 0.4}
    results = resample([SortedTrials.of(scores + shift * is_target, is_target) for shift in shifts.values()], speakers,
                       num_resamples=60)  # fmt: skip
    systems = {name: [run] for name, run in zip(shifts, results, strict=True)}
    names = ("EER", "TAR@FAR 1e-1", "TAR@FAR 1e-5")
    found = compare_all(systems, map(figure_named, names))
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(each.figure.name, each.one, each.two) for each in found] == [
        (name, *pair) for name in names for pair in pairs
    ]
    for each in found[:6]:
        alone = spread(each.figure, systems[each.two], systems[each.one])
        assert (each.difference, each.p_value) == (alone.estimate, alone.p_value())
        assert (each.low, each.high) == alone.interval()
        assert each.reason is None
        # The farther apart, the better: lower EER, higher TAR.
        assert (each.difference < 0) == (each.figure.name == "EER")
    for first in (0, 3):
        figure = found[first : first + 3]
        assert [each.p_holm for each in figure] == holm([each.p_value for each in figure])
    for each in found[6:]:  # 3,000 trials cannot show 1e-5
        assert (each.low, each.high, each.p_value, each.p_holm) == (None,) * 4
        assert each.reason is not None


def test_a_system_that_errs_too_rarely_to_tell_how_rarely_is_told_from_one_that_errs_often(simulate):
    """Were they equal, which is what p supposes, the evidence of the one would be that of the other."""
    speakers, is_target, scores = simulate(num_speakers=10, effect=0.2)
    moved = (-1.0, 1.0, 1.2)  # the first errs in a tenth of its trials and more, the others in less
    runs = resample([SortedTrials.of(scores + by * is_target, is_target) for by in moved], speakers, num_resamples=200)
    systems = {name: [run] for name, run in zip(("often", "rarely", "as_rarely"), runs, strict=True)}
    eer = figure_named("EER")
    assert [spread(eer, [run]).interval() is None for run in runs] == [False, True, True]
    found = {(each.one, each.two): each for each in compare_all(systems, [eer])}
    for pair in (("often", "rarely"), ("often", "as_rarely")):
        assert (found[pair].low, found[pair].high) == (None, None)
        assert found[pair].reason.endswith("below 1/10")
        assert 0 < found[pair].p_value <= found[pair].p_holm < 0.01
        back = spread(eer, systems[pair[0]], systems[pair[1]])
        assert back.p_value() == found[pair].p_value
        assert back.interval() is None
    untold = found["rarely", "as_rarely"]
    assert (untold.low, untold.high, untold.p_value, untold.p_holm) == (None,) * 4
    assert spread(eer, systems["rarely"]).p_value() is None


def test_of_several_runs_each_has_the_evidence_or_their_side_has_none(simulate):
    speakers, is_target, scores = simulate(num_speakers=10, effect=0.2)
    moved = (-1.0, -0.9, 1.0, 1.1)
    runs = resample([SortedTrials.of(scores + by * is_target, is_target) for by in moved], speakers, num_resamples=50)
    eer = figure_named("EER")
    assert spread(eer, runs[2:], runs[:2]).p_value() < 0.05
    assert spread(eer, runs[2:], [runs[0], runs[2]]).p_value() is None
