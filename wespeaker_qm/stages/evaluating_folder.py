"""Beside the stages: a finished model on a tree of recordings, from preparation to report."""

import os
from pathlib import Path

from wespeaker_qm.config import load_config
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.score.normalisation import TOP_N
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.stages.adopting import finished_weights, is_model_folder
from wespeaker_qm.stages.calibrating import calibrate
from wespeaker_qm.stages.evaluating import evaluate
from wespeaker_qm.stages.extracting import extract
from wespeaker_qm.stages.normalising import Method, normalise
from wespeaker_qm.stages.packing import pack
from wespeaker_qm.stages.preparing import prepare
from wespeaker_qm.stages.reporting import report
from wespeaker_qm.stages.scoring import score
from wespeaker_qm.utils.calls import AnyPath, optional_path
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.remedies import one_command

EVALUATED = Path("exp/evaluated")
"""Where results go by default."""


@one_command({"--audio_root": "DIR", "--data": "--out", "--exp_dir": "--out"})
def evaluate_folder(
    *,
    audio_root: AnyPath,
    model: AnyPath | None = None,
    out: AnyPath | None = None,
    device: str = "auto",
    num_workers: int = 1,
    min_duration: float = FolderSettings.min_duration,
    max_bad_fraction: float = 0.0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> RunFolder:
    """Evaluate a finished model on all speakers of a tree: the stages of ``run.sh --corpus egs/folder --model``.

    Args:
        audio_root: the tree ``speaker/.../utterance.wav``.
        model: a model folder, or zip of one, as stage 8 writes it, or a folder with ``config.yaml`` and
            ``avg_model.pt``; None for the default model.
        out: where scores, figures and ``report.html`` go, with the packed recordings in its ``data/``; None for
            ``exp/evaluated/<name of the tree>``.
        device: that embeds: ``auto``, ``cpu`` or ``cuda``.
        num_workers: processes that prepare and pack; the result does not depend on them.
        min_duration: shorter recordings, in s, are unusable.
        max_bad_fraction: largest fraction (0 to 1) of the recordings that may be unusable and are left out.
        num_resamples: of the speakers, for the intervals; 0 for none, or at least 2.
        seed: of the resamples.

    Returns:
        The folder of the results.

    Raises:
        RecipeError: there is no model, or as the stages say.
    """
    root = Path(audio_root)
    finished = default_model(optional_path(model))
    if finished.suffix == ".onnx":
        raise RecipeError(f"--model {finished}: an .onnx file, expected the model folder that it was made with")
    name = os.path.basename(os.path.realpath(root))
    run = RunFolder(EVALUATED / name if out is None else out)
    data = DataFolder(run.path / "data" / name)
    method: Method = "asnorm"
    top_n, trim_silence = TOP_N, True
    if is_model_folder(finished):
        folder = ModelFolder.read(finished)
        sample_rate, trim_silence = folder.features.sample_rate, folder.features.trim_silence
        if folder.scoring.normalisation != "cosine":
            method, top_n = folder.scoring.normalisation, folder.scoring.top_n or TOP_N
    else:
        finished_weights(RunFolder(finished))  # or else it is refused before anything is prepared
        sample_rate = load_config([RunFolder(finished).config], for_training=False).dataset_args.resample_rate
    limits = {"min_duration": min_duration, "max_bad_fraction": max_bad_fraction}
    options = {"audio_root": root, "eval_speakers": "all", **limits}
    prepare(recipe_dir="egs/folder", data=data, num_workers=num_workers, options=options)
    pack(data=data, sample_rate=sample_rate, num_workers=num_workers, max_bad_fraction=max_bad_fraction)
    baselines = {"untrained": run.untrained, "ltas": RunFolder(run.path / "ltas")}
    extract(data=data, run=run, model=finished, trim_silence=trim_silence, device=device)
    extract(data=data, run=run, system="untrained", trim_silence=trim_silence, device=device)
    extract(data=data, run=baselines["ltas"], system="ltas", trim_silence=trim_silence)
    for system in (run, *baselines.values()):
        score(data=data, run=system)
    normalise(data=data, run=run, method=method, top_n=top_n)
    calibrate(data=data, run=run, scores=method)
    evaluate(data=data, run=run, baselines=baselines, num_resamples=num_resamples, seed=seed)
    report(data=data, runs=[run])
    return run
