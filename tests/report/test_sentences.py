"""What the reports say first is true in every case, and claims no more than the intervals do."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wespeaker_qm.evaluate.comparison import Comparison
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import EER, TAR_AT_FAR, THRESHOLD_AT_FAR, wanted_figures
from wespeaker_qm.evaluate.metrics import evaluate_systems, system_result
from wespeaker_qm.evaluate.operating_points import EqualErrorRate, OperatingPoint
from wespeaker_qm.evaluate.results import ListResult, Resampling, SystemResult
from wespeaker_qm.report.sentences import (
    WANTED_FARS,
    beside_baselines,
    how_well,
    out_of,
    plain_sentences,
    thresholds,
    weakest,
)
from wespeaker_qm.report.table5_figures import LossFigures, LossList
from wespeaker_qm.report.table5_sentences import table5_sentences
from wespeaker_qm.trials.speakers import trial_speakers
from wespeaker_qm.trials.table import TrialTable

EER_ = Figure(EER)
LTAS = {"ltas": Path("exp/mini/ltas")}
OTHER = {"x": Path("ltas"), "y": Path("elsewhere/y")}


def system(eer, interval=None, reason=None, points=None, threshold_intervals=None, threshold_reasons=None):
    """Of an EER, and of (threshold, TAR, false accepts) or None at each FAR."""
    readings = {EER_: EqualErrorRate(eer, 0.5)}
    for far, point in (points or {}).items():
        found = None if point is None else OperatingPoint(point[0], far, point[1], point[2])
        readings[Figure(TAR_AT_FAR, far)] = readings[Figure(THRESHOLD_AT_FAR, far)] = found
    intervals = {} if interval is None else {EER_: interval}
    intervals |= {Figure(THRESHOLD_AT_FAR, far): ends for far, ends in (threshold_intervals or {}).items()}
    reasons = {} if reason is None else {EER_: reason}
    reasons |= {Figure(THRESHOLD_AT_FAR, far): why for far, why in (threshold_reasons or {}).items()}
    return SystemResult(None, readings, intervals, reasons, None)


def a_list(systems, comparisons=(), *, resampled=True, no_intervals=None, nontargets=4819, speakers=22):
    return ListResult(
        num_targets=4980,
        num_nontargets=nontargets,
        num_utterances=435,
        num_speakers=speakers,
        systems=systems,
        resampling=Resampling("speaker", 1000, 0) if resampled and no_intervals is None else None,
        no_intervals=no_intervals,
        comparisons=list(comparisons),
    )


def compared(two, difference, interval=None, p_value=None, reason=None):
    """``two`` less the run."""
    low, high = interval or (None, None)
    return Comparison(EER_, "trained", two, difference, low, high, p_value, 1.0, reason)


def test_how_well_is_counts_with_the_interval_of_other_speakers():
    result = a_list({"trained": system(0.1282, (0.09, 0.173)), "asnorm": system(0.112), "calibrated": system(0.112)})
    assert how_well("net", "near", result) == (
        "On list near, net judges 13 of 100 pairs of recordings wrongly, as often where one speaker speaks as where "
        "two do (equal error rate 12.82 %, for other speakers 9.00 to 17.30 %). With normalised scores (asnorm) the "
        "rate is 11.20 %."
    )


def test_without_an_interval_nothing_is_said_of_other_speakers():
    text = how_well("net", "near", a_list({"trained": system(0.1)}, resampled=False))
    assert text.endswith("(equal error rate 10.00 %). Of other speakers nothing is said: no intervals were asked for.")
    text = how_well("net", "near", a_list({"trained": system(0.1)}, no_intervals="target trials are of 2.0 speakers"))
    assert text.endswith(
        "(equal error rate 10.00 %). Of other speakers nothing is said: target trials are of 2.0 speakers."
    )
    text = how_well("net", "near", a_list({"trained": system(0.001, reason="3 misses")}))
    assert text.endswith("(equal error rate 0.10 %). That is too little to tell of other speakers: 3 misses.")
    assert "10 of 10,000 pairs" in text


@pytest.mark.parametrize(("rate", "interval"), [(0.3, (0.1, 0.5)), (0.3, (0.1, 0.6)), (0.5, None), (0.7, (0.6, 0.8))])
def test_what_may_be_guessing_is_said_to_be_so(rate, interval):
    assert "That it does better than guessing (50 %) is not shown." in how_well(
        "net", "near", a_list({"trained": system(rate, interval)})
    )


def test_what_is_not_guessing_is_not():
    assert "guessing" not in how_well("net", "near", a_list({"trained": system(0.3, (0.1, 0.49))}))
    assert "guessing" not in how_well("net", "near", a_list({"trained": system(0.49)}, resampled=False))


def test_no_error_is_no_promise():
    text = how_well("net", "near", a_list({"trained": system(0.0, reason="0 misses")}))
    assert text == (
        "net makes no error on list near: all 4,980 pairs of recordings of one speaker score above all 4,819 pairs of "
        "two. How rare its errors are, that cannot tell. That is too little to tell of other speakers: 0 misses."
    )


@pytest.mark.parametrize(
    ("difference", "interval", "p_value", "expected"),
    [
        (0.02, (0.01, 0.03), 0.01, "It errs less often than x (12.00 %), by 2.00 points; that is sure (1.00 to 3.00 "),
        (
            -0.02,
            (-0.03, -0.01),
            0.01,
            "It errs more often than x (8.00 %), by 2.00 points; that is sure (1.00 to 3.00 ",
        ),
        (
            0.02,
            (-0.01, 0.05),
            0.2,
            "Whether it errs more or less often than x (12.00 %) is open: 2.00 points less here (-",
        ),
        (-0.02, (-0.05, 0.01), 0.2, "is open: 2.00 points more here (-1.00 to 5.00 for other speakers, p 0.200)."),
        (0.02, (0.0, 0.04), 0.04, "is open: 2.00 points less here (0.00 to 4.00 for other speakers, p 0.040)."),
        (0.02, (0.001, 0.039), 0.06, "is open: 2.00 points less here (0.10 to 3.90 for other speakers, p 0.060)."),
        (0.0, (-0.01, 0.01), 1.0, "is open: as often here (-1.00 to 1.00 for other speakers, p 1.000)."),
        (
            0.02,
            None,
            0.01,
            "It errs less often than x (12.00 %), by 2.00 points here; that is sure, by how much it does with other "
            "speakers is not (p 0.010; FRR below 1/7).",
        ),
        (0.02, None, 0.06, "(12.00 %) is open: 2.00 points less here (p 0.060; FRR below 1/7)."),
    ],
)
def test_a_baseline_is_better_or_worse_only_where_interval_and_p_value_say_so(difference, interval, p_value, expected):
    systems = {"trained": system(0.1), "x": system(0.1 + difference)}
    reason = None if interval else "FRR below 1/7"
    result = a_list(systems, [compared("x", difference, interval, p_value, reason)])
    text = beside_baselines(result, {"x": Path("x")})
    assert expected in text
    assert ("that is sure" in text) == (" sure" in expected)


def test_p_values_are_corrected_for_all_baselines_of_the_sentence():
    systems = {"trained": system(0.1), "x": system(0.13), "y": system(0.14)}
    comparisons = [compared("x", 0.03, (0.01, 0.05), 0.03), compared("y", 0.04, (0.01, 0.07), 0.03)]
    text = beside_baselines(a_list(systems, comparisons), OTHER)
    assert text.count("is open") == 2
    assert text.count("p 0.060") == 2
    text = beside_baselines(a_list(systems, comparisons[:1]), {"x": Path("x")})
    assert "that is sure (1.00 to 5.00 for other speakers, p 0.030)" in text


def test_what_could_not_be_compared_is_only_told():
    systems = {"trained": system(0.1), "x": system(0.12), "y": system(0.1)}
    text = beside_baselines(a_list(systems, resampled=False), OTHER)
    assert text == "Here it errs 2.00 points less often than x (12.00 %). Here it errs as often as y (10.00 %)."
    comparisons = [compared("x", 0.02, reason="3 misses"), compared("y", 0.0, reason="3 misses")]
    text = beside_baselines(a_list(systems, comparisons), OTHER)
    assert text.startswith(
        "Whether it errs more or less often than x (12.00 %) is open: 2.00 points less here (3 misses)."
    )
    assert "sure" not in text
    assert beside_baselines(a_list(systems), {}) == "It was compared with no baseline."


def test_a_baseline_is_described_only_if_the_recipe_made_it():
    result = a_list({"trained": system(0.1), "ltas": system(0.2)}, resampled=False)
    assert "ltas (an average spectrum, which knows nothing of voices; 20.00 %)" in beside_baselines(result, LTAS)
    assert "ltas (20.00 %)" in beside_baselines(result, {"ltas": Path("exp/my_best_network")})


def test_thresholds_with_what_they_rest_on():
    points = {1e-2: (0.963086, 0.0894, 48), 1e-3: (0.98645, 0.0112, 4)}
    sure = system(0.1, points=points, threshold_intervals={1e-2: (0.9354, 0.9782), 1e-3: (0.98, 0.99)})
    assert thresholds(a_list({"trained": sure})) == (
        "A threshold of about 0.9631 (0.9354 to 0.9782) for its scores accepts at most 1 in 100 pairs of two speakers, "
        "and 9 of 100 pairs of one speaker; one of about 0.9865 (0.98 to 0.99) at most 1 in 1,000, and 11 of 1,000. "
        "They rest on 48 and 4 falsely accepted of 4,819 pairs by 22 speakers."
    )
    one = system(
        0.1, points=points, threshold_intervals={1e-2: (0.93, 0.97)}, threshold_reasons={1e-3: "4 false accepts"}
    )
    assert thresholds(a_list({"trained": one})).endswith(
        "pairs by 22 speakers, too few for 1 in 1,000 to tell of other speakers."
    )
    none = system(0.1, points=points, threshold_reasons=dict.fromkeys(WANTED_FARS, "too few"))
    assert thresholds(a_list({"trained": none}, speakers=None)).endswith(
        "of 4,819 pairs, too few to tell of other speakers."
    )
    plain = system(0.1, points=points)
    assert thresholds(a_list({"trained": plain}, resampled=False)).endswith("of 4,819 pairs by 22 speakers.")


def test_a_threshold_that_the_list_cannot_tell():
    some = system(0.1, points={1e-2: (0.9, 0.5, 3), 1e-3: None})
    assert thresholds(a_list({"trained": some}, nontargets=400)).endswith(
        "That rests on 3 falsely accepted of 400 pairs by 22 speakers. A threshold for 1 in 1,000 this list cannot "
        "tell: that takes 1,000 pairs of two speakers, and it has 400."
    )
    none = system(0.1, points={1e-2: None, 1e-3: None})
    assert thresholds(a_list({"trained": none}, nontargets=40)) == (
        "A threshold for 1 in 100 or 1 in 1,000 this list cannot tell: that takes 100 or 1,000 pairs of two speakers, "
        "and it has 40 by 22 speakers."
    )


def test_the_hardest_list_is_the_one_with_the_highest_rate():
    near, far = a_list({"trained": system(0.1)}), a_list({"trained": system(0.2, (0.15, 0.25))})
    assert weakest({"near": near, "far": far}, "near", {}).startswith(
        "The hardest list is far: equal error rate 20.00 %, for other speakers 15.00 to 25.00 %."
    )
    lists = {"near": near, "far": far, "third": a_list({"trained": system(0.15)})}
    assert weakest(lists, "far", {}).startswith(
        "Of 3 lists far is the hardest: elsewhere the equal error rate is 10.00 to 15.00 %."
    )
    assert "10.00 %" in weakest({"near": near, "far": far}, "far", {})
    for same in ({"near": near}, {"near": near, "other": near}):
        assert "hardest" not in weakest(same, "near", {})


def test_a_baseline_that_is_surely_better_on_another_list_is_named():
    near = a_list({"trained": system(0.1), "ltas": system(0.12)})
    far = a_list({"trained": system(0.08), "ltas": system(0.03)}, [compared("ltas", -0.05, (-0.08, -0.02), 0.001)])
    text = weakest({"near": near, "far": far}, "near", LTAS)
    assert (
        "On list far it errs more often than ltas (3.00 %), by 5.00 points; that is sure (2.00 to 8.00 for other "
        "speakers, p 0.001)."
    ) in text
    open_ = a_list({"trained": system(0.08), "ltas": system(0.03)}, [compared("ltas", -0.05, (-0.11, 0.01), 0.1)])
    assert "ltas" not in weakest({"near": near, "far": open_}, "near", LTAS)
    better = a_list({"trained": system(0.03), "ltas": system(0.08)}, [compared("ltas", 0.05, (0.02, 0.08), 0.001)])
    assert "ltas" not in weakest({"near": near, "far": better}, "near", LTAS)


def test_what_the_list_is_too_short_for_is_said_once():
    one = a_list({"trained": system(0.1)})
    assert weakest({"near": one}, "near", {}) == (
        "What it does at 1 in 10,000 list near cannot tell: that takes 10,000 pairs of two speakers."
    )
    short = a_list({"trained": system(0.1)}, nontargets=400)
    assert weakest({"near": short}, "near", {}) == "", "the threshold for 1 in 1,000 is missed already"
    long = a_list({"trained": system(0.1, points={1e-5: (0.9, 0.7208, 5)})}, nontargets=550_894)
    assert weakest({"near": long}, "near", {}) == (
        "Where it accepts at most 1 in 100,000 pairs of two speakers, it accepts 72 of 100 of one."
    )


@given(st.floats(0, 1))
def test_counts_are_within_a_quarter_of_the_rate(rate):
    count, whole = (int(part.replace(",", "")) for part in out_of(rate).split(" of "))
    assert 0 <= count <= whole <= 100_000
    if 2e-5 <= rate <= 1 - 2e-5:
        assert abs(count / whole - rate) <= 0.5 / whole + 1e-12
        assert abs(count - rate * whole) <= 0.26 * min(rate, 1 - rate) * whole + 1e-9


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_every_list_gets_sentences(num_targets, num_nontargets, seed):
    is_target = np.arange(num_targets + num_nontargets) < num_targets
    scores = np.random.default_rng(seed).integers(0, 9, len(is_target)).astype(np.float64)
    result = a_list(
        {"trained": system_result(scores, is_target, wanted_figures())}, resampled=False, nontargets=num_nontargets
    )
    texts = plain_sentences("net", {"near": result}, "near", {})
    assert 2 <= len(texts) <= 4
    for text in texts:
        assert text.endswith(".") and "nan" not in text and "None" not in text and "  " not in text
        assert "sure" not in text


NAMES = {"a": "ArcFace", "b": "CosFace", "c": "Q-Margin"}


def pair(one, two, difference, p_holm):
    return Comparison(EER_, one, two, difference, None, None, p_holm, p_holm)


def losses(rates, pairs=(), resampled=True):
    """What losses of these equal error rates, one a seed, achieved on a list."""
    of_loss = {
        run: LossFigures(roc=None, values={EER_: list(map(float, np.atleast_1d(values)))}, sureness={})
        for run, values in rates.items()
    }
    return LossList(a_list({}, pairs, resampled=resampled), of_loss)


def test_table_5_tells_an_order_and_whether_it_may_be_chance():
    rates = {"a": 0.13, "b": 0.12, "c": 0.11}
    pairs = [pair("a", "b", -0.01, 0.9), pair("a", "c", -0.02, 0.04), pair("b", "c", -0.01, None)]
    first, second = table5_sentences(NAMES, {"near": losses(rates, pairs)})
    order = "On list near, Q-Margin errs least of 3 losses (equal error rate 11.00 %) and ArcFace most (13.00 %). "
    assert first == (
        f"{order}Of the 2 of 3 pairs that these trials can test 1 differs for sure: Q-Margin errs less than ArcFace."
    )
    assert second.startswith("Each loss was trained once: ")
    first, _ = table5_sentences(NAMES, {"near": losses(rates, pairs[:1])})
    assert first.startswith(f"{order}No two differ for sure (p below 0.05 for none of 1 pair")
    first, _ = table5_sentences(NAMES, {"near": losses(rates, pairs[2:])})
    assert first == f"{order}Whether any two differ for other speakers these trials cannot tell."
    first, _ = table5_sentences(NAMES, {"near": losses(rates, resampled=False)})
    assert first.startswith(order)
    assert first.endswith("not known: no intervals were asked for.")


def test_table_5_of_several_lists_and_seeds():
    near, clean = losses({"a": [0.1, 0.3], "b": [0.2, 0.21]}), losses({"a": [0.1, 0.1], "b": [0.3, 0.1]})
    first, second, third = table5_sentences({"a": "A", "b": "B"}, {"near": near, "clean": clean})
    assert first.startswith("On list near, A errs least of 2 losses (equal error rate 20.00 %) and B most (20.50 %). ")
    assert second.startswith(
        "On list clean, A errs least of 2 losses (equal error rate 10.00 %) and B most (20.00 %). "
    )
    assert third == "Figures are means over 2 seeds, and what is said of other speakers allows for other seeds."


def test_table_5_of_few_rows():
    assert table5_sentences(NAMES, {"near": losses({"a": 0.13})}) == [
        "On list near, ArcFace has an equal error rate of 13.00 %; of 3 losses no other was trained here."
    ]
    first, *_ = table5_sentences(NAMES, {"near": losses({"a": 0.0, "b": 0.0})})
    assert first.startswith("On list near, all of 2 of 3 losses have the same equal error rate, 0.00 %. ")


def told_to_be_sure(num_lists, quality):
    """In how many simulated lists the sentences call a difference sure; the run's quality is 2, that of both others."""
    speaker = np.repeat(np.arange(14), 4)
    enrolment, test = (side.astype(np.int32) for side in np.triu_indices(len(speaker), 1))
    names = [f"u{number}" for number in range(len(speaker))]
    trials = TrialTable(Path("list"), names, enrolment, test, speaker[enrolment] == speaker[test])
    speakers = trial_speakers(trials, dict(zip(names, map(str, speaker), strict=True)))
    num_sure = 0
    for seed in range(num_lists):
        rng = np.random.default_rng(seed)
        scores = {}
        for name, own in (("trained", 2.0), ("ltas", quality), ("untrained", quality)):
            points = own * rng.normal(size=(14, 6))[speaker] + rng.normal(size=(len(speaker), 6)) * 1.5
            points /= np.linalg.norm(points, axis=1, keepdims=True)
            scores[name] = np.sum(points[enrolment] * points[test], axis=1)
        wanted = dict.fromkeys(scores, (EER_,))
        resampling = Resampling("speaker", 80, seed)
        result = evaluate_systems(trials, scores, wanted, speakers, resampling=resampling)
        baselines = {name: Path(name) for name in ("ltas", "untrained")}
        num_sure += "that is sure" in beside_baselines(result, baselines)
    return num_sure


def test_what_is_called_sure_is_so_in_simulated_lists():
    """Of runs as good as both baselines at most one in twenty is called better or worse; of better ones most are."""
    assert told_to_be_sure(40, 2.0) <= 5  # 2 expected of 40; more than 5 by chance in one of 70
    assert told_to_be_sure(10, 0.5) >= 8
