"""Score files: the text that Kaldi and WeSpeaker read, and the binary cache beside it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.cache import ScoreCache, cache_path, write_cache
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.checksums import checked_path, remove_checked

BLOCK_TRIALS = 1 << 16


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
        trials: N of them.
        scores: (N,).
        measures: (N, K) further columns, 6 significant digits, as after WeSpeaker's normalisation.
        text: False writes the cache alone, with all digits, and removes an older text.
    """
    path = Path(path)
    remove_checked(cache_path(path))  # never beside another text than its own
    if text:
        scores, measures = _write_text(path, trials, scores, measures)
    else:
        remove_checked(path)
    write_cache(path, ScoreCache(trials.utterances, trials.enrolment, trials.test, trials.is_target, scores, measures))


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
