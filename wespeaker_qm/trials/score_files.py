"""Score files, read and written: the text of Kaldi and WeSpeaker, and the binary cache beside it."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.cache import ScoreCache, cache_path, read_cache, write_cache
from wespeaker_qm.trials.table import ScoredTrials, TrialTable
from wespeaker_qm.trials.text import SCORE_LAYOUTS, first_fields, read_lines
from wespeaker_qm.utils.checksums import checked_path, remove_checked, verify
from wespeaker_qm.utils.errors import RecipeError, counted, first_few
from wespeaker_qm.utils.remedies import made_again, mended
from wespeaker_qm.utils.text import in_another_form

BLOCK_TRIALS = 1 << 16


def read_scores(path: Path | str, trials: TrialTable | None = None) -> ScoredTrials:
    """Read a score file of any layout (:mod:`wespeaker_qm.trials.text`), or the cache beside it where that is current.

    Args:
        path: the file. Where only its cache is there, that is read.
        trials: the list that was scored: labels are its, the order of the result is its, and the file must hold
            exactly its trials. None takes trials and labels from the file.

    Raises:
        RecipeError: as :func:`wespeaker_qm.trials.lists.read_trial_table`; the file is not what was written; a score is
            not a finite number; the file has no labels and there is no list; trials of the list that the file lacks, or
            of the file that the list lacks, or another label.
    """
    path = Path(path)
    cached = read_cache(path)
    if cached is not None:
        scored = _from_cache(path, cached)
    else:
        expected = SCORE_LAYOUTS[4].format
        first = first_fields(path, expected)
        verify(path, mended(path))
        scored = read_lines(path, SCORE_LAYOUTS.get(len(first), SCORE_LAYOUTS[4]))
        if trials is None and len(first) == 3:
            raise RecipeError(
                f"{path}: the file has no labels, expected lines `{expected}`; give the trial list, too (--trials)"
            )
        if len(first) == 3:  # no labels of its own to compare
            scored = scored._replace(trials=dataclasses.replace(scored.trials, is_target=np.zeros(0, np.bool_)))
    return scored if trials is None else _in_order(path, scored, trials)


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
        advice = in_another_form(set(trials.utterances) - set(scored.trials.utterances), scored.trials.utterances)
        of = f"of the {len(trials)} trials of {trials.path}"
        raise RecipeError(
            f"{path}: {counted(len(missing), f'{of} has', f'{of} have')} no score; "
            f"{advice or made_again(path)}:" + first_few([trials.names(trial) for trial in missing])
        )
    if len(found) > len(wanted):
        extra = np.flatnonzero(~np.isin(found, wanted)).tolist()
        raise RecipeError(
            f"{path}: {counted(len(extra), 'trial is', 'trials are')} not in {trials.path}; {made_again(path)}, or "
            "name the list that was scored:" + first_few([scored.trials.names(trial) for trial in extra])
        )
    if len(scored.trials.is_target):
        other = np.flatnonzero(scored.trials.is_target[source] != trials.is_target).tolist()
        if other:
            raise RecipeError(
                f"{path}: {counted(len(other), 'trial has', 'trials have')} another label than in {trials.path}; "
                f"{made_again(path)}:" + first_few([trials.names(trial) for trial in other])
            )
    measures = None if scored.measures is None else scored.measures[source]
    return ScoredTrials(trials, scored.scores[source], measures)


def write_scores(
    path: Path | str,
    trials: TrialTable,
    scores: NDArray[np.float64],
    measures: NDArray[np.float64] | None = None,
    *,
    text: bool = True,
) -> None:
    """Write ``enrolment test score label`` lines, 9 significant digits, and their cache; both are whole or absent.

    Args:
        path: the text; the cache is ``<path>.npz``.
        trials: N of them. Of a list without labels the lines are ``enrolment test score``, and there is no cache.
        scores: (N,).
        measures: (N, K) further columns, 6 significant digits, as after WeSpeaker's normalisation.
        text: False writes the cache alone, with all digits, and removes an older text.
    """
    path = Path(path)
    remove_checked(cache_path(path))  # never beside another text than its own
    if text:
        if not len(trials.is_target):
            _write_unlabelled(path, trials, scores)
            return
        scores, measures = _write_text(path, trials, scores, measures)
    else:
        remove_checked(path)
    write_cache(path, ScoreCache(trials.utterances, trials.enrolment, trials.test, trials.is_target, scores, measures))


def _write_unlabelled(path: Path, trials: TrialTable, scores: NDArray[np.float64]) -> None:
    with checked_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for trial, score in enumerate(scores.tolist()):
            handle.write(f"{trials.names(trial)} {score:.9g}\n")


def _write_text(
    path: Path, trials: TrialTable, scores: NDArray[np.float64], measures: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Write the lines; returns the numbers as a reader of the text gets them."""
    rounded = np.empty_like(scores)
    rounded_measures = None if measures is None else np.empty_like(measures)
    num_measures = 0 if measures is None else measures.shape[1]
    line = "%s %s %.9g %s" + " %.6g" * num_measures
    labels = ("nontarget", "target")
    name = trials.utterances.__getitem__
    width = 4 + num_measures
    with checked_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for start in range(0, len(scores), BLOCK_TRIALS):
            block = slice(start, min(start + BLOCK_TRIALS, len(scores)))
            rounded[block] = to_digits(scores[block], 9)
            cells: list[object] = [None] * (width * (block.stop - start))
            cells[0::width] = map(name, trials.enrolment[block].tolist())
            cells[1::width] = map(name, trials.test[block].tolist())
            cells[2::width] = rounded[block].tolist()
            cells[3::width] = [labels[label] for label in trials.is_target[block].tolist()]
            if measures is not None and rounded_measures is not None:
                rounded_measures[block] = to_digits(measures[block], 6)
                for column in range(num_measures):
                    cells[4 + column :: width] = rounded_measures[block, column].tolist()
            # One call a block takes a third of the time of one a line.
            handle.write(f"{line}\n" * (block.stop - start) % tuple(cells))
    return rounded, rounded_measures


def to_digits(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """``values`` rounded to significant digits, each the float64 nearest to its decimal number.

    Whole multiples of a power of ten that float64 holds exactly, divided by it: such a quotient is rounded correctly,
    so that printing it with so many digits and reading it again gives the same bits. There are no places behind the
    22nd, so numbers below 1e-13 have fewer digits.
    """
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(np.abs(values)))
    places = np.clip(digits - 1 - np.where(np.isfinite(exponent), exponent, 0), -22, 22)
    power = 10.0 ** np.abs(places)
    rounded: NDArray[np.float64] = np.where(
        places >= 0, np.rint(values * power) / power, np.rint(values / power) * power
    )
    return rounded
