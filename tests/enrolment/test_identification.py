"""Open-set decisions: the theory by simulation, and thresholds that say what they rest on."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wespeaker_qm.enrolment.identification import comparison_rate, identification_rate, open_set_threshold
from wespeaker_qm.utils.errors import RecipeError


@given(st.floats(1e-6, 0.999), st.integers(1, 10**6))
def test_the_two_rates_are_inverse_and_keep_booles_bound(fpir, num_speakers):
    far = comparison_rate(fpir, num_speakers)
    assert identification_rate(far, num_speakers) == pytest.approx(fpir, rel=1e-6)
    assert fpir <= num_speakers * far * (1 + 1e-9)
    assert far <= fpir * (1 + 1e-9)


def test_rates_by_hand():
    assert identification_rate(0.1, 1) == pytest.approx(0.1)
    assert identification_rate(0.1, 3) == pytest.approx(1 - 0.9**3)
    assert identification_rate(1.0, 3) == 1.0
    assert comparison_rate(1 - 0.9**3, 3) == pytest.approx(0.1)


def strangers(num_tests, num_speakers, *, offset, seed=0):
    """Scores of strangers with everybody; ``offset`` is how much recordings differ in being like everybody."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_tests, num_speakers)) + offset * rng.normal(size=(num_tests, 1))


def rates_at(scores, far):
    """FPIR at the threshold with that FAR over all comparisons."""
    threshold = np.quantile(scores, 1 - far)
    return float((scores >= threshold).any(axis=1).mean())


@pytest.mark.parametrize("num_speakers", [1, 10, 100])
def test_independent_comparisons_follow_the_formula(num_speakers):
    far = comparison_rate(0.1, num_speakers)
    assert rates_at(strangers(20_000, num_speakers, offset=0), far) == pytest.approx(0.1, abs=0.01)


def test_recordings_that_are_like_everybody_make_the_rate_lower_and_normalisation_undoes_it():
    """What the module says of dependence, and of AS-norm."""
    far = comparison_rate(0.1, 100)
    raw = strangers(20_000, 100, offset=1.0)
    assert rates_at(raw, far) < 0.06
    offset, deviation = raw.mean(axis=1, keepdims=True), raw.std(axis=1, keepdims=True)
    assert rates_at((raw - offset) / deviation, far) == pytest.approx(0.1, abs=0.015)


def slow_threshold(evidence, far):
    """The lowest threshold of the list whose rate is at most ``far``."""
    return min(t for t, rate in zip(evidence.curve.threshold, evidence.curve.far, strict=True) if rate <= far)


@pytest.mark.parametrize("num_speakers", [1, 3, 10])
def test_a_rate_that_the_list_measures(evidence_of, num_speakers):
    evidence = evidence_of(1000)
    found = open_set_threshold(evidence, 0.01, num_speakers)
    assert found.is_measured
    assert found.far == comparison_rate(0.01, num_speakers)
    assert found.fpir == pytest.approx(0.01)
    assert found.threshold == slow_threshold(evidence, found.far)
    assert not any("cannot measure" in text for text in found.warnings)


def test_more_speakers_take_a_higher_threshold(evidence_of):
    evidence = evidence_of(10_000)
    thresholds = [open_set_threshold(evidence, 0.05, n).threshold for n in (1, 5, 50, 400)]
    assert thresholds == sorted(set(thresholds))


def test_a_rate_that_the_list_cannot_measure_is_said_to_be_so(evidence_of):
    """1 % of 100,000 takes a rate of 1e-7, and the list has 1,000 trials: most strangers pass for somebody."""
    evidence = evidence_of(1000)
    found = open_set_threshold(evidence, 0.01, 100_000)
    assert not found.is_measured
    assert found.far == 1e-3
    assert found.threshold == slow_threshold(evidence, 1e-3)
    assert found.fpir == pytest.approx(1.0)
    assert found.wanted_fpir == 0.01
    assert "1,000 non-target trials" in found.warnings[0]
    assert "1.0e-07" in found.warnings[0]
    assert "100 % of strangers" in found.warnings[0]
    assert open_set_threshold(evidence, 0.01, 20).fpir == pytest.approx(1 - (1 - 1e-3) ** 20)


def test_the_border_between_measured_and_not(evidence_of):
    evidence = evidence_of(1000)
    assert open_set_threshold(evidence, 1e-3, 1).is_measured
    assert not open_set_threshold(evidence, 1e-3, 2).is_measured


def test_an_exported_threshold_brings_its_interval(evidence_of):
    from wespeaker_qm.export.contents import Threshold

    exact = Threshold(far=0.01, threshold=2.5, interval=(2.0, 3.0), no_interval=None, tar=0.9)
    evidence = dataclasses.replace(evidence_of(1000), thresholds=[exact])
    found = open_set_threshold(evidence, 0.01, 1)
    assert found.threshold == 2.5
    assert found.threshold_interval == (2.0, 3.0)


def test_without_evidence_nothing_is_decided():
    found = open_set_threshold(None, 0.01, 5)
    assert found.threshold is None
    assert not found.is_measured
    assert "no threshold" in found.warnings[0]


@pytest.mark.parametrize("fpir", [0.0, 1.0, -1.0, float("nan"), 2.0])
def test_what_is_no_rate_is_refused(evidence_of, fpir):
    with pytest.raises(RecipeError, match="far: found"):
        open_set_threshold(evidence_of(), fpir, 3)
