"""A3M-I: once, every prototype becomes the mean unit embedding of its class."""

import dataclasses
import logging

import torch

from wespeaker_qm.dataset.chunks import ChunkDataset
from wespeaker_qm.dataset.loader import TrainingLoader
from wespeaker_qm.dataset.plan import BatchPlan
from wespeaker_qm.dataset.training_set import TrainingSet
from wespeaker_qm.losses.gradients import unit_rows
from wespeaker_qm.losses.heads import reinitialised_prototypes
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.model import EncoderWithHead
from wespeaker_qm.utils.precision import exact_float32

logger = logging.getLogger(__name__)


def without_augmentation(chunks: ChunkDataset) -> ChunkDataset:
    """The same chunks at the same speeds (a speed is a class), without noise, reverberation or masks."""
    clean = dataclasses.replace(chunks.draw_source.settings, aug_prob=0.0, channel_prob=0.0, spec_aug_prob=0.0)
    return ChunkDataset(
        chunks.reader,
        utterances=chunks.utterances,
        labels=chunks.labels,
        num_speakers=chunks.num_speakers,
        num_samples=chunks.num_samples,
        settings=clean,
        noise=None,
        rirs=None,
    )


@torch.no_grad()
def reinitialise_head(model: EncoderWithHead, data: TrainingSet, plan: BatchPlan, processes: Processes) -> None:
    """Replace the prototypes of a model in place, from one clean pass over the planned epoch.

    The encoder runs in evaluation mode, and every process sees its share of the samples; classes that the pass does
    not meet keep their prototypes, and are counted in the log.

    Args:
        model: whose prototypes they are.
        data: that it trains on.
        plan: of the training, at the epoch to pass over.
        processes: this process among those that train.
    """
    encoder, weight, partition = model.encoder, model.projection.weight, model.projection.partition
    model.projection.catch_up()
    total = torch.zeros_like(weight)
    count = torch.zeros(len(weight), device=weight.device)
    was_training = encoder.training
    encoder.eval()
    clean = without_augmentation(data.chunks)
    loader = TrainingLoader(clean, data.frontend, plan, device=processes.device, frontend_on="device", num_workers=0)
    for batch in loader:
        with exact_float32():
            unit = unit_rows(encoder(batch.features))
        unit, index = partition.gather_rows(unit), partition.gather_rows(batch.label) - partition.start
        owned = (index >= 0) & (index < len(weight))
        total.index_add_(0, index[owned], unit[owned])
        count.index_add_(0, index[owned], count.new_ones(len(index))[owned])
    encoder.train(was_training)
    if partition.world_size == 1:  # otherwise the samples of all processes are in the sums already
        total, count = processes.sum(total), processes.sum(count)
    result = reinitialised_prototypes(total / count.clamp(min=1).unsqueeze(1), weight)
    weight.copy_(result.prototypes)
    num_kept = int(partition.sum(count.new_tensor(len(result.kept))))
    logger.info("prototypes re-initialised (A3M-I); %d of %d classes had no sample", num_kept, partition.num_classes)
