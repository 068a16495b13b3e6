"""Lines of trials, and of scores, as arrays, whoever wrote them: a million in a second or two.

One trial a line; a label is ``target`` or ``nontarget``, ``tgt`` or ``imp``, or ``1`` or ``0``::

    enrolment test label                         trial list (ours, WeSpeaker, Kaldi)
    1|0 enrolment test                           trial list (VoxCeleb)
    enrolment test score label                   score file (ours, WeSpeaker)
    enrolment test score label a b c d           score file after normalisation (WeSpeaker: norms, cohort means)
    enrolment test score                         score file without labels (Kaldi): these come from a trial list

Files are read in blocks, so that ten million trials take the memory of their arrays.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.table import ScoredTrials, TrialTable
from wespeaker_qm.utils.errors import RecipeError, first_few

LABELS = {b"target": 1, b"nontarget": 0, b"tgt": 1, b"imp": 0, b"1": 1, b"0": 0}
BLOCK_BYTES = 1 << 22
_LINE_END = b" \0 "
"""Stands for the line ends while a block is split: where it is every n-th token, all lines have as many fields."""


class Layout(NamedTuple):
    """Where the fields of a line stand."""

    format: str
    """As it is shown in messages."""
    num_fields: int
    names: tuple[int, int]
    score: int | None
    label: int | None
    num_measures: int = 0


LIST_LAYOUTS = {
    "kaldi": Layout("enrolment test target|nontarget", 3, (0, 1), None, 2),
    "voxceleb": Layout("1|0 enrolment test", 3, (1, 2), None, 0),
}
"""Program that writes it -> layout of a trial list."""
SCORE_LAYOUTS = {
    3: Layout("enrolment test score", 3, (0, 1), 2, None),
    4: Layout("enrolment test score target|nontarget", 4, (0, 1), 2, 3),
    8: Layout("enrolment test score target|nontarget norm norm mean mean", 8, (0, 1), 2, 3, 4),
}
"""Number of fields -> layout of a score file."""


def first_fields(path: Path, line_format: str) -> list[bytes]:
    """The fields of the first line.

    Args:
        path: the file.
        line_format: what was expected, for the message.

    Raises:
        RecipeError: no such file, or its first line is empty.
    """
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


def read_lines(path: Path, layout: Layout) -> ScoredTrials:
    """Read all lines of ``path``; without labels all trials are non-targets, without scores there are none.

    Raises:
        RecipeError: a line of another layout, a score that is not a finite number, a name that is not UTF-8, or a trial
            that stands twice; the first few are shown, and all are counted.
    """
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


def _good_lines(path: Path, block: bytes, num_before: int, layout: Layout, bad: list[str]) -> list[bytes]:
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


def _refuse_twice(table: TrialTable) -> None:
    keys = table.enrolment.astype(np.int64) * len(table.utterances) + table.test
    ordered = np.sort(keys)
    if (ordered[1:] == ordered[:-1]).any():
        _, first, occurrences = np.unique(keys, return_index=True, return_counts=True)
        twice = np.sort(first[occurrences > 1]).tolist()
        raise RecipeError(
            f"{table.path}: {len(twice)} trials stand more than once, which would count them twice; remove the "
            "repetitions:" + first_few([f"{table.path}:{trial + 1}: {table.names(trial)!r}" for trial in twice])
        )
