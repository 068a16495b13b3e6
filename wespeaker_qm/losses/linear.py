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
stored. With classes divided over processes (`shards`), sums over classes are sums over processes too.
"""

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wespeaker_qm.losses import gradients
from wespeaker_qm.losses.alpha import check_alpha
from wespeaker_qm.losses.candidates import Problem, all_logits, find_candidates
from wespeaker_qm.losses.margins import MarginType, TargetLogit, target_logit
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
from wespeaker_qm.losses.shards import ClassShards

_FEW_CLASSES = 1024  # up to here the dense computation is quicker than any filter
_BLOCK_GAPS = 2**17


class Sparsity(NamedTuple):
    """How sparse the posteriors of a batch are; (B,) each. Tells whether alpha, scale and margin fit the problem.

    support: classes with posterior > 0, the target among them if it is one.
    candidates: classes that the filter left, the target among them; all of them where the computation was dense.
    target_posterior: p_y; exactly 1 is a solved sample, exactly 0 a dropped target.
    """

    support: Tensor
    candidates: Tensor
    target_posterior: Tensor


class LinearLoss(NamedTuple):
    """Loss (B,), not averaged; whether no other cosine exceeds the target's (B,); sparsity, None for alpha 1."""

    loss: Tensor
    correct: Tensor
    sparsity: Sparsity | None


class _Settings(NamedTuple):
    alpha: float
    scale: float
    margin: float
    margin_type: MarginType
    sparse_gradient: bool
    shards: ClassShards
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
    shards: ClassShards | None = None,
) -> LinearLoss:
    """The alpha-divergence loss of cosines to prototypes: Q-Margin, EntMax, A3M; at alpha 1 CosFace and ArcFace.

    The same as ``alpha_divergence_loss(scale * cosine_with_margin, target, alpha, log_reference)``, in time and memory
    that the support decides. A zero vector, which has no direction, has cosine 0 to everything and no gradient.

    Under autocast the filter works in the low precision, with an allowance for its round-off; the loss and the
    gradients are those of float32.

    Args:
        embedding: (B, D), of any norm.
        prototypes: (C, D), of any norms; with ``shards``, those of this process.
        target: (B,) class indices in 0 to C - 1, over all processes.
        alpha: in [1, 2].
        scale: s > 0; logits are s times cosines.
        margin: m >= 0.
        margin_type: where it goes; see `margins`.
        sparse_gradient: give the prototypes a coalesced sparse gradient of the rows that are not zero, wherever the
            computation is sparse. Without effect at alpha 1.
        shards: classes divided over processes, each of which calls this with as many embeddings of its own. The
            prototypes' gradient is then that of the mean over the processes of what they backpropagate, as
            ``DistributedDataParallel`` averages that of other parameters.

    Returns:
        Loss, accuracy and sparsity of this process's embeddings, in float32 or float64. An embedding with a NaN has a
        NaN loss; a prototype with a NaN makes all losses NaN.

    Raises:
        RecipeError: alpha outside [1, 2].
        ValueError: the shapes do not fit.
    """
    check_alpha(alpha)
    shards = shards or ClassShards(len(prototypes))
    _check_shapes(embedding, prototypes, target, shards)
    device = embedding.device.type
    filter_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    settings = _Settings(alpha, scale, margin, margin_type, sparse_gradient, shards, filter_dtype)
    dtype = torch.promote_types(torch.promote_types(embedding.dtype, prototypes.dtype), torch.float32)
    with torch.autocast(device, enabled=False):
        loss, correct, *sparsity = _AlphaMarginLinear.apply(embedding.to(dtype), prototypes.to(dtype), target, settings)
    return LinearLoss(loss, correct, Sparsity(*sparsity) if sparsity else None)


def _check_shapes(embedding: Tensor, prototypes: Tensor, target: Tensor, shards: ClassShards) -> None:
    expected = shards.stop - shards.start
    if prototypes.dim() != 2 or len(prototypes) != expected or expected == 0:
        raise ValueError(f"prototypes have shape {tuple(prototypes.shape)}, expected (C, D), at least one class")
    if embedding.dim() != 2 or embedding.shape[1] != prototypes.shape[1]:
        raise ValueError(f"embedding has shape {tuple(embedding.shape)}, expected (B, {prototypes.shape[1]})")
    if target.shape != embedding.shape[:1]:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected ({len(embedding)},), one an embedding")
    outside = (target < 0) | (target >= shards.num_classes)
    if outside.any():
        found = target[outside][:3].tolist()
        raise ValueError(f"{int(outside.sum())} targets such as {found} are no class in 0 to {shards.num_classes - 1}")


class _AlphaMarginLinear(torch.autograd.Function):
    """The loss with its closed-form gradients: backward never sees the root finding."""

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, prototypes: Tensor, target: Tensor, settings: _Settings
    ) -> tuple[Tensor, ...]:
        shards = settings.shards
        unit, inverse_norm = gradients.unit_rows(shards.gather_rows(embedding))
        inverse_norms = gradients.inverse(torch.linalg.vector_norm(prototypes, dim=1))
        local = shards.gather_rows(target) - shards.start
        owned = (local >= 0) & (local < len(prototypes))
        index = torch.where(owned, local, 0)
        cosine = shards.sum(
            (unit.double() * gradients.unit_rows(prototypes.index_select(0, index).double())[0]).sum(1) * owned
        )
        cosine.clamp_(-1, 1)
        marked = target_logit(cosine, settings.scale, settings.margin, settings.margin_type)
        problem = Problem(
            unit=unit,
            prototypes=prototypes,
            inverse_norms=inverse_norms,
            scale=settings.scale,
            a=settings.alpha - 1,
            target=torch.where(owned, local, -1),
            target_logit=marked.logit[:, None],
            log_q=marked.log_q[:, None],
            filter_dtype=settings.filter_dtype,
        )
        solved = _softmax(problem, marked, shards) if settings.alpha == 1 else _divergence(problem, marked, shards)
        ctx.settings, ctx.entries = settings, solved.entries is not None
        kept = solved.entries if solved.entries is not None else solved.matrix
        ctx.save_for_backward(unit, inverse_norm, prototypes, inverse_norms, solved.row_factor.to(unit), *kept)
        correct = settings.scale * cosine >= solved.best_other
        figures = [figure.to(unit) for figure in (solved.loss, *(solved.sparsity or ()))]
        outputs = tuple(shards.own_rows(rows) for rows in (figures[0], correct, *figures[1:]))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        unit, inverse_norm, prototypes, inverse_norms, row_factor, *kept = ctx.saved_tensors
        shards: ClassShards = ctx.settings.shards
        factor = shards.gather_rows(grad_loss) * row_factor
        args = (factor, unit, prototypes, inverse_norms)
        if ctx.entries:
            entries = gradients.Entries(*kept)
            towards, grad = gradients.of_entries(entries, *args, sparse=ctx.settings.sparse_gradient)
        else:
            towards, grad = gradients.of_matrix(kept, *args)
        towards, unit, inverse_norm = (shards.own_rows(rows) for rows in (shards.sum(towards), unit, inverse_norm))
        grad_embedding = (towards - unit * (unit * towards).sum(1, keepdim=True)) * inverse_norm[:, None]
        return grad_embedding, grad.div_(shards.world_size) if shards.world_size > 1 else grad, None, None


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


def _softmax(problem: Problem, marked: TargetLogit, shards: ClassShards) -> _Solved:
    """Cross-entropy of the logits tilted by log q: -log p_y = log(1 + sum_{j != y} exp(theta_j - theta_y))."""
    chunks = all_logits(problem)
    best_other = shards.max(_row_max(chunks))
    tilted = problem.target_logit + problem.log_q
    top = torch.maximum(best_other, tilted).to(problem.unit)
    others = shards.sum(reduce(torch.add, [chunk.sub_(top).exp_().sum(1, keepdim=True).double() for chunk in chunks]))
    own = (tilted - top).exp()
    loss = torch.where(own < 1 / 2, (others + own).log() - (tilted - top), (others / own).log1p())
    matrix = gradients.matrix_of(chunks, problem.scale, -others[:, 0] * marked.slope, problem.target)
    return _Solved(loss[:, 0], best_other[:, 0], None, 1 / (others + own)[:, 0], None, matrix)


def _divergence(problem: Problem, marked: TargetLogit, shards: ClassShards) -> _Solved:
    """The loss for alpha > 1, on the candidates, or on all classes if those are few or most are candidates."""
    a, target_logit, log_q = problem.a, problem.target_logit, problem.log_q
    candidates, tau = None, torch.full_like(target_logit, -torch.inf)
    if len(problem.prototypes) > _FEW_CLASSES:
        candidates, tau = find_candidates(problem)
    # Candidates are few: float64 costs nothing, and spares differences of logits their round-off.
    chunks = all_logits(problem) if candidates is None else [candidates.logits.double()]
    best_other, tau = torch.split(shards.max(torch.cat([_row_max(chunks), tau], dim=1)), 1, dim=1)

    top = torch.maximum(best_other, target_logit).to(problem.unit).double()  # exact in every chunk's type
    target_gap = (top - target_logit) * a
    gaps = [chunk.sub_(top.to(chunk)).mul_(-a) for chunk in chunks]
    alone = torch.minimum(1 + (top - best_other) * a, target_gap + torch.exp(-a * log_q))
    height = torch.minimum(alone, 1 + (top - tau) * a)

    def sums(height: Tensor) -> Sums:
        others = reduce(add_sums, [_sums_by_rows(gap, a, height.to(gap)) for gap in gaps])
        others = shards.sum_sums(Sums(*(part.double() for part in others)))
        return with_class(others, target_gap, a, height, log_q)

    root = newton_root(sums, a, height, torch.finfo(problem.unit.dtype).eps)
    off_target, energy, support, count = (torch.zeros_like(marked.logit) for _ in range(4))
    for gap in gaps:
        posterior, share = posterior_of(gap, a, Root(*(part.to(gap) for part in root)))
        off_target += posterior.sum(1)
        energy += (posterior * share).sum(1)
        support += (posterior > 0).sum(1)
        gap.copy_(posterior)
    # The candidates are without the target, which one process holds.
    count += len(problem.prototypes) if candidates is None else candidates.number + (problem.target >= 0)
    off_target, energy, support, count = shards.sum(torch.stack([off_target, energy, support, count]))
    loss = loss_value(root, TargetTerms(target_gap[:, 0], marked.log_q), off_target, energy, a)
    target_posterior = posterior_of(target_gap, a, root, log_q)[0][:, 0]
    target_posterior = torch.where(off_target == 0, 1.0, target_posterior)  # not 1 - eps
    sparsity = Sparsity(support + (target_posterior > 0), count, target_posterior)
    target_weight = -off_target * marked.slope
    row_factor = torch.ones_like(loss)
    if candidates is None:
        matrix = gradients.matrix_of(gaps, problem.scale, target_weight, problem.target)
        return _Solved(loss, best_other[:, 0], sparsity, row_factor, None, matrix)
    entries = gradients.entries_of(gaps[0] * problem.scale, candidates.classes, target_weight, problem.target)
    return _Solved(loss, best_other[:, 0], sparsity, row_factor, entries, [])


def _sums_by_rows(gap: Tensor, a: float, height: Tensor) -> Sums:
    """`class_sums`, a few rows at a time: what stays in a core's cache is worked on several times faster."""
    num_rows = max(1, _BLOCK_GAPS // gap.shape[1])
    pairs = zip(torch.split(gap, num_rows), torch.split(height, num_rows), strict=True)
    parts = [class_sums(some_gaps, a, some_heights) for some_gaps, some_heights in pairs]
    return parts[0] if len(parts) == 1 else Sums(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _row_max(chunks: list[Tensor]) -> Tensor:
    return reduce(torch.maximum, [chunk.amax(1, keepdim=True) for chunk in chunks]).double()
