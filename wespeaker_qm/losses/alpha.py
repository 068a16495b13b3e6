r"""The alpha-divergence loss and its posterior, exact, as pure functions of the logits.

Koutsianos et al., "Sparsity-Inducing Divergence Losses for Biometric Verification"; numbers in brackets are the paper's
equations. Legend: B batch, C classes, theta (B, C) logits, y target, q reference measure, a = alpha - 1.

    f(u)   = ((u^alpha - 1) - alpha (u - 1)) / (alpha a)                                                            (6)
    p      = argmax_p <p, theta> - sum_j q_j f(p_j / q_j),   p on the simplex                                       (4)
           = q_j [1 + a (theta_j - tau)]_+^(1/a),            tau such that sum_j p_j = 1                       (9, 10)
    loss   = max_p (<p, theta> - D_f(p : q)) + D_f(onehot(y) : q) - theta_y                                         (5)
    d loss / d theta = p - onehot(y)

============  ===============  =====================  =======================================
member        alpha            reference q            one-line equivalent
============  ===============  =====================  =======================================
softmax       1                1                      ``F.cross_entropy(theta, y)``
CosFace       1                q_y = exp(-s m)        ``F.cross_entropy(theta + log q, y)``
Q-Margin      in (1, 2]        q_y = exp(-s m)        (7), (8); this module
EntMax        in (1, 2]        1                      ``entmax_bisect_loss(theta, y, alpha)``
SparseMax     2                1                      ``sparsemax_loss(theta, y)``
============  ===============  =====================  =======================================

Departures from the paper, none of which changes the function that is computed:

* the root is found by Newton's method with a convergence test, not by a fixed number of bisections over a top-5 % cut;
* the value is a sum of non-negative terms. The difference that (5) spells out cancels: in float32 it is negative for
  some samples and has no correct digit near zero;
* the unknown is not tau but 1 + a (max theta - tau), and sums are taken relative to their largest term: nothing
  overflows for large logits or margins, nothing cancels for flat ones, and alpha near 1 is as exact as alpha 2.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wespeaker_qm.losses.root import Root, TargetTerms, class_sums, loss_value, newton_root, posterior_of
from wespeaker_qm.utils.errors import RecipeError

_NUM_LEADERS = 16  # classes with the largest logits; the search for the root over all begins at the root over these


class AlphaLoss(NamedTuple):
    """Per-sample loss (B,), differentiable, and posterior (B, C), a constant to autograd."""

    loss: Tensor
    posterior: Tensor


def check_alpha(alpha: float) -> None:
    """Refuse an alpha outside [1, 2]: below, no divergence of this family is sparse; above, Newton may diverge.

    Raises:
        RecipeError: names the value and the range.
    """
    if not 1.0 <= alpha <= 2.0:
        raise RecipeError(f"alpha is {alpha!r}, expected a number in [1, 2]: 1 is cross-entropy, 2 is SparseMax")


def class_indices(target: Tensor, num_classes: int) -> Tensor:
    """Targets of any integer type as int64.

    Raises:
        ValueError: they are of another type, or some are no class.
    """
    target = as_indices(target)
    outside = (target < 0) | (target >= num_classes)
    if outside.any():
        found = target[outside][:3].tolist()
        raise ValueError(f"{int(outside.sum())} targets such as {found} are no class in 0 to {num_classes - 1}")
    return target


def as_indices(target: Tensor) -> Tensor:
    """Targets of any integer type as int64, without asking whether they are classes: on a GPU, asking is waiting.

    Raises:
        ValueError: they are of another type.
    """
    if target.dtype == torch.bool or target.is_floating_point() or target.is_complex():
        raise ValueError(f"target has type {target.dtype}, expected integers: class indices")
    return target.long()


def target_log_reference(logits: Tensor, target: Tensor, log_q: float) -> Tensor:
    """Log of the reference measure that is ``exp(log_q)`` on each row's target and 1 elsewhere (7); Q-Margin: -s m.

    Args:
        logits: (B, C), for shape, dtype and device.
        target: (B,) class indices.
        log_q: logarithm of the target's measure; negative values are a margin.

    Returns:
        (B, C), as ``logits``.
    """
    return torch.zeros_like(logits).scatter_(1, target[:, None], log_q)


@torch.no_grad()
def alpha_softargmax(logits: Tensor, alpha: float, log_reference: Tensor | None = None) -> Tensor:
    """Posterior of (9): ``softmax(logits + log_reference)`` at alpha 1, with exact zeros at alpha above 1.

    Args:
        logits: (B, C); lower precision than float32 is computed in float32, autocast or not. -inf is no class.
        alpha: in [1, 2].
        log_reference: log q, (C,) or (B, C); None is q = 1, -inf no class. Logarithms, so that a large margin does not
            underflow.

    Returns:
        (B, C), float32 or float64, rows sum to one. Carries no gradient. A row with a NaN is NaN.

    Raises:
        RecipeError: alpha outside [1, 2].
        ValueError: the shapes do not fit.
    """
    check_alpha(alpha)
    logits, log_reference = _prepare(logits, log_reference)
    with torch.autocast(logits.device.type, enabled=False):
        if alpha == 1:
            return torch.softmax(_tilt(logits, log_reference), dim=1)
        gap, root = _solve(logits, alpha - 1, log_reference)
        return posterior_of(gap, alpha - 1, root, log_reference)[0]


def alpha_divergence_loss(
    logits: Tensor, target: Tensor, alpha: float, log_reference: Tensor | None = None
) -> AlphaLoss:
    """Loss of (5) for the alpha-divergence (6), with gradient ``posterior - onehot(target)``; never negative.

    At alpha 1 it is ``F.cross_entropy(logits + log_reference, target, reduction="none")``, as code and not as a limit.
    It is exactly zero, and so is the gradient, where the target holds all of the posterior.

    Args:
        logits: (B, C); lower precision than float32 is computed in float32, autocast or not. -inf is no class.
        target: (B,) class indices, of any integer type.
        alpha: in [1, 2].
        log_reference: log q, (C,) or (B, C), a constant to autograd; None is q = 1, -inf no class. See
            `target_log_reference`.

    Returns:
        loss (B,) and posterior (B, C), float32 or float64. A row with a NaN or +inf, or without classes, has a NaN
        loss, one whose target is no class an infinite loss; other rows are untouched.

    Raises:
        RecipeError: alpha outside [1, 2].
        ValueError: the shapes do not fit, or a target is no class.
    """
    check_alpha(alpha)
    logits, log_reference = _prepare(logits, log_reference)
    if target.shape != logits.shape[:1]:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected {tuple(logits.shape[:1])}, one a logit row")
    target = class_indices(target, logits.shape[1])
    with torch.autocast(logits.device.type, enabled=False):
        if alpha == 1:
            log_posterior = F.log_softmax(_tilt(logits, log_reference), dim=1)
            return AlphaLoss(F.nll_loss(log_posterior, target, reduction="none"), log_posterior.detach().exp())
        return AlphaLoss(*_AlphaDivergence.apply(logits, target, alpha - 1, log_reference))


Gradients = TypeVar("Gradients")


def first_derivative_only(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Refuse to be differentiated again: autograd would take the gradients for constants without a word."""

    @functools.wraps(backward)
    def checked(ctx: Any, *arguments: Any) -> Gradients:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "found a backward with create_graph=True, expected one without: this loss has first derivatives only"
            )
        return backward(ctx, *arguments)

    return checked


class _AlphaDivergence(torch.autograd.Function):
    """The loss with its closed-form gradient: backward never sees the root finding."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, a: float, log_reference: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        gap, root = _solve(logits, a, log_reference)
        posterior, share = posterior_of(gap, a, root, log_reference)
        index = target[:, None]
        others = posterior.scatter(1, index, 0.0)
        target_gap = gap.gather(1, index)[:, 0]
        log_q = torch.zeros_like(target_gap) if log_reference is None else log_reference.gather(1, index)[:, 0]
        loss = loss_value(root, TargetTerms(target_gap, log_q), others.sum(1), (others * share).sum(1), a)
        ctx.save_for_backward(posterior, target)
        ctx.mark_non_differentiable(posterior)
        return loss, posterior

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        posterior, target = ctx.saved_tensors
        grad = posterior * grad_loss[:, None]
        return grad.scatter_add_(1, target[:, None], -grad_loss[:, None]), None, None, None


def _prepare(logits: Tensor, log_reference: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Check shapes; raise the precision to float32 at least; give the reference the logits' dtype and shape."""
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, expected (B, C) with at least one class")
    if logits.dtype != torch.float64:
        logits = logits.float()
    if log_reference is None:
        return logits, None
    if log_reference.shape not in (logits.shape, logits.shape[1:]):
        raise ValueError(
            f"log_reference has shape {tuple(log_reference.shape)}, expected {tuple(logits.shape[1:])} "
            f"or {tuple(logits.shape)}"
        )
    log_reference = log_reference.detach().to(logits).expand_as(logits)
    # The search for the root begins at the largest logits; one whose reference is 0 is of no class and must not lead.
    return logits.masked_fill(log_reference == -torch.inf, -torch.inf), log_reference


def _tilt(logits: Tensor, log_reference: Tensor | None) -> Tensor:
    return logits if log_reference is None else logits + log_reference


def _solve(logits: Tensor, a: float, log_reference: Tensor | None) -> tuple[Tensor, Root]:
    """Gaps (B, C) and the root over all classes, sought from the root over the leaders, the few largest logits."""
    leader_logits, leaders = logits.topk(min(_NUM_LEADERS, logits.shape[1]), dim=1)
    gap = (leader_logits[:, :1] - logits) * a
    leader_gap = gap.gather(1, leaders)
    leader_log_q = None if log_reference is None else log_reference.gather(1, leaders)
    alone = leader_gap + (1.0 if leader_log_q is None else torch.exp(-a * leader_log_q))
    eps = torch.finfo(logits.dtype).eps
    alone = alone.amin(1, keepdim=True)
    start = newton_root(lambda h: class_sums(leader_gap, a, h, leader_log_q), a, alone, eps, at_most=alone)
    return gap, newton_root(lambda h: class_sums(gap, a, h, log_reference), a, start.height, eps, at_most=alone)
