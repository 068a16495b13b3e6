"""From a configuration to the network, the head, the optimiser and the schedules: the only name -> class tables."""

from pathlib import Path

import torch
from torch import nn

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import AddMarginArgs, AlphaArcMarginArgs, ArcMarginArgs, Config, QMarginArgs, SoftmaxArgs
from wespeaker_qm.losses.heads import AngularMarginHead, CosineHead, QMarginHead
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.train import checkpoint
from wespeaker_qm.train.schedules import Schedule, annealed_margin, exponential_decrease

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


def build_head(config: Config, num_classes: int) -> CosineHead:
    """The projection head of ``projection_args`` for ``num_classes`` classes."""
    args = config.projection_args
    embed_dim = config.model_args.embed_dim
    match args:
        case SoftmaxArgs() | AddMarginArgs():
            return QMarginHead(embed_dim, num_classes, scale=args.scale, alpha=1.0)
        case ArcMarginArgs():
            return AngularMarginHead(embed_dim, num_classes, scale=args.scale, easy_margin=args.easy_margin)
        case AlphaArcMarginArgs():
            return AngularMarginHead(embed_dim, num_classes, scale=args.scale, alpha=args.alpha)
        case QMarginArgs():
            return QMarginHead(embed_dim, num_classes, scale=args.scale, alpha=args.alpha)


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
