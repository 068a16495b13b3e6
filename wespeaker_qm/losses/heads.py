"""Projection heads: the class prototypes, and where the margin goes; `linear` computes the loss from them.

Legend: B batch, C classes, D embedding dimension, s scale, m margin, y target, cos_j = <x / |x|, w_j / |w_j|>.

==============================  =================  ======================  ==================  =========
loss                            head               logit of the target     reference q_y       alpha
==============================  =================  ======================  ==================  =========
softmax (margin 0), CosFace     QMarginHead        s cos_y                 exp(-s m)           1
Q-Margin (7), (8)               QMarginHead        s cos_y                 exp(-s m)           in (1, 2]
ArcFace                         AngularMarginHead  s cos(angle_y + m)      1                   1
EntMax, A3M                     AngularMarginHead  s cos(angle_y + m)      1                   in (1, 2]
SparseMax                       AngularMarginHead  s cos(angle_y + m)      1                   2
==============================  =================  ======================  ==================  =========

Every other class has logit s cos_j and reference 1. Alpha 1 is code, not a limit: ``QMarginHead(alpha=1)`` is CosFace,
cross-entropy of s (cos_y - m), and ``AngularMarginHead(alpha=1)`` is ArcFace. A3M-I is A3M whose prototypes are
replaced once by `reinitialised_prototypes`.

Heads keep no margin: the trainer passes the annealed one with each batch.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wespeaker_qm.losses.alpha import check_alpha
from wespeaker_qm.losses.device_rows import DeviceRows
from wespeaker_qm.losses.gradients import unit_rows
from wespeaker_qm.losses.lazy_rows import LazyRows
from wespeaker_qm.losses.linear import Kept, LinearLoss, alpha_margin_linear
from wespeaker_qm.losses.margins import MarginType
from wespeaker_qm.losses.partition import ClassPartition

_BLOCK_ROWS = 4096  # prototypes drawn together


class CosineHead(nn.Module):
    """Prototypes ``weight`` (C, D), Xavier-uniform, the only parameter; a subclass says where the margin goes.

    Args:
        embed_dim: D.
        num_classes: C, over all processes.
        scale: s > 0; logits are s times cosines.
        alpha: divergence of (6), in [1, 2]; 1 is cross-entropy.
        partition: classes divided over processes; ``weight`` then has those of this process, which start as the same
            rows of an undivided head would.

    Raises:
        RecipeError: alpha outside [1, 2].
    """

    margin_type: MarginType

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        scale: float,
        alpha: float = 1.0,
        partition: ClassPartition | None = None,
    ) -> None:
        super().__init__()
        check_alpha(alpha)
        self.scale = scale
        self.alpha = alpha
        self.partition = partition or ClassPartition(num_classes)
        self.weight = nn.Parameter(_xavier_rows(self.partition, embed_dim))
        self.kept: Kept | None = None
        """What is kept of the prototypes where `PrototypeSGD` moves them."""

    def forward(self, embedding: Tensor, target: Tensor, margin: float) -> LinearLoss:
        """Loss of a batch; see `alpha_margin_linear`.

        Args:
            embedding: (B, D), of any norm.
            target: (B,) class indices, over all processes.
            margin: m >= 0, of this step.
        """
        return alpha_margin_linear(
            embedding,
            self.weight,
            target,
            self.alpha,
            self.scale,
            margin,
            margin_type=self.margin_type,
            sparse_gradient=isinstance(self.kept, LazyRows),
            partition=self.partition,
            kept=self.kept,
        )

    @torch.no_grad()
    def gradient_norm(self) -> Tensor | None:
        """Euclidean norm, (), of the gradient of this process's prototypes, wherever it is; None without one."""
        gradient = self.weight.grad
        if isinstance(self.kept, DeviceRows) and self.kept.holds_gradient:
            if gradient is None:
                return self.kept.gradient_norm()
            gradient = gradient + self.kept.gradient()
        if gradient is None:
            return None
        norm: Tensor = torch.linalg.vector_norm(gradient.coalesce().values() if gradient.is_sparse else gradient)
        return norm

    def catch_up(self) -> None:
        """Bring all prototypes up to date, where an optimiser may have left some behind.

        To be called before :attr:`weight` itself is read or changed; what comes next reads it again.
        """
        if self.kept is not None:
            self.kept.hand_over()

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.catch_up()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.catch_up()  # the momenta, which stay
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:  # what ``to()`` and its like come down to
        self.catch_up()
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """Sizes and constants, for ``print(head)``."""
        embed_dim = self.weight.shape[1]
        constants = f"embed_dim={embed_dim}, num_classes={self.partition.num_classes}, scale={self.scale}"
        return f"{constants}, alpha={self.alpha}, margin_type={self.margin_type}"


def _xavier_rows(partition: ClassPartition, embed_dim: int) -> Tensor:
    """This process's rows of ``nn.init.xavier_uniform_(torch.empty(C, D))``, and the generator in the same state.

    All values are drawn, as each depends on how many came before, but only a block at a time is held.
    """
    bound = math.sqrt(3) * math.sqrt(2 / (partition.num_classes + embed_dim))  # to the last digit
    weight = torch.empty(partition.stop - partition.start, embed_dim)
    if partition.world_size == 1:
        return weight.uniform_(-bound, bound)
    for start in range(0, partition.num_classes, _BLOCK_ROWS):
        block = torch.empty(min(_BLOCK_ROWS, partition.num_classes - start), embed_dim).uniform_(-bound, bound)
        first, last = max(start, partition.start), min(start + len(block), partition.stop)
        if first < last:
            weight[first - partition.start : last - partition.start] = block[first - start : last - start]
    return weight


class QMarginHead(CosineHead):
    """The margin as a reference measure: logits s cos_j, q_y = exp(-s m), other q_j = 1 (7), loss (8).

    Limits: alpha 1 is CosFace, s m taken off the target's logit; with margin 0 too it is the softmax of scaled
    cosines. Above alpha 1 the loss is exactly zero past the finite cosine gap exp(a s m) / (a s),
    a = alpha - 1.
    """

    margin_type = "reference"


class AngularMarginHead(CosineHead):
    """The margin as an angle: the target's logit is s cos(angle_y + m), q = 1 (Table 5's EntMax rows; A3M).

    Limits: alpha 1 is ArcFace, alpha 2 SparseMax; margin 0 is entmax of scaled cosines. Where angle + m would pass pi
    the penalty continues linearly, as in WeSpeaker; with ``easy_margin`` it holds for angles below 90 degrees only.
    See `angular_margin`.

    Args:
        embed_dim: D.
        num_classes: C, over all processes.
        scale: s > 0; logits are s times cosines.
        alpha: divergence of (6), in [1, 2]; 1 is cross-entropy.
        easy_margin: penalise angles below 90 degrees only.
        partition: as for :class:`CosineHead`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        scale: float,
        alpha: float = 1.0,
        easy_margin: bool = False,
        partition: ClassPartition | None = None,
    ) -> None:
        super().__init__(embed_dim, num_classes, scale=scale, alpha=alpha, partition=partition)
        self.margin_type = "easy_angular" if easy_margin else "angular"


class Reinitialisation(NamedTuple):
    """New prototypes (C, D), and the indices (K,) of the classes that kept theirs for want of samples."""

    prototypes: Tensor
    kept: Tensor


@torch.no_grad()
def reinitialised_prototypes(mean_unit_embeddings: Tensor, weight: Tensor) -> Reinitialisation:
    """Point every prototype at the mean unit embedding of its class (A3M-I).

    Only directions matter to a cosine, so the old norms are kept: the step that a learning rate makes in angle goes
    with 1 / norm^2, and must not change at the re-initialisation. Clear the prototypes' momentum when applying it.

    Args:
        mean_unit_embeddings: (C, D); mean over the samples of each class of embedding / ``|embedding|``, 0 for a class
            without samples (whose prototype is kept).
        weight: (C, D) the present prototypes; not modified.

    Raises:
        ValueError: the shapes differ, or a mean is not finite.
    """
    if mean_unit_embeddings.shape != weight.shape:
        raise ValueError(f"means have shape {tuple(mean_unit_embeddings.shape)}, prototypes {tuple(weight.shape)}")
    if not mean_unit_embeddings.isfinite().all():
        raise ValueError("a class mean is not finite; expected zeros for a class without samples")
    direction = unit_rows(mean_unit_embeddings)
    has_samples = direction.any(dim=1, keepdim=True)
    norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True, dtype=torch.float64)  # its square may be no float32
    prototypes = torch.where(has_samples, (direction * norm).to(weight), weight)
    return Reinitialisation(prototypes, kept=(~has_samples[:, 0]).nonzero()[:, 0])
