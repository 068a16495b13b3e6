"""Every figure of every trial list and every system, and their JSON form ``metrics.json``."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.evaluate.operating_points import (
    FARS,
    P_TARGETS,
    EqualErrorRate,
    MinDcf,
    OperatingPoint,
    RocSteps,
    equal_error_rate,
    far_name,
    min_dcf,
    roc_steps,
    tar_at_far,
)
from wespeaker_qm.evaluate.trial_table import TrialTable, first_few, read_scores
from wespeaker_qm.utils.errors import RecipeError

NOT_MEASURABLE = "not measurable"


@dataclasses.dataclass(frozen=True, eq=False)
class SystemResult:
    """The figures of one system on one trial list."""

    roc: RocSteps
    """All operating points."""
    eer: EqualErrorRate
    """Equal error rate and its threshold."""
    min_dcf: dict[float, MinDcf]
    """p_target -> smallest normalised detection cost, for each of ``P_TARGETS``."""
    tar_at_far: dict[float, OperatingPoint | None]
    """FAR -> the best operating point, for each of ``FARS``; None where it is not measurable."""

    def to_json(self) -> dict[str, Any]:
        """The figures, not the curve, as plain values."""
        return {
            "eer": self.eer.rate,
            "eer_threshold": self.eer.threshold,
            "min_dcf": {str(p_target): result._asdict() for p_target, result in self.min_dcf.items()},
            "tar_at_far": {
                far_name(far): None if point is None else point._asdict() for far, point in self.tar_at_far.items()
            },
        }


@dataclasses.dataclass(frozen=True, eq=False)
class ListResult:
    """The figures of all systems on one trial list."""

    num_targets: int
    num_nontargets: int
    num_utterances: int
    num_speakers: int
    systems: dict[str, SystemResult]
    """System name -> its figures, the trained system first."""

    def to_json(self) -> dict[str, Any]:
        """Counts and figures as plain values."""
        return {
            "num_targets": self.num_targets,
            "num_nontargets": self.num_nontargets,
            "num_utterances": self.num_utterances,
            "num_speakers": self.num_speakers,
            "systems": {name: system.to_json() for name, system in self.systems.items()},
        }


def system_result(roc: RocSteps) -> SystemResult:
    """All figures that can be read from the operating points."""
    return SystemResult(
        roc=roc,
        eer=equal_error_rate(roc),
        min_dcf={p_target: min_dcf(roc, p_target) for p_target in P_TARGETS},
        tar_at_far={far: tar_at_far(roc, far) for far in FARS},
    )


def evaluate_list(trials: TrialTable, score_files: Mapping[str, Path], speaker: Mapping[str, str]) -> ListResult:
    """Evaluate all systems on one trial list.

    Args:
        trials: the list itself.
        score_files: system name -> its scores of exactly these trials.
        speaker: utterance -> speaker, to count the speakers.

    Raises:
        RecipeError: a score file is broken or holds other trials than the list, an utterance has no speaker, or the
            list lacks targets or non-targets.
    """
    unknown = [utterance for utterance in trials.utterances if utterance not in speaker]
    if unknown:
        raise RecipeError(
            f"{trials.path}: {len(unknown)} utterances are not in utt2spk of the set that the list draws from; prepare "
            "the data again (stage 1):" + first_few(unknown)
        )
    systems = {}
    for name, path in score_files.items():
        scored, scores, _ = read_scores(path)
        if not scored.same_trials(trials):
            raise RecipeError(
                f"{path}: {len(scored)} trials that are not the {len(trials)} trials of {trials.path} in the same "
                "order; score the list again (stage 5)"
            )
        systems[name] = system_result(roc_steps(scores, scored.is_target))
    num_targets = int(trials.is_target.sum())
    return ListResult(
        num_targets=num_targets,
        num_nontargets=len(trials) - num_targets,
        num_utterances=len(trials.utterances),
        num_speakers=len({speaker[utterance] for utterance in trials.utterances}),
        systems=systems,
    )


def per_cent(rate: float, digits: int = 2) -> str:
    """A fraction as a percentage for tables.

    >>> per_cent(0.123456)
    '12.35'
    """
    return f"{100 * rate:.{digits}f}"


def show_tar(point: OperatingPoint | None) -> str:
    """TAR in per cent, or that it is not measurable.

    >>> show_tar(None)
    'not measurable'
    """
    return NOT_MEASURABLE if point is None else per_cent(point.tar)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it also reads well as text; the first column left, the others right.

    >>> print(markdown_table(["system", "EER %"], [["a", "13.05"]]))
    | system | EER % |
    |:-------|------:|
    | a      | 13.05 |
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * (width + 1) for width in widths]
    lines.insert(1, f"|:{rule[0]}|{''.join(f'{dashes}:|' for dashes in rule[1:])}")
    return "\n".join(lines)
