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

Both ways compute the same, exactly; the table in `dispatch` and the number of classes that the filter leaves decide. No
normalised prototypes are stored. With classes divided over processes (`partition`), sums over classes are sums over
processes too.

Products are as exact as IEEE float32 (float64 for float64 input), forward and backward, whatever autocast and the
switches for TF32 say: they are IEEE's, or a kernel's, of parts of the factors that half precision holds
(`kernels.dense`). The target's cosine, the root and the value are float64. Under autocast the filter alone works in its
precision, with an allowance for the round-off.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from wespeaker_qm.losses import gradients
from wespeaker_qm.losses.alpha import as_indices, check_alpha, class_indices, first_derivative_only
from wespeaker_qm.losses.candidates import Problem
from wespeaker_qm.losses.device_rows import DeviceRows
from wespeaker_qm.losses.dispatch import Way, way_of
from wespeaker_qm.losses.lazy_rows import LazyRows
from wespeaker_qm.losses.margins import MarginType, check_scale_and_margin, target_logit
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.losses.roundoff import tie_error
from wespeaker_qm.losses.solve import Exchanged, Sparsity, solve_divergence, solve_softmax
from wespeaker_qm.utils.precision import exact_float32

Kept = LazyRows | DeviceRows
"""What the optimiser of prototypes keeps of them, on a CPU and on a GPU."""


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
    way: Way
    lazy: LazyRows | None


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
    kept: Kept | None = None,
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
        target: (B,) class indices in 0 to C - 1, over all processes, of any integer type. Where kernels compute, which
            wait for nothing, one that is no class has a NaN loss.
        alpha: in [1, 2].
        scale: s > 0; logits are s times cosines.
        margin: m >= 0; an angle of at most pi where it is one.
        margin_type: where it goes; see `margins`.
        sparse_gradient: give the prototypes a coalesced sparse gradient of the rows that are not zero, wherever the
            computation is sparse. Without effect at alpha 1.
        partition: classes divided over processes, each of which calls this with as many embeddings of its own. The
            prototypes' gradient is then that of the mean over the processes of what they backpropagate, as
            ``DistributedDataParallel`` averages that of other parameters.
        kept: of the prototypes, where `PrototypeSGD` moves them: its :attr:`~PrototypeSGD.kept`. On a GPU it gets their
            gradient, wherever that is sparse, in the place of autograd.

    Returns:
        Loss, accuracy and sparsity of this process's embeddings, in float32 or float64. An embedding with a NaN or an
        infinite component has a NaN loss; such a prototype makes all losses NaN.

    Raises:
        RecipeError: alpha, scale or margin are out of range, or their exp((alpha - 1) s m), in which the loss is
            measured, is no number of float32.
        ValueError: the shapes do not fit, a target is no class, or ``kept`` is of other prototypes.
        RuntimeError: prototypes were changed while their optimiser had put off steps of some.
    """
    check_alpha(alpha)
    check_scale_and_margin(alpha, scale, margin, margin_type)
    partition = partition or ClassPartition(len(prototypes))
    _check_shapes(embedding, prototypes, target, partition)
    device = embedding.device.type
    dtype = torch.promote_types(torch.promote_types(embedding.dtype, prototypes.dtype), torch.float32)
    lazy = kept if isinstance(kept, LazyRows) else None
    kernels_apply = dtype == torch.float32 and len(embedding) > 0 and not sparse_gradient and lazy is None
    if partition.world_size > 1 and alpha == 1:
        kernels_apply = False
    way = way_of(prototypes.device, len(prototypes), kernels_apply=kernels_apply)
    if way in (Way.FUSED_ROWS, Way.FUSED_FILTER):
        with torch.autocast(device, enabled=False):
            inputs = (embedding.to(dtype).contiguous(), prototypes.to(dtype).contiguous(), as_indices(target))
            # What is compiled has no side effects: there the gradient goes where it always does.
            rows = kept if isinstance(kept, DeviceRows) and not torch.compiler.is_compiling() else None
            found = _fused(way, partition, rows, *inputs, alpha, scale, margin, margin_type)
        if found is not None:
            return found
        way = way_of(prototypes.device, len(prototypes), kernels_apply=False)
    target = class_indices(target, partition.num_classes)
    filter_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    settings = _Settings(alpha, scale, margin, margin_type, sparse_gradient, partition, filter_dtype, way, lazy)
    with torch.autocast(device, enabled=False):
        loss, correct, *sparsity = _AlphaMarginLinear.apply(embedding.to(dtype), prototypes.to(dtype), target, settings)
    return LinearLoss(loss, correct, Sparsity(*sparsity) if sparsity else None)


def _fused(
    way: Way, partition: ClassPartition, rows: DeviceRows | None, embedding: Tensor, prototypes: Tensor, target: Tensor,
    alpha: float, *settings: Any,
) -> LinearLoss | None:  # fmt: skip
    """The loss by kernels, or None where they cannot. They are imported here: Triton is not everywhere, and is slow."""
    if partition.world_size > 1:
        from wespeaker_qm.losses.fused_shards import shard_loss

        parts = shard_loss(partition, rows, embedding, prototypes, target, alpha, *settings)
        if parts is None:
            return None
        loss, correct, *sparsity = parts
        return LinearLoss(loss, correct, Sparsity(*sparsity))
    if way is Way.FUSED_FILTER and alpha > 1:
        from wespeaker_qm.losses.fused_filter import derived_filter_loss, held_filter_loss

        inputs = (embedding, prototypes, target, alpha, *settings)
        found = derived_filter_loss(*inputs) if rows is None else held_filter_loss(rows, *inputs)
        loss, correct, *sparsity = found[:5]
        return LinearLoss(loss, correct, Sparsity(*sparsity))
    from wespeaker_qm.losses.fused_rows import derived_row_loss

    loss, correct, support, posterior, *_ = derived_row_loss(embedding, prototypes, target, alpha, *settings)
    candidates = torch.full_like(support, len(prototypes))
    return LinearLoss(loss, correct, Sparsity(support, candidates, posterior) if alpha > 1 else None)


def _check_shapes(embedding: Tensor, prototypes: Tensor, target: Tensor, partition: ClassPartition) -> None:
    expected = partition.stop - partition.start
    if prototypes.dim() != 2 or len(prototypes) != expected or expected == 0:
        raise ValueError(f"prototypes have shape {tuple(prototypes.shape)}, expected (C, D), at least one class")
    if embedding.dim() != 2 or embedding.shape[1] != prototypes.shape[1]:
        raise ValueError(f"embedding has shape {tuple(embedding.shape)}, expected (B, {prototypes.shape[1]})")
    if target.shape != embedding.shape[:1]:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected ({len(embedding)},), one an embedding")


def _vectors(prototypes: Tensor, targets: Tensor, settings: _Settings) -> tuple[gradients.Vectors, LazyRows | None]:
    """The prototypes, and what keeps them if rows are behind: not those of targets, and none where all are needed."""
    lazy = settings.lazy
    if lazy is None:
        return gradients.in_range(prototypes), None
    lazy.check(prototypes)
    if not lazy.are_ordinary:
        lazy.catch_up()
        lazy.read_again()
        if not lazy.are_ordinary:
            return gradients.in_range(prototypes), None
    if settings.way is Way.FILTERED and settings.alpha > 1:
        lazy.catch_up(torch.unique_consecutive(targets.sort().values))
        lazy.catch_up_turned()
    else:
        lazy.catch_up()
    # Its changes of other rows are none that the gradients of these depend on.
    return gradients.Vectors(prototypes, lazy.inverse_norms.data, None), lazy


class _AlphaMarginLinear(torch.autograd.Function):
    """The loss with its closed-form gradients: backward never sees the root finding."""

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, prototypes: Tensor, target: Tensor, settings: _Settings
    ) -> tuple[Tensor, ...]:
        partition = settings.partition
        embedding, target = partition.gather_batch(embedding, target)
        embeddings = gradients.in_range(embedding)
        unit = gradients.unit_rows(embeddings.rows)
        local = target - partition.start
        owned = (local >= 0) & (local < len(prototypes))
        index = torch.where(owned, local, 0)
        vectors, lazy = _vectors(prototypes, index, settings)
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
            lazy=lazy,
        )
        with exact_float32():
            if settings.alpha == 1:
                solved = solve_softmax(problem, marked, partition)
            else:
                solved = solve_divergence(problem, marked, partition, settings.way)
        ctx.settings = settings
        ctx.rebuild = solved.derivative._make if isinstance(solved.derivative, tuple) else list
        ctx.save_for_backward(unit, *embeddings[1:], *vectors, solved.row_factor.to(unit), *solved.derivative)
        roundoff = tie_error(unit.dtype, unit.shape[1])
        is_nearest = settings.scale * (partition.own_rows(cosine) + roundoff) >= solved.best_other
        # The filter leaves nothing of a NaN but its loss.
        outputs = (solved.loss.to(unit), is_nearest & ~solved.loss.isnan(), *(solved.sparsity or ()))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        unit, inverse_norm, exponents, *vectors, row_factor = ctx.saved_tensors[:7]
        derivative = ctx.rebuild(ctx.saved_tensors[7:])
        partition: ClassPartition = ctx.settings.partition
        with exact_float32():
            if isinstance(derivative, Exchanged):
                derivative, factor = derivative.entries(grad_loss, partition), row_factor
            else:
                factor = partition.gather_rows(grad_loss) * row_factor
            args = (factor, unit, gradients.Vectors(*vectors))
            if isinstance(derivative, gradients.Entries):
                towards, grad = gradients.of_entries(derivative, *args, sparse=ctx.settings.sparse_gradient)
            else:
                towards, grad = gradients.of_matrix(derivative, *args)
        towards = partition.sum_own_rows(towards)
        unit, inverse_norm = partition.own_rows(unit), partition.own_rows(inverse_norm)
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
