"""Trial lists: which pairs of utterances are compared. Made, written and read."""

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.trials.text import LABELS, LIST_LAYOUTS, first_fields, read_lines
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.tables import write_rows


class Trial(NamedTuple):
    """One comparison: are ``enrolment`` and ``test`` of the same speaker?"""

    enrolment: str
    test: str
    is_target: bool


def write_trials(path: Path | str, trials: Iterable[Trial]) -> None:
    """Write a trial list, one ``enrolment test target|nontarget`` a line, in the order given."""
    write_rows(path, ((t.enrolment, t.test, "target" if t.is_target else "nontarget") for t in trials))


def make_trials(
    speaker: Mapping[str, str],
    *,
    accept: Callable[[str, str], bool] | None = None,
    max_targets: int | None = None,
    max_nontargets: int | None = None,
    seed: int = 42,
) -> list[Trial]:
    """All unordered pairs of different utterances that ``accept`` lets through, sorted; the same on every call.

    Args:
        speaker: utterance key -> speaker.
        accept: called with two keys, the first the smaller; says whether the pair is a trial. Default: every pair.
        max_targets: keep a seeded sample of that many target trials; default all.
        max_nontargets: the same for non-target trials.
        seed: of the two samples.
    """
    keys = sorted(speaker)
    targets: list[Trial] = []
    nontargets: list[Trial] = []
    for position, enrolment in enumerate(keys):
        for test in keys[position + 1 :]:
            if accept is None or accept(enrolment, test):
                is_target = speaker[enrolment] == speaker[test]
                (targets if is_target else nontargets).append(Trial(enrolment, test, is_target))
    rng = random.Random(seed)
    kept = []
    for trials, limit in ((targets, max_targets), (nontargets, max_nontargets)):
        kept += trials if limit is None or len(trials) <= limit else rng.sample(trials, limit)
    return sorted(kept)


def read_pairs(path: Path | str) -> TrialTable:
    """Read a trial list as :func:`read_trial_table`, or one of lines ``enrolment test``, which has no labels.

    Raises:
        RecipeError: as :func:`read_trial_table`.
    """
    path = Path(path)
    layout = LIST_LAYOUTS["pairs"]
    if len(first_fields(path, LIST_LAYOUTS["kaldi"].format)) != layout.num_fields:
        return read_trial_table(path)
    return dataclasses.replace(read_lines(path, layout).trials, is_target=np.zeros(0, np.bool_))


def read_trial_table(path: Path | str) -> TrialTable:
    """Read a trial list: ``enrolment test label``, or VoxCeleb's ``1|0 enrolment test``.

    The first line tells, but where names are numbers (``1 10 1``); then the others do.

    Raises:
        RecipeError: no such file, no trials, a line of another format than the first, or a trial that stands twice;
            the first few are shown with their line numbers, and all are counted.
    """
    path = Path(path)
    first = first_fields(path, LIST_LAYOUTS["kaldi"].format)
    may_be_voxceleb = len(first) == 3 and first[0] in (b"0", b"1")
    if may_be_voxceleb and first[2] not in LABELS:
        return read_lines(path, LIST_LAYOUTS["voxceleb"]).trials
    try:
        return read_lines(path, LIST_LAYOUTS["kaldi"]).trials
    except RecipeError:
        if may_be_voxceleb:
            with contextlib.suppress(RecipeError):
                return read_lines(path, LIST_LAYOUTS["voxceleb"]).trials
        raise
