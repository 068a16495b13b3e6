"""From a score to a decision at a stated false-accept rate, and what that rests on."""

import dataclasses
from typing import NamedTuple

from wespeaker_qm.evaluate.operating_points import is_measurable, trials_to_measure
from wespeaker_qm.export.contents import Evidence
from wespeaker_qm.utils.errors import RecipeError, counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether two recordings are of one speaker."""

    score: float
    """Normalised cosine, as stages 5 and 6 score; the higher, the more alike."""
    cosine: float
    """The plain one, of embeddings less the training mean, in [-1, 1]."""
    llr: float | None
    """Natural log-likelihood ratio of one speaker to two; None where the model has no calibration."""
    same: bool | None
    """Whether the score is at least the threshold; None where there is no threshold."""
    threshold: float | None
    """None where the model's list cannot tell the rate; ``warnings`` has the reason."""
    threshold_interval: tuple[float, float] | None
    """95 %, for other speakers of this kind; None where it is not known."""
    far: float
    """The false-accept rate that was asked for."""
    rests_on: str
    """The trials and speakers that the threshold was measured on, in words."""
    warnings: tuple[str, ...]
    """What a reader must know, a sentence each."""
    seconds_of_speech: tuple[float, float]
    """Found in each recording, by energy."""


class DecisionThreshold(NamedTuple):
    """Where to decide, and how sure that is."""

    value: float | None
    interval: tuple[float, float] | None
    notes: tuple[str, ...]
    """Why there is none of either, a sentence each."""


NO_EVIDENCE = (
    "no threshold: the model was exported without scores of a trial list, so nothing tells its false-accept rates; "
    "score a list and export again (run.sh --stage 5), or import the network with a list (wespeaker-qm import --trials)"
)


_MANY_LOWER = 0.1
"""Share of the pairs of one speaker that score lower than one that is refused."""


def check_far(far: float) -> None:
    """Refuse what is no rate.

    Raises:
        RecipeError: it is not between 1e-12 (of more trials than can be) and 1.
    """
    if not 1e-12 < far < 1:
        raise RecipeError(f"far: found {far}, expected a rate between 1e-12 and 1, such as 1e-3")


def threshold_at(evidence: Evidence | None, far: float) -> DecisionThreshold:
    """The threshold of a false-accept rate.

    A rate that was measured at export has its threshold and interval. Any other is read from the curve of the list:
    the lowest threshold there whose rate is at most this one, which has no interval. A rate that is below one in so
    many non-target trials has no threshold at all: nothing was measured that could tell it.

    Args:
        evidence: of the model; None where it has none.
        far: wanted, between 0 and 1.

    Raises:
        RecipeError: as :func:`check_far`.
    """
    check_far(far)
    if evidence is None:
        return DecisionThreshold(None, None, (NO_EVIDENCE,))
    if not is_measurable(far, evidence.num_nontargets):
        return DecisionThreshold(
            None,
            None,
            (
                f"no threshold: a false-accept rate of {far:g} takes {trials_to_measure(far):,} non-target trials, "
                f"the list {evidence.trial_list} of {evidence.corpus} has {evidence.num_nontargets:,}",
            ),
        )
    for each in evidence.thresholds:
        if each.far == far and each.threshold is not None:
            reason = each.no_interval or "none were made"
            alone = (
                f"the threshold at FAR {far:g} has no interval ({reason}): too little to tell how it holds for others"
            )
            notes = () if each.interval else (alone,)
            return DecisionThreshold(each.threshold, each.interval, notes)
    points = zip(evidence.curve.threshold, evidence.curve.far, strict=True)
    value = min(threshold for threshold, rate in points if rate <= far)
    note = f"the threshold at FAR {far:.3g} is read from the curve of the list, and has no interval"
    return DecisionThreshold(value, None, (note,))


def refusal_notes(evidence: Evidence | None, threshold: float | None, score: float) -> tuple[str, ...]:
    """How little it says that a score is refused, where many pairs of one speaker score no higher.

    Args:
        evidence: of the model; None where it has none.
        threshold: of the decision; None where it has none.
        score: that was decided on.

    Returns:
        A sentence, or none where the score is accepted, or hardly any pair of one speaker scores as low.
    """
    if evidence is None or threshold is None or score >= threshold:
        return ()
    points = zip(evidence.curve.threshold, evidence.curve.frr, strict=True)
    lower = max((rate for value, rate in points if value <= score), default=0.0)
    if lower < _MANY_LOWER:
        return ()
    return (
        f"that it is refused says little: on that list {100 * lower:.0f} of 100 pairs of one speaker score lower "
        "still; at a larger FAR fewer are refused",
    )


def rests_on(evidence: Evidence | None) -> str:
    """The trials and speakers of a threshold, in words.

    Args:
        evidence: of the model; None where it has none.
    """
    if evidence is None:
        return "nothing"
    speakers = "unknown" if evidence.num_speakers is None else evidence.num_speakers
    return (
        f"{evidence.num_nontargets:,} non-target and "
        f"{counted(evidence.num_targets, 'target trial', 'target trials')} of "
        f"{speakers} speakers (list {evidence.trial_list} of {evidence.corpus})"
    )
