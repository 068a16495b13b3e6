"""What a figure rests on, and whether that supports an interval.

A speaker who is one of n in a list stands for 1/n of all speakers there could be, and speakers that the list lacks may
behave like nobody in it. A rate below 1/n can be the doing of fewer speakers than one in n, of whom the list may have
none: then nothing in the trials tells how far the rate is from the truth, and an interval from them holds it in as few
as 1 % (minDCF 0.001) or 47 % (TAR@FAR 1e-3 on 200 speakers) of the cases instead of 95 (`tools/validate_intervals.py`;
italics in evaluation.md). This is the "rule of three" (Hanley and Lippman-Hand 1983) turned round, with speakers in the
place of trials, and with 1 for 3: between the two, intervals hold the truth in 95 % where speakers' effects are normal,
and in 66 to 92 % where they have heavy tails. So a figure gets an interval only where

- ``LEAST_SPEAKERS`` speakers carry the target trials, and as many the non-target trials;
- at its threshold, the rate of false accepts times the speakers of non-target trials is at least 1, and the rate of
  misses times the speakers of target trials (of the outcome that is the rarer one);
- there are at least ``LEAST_ERRORS`` such trials of each kind.

VoxCeleb1-H, with 1,190 speakers, is near the limit at FAR 1e-3, and the rule decides as for any other list: the figure
gets an interval where the non-target trials, by their shares, count as 1,000 speakers or more, which is so if the
numbers of trials of a speaker scatter by less than 43 % of their mean. FAR 1e-4 would take 10,000.

Speakers are counted by :class:`EffectiveSpeakers`. None of it looks at how the speakers of the list differ: a rule that
did would let pass the lists that happen to lack the rare speakers, which are the wrong ones.
"""

from wespeaker_qm.evaluate.bootstrap import Resamples
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.trials.speakers import EffectiveSpeakers
from wespeaker_qm.utils.remedies import with_run_sh

LEAST_SPEAKERS = 5
LEAST_ERRORS = 10
_OUTCOMES = {
    "non_target": (("false accept", "FAR"), ("correct rejection", "1 - FAR")),
    "target": (("accepted target", "TAR"), ("miss", "FRR")),
}
"""Kind of trials -> what an accepted and a rejected one is, and the rate of those."""


def list_reason(effective: EffectiveSpeakers) -> str | None:
    """Why no figure of a list of so many speakers gets an interval; None where some may."""
    for kind, count in effective._asdict().items():
        if round(count) < LEAST_SPEAKERS:
            return (
                f"{kind.replace('_', '-')} trials are of {count:.1f} speakers (counted by their shares of them), and "
                f"intervals and p-values need {LEAST_SPEAKERS}"
            )
    return None


def few_speakers_note(name: str, effective: EffectiveSpeakers, *, is_fitted: bool = False) -> str | None:
    """What a reader of figures must know where a list has too few speakers to tell; None where it has not.

    Args:
        name: of the list.
        effective: its speakers.
        is_fitted: a calibration was fitted on it, rather than figures measured.
    """
    reason = list_reason(effective)
    if reason is None:
        return None
    if is_fitted:
        return (
            f"List {name}, on which the calibration was fitted: too few speakers to tell how it fares with others "
            f"({reason}). Set more aside for it{with_run_sh(' (for egs/folder: --valid_speakers)')}."
        )
    return (
        f"List {name}: too few speakers to tell how others fare, and an EER of 0 is no exception ({reason}). Evaluate "
        f"more speakers{with_run_sh(', or all of them in turn (for egs/folder: --eval_speakers)')}."
    )


def figure_reason(figure: Figure, run: Resamples) -> str | None:
    """Why a figure gets no interval, in a few words such as "3 misses"; None where it gets one.

    Where trials were drawn, only the errors are counted.
    """
    if run.effective is not None and list_reason(run.effective) is not None:
        return "too few speakers"
    threshold = figure.threshold(run.system.curves)
    if threshold is None:
        return None
    accepted, is_target = run.system.scores >= threshold, run.system.is_target
    for kind in figure.kind.rests_on:
        chosen = is_target if kind == "target" else ~is_target
        total, count = int(chosen.sum()), int((accepted & chosen).sum())
        is_rejection = 2 * count > total
        outcome, rate = _OUTCOMES[kind][is_rejection]
        few = total - count if is_rejection else count
        if few < LEAST_ERRORS:
            return f"{few} {outcome}" + ("" if few == 1 else "es" if outcome == "miss" else "s")
        if run.effective is not None and few * getattr(run.effective, kind) < total:
            return f"{rate} below 1/{getattr(run.effective, kind):.0f}"
    return None
