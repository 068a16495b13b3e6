"""Beside the stages: a network that WeSpeaker trained becomes a model folder, as stage 8 writes one."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.export.contents import Evidence, ScoringCard
from wespeaker_qm.export.evidence import gather_evidence
from wespeaker_qm.export.files import CARD, COHORT, DESCRIPTION, WEIGHTS
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.score.calibration import Calibration
from wespeaker_qm.score.calibration_fit import CalibrationError, fit
from wespeaker_qm.score.cosine import load_mean
from wespeaker_qm.score.normalisation import TOP_N
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.speaker.torch_network import TorchNetwork
from wespeaker_qm.speaker.trial_scores import score_recordings
from wespeaker_qm.stages.adopting import finished_weights, of_training_speakers
from wespeaker_qm.stages.exporting import exported, model_files, plain_settings, read_network, write_model_files
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.speakers import speakers_by_folder, trial_speakers
from wespeaker_qm.utils.calls import AnyPath, optional_path
from wespeaker_qm.utils.done import DoneMarker, file_digest, file_stamp
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import Folder, RunFolder
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map
from wespeaker_qm.utils.vectors import VectorTable

IMPORTED = Path("exp/imported")
"""Where model folders go by default."""

_COSINE = ScoringCard(normalisation="cosine", top_n=None, largest_change=0.0)
_NORMALISED = ScoringCard(normalisation="asnorm", top_n=TOP_N, largest_change=0.0)

logger = logging.getLogger(__name__)


def import_model(
    *,
    model: AnyPath,
    out: AnyPath | None = None,
    trials: AnyPath | None = None,
    wav_root: AnyPath | None = None,
    utt2spk: AnyPath | None = None,
    device: str = "auto",
    max_bad_fraction: float = 0.0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Path:
    """Write a model folder (:mod:`wespeaker_qm.export.folder`) of a network that WeSpeaker, or this recipe, trained.

    Where the folder has the mean of the training embeddings, it is subtracted; where it has the mean embedding of each
    training speaker, too, scores are normalised against those (AS-norm); else they are plain cosines. A trial list of
    one's own gives thresholds and a calibration; without one there are scores, and no decisions.

    Args:
        model: an experiment folder (``config.yaml``, ``models/avg_model.pt``; ``embeddings/<set>/mean_vec.npy`` and
            ``spk_xvector.scp``, as WeSpeaker's scoring leaves them), or a folder with ``avg_model.pt`` beside
            ``config.yaml``, as WeSpeaker offers them for download.
        out: the model folder; None for one of the same name in ``exp/imported``.
        trials: list with labels whose names are recordings.
        wav_root: their folder.
        utt2spk: recording and speaker a line, for the intervals of the thresholds; None takes the speakers from the
            folders in the names, if there are any and the labels agree, and goes without intervals otherwise.
        device: that embeds: ``auto``, ``cpu`` or ``cuda``.
        max_bad_fraction: largest fraction (0 to 1) of the recordings that may be missing or unusable.
        num_resamples: of the speakers, for the intervals; 0 for none, or at least 2.
        seed: of the resamples.

    Returns:
        The model folder.

    Raises:
        RecipeError: there is no such network, or it is of a kind that is not offered here; the list or its recordings
            cannot be used; files that no stage made.
    """
    model, trials, wav_root, utt2spk = RunFolder(model), *map(optional_path, (trials, wav_root, utt2spk))
    folder = Folder(IMPORTED / model.name if out is None else out)
    if (trials is None) != (wav_root is None) or (utt2spk is not None and trials is None):
        raise RecipeError("--trials and --wav_root: found one without the other, expected both, or neither of the two")
    weights = finished_weights(model)
    mean, cohort, _ = of_training_speakers(model, weights)
    inputs: dict[str, Any] = {"configuration": file_digest(model.config), "weights": file_digest(weights)}
    inputs |= {} if mean is None else {"mean": file_digest(mean)}
    inputs |= {} if cohort is None else {"cohort": file_digest(cohort.with_suffix(".ark"))}  # the scp names its place
    if trials is not None and wav_root is not None:
        inputs |= {"trials": file_digest(trials), "max_bad_fraction": max_bad_fraction}
        inputs |= {"recordings": [file_stamp(wav_root / name) for name in read_trial_table(trials).utterances]}
        inputs |= {"utt2spk": None if utt2spk is None else file_digest(utt2spk)}
        inputs |= {"num_resamples": num_resamples, "seed": seed}
    outputs = [folder.path / name for name in (DESCRIPTION, WEIGHTS, CARD)]
    marker = DoneMarker(folder.marker("import"), inputs, outputs, version=STAGE_VERSIONS["import"], checks_outputs=True)
    with stage("import", marker, others=[folder.path / COHORT]) as is_due:
        if is_due:
            network = read_network(load_config([model.config], for_training=False), weights, trim_silence=True)
            speakers = _speakers(mean, cohort, network.card.embed_dim)
            made: dict[str, Any] = {
                "name": f"{model.name}, imported",
                "network": network,
                "scoring": _NORMALISED if "speakers" in speakers else _COSINE,
                "cohort": speakers,
                "training": _training(model),
                "figures": {},
            }
            files = model_files(**made, calibration=None, evidence=None)
            if trials is not None and wav_root is not None:
                unmeasured = ModelFolder.of_files(folder.path, files)
                speaker = Speaker(unmeasured, TorchNetwork(unmeasured, device))
                evidence, calibration = _measured(
                    speaker, trials, wav_root, utt2spk, max_bad_fraction, num_resamples, seed
                )
                files = model_files(**made, calibration=calibration, evidence=evidence)
            write_model_files(folder.path, files)
    if trials is None:
        logger.warning(
            "%s: scores, but no decisions: there was no trial list to measure thresholds on; import it again with one "
            "(--trials FILE --wav_root DIR)",
            folder,
        )
    logger.info("model: %s (wespeaker-qm verify a.wav b.wav --model %s)", folder, folder)
    return folder.path


def _speakers(mean: Path | None, cohort: Path | None, embed_dim: int) -> dict[str, NDArray[np.float32]]:
    """The mean (D,) of the training embeddings, and those of the training speakers (C, D), as far as they are there.

    Raises:
        RecipeError: they are damaged, or of another network.
    """
    found = {} if mean is None else {"mean": load_mean(mean).astype(np.float32)}
    if cohort is not None:
        table = VectorTable(cohort)
        found["speakers"] = table.load(table.names)
    for name, path in (("mean", mean), ("speakers", cohort)):
        if name in found and found[name].shape[-1] != embed_dim:
            raise RecipeError(
                f"{path}: {found[name].shape[-1]} dimensions, expected the {embed_dim} of the network; move it away, "
                "or put there what was made with these weights"
            )
    return found


def _measured(
    speaker: Speaker,
    path: Path,
    wav_root: Path,
    utt2spk: Path | None,
    max_bad_fraction: float,
    num_resamples: int,
    seed: int,
) -> tuple[Evidence, Calibration | None]:
    """What the list tells: thresholds, and how scores become log-likelihood ratios."""
    scored = score_recordings(speaker, read_trial_table(path), wav_root, max_bad_fraction=max_bad_fraction)
    for reason in scored.unusable:
        logger.warning("left out: %s", reason)
    trials = scored.trials
    speakers = speakers_by_folder(trials) if utt2spk is None else trial_speakers(trials, read_map(utt2spk))
    info = CorpusInfo(
        name=os.path.realpath(wav_root).rpartition("/")[2],
        caveat="A list of the user's own.",
        trials={path.name: path.name},
        headline=path.name,
    )
    evidence = gather_evidence(
        info, trials, scored.scores, speakers, num_resamples=num_resamples, seed=seed, bandwidth_hz=None
    )
    try:
        calibration = fit(scored.scores, np.empty((len(trials), 0, 2)), trials.is_target)
    except CalibrationError as error:
        logger.warning("no log-likelihood ratios: %s", error)
        return evidence, None
    return evidence, calibration


def _training(model: RunFolder) -> dict[str, Any]:
    """What is known of the training: its settings."""
    unknown = dict.fromkeys(("corpus", "loss", "num_epochs", "time", "commit"))
    empty = dict.fromkeys(("description", "caveat", "licence"), "")
    return {**unknown, **empty, "config": plain_settings(model.config), "exported": exported()}
