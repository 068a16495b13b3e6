"""Lines of trials, and of scores, as arrays, whoever wrote them: a million in a second or two.

One trial a line; a label is ``target`` or ``nontarget``, ``tgt`` or ``imp``, or ``1`` or ``0``::

    enrolment test label                         trial list (ours, WeSpeaker, Kaldi)
    1|0 enrolment test                           trial list (VoxCeleb)
    enrolment test score label                   score file (ours, WeSpeaker)
    enrolment test score label a b c d           score file after normalisation (WeSpeaker: norms, cohort means)
    enrolment test score                         score file without labels (Kaldi): these come from a trial list

Files are read in blocks, so that ten million trials take the memory of their arrays.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.table import ScoredTrials, TrialTable
from wespeaker_qm.utils.errors import NUM_SHOWN, RecipeError, counted, first_few, found_at, shown_line
from wespeaker_qm.utils.remedies import made_again, mended
from wespeaker_qm.utils.text import BYTE_ORDER_MARK, as_number, lines_of, read_text

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
    "pairs": Layout("enrolment test", 2, (0, 1), None, None),
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
        RecipeError: no such file, or nothing in it.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: {found_at(path)}; {made_again(path)}")
    for block in _blocks(path):
        if first := block.lstrip().partition(b"\n")[0]:
            return first.split()
    raise RecipeError(f"{path}: the file is empty, expected lines `{line_format}`; {mended(path)}")


class _Numbering(dict[bytes, int]):
    """Name -> number, in order of first appearance."""

    def __missing__(self, name: bytes) -> int:
        number = self[name] = len(self)
        return number


def _blocks(path: Path) -> Iterator[bytes]:
    """The content as :func:`wespeaker_qm.utils.text.read_text` has it, in blocks of whole lines, not decoded yet.

    Raises:
        RecipeError: it holds NUL, or a line that is longer than a block.
    """
    with path.open("rb") as handle:
        mark = BYTE_ORDER_MARK
        while block := handle.read(BLOCK_BYTES):
            block = (block + handle.readline(BLOCK_BYTES)).removeprefix(mark)
            mark = b""
            if b"\0" in block:
                read_text(path)  # which refuses it
            if len(block) >= 2 * BLOCK_BYTES - len(BYTE_ORDER_MARK) and not block.endswith(b"\n"):
                raise RecipeError(
                    f"{path}: found a line of more than {BLOCK_BYTES:,} bytes, expected one trial a line; is it "
                    f"another kind of file? Name the one that is meant, or {mended(path)}"
                )
            yield block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block


def read_lines(path: Path, layout: Layout) -> ScoredTrials:
    """Read all lines of ``path``; without labels all trials are non-targets, without scores there are none.

    Raises:
        RecipeError: a line of another layout, a number that is none, a score that is not finite, a name that is not
            UTF-8, or a trial that stands twice; the first few are shown, and all are counted.
    """
    numbering = _Numbering()
    sides: list[NDArray[np.int32]] = []
    labels: list[NDArray[np.bool_]] = []
    scores: list[NDArray[np.float64]] = []
    measures: list[NDArray[np.float64]] = []
    bad: list[str] = []
    no_numbers: set[int] = set()
    not_finite: list[int] = []
    num_lines = num_trials = 0
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
            scores.append(_numbers(tokens[layout.score :: layout.num_fields], num_trials, no_numbers))
            not_finite += (num_trials + np.flatnonzero(~np.isfinite(scores[-1]))).tolist()
        if layout.num_measures:
            columns = [tokens[column :: layout.num_fields] for column in range(4, 4 + layout.num_measures)]
            measures.append(np.stack([_numbers(column, num_trials, no_numbers) for column in columns], axis=1))
        num_trials += len(both) // 2
    if bad:
        of = f"of {num_lines} lines"
        raise RecipeError(
            f"{path}: {counted(len(bad), f'{of} is', f'{of} are')} not `{layout.format}`; correct them, or "
            f"{mended(path)}:" + first_few(bad)
        )
    if no_numbers:
        of = f"of {num_trials} trials"
        raise RecipeError(
            f"{path}: {counted(len(no_numbers), f'{of} has', f'{of} have')} a field that is no number, expected such "
            "as -0.25 or 1e-3; correct them:" + _lines(path, no_numbers)
        )
    if not_finite:
        of = f"of {num_trials} scores"
        raise RecipeError(
            f"{path}: {counted(len(not_finite), f'{of} is', f'{of} are')} not finite; look for broken embeddings, then "
            f"{mended(path)}:" + _lines(path, not_finite)
        )
    pairs = np.concatenate(sides)
    table = TrialTable(
        path=path,
        utterances=_decoded(path, numbering),
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


def _decoded(path: Path, names: Iterable[bytes]) -> list[str]:
    try:
        return b"\n".join(names).decode().split("\n")
    except UnicodeDecodeError:
        read_text(path)  # which refuses it, with the line
        raise


def _good_lines(path: Path, block: bytes, num_before: int, layout: Layout, bad: list[str]) -> list[bytes]:
    """The fields of the lines that are right; of the others, those that are not blank are noted in ``bad``."""
    tokens: list[bytes] = []
    for number, line in enumerate(block.split(b"\n"), start=num_before + 1):
        fields = line.split()
        if len(fields) == layout.num_fields and (layout.label is None or fields[layout.label] in LABELS):
            tokens += fields
        elif fields:
            bad.append(f"{path}:{number}: {shown_line(b' '.join(fields))}")
    return tokens


def _numbers(texts: list[bytes], first_trial: int, no_numbers: set[int]) -> NDArray[np.float64]:
    """The numbers that ``texts`` are; what is none is NaN, and its trial is noted in ``no_numbers``."""
    if b"_" not in b"".join(texts):
        with contextlib.suppress(ValueError):
            return np.fromiter(map(float, texts), np.float64, len(texts))
    values = [as_number(text) for text in texts]
    no_numbers.update(first_trial + row for row, value in enumerate(values) if value is None)
    return np.array(values, np.float64)


def _lines(path: Path, trials: Iterable[int]) -> str:
    """The tail of a message: the first few of ``trials``, each as its line, in a file whose other lines are blank."""
    chosen = sorted(trials)
    lines = dict(enumerate(itertools.islice(lines_of(read_text(path)), chosen[:NUM_SHOWN][-1] + 1)))
    first = [f"{path}:{lines[trial].number}: {shown_line(lines[trial].text)}" for trial in chosen[:NUM_SHOWN]]
    return first_few(first + [""] * (len(chosen) - len(first)))


def _refuse_twice(table: TrialTable) -> None:
    keys = table.enrolment.astype(np.int64) * len(table.utterances) + table.test
    ordered = np.sort(keys)
    if (ordered[1:] == ordered[:-1]).any():
        _, first, occurrences = np.unique(keys, return_index=True, return_counts=True)
        twice = first[occurrences > 1].tolist()
        raise RecipeError(
            f"{table.path}: {counted(len(twice), 'trial stands', 'trials stand')} more than once, and would count twice"
            "; remove the repetitions:" + _lines(table.path, twice)
        )
