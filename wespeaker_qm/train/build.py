"""From a configuration to the parts of a training: data, network with head, optimiser and schedules."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wespeaker_qm.config import Config
from wespeaker_qm.dataset.loader import TrainingBatch, TrainingLoader
from wespeaker_qm.dataset.plan import BatchPlan
from wespeaker_qm.dataset.training_set import TrainingSet, open_training_set
from wespeaker_qm.losses.dispatch import Way, way_of
from wespeaker_qm.losses.heads import AngularMarginHead, CosineHead, QMarginHead
from wespeaker_qm.losses.margins import check_scale_and_margin
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.losses.prototype_sgd import PrototypeSGD
from wespeaker_qm.network.build import build_encoder, build_fbank
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.model import EncoderWithHead
from wespeaker_qm.train.resume import made_from, validation_digest
from wespeaker_qm.train.schedules import Schedule, annealed_margin, exponential_decrease
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder

HEADS: Mapping[str, Callable[..., CosineHead]] = {
    "none": QMarginHead,
    "reference": QMarginHead,
    "angular": AngularMarginHead,
    "easy_angular": functools.partial(AngularMarginHead, easy_margin=True),
}
"""Where a loss has its margin -> the head that puts it there."""

_FUSED_FROM: Mapping[str, int] = {"cuda": 0, "cpu": 2**24}
"""Device -> from so many numbers in the largest parameter on, the optimiser's step is fused. On a CPU it takes a sixth
of the time at 65,536 x 256 prototypes, which is much beside the head's; smaller ones are a small part of a training."""


@dataclass(kw_only=True)
class TrainingParts:
    """What a training consists of. Each may be replaced before a trainer gets them."""

    processes: Processes
    """This process among those that train."""
    data: TrainingSet
    """Whom to train on."""
    plan: BatchPlan
    """Which utterances make a batch."""
    loader: Iterable[TrainingBatch]
    """Reads and augments the batches of the plan."""
    model: EncoderWithHead
    """On the device of the training."""
    optimizer: torch.optim.Optimizer
    """Of the model's parameters, in their order."""
    scaler: torch.amp.GradScaler
    """Of the loss, for fp16."""
    learning_rate: Schedule
    margin: Schedule
    reinit_epoch: int | None
    """The epoch at whose start A3M-I re-initialises the prototypes."""
    made_from: dict[str, Any]
    """Digests of what the weights are made from."""
    validation_digest: str
    """Of what the held-out check is made from."""


def build_training(config: Config, data: DataFolder, processes: Processes) -> TrainingParts:
    """All parts of a training, with the weights that it begins with. Seeds PyTorch and sets its number of threads.

    Args:
        config: of the run.
        data: prepared and packed corpus, e.g. ``data/mini``.
        processes: this process among those that train.

    Raises:
        RecipeError: the corpus is not packed or does not fit the configuration, or parts of that do not fit together.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    dither = config.dataset_args.fbank_args.dither
    training = open_training_set(config, data, build_fbank(config, dither=dither))
    plan = build_plan(config, training, processes)
    loader = build_loader(config, training, plan, processes.device)
    torch.manual_seed(config.seed)
    model = build_model(config, training.num_classes, processes)
    return TrainingParts(
        processes=processes,
        data=training,
        plan=plan,
        loader=loader,
        model=model,
        optimizer=build_optimizer(config, list(model.parameters()), own_head(model, processes)),
        scaler=build_scaler(config, processes.device),
        learning_rate=build_learning_rate(config, len(plan), processes.world_size),
        margin=build_margin(config, len(plan)),
        reinit_epoch=config.projection_args.definition.reinit_epoch,
        made_from=made_from(config, data),
        validation_digest=validation_digest(data),
    )


def build_plan(config: Config, data: TrainingSet, processes: Processes) -> BatchPlan:
    """Which utterances make a batch of this process.

    Raises:
        RecipeError: an epoch is smaller than one batch.
    """
    return BatchPlan(
        data.labels,
        sampler=config.dataset_args.sampler,
        samples_per_epoch=config.dataset_args.sample_num_per_epoch,
        batch_size=config.dataloader_args.batch_size,
        seed=config.seed,
        rank=processes.rank,
        world_size=processes.world_size,
        shards=data.shards,
        shard_window=config.dataset_args.shuffle_args.shard_window,
    )


def build_loader(config: Config, data: TrainingSet, plan: BatchPlan, device: torch.device) -> TrainingLoader:
    """The batches of a plan, with their features.

    Args:
        config: of the run.
        data: that it trains on.
        plan: which utterances make a batch.
        device: of the training.
    """
    args = config.dataloader_args
    return TrainingLoader(
        data.chunks,
        data.frontend,
        plan,
        device=device,
        frontend_on=args.frontend,
        num_workers=args.num_workers,
        prefetch_factor=args.prefetch_factor,
        pin_memory=args.pin_memory,
    )


def build_model(
    config: Config, num_classes: int, processes: Processes, head: CosineHead | None = None
) -> EncoderWithHead:
    """The network and its head on the device of the training, with random weights or those of ``model_init``.

    Args:
        config: of the run.
        num_classes: of the training.
        processes: this process among those that train.
        head: another one than the configuration's.

    Raises:
        RecipeError: training chunks are too short for the network; or as :func:`build_encoder`, :func:`build_partition`
            and :func:`build_head`.
    """
    encoder = build_encoder(config)
    if config.dataset_args.num_frms < encoder.min_frames:
        raise RecipeError(
            f"dataset_args.num_frms: found {config.dataset_args.num_frms}, expected at least {encoder.min_frames}, the "
            f"fewest frames that {config.model} can embed"
        )
    head = head or build_head(config, build_partition(config, num_classes, processes))
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    model = EncoderWithHead(encoder, head, amp_dtype(config)).to(processes.device).to(memory_format=memory_format)
    if config.compile:
        model.encoder.compile()  # in place: the names of its parameters stay
    return model


def build_partition(config: Config, num_classes: int, processes: Processes) -> ClassPartition:
    """The classes that this process holds: all, or with ``projection_args.shard_classes`` its part.

    Raises:
        RecipeError: fewer classes than processes.
    """
    if not config.projection_args.shard_classes:
        return ClassPartition(num_classes)
    if num_classes < processes.world_size:
        raise RecipeError(
            f"projection_args.shard_classes: found true with {counted(num_classes, 'class', 'classes')} and "
            f"{processes.world_size} processes, expected at least one class for each; set it to "
            "false or start fewer processes"
        )
    return ClassPartition(num_classes, processes.rank, processes.world_size)


def build_head(config: Config, partition: ClassPartition) -> CosineHead:
    """The projection head of ``projection_args``, for the classes of ``partition``.

    Raises:
        RecipeError: it cannot compute a loss with the margins of ``margin_update``.
    """
    args, loss = config.projection_args, config.projection_args.definition
    head = HEADS[loss.margin_type](
        config.model_args.embed_dim,
        partition.num_classes,
        scale=args.scale,
        alpha=1.0 if loss.alpha is None else loss.alpha,
        partition=partition,
    )
    margin = config.margin_update
    largest = margin.final_margin if margin.update_margin else margin.initial_margin
    check_scale_and_margin(head.alpha, head.scale, largest, head.margin_type)
    return head


def own_head(model: EncoderWithHead, processes: Processes) -> CosineHead | None:
    """The head, if no other process has the same prototypes."""
    return model.projection if model.projection.partition.world_size == processes.world_size else None


def build_optimizer(
    config: Config, parameters: list[nn.Parameter], head: CosineHead | None = None
) -> torch.optim.Optimizer:
    """The optimiser; its learning rate is set before every step.

    On a GPU, and for very many prototypes, it is fused: all of a step is done at once, or none of it where a flag on
    the device says so. Prototypes on a GPU that are so many that a filter is worth it are moved by `PrototypeSGD`. (On
    a CPU that pays where supports are of a few classes, which nobody knows before a training.)

    Args:
        config: of the run.
        parameters: that are trained.
        head: whose prototypes are among them, and are this process's alone.
    """
    args = config.optimizer_args
    fewest = _FUSED_FROM.get(parameters[0].device.type, math.inf)
    fused = True if max(parameter.numel() for parameter in parameters) >= fewest else None
    settings: dict[str, Any] = {
        "lr": config.scheduler_args.initial_lr,
        "momentum": args.momentum,
        "nesterov": args.nesterov,
        "weight_decay": args.weight_decay,
        "fused": fused,
    }
    if head and head.alpha > 1 and way_of(head.weight.device, len(head.weight)) is Way.FUSED_FILTER:
        return PrototypeSGD(parameters, head, **settings)
    optimizer = torch.optim.SGD(parameters, **settings)
    # A state that a CPU saved says how that computed.
    optimizer.register_load_state_dict_post_hook(functools.partial(_set_fused, fused=fused))
    if fused and args.momentum:
        # The fused step would make them itself, and leave them as they come where the first update is not made.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _set_fused(optimizer: torch.optim.Optimizer, *, fused: bool | None) -> None:
    for group in optimizer.param_groups:
        group["fused"] = fused


def amp_dtype(config: Config) -> torch.dtype | None:
    """The low precision of the network; None where all is float32."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}[config.amp_dtype] if config.enable_amp else None


def build_scaler(config: Config, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaling of fp16; otherwise it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=config.enable_amp and config.amp_dtype == "fp16")


def build_learning_rate(config: Config, steps_per_epoch: int, world_size: int) -> Schedule:
    """Learning rate of every step; scaled by the global batch over 64, as in WeSpeaker."""
    args = config.scheduler_args
    return exponential_decrease(
        initial_lr=args.initial_lr,
        final_lr=args.final_lr,
        warm_up_epoch=args.warm_up_epoch,
        warm_from_zero=args.warm_from_zero,
        num_epochs=config.num_epochs,
        steps_per_epoch=steps_per_epoch,
        scale_ratio=world_size * config.dataloader_args.batch_size / 64,
    )


def build_margin(config: Config, steps_per_epoch: int) -> Schedule:
    """Margin of every step."""
    args = config.margin_update
    return annealed_margin(
        initial_margin=args.initial_margin,
        final_margin=args.final_margin if args.update_margin else args.initial_margin,
        increase_start_epoch=args.increase_start_epoch,
        fix_start_epoch=args.fix_start_epoch,
        increase_type=args.increase_type,
        steps_per_epoch=steps_per_epoch,
    )
