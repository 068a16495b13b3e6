"""The loss on a GPU, for up to some ten thousand classes: six kernels, on all logits.

::

    embeddings, targets -> unit vectors, targets' logits --+
    prototypes -> cosines (B, n) --------------------------+-> a program a row: loss, d loss / d cosine
    d loss / d cosine -> sums of parts of the classes -> embeddings' gradients
                      -> prototypes' gradients

Nothing waits for the device, and no shape depends on the values: forward and backward can be captured in a CUDA graph.
The operators are registered with `torch.library`, so that ``torch.compile`` takes each as one node.
"""

import torch
from torch import Tensor

from wespeaker_qm.losses.operators import differentiable, operator
from wespeaker_qm.losses.roundoff import tie_error

_BLOCK_CLASSES = 2048  # of a row that a program works on together
_WARPS = 8  # of it; more of them have less to do each, but all compute what is once a row


@operator("row_loss")
def row_loss(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, margin_type: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
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
        (B,) each: loss, correct, support and target_posterior of `linear` (0 at alpha 1); d loss / d cosine, of n
        classes and a few that there are not; unit embeddings (B, D), and 1 / norms (B,) and (n,) float64.
    """
    from wespeaker_qm.losses.kernels import launch
    from wespeaker_qm.losses.kernels.rows import divergence_rows, softmax_rows

    batch, num_classes = embedding.shape[0], prototypes.shape[0]
    unit, inverse_norms, terms = launch.embedding_terms(embedding, prototypes, target, scale, margin, margin_type)
    cosine, inverse_prototype_norms = launch.cosines(unit, prototypes)
    loss, support, posterior = (unit.new_empty(batch) for _ in range(3))
    correct = torch.empty_like(target, dtype=torch.bool)
    block = min(_BLOCK_CLASSES, launch.power_of_two(num_classes))
    roundoff = tie_error(torch.float32, unit.shape[1])
    if alpha == 1:
        softmax_rows[(batch,)](
            cosine, target, *terms, loss, correct, support, posterior, num_classes, cosine.shape[1], roundoff, scale,
            BLOCK=block, num_warps=_WARPS,
        )  # fmt: skip
    else:
        divergence_rows[(batch,)](
            cosine, target, *terms, loss, correct, support, posterior, num_classes, cosine.shape[1],
            roundoff, scale, alpha - 1, POWER=launch.power_of(alpha - 1), BLOCK=block, num_warps=_WARPS,
        )  # fmt: skip
    return loss, correct, support, posterior, cosine, unit, inverse_norms, inverse_prototype_norms


@row_loss.node.register_fake
def _(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, margin_type: str
) -> tuple[Tensor, ...]:
    batch, num_classes = len(embedding), len(prototypes)
    rows = [embedding.new_empty(batch) for _ in range(3)]
    return (
        rows[0],
        torch.empty_like(target, dtype=torch.bool),
        *rows[1:],
        embedding.new_empty(batch, 16 * ((num_classes + 15) // 16)),
        torch.empty_like(embedding),
        embedding.new_empty(batch, dtype=torch.float64),
        embedding.new_empty(num_classes, dtype=torch.float64),
    )


@operator("row_loss_backward")
def row_loss_backward(
    grad_loss: Tensor,
    prototypes: Tensor,
    derivative: Tensor,
    unit: Tensor,
    inverse_norms: Tensor,
    inverse_prototype_norms: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the embeddings (B, D) and the prototypes (n, D) from that of the loss (B,)."""
    from wespeaker_qm.losses.kernels import launch

    factor = grad_loss.contiguous()
    grad_embedding = launch.embedding_gradient(
        derivative, factor, unit, inverse_norms, prototypes, inverse_prototype_norms
    )
    grad_prototypes = launch.prototype_gradient(derivative, factor, unit, prototypes, inverse_prototype_norms)
    return grad_embedding, grad_prototypes


@row_loss_backward.node.register_fake
def _(
    grad_loss: Tensor,
    prototypes: Tensor,
    derivative: Tensor,
    unit: Tensor,
    inverse_norms: Tensor,
    inverse_prototype_norms: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(unit), torch.empty_like(prototypes)


derived_row_loss = differentiable(row_loss, row_loss_backward, num_results=4, settings=slice(0))
"""`row_loss` with derivatives."""
