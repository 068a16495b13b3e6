"""What is told of a list: thresholds as the evaluation has them, a curve that decides as the list does."""

import numpy as np
import pytest

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.operating_points import roc_steps, tar_at_far
from wespeaker_qm.export.evidence import curve, gather_evidence, histogram
from wespeaker_qm.trials.table import TrialTable


@pytest.fixture
def evidence_of(simulate, tmp_path):
    """Function: evidence of a simulated list, and its scores and labels."""

    def gather(**settings):
        speakers, is_target, scores = simulate(**settings)
        sides = np.arange(2 * len(scores), dtype=np.int32).reshape(2, -1)
        names = [f"u{number}" for number in range(2 * len(scores))]
        trials = TrialTable(tmp_path / "all", names, sides[0], sides[1], is_target)
        info = CorpusInfo(name="simulated", caveat="No voices.", trials={"all": "eval"}, headline="all")
        evidence = gather_evidence(info, trials, scores, speakers, num_resamples=50, seed=0, bandwidth_hz=7000.0)
        return evidence, scores, is_target

    return gather


def test_thresholds_are_those_of_the_evaluation(evidence_of):
    evidence, scores, is_target = evidence_of(num_speakers=60, num_nontargets=2000)
    assert (evidence.num_targets, evidence.num_nontargets, evidence.num_speakers) == (600, 2000, 60)
    assert (evidence.corpus, evidence.trial_list, evidence.caveat) == ("simulated", "all", "No voices.")
    roc = roc_steps(scores, is_target)
    assert [each.far for each in evidence.thresholds] == [0.1, 0.01, 0.001, 0.0001]
    for each in evidence.thresholds[:3]:
        point = tar_at_far(roc, each.far)
        assert (each.threshold, each.tar) == (point.threshold, point.tar)
    first, _, third, last = evidence.thresholds
    assert first.interval[0] < first.threshold < first.interval[1]
    assert first.no_interval is None
    assert third.interval is None
    assert third.no_interval == "2 false accepts"
    assert (last.threshold, last.interval, last.tar) == (None, None, None)
    assert last.no_interval == "it takes 10,000 non-target trials, there are 2,000"


def test_a_list_of_few_speakers_has_thresholds_without_intervals(evidence_of):
    evidence, _, _ = evidence_of(num_speakers=3)
    first = evidence.thresholds[0]
    assert first.threshold is not None
    assert first.interval is None
    assert "intervals and p-values need 5" in first.no_interval


def test_the_curve_has_both_ends_and_decides_nearly_as_the_list(simulate):
    _, is_target, scores = simulate(num_targets=4000, num_nontargets=30_000)
    roc = roc_steps(scores, is_target)
    found = curve(roc)
    assert len(found.threshold) < 450
    assert np.all(np.diff(found.threshold) < 0)
    assert (found.far[0], found.frr[0]) == (0.0, 1.0)
    assert (found.far[-1], found.frr[-1]) == (1.0, 0.0)
    for far in (2e-4, 1e-3, 0.05, 0.3):
        kept = max(rate for rate in found.far if rate <= far)
        assert 0.9 * far <= kept + 1 / 30_000
    for threshold, far, frr in zip(found.threshold, found.far, found.frr, strict=True):
        assert far == pytest.approx((scores[~is_target] >= threshold).mean(), abs=0)
        assert frr == pytest.approx((scores[is_target] < threshold).mean(), abs=1e-15)


def test_a_short_list_has_all_of_its_points():
    scores, is_target = np.array([4.0, 3, 2, 1]), np.array([True, True, False, False])
    assert len(curve(roc_steps(scores, is_target)).threshold) == 5


def test_each_trial_is_in_one_bin(simulate):
    _, is_target, scores = simulate()
    found = histogram(scores, is_target)
    assert (sum(found.target), sum(found.nontarget)) == (600, 1500)
    assert len(found.edges) == len(found.target) + 1
    assert (found.edges[0], found.edges[-1]) == (scores.min(), scores.max())
    assert found.nontarget[0] == (scores[~is_target] < found.edges[1]).sum()
