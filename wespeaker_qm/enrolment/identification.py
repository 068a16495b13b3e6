"""Who of N enrolled speakers is it, or nobody: an open-set decision.

A recording is compared with each of N speakers, and is taken for whoever scores highest if that score reaches a
threshold. A stranger is taken for somebody if any of the N comparisons is a false accept. With a false-accept rate FAR
of each comparison, the *false-positive identification rate* is (Grother and Phillips 2004; ISO/IEC 19795-1)::

    FPIR = 1 - (1 - FAR)^N           about N FAR while that is small
    FAR  = 1 - (1 - FPIR)^(1/N)      about FPIR / N

so that 1 % of 1,000 speakers takes a FAR of 1e-5 a comparison. The formula takes for granted:

- *Comparisons are independent.* Those of one recording share it, and a recording that is like everybody meets many
  false accepts at once. Then fewer recordings meet any: FPIR is lower than the formula says (1 - (1 - x)^N is concave:
  Jensen's inequality), and never above N FAR, whatever the dependence (Boole's). But it is that of all recordings
  together: of those that are like everybody, most are taken for somebody.
- *AS-norm makes them nearly so.* It measures a score in deviations from how recording and speaker score with strangers,
  which is what the comparisons of one recording have in common. Then the formula is nearly exact, and the rate is
  nearly the same for every recording.
- *The FAR is measured.* Thresholds are read from the trial list of the model, whose n non-target trials measure no rate
  below 1 / n. Where N takes a smaller one, nothing is extrapolated: the threshold is that of the rate 1 / n, and the
  decision says what FPIR that gives (``is_measured`` false).

The list's trials have one recording a side. A speaker with several is the mean of their directions, which scores higher
with everybody than one recording does. AS-norm takes most of that out; what is left in the rarest false accepts, only
trials with as many recordings could tell.
"""

import dataclasses
import math
from typing import NamedTuple

from wespeaker_qm.evaluate.operating_points import is_measurable
from wespeaker_qm.export.contents import Evidence
from wespeaker_qm.speaker.decision import check_far, threshold_at
from wespeaker_qm.utils.errors import counted


class Candidate(NamedTuple):
    """An enrolled speaker, and how the recording scores with it."""

    name: str
    score: float
    """As :meth:`wespeaker_qm.Speaker.score`."""
    llr: float | None
    """Natural log-likelihood ratio of this speaker to another; None where the model has no calibration."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenSetThreshold:
    """Where to decide among N speakers."""

    threshold: float | None
    """A score from here on is a known speaker's; None where the model has no evidence to read one from."""
    threshold_interval: tuple[float, float] | None
    """95 %, for other speakers of this kind; None where it is not known."""
    wanted_fpir: float
    """The share of strangers who may be taken for somebody."""
    fpir: float
    """What the threshold gives by the formula above; above ``wanted_fpir`` where ``is_measured`` is false."""
    far: float
    """The false-accept rate of a comparison that the threshold belongs to."""
    num_speakers: int
    """N."""
    is_measured: bool
    """Whether the model's list can measure the rate of a comparison that ``wanted_fpir`` takes."""
    warnings: tuple[str, ...]
    """What a reader must know, a sentence each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identification:
    """Whose voice a recording is of."""

    name: str | None
    """The enrolled speaker; None of a stranger, and where there is no threshold."""
    candidates: tuple[Candidate, ...]
    """The nearest, the highest score first."""
    decided_at: OpenSetThreshold
    rests_on: str
    """The trials and speakers that the threshold was measured on, in words."""
    warnings: tuple[str, ...]
    """What a reader must know, a sentence each."""
    seconds_of_speech: float
    """Found in the recording, by energy."""


def identification_rate(far: float, num_speakers: int) -> float:
    """FPIR of ``num_speakers`` at the rate ``far`` a comparison.

    >>> round(identification_rate(1e-3, 100), 4)
    0.0952
    """
    return 1.0 if far >= 1 else -math.expm1(num_speakers * math.log1p(-far))


def comparison_rate(fpir: float, num_speakers: int) -> float:
    """FAR of a comparison that gives ``fpir`` with ``num_speakers``: the inverse of :func:`identification_rate`.

    >>> round(comparison_rate(0.01, 1000), 9)
    1.005e-05
    """
    return -math.expm1(math.log1p(-fpir) / num_speakers)


def open_set_threshold(evidence: Evidence | None, fpir: float, num_speakers: int) -> OpenSetThreshold:
    """The threshold at which no more than ``fpir`` of strangers are taken for one of ``num_speakers``.

    Args:
        evidence: of the model; None where it has none.
        fpir: wanted, between 0 and 1.
        num_speakers: N, at least 1.

    Raises:
        RecipeError: ``fpir`` is no rate.
    """
    check_far(fpir)
    wanted = comparison_rate(fpir, num_speakers)
    num_nontargets = 1 if evidence is None else evidence.num_nontargets
    is_measured = evidence is not None and is_measurable(wanted, num_nontargets)
    far = wanted if is_measured or evidence is None else 1 / num_nontargets
    threshold = threshold_at(evidence, far)
    reached = identification_rate(far, num_speakers)
    warnings = list(threshold.notes)
    if evidence is not None and not is_measured:
        warnings.insert(
            0,
            f"{100 * fpir:g} % of strangers among {counted(num_speakers, 'speaker', 'speakers')} takes a false-accept "
            f"rate of {wanted:.1e} a comparison, which "
            f"{counted(num_nontargets, 'non-target trial', 'non-target trials')} (list {evidence.trial_list} of "
            f"{evidence.corpus}) cannot measure: decided at their lowest rate, {far:.1e}, with which "
            f"{100 * reached:.3g} % of strangers are taken for somebody; a model with a larger list can tell more",
        )
    return OpenSetThreshold(
        threshold=threshold.value,
        threshold_interval=threshold.interval,
        wanted_fpir=fpir,
        fpir=reached,
        far=far,
        num_speakers=num_speakers,
        is_measured=is_measured,
        warnings=tuple(warnings),
    )
