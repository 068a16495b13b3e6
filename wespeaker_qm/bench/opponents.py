"""The heads that the sparse head is compared with: dense ones, each as good as its usual form allows.

Legend: B embeddings, C classes, D dimensions, theta logits, y target, q_y = exp(-s m), a = alpha - 1.

All take prototypes of any norms, hold the normalised prototypes and the logits (B, C), as nearly all published code
does, and return the mean loss.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BISECTIONS = 50  # as `entmax` does by default


def cosface(embedding: Tensor, prototypes: Tensor, target: Tensor, scale: float, margin: float) -> Tensor:
    """CosFace (Wang et al., 2018) as commonly written: cross-entropy of s (cos - m onehot).

    Args:
        embedding: (B, D).
        prototypes: (C, D).
        target: (B,).
        scale: s.
        margin: m.
    """
    cosine = F.linear(F.normalize(embedding), F.normalize(prototypes))
    cosine[torch.arange(len(target), device=target.device), target] -= margin
    return F.cross_entropy(scale * cosine, target)


def linear_cross_entropy(embedding: Tensor, prototypes: Tensor, target: Tensor, scale: float) -> Tensor:
    """Softmax of scaled cosines by PyTorch's own ``F.linear_cross_entropy`` (2.13 and later), in its chunks.

    It takes no margin, and the prototypes must be normalised before it.

    Args:
        embedding: (B, D).
        prototypes: (C, D).
        target: (B,).
        scale: s.
    """
    unit, unit_prototypes = scale * F.normalize(embedding), F.normalize(prototypes)
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(unit, unit_prototypes, target, options=options)


def arcface(embedding: Tensor, prototypes: Tensor, target: Tensor, scale: float, margin: float) -> Tensor:
    """ArcFace (Deng et al., 2019) in the steps of WeSpeaker's ``ArcMarginProduct``.

    The margin is computed for all classes and chosen by a one-hot matrix; below cos = -cos(m) the penalty is linear.

    Args:
        embedding: (B, D).
        prototypes: (C, D).
        target: (B,).
        scale: s.
        margin: m, an angle.
    """
    cosine = F.linear(F.normalize(embedding), F.normalize(prototypes))
    sine = torch.sqrt(1.0 - torch.pow(cosine, 2))
    penalised = cosine * math.cos(margin) - sine * math.sin(margin)
    penalised = torch.where(cosine > -math.cos(margin), penalised, cosine - (1 - math.cos(margin)))
    onehot = torch.zeros_like(cosine).scatter_(1, target[:, None], 1.0)
    logits = onehot * penalised + (1.0 - onehot) * cosine
    logits *= scale
    return F.cross_entropy(logits, target)


def partial_fc(
    embedding: Tensor, prototypes: Tensor, target: Tensor, scale: float, margin: float, rate: float
) -> Tensor:
    """ArcFace in the steps of InsightFace's ``PartialFC_V2`` on one process: of the other classes a random sample.

    A product in the precision of autocast, float32 from there on; the margin by arc cosine, of the targets alone; the
    softmax written out with its derivative, in place.

    Args:
        embedding: (B, D).
        prototypes: (C, D).
        target: (B,).
        scale: s.
        margin: m, an angle.
        rate: of the classes that are taken in a step, the batch's own among them.
    """
    weight = prototypes
    if rate < 1:
        order = torch.rand(len(prototypes), device=prototypes.device).scatter_(0, target, 2.0)
        index = order.topk(int(rate * len(prototypes))).indices.sort().values
        weight, target = prototypes[index], torch.searchsorted(index, target)
    logits = F.linear(F.normalize(embedding), F.normalize(weight))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).clamp(-1, 1)
    with torch.no_grad():
        own = torch.arange(len(target), device=target.device), target
        angle = logits[own].arccos()
        logits.arccos_()
        logits[own] = angle + margin
        logits.cos_()
    return _WrittenOutSoftmax.apply(logits * scale, target)


class _WrittenOutSoftmax(torch.autograd.Function):
    """Cross-entropy, mean over the batch, in the logits' own memory."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        logits.sub_(logits.amax(1, keepdim=True)).exp_()
        logits.div_(logits.sum(1, keepdim=True))
        ctx.save_for_backward(logits, target)
        return logits.gather(1, target[:, None]).clamp_min_(1e-30).log_().mean() * -1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None]:
        posterior, target = ctx.saved_tensors
        posterior.scatter_add_(1, target[:, None], posterior.new_full((len(target), 1), -1.0))
        return posterior.mul_(grad_loss / len(target)), None


def liger(embedding: Tensor, prototypes: Tensor, target: Tensor, scale: float) -> Tensor:
    """Softmax of scaled cosines by Liger's fused linear cross-entropy, which takes no margin.

    Args:
        embedding: (B, D).
        prototypes: (C, D).
        target: (B,).
        scale: s.
    """
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    found = LigerFusedLinearCrossEntropyFunction.apply(scale * F.normalize(embedding), F.normalize(prototypes), target)
    return found[0] if isinstance(found, tuple) else found


def cut_cross_entropy(embedding: Tensor, prototypes: Tensor, target: Tensor, scale: float) -> Tensor:
    """Softmax of scaled cosines by Apple's cut-cross-entropy, in half precision; it takes no margin.

    Args:
        embedding: (B, D).
        prototypes: (C, D).
        target: (B,).
        scale: s.
    """
    from cut_cross_entropy import linear_cross_entropy as cut

    unit, unit_prototypes = (F.normalize(rows).bfloat16() for rows in (embedding, prototypes))
    return cut(scale * unit, unit_prototypes, target)


def bisection(
    embedding: Tensor,
    prototypes: Tensor,
    target: Tensor,
    alpha: float,
    scale: float,
    margin: float,
    *,
    as_in_entmax: bool,
) -> Tensor:
    """Q-Margin with the root of (10) found by bisection over all classes.

    Args:
        embedding: (B, D).
        prototypes: (C, D).
        target: (B,).
        alpha: above 1.
        scale: s.
        margin: m.
        as_in_entmax: take alpha as a tensor, as ``entmax.entmax_bisect`` does, which makes [.]^(1/a) a general power.
            As a number it is a square at alpha 1.5 and a fourth power at 1.25, which PyTorch computes much faster.
    """
    logits = scale * F.linear(F.normalize(embedding), F.normalize(prototypes))
    exponent = torch.full_like(logits[:, :1], 1 / (alpha - 1)) if as_in_entmax else 1 / (alpha - 1)
    return _Bisection.apply(logits, target, alpha, math.exp(-scale * margin), exponent).mean()


def top_bisection(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, *, share: float
) -> Tensor:
    """Q-Margin as the paper speeds it up: bisection over a share of the classes, those with the largest logits.

    The target is one of them always. Exact where the support fits into the share (the paper's Proposition 1), which is
    5 % there, or 1 %. The paper sorts in half precision, which a CPU does more slowly: here the logits are ranked as
    they are.

    Args:
        embedding: (B, D).
        prototypes: (C, D).
        target: (B,).
        alpha: above 1.
        scale: s.
        margin: m.
        share: of the classes that are kept.
    """
    logits = scale * F.linear(F.normalize(embedding), F.normalize(prototypes))
    ranked = logits.detach().scatter(1, target[:, None], torch.inf)
    kept = ranked.topk(math.ceil(share * len(prototypes)), dim=1, sorted=False).indices
    place = (kept == target[:, None]).int().argmax(1)
    return _Bisection.apply(logits.gather(1, kept), place, alpha, math.exp(-scale * margin), 1 / (alpha - 1)).mean()


class _Bisection(torch.autograd.Function):
    """The loss of (5), term by term, with the posterior of (9); the gradient is p - onehot(y)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, alpha: float, q: float, exponent: float | Tensor) -> Tensor:
        a, target = alpha - 1, target[:, None]
        scaled = a * logits
        largest, index = logits.max(1, keepdim=True)
        # The paper's bracket: tau_min and tau_max after (10), with f'(u) = (u^a - 1) / a.
        low = largest - (index == target) * ((q**-a - 1) / a)
        high = largest - ((logits.shape[1] - 1 + q) ** -a - 1) / a

        def masses(tau: Tensor) -> Tensor:
            mass = (scaled - (a * tau - 1)).clamp_(min=0).pow_(exponent)
            return mass.scatter_(1, target, q * mass.gather(1, target))

        for _ in range(BISECTIONS):
            tau = (low + high) / 2
            too_low = masses(tau).sum(1, keepdim=True) > 1
            low, high = torch.where(too_low, tau, low), torch.where(too_low, high, tau)
        posterior = masses((low + high) / 2)
        posterior /= posterior.sum(1, keepdim=True)
        ctx.save_for_backward(posterior, target)

        # D_f(onehot : q) - D_f(p : q) = (q_y^-a - sum_j q_j^-a p_j^alpha) / (alpha a), as p sums to one.
        target_power = posterior.gather(1, target)[:, 0] ** alpha
        powers = posterior.pow(alpha).sum(1) + (q**-a - 1) * target_power
        linear = (posterior * logits).sum(1) - logits.gather(1, target)[:, 0]
        return linear + (q**-a - powers) / (alpha * a)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None, None]:
        posterior, target = ctx.saved_tensors
        grad = posterior * grad_loss[:, None]
        return grad.scatter_add_(1, target, -grad_loss[:, None]), None, None, None, None
