"""The figures that a training run watches."""

import numpy as np

from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps
from wespeaker_qm.evaluate.summary import verification_summary


def test_summary_is_the_operating_points():
    rng = np.random.default_rng(0)
    is_target = np.arange(60) < 10
    scores = rng.standard_normal(60) + is_target
    summary = verification_summary(scores, is_target)
    assert summary.eer == equal_error_rate(roc_steps(scores, is_target)).rate
    assert summary.tar_at_far[1e-1] == np.mean(scores[:10] >= np.sort(scores[10:])[-5])
    assert summary.tar_at_far[1e-2] is None  # 50 non-target trials
