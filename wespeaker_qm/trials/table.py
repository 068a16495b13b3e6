"""Trials and their scores as arrays.

Names are kept once, in order of first appearance; the trials are indices into them.

Legend: N trials, U utterances.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class TrialTable:
    """N trials between U utterances."""

    path: Path
    """The file they were read from."""
    utterances: list[str]
    """U distinct names, in order of first appearance."""
    enrolment: NDArray[np.int32]
    """(N,) indices into ``utterances``."""
    test: NDArray[np.int32]
    """(N,) indices into ``utterances``."""
    is_target: NDArray[np.bool_]
    """(N,) whether both sides are the same speaker; (0,) of a list without labels."""

    def __len__(self) -> int:
        return len(self.enrolment)

    def chosen(self, rows: NDArray[np.bool_]) -> "TrialTable":
        """Those of the trials that ``rows`` (N,) are true for, and the utterances that are left in them."""
        sides = self.enrolment[rows], self.test[rows]
        kept = np.unique(np.concatenate(sides))
        number = np.zeros(len(self.utterances), np.int32)
        number[kept] = np.arange(len(kept))
        return TrialTable(
            path=self.path,
            utterances=[self.utterances[row] for row in kept],
            enrolment=number[sides[0]],
            test=number[sides[1]],
            is_target=self.is_target[rows] if len(self.is_target) else self.is_target,
        )

    def same_trials(self, other: "TrialTable") -> bool:
        """Whether both hold the same trials, with the same labels, in the same order."""
        return (
            self.utterances == other.utterances
            and np.array_equal(self.enrolment, other.enrolment)
            and np.array_equal(self.test, other.test)
            and np.array_equal(self.is_target, other.is_target)
        )

    def names(self, trial: int) -> str:
        """``enrolment test`` of one trial, for messages."""
        return f"{self.utterances[self.enrolment[trial]]} {self.utterances[self.test[trial]]}"


class ScoredTrials(NamedTuple):
    """A score file: the trials, and what it says of each."""

    trials: TrialTable
    scores: NDArray[np.float64]
    """(N,) finite."""
    measures: NDArray[np.float64] | None
    """(N, 4) the four columns that WeSpeaker's normalisation adds, where the file has them."""
