"""Beside the stages: a model folder is trained further on a tree of recordings, and compared with what it was."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.corpora.folder.speaker_split import ALL
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.score.normalisation import TOP_N
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.stages.averaging import average
from wespeaker_qm.stages.calibrating import calibrate
from wespeaker_qm.stages.evaluating import evaluate
from wespeaker_qm.stages.exporting import export
from wespeaker_qm.stages.exporting_onnx import export_onnx
from wespeaker_qm.stages.extracting import extract
from wespeaker_qm.stages.normalising import normalise
from wespeaker_qm.stages.packing import pack
from wespeaker_qm.stages.preparing import prepare
from wespeaker_qm.stages.reporting import report
from wespeaker_qm.stages.scoring import score
from wespeaker_qm.stages.training import train
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores, write_scores
from wespeaker_qm.utils.calls import AnyPath, listed, optional_path
from wespeaker_qm.utils.done import DoneMarker, file_digest
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.remedies import one_command
from wespeaker_qm.utils.stage import alone, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map
from wespeaker_qm.utils.text import json_or_none

FINE_TUNED = Path("exp/fine_tuned")
"""Where results go by default."""
SETTINGS = Path("conf/fine_tuning.yaml")
EVAL_SPEAKERS = "0.5"
"""Half of the speakers tell what the training on the other half was worth."""
LEAST_SAMPLES = 640
"""Of an epoch, however few recordings there are."""
LEAST_COHORT = 30
"""Fewer speakers say too little of how impostors score for scores to be normalised by them."""

_OPTIONS = {"--audio_root": "DIR", "--data": "--out", "--exp_dir": "--out", "--overrides": "--set"}
"""Options of the stages, as the command has them."""

logger = logging.getLogger(__name__)


@one_command(_OPTIONS)
def fine_tune(
    *,
    audio_root: AnyPath,
    model: AnyPath | None = None,
    out: AnyPath | None = None,
    eval_speakers: str = EVAL_SPEAKERS,
    noise: str = "babble",
    overrides: str | Sequence[str] = (),
    device: str = "auto",
    num_workers: int = 1,
    min_duration: float = FolderSettings.min_duration,
    max_bad_fraction: float = 0.0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> RunFolder:
    """Train a model further on some speakers of a tree, and measure it on the others beside what it was.

    The stages of ``run.sh --corpus egs/folder``, with ``conf/fine_tuning.yaml`` and the model's weights to begin with.
    Interrupted, the same call goes on where it stopped. The report compares three: ``trained``, the new network;
    ``initial``, the old one in its place, of whose embeddings the mean over the new recordings is subtracted, too; and
    ``before``, the model as it came, with the mean, cohort and normalisation of its own.

    Args:
        audio_root: the tree ``speaker/.../utterance.wav``.
        model: a model folder, or zip of one; None for the default model.
        out: where the training, figures, ``report.html`` and the new ``model/`` go, with the packed recordings in its
            ``data/``; None for ``exp/fine_tuned/<name of the tree>``.
        eval_speakers: who is held out for the figures, as ``egs/folder`` has it: a fraction, a number, or names.
        noise: for augmentation, as ``egs/folder`` has it: ``babble``, ``debian`` or a tree.
        overrides: of single keys of the configuration, e.g. ``num_epochs=20``.
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: processes that prepare and pack; the result does not depend on them.
        min_duration: shorter recordings, in s, are unusable.
        max_bad_fraction: largest fraction (0 to 1) of the recordings that may be unusable and are left out.
        num_resamples: of the speakers, for the intervals; 0 for none, or at least 2.
        seed: of the resamples; that of the training is the key ``seed``.

    Returns:
        The folder of the results; ``model_folder`` in it is the new model.

    Raises:
        RecipeError: there is no model folder, too few speakers, ``out`` holds something else, or as the stages say.
    """
    root = Path(audio_root)
    finished = default_model(optional_path(model))
    if finished.suffix == ".onnx":
        raise RecipeError(f"--model {finished}: an .onnx file, expected the model folder that it was made with")
    if eval_speakers.strip() == ALL:
        raise RecipeError(f"--eval_speakers {ALL}: nobody would be left to train on, expected some of the speakers")
    base = ModelFolder.read(finished)
    name = os.path.basename(os.path.realpath(root))
    run = RunFolder(FINE_TUNED / name if out is None else out)
    data = DataFolder(run.path / "data" / name)
    _refuse_other_run(run, base)
    limits = {"min_duration": min_duration, "max_bad_fraction": max_bad_fraction}
    options = {"audio_root": root, "eval_speakers": eval_speakers, "noise": noise, **limits}
    prepare(recipe_dir="egs/folder", data=data, num_workers=num_workers, options=options)
    pack(data=data, sample_rate=base.features.sample_rate, num_workers=num_workers)
    info = CorpusInfo.load(data.info)
    utt2spk = read_map(data.set(info.training_set(data.info)).utt2spk)
    trim = base.features.trim_silence

    extract(data=data, run=run.given, model=finished, trim_silence=trim, device=device)
    _note_origin(run, base)
    settings = [
        f"dataset_args.sample_num_per_epoch={max(LEAST_SAMPLES, len(utt2spk))}",
        f"device={device}",
        *_as_trained_before(base),
        *listed(overrides),
        f"model_init={json.dumps(str(run.given.average))}",
    ]
    train(data=data, run=run, config=[SETTINGS, run.given.config], overrides=settings)
    average(run=run, data=data)
    extract(data=data, run=run, trim_silence=trim)
    extract(data=data, run=run, system="initial", trim_silence=trim)
    ltas = RunFolder(run.path / "ltas")
    extract(data=data, run=ltas, system="ltas", trim_silence=trim)
    for system in (run.given, run, run.initial, ltas):
        score(data=data, run=system)
    _score_as_before(data, run, base)
    if len(set(utt2spk.values())) >= LEAST_COHORT:
        normalise(data=data, run=run)
        calibrate(data=data, run=run)
    baselines = {"before": run.before, "initial": run.initial, "ltas": ltas}
    evaluate(data=data, run=run, baselines=baselines, num_resamples=num_resamples, seed=seed)
    report(data=data, runs=[run], base=SETTINGS)
    export(data=data, run=run, num_resamples=num_resamples, seed=seed)
    export_onnx(data=data, run=run, if_possible=True)
    logger.info("fine-tuned: %s (wespeaker-qm verify a.wav b.wav --model %s)", run.model_folder, run.model_folder)
    return run


def _refuse_other_run(run: RunFolder, base: ModelFolder) -> None:
    """Refuse a folder in which anything but the same model was fine-tuned, before anything is written there."""
    origin = json_or_none(run.origin)
    if isinstance(origin, dict) and origin.get("fingerprint") == base.fingerprint:
        return
    if isinstance(origin, dict) and isinstance(origin.get("fingerprint"), str):
        raise RecipeError(
            f"--out {run}: holds what became of the model {origin['fingerprint'][:12]}, found {base.path}, which is "
            f"{base.fingerprint[:12]}; name that model, choose another --out, or delete {run}"
        )
    if run.marker("").is_dir():
        raise RecipeError(f"--out {run}: holds another training or evaluation; choose another folder")


def _note_origin(run: RunFolder, base: ModelFolder) -> None:
    """Write which model it is that is trained further, and what is known of its own training."""
    content = {"fingerprint": base.fingerprint, "training": base.training}
    if json_or_none(run.origin) != content:
        with alone(run.path, [run.origin], made_before=lambda: False):
            write_text(run.origin, json.dumps(content, indent=1) + "\n")


def _as_trained_before(base: ModelFolder) -> list[str]:
    """Settings of the model's own training that suit its network, where they are known."""
    config = base.training.get("config")
    dataset = config.get("dataset_args") if isinstance(config, dict) else None
    if not isinstance(dataset, dict) or "num_frms" not in dataset:
        return []
    return [f"dataset_args.num_frms={dataset['num_frms']}"]


def _score_as_before(data: DataFolder, run: RunFolder, base: ModelFolder) -> None:
    """The scores of the model as it came, normalised as it normalises, as those of a system of their own."""
    info = CorpusInfo.load(data.info)
    method, variant = base.scoring.normalisation, ""
    if method != "cosine":
        normalise(data=data, run=run.given, method=method, top_n=base.scoring.top_n or TOP_N)
        variant = method
    inputs: dict[str, Any] = {"normalisation": method}
    for trial_list in info.trials:
        inputs |= {f"scores of {trial_list}": file_digest(run.given.scores(trial_list, variant))}
    outputs = [run.before.scores(trial_list) for trial_list in info.trials]
    marker = DoneMarker(
        run.before.marker("copy"), inputs, outputs, version=STAGE_VERSIONS["score"], checks_outputs=True
    )
    with stage("score before", marker) as is_due:
        if is_due:
            for trial_list in info.trials:
                trials = read_trial_table(data.trials(trial_list))
                scores = read_scores(run.given.scores(trial_list, variant), trials).scores
                write_scores(run.before.scores(trial_list), trials, scores)
