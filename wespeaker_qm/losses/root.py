"""The root of the posterior and the value of the loss, from sums over classes that may lie anywhere.

The normaliser tau of (9) is found from two sums over the classes. Whoever holds the logits supplies them: a matrix of
all classes, a padded list of the few that can matter, blocks of rows, several processes.

The largest logit, of class k, is always in the support. Take the bracket of (9) at k as the unknown and pull it out,
with a = alpha - 1:

    height = 1 + a (theta_k - tau) > 0,      gap_j = a (theta_k - theta_j) >= 0,      share_j = [1 - gap_j / height]_+
    p_j = q_j (height share_j)^(1/a) = height^(1/a) w_j,                              w_j = q_j share_j^(1/a)

The masses sum to one when height^(1/a) = 1 / sum_j w_j. So p = w / sum_j w_j, and one equation remains:

    Phi(height) = height (sum_j w_j)^a = 1,           Phi = (sum_j p_j of (9))^a

For 1 < alpha <= 2 Phi is convex (the l_(1/a) norm of non-negative convex functions): Newton from any height with
Phi >= 1, that is from a lower bound of tau, descends monotonically to the root. Such heights are: the one at which
class j alone holds all the mass, gap_j + q_j^(-a), for every j; the root over any subset of the classes; and every
iterate on the way. Class j is in the support exactly when gap_j < height, so each of them is also an exact filter:
a class with gap_j >= height at *any* such height has posterior 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_MAX_ITERATIONS = 100  # Newton takes 2 to 10
_SERIES_RADIUS = 1 / 8  # below this missing mass the target's term is a series
_SERIES_TERMS = 18  # (1/8)^18 is below the round-off of float64


class Sums(NamedTuple):
    """Over the classes of each row: total = sum_j w_j and slope = sum_j w_j / share_j, in units of exp(log_unit).

    All (B, 1). The unit keeps sums of very small or very large masses within the range of the type.
    """

    log_unit: Tensor
    total: Tensor
    slope: Tensor


def class_sums(gap: Tensor, a: float, height: Tensor, log_q: Tensor | None = None) -> Sums:
    """Sums over classes.

    Args:
        gap: (B, N) their gaps, +inf for no class.
        a: alpha - 1.
        height: (B, 1) where to take the sums.
        log_q: their references, broadcast to (B, N); None: all are 1.
    """
    power = _small_integer(1 / a)
    if power is not None and log_q is None:
        share = _share(gap, height)
        square = share if power == 1 else share * share
        match power:
            case 1:
                total, slope = share.sum(1), (share > 0).sum(1).to(share)
            case 2:
                total, slope = square.sum(1), share.sum(1)
            case 3:
                total, slope = _dot(square, share), square.sum(1)
            case _:
                total, slope = _dot(square, square), _dot(square, share)
        return Sums(torch.zeros_like(height), total[:, None], slope[:, None])
    log_weight, share = _log_weight(gap, a, height, log_q)
    # -inf, where no class has mass, would make the differences below NaN.
    log_unit = log_weight.amax(1, keepdim=True).clamp_(min=torch.finfo(gap.dtype).min)
    weight = log_weight.sub_(log_unit).exp_()
    slope = weight / share.clamp_(min=torch.finfo(gap.dtype).tiny)
    return Sums(log_unit, weight.sum(1, keepdim=True), slope.sum(1, keepdim=True))


def with_class(sums: Sums, gap: Tensor, a: float, height: Tensor, log_q: Tensor) -> Sums:
    """Sums with one more class: `add_sums` of its `class_sums`.

    Args:
        sums: over the other classes, at ``height``.
        gap: (B, 1) of the class.
        a: alpha - 1.
        height: (B, 1) where to take the sums.
        log_q: (B, 1) reference of the class.
    """
    log_weight, share = _log_weight(gap, a, height, log_q)
    log_unit = torch.maximum(sums.log_unit, log_weight)
    here = in_unit(sums, log_unit)
    weight = log_weight.sub_(log_unit).exp_()
    slope = weight / share.clamp_(min=torch.finfo(gap.dtype).tiny)
    return Sums(log_unit, here.total + weight, here.slope + slope)


def add_sums(first: Sums, second: Sums) -> Sums:
    """Sums over the classes of both."""
    log_unit = torch.maximum(first.log_unit, second.log_unit)
    first, second = in_unit(first, log_unit), in_unit(second, log_unit)
    return Sums(log_unit, first.total + second.total, first.slope + second.slope)


def in_unit(sums: Sums, log_unit: Tensor) -> Sums:
    """The same sums in units of exp(log_unit)."""
    factor = (sums.log_unit - log_unit).exp_()
    return Sums(log_unit, sums.total * factor, sums.slope * factor)


class Root(NamedTuple):
    """Height, and log sum_j w_j there; (B, 1) each."""

    height: Tensor
    log_total: Tensor


def newton_root(sums: Callable[[Tensor], Sums], a: float, height: Tensor, eps: float, at_most: Tensor) -> Root:
    """Descend from a height where Phi >= 1 to the root; a row stops by itself, and a NaN row stays NaN.

    Convergence is quadratic: a step below eps^(3/4) leaves less than eps to go.

    Args:
        sums: from a height (B, 1) to the sums over all classes there.
        a: alpha - 1.
        height: (B, 1) where to begin.
        eps: the round-off of the sums.
        at_most: (B, 1) the height at which some class alone holds all the mass: where one does, the root lies exactly
            there, and round-off must not let in the classes that lie on it.

    Raises:
        ArithmeticError: no root within more iterations than Newton can need.
    """
    for _ in range(_MAX_ITERATIONS):
        at = sums(height)
        step = newton_step(at, a, height)
        if not (step > eps**0.75).any():  # false for NaN
            # What is left is so small that the logarithm of the sum follows it linearly.
            log_total = at.log_unit + at.total.log() - step * (at.slope / at.total - 1) / a
            return Root(torch.minimum(height * (1 - step), at_most), log_total)
        height = height * (1 - step.clamp(min=0))
    raise ArithmeticError(
        f"no root of the alpha-divergence posterior after {_MAX_ITERATIONS} iterations at alpha {1 + a} "
        f"in {int((step > eps**0.75).sum())} of {len(height)} rows: a bug, please report it with the logits"
    )


def newton_step(at: Sums, a: float, height: Tensor) -> Tensor:
    """Part of ``height`` by which Newton lowers it, (B, 1): (Phi - 1) / (Phi' height)."""
    log_total = at.log_unit + at.total.log()
    return -torch.expm1(-a * log_total - height.log()) * at.total / at.slope


def posterior_of(gap: Tensor, a: float, root: Root, log_q: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Posterior and share of classes, (B, N) each.

    Args:
        gap: (B, N) their gaps.
        a: alpha - 1.
        root: of all classes.
        log_q: their references, broadcast to (B, N); None: all are 1.
    """
    power = _small_integer(1 / a)
    if power is not None and log_q is None:
        share = _share(gap, root.height)
        posterior = share * (-root.log_total).exp()
        for _ in range(power - 1):
            posterior *= share
        return posterior, share
    log_weight, share = _log_weight(gap, a, root.height, log_q)
    return log_weight.sub_(root.log_total).exp_(), share


def _share(gap: Tensor, height: Tensor) -> Tensor:
    return (gap / -height).add_(1).relu_()


def _log_weight(gap: Tensor, a: float, height: Tensor, log_q: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logarithm of w, and share; not share ** (1 / a), which loses the digits of a small excess / a."""
    excess = (gap / -height).clamp_(min=-1)
    share = 1 + excess
    log_weight = excess.log1p_().div_(a)
    if log_q is not None:
        log_weight = log_weight + log_q
    return log_weight, share


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Row by row, (B,): a third of the time of multiplying and summing."""
    dots: Tensor = torch.linalg.vecdot(first, second)
    return dots


def _small_integer(value: float) -> int | None:
    """``value`` if it is 1, 2, 3 or 4: few products are faster than a power, and lose no digit that the gap had."""
    nearest = round(value)
    return nearest if nearest <= 4 and abs(value - nearest) < 1e-12 else None


# --- the value ------------------------------------------------------------------------------------------------------


class TargetTerms(NamedTuple):
    """What the value needs to know of the target, (B,) each: its gap, and log q_y."""

    gap: Tensor
    log_q: Tensor


def loss_value(root: Root, target: TargetTerms, off_target: Tensor, energy: Tensor, a: float) -> Tensor:
    """The loss (B,) of (5) as a sum of non-negative terms; the difference that (5) spells out cancels.

    loss = q_y^(-a) G(r) + 1/alpha sum_{j != y} p_j (p_j / q_j)^a + [tau - 1/a - theta_y]_+
    G(r) = integral_0^r t (1 - t)^(alpha - 2) dt = (1 - p_y^a (1 + a r)) / (alpha a)

    The last term is non-zero only for a target out of the support; (p_j / q_j)^a is height share_j.

    Args:
        root: of all classes.
        target: gap and reference of the target.
        off_target: (B,) r, the posterior mass off the target.
        energy: (B,) sum of p_j share_j off the target.
        a: alpha - 1.
    """
    height = root.height[:, 0]
    deficit = target.gap / height  # above 1 out of the support
    log_power = torch.log1p(-deficit.clamp(max=1)) + a * (target.log_q - root.log_total[:, 0])  # log p_y^a
    target_term = torch.exp(-a * target.log_q) * _target_term(off_target, log_power, a)
    return target_term + height * (energy / (1 + a) + (deficit - 1).clamp(min=0) / a)


def _target_term(off_target: Tensor, log_power: Tensor, a: float) -> Tensor:
    """G of `loss_value`, from r and log p_y^a: closed form, or its power series where that would cancel."""
    closed = (-torch.expm1(log_power) / a - off_target * log_power.exp()) / (1 + a)
    return torch.where(off_target < _SERIES_RADIUS, _target_series(off_target, a), closed)


def _target_series(off_target: Tensor, a: float) -> Tensor:
    """r^2 sum_n (1 - a)_n / n! r^n / (n + 2), the expansion of G at 0."""
    binomials = [math.prod((m - a) / m for m in range(1, n + 1)) for n in range(_SERIES_TERMS)]
    coefficients = off_target.new_tensor([binomial / (n + 2) for n, binomial in enumerate(binomials)])
    powers = off_target[:, None] ** torch.arange(_SERIES_TERMS, device=off_target.device)
    return off_target.square() * (powers * coefficients).sum(1)
