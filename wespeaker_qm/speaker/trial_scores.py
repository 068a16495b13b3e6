"""Scores of a trial list whose names are recordings: each is read and embedded once."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.speaker.speaker import BATCH, Speaker
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.errors import RecipeError, counted, first_few
from wespeaker_qm.utils.progress import Progress


class ScoredList(NamedTuple):
    """A list, and the scores of its N trials."""

    trials: TrialTable
    """Without those of unusable recordings."""
    scores: NDArray[np.float64]
    """(N,) as the model scores."""
    unusable: list[str]
    """Why each recording was left out, a sentence each."""


def score_recordings(
    model: Speaker, trials: TrialTable, wav_root: Path, *, max_bad_fraction: float = 0.0, batch: int = BATCH
) -> ScoredList:
    """Score a trial list.

    Args:
        model: what embeds and scores.
        trials: its names are paths below ``wav_root``, or absolute ones.
        wav_root: folder of the recordings.
        max_bad_fraction: largest fraction (0 to 1) of the recordings that may be missing or unusable; their trials are
            left out.
        batch: recordings that are read and embedded together.

    Raises:
        RecipeError: more are; the first few are named, and all are counted. Missing ones are told before anything is
            embedded.
    """
    names = trials.utterances
    paths = [_recording(wav_root, name) for name in names]
    refused = {name: f"{path}: no such file" for name, path in zip(names, paths, strict=True) if not path.is_file()}
    _refuse(refused, trials, wav_root, max_bad_fraction)
    embeddings = np.zeros((len(names), model.embed_dim), np.float32)
    rows = [row for row, name in enumerate(names) if name not in refused]
    with Progress(total=len(rows), desc=f"embed {trials.path.name}", unit="recording") as bar:
        for first in range(0, len(rows), batch):
            group = rows[first : first + batch]
            try:
                embeddings[group] = model.embed([paths[row] for row in group], batch=batch)
            except RecipeError:  # of one of them
                refused |= _one_by_one(model, names, paths, group, embeddings)
            bar.update(len(group))
    _refuse(refused, trials, wav_root, max_bad_fraction)
    is_usable = np.array([name not in refused for name in names])
    kept = trials.chosen(is_usable[trials.enrolment] & is_usable[trials.test])
    number = {name: row for row, name in enumerate(names)}
    rows = [number[name] for name in kept.utterances]
    return ScoredList(kept, model.scorer.of_trials(kept, embeddings[rows]), list(refused.values()))


def _recording(wav_root: Path, name: str) -> Path:
    """Where the recording lies; an accented letter of its name is one character in some file systems, two in others."""
    paths = [wav_root / each for each in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))]
    return next((path for path in paths if path.is_file()), paths[0])


def _one_by_one(
    model: Speaker, names: Sequence[str], paths: Sequence[Path], rows: Sequence[int], embeddings: NDArray[np.float32]
) -> dict[str, str]:
    """Embed what can be; name -> why not, of the others."""
    refused = {}
    for row in rows:
        try:
            embeddings[row] = model.embed(paths[row])
        except RecipeError as error:
            refused[names[row]] = str(error)
    return refused


def _refuse(refused: dict[str, str], trials: TrialTable, wav_root: Path, max_bad_fraction: float) -> None:
    """Raise where too many recordings are unusable, or no trial is left."""
    if not refused:
        return
    is_usable = np.array([name not in refused for name in trials.utterances])
    has_trials = bool((is_usable[trials.enrolment] & is_usable[trials.test]).any())
    fraction = len(refused) / len(trials.utterances)
    if has_trials and fraction <= max_bad_fraction:
        return
    leave_out = f", or leave such recordings out (--max_bad_fraction {_enough(fraction)})" if has_trials else ""
    of = f"of its {len(trials.utterances)} recordings"
    raise RecipeError(
        f"{trials.path}: {counted(len(refused), f'{of} is', f'{of} are')} missing or unusable; names in "
        f"the list are paths below --wav_root {wav_root}: correct them or the folder{leave_out}:"
        + first_few(list(refused.values()))
    )


def _enough(fraction: float) -> str:
    """A fraction in few digits, not below it."""
    return f"{min(1.0, np.ceil(1000 * fraction) / 1000):g}"
