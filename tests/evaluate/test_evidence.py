"""What supports an interval: speakers, errors, and rates that so many speakers can show."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.evaluate.bootstrap import SortedTrials, resample
from wespeaker_qm.evaluate.comparison import compare_all
from wespeaker_qm.evaluate.evidence import few_speakers_note, figure_reason, list_reason
from wespeaker_qm.evaluate.figures import figure_named, wanted_figures
from wespeaker_qm.evaluate.intervals import spread
from wespeaker_qm.trials.speakers import EffectiveSpeakers, TrialSpeakers, effective_speakers

WANTED = wanted_figures(fars=(0.1, 0.01), tars=(0.9, 0.999), p_targets=(0.05, 0.001), is_llr=True)


def reasons(simulated, wanted=WANTED):
    speakers, is_target, scores = simulated
    (run,) = resample([SortedTrials.of(scores, is_target, wanted)], speakers, num_resamples=0)
    return {figure.name: figure_reason(figure, run) for figure in wanted}


def test_speakers_count_by_their_shares_of_the_trials():
    sides = np.array([[0, 0], [1, 1], [0, 1], [0, 2], [0, 3]], np.int32)
    speakers = TrialSpeakers(*sides.T, 9)
    is_target = speakers.enrolment == speakers.test
    assert effective_speakers(speakers, is_target) == pytest.approx((2, 6**2 / (9 + 1 + 1 + 1)))
    assert effective_speakers(TrialSpeakers(*np.zeros((2, 1), np.int32), 1), np.ones(1, bool)) == (1, 0)


@pytest.mark.parametrize(("num_speakers", "supported"), [(2, False), (3, False), (4, False), (16, True)])
def test_few_speakers_support_nothing(simulate, num_speakers, supported):
    speakers, is_target, scores = simulate(num_speakers=num_speakers)
    assert (list_reason(effective_speakers(speakers, is_target)) is None) is supported
    runs = resample([SortedTrials.of(scores, is_target)] * 2, speakers, num_resamples=20)
    (comparison,) = compare_all({"a": runs[:1], "b": runs[1:]}, [figure_named("EER")])
    assert (spread(figure_named("EER"), runs[:1]).interval() is not None) is supported
    assert (comparison.p_value is not None) is (comparison.low is not None) is supported
    assert comparison.reason == (None if supported else "too few speakers")


def test_targets_of_two_speakers_are_two_however_many_impostors_there_are(simulate):
    speakers, is_target, _ = simulate(num_speakers=30)
    few = np.where(is_target, speakers.enrolment % 2, speakers.enrolment).astype(np.int32)
    speakers = speakers._replace(enrolment=few, test=np.where(is_target, few, speakers.test).astype(np.int32))
    assert list_reason(effective_speakers(speakers, is_target)) == (
        "target trials are of 2.0 speakers (counted by their shares of them), and intervals and p-values need 5"
    )
    assert list_reason(EffectiveSpeakers(30, 4.4)).startswith("non-target trials are of 4.4 speakers")
    assert list_reason(EffectiveSpeakers(4.9, 4.9)) is None  # five, with nearly equal shares


def test_a_figure_needs_errors_of_both_kinds_and_a_rate_that_its_speakers_can_show(simulate):
    found = reasons(simulate(num_speakers=30, num_targets=3000, num_nontargets=6000))
    supported = {name for name, reason in found.items() if reason is None}
    assert supported >= {"EER", "EER hull", "minCllr", "TAR@FAR 1e-1", "threshold@FAR 1e-1", "FAR@TAR 0.9", "Cllr"}
    assert found["TAR@FAR 1e-2"] == found["threshold@FAR 1e-2"] == "FAR below 1/30"
    assert found["FAR@TAR 0.999"] == "3 misses"
    assert found["minDCF 0.001"].endswith((" false accepts", " false accept"))
    # 3,000 speakers with few trials each: the rate is no fault, the count is
    many = reasons(simulate(num_speakers=3000, num_targets=300, num_nontargets=600))
    assert many["TAR@FAR 1e-2"] == "6 false accepts"


@pytest.mark.parametrize(
    ("num_targets", "num_misses", "num_accepts", "reason"),
    [
        (100, 10, 18, None),  # 10 errors and rates of 1/10: just enough
        (100, 9, 18, "9 misses"),
        (100, 1, 18, "1 miss"),
        (200, 19, 18, "FRR below 1/10"),
        (100, 90, 18, None),  # the accepted ones are the rare ones
        (100, 91, 18, "9 accepted targets"),
        (200, 181, 18, "TAR below 1/10"),
        (20, 10, 18, None),
        (20, 11, 18, "9 accepted targets"),  # the rarer ones, if only just
        (100, 50, 17, "FAR below 1/10"),
        (100, 50, 9, "9 false accepts"),
        (100, 50, 162, None),
        (100, 50, 163, "1 - FAR below 1/10"),
        (100, 50, 179, "1 correct rejection"),
    ],
)
def test_what_is_just_enough(num_targets, num_misses, num_accepts, reason):
    """Ten speakers with equal shares, 180 non-target trials; decisions are made at 0."""
    owner = np.tile(np.arange(10, dtype=np.int32), num_targets // 10)
    one, other = np.nonzero(~np.eye(10, dtype=bool))
    sides = np.stack([np.tile(one, 2), np.tile(other, 2)]).astype(np.int32)
    speakers = TrialSpeakers(*np.concatenate([np.stack([owner, owner]), sides], axis=1), 10)
    scores = np.concatenate([np.arange(num_targets) - num_misses, num_accepts - 1 - np.arange(180)]) + 0.25
    is_target = speakers.enrolment == speakers.test
    wanted = wanted_figures(p_targets=(0.5,), is_llr=True)
    (run,) = resample([SortedTrials.of(scores, is_target, wanted)], speakers, num_resamples=0)
    assert figure_reason(figure_named("actDCF 0.5"), run) == reason
    assert figure_reason(figure_named("Cllr"), run) is None


def test_perfect_separation_is_no_certainty(simulate):
    """An EER of 0 "(0.00 to 0.00)" was printed as sure."""
    speakers, is_target, scores = simulate()
    perfect = SortedTrials.of(scores + 100 * is_target, is_target, WANTED)
    (run,) = resample([perfect], speakers, num_resamples=20)
    assert run.estimate(figure_named("EER")) == 0
    for name in ("EER", "EER hull", "minCllr", "minDCF 0.05", "FAR@TAR 0.9", "TAR@FAR 1e-1"):
        assert spread(figure_named(name), [run]).interval() is None, name
    assert spread(figure_named("EER"), [run]).reason == "0 false accepts"


def test_all_scores_tied_and_one_target(simulate):
    speakers, is_target, scores = simulate()
    (tied,) = resample([SortedTrials.of(np.zeros(len(scores)), is_target)], speakers, num_resamples=20)
    assert spread(figure_named("EER"), [tied]).interval() is None
    one = is_target & (np.cumsum(is_target) == 1)
    assert list_reason(effective_speakers(speakers, one)).startswith("target trials are of 1.0 speakers")
    # a difference of a system from itself is none, but only where the figure says something at all
    assert spread(figure_named("EER"), [tied], [tied]).p_value() is None


def test_trials_drawn_need_errors_only(simulate):
    _, is_target, scores = simulate(num_speakers=3)
    (run,) = resample([SortedTrials.of(scores, is_target)], None, num_resamples=50)
    assert spread(figure_named("EER"), [run]).interval() is not None
    assert spread(figure_named("minDCF 0.001"), [run]).interval() is None


@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_fewer_than_ten_errors_are_counted_in_words(count):
    """Of 100 non-target and 100 target trials, drawn one by one; scores at the threshold are accepted."""
    words = "false accept" if count == 1 else "false accepts"
    nontargets = np.where(np.arange(100) < count, 2.0, 0.0)
    targets = np.repeat([2.0, -1.0], 50)
    scores, is_target = np.concatenate([targets, nontargets]), np.arange(200) < 100
    far = count / 100
    (run,) = resample([SortedTrials.of(scores, is_target, wanted_figures(fars=(far,)))], None, num_resamples=0)
    assert figure_reason(figure_named(f"TAR@FAR {far!r}"), run) == (None if count == 10 else f"{count} {words}")
    # The same turned round: targets below, of which so many are missed, or so few accepted.
    for few, words in ((count, "miss" if count == 1 else "misses"),
                       (100 - count, "accepted target" if count == 1 else "accepted targets")):  # fmt: skip
        targets = np.where(np.arange(100) < few, 0.0, 2.0)
        scores = np.concatenate([targets, np.repeat([0.5, 2.0], 50)])
        (run,) = resample([SortedTrials.of(scores, is_target, wanted_figures(fars=(0.5,)))], None, num_resamples=0)
        assert figure_reason(figure_named("TAR@FAR 0.5"), run) == (None if count == 10 else f"{count} {words}")
        assert figure_reason(figure_named("threshold@FAR 0.5"), run) is None, "a threshold at a FAR needs no targets"


@pytest.fixture
def files(tmp_path, monkeypatch, simulate):
    """Function: two systems' score files of some speakers, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(num_speakers):
        speakers, is_target, scores = simulate(num_speakers=num_speakers, num_targets=400, num_nontargets=900)
        for name, shift in (("a", 0.0), ("b", 0.3)):
            lines = [
                f"s{one}/{trial}-e s{two}/{trial}-t {score + shift * target} {'target' if target else 'nontarget'}\n"
                for trial, (one, two, score, target) in enumerate(
                    zip(speakers.enrolment, speakers.test, scores, is_target, strict=True)
                )
            ]
            Path(f"{name}.score").write_text("".join(lines))

    return write


def test_compare_gives_three_speakers_neither_interval_nor_p_value(files, capsys):
    """It took any number of speakers, and found "p 0.025" between two of three."""
    files(3)
    systems = ["a=a.score", "b=b.score"]
    assert main(["compare", *systems, "--num_resamples", "50", "--json", "c.json"]) == 0
    shown = capsys.readouterr().out
    assert "No intervals and no p-values: target trials are of 3.0 speakers" in shown
    assert "| none: too few speakers |" in shown
    for each in json.loads(Path("c.json").read_text()):
        assert each["low"] is each["high"] is each["p_value"] is each["p_holm"] is None
        assert each["reason"] == "too few speakers"
    assert main(["metrics", "a.score", "--num_resamples", "50", "--json", "m.json"]) == 0
    assert "No intervals: target trials are of 3.0 speakers" in capsys.readouterr().out
    content = json.loads(Path("m.json").read_text())
    assert content["resampling"] is None
    assert content["no_intervals"].startswith("target trials are of 3.0 speakers")
    assert main(["threshold", "a.score", "--far", "0.1", "--num_resamples", "50"]) == 0
    assert "No intervals: target trials are of 3.0 speakers" in capsys.readouterr().out


def test_programs_say_at_the_figure_why_it_has_no_interval(files, capsys):
    files(20)
    options = ["--num_resamples", "50", "--far", "0.1", "0.01"]
    assert main(["metrics", "a.score", "b.score", *options, "--json", "m.json"]) == 0
    shown = capsys.readouterr().out
    assert " (no interval: 9 false accepts)" in shown
    content = json.loads(Path("m.json").read_text())
    system = content["systems"]["a.score"]
    assert system["intervals"]["TAR@FAR 1e-2"] is None
    assert system["no_interval"]["TAR@FAR 1e-2"] == "9 false accepts"
    assert len(system["intervals"]["EER"]) == 2
    by_figure = {each["figure"]: each for each in content["comparisons"]}
    assert by_figure["EER"]["p_value"] < 0.05
    assert by_figure["TAR@FAR 1e-2"]["p_value"] is None
    assert main(["threshold", "a.score", *options]) == 0
    assert capsys.readouterr().out.count("(no interval: 9 false accepts)") == 2


@pytest.mark.parametrize(("scatter", "reason"), [(0.0, None), (0.42, None), (0.45, "FAR below 1/990")])
def test_voxceleb1_h_has_an_interval_at_far_1e_3_if_its_trials_are_spread_evenly(scatter, reason):
    """1,190 speakers, of whom half have ``1 - scatter`` and half ``1 + scatter`` times the mean number of trials."""
    counts = np.repeat([1 - scatter, 1 + scatter], 595)
    effective = EffectiveSpeakers(1190.0, float(counts.sum() ** 2 / (counts**2).sum()))
    num_nontargets, num_accepted = 275_000, 275
    scores = np.concatenate([np.full(20_000, 2.0), np.full(num_accepted, 2.0), np.zeros(num_nontargets - num_accepted)])
    is_target = np.arange(len(scores)) < 20_000
    scores[:5_000] = 0.0
    (run,) = resample([SortedTrials.of(scores, is_target, wanted_figures(fars=(1e-3,)))], None, num_resamples=0)
    run = dataclasses.replace(run, effective=effective)
    assert figure_reason(figure_named("TAR@FAR 1e-3"), run) == reason


def test_a_list_of_too_few_speakers_has_a_note_with_what_helps():
    enough, few = EffectiveSpeakers(5.0, 5.0), EffectiveSpeakers(5.0, 4.4)
    assert few_speakers_note("all", enough) is None
    assert few_speakers_note("valid", enough, is_fitted=True) is None
    note, fitted = few_speakers_note("all", few), few_speakers_note("valid", few, is_fitted=True)
    assert note is not None and fitted is not None
    assert "List all: too few speakers" in note and "4.4 speakers" in note and "--eval_speakers" in note
    assert "List valid, on which the calibration was fitted: too few" in fitted and "--valid_speakers" in fitted
