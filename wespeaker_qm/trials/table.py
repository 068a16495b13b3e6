"""Trial lists and score files as arrays, whoever wrote them: a million trials in a second or two.

Text, one trial a line; a label is ``target`` or ``nontarget``, ``tgt`` or ``imp``, or ``1`` or ``0``::

    enrolment test label                         trial list (ours, WeSpeaker, Kaldi)
    1|0 enrolment test                           trial list (VoxCeleb)
    enrolment test score label                   score file (ours, WeSpeaker)
    enrolment test score label a b c d           score file after normalisation (WeSpeaker: norms, cohort means)
    enrolment test score                         score file without labels (Kaldi): these come from a trial list

Names are kept once, in order of first appearance; the trials are indices into them. Files are read in blocks, so that
ten million trials take the memory of their arrays.

Legend: N trials, U utterances.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.cache import ScoreCache, read_cache
from wespeaker_qm.utils.checksums import verify
from wespeaker_qm.utils.errors import RecipeError, first_few

LABELS = {b"target": 1, b"nontarget": 0, b"tgt": 1, b"imp": 0, b"1": 1, b"0": 0}
BLOCK_BYTES = 1 << 22
_LINE_END = b" \0 "
"""A token of its own, which shows that every line has the same number of fields."""


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


class _Layout(NamedTuple):
    """Where the fields of a line stand."""

    format: str
    """As it is shown in messages."""
    num_fields: int
    names: tuple[int, int]
    score: int | None
    label: int | None
    num_measures: int = 0


_LISTS = {
    "kaldi": _Layout("enrolment test target|nontarget", 3, (0, 1), None, 2),
    "voxceleb": _Layout("1|0 enrolment test", 3, (1, 2), None, 0),
}
_SCORES = {
    3: _Layout("enrolment test score", 3, (0, 1), 2, None),
    4: _Layout("enrolment test score target|nontarget", 4, (0, 1), 2, 3),
    8: _Layout("enrolment test score target|nontarget norm norm mean mean", 8, (0, 1), 2, 3, 4),
}


def read_trial_table(path: Path | str) -> TrialTable:
    """Read a trial list: ``enrolment test label``, or VoxCeleb's ``1|0 enrolment test``.

    Raises:
        RecipeError: no such file, no trials, a line of another format than the first, or a trial that stands twice;
            the first few are shown with their line numbers, and all are counted.
    """
    path = Path(path)
    first = _first_line(path, _LISTS["kaldi"].format)
    is_voxceleb = len(first) == 3 and first[2] not in LABELS and first[0] in (b"0", b"1")
    return _read(path, _LISTS["voxceleb" if is_voxceleb else "kaldi"]).trials


def read_scores(path: Path | str, trials: TrialTable | None = None) -> ScoredTrials:
    """Read a score file of any of the formats above, or the cache beside it where that is current.

    Args:
        path: the file. Where only its cache is there, that is read.
        trials: the list that was scored: labels are its, the order of the result is its, and the file must hold
            exactly its trials. None takes trials and labels from the file.

    Raises:
        RecipeError: as :func:`read_trial_table`; the file is not what was written; a score is not a finite number; the
            file has no labels and there is no list; trials of the list that the file lacks, or of the file that the
            list lacks, or another label.
    """
    path = Path(path)
    cached = read_cache(path)
    if cached is not None:
        scored = _from_cache(path, cached)
    else:
        expected = _SCORES[4].format
        first = _first_line(path, expected)
        verify(path, "delete it and score the trials again (stage 5; normalised: 6, calibrated: 7)")
        scored = _read(path, _SCORES.get(len(first), _SCORES[4]))
        if trials is None and len(first) == 3:
            raise RecipeError(
                f"{path}: the file has no labels, expected lines `{expected}`; give the trial list, too (--trials)"
            )
        if len(first) == 3:  # no labels of its own to compare
            scored = scored._replace(trials=dataclasses.replace(scored.trials, is_target=np.zeros(0, np.bool_)))
    return scored if trials is None else _in_order(path, scored, trials)


def _first_line(path: Path, line_format: str) -> list[bytes]:
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; run the stage that makes it first (run.sh --help lists the stages)")
    with path.open("rb") as handle:
        first = handle.readline()
    if not first.strip():
        found = "the first line is empty" if first else "the file is empty"
        raise RecipeError(f"{path}: {found}, expected lines `{line_format}`")
    return first.split()


class _Numbering(dict[bytes, int]):
    """Name -> number, in order of first appearance."""

    def __missing__(self, name: bytes) -> int:
        number = self[name] = len(self)
        return number


def _blocks(path: Path) -> Iterator[bytes]:
    """The content, in blocks of whole lines."""
    with path.open("rb") as handle:
        while block := handle.read(BLOCK_BYTES):
            yield block + handle.readline()


def _read(path: Path, layout: _Layout) -> ScoredTrials:
    """Read all lines of ``path``."""
    numbering = _Numbering()
    sides: list[NDArray[np.int32]] = []
    labels: list[NDArray[np.bool_]] = []
    scores: list[NDArray[np.float64]] = []
    measures: list[NDArray[np.float64]] = []
    bad: list[str] = []
    not_finite: list[str] = []
    num_lines = 0
    for block in _blocks(path):
        lines_here = block.count(b"\n") + (not block.endswith(b"\n"))
        tokens = block.removesuffix(b"\n").replace(b"\n", _LINE_END).split()
        ends = tokens[layout.num_fields :: layout.num_fields + 1]
        if len(tokens) == lines_here * (layout.num_fields + 1) - 1 and ends == [b"\0"] * (lines_here - 1):
            del tokens[layout.num_fields :: layout.num_fields + 1]
        else:
            tokens = _good_lines(path, block, num_lines, layout, bad)
        num_lines += lines_here
        both = [b""] * (2 * (len(tokens) // layout.num_fields))
        both[0::2] = tokens[layout.names[0] :: layout.num_fields]
        both[1::2] = tokens[layout.names[1] :: layout.num_fields]
        sides.append(np.fromiter(map(numbering.__getitem__, both), np.int32, len(both)))
        if layout.label is not None:
            texts = tokens[layout.label :: layout.num_fields]
            values = np.array([LABELS.get(text, -1) for text in texts], np.int8)
            if (values < 0).any():
                _good_lines(path, block, num_lines - lines_here, layout, bad)
            labels.append(values == 1)
        if layout.score is not None:
            texts = tokens[layout.score :: layout.num_fields]
            scores.append(_numbers(texts))
            for trial in np.flatnonzero(~np.isfinite(scores[-1])).tolist():
                line = (both[2 * trial], both[2 * trial + 1], texts[trial])
                not_finite.append(b" ".join(line).decode(errors="replace"))
        if layout.num_measures:
            columns = [tokens[column :: layout.num_fields] for column in range(4, 4 + layout.num_measures)]
            measures.append(np.stack([_numbers(column) for column in columns], axis=1))
    if bad:
        raise RecipeError(f"{path}: {len(bad)} of {num_lines} lines are not `{layout.format}`:" + first_few(bad))
    if not_finite:
        raise RecipeError(
            f"{path}: {len(not_finite)} of {num_lines} scores are not finite numbers; look for broken embeddings and "
            "score again (stage 5):" + first_few(not_finite)
        )
    pairs = np.concatenate(sides)
    table = TrialTable(
        path=path,
        utterances=[_text(path, name) for name in numbering],
        enrolment=np.ascontiguousarray(pairs[0::2]),
        test=np.ascontiguousarray(pairs[1::2]),
        is_target=np.concatenate(labels) if labels else np.zeros(len(pairs) // 2, np.bool_),
    )
    _refuse_twice(table)
    return ScoredTrials(
        table,
        np.concatenate(scores) if scores else np.zeros(0),
        np.concatenate(measures) if measures else None,
    )


def _text(path: Path, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        shown = name.decode(errors="backslashreplace")
        raise RecipeError(f"{path}: the name '{shown}' is not UTF-8; write the file in UTF-8") from None


def _good_lines(path: Path, block: bytes, num_before: int, layout: _Layout, bad: list[str]) -> list[bytes]:
    """The fields of the lines that are right; the others are noted in ``bad``, with their numbers."""
    tokens: list[bytes] = []
    for number, line in enumerate(block.splitlines(), start=num_before + 1):
        fields = line.split()
        if len(fields) == layout.num_fields and (layout.label is None or fields[layout.label] in LABELS):
            tokens += fields
        else:
            bad.append(f"{path}:{number}: {b' '.join(fields).decode(errors='replace')!r}")
    return tokens


def _numbers(texts: list[bytes]) -> NDArray[np.float64]:
    """The numbers that ``texts`` are, NaN where one is none."""
    try:
        return np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        return np.array([_number(text) for text in texts])


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _keys(table: TrialTable) -> NDArray[np.int64]:
    """(N,) one number a pair of names."""
    return table.enrolment.astype(np.int64) * len(table.utterances) + table.test


def _refuse_twice(table: TrialTable) -> None:
    keys = _keys(table)
    ordered = np.sort(keys)
    if (ordered[1:] == ordered[:-1]).any():
        _, first, occurrences = np.unique(keys, return_index=True, return_counts=True)
        twice = np.sort(first[occurrences > 1]).tolist()
        raise RecipeError(
            f"{table.path}: {len(twice)} trials stand more than once, which would count them twice; remove the "
            "repetitions:" + first_few([f"{table.path}:{trial + 1}: {table.names(trial)!r}" for trial in twice])
        )


def _from_cache(path: Path, cached: ScoreCache) -> ScoredTrials:
    table = TrialTable(path, cached.utterances, cached.enrolment, cached.test, cached.is_target)
    return ScoredTrials(table, cached.scores, cached.measures)


def _in_order(path: Path, scored: ScoredTrials, trials: TrialTable) -> ScoredTrials:
    """The scores in the order of the list ``trials``, of which the file must hold all, and no others."""
    if scored.trials.same_trials(trials):
        return scored._replace(trials=trials)
    numbers = {name: number for number, name in enumerate(trials.utterances)}
    unknown = len(numbers)
    translate = np.array([numbers.get(name, unknown) for name in scored.trials.utterances], np.int64)
    found = translate[scored.trials.enrolment] * (unknown + 1) + translate[scored.trials.test]
    wanted = trials.enrolment.astype(np.int64) * (unknown + 1) + trials.test
    order = np.argsort(found, kind="stable")
    place = np.searchsorted(found, wanted, sorter=order)
    source = order[np.minimum(place, len(order) - 1)]
    missing = np.flatnonzero(found[source] != wanted).tolist()
    if missing:
        raise RecipeError(
            f"{path}: {len(missing)} of the {len(trials)} trials of {trials.path} have no score; score the list again "
            "(stage 5):" + first_few([trials.names(trial) for trial in missing])
        )
    if len(found) > len(wanted):
        extra = np.flatnonzero(~np.isin(found, wanted)).tolist()
        raise RecipeError(
            f"{path}: {len(extra)} trials are not in {trials.path}; score the list again (stage 5), or name the list "
            "that was scored:" + first_few([scored.trials.names(trial) for trial in extra])
        )
    if len(scored.trials.is_target):
        other = np.flatnonzero(scored.trials.is_target[source] != trials.is_target).tolist()
        if other:
            raise RecipeError(
                f"{path}: {len(other)} trials have another label than in {trials.path}; score the list again "
                "(stage 5):" + first_few([trials.names(trial) for trial in other])
            )
    measures = None if scored.measures is None else scored.measures[source]
    return ScoredTrials(trials, scored.scores[source], measures)
