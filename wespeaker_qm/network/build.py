"""From a configuration to the filter bank and the speaker network, for training and extraction alike."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import Config, ResNetArgs
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.network import checkpoint


def _resnet(num_blocks: tuple[int, int, int, int], args: ResNetArgs) -> ResNet:
    return ResNet(num_blocks, feat_dim=args.feat_dim, embed_dim=args.embed_dim, m_channels=args.m_channels)


ENCODERS: Mapping[str, Callable[[Any], SpeakerEncoder]] = {
    "ResNet18": functools.partial(_resnet, (2, 2, 2, 2)),
    "ResNet34": functools.partial(_resnet, (3, 4, 6, 3)),
}
"""Config key ``model`` -> what makes that network, with random weights, of its ``model_args``."""


def build_encoder(config: Config) -> SpeakerEncoder:
    """The speaker network with random weights, or those of ``model_init``.

    Raises:
        RecipeError: ``model_init`` is missing, damaged, or does not fit the network.
    """
    encoder = ENCODERS[config.model](config.model_args)
    if config.model_init is not None:
        path = Path(config.model_init)
        checkpoint.load_encoder(encoder, checkpoint.load(path), path)
    return encoder


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
