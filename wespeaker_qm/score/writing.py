"""Score files: the text that Kaldi and WeSpeaker read, and the binary cache beside it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.score_cache import ScoreCache, cache_path, write_cache
from wespeaker_qm.evaluate.trial_table import TrialTable
from wespeaker_qm.utils.files import atomic_path

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
        measures: (N, 4) further columns, 6 significant digits, as after WeSpeaker's normalisation.
        text: False writes the cache alone, with all digits, and removes an older text.
    """
    path = Path(path)
    cache_path(path).unlink(missing_ok=True)  # never beside another text than its own
    if text:
        scores, measures = _write_text(path, trials, scores, measures)
    else:
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    write_cache(path, ScoreCache(trials.utterances, trials.enrolment, trials.test, trials.is_target, scores, measures))


def _write_text(
    path: Path, trials: TrialTable, scores: NDArray[np.float64], measures: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Write the lines; returns the numbers as a reader of the text gets them."""
    firsts = [f"{name} " for name in trials.utterances]
    kinds = (" nontarget", " target")
    read_scores = np.empty(len(scores))
    read_measures = None if measures is None else np.empty_like(measures)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for start in range(0, len(scores), BLOCK_TRIALS):
            block = slice(start, start + BLOCK_TRIALS)
            texts = [f"{score:.9g}" for score in scores[block].tolist()]
            read_scores[block] = list(map(float, texts))
            tails = [kinds[label] for label in trials.is_target[block].tolist()]
            if measures is not None and read_measures is not None:
                columns = [f" {a:.6g} {b:.6g} {c:.6g} {d:.6g}" for a, b, c, d in measures[block].tolist()]
                read_measures[block] = [list(map(float, column.split())) for column in columns]
                tails = list(map("".join, zip(tails, columns, strict=True)))
            enrolment, test = trials.enrolment[block].tolist(), trials.test[block].tolist()
            handle.write(
                "".join(
                    [
                        f"{firsts[one]}{firsts[two]}{score}{tail}\n"
                        for one, two, score, tail in zip(enrolment, test, texts, tails, strict=True)
                    ]
                )
            )
    return read_scores, read_measures
