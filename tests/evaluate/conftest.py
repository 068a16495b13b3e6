"""Simulated scores, for tests of what is made of scores."""

import numpy as np
import pytest

from wespeaker_qm.evaluate.trial_speakers import TrialSpeakers


@pytest.fixture(scope="session")
def simulate():
    """Function: a trial list with speaker effects."""
    return _simulate


def _simulate(num_speakers=30, num_targets=600, num_nontargets=1500, *, effect=0.5, distance=2.5, seed=0, digits=None):
    """Speakers, labels (N,) and scores (N,); ``digits`` rounds the scores, which makes ties."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(num_speakers, size=num_targets)
    one = rng.integers(num_speakers, size=num_nontargets)
    other = (one + rng.integers(1, num_speakers, size=num_nontargets)) % num_speakers
    speakers = TrialSpeakers(
        np.concatenate([owner, one]).astype(np.int32), np.concatenate([owner, other]).astype(np.int32), num_speakers
    )
    is_target = np.arange(num_targets + num_nontargets) < num_targets
    u, v = effect * rng.standard_normal((2, num_speakers))
    scores = np.where(
        is_target, distance + v[speakers.enrolment], u[speakers.enrolment] + u[speakers.test]
    ) + rng.standard_normal(len(is_target))
    return speakers, is_target, scores if digits is None else scores.round(digits)
