"""Projection heads: the class prototypes, the cosines to them, and a margin handed to the alpha-divergence loss.

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
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wespeaker_qm.losses.alpha import alpha_divergence_loss, check_alpha, target_log_reference


class HeadOutput(NamedTuple):
    """Per-sample loss (B,), and cosines (B, C) without penalty or gradient, for the accuracy. Float32 or float64."""

    loss: Tensor
    cosine: Tensor


class CosineHead(nn.Module, ABC):
    """Prototypes ``weight`` (C, D), Xavier-uniform, the only parameter; a subclass says where the margin goes.

    Args:
        embed_dim: D.
        num_classes: C.
        scale: s > 0; logits are s times cosines.
        alpha: divergence of (6), in [1, 2]; 1 is cross-entropy.

    Raises:
        RecipeError: alpha outside [1, 2].
    """

    def __init__(self, embed_dim: int, num_classes: int, *, scale: float, alpha: float = 1.0) -> None:
        super().__init__()
        check_alpha(alpha)
        self.scale = scale
        self.alpha = alpha
        self.weight = nn.Parameter(torch.empty(num_classes, embed_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embedding: Tensor, target: Tensor, margin: float) -> HeadOutput:
        """Loss and cosines of a batch, in float32 at least, whatever autocast says.

        Args:
            embedding: (B, D), of any norm.
            target: (B,) class indices.
            margin: m >= 0, of this step.

        Returns:
            Loss (B,), not averaged, and cosines (B, C), detached.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = cosine_similarity(embedding, self.weight)
            return HeadOutput(self.penalised_loss(cosine, target, margin), cosine.detach())

    @abstractmethod
    def penalised_loss(self, cosine: Tensor, target: Tensor, margin: float) -> Tensor:
        """Loss (B,) of cosines (B, C) in [-1, 1] for targets (B,)."""

    def extra_repr(self) -> str:
        """Sizes and constants, for ``print(head)``."""
        num_classes, embed_dim = self.weight.shape
        return f"embed_dim={embed_dim}, num_classes={num_classes}, scale={self.scale}, alpha={self.alpha}"


class QMarginHead(CosineHead):
    """The margin as a reference measure: logits s cos_j, q_y = exp(-s m), other q_j = 1 (7), loss (8).

    Limits: alpha 1 is CosFace, s m taken off the target's logit; with margin 0 too it is the softmax of scaled
    cosines. Above alpha 1 the loss is exactly zero past the finite cosine gap exp(a s m) / (a s),
    a = alpha - 1.
    """

    def penalised_loss(self, cosine: Tensor, target: Tensor, margin: float) -> Tensor:
        """As in `CosineHead`."""
        logits = self.scale * cosine
        log_reference = target_log_reference(logits, target, -self.scale * margin) if margin else None
        return alpha_divergence_loss(logits, target, self.alpha, log_reference).loss


class AngularMarginHead(CosineHead):
    """The margin as an angle: the target's logit is s cos(angle_y + m), q = 1 (Table 5's EntMax rows; A3M).

    Limits: alpha 1 is ArcFace, alpha 2 SparseMax; margin 0 is entmax of scaled cosines. Where angle + m would pass pi
    the penalty continues linearly, as in WeSpeaker: see `angular_margin`.
    """

    def __init__(
        self, embed_dim: int, num_classes: int, *, scale: float, alpha: float = 1.0, easy_margin: bool = False
    ) -> None:
        super().__init__(embed_dim, num_classes, scale=scale, alpha=alpha)
        self.easy_margin = easy_margin

    def penalised_loss(self, cosine: Tensor, target: Tensor, margin: float) -> Tensor:
        """As in `CosineHead`."""
        index = target[:, None]
        penalised = angular_margin(cosine.gather(1, index), margin, easy_margin=self.easy_margin)
        return alpha_divergence_loss(self.scale * cosine.scatter(1, index, penalised), target, self.alpha).loss

    def extra_repr(self) -> str:
        """As in `CosineHead`."""
        return f"{super().extra_repr()}, easy_margin={self.easy_margin}"


def cosine_similarity(embedding: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines (B, C) in [-1, 1] between embeddings (B, D) and prototypes (C, D), in float32 at least.

    ``F.linear(F.normalize(embedding), F.normalize(prototypes)).clamp(-1, 1)``, but a zero vector, which has no
    direction, has cosine 0 to everything and no gradient, instead of one that is 1e12 times too large.
    """
    return (_unit(embedding) @ _unit(prototypes).T).clamp(-1, 1)


def angular_margin(cosine: Tensor, margin: float, *, easy_margin: bool = False) -> Tensor:
    """cos(angle + m) elementwise, for cosines in [-1, 1] and 0 <= m <= pi (ArcFace; WeSpeaker's ``ArcMarginProduct``).

    ``torch.cos(torch.acos(cosine) + margin)``, except where angle + m > pi: there it is cos - (1 - cos m), which meets
    the curve at angle + m = pi and keeps falling. With ``easy_margin``, the penalty holds for cos > 0 only.

    Gradients are finite everywhere: at cos = +-1, where the sine's own slope is infinite (and the embedding's gradient
    through it 0), it counts as 0.
    """
    sine_squared = (1 - cosine) * (1 + cosine)
    inside = sine_squared > 0
    sine = torch.where(inside, sine_squared, 1.0).sqrt() * inside
    penalised = cosine * math.cos(margin) - sine * math.sin(margin)
    if easy_margin:
        return torch.where(cosine > 0, penalised, cosine)
    return torch.where(cosine > -math.cos(margin), penalised, cosine - (1 - math.cos(margin)))


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
        mean_unit_embeddings: (C, D); mean over the samples of each class of embedding / |embedding|, 0 for a class
            without samples (whose prototype is kept).
        weight: (C, D) the present prototypes; not modified.

    Raises:
        ValueError: the shapes differ, or a mean is not finite.
    """
    if mean_unit_embeddings.shape != weight.shape:
        raise ValueError(f"means have shape {tuple(mean_unit_embeddings.shape)}, prototypes {tuple(weight.shape)}")
    if not mean_unit_embeddings.isfinite().all():
        raise ValueError("a class mean is not finite; expected zeros for a class without samples")
    direction = _unit(mean_unit_embeddings)
    has_samples = direction.any(dim=1, keepdim=True)
    norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    prototypes = torch.where(has_samples, (direction * norm).to(weight), weight)
    return Reinitialisation(prototypes, kept=(~has_samples[:, 0]).nonzero()[:, 0])


def _unit(vectors: Tensor) -> Tensor:
    """Rows (N, D) over their norms, in float32 at least; a row too small to square stays zero, with zero gradient."""
    if vectors.dtype != torch.float64:
        vectors = vectors.float()
    squared = vectors.square().sum(dim=1, keepdim=True)
    tiny = torch.finfo(vectors.dtype).tiny
    return vectors * torch.where(squared > tiny, squared.clamp(min=tiny).rsqrt(), 0.0)
