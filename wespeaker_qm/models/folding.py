"""Batch norm folded into the convolutions before it: in evaluation it is a factor and an offset for each channel."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wespeaker_qm.models.resnet import BasicBlock, ResNet


def folded(encoder: ResNet) -> ResNet:
    """A copy of a network in evaluation mode without batch norms: the same embeddings, up to round-off, in less time.

    Raises:
        ValueError: the network is in training mode.
    """
    if encoder.training:
        raise ValueError("found a network in training mode, expected evaluation mode: its batch norms still change")
    # A head that trains with the network is shared, not copied: it may be larger than the network, and is not asked.
    shared = [child for name, child in encoder.named_children() if name == "projection"]
    encoder = copy.deepcopy(encoder, {id(head): head for head in shared})
    _fold(encoder, "conv1", "bn1")
    for block in encoder.modules():
        if isinstance(block, BasicBlock):
            _fold(block, "conv1", "bn1")
            _fold(block, "conv2", "bn2")
            if len(block.shortcut):
                _fold(block.shortcut, "0", "1")
    return encoder


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    conv, norm_after = module.get_submodule(convolution), module.get_submodule(norm)
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm_after, nn.BatchNorm2d):
        raise TypeError(f"found {conv} and {norm_after}, expected a convolution and its batch norm")
    setattr(module, convolution, fuse_conv_bn_eval(conv, norm_after))
    setattr(module, norm, nn.Identity())
