"""From a configuration to the network, the head, the optimiser and the schedules: the only name -> class tables."""

from pathlib import Path

import torch
from torch import nn

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import AddMarginArgs, AlphaArcMarginArgs, ArcMarginArgs, Config, QMarginArgs, SoftmaxArgs
from wespeaker_qm.losses.heads import AngularMarginHead, CosineHead, QMarginHead
from wespeaker_qm.losses.linear import check_scale_and_margin
from wespeaker_qm.losses.shards import ClassShards
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.train import checkpoint
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.schedules import Schedule, annealed_margin, exponential_decrease
from wespeaker_qm.utils.errors import RecipeError

MODELS = {"ResNet34": (3, 4, 6, 3)}
"""Config key ``model`` -> blocks in each stage."""


def build_encoder(config: Config) -> ResNet:
    """The speaker network with random weights, or those of ``model_init``."""
    args = config.model_args
    encoder = ResNet(MODELS[config.model], feat_dim=args.feat_dim, embed_dim=args.embed_dim, m_channels=args.m_channels)
    if config.model_init is not None:
        path = Path(config.model_init)
        checkpoint.load_encoder(encoder, checkpoint.load(path), path)
    return encoder


def build_shards(config: Config, num_classes: int, processes: Processes) -> ClassShards:
    """The classes that this process holds: all, or with ``projection_args.shard_classes`` its part.

    Raises:
        RecipeError: fewer classes than processes.
    """
    if not config.projection_args.shard_classes:
        return ClassShards(num_classes)
    if num_classes < processes.world_size:
        raise RecipeError(
            f"projection_args.shard_classes: found true with {num_classes} classes and {processes.world_size} "
            "processes, expected at least one class for each; set it to false or start fewer processes"
        )
    return ClassShards(num_classes, processes.rank, processes.world_size)


def build_head(config: Config, shards: ClassShards) -> CosineHead:
    """The projection head of ``projection_args``, for the classes of ``shards``.

    Raises:
        RecipeError: it cannot compute a loss with the margins of ``margin_update``.
    """
    head = _head(config, shards)
    margin = config.margin_update
    largest = margin.final_margin if margin.update_margin else margin.initial_margin
    check_scale_and_margin(head.alpha, head.scale, largest, head.margin_type)
    return head


def _head(config: Config, shards: ClassShards) -> CosineHead:
    args = config.projection_args
    sizes = (config.model_args.embed_dim, shards.num_classes)
    match args:
        case SoftmaxArgs() | AddMarginArgs():
            return QMarginHead(*sizes, scale=args.scale, shards=shards)
        case ArcMarginArgs():
            return AngularMarginHead(*sizes, scale=args.scale, easy_margin=args.easy_margin, shards=shards)
        case AlphaArcMarginArgs():
            return AngularMarginHead(*sizes, scale=args.scale, alpha=args.alpha, shards=shards)
        case QMarginArgs():
            return QMarginHead(*sizes, scale=args.scale, alpha=args.alpha, shards=shards)


def reinit_epoch(config: Config) -> int | None:
    """The epoch at whose start A3M-I re-initialises the prototypes, or None."""
    args = config.projection_args
    return args.reinit_epoch if isinstance(args, AlphaArcMarginArgs) else None


def build_optimizer(config: Config, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser; its learning rate is set before every step."""
    args = config.optimizer_args
    return torch.optim.SGD(
        parameters,
        lr=config.scheduler_args.initial_lr,
        momentum=args.momentum,
        nesterov=args.nesterov,
        weight_decay=args.weight_decay,
    )


def amp_dtype(config: Config) -> torch.dtype | None:
    """The low precision of the network; None where all is float32."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}[config.amp_dtype] if config.enable_amp else None


def build_scaler(config: Config, shards: ClassShards, processes: Processes) -> torch.amp.GradScaler:
    """The loss scaling of fp16; otherwise it does nothing."""
    device = processes.device.type
    enabled = config.enable_amp and config.amp_dtype == "fp16"
    if shards.world_size == 1:
        return torch.amp.GradScaler(device, enabled=enabled)
    # Averaged gradients are the same everywhere, an infinite one too; those of divided prototypes are not, and all
    # processes must skip the same steps. Imported here because it takes a second.
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    return ShardedGradScaler(device, enabled=enabled)


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


def build_fbank(config: Config, dither: float) -> Fbank:
    """The front end's filter bank; dither 0 in evaluation."""
    args = config.dataset_args.fbank_args
    return Fbank(
        sample_rate=config.dataset_args.resample_rate,
        num_mel_bins=args.num_mel_bins,
        frame_length_ms=args.frame_length,
        frame_shift_ms=args.frame_shift,
        dither=dither,
    )
