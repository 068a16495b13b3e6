"""Stage 4, second part: embeddings of the training and trial sets, and the training mean."""

import dataclasses
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.embed.extract import (
    BandwidthMeter,
    Embedder,
    LtasEmbedder,
    NetworkEmbedder,
    TrimmingEmbedder,
    embed_all,
    num_readers,
    refuse_short,
)
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder, build_fbank
from wespeaker_qm.network.device import choose_device
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.score.cohort import brings_mean
from wespeaker_qm.stages.adopting import adopt
from wespeaker_qm.train import resume
from wespeaker_qm.utils.calls import AnyPath, optional_path
from wespeaker_qm.utils.checksums import checked_path
from wespeaker_qm.utils.done import ABSENT, DoneMarker, file_digest, recorded_inputs, value_digest
from wespeaker_qm.utils.errors import RecipeError, counted, shown
from wespeaker_qm.utils.layout import DataFolder, RunFolder, SetFolder
from wespeaker_qm.utils.remedies import with_run_sh
from wespeaker_qm.utils.stage import reads_data, refuse_foreign_outputs, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import write_rows
from wespeaker_qm.utils.vectors import VectorTable, write_vectors

SystemName = Literal["average", "untrained", "initial", "ltas"]
_BASELINES = ("untrained", "initial", "ltas")
"""Systems that stand beside a run of the same sets."""
_DIGITS = 32
"""Of a digest, in the name of a folder."""

logger = logging.getLogger(__name__)


class _System(NamedTuple):
    """What embeds, and where to."""

    embed: Embedder
    fbank: Fbank
    run: RunFolder
    """Where its embeddings go."""
    inputs: dict[str, Any]
    """What it depends on, for done markers."""
    min_frames: int = 1
    """The fewest that it can embed."""
    absent: Path | None = None
    """Weights that are gone, so that nothing can be embedded; what was made of them is as good as before."""
    device: torch.device = torch.device("cpu")
    """Where it embeds."""


class _Embedded(NamedTuple):
    """What was made of one set of N utterances."""

    name: str
    keys: list[str]
    embeddings: NDArray[np.float32]
    """(N, D)"""
    num_trimmed: int = 0
    """Utterances that had digital silence, which was left out."""


@reads_data
def extract(
    *,
    data: AnyPath,
    run: AnyPath,
    system: SystemName | int = "average",
    model: AnyPath | None = None,
    num_workers: int | None = None,
    trim_silence: bool = True,
    device: str | None = None,
    shared: AnyPath | None = None,
) -> None:
    """Embed every set that scoring needs; all utterances, or an error.

    Args:
        data: a prepared and packed corpus.
        run: a trained run.
        system: what embeds. ``average``: the average of the last checkpoints. A number: the checkpoint of that epoch,
            for a look at how a run develops; embeddings go to ``run.at_epoch(system)``. ``untrained``: a network like
            the run's with random weights (``run.untrained``). ``initial``: the weights that the training began with, if
            ``model_init`` names some (``run.initial``). ``ltas``: long-term average spectra, no network; ``run``
            need not be trained.
        model: a finished model to evaluate in ``run``, which need not be trained (:func:`.adopting.adopt`); its other
            systems are extracted without it, later.
        num_workers: processes that read audio ahead of the network; 0 reads in this one. None: for a GPU as many as
            there are cores, up to 8, else 0. Changes no result.
        trim_silence: leave out the digital silence in utterances, as WeSpeaker does not.
        device: ``auto``, ``cpu`` or ``cuda``; None for what the run's configuration says.
        shared: where baselines (all systems but ``average`` and epochs) are extracted once for all runs of which they
            depend on the same: audio, network, features, seed or initial weights. The run has a copy of its own, and
            is whole without that folder, which may be deleted. None: extract them for this run alone.

    Raises:
        RecipeError: weights are missing, do not fit the network or are not those that the training began with; the
            corpus is not packed; the folder holds files that no stage made.
    """
    data, run, shared = DataFolder(data), RunFolder(run), optional_path(shared)
    corpus = CorpusInfo.load(data.info)
    if shared is not None and system not in _BASELINES:
        raise RecipeError(
            f"shared: found {shared} for the system {shown(system)}, expected one of {', '.join(_BASELINES)}"
        )
    if model is not None:
        if system != "average":
            raise RecipeError(f"system: found {shown(system)}, expected average beside a finished model")
        adopt(RunFolder(model), run)
    embedding = _open_system(data, run, system, corpus, device)
    if embedding is None:
        return
    train = None if brings_mean(embedding.run) else corpus.train
    # Stage 7 calibrates on the validation list.
    sets = [name for name in (train, *corpus.trials.values(), corpus.validation) if name is not None]
    jobs = {}
    for name in dict.fromkeys(sets):
        scp = embedding.run.xvectors(name)
        outputs = [scp, scp.with_suffix(".ark"), *([embedding.run.mean_xvector] if name == train else [])]
        outputs += [embedding.run.bandwidths(name)] if system == "average" and name != train else []
        jobs[name] = DoneMarker(
            embedding.run.marker(f"extract_{name}"),
            {**embedding.inputs, "trim_silence": trim_silence, f"audio/{name}": packed_digest(data.set(name).path)},
            outputs,
            version=STAGE_VERSIONS["extract"],
            checks_outputs=True,
        )
        refuse_foreign_outputs(jobs[name])  # of the last set, too, before hours go into the first
    if embedding.absent is not None:
        _keep_or_leave_out(embedding.absent, embedding.run, jobs)
        return
    readers = num_readers(embedding.device) if num_workers is None else num_workers
    due = [name for name, marker in jobs.items() if not marker.is_current()]
    for name in due:  # of the last set, too, as above
        _check_audio(ShardReader(data.set(name).shard_list), embedding)
    for name, marker in jobs.items():
        task = f"extract {name}: {value_digest(marker.inputs)}"
        with stage(f"extract {name}", marker, task=task) as is_due:
            if is_due:
                make = partial(_embed, embedding, data.set(name), readers, trim_silence)
                embedded = make() if shared is None else _made_once(shared, marker, make, data.set(name))
                _write(embedding.run, embedded, is_train=name == train)
                if embedded.num_trimmed and system not in _BASELINES:  # of a set once, not of each system
                    _tell_of_silence(data.set(name), embedded.num_trimmed)
                if system == "average" and name != train:
                    _measure_bandwidths(embedding, data.set(name), readers)


def _open_system(
    data: DataFolder, run: RunFolder, system: SystemName | int, corpus: CorpusInfo, device: str | None
) -> _System | None:
    """The system of that name; None where it is that of ``model_init``, and there is no such thing.

    Raises:
        RecipeError: weights are missing, do not fit the network, or are not those that the training began with.
    """
    is_epoch = isinstance(system, int) and not isinstance(system, bool) and system >= 1
    if not is_epoch and system not in get_args(SystemName):
        names = ", ".join(get_args(SystemName))
        raise RecipeError(f"system: found {shown(system)}, expected {names} or the number of an epoch, from 1 on")
    if system == "ltas":
        audio = data.set(corpus.train or corpus.trials[corpus.headline])
        fbank = Fbank(sample_rate=ShardReader(audio.shard_list).sample_rate)
        return _System(LtasEmbedder(fbank), fbank, run, {"system": "ltas"})
    config: Config = load_config([run.config], for_training=False)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    fbank = build_fbank(config, dither=0.0)
    if corpus.train is not None:  # first: the same audio at another rate is no other corpus
        _check_rate(ShardReader(data.set(corpus.train).shard_list), fbank)
    _refuse_another_corpus(data, run, corpus)
    torch.manual_seed(config.seed)
    encoder = build_encoder(dataclasses.replace(config, model_init=None))
    inputs: dict[str, Any] = {
        "network": [config.model, dataclasses.asdict(config.model_args)],
        "features": [config.dataset_args.resample_rate, dataclasses.asdict(config.dataset_args.fbank_args)],
    }
    if system == "untrained":
        folder, inputs = run.untrained, {**inputs, "system": "untrained", "seed": config.seed}
    elif system == "initial":
        if config.model_init is None:
            logger.info("stage extract: no initial weights (model_init): the training began with random ones")
            return None
        path, folder = Path(config.model_init), run.initial
        found = file_digest(path)
        trained_from = (recorded_inputs(run.marker("train")) or {}).get("initial weights", found)
        inputs = {**inputs, "system": "initial", "initial weights": trained_from}
        if found == ABSENT:
            embed = NetworkEmbedder(encoder, fbank, torch.device("cpu"))
            return _System(embed, fbank, folder, inputs, absent=path)
        if trained_from != found:
            raise RecipeError(
                f"{path}: not the weights that {run} was trained from; put those back, or delete {folder} and "
                "leave this baseline out"
            )
        checkpoint.load_encoder(encoder, checkpoint.load(path, is_given=True), path)
    else:
        path, folder = (run.average, run) if system == "average" else (run.model(system), run.at_epoch(system))
        checkpoint.load_encoder(encoder, checkpoint.load(path), path)
        inputs |= {os.path.relpath(path, folder): file_digest(path)}
    embed = NetworkEmbedder(encoder, fbank, choose_device(device or config.device))
    return _System(embed, fbank, folder, inputs, encoder.min_frames, device=embed.device)


def _refuse_another_corpus(data: DataFolder, run: RunFolder, corpus: CorpusInfo) -> None:
    """Embeddings and scores of two corpora must not come to lie in one folder, nor the mean of one be of the other.

    Raises:
        RecipeError: the run was trained on other audio than the corpus's.
    """
    trained_on = (recorded_inputs(run.marker("train")) or {}).get(resume.AUDIO)
    if trained_on is None:
        return
    if corpus.train is None or packed_digest(data.set(corpus.train).path) != trained_on:
        raise RecipeError(
            f"--exp_dir {run}: was trained on other audio than that of {data}, and its results on both would be mixed "
            f"there. To evaluate it on this corpus, in a folder of its own: run.sh --model {run}, with another "
            "--exp_dir or none"
        )


def _check_audio(reader: ShardReader, embedding: _System) -> None:
    """Whether a packed set is what the system expects.

    Raises:
        RecipeError: it has another sample rate, or utterances that are too short.
    """
    _check_rate(reader, embedding.fbank)
    refuse_short(reader, embedding.fbank, embedding.min_frames)


def _check_rate(reader: ShardReader, fbank: Fbank) -> None:
    """Whether a packed set has the network's sample rate.

    Raises:
        RecipeError: it has another.
    """
    expected = fbank.sample_rate
    if reader.sample_rate != expected:
        raise RecipeError(
            f"{reader.shard_list}: sample rate {reader.sample_rate} Hz, but the network expects {expected}; pack the "
            f"corpus at that rate (run.sh --stage 2 --pack_opts '--sample_rate {expected}')"
        )


def _embed(embedding: _System, audio: SetFolder, num_workers: int, trim_silence: bool) -> _Embedded:
    """One set."""
    reader = ShardReader(audio.shard_list)
    trimming = TrimmingEmbedder(embedding.embed, embedding.fbank, embedding.min_frames)
    embeddings = embed_all(
        trimming if trim_silence else embedding.embed,
        reader,
        frame_shift=embedding.fbank.frame_shift,
        num_workers=num_workers,
        description=f"extract {audio.path.name}",
    )
    return _Embedded(audio.path.name, reader.keys, embeddings, trimming.num_trimmed)


def _made_once(shared: Path, of_run: DoneMarker, embed: Callable[[], _Embedded], audio: SetFolder) -> _Embedded:
    """What the folder that runs share has of one set; it is made there first, if nobody else has.

    It lies in a folder named by the digest of all that it depends on, so that what differs is another folder, and is
    locked as a run is: of two who want the same, one makes it, and the other waits.
    """
    name = audio.path.name
    once = RunFolder(shared / value_digest(of_run.inputs)[:_DIGITS])
    scp = once.xvectors(name)
    marker = DoneMarker(
        once.marker(f"extract_{name}"),
        of_run.inputs,
        [scp, scp.with_suffix(".ark")],
        version=STAGE_VERSIONS["extract"],
        checks_outputs=True,
    )
    with stage(f"extract {name} for all runs", marker, task=f"extract {name}") as is_due:
        if is_due:
            embedded = embed()
            _write(once, embedded)
            return embedded
    keys = ShardReader(audio.shard_list).keys
    logger.info("%s: embeddings of %s are copied from there: another run made the same", once, name)
    return _Embedded(name, keys, VectorTable(scp).load(keys))


def _write(run: RunFolder, embedded: _Embedded, *, is_train: bool = False) -> None:
    """The embeddings of one set, of the training set the mean, too."""
    name, keys, embeddings, _ = embedded
    if is_train:
        with checked_path(run.mean_xvector) as temporary:
            np.save(temporary, embeddings.mean(axis=0, dtype=np.float64).astype(np.float32))
    scp = run.xvectors(name)
    write_vectors(scp.parent, scp.stem, keys, embeddings)
    number, dim = embeddings.shape
    told = counted(number, "embedding", "embeddings")
    logger.info("extracted %s of dimension %d into %s", told, dim, scp)


def _tell_of_silence(audio: SetFolder, num_trimmed: int) -> None:
    of = f"of {len(ShardReader(audio.shard_list)):,} utterances"
    logger.info(
        "%s: %s digital silence in them, which was left out%s",
        audio,
        counted(num_trimmed, f"{of} has", f"{of} have"),
        with_run_sh("; with --trim_silence false (run.sh --extract_opts '--trim_silence false') it counts as audio"),
    )


def _measure_bandwidths(embedding: _System, audio: SetFolder, num_workers: int) -> None:
    """The table of a set's bandwidths."""
    reader = ShardReader(audio.shard_list)
    bandwidths = embed_all(
        BandwidthMeter(reader.sample_rate),
        reader,
        frame_shift=embedding.fbank.frame_shift,
        num_workers=num_workers,
        description=f"bandwidth {audio.path.name}",
    )
    rows = zip(reader.keys, bandwidths[:, 0].astype(int).tolist(), strict=True)
    write_rows(embedding.run.bandwidths(audio.path.name), sorted(rows))


def _keep_or_leave_out(weights: Path, run: RunFolder, jobs: dict[str, DoneMarker]) -> None:
    """Without the weights that the training began with: keep what was made of them, or do without their baseline.

    Raises:
        RecipeError: embeddings are there, and would have to be made again.
    """
    if not run.path.exists():
        logger.warning(
            "%s: absent, so the baseline of the weights that the training began with is left out; to have it, put the "
            "file back and run stage 4 again (run.sh --stage 4)",
            weights,
        )
        return
    changes = {name: changed for name, marker in jobs.items() if (changed := marker.changes())}
    if changes:
        name, reasons = next(iter(changes.items()))
        raise RecipeError(
            f"{weights}: absent, expected the weights that the training began with, because {run} is not as they "
            f"would make it now ({name}: {'; '.join(reasons[:3])}); put the file back, or delete {run} and leave "
            "this baseline out"
        )
    for name in jobs:
        logger.info("stage extract %s: nothing changed since the last run, skipped (%s is absent)", name, weights)
