"""Trial lists and score files as arrays: a million trials in a few seconds.

Both are text, one trial a line::

    enrolment test target|nontarget              trial list
    enrolment test score target|nontarget        score file

Names are kept once, in order of first appearance; the trials are indices into them.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.utils.errors import RecipeError

IS_TARGET = {"target": True, "nontarget": False}
NUM_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class TrialTable:
    """N trials between U utterances."""

    path: Path
    """The file they were read from."""
    utterances: list[str]
    """U distinct names, in order of first appearance."""
    enrolment: NDArray[np.int64]
    """(N,) indices into ``utterances``."""
    test: NDArray[np.int64]
    """(N,) indices into ``utterances``."""
    is_target: NDArray[np.bool_]
    """(N,) whether both sides are the same speaker."""

    def __len__(self) -> int:
        return len(self.enrolment)

    def same_trials(self, other: "TrialTable") -> bool:
        """Whether both hold the same trials, with the same labels, in the same order."""
        return (
            self.utterances == other.utterances
            and np.array_equal(self.enrolment, other.enrolment)
            and np.array_equal(self.test, other.test)
            and np.array_equal(self.is_target, other.is_target)
        )


class ScoredTrials(NamedTuple):
    """A score file: the trials, and one finite float64 score for each, (N,)."""

    trials: TrialTable
    scores: NDArray[np.float64]


def first_few(items: Sequence[str]) -> str:
    """The first few of ``items``, one a line, and how many there are: the tail of an error message."""
    lines = [f"\n  {item}" for item in items[:NUM_SHOWN]]
    if len(items) > NUM_SHOWN:
        lines.append(f"\n  ... and {len(items) - NUM_SHOWN} more")
    return "".join(lines)


def read_trial_table(path: Path | str) -> TrialTable:
    """Read a trial list.

    Raises:
        RecipeError: no such file, no trials, a line that is not ``enrolment test target|nontarget``, or a trial that
            stands twice; the first few are shown with their line numbers, and all are counted.
    """
    path = Path(path)
    return _table(path, _read_lines(path, "enrolment test target|nontarget"))


def read_scores(path: Path | str) -> ScoredTrials:
    """Read a score file.

    Raises:
        RecipeError: as :func:`read_trial_table`, or a score is not a finite number.
    """
    path = Path(path)
    rows = _read_lines(path, "enrolment test score target|nontarget")
    scores = np.array([_number(row[2]) for row in rows])
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise RecipeError(
            f"{path}: {len(bad)} of {len(rows)} scores are not finite numbers; look for broken embeddings and score "
            "again (stage 5):" + first_few([" ".join(rows[index]) for index in bad])
        )
    return ScoredTrials(_table(path, rows), scores)


def _number(text: str) -> float:
    """``float(text)``, or NaN where that fails."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_lines(path: Path, line_format: str) -> list[list[str]]:
    """All lines of ``path`` as fields, checked for their number and for the label in the last one."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; run the stage that makes it first (run.sh --help lists the stages)")
    num_fields = len(line_format.split())
    with path.open(encoding="utf-8") as handle:
        rows = [line.split() for line in handle]
    bad = [
        f"{path}:{number}: {' '.join(row)!r}"
        for number, row in enumerate(rows, start=1)
        if len(row) != num_fields or row[-1] not in IS_TARGET
    ]
    if bad:
        raise RecipeError(f"{path}: {len(bad)} of {len(rows)} lines are not `{line_format}`:" + first_few(bad))
    if not rows:
        raise RecipeError(f"{path}: the file is empty, expected lines `{line_format}`")
    return rows


def _table(path: Path, rows: list[list[str]]) -> TrialTable:
    """Index the names of checked rows (first two fields, and the label last)."""
    index: dict[str, int] = {}
    for row in rows:
        index.setdefault(row[0], len(index))
        index.setdefault(row[1], len(index))
    enrolment = np.array([index[row[0]] for row in rows], dtype=np.int64)
    test = np.array([index[row[1]] for row in rows], dtype=np.int64)
    _, first, occurrences = np.unique(enrolment * len(index) + test, return_index=True, return_counts=True)
    twice = np.sort(first[occurrences > 1])
    if len(twice):
        raise RecipeError(
            f"{path}: {len(twice)} trials stand more than once, which would count them twice; remove the repetitions:"
            + first_few([f"{path}:{number + 1}: {' '.join(rows[number])!r}" for number in twice])
        )
    is_target = np.array([IS_TARGET[row[-1]] for row in rows], dtype=np.bool_)
    return TrialTable(path, list(index), enrolment, test, is_target)
