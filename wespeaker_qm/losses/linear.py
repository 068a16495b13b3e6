"""From embeddings and prototypes to the loss and its gradients, without a matrix of logits where it is avoidable.

Legend: B rows (of all processes), n classes of this process, D dimensions, K candidates of a row at most, y target,
x-hat = x / |x|, w-hat_j = w_j / |w_j|, g_bj = d loss_b / d cos_bj = (p - onehot)_bj d theta_bj / d cos_bj.
The gradients

    dx_b = (sum_j g_bj w-hat_j - x-hat_b (x-hat_b . the sum)) / |x_b|
    dw_j = (sum_b g_bj x-hat_b - w-hat_j (w-hat_j . the sum)) / |w_j|

need only the support, which for alpha > 1 is a handful of classes: the others' posterior is exactly zero::

    embeddings --gather--> x-hat --> candidates --> root --> posterior (B, K) --> loss, list of (b, j, g_bj)
                                         | too many
                                         +--> logits (B, n) --> root or softmax --> loss, g (B, n) in place

Both ways compute the same, exactly; the number of classes that the filter leaves decides. No normalised prototypes are
stored. With classes divided over processes (`partition`), sums over classes are sums over processes too.

Products are IEEE float32 (float64 for float64 input), forward and backward, whatever autocast and the switches for TF32
say; the target's cosine, the root and the value are float64. Under autocast the filter alone works in its precision,
with an allowance for the round-off.
"""

import math
from functools import reduce
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from wespeaker_qm.losses import gradients
from wespeaker_qm.losses.alpha import check_alpha, class_indices, first_derivative_only
from wespeaker_qm.losses.candidates import Problem, all_logits, find_candidates
from wespeaker_qm.losses.margins import MarginType, TargetLogit, target_logit
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.losses.root import (
    Root,
    Sums,
    TargetTerms,
    add_sums,
    class_sums,
    loss_value,
    newton_root,
    posterior_of,
    with_class,
)
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.precision import exact_float32

_FEW_CLASSES = 1024  # up to here the dense computation is quicker than any filter
_BLOCK_GAPS = 2**17
_LARGEST_EXPONENT = 64  # (alpha - 1) s m, of which the loss is an exponential: 6e27 leaves float32 room for sums


class Sparsity(NamedTuple):
    """How sparse the posteriors of a batch are; (B,) each. Tells whether alpha, scale and margin fit the problem.

    support: classes with posterior > 0, the target among them if it is one.
    candidates: classes that the filter left, the target among them; all of them where the computation was dense.
    target_posterior: p_y; 1 for a solved sample (no other class is in the support), 0 for a dropped target (it is not),
        and for no others: what round-off would make 1 or 0 is the nearest number inside.
    """

    support: Tensor
    candidates: Tensor
    target_posterior: Tensor


class LinearLoss(NamedTuple):
    """Loss (B,), not averaged; whether the target's class is nearest (B,); sparsity, None for alpha 1.

    correct: no other cosine exceeds the target's, without the margin, by more than round-off can, (D + 8) 2^-24 in
    float32. So a tie is correct, however the two cosines are computed.
    """

    loss: Tensor
    correct: Tensor
    sparsity: Sparsity | None


class _Settings(NamedTuple):
    alpha: float
    scale: float
    margin: float
    margin_type: MarginType
    sparse_gradient: bool
    partition: ClassPartition
    filter_dtype: torch.dtype | None


def alpha_margin_linear(
    embedding: Tensor,
    prototypes: Tensor,
    target: Tensor,
    alpha: float,
    scale: float,
    margin: float,
    *,
    margin_type: MarginType = "reference",
    sparse_gradient: bool = False,
    partition: ClassPartition | None = None,
) -> LinearLoss:
    """The alpha-divergence loss of cosines to prototypes: Q-Margin, EntMax, A3M; at alpha 1 CosFace and ArcFace.

    The same as ``alpha_divergence_loss(scale * cosine_with_margin, target, alpha, log_reference)``, in time and memory
    that the support decides. Norms play no part, from the smallest number of the type to the largest. A zero vector,
    which has no direction, has cosine 0 to everything and no gradient.

    Under autocast the filter works in the low precision, with an allowance for its round-off; the loss and the
    gradients are those of float32.

    Args:
        embedding: (B, D), of any norm; B may be 0.
        prototypes: (C, D), of any norms; with ``partition``, those of this process.
        target: (B,) class indices in 0 to C - 1, over all processes, of any integer type.
        alpha: in [1, 2].
        scale: s > 0; logits are s times cosines.
        margin: m >= 0; an angle of at most pi where it is one.
        margin_type: where it goes; see `margins`.
        sparse_gradient: give the prototypes a coalesced sparse gradient of the rows that are not zero, wherever the
            computation is sparse. Without effect at alpha 1.
        partition: classes divided over processes, each of which calls this with as many embeddings of its own. The
            prototypes' gradient is then that of the mean over the processes of what they backpropagate, as
            ``DistributedDataParallel`` averages that of other parameters.

    Returns:
        Loss, accuracy and sparsity of this process's embeddings, in float32 or float64. An embedding with a NaN or an
        infinite component has a NaN loss; such a prototype makes all losses NaN.

    Raises:
        RecipeError: alpha, scale or margin are out of range, or their exp((alpha - 1) s m), in which the loss is
            measured, is no number of float32.
        ValueError: the shapes do not fit, or a target is no class.
    """
    check_alpha(alpha)
    check_scale_and_margin(alpha, scale, margin, margin_type)
    partition = partition or ClassPartition(len(prototypes))
    _check_shapes(embedding, prototypes, target, partition)
    target = class_indices(target, partition.num_classes)
    device = embedding.device.type
    filter_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    settings = _Settings(alpha, scale, margin, margin_type, sparse_gradient, partition, filter_dtype)
    dtype = torch.promote_types(torch.promote_types(embedding.dtype, prototypes.dtype), torch.float32)
    with torch.autocast(device, enabled=False):
        loss, correct, *sparsity = _AlphaMarginLinear.apply(embedding.to(dtype), prototypes.to(dtype), target, settings)
    return LinearLoss(loss, correct, Sparsity(*sparsity) if sparsity else None)


def check_scale_and_margin(alpha: float, scale: float, margin: float, margin_type: MarginType) -> None:
    """Refuse what no loss can be computed with.

    Args:
        alpha: in [1, 2].
        scale: s.
        margin: m, the largest that will be asked for.
        margin_type: where it goes.

    Raises:
        RecipeError: names the value and the range.
    """
    if not 0 < scale < math.inf:
        raise RecipeError(f"scale is {scale!r}, expected a number above 0")
    if margin_type not in get_args(MarginType):
        raise RecipeError(f"margin_type is {margin_type!r}, expected one of {', '.join(get_args(MarginType))}")
    if not 0 <= margin < math.inf:
        raise RecipeError(f"margin is {margin!r}, expected a number of at least 0")
    if margin_type != "reference":
        if margin > math.pi:
            raise RecipeError(f"margin is {margin!r}, expected an angle in radians, at most {math.pi:.5f}")
        return
    exponent = (alpha - 1) * scale * margin
    if exponent > _LARGEST_EXPONENT:
        raise RecipeError(
            f"alpha {alpha!r}, scale {scale!r}, margin {margin!r}: (alpha - 1) scale margin is {exponent:.4g}, "
            f"expected at most {_LARGEST_EXPONENT}: the loss is of the size of its exponential; lower one of the three"
        )


def _check_shapes(embedding: Tensor, prototypes: Tensor, target: Tensor, partition: ClassPartition) -> None:
    expected = partition.stop - partition.start
    if prototypes.dim() != 2 or len(prototypes) != expected or expected == 0:
        raise ValueError(f"prototypes have shape {tuple(prototypes.shape)}, expected (C, D), at least one class")
    if embedding.dim() != 2 or embedding.shape[1] != prototypes.shape[1]:
        raise ValueError(f"embedding has shape {tuple(embedding.shape)}, expected (B, {prototypes.shape[1]})")
    if target.shape != embedding.shape[:1]:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected ({len(embedding)},), one an embedding")


class _AlphaMarginLinear(torch.autograd.Function):
    """The loss with its closed-form gradients: backward never sees the root finding."""

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, prototypes: Tensor, target: Tensor, settings: _Settings
    ) -> tuple[Tensor, ...]:
        partition = settings.partition
        embeddings, vectors = gradients.in_range(partition.gather_rows(embedding)), gradients.in_range(prototypes)
        unit = gradients.unit_rows(embeddings.rows)
        local = partition.gather_rows(target) - partition.start
        owned = (local >= 0) & (local < len(prototypes))
        index = torch.where(owned, local, 0)
        unit_targets = gradients.unit_rows(vectors.rows.index_select(0, index).double())
        cosine = partition.sum((unit.double() * unit_targets).sum(1) * owned)
        cosine.clamp_(-1, 1)
        marked = target_logit(cosine, settings.scale, settings.margin, settings.margin_type)
        problem = Problem(
            unit=unit,
            prototypes=vectors,
            scale=settings.scale,
            a=settings.alpha - 1,
            target=torch.where(owned, local, -1),
            target_logit=marked.logit[:, None],
            log_q=marked.log_q[:, None],
            filter_dtype=settings.filter_dtype,
        )
        with exact_float32():
            solved = (
                _softmax(problem, marked, partition) if settings.alpha == 1 else _divergence(problem, marked, partition)
            )
        ctx.settings, ctx.entries = settings, solved.entries is not None
        kept = solved.entries if solved.entries is not None else solved.matrix
        ctx.save_for_backward(unit, *embeddings[1:], *vectors, solved.row_factor.to(unit), *kept)
        roundoff = (unit.shape[1] + 8) * torch.finfo(unit.dtype).eps / 2
        # The filter leaves nothing of a NaN but its loss.
        correct = (settings.scale * (cosine + roundoff) >= solved.best_other) & ~solved.loss.isnan()
        outputs = tuple(partition.own_rows(rows) for rows in (solved.loss.to(unit), correct, *(solved.sparsity or ())))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        unit, inverse_norm, exponents, *vectors, row_factor = ctx.saved_tensors[:7]
        kept = ctx.saved_tensors[7:]
        partition: ClassPartition = ctx.settings.partition
        factor = partition.gather_rows(grad_loss) * row_factor
        args = (factor, unit, gradients.Vectors(*vectors))
        with exact_float32():
            if ctx.entries:
                entries = gradients.Entries(*kept)
                towards, grad = gradients.of_entries(entries, *args, sparse=ctx.settings.sparse_gradient)
            else:
                towards, grad = gradients.of_matrix(list(kept), *args)
        towards, unit, inverse_norm = (
            partition.own_rows(rows) for rows in (partition.sum(towards), unit, inverse_norm)
        )
        grad_embedding = (towards - unit * (unit * towards).sum(1, keepdim=True)) * inverse_norm[:, None]
        grad_embedding = gradients.at_own_norms(
            grad_embedding, None if exponents is None else partition.own_rows(exponents)
        )
        if partition.world_size > 1:
            grad.div_(partition.world_size)
        # Autograd stores a sparse gradient that nothing else refers to in parts, without the note that it is coalesced.
        if grad.is_sparse:
            ctx.gradient = grad
        return grad_embedding, grad, None, None


class _Solved(NamedTuple):
    """Loss (B,), the largest logit of another class (B,), sparsity, and d loss / d cosine for the gradients.

    The derivative is either in entries, or in a matrix (in chunks of classes); times row_factor (B,).
    """

    loss: Tensor
    best_other: Tensor
    sparsity: Sparsity | None
    row_factor: Tensor
    entries: gradients.Entries | None
    matrix: list[Tensor]


def _softmax(problem: Problem, marked: TargetLogit, partition: ClassPartition) -> _Solved:
    """Cross-entropy of the logits tilted by log q: -log p_y = log(1 + sum_{j != y} exp(theta_j - theta_y))."""
    chunks = all_logits(problem)
    best_other = partition.max(_row_max(chunks))
    tilted = problem.target_logit + problem.log_q
    top = torch.maximum(best_other, tilted).to(problem.unit)
    others = partition.sum(
        reduce(torch.add, [chunk.sub_(top).exp_().sum(1, keepdim=True).double() for chunk in chunks])
    )
    own = (tilted - top).exp()
    loss = torch.where(own < 1 / 2, (others + own).log() - (tilted - top), (others / own).log1p())
    matrix = gradients.matrix_of(chunks, problem.scale, -others[:, 0] * marked.slope, problem.target)
    return _Solved(loss[:, 0], best_other[:, 0], None, 1 / (others + own)[:, 0], None, matrix)


def _divergence(problem: Problem, marked: TargetLogit, partition: ClassPartition) -> _Solved:
    """The loss for alpha > 1, on the candidates, or on all classes if those are few or most are candidates."""
    a, target_logit, log_q = problem.a, problem.target_logit, problem.log_q
    candidates, tau = None, torch.full_like(target_logit, -torch.inf)
    if len(problem.prototypes.rows) > _FEW_CLASSES and len(problem.unit):
        candidates, tau = find_candidates(problem)
    # Candidates are few: float64 costs nothing, and spares differences of logits their round-off.
    chunks = all_logits(problem) if candidates is None else [candidates.logits.double()]
    best_other, tau = torch.split(partition.max(torch.cat([_row_max(chunks), tau], dim=1)), 1, dim=1)

    top = torch.maximum(best_other, target_logit).to(problem.unit).double()  # exact in every chunk's type
    target_gap = (top - target_logit) * a
    gaps = [chunk.sub_(top.to(chunk)).mul_(-a) for chunk in chunks]
    alone = torch.minimum(1 + (top - best_other) * a, target_gap + torch.exp(-a * log_q))
    height = torch.minimum(alone, 1 + (top - tau) * a)

    def sums(height: Tensor) -> Sums:
        others = reduce(add_sums, [_sums_by_rows(gap, a, height.to(gap)) for gap in gaps])
        others = partition.sum_sums(Sums(*(part.double() for part in others)))
        return with_class(others, target_gap, a, height, log_q)

    root = newton_root(sums, a, height, torch.finfo(problem.unit.dtype).eps, at_most=alone)
    off_target, energy, support, count = (torch.zeros_like(marked.logit) for _ in range(4))
    for gap in gaps:
        posterior, share = posterior_of(gap, a, Root(*(part.to(gap) for part in root)))
        off_target += posterior.sum(1)
        energy += (posterior * share).sum(1)
        support += (share > 0).sum(1)  # the posterior, a power of it, may underflow
        gap.copy_(posterior)
    # The candidates are without the target, which one process holds.
    count += len(problem.prototypes.rows) if candidates is None else candidates.number + (problem.target >= 0)
    off_target, energy, support, count = partition.sum(torch.stack([off_target, energy, support, count]))
    loss = loss_value(root, TargetTerms(target_gap[:, 0], marked.log_q), off_target, energy, a)
    target_posterior, target_share = (part[:, 0] for part in posterior_of(target_gap, a, root, log_q))
    is_solved = (support == 0) & (off_target == 0)  # the latter for NaN
    sparsity = Sparsity(
        (support + (target_share > 0)).to(problem.unit),
        count.to(problem.unit),
        _open_unit_interval(target_posterior.to(problem.unit), is_solved, target_share == 0),
    )
    target_weight = -off_target * marked.slope
    row_factor = torch.ones_like(loss)
    if candidates is None:
        matrix = gradients.matrix_of(gaps, problem.scale, target_weight, problem.target)
        return _Solved(loss, best_other[:, 0], sparsity, row_factor, None, matrix)
    entries = gradients.entries_of(gaps[0] * problem.scale, candidates.classes, target_weight, problem.target)
    return _Solved(loss, best_other[:, 0], sparsity, row_factor, entries, [])


def _open_unit_interval(posterior: Tensor, is_one: Tensor, is_zero: Tensor) -> Tensor:
    """Posteriors that are 1 and 0 exactly where they are said to be, and otherwise inside however they were rounded."""
    limits = torch.finfo(posterior.dtype)
    inside = posterior.clamp(limits.tiny, 1 - limits.eps / 2)
    return torch.where(is_one, 1.0, torch.where(is_zero, 0.0, inside))


def _sums_by_rows(gap: Tensor, a: float, height: Tensor) -> Sums:
    """`class_sums`, a few rows at a time: what stays in a core's cache is worked on several times faster."""
    num_rows = max(1, _BLOCK_GAPS // gap.shape[1])
    pairs = zip(torch.split(gap, num_rows), torch.split(height, num_rows), strict=True)
    parts = [class_sums(some_gaps, a, some_heights) for some_gaps, some_heights in pairs]
    return parts[0] if len(parts) == 1 else Sums(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _row_max(chunks: list[Tensor]) -> Tensor:
    return reduce(torch.maximum, [chunk.amax(1, keepdim=True) for chunk in chunks]).double()
