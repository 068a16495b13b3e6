"""The few figures that a training run watches."""

from typing import NamedTuple

from numpy.typing import ArrayLike

from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps, tar_at_far

VALIDATION_FARS = (1e-1, 1e-2)
"""A validation list is short; lower rates would not be measurable."""


class VerificationSummary(NamedTuple):
    """Equal error rate, and TAR at each of ``VALIDATION_FARS`` (None where there are too few non-target trials)."""

    eer: float
    tar_at_far: dict[float, float | None]


def verification_summary(scores: ArrayLike, is_target: ArrayLike) -> VerificationSummary:
    """Summarise the scores (N,) of a validation list.

    Raises:
        RecipeError: as :func:`wespeaker_qm.evaluate.operating_points.roc_steps`.
    """
    roc = roc_steps(scores, is_target)
    points = {far: tar_at_far(roc, far) for far in VALIDATION_FARS}
    return VerificationSummary(
        eer=equal_error_rate(roc).rate,
        tar_at_far={far: None if point is None else point.tar for far, point in points.items()},
    )
