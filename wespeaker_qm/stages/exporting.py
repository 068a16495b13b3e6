"""Stage 8: the model as a folder that can be copied, and used without the corpus."""

import contextlib
import dataclasses
import io
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.config import Config, load_config, saved_settings
from wespeaker_qm.config.fields import without_own_defaults
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.export.card import model_card
from wespeaker_qm.export.cohort import Stored, stored_cohort
from wespeaker_qm.export.contents import Evidence, FeatureCard, NetworkCard, Normalisation, ScoringCard
from wespeaker_qm.export.evidence import gather_evidence
from wespeaker_qm.export.files import CARD, COHORT, DESCRIPTION, WEIGHTS, description, safetensors
from wespeaker_qm.export.folder import fingerprint
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.report.loss_card import loss_card
from wespeaker_qm.score.calibration import Calibration
from wespeaker_qm.score.calibration_file import load_calibration
from wespeaker_qm.score.cohort import has_cohort, has_mean, load_cohort
from wespeaker_qm.score.cosine import load_mean, trial_directions
from wespeaker_qm.score.upstream import digests, refuse_stale, stale
from wespeaker_qm.speaker.default import POINTER
from wespeaker_qm.stages.evaluating import OWN_SYSTEMS
from wespeaker_qm.stages.normalising import Method
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.speakers import trial_speakers
from wespeaker_qm.trials.variants import CALIBRATED, exists
from wespeaker_qm.utils.calls import AnyPath, optional_path
from wespeaker_qm.utils.done import DoneMarker, recorded_inputs
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path, write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.provenance import provenance
from wespeaker_qm.utils.stage import reads_data, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map, read_numbers
from wespeaker_qm.utils.text import json_or_none

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The same files make the same zip."""

logger = logging.getLogger(__name__)


@reads_data
def export(
    *,
    data: AnyPath,
    run: AnyPath,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    latest: AnyPath | None = None,
) -> None:
    """Write ``model/`` and ``model.zip``: all that turns recordings into decisions (:mod:`wespeaker_qm.export.folder`).

    What the run lacks (scores, a cohort, a calibration) the model lacks, too, and says so.

    Args:
        data: the corpus that the run was evaluated on.
        run: with averaged weights.
        num_resamples: of the speakers, for the intervals of the thresholds; 0 for none, or at least 2.
        seed: of the resamples.
        latest: a file in which to note the folder, as the default model of later commands; None notes nothing.

    Raises:
        RecipeError: weights or embeddings are missing, damaged, or not of what is there now; files that no stage made.
    """
    data, run, latest = DataFolder(data), RunFolder(run), optional_path(latest)
    info = CorpusInfo.load(data.info)
    if latest is not None:
        _refuse_foreign_pointer(latest)
    refuse_stale(run, data, info, scored=False)
    config = load_config([run.config], for_training=False)
    made_of = _Parts.of(data, run, info)
    names = [DESCRIPTION, WEIGHTS, CARD, *([COHORT] if made_of.has_mean else [])]
    outputs = [*(run.model_folder / name for name in names), run.model_zip]
    inputs = {**digests(made_of.sources, run, data), "num_resamples": num_resamples, "seed": seed}
    inputs |= {"scores": made_of.normalisation, "top_n": made_of.top_n, "trim_silence": made_of.trim_silence}
    marker = DoneMarker(run.marker("export"), inputs, outputs, version=STAGE_VERSIONS["export"], checks_outputs=True)
    with stage("export", marker, others=[run.model_folder / COHORT]) as is_due:
        if is_due:
            for part in made_of.lacking:
                logger.warning("stage export: the model goes without %s, which %s has not", part, run)
            files = _files(data, run, info, config, made_of, num_resamples, seed)
            with atomic_path(run.model_zip) as temporary:
                temporary.write_bytes(_zipped(files))
                write_model_files(run.model_folder, files)
                run.model_zip.unlink(missing_ok=True)  # of other files than those that are there now
            logger.info("model: %s, and the same in one file: %s", run.model_folder, run.model_zip)
    if latest is not None:
        write_text(latest, f"{POINTER}{os.path.relpath(run.model_folder, latest.parent)}\n")


class _Parts(NamedTuple):
    """What of a run goes into the model."""

    normalisation: Normalisation
    top_n: int | None
    has_mean: bool
    has_scores: bool
    is_calibrated: bool
    trim_silence: bool
    sources: list[str]
    """All that is read, as :mod:`wespeaker_qm.score.upstream` names it."""

    @property
    def lacking(self) -> list[str]:
        """What is not there, for warnings."""
        parts = {"trial scores": self.has_scores, "a calibration": self.is_calibrated}
        return [part for part, is_there in parts.items() if not is_there]

    @property
    def variant(self) -> str:
        """Of the score files."""
        return "" if self.normalisation == "cosine" else self.normalisation

    @classmethod
    def of(cls, data: DataFolder, run: RunFolder, info: CorpusInfo) -> "_Parts":
        """What is there, and is of what is there now."""
        folder = info.trials[info.headline]
        normalisation: Normalisation = "cosine"
        top_n = None
        for method in get_args(Method):
            if has_cohort(run, info) and exists(run.scores(info.headline, method)) and _is_true(method, run, data):
                normalisation, top_n = method, (recorded_inputs(run.marker(method)) or {}).get("top_n")
        fitted_to = (recorded_inputs(run.marker(CALIBRATED)) or {}).get("scores")
        is_calibrated = fitted_to == normalisation and run.calibration.is_file() and _is_true(CALIBRATED, run, data)
        with_mean = run.mean_xvector.is_file() and has_mean(run, info)
        scores = run.scores(info.headline, "" if normalisation == "cosine" else normalisation)
        has_scores = exists(scores) and (normalisation != "cosine" or _is_true("score", run, data))
        sources = ["models/avg_model.pt", "config.yaml", "provenance.json", "metrics.json", "data/corpus.yaml"]
        if with_mean:
            sources += ["embeddings/mean_vec.npy"]
        if has_scores:
            sources += [f"scores/{scores.name}", f"data/trials/{info.headline}", f"data/{folder}/utt2spk"]
            sources += [f"embeddings/{folder}"]
        if is_calibrated:
            sources += ["scores/calibration.json"]
        if run.origin.is_file():
            sources += [run.origin.name]
        trim = (recorded_inputs(run.marker(f"extract_{folder}")) or {}).get("trim_silence", True)
        return cls(normalisation, top_n, with_mean, has_scores, is_calibrated, bool(trim), sources)


def _is_true(marker: str, run: RunFolder, data: DataFolder) -> bool:
    """Whether a stage's result is of what is there now."""
    return stale(marker, run, data) == []


def _files(
    data: DataFolder,
    run: RunFolder,
    info: CorpusInfo,
    config: Config,
    parts: _Parts,
    num_resamples: int,
    seed: int,
) -> dict[str, bytes]:
    """Name -> content of the model's files, the description last."""
    network = read_network(config, run.average, trim_silence=parts.trim_silence)
    cohort: dict[str, NDArray[Any]] = {}
    stored = None
    if parts.has_mean:
        cohort["mean"] = load_mean(run.mean_xvector)
        if len(cohort["mean"]) != network.card.embed_dim:
            raise RecipeError(
                f"{run.mean_xvector}: {len(cohort['mean'])} dimensions, expected the {network.card.embed_dim} of the "
                f"network in {run.config}; extract again (run.sh --stage 4)"
            )
    if parts.normalisation != "cosine":
        stored = _stored(data, run, info, parts)
        cohort["speakers"] = stored.speakers
    scoring = ScoringCard(
        normalisation=parts.normalisation,
        top_n=parts.top_n,
        largest_change=0.0 if stored is None else stored.largest_change,
    )
    return model_files(
        name=f"{run.name}, evaluated on {info.name}",
        network=network,
        scoring=scoring,
        cohort=cohort,
        calibration=load_calibration(run.calibration)[0] if parts.is_calibrated else None,
        evidence=_evidence(data, run, info, parts, num_resamples, seed) if parts.has_scores else None,
        training=_training(run, info),
        figures=_figures(run, data, info),
    )


class Network(NamedTuple):
    """What embeds, as it goes into a model."""

    card: NetworkCard
    features: FeatureCard
    weights: dict[str, NDArray[Any]]
    """Without the classifier."""


def read_network(config: Config, weights: Path, *, trim_silence: bool) -> Network:
    """The network of a configuration, with the weights of a file.

    Args:
        config: which network, and its features.
        weights: as :func:`wespeaker_qm.network.checkpoint.load` reads them.
        trim_silence: whether digital silence at the ends of a recording is left out.

    Raises:
        RecipeError: the file is none of weights, or they do not fit.
    """
    encoder = build_encoder(dataclasses.replace(config, model_init=None))
    checkpoint.load_encoder(encoder, checkpoint.load(weights), weights)
    fbank = config.dataset_args.fbank_args
    card = NetworkCard(
        encoder=config.model,
        arguments=without_own_defaults(config.model_args),
        embed_dim=encoder.embed_dim,
        min_frames=encoder.min_frames,
    )
    features = FeatureCard(
        sample_rate=config.dataset_args.resample_rate,
        num_mel_bins=fbank.num_mel_bins,
        frame_length_ms=fbank.frame_length,
        frame_shift_ms=fbank.frame_shift,
        trim_silence=trim_silence,
    )
    return Network(card, features, {name: value.numpy() for name, value in encoder.state_dict().items()})


def model_files(
    *,
    name: str,
    network: Network,
    scoring: ScoringCard,
    cohort: Mapping[str, NDArray[Any]],
    calibration: Calibration | None,
    evidence: Evidence | None,
    training: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> dict[str, bytes]:
    """Name -> content of the files of a model folder, the description last.

    Args:
        name: as the card calls the model.
        network: what embeds.
        scoring: how embeddings become a score.
        cohort: ``mean`` and ``speakers``, as far as they are known.
        calibration: of the scores.
        evidence: what was measured.
        training: what is known of it: plain values.
        figures: system -> figures of the headline list.
    """
    mark = fingerprint(network.card, network.features, network.weights)
    card = model_card(
        name=name,
        network=network.card,
        features=network.features,
        scoring=scoring,
        num_cohort=len(cohort.get("speakers", ())),
        is_calibrated=calibration is not None,
        evidence=evidence,
        training=training,
        figures=figures,
        fingerprint=mark,
    )
    files = {WEIGHTS: safetensors(network.weights), CARD: card.encode()}
    if cohort:
        files[COHORT] = safetensors(cohort)
    content = {
        "fingerprint": mark,
        "network": dataclasses.asdict(network.card),
        "features": dataclasses.asdict(network.features),
        "scoring": dataclasses.asdict(scoring),
        "calibration": None if calibration is None else dataclasses.asdict(calibration),
        "evidence": None if evidence is None else dataclasses.asdict(evidence),
        "training": training,
        "figures": figures,
    }
    return {**files, DESCRIPTION: description(content, files)}


def write_model_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a model: all of them, or none where the disk is full.

    While they are exchanged the folder is that of no model.
    """
    with contextlib.ExitStack() as stack:
        for name in sorted(files, key=DESCRIPTION.__ne__):  # the first to be entered is the last to be renamed
            stack.enter_context(atomic_path(folder / name)).write_bytes(files[name])
        (folder / DESCRIPTION).unlink(missing_ok=True)
        if COHORT not in files:
            (folder / COHORT).unlink(missing_ok=True)


def _stored(data: DataFolder, run: RunFolder, info: CorpusInfo, parts: _Parts) -> Stored:
    trials = read_trial_table(data.trials(info.headline))
    directions = trial_directions(trials, run.xvectors(info.trials[info.headline]), load_mean(run.mean_xvector))
    return stored_cohort(load_cohort(data, run, info), parts.top_n, trials, directions)


def _evidence(
    data: DataFolder, run: RunFolder, info: CorpusInfo, parts: _Parts, num_resamples: int, seed: int
) -> Evidence:
    trials = read_trial_table(data.trials(info.headline))
    folder = info.trials[info.headline]
    path = run.bandwidths(folder)
    return gather_evidence(
        info,
        trials,
        read_scores(run.scores(info.headline, parts.variant), trials).scores,
        trial_speakers(trials, read_map(data.set(folder).utt2spk)),
        num_resamples=num_resamples,
        seed=seed,
        bandwidth_hz=float(np.median(list(read_numbers(path, "Hz").values()))) if path.is_file() else None,
    )


def _training(run: RunFolder, info: CorpusInfo) -> dict[str, Any]:
    """What is known of the training; of a finished model that was taken over, only its configuration."""
    is_own = run.provenance.is_file() and not run.marker("adopt").is_file()
    made = json_or_none(run.provenance) if is_own else None
    made = made if isinstance(made, dict) else {}
    # Of a network that somebody else has trained the configuration may name a loss that is none of ours.
    config = load_config([run.config]) if is_own else None
    return {
        "corpus": info.name if is_own else None,
        "description": info.description if is_own else "",
        "caveat": info.caveat if is_own else "",
        "licence": info.licence if is_own else "",
        "loss": None if config is None else str(loss_card(config)),
        "num_epochs": None if config is None else config.num_epochs,
        "time": made.get("time"),
        "commit": made.get("commit"),
        "config": plain_settings(run.config),
        "exported": exported(),
        **({"fine_tuned_from": json_or_none(run.origin)} if run.origin.is_file() else {}),
    }


def plain_settings(config: Path) -> Any:
    """All settings of a ``config.yaml`` as JSON has them: what it has no type for, such as a date, as text."""
    return json.loads(json.dumps(saved_settings(config), default=str))


def exported() -> dict[str, Any]:
    """When a model was written, and by which version."""
    return {name: value for name, value in provenance().items() if name in ("time", "commit", "wespeaker_qm")}


def _figures(run: RunFolder, data: DataFolder, info: CorpusInfo) -> dict[str, Any]:
    """System -> figures of the headline list, of the run's own systems; nothing where they were not evaluated."""
    metrics = json_or_none(run.metrics)
    if not isinstance(metrics, dict) or not _is_true("evaluate", run, data):
        return {}
    systems: Mapping[str, Any] = metrics["trial_lists"][info.headline]["systems"]
    return {
        name: {key: value for key, value in figures.items() if key != "band"}
        for name, figures in systems.items()
        if name in OWN_SYSTEMS
    }


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}", _ZIP_TIME), content)
    return buffer.getvalue()


def _refuse_foreign_pointer(latest: Path) -> None:
    """Raise where the name of the pointer is taken by something else."""
    if latest.exists() and not (latest.is_file() and latest.read_bytes().startswith(POINTER.encode())):
        raise RecipeError(
            f"{latest}: exists, and is no note of wespeaker-qm's of the model that was made last; move it away"
        )
