"""Batches for a head: as at the start of a training, and as at its end.

Legend: B embeddings, C classes, D dimensions.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wespeaker_qm.losses.margins import MarginType

GROUP = 50  # classes of a trained head that resemble each other: of one gender, language, accent
GROUP_COSINE = 0.2
TARGET_COSINE, TARGET_COSINE_STD = 0.7, 0.1
_EMBEDDING_NORM = 8.0


class Case(NamedTuple):
    """A size, a head (alpha, s, m, where the margin goes), and whether prototypes and embeddings are trained."""

    batch: int
    dim: int
    num_classes: int
    alpha: float
    scale: float
    margin: float
    trained: bool
    margin_type: MarginType = "reference"


class HeadInput(NamedTuple):
    """embedding (B, D), prototypes (C, D), both leaves that require gradients, and target (B,)."""

    embedding: Tensor
    prototypes: Tensor
    target: Tensor


def simulate(case: Case, seed: int = 0) -> HeadInput:
    """Draw a batch and prototypes; the same ones for the same case and seed.

    At the start prototypes are Xavier-uniform and embeddings normal. Trained is simulated: a target's cosine is
    0.7 +- 0.1, prototypes lie in groups of 50 at cosine 0.2 to each other, norms differ and are not 1.

    The prototypes are built in place: no second (C, D) is ever held.
    """
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.empty(case.num_classes, case.dim)
    target = torch.randint(case.num_classes, (case.batch,), generator=generator)
    embedding = torch.randn(case.batch, case.dim, generator=generator)
    if case.trained:
        _fill_trained(prototypes, generator)
        embedding = near(F.normalize(prototypes[target]), embedding, generator)
    else:
        torch.nn.init.xavier_uniform_(prototypes, generator=generator)
    return HeadInput(embedding.requires_grad_(), prototypes.requires_grad_(), target)


def _fill_trained(prototypes: Tensor, generator: torch.Generator) -> None:
    """Fill (C, D) with a share of the group's direction and one of the class's own, times a norm of 0.5 to 1.5."""
    num_classes, dim = prototypes.shape
    prototypes.normal_(generator=generator)
    own_norm = torch.linalg.vector_norm(prototypes, dim=1, keepdim=True)
    prototypes.mul_(math.sqrt(1 - GROUP_COSINE) / own_norm)
    shared = F.normalize(torch.randn(-(-num_classes // GROUP), dim, generator=generator)).mul_(math.sqrt(GROUP_COSINE))
    whole = num_classes // GROUP
    prototypes[: whole * GROUP].view(whole, GROUP, dim).add_(shared[:whole, None])
    prototypes[whole * GROUP :].add_(shared[whole:])
    prototypes.mul_(0.5 + torch.rand(num_classes, 1, generator=generator))


def near(unit: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Embeddings (B, D) at the target's cosine to unit vectors (B, D), in the direction of the noise (B, D)."""
    drawn = torch.randn(len(unit), 1, generator=generator)
    cosine = (TARGET_COSINE + TARGET_COSINE_STD * drawn).clamp(-1, 1)
    across = F.normalize(noise - (noise * unit).sum(1, keepdim=True) * unit)
    return _EMBEDDING_NORM * (cosine * unit + (1 - cosine.square()).sqrt() * across)
