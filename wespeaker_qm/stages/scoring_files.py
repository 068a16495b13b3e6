"""Beside the stages: scores of a trial list whose names are recordings, with a finished model."""

import logging
from pathlib import Path

from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.speaker.speaker import BATCH, Speaker
from wespeaker_qm.speaker.trial_scores import score_recordings
from wespeaker_qm.stages.measuring import measure
from wespeaker_qm.trials.lists import read_pairs
from wespeaker_qm.trials.score_files import write_scores
from wespeaker_qm.utils.calls import AnyPath, optional_path
from wespeaker_qm.utils.checksums import checksum_path
from wespeaker_qm.utils.errors import RecipeError

logger = logging.getLogger(__name__)


def score_files(
    *,
    trials: AnyPath,
    wav_root: AnyPath,
    model: AnyPath | None = None,
    out: AnyPath | None = None,
    utt2spk: AnyPath | None = None,
    device: str = "auto",
    batch: int = BATCH,
    max_bad_fraction: float = 0.0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Path:
    """Score a list and write ``enrolment test score label`` lines; where it has labels of both kinds, log the figures.

    Scores are those of :meth:`wespeaker_qm.speaker.speaker.Speaker.verify`: normalised where the model has a cohort.

    Args:
        trials: list, ``enrolment test target|nontarget``, ``1|0 enrolment test``, or ``enrolment test`` without labels.
        wav_root: folder of the recordings that its names are.
        model: model folder, zip of one, or ``.onnx``; None for the default one.
        out: score file; None for one named as the list, ``<list>.score``, in the current folder.
        utt2spk: recording and speaker a line, for intervals; None takes the speakers from the folders in the names, if
            there are any and the labels agree, and goes without intervals otherwise.
        device: that embeds: ``auto``, ``cpu`` or ``cuda``.
        batch: recordings that are read and embedded together.
        max_bad_fraction: largest fraction (0 to 1) of the recordings that may be missing or unusable; their trials are
            left out.
        num_resamples: for the intervals; 0 for none, or at least 2.
        seed: of the resamples.

    Returns:
        The score file.

    Raises:
        RecipeError: there is no model, the list is broken, recordings are missing or unusable, or ``out`` is a file
            that this program has not written.
    """
    trials, wav_root, utt2spk = Path(trials), Path(wav_root), optional_path(utt2spk)
    out = Path(f"{trials.stem}.score" if out is None else out)
    if out.exists() and not checksum_path(out).is_file():
        raise RecipeError(f"--out {out}: exists, and is no score file of this program; choose another name")
    if utt2spk is not None and not utt2spk.is_file():
        raise RecipeError(f"--utt2spk {utt2spk}: no such file, expected a table of recordings and speakers")
    table = read_pairs(trials)
    speaker = Speaker.load(default_model(optional_path(model)), device=device)
    scored = score_recordings(speaker, table, wav_root, max_bad_fraction=max_bad_fraction, batch=batch)
    for reason in scored.unusable:
        logger.warning("left out: %s", reason)
    write_scores(out, scored.trials, scored.scores)
    logger.info("scored %d of %d trials of %s -> %s", len(scored.trials), len(table), trials, out)
    is_target = scored.trials.is_target
    if is_target.any() and not is_target.all():
        measure(score_files=out, utt2spk=utt2spk, num_resamples=num_resamples, seed=seed)
    elif len(is_target):
        logger.warning("%s: no figures, because all of its trials are of one kind", trials)
    return out
