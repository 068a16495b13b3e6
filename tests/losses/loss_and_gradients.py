"""What tests of several files compare: a loss, and the gradients of a weighted sum of it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from wespeaker_qm.losses.linear import LinearLoss, alpha_margin_linear


class Found(NamedTuple):
    """Of one batch."""

    output: LinearLoss
    embedding_gradient: Tensor
    prototype_gradient: Tensor


def compute(embedding: Tensor, prototypes: Tensor, target: Tensor, *settings: Any, **options: Any) -> Found:
    """By :func:`alpha_margin_linear`, of copies of the leaves; each row of the batch has a weight of its own."""
    embedding, prototypes = (leaf.detach().clone().requires_grad_() for leaf in (embedding, prototypes))
    output = alpha_margin_linear(embedding, prototypes, target, *settings, **options)
    upstream = torch.linspace(0.5, 1.5, len(target), device=target.device, dtype=output.loss.dtype)
    return Found(output, *torch.autograd.grad((output.loss * upstream).sum(), (embedding, prototypes)))
