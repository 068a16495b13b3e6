"""Stage 4 with a finished model: take over its weights, and what it knows of its training speakers."""

import logging
import os
from pathlib import Path

import numpy as np
import torch

from wespeaker_qm.config import load_config
from wespeaker_qm.export.files import DESCRIPTION
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.score.calibration import Calibration
from wespeaker_qm.score.calibration_file import load_calibration, save_calibration
from wespeaker_qm.score.cosine import load_mean
from wespeaker_qm.score.upstream import stale
from wespeaker_qm.trials.variants import CALIBRATED
from wespeaker_qm.utils.checksums import checked_path, remove_checked, write_checked_text
from wespeaker_qm.utils.done import DoneMarker, file_digest, recorded_inputs
from wespeaker_qm.utils.errors import NUM_SHOWN, RecipeError
from wespeaker_qm.utils.files import is_zip, scratch_folder
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.vectors import VectorTable, write_vectors
from wespeaker_qm.utils.yaml_files import dump_yaml, read_yaml_mapping

logger = logging.getLogger(__name__)


def adopt(model: RunFolder, run: RunFolder) -> None:
    """Copy a finished model into a run of its own, which evaluates it on another corpus.

    With the weights comes what needs training speakers, as far as the model's folder has it and it is of these weights:
    their mean embedding, the cohort of stage 6 and the calibration of stage 7.

    Args:
        model: a folder with ``config.yaml`` and ``models/avg_model.pt``, or ``avg_model.pt`` beside ``config.yaml``; or
            a model folder of stage 8, or a zip of one.
        run: where its embeddings, scores and reports on the other corpus go.

    Raises:
        RecipeError: no such model, or it is broken; ``run`` is the model's folder, or holds a training; files that no
            stage made.
    """
    if os.path.realpath(model) == os.path.realpath(run):
        raise RecipeError(
            f"--exp_dir {run}: the folder of the model itself, expected another one for its results on this corpus"
        )
    if any(path.exists() for path in (run.marker("train"), run.states, *run.earlier_states, run.training_log)):
        raise RecipeError(f"--exp_dir {run}: holds a training of its own; choose another folder for --model {model}")
    if is_model_folder(model.path):
        with scratch_folder("wespeaker_qm_model") as place:
            unpacked = RunFolder(place / "model")
            _unpack(ModelFolder.read(model.path), unpacked)
            _adopt(unpacked, run, str(model))
    else:
        _adopt(model, run, str(model))


def is_model_folder(path: Path) -> bool:
    """Whether that is a model folder, as stage 8 writes it, or a zip of one."""
    return (path / DESCRIPTION).is_file() or (path.is_file() and is_zip(path))


def _unpack(folder: ModelFolder, model: RunFolder) -> None:
    """Lay a model folder out as that of a training: configuration and weights, and mean, cohort and calibration."""
    features, scoring = folder.features, folder.scoring
    settings = {
        "model": folder.network.encoder,
        "model_args": folder.network.arguments,
        "dataset_args": {
            "resample_rate": features.sample_rate,
            "fbank_args": {
                "num_mel_bins": features.num_mel_bins,
                "frame_length": features.frame_length_ms,
                "frame_shift": features.frame_shift_ms,
            },
        },
    }
    write_checked_text(model.config, dump_yaml(settings))
    weights = {name: torch.from_numpy(folder.weights[name]) for name in sorted(folder.weights)}  # the same bytes again
    checkpoint.save(weights, model.average)
    if folder.mean is None:
        return
    with checked_path(model.mean_xvector) as temporary:
        np.save(temporary, folder.mean)
    if folder.cohort is None:
        return
    names = [f"training_speaker_{number:06d}" for number in range(len(folder.cohort))]
    target = model.adopted_cohort
    write_vectors(target.parent, target.stem, names, folder.cohort)
    if folder.calibration is None:
        return
    save_calibration(model.calibration, Calibration(**folder.calibration), {})
    made_with = {"scores": scoring.normalisation, "top_n": scoring.top_n}
    DoneMarker(model.marker(CALIBRATED), made_with, [model.calibration], version=STAGE_VERSIONS["calibrate"]).write()


def _adopt(model: RunFolder, run: RunFolder, name: str) -> None:
    """As :func:`adopt`, of a model that is laid out as a training; ``name`` is what it is called."""
    weights = finished_weights(model)
    load_config([model.config], for_training=False)  # or else it is refused before anything is copied
    mean, cohort, calibration = of_training_speakers(model, weights)
    fitted = recorded_inputs(model.marker(CALIBRATED)) or {}
    inputs = {
        "configuration": file_digest(model.config),
        "weights": file_digest(weights),
        "mean": None if mean is None else file_digest(mean),
        "cohort": None if cohort is None else file_digest(cohort.with_suffix(".ark")),  # the scp names its place
        "calibration": None if calibration is None else file_digest(calibration),
        "calibrated scores": None if calibration is None else fitted["scores"],
        "calibrated top_n": None if calibration is None else fitted["top_n"],
    }
    copies = {run.mean_xvector: mean, run.adopted_cohort: cohort, run.adopted_calibration: calibration}
    outputs = [run.config, run.average, *(copy for copy, original in copies.items() if original is not None)]
    marker = DoneMarker(run.marker("adopt"), inputs, outputs, version=STAGE_VERSIONS["extract"], checks_outputs=True)
    with stage("adopt", marker, others=[*copies, run.adopted_cohort.with_suffix(".ark")]) as is_due:
        if not is_due:
            return
        for copy, original in copies.items():
            if original is None:
                remove_checked(copy)  # of the model that was here before
        # As it is: how a model of WeSpeaker's was trained need not be offered here. What the training began with is the
        # baseline of another evaluation, and its GPUs may be of another machine.
        settings = {**read_yaml_mapping(model.config), "model_init": None, "gpus": None}
        write_checked_text(run.config, dump_yaml(settings))
        checkpoint.save(checkpoint.load(weights), run.average)
        if mean is not None:
            with checked_path(run.mean_xvector) as temporary:
                np.save(temporary, load_mean(mean))
        if cohort is not None:
            table = VectorTable(cohort)
            target = run.adopted_cohort
            write_vectors(target.parent, target.stem, table.names, table.load(table.names))
        if calibration is not None:
            save_calibration(run.adopted_calibration, *load_calibration(calibration))
    logger.info("%s: evaluated in %s", name, run)


def finished_weights(model: RunFolder) -> Path:
    """The file of the weights of a finished model, ours or WeSpeaker's.

    Args:
        model: a folder with ``config.yaml`` and ``models/avg_model.pt``, or ``avg_model.pt`` beside ``config.yaml``.

    Raises:
        RecipeError: it, or the configuration, is not there.
    """
    if not model.path.is_dir():
        found_there = "a file" if model.path.exists() else "no such folder"
        raise RecipeError(
            f"{model}: {found_there}, expected a model: a folder with config.yaml and avg_model.pt, or that of stage 8"
        )
    places = (model.average, model.path / model.average.name)
    found = [path for path in places if path.is_file()]
    for path in (*([] if model.config.is_file() else [model.config]), *([] if found else [model.average])):
        raise RecipeError(
            f"{model}: found no {path.relative_to(model.path)} there, expected a folder with config.yaml and "
            "avg_model.pt (beside it or in models/); of a training, average the checkpoints first (run.sh --stage 4 "
            f"--exp_dir {model})"
        )
    return found[0]


def of_training_speakers(model: RunFolder, weights: Path) -> tuple[Path | None, Path | None, Path | None]:
    """The model's mean, cohort and calibration: None for what is not there or not usable, which is said.

    The cohort is nothing without the mean, nor the calibration without the cohort: they were made with it. WeSpeaker
    leaves the mean in ``embeddings/<set>/mean_vec.npy``, and the cohort where this recipe does.

    Args:
        model: a folder with a finished model, as :func:`finished_weights` has it.
        weights: of it.
    """
    mean = model.mean_xvector
    if not mean.is_file():
        means = sorted(model.embeddings.glob(f"*/{mean.name}"))
        if len(means) > 1:
            logger.warning(
                "%s: several means of training embeddings, of which none is taken: %s",
                model,
                ", ".join(map(str, means[:NUM_SHOWN])),
            )
        mean = means[0] if len(means) == 1 else mean
    made_of = [recorded_inputs(path) or {} for path in (model.path / ".done").glob("extract_*")]
    if not mean.is_file():
        logger.warning("%s: no mean of training embeddings (%s), and so no cohort", model, mean.name)
        return None, None, None
    name = f"models/{weights.name}"
    if any(inputs.get(name, file_digest(weights)) != file_digest(weights) for inputs in made_of):
        logger.warning("%s: left out with the cohort, because the weights are others since; extract there again", mean)
        return None, None, None
    cohorts = [path for path in model.embeddings.glob("*/spk_xvector.scp")]
    cohort = next((path for path in (model.adopted_cohort, *sorted(cohorts)) if path.is_file()), None)
    try:
        if cohort is None:
            raise RecipeError("stage 6 has not been run there")
        if reasons := stale("cohort", model, DataFolder(model.path)):
            raise RecipeError("; ".join(reasons))
        table = VectorTable(cohort)
        table.load(table.names)
    except RecipeError as error:
        logger.warning("%s: no cohort to normalise scores by: %s", model, error)
        return mean, None, None
    has_record = {"scores", "top_n"} <= (recorded_inputs(model.marker(CALIBRATED)) or {}).keys()
    return mean, cohort, model.calibration if model.calibration.is_file() and has_record else None
