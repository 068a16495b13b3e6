"""Batch norm folded into the convolution before it: in evaluation it is a factor and an offset for each channel."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(module: nn.Module, convolution: str, norm: str) -> None:
    """Fold a batch norm into its convolution, in place, and leave an identity where it was.

    Args:
        module: in evaluation mode; it holds both.
        convolution: name of a 2-dimensional convolution in it.
        norm: name of the batch norm that follows.

    Raises:
        TypeError: they are something else.
    """
    conv, norm_after = module.get_submodule(convolution), module.get_submodule(norm)
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm_after, nn.BatchNorm2d):
        raise TypeError(f"found {conv} and {norm_after}, expected a convolution and its batch norm")
    setattr(module, convolution, fuse_conv_bn_eval(conv, norm_after))
    setattr(module, norm, nn.Identity())
