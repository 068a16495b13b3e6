"""Stage 4, first part: average the last checkpoints, and whiten the embeddings where the configuration says so."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import torch

from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.dataset.training_set import open_training_set
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder, build_fbank
from wespeaker_qm.network.device import choose_device
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.train import resume
from wespeaker_qm.train.build import build_loader, build_plan
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.whitening import multiply_into, whitening_map, within_class_covariance
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.done import DoneMarker, file_digest, recorded_inputs
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.precision import exact_float32
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.stage import reads_data, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

logger = logging.getLogger(__name__)


@reads_data
def average(*, run: AnyPath, data: AnyPath | None = None) -> None:
    """Write the mean weights of the last ``num_avg`` epochs of a training, ``models/avg_model.pt``.

    With ``whiten`` in its configuration, the network embeds one more epoch of training samples, augmented as in
    training, and the map that whitens them within their classes (:mod:`wespeaker_qm.train.whitening`) is multiplied
    into the last layer and the prototypes. Where there is an average, but none of its checkpoints any more, it is taken
    as it is.

    Args:
        run: a trained run; ``num_epochs``, ``num_avg`` and ``whiten`` are read from its ``config.yaml``.
        data: the corpus that it was trained on; needed to whiten.

    Raises:
        RecipeError: a checkpoint or the configuration is missing or damaged; the average was exchanged for another; the
            corpus is needed and not given, not that of the training, or not packed.
    """
    run = RunFolder(run)
    config = load_config([run.config], for_training=False)
    epochs = range(config.num_epochs - config.num_avg + 1, config.num_epochs + 1)
    paths = [run.model(epoch) for epoch in epochs]
    if run.average.is_file() and not any(path.is_file() for path in paths):  # a copy of a run, without them
        checkpoint.load(run.average)
        logger.info("stage average: %s is taken as it is, because its checkpoints are not there", run.average)
        return
    corpus = _corpus(config, run, data)
    inputs: dict[str, Any] = {f"models/{path.name}": file_digest(path) for path in paths}
    if corpus is not None:
        config = load_config([run.config])  # what samples are made of, too
        inputs |= {"whiten": True, **_audio(config, corpus)}
    marker = DoneMarker(
        run.marker("average"), inputs, [run.average], version=STAGE_VERSIONS["average"], checks_outputs=True
    )
    if not marker.is_current() and run.average.is_file() and recorded_inputs(marker.path) == marker.inputs:
        raise RecipeError(
            f"{run.average}: not what was averaged here, though the checkpoints are the same: damaged, or put here by "
            "somebody. Delete it to average again; to use it as it is, go on with wespeaker-qm extract"
        )
    with stage("average", marker) as is_due:
        if not is_due:
            return
        weights = checkpoint.mean_weights(paths)
        if corpus is not None:
            _whiten(weights, config, corpus, run)
        checkpoint.save(weights, run.average)
    done = "averaged" if corpus is None else "averaged and whitened"
    logger.info("%s epochs %d to %d into %s", done, epochs[0], epochs[-1], run.average)


def _corpus(config: Config, run: RunFolder, data: AnyPath | None) -> DataFolder | None:
    """The corpus whose training samples are needed; None where the average is not whitened.

    Raises:
        RecipeError: it is needed, and not given, or another than that of the training.
    """
    if not config.whiten:
        return None
    if data is None:
        raise RecipeError(
            f"{run.config}: whiten is true, which takes training samples, but found no --data, expected the corpus of "
            "the training, e.g. --data data/mini"
        )
    folder = DataFolder(data)
    trained_on = (recorded_inputs(run.marker("train")) or {}).get(resume.AUDIO)
    train = CorpusInfo.load(folder.info).training_set(folder.info)
    if trained_on not in (None, packed_digest(folder.set(train).path)):
        raise RecipeError(
            f"{run}: was trained on other audio than that of {folder}, expected the corpus of the training to whiten "
            f"its average with; to evaluate it on this corpus: run.sh --model {run}, with another --exp_dir or none"
        )
    return folder


def _audio(config: Config, data: DataFolder) -> dict[str, str]:
    """Digests of the packed sets that training samples are made of."""
    corpus = CorpusInfo.load(data.info)
    augmentation = [corpus.noise, corpus.rirs] if config.dataset_args.aug_prob else []
    names = [corpus.training_set(data.info), *(name for name in augmentation if name is not None)]
    return {f"audio/{name}": packed_digest(data.set(name).path) for name in names}


def _whiten(weights: checkpoint.State, config: Config, data: DataFolder, run: RunFolder) -> None:
    """Whiten the network and its prototypes within the training classes, in place."""
    encoder = build_encoder(dataclasses.replace(config, model_init=None))
    checkpoint.load_encoder(encoder, weights, run.average)
    with exact_float32(), torch.inference_mode():
        covariance = within_class_covariance(_samples(encoder.eval(), config, data))
    if not covariance.trace() > 0:
        raise RecipeError(
            f"{run.config}: whiten is true, but no class has two samples that differ among those of an epoch; raise "
            "dataset_args.sample_num_per_epoch, or set whiten to false (in another --exp_dir)"
        )
    matrix = whitening_map(covariance)
    encoder = encoder.cpu()
    multiply_into(encoder.last_layer(), matrix)
    weights |= encoder.state_dict()
    prototypes = f"{checkpoint.HEAD}weight"  # each stands for an embedding
    weights[prototypes] = (weights[prototypes].double() @ matrix).float()


def _samples(encoder: SpeakerEncoder, config: Config, data: DataFolder) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Embeddings and classes of the batches of the epoch that would follow the last."""
    device = choose_device(config.device)
    encoder.to(device)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    training = open_training_set(config, data, build_fbank(config, dither=config.dataset_args.fbank_args.dither))
    plan = build_plan(config, training, Processes(rank=0, world_size=1, device=device))
    plan.set_epoch(config.num_epochs + 1)
    loader = build_loader(config, training, plan, device)
    with Progress(total=len(plan) * plan.batch_size, unit="sample", desc="whitening") as bar:
        for batch in loader:
            yield encoder(batch.features), batch.label
            bar.update(len(batch.label))
