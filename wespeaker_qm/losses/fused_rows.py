"""The loss on a GPU, for up to some ten thousand classes: three products of matrices, and kernels on rows.

::

    embeddings, prototypes -> unit vectors -> product -> cosines (B, n) -> a program a row: loss, d loss / d cosine
    d loss / d cosine -> two products -> kernels: off the radial part, over the norms -> gradients

Nothing waits for the device, and no shape depends on the values: forward and backward can be captured in a CUDA graph.
The operators are registered with `torch.library`, so that ``torch.compile`` takes each as one node.
"""

from typing import Any

import torch
from torch import Tensor

from wespeaker_qm.losses.alpha import first_derivative_only
from wespeaker_qm.utils.precision import exact_float32

_BLOCK_CLASSES = 2048  # of a row that a program works on together


@torch.library.custom_op("wespeaker_qm::row_loss", mutates_args=())
def row_loss(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, margin_type: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss of float32 embeddings (B, D) and prototypes (n, D), and what its gradients need.

    Args:
        embedding: (B, D) float32, contiguous.
        prototypes: (n, D) float32, contiguous.
        target: (B,) int64; one that is no class has a NaN loss.
        alpha: in [1, 2].
        scale: s.
        margin: m.
        margin_type: where it goes.

    Returns:
        (B,) each: loss, correct, support and target_posterior of `linear` (0 at alpha 1); d loss / d cosine (B, n);
        unit vectors (B, D) and (n, D), and 1 / norms (B,) and (n,) float64.
    """
    import triton

    from wespeaker_qm.losses.kernels import launch
    from wespeaker_qm.losses.kernels.rows import divergence_rows, softmax_rows

    batch, num_classes = len(embedding), len(prototypes)
    unit, inverse_norms = launch.unit_vectors(embedding, torch.float32)
    unit_prototypes, inverse_prototype_norms = launch.unit_vectors(prototypes, torch.float32)
    with exact_float32():
        cosine = unit @ unit_prototypes.T
    terms = launch.target_of(unit, prototypes, inverse_prototype_norms, target, scale, margin, margin_type)
    loss, support, posterior = (unit.new_empty(batch) for _ in range(3))
    correct = torch.empty_like(target, dtype=torch.bool)
    block = min(_BLOCK_CLASSES, triton.next_power_of_2(num_classes))
    roundoff = (unit.shape[1] + 8) * torch.finfo(torch.float32).eps / 2
    if alpha == 1:
        support.zero_(), posterior.zero_()
        softmax_rows[(batch,)](
            cosine, target, *terms, loss, correct, num_classes, roundoff, scale, BLOCK=block, num_warps=8
        )
    else:
        divergence_rows[(batch,)](
            cosine, target, *terms, loss, correct, support, posterior, num_classes, roundoff, scale, alpha - 1,
            POWER=launch.power_of(alpha - 1), BLOCK=block, num_warps=8,
        )  # fmt: skip
    kept = (cosine, unit, unit_prototypes, inverse_norms, inverse_prototype_norms)
    return loss, correct, support, posterior, *kept


@row_loss.register_fake
def _(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, margin_type: str
) -> tuple[Tensor, ...]:
    batch, num_classes = len(embedding), len(prototypes)
    rows = [embedding.new_empty(batch) for _ in range(3)]
    return (
        rows[0],
        torch.empty_like(target, dtype=torch.bool),
        *rows[1:],
        embedding.new_empty(batch, num_classes),
        torch.empty_like(embedding),
        torch.empty_like(prototypes),
        embedding.new_empty(batch, dtype=torch.float64),
        embedding.new_empty(num_classes, dtype=torch.float64),
    )


@torch.library.custom_op("wespeaker_qm::row_loss_backward", mutates_args=())
def row_loss_backward(
    grad_loss: Tensor,
    derivative: Tensor,
    unit: Tensor,
    unit_prototypes: Tensor,
    inverse_norms: Tensor,
    inverse_prototype_norms: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the embeddings (B, D) and the prototypes (n, D) from that of the loss (B,)."""
    from wespeaker_qm.losses.kernels import launch

    with exact_float32():
        grad_embedding = derivative @ unit_prototypes
        grad_prototypes = derivative.T @ (unit * grad_loss[:, None])
    launch.make_tangential(grad_embedding, unit, inverse_norms, grad_loss.contiguous())
    launch.make_tangential(grad_prototypes, unit_prototypes, inverse_prototype_norms, None)
    return grad_embedding, grad_prototypes


@row_loss_backward.register_fake
def _(
    grad_loss: Tensor,
    derivative: Tensor,
    unit: Tensor,
    unit_prototypes: Tensor,
    inverse_norms: Tensor,
    inverse_prototype_norms: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(unit), torch.empty_like(unit_prototypes)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[4:])
    ctx.mark_non_differentiable(*output[1:])


@first_derivative_only
def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    grad_embedding, grad_prototypes = row_loss_backward(grad_loss, *ctx.saved_tensors)
    return grad_embedding, grad_prototypes, None, None, None, None, None


row_loss.register_autograd(_backward, setup_context=_keep)
