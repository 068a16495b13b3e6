"""From a configuration to the filter bank and the speaker network, for training and extraction alike."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import Config, ResNetArgs
from wespeaker_qm.config.model import MODELS
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.network import checkpoint
from wespeaker_qm.utils.errors import RecipeError, shown

_RESNET_SIZES = ("feat_dim", "embed_dim", "m_channels", "stem_stride", "window")


def _resnet(num_blocks: tuple[int, int, int, int], args: ResNetArgs) -> ResNet:
    return ResNet(num_blocks, **{name: getattr(args, name) for name in _RESNET_SIZES})


ENCODERS: Mapping[str, Callable[[Any], SpeakerEncoder]] = {
    "ResNet10": functools.partial(_resnet, (1, 1, 1, 1)),
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
        checkpoint.load_encoder(encoder, checkpoint.load(path, is_given=True), path)
    return encoder


def encoder_named(name: str, arguments: Mapping[str, Any], source: Path | str) -> SpeakerEncoder:
    """The speaker network of a finished model, with random weights.

    Args:
        name: key of :data:`ENCODERS`.
        arguments: its sizes, by name; others have their defaults.
        source: where both were read, for messages.

    Raises:
        RecipeError: there is no such network here, or it has no such sizes.
    """
    if name not in ENCODERS:
        raise RecipeError(
            f"{source}: found the network {shown(name)}, expected one of {', '.join(ENCODERS)}; a later version of "
            "wespeaker_qm may have it"
        )
    try:
        return ENCODERS[name](MODELS[name](**arguments))
    except (TypeError, ValueError) as error:  # pydantic's is one of these
        raise RecipeError(
            f"{source}: no {name} has the sizes {shown(arguments)} ({' '.join(str(error).split())}); a later version "
            "of wespeaker_qm may know them"
        ) from error


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
