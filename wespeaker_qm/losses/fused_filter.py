"""The loss on a GPU, for more classes than it should have logits of: a product in float16, kernels on survivors.

::

    embeddings, prototypes -> float16 -> product -> cosines (B, n) -> maxima of groups -> bound of tau -> threshold
                                              |                                                              |
                                              +----------- cosine > threshold: classes (B, K) <--------------+
    classes -> exact logits -> root in float64 -> loss, d loss / d cosine (B, K)
    d loss / d cosine -> sums of prototypes by row, of embeddings by class -> gradients

K, the places for the candidates of a row, is a matter of time alone: a row with more is solved by a program that walks
over all of its classes (`wide_rows`), as exactly. Nothing waits for the device and no shape depends on the values,
so that forward and backward can be captured in a CUDA graph; ``torch.compile`` takes each as one node.
"""

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from wespeaker_qm.losses.alpha import first_derivative_only
from wespeaker_qm.losses.class_sums import sums_by_class
from wespeaker_qm.losses.device_rows import LOW, DeviceRows, Lists
from wespeaker_qm.losses.operators import Tensors, differentiable, operator
from wespeaker_qm.losses.roundoff import cosine_error, tie_error
from wespeaker_qm.utils.precision import exact_float32

if TYPE_CHECKING:
    from wespeaker_qm.losses.kernels.launch import Target

PLACES = 1024
"""K, a power of two; at the sizes of the paper's Table 4 rows have 170 to 780 candidates."""

_GROUP = 64  # classes of which the maximum is compared with the threshold first, at least
_MAX_GROUPS = 4096  # that one program holds
_BLOCK_CLASSES = 4096  # of a wide row that a program works on together
_PAIRS = 16  # of an embedding and a prototype that a program works on together
_PROGRAMS = 8  # for the candidates of a row
_WIDE_PROGRAMS = 32  # each with a line of scratch


class Candidates(NamedTuple):
    """Of each row the classes that may matter, and how they were found.

    classes (B, K) int32 in their order, behind the target, filled up with n; number (B,) int32, how many they are, the
    target among them, of which only K have a place; threshold (B,) float64, NaN where a cosine is; cosine (B, n) in
    low precision; inverse_norms (n,) float64 of the prototypes.
    """

    classes: Tensor
    number: Tensor
    threshold: Tensor
    cosine: Tensor
    inverse_norms: Tensor


def find_candidates(
    unit: Tensor, prototypes: Tensor, target: Tensor, logit: Tensor, log_q: Tensor, alpha: float, scale: float,
    kept: DeviceRows | None = None,
) -> Candidates:  # fmt: skip
    """The filter.

    Args:
        unit: (B, D) unit embeddings.
        prototypes: (n, D).
        target: (B,) the class of each row, or n where it is none of these.
        logit: (B,) float64 of the target.
        log_q: (B,) float64 of the target.
        alpha: in (1, 2].
        scale: s.
        kept: of the prototypes, where their optimiser keeps something.
    """
    from wespeaker_qm.losses.kernels import filter as filters
    from wespeaker_qm.losses.kernels import launch

    (batch, dim), num_classes, places = unit.shape, len(prototypes), PLACES
    low_prototypes, inverse_norms = launch.unit_vectors(prototypes, LOW) if kept is None else kept.unit_rows(prototypes)
    with exact_float32():
        cosine = unit.to(LOW) @ low_prototypes.T
    del low_prototypes
    group = max(_GROUP, launch.power_of_two(launch.whole(num_classes, _MAX_GROUPS)))
    num_groups = launch.whole(num_classes, group)
    block_groups = launch.power_of_two(num_groups)
    maxima, live = unit.new_empty(batch, num_groups), target.new_empty(batch, num_groups, dtype=torch.int32)
    side = max(1, 4096 // group)
    filters.group_max[(batch, launch.whole(num_groups, side))](
        cosine, target, maxima, num_classes, num_groups, GROUP=group, GROUPS=side
    )
    threshold = torch.empty_like(logit)
    filters.bound[(batch,)](
        maxima, logit, log_q, threshold, num_groups, cosine_error(LOW, dim), scale, alpha - 1,
        POWER=launch.power_of(alpha - 1), BLOCK=block_groups, num_warps=8,
    )  # fmt: skip
    classes = target.new_empty(batch, places, dtype=torch.int32)
    count = target.new_empty(batch, dtype=torch.int32)
    filters.compact[(batch,)](
        cosine, maxima, target, threshold, live, classes, count, num_classes, num_groups, places, scale,
        GROUP=group, GROUPS=max(1, 1024 // group), BLOCK=block_groups,
    )  # fmt: skip
    return Candidates(classes, count, threshold, cosine, inverse_norms)


def fill_cosines(cosines: Tensor, unit: Tensor, prototypes: Tensor, candidates: Candidates) -> None:
    """Write the exact cosines of the candidates to their places (B, K), and nothing elsewhere."""
    from wespeaker_qm.losses.kernels import launch, survivors

    (batch, dim), places = unit.shape, cosines.shape[1]
    survivors.candidate_cosines[(batch, _PROGRAMS)](
        unit, prototypes, candidates.inverse_norms, candidates.classes, candidates.number, cosines, places, dim,
        BLOCK=_PAIRS, BLOCK_D=launch.power_of_two(dim),
    )  # fmt: skip


def solve(
    cosines: Tensor, count: Tensor, bound: Tensor, target: "Target", num_dims: int, alpha: float, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the candidates to the loss; d loss / d cosine takes the place of the cosines.

    Args:
        cosines: (B, K) exact ones of the classes but the target, whose place is the first; -inf is no class.
        count: (B,) int32 places that are in use; rows with more than K are left alone.
        bound: (B,) float64, NaN where the loss is to be.
        target: of each row.
        num_dims: D.
        alpha: in (1, 2].
        scale: s.

    Returns:
        (B,) each: loss, correct, support and target_posterior of `linear`.
    """
    from wespeaker_qm.losses.kernels import launch, survivors

    batch, places = cosines.shape
    loss, support, posterior = (cosines.new_empty(batch) for _ in range(3))
    correct = torch.empty_like(count, dtype=torch.bool)
    block = launch.power_of_two(places)
    survivors.candidate_root[(batch,)](
        cosines, count, bound, *target, loss, correct, support, posterior, places, tie_error(torch.float32, num_dims),
        scale, alpha - 1, POWER=launch.power_of(alpha - 1), BLOCK=block, num_warps=8 if block <= 2048 else 16,
    )  # fmt: skip
    return loss, correct, support, posterior


@operator("filter_loss")
def filter_loss(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, margin_type: str
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
]:  # fmt: skip
    """The loss of float32 embeddings (B, D) and prototypes (n, D) at alpha > 1, and what its gradients need.

    Args:
        embedding: (B, D) float32, contiguous.
        prototypes: (n, D) float32, contiguous.
        target: (B,) int64; one that is no class has a NaN loss.
        alpha: in (1, 2].
        scale: s.
        margin: m.
        margin_type: where it goes.

    Returns:
        (B,) each: loss, correct, support, candidates and target_posterior of `linear`; classes (B, K) int32 and
        d loss / d cosine of them (B, K), the target being the first, n where there is none; number (B,) of the
        candidates; unit embeddings (B, D), 1 / norms (B,) and (n,) float64; and of rows with more than K, the sums of
        prototypes (B, D) and the solution (3, B); the target as indices that are classes.
    """
    return _filter_loss(embedding, prototypes, target, alpha, scale, margin, margin_type, None)


def _filter_loss(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, margin_type: str,
    kept: DeviceRows | None,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
]:  # fmt: skip
    from wespeaker_qm.losses.kernels import launch, survivors

    (batch, dim), num_classes, places = embedding.shape, len(prototypes), PLACES
    unit, inverse_norms, terms = launch.embedding_terms(embedding, prototypes, target, scale, margin, margin_type)
    target = target.clamp(0, num_classes - 1)
    candidates = find_candidates(unit, prototypes, target, terms.logit, terms.log_q, alpha, scale, kept)
    classes, count, threshold, cosine, inverse_prototype_norms = candidates
    derivative = unit.new_empty(batch, places)
    fill_cosines(derivative, unit, prototypes, candidates)

    found = solve(derivative, count, threshold, terms, dim, alpha, scale)
    a, width = alpha - 1, launch.power_of_two(dim)
    towards, solution = torch.empty_like(unit), unit.new_empty(3, batch, dtype=torch.float64)
    programs = min(_WIDE_PROGRAMS, batch)
    survivors.wide_rows[(programs,)](
        cosine, unit, prototypes, inverse_prototype_norms, threshold, count, classes, derivative,
        unit.new_empty(programs, num_classes), count.new_empty(programs, num_classes),
        towards, solution, target, *terms, *found,
        batch, num_classes, places, dim, tie_error(torch.float32, dim), scale, a,
        POWER=launch.power_of(a), BLOCK=min(_BLOCK_CLASSES, launch.power_of_two(num_classes)), CLASSES=_PAIRS,
        BLOCK_D=width, num_warps=8,
    )  # fmt: skip
    number = count.to(torch.float32)
    lists = (classes, derivative, count, unit, inverse_norms, inverse_prototype_norms, towards, solution, target)
    loss, correct, support, posterior = found
    return loss, correct, support, number, posterior, *lists


@filter_loss.node.register_fake
def _(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, margin_type: str
) -> tuple[Tensor, ...]:
    batch, num_classes = len(embedding), len(prototypes)
    rows = [embedding.new_empty(batch) for _ in range(4)]
    return (
        rows[0],
        torch.empty_like(target, dtype=torch.bool),
        *rows[1:],
        target.new_empty(batch, PLACES, dtype=torch.int32),
        embedding.new_empty(batch, PLACES),
        target.new_empty(batch, dtype=torch.int32),
        torch.empty_like(embedding),
        embedding.new_empty(batch, dtype=torch.float64),
        embedding.new_empty(num_classes, dtype=torch.float64),
        torch.empty_like(embedding),
        embedding.new_empty(3, batch, dtype=torch.float64),
        torch.empty_like(target),
    )


@operator("filter_loss_backward")
def filter_loss_backward(
    grad_loss: Tensor, prototypes: Tensor,
    classes: Tensor, derivative: Tensor, count: Tensor, unit: Tensor, inverse_norms: Tensor,
    inverse_prototype_norms: Tensor, towards: Tensor, solution: Tensor, target: Tensor, alpha: float, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of the embeddings (B, D) and the prototypes (n, D) from that of the loss (B,)."""
    factor = grad_loss.contiguous()
    lists = (classes, derivative, count, unit)
    grad_embedding = embedding_gradient(factor, prototypes, *lists, inverse_norms, inverse_prototype_norms, towards)
    sums = sums_by_class(*lists, inverse_prototype_norms, solution, target, factor, alpha, scale)
    return grad_embedding, sums.gradient(prototypes)


def embedding_gradient(
    factor: Tensor, prototypes: Tensor, classes: Tensor, derivative: Tensor, count: Tensor, unit: Tensor,
    inverse_norms: Tensor, inverse_prototype_norms: Tensor, towards: Tensor,
) -> Tensor:  # fmt: skip
    """That of the embeddings (B, D), times a factor (B,); the other arguments are results of `filter_loss`."""
    from wespeaker_qm.losses.kernels import launch, survivors

    (batch, dim), places = unit.shape, classes.shape[1]
    gradient = torch.empty_like(unit)
    survivors.candidate_embedding_gradient[(batch,)](
        unit, inverse_norms, prototypes, inverse_prototype_norms, classes, count, derivative, towards, factor,
        gradient, places, dim, CLASSES=_PAIRS, BLOCK_D=launch.power_of_two(dim),
    )  # fmt: skip
    return gradient


@filter_loss_backward.node.register_fake
def _(
    grad_loss: Tensor, prototypes: Tensor,
    classes: Tensor, derivative: Tensor, count: Tensor, unit: Tensor, inverse_norms: Tensor,
    inverse_prototype_norms: Tensor, towards: Tensor, solution: Tensor, target: Tensor, alpha: float, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(unit), torch.empty_like(prototypes)


derived_filter_loss = differentiable(filter_loss, filter_loss_backward, num_results=5, settings=slice(3, 5))
"""`filter_loss` with derivatives."""


class _HeldFilterLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, prototypes: Tensor, gate: Tensor, lists: Lists, target: Tensor, *settings: Any
    ) -> Tensors:
        output = _filter_loss(embedding, prototypes, target, *settings)
        ctx.lists, ctx.settings = lists, settings
        ctx.save_for_backward(prototypes, *output[5:])
        ctx.mark_non_differentiable(*output[1:5])
        ctx.set_materialize_grads(False)
        return output[:5]

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        prototypes, classes, derivative, count, unit, inverse_norms, prototype_norms, towards, solution, target = (
            ctx.saved_tensors
        )
        factor = grad_loss.contiguous()
        lists = (classes, derivative, count, unit)
        ctx.lists[:] = [
            functools.partial(sums_by_class, *lists, prototype_norms, solution, target, factor, *ctx.settings[:2])
        ]
        gradient = embedding_gradient(factor, prototypes, *lists, inverse_norms, prototype_norms, towards)
        return gradient, None, factor.new_empty(0), None, None, *[None] * len(ctx.settings)


def held_filter_loss(
    kept: DeviceRows, embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float,
    margin_type: str,
) -> Tensors:  # fmt: skip
    """`derived_filter_loss`, where the gradient of the prototypes goes to what their optimiser keeps."""
    lists: Lists = []
    inputs = (embedding, prototypes.detach(), kept.gate(prototypes, lists), lists, target)
    found: Tensors = _HeldFilterLoss.apply(*inputs, alpha, scale, margin, margin_type, kept)
    return found
