"""Thresholds: measured, read from the curve, or none, with the reason."""

import dataclasses

import pytest

from wespeaker_qm.export.contents import Curve, Evidence, Histogram, Threshold
from wespeaker_qm.speaker.decision import check_far, refusal_notes, rests_on, threshold_at
from wespeaker_qm.utils.errors import RecipeError

EVIDENCE = Evidence(
    corpus="voices",
    trial_list="all",
    caveat="",
    num_targets=200,
    num_nontargets=1000,
    num_speakers=12,
    thresholds=[
        Threshold(far=0.1, threshold=1.5, interval=(1.2, 1.9), no_interval=None, tar=0.9),
        Threshold(far=0.01, threshold=2.5, interval=None, no_interval="3 false accepts", tar=0.8),
        Threshold(far=0.0001, threshold=None, interval=None, no_interval="it takes 10,000", tar=None),
    ],
    curve=Curve(threshold=[4.0, 3.0, 2.0, 1.0], far=[0.0, 0.002, 0.03, 1.0], frr=[1.0, 0.5, 0.1, 0.0]),
    histogram=Histogram(edges=[0.0, 1.0], target=[200], nontarget=[1000]),
    bandwidth_hz=None,
)


def test_a_measured_rate_has_its_threshold_and_interval():
    assert threshold_at(EVIDENCE, 0.1) == (1.5, (1.2, 1.9), ())


def test_a_threshold_without_interval_says_why():
    value, interval, (note,) = threshold_at(EVIDENCE, 0.01)
    assert (value, interval) == (2.5, None)
    assert (
        note
        == "the threshold at FAR 0.01 has no interval (3 false accepts): too little to tell how it holds for others"
    )


@pytest.mark.parametrize(("far", "threshold"), [(0.02, 3.0), (0.002, 3.0), (0.001, 4.0), (0.03, 2.0), (0.9999, 2.0)])
def test_between_measured_rates_the_curve_never_accepts_more_than_was_asked_for(far, threshold):
    value, interval, (note,) = threshold_at(EVIDENCE, far)
    assert (value, interval) == (threshold, None)
    assert "read from the curve" in note


@pytest.mark.parametrize("far", [1e-4, 0.000999, 1e-11])
def test_a_rate_below_what_the_trials_can_tell_has_no_threshold(far):
    value, interval, (note,) = threshold_at(EVIDENCE, far)
    assert value is interval is None
    assert note.startswith(f"no threshold: a false-accept rate of {far:g} takes ")
    assert note.endswith("the list all of voices has 1,000")


def test_a_model_without_evidence_has_no_threshold():
    value, interval, (note,) = threshold_at(None, 0.1)
    assert value is interval is None
    assert "exported without scores of a trial list" in note
    assert rests_on(None) == "nothing"


def test_what_it_rests_on():
    expected = "1,000 non-target and 200 target trials of 12 speakers (list all of voices)"
    assert rests_on(EVIDENCE) == expected


@pytest.mark.parametrize("far", [0, 1, -0.1, 2, float("nan")])
def test_what_is_no_rate_is_refused(far):
    for check in (check_far, lambda rate: threshold_at(EVIDENCE, rate)):
        with pytest.raises(RecipeError, match="expected a rate between 1e-12 and 1"):
            check(far)


def test_a_refusal_of_a_score_that_many_pairs_of_one_speaker_have_is_told_to_say_little():
    curve = Curve(threshold=[3.0, 2.0, 1.0], far=[0.0, 0.01, 0.1], frr=[0.9, 0.77, 0.05])
    evidence = dataclasses.replace(EVIDENCE, curve=curve)
    (note,) = refusal_notes(evidence, 3.0, 2.5)
    assert "77 of 100 pairs of one speaker score lower still" in note
    assert refusal_notes(evidence, 3.0, 1.9) == refusal_notes(evidence, 3.0, -4.0) == ()  # hardly anybody
    assert (
        refusal_notes(evidence, 2.5, 2.5) == refusal_notes(None, 3.0, 2.5) == refusal_notes(evidence, None, 2.5) == ()
    )
