"""The loss on GPUs that have the classes divided among them: each filters the rows of all, and solves its own.

::

    embeddings --all-gather--> kernels of `fused_filter` on the own classes -> cosines of the candidates (B, K)
    cosines --all-to-all--> of the own rows (b, P K) -> root in float64 -> loss, d loss / d cosine
    d loss / d cosine --all-to-all--> of the own classes (B, K) -> gradients --reduce-scatter--> of the own embeddings

Legend: P processes, b rows of each, B = P b, n classes of this process, K places for its candidates of a row, of which
the first is kept for the target.

Two more collectives are of four numbers a row, which tell of its target, and of one number, the most candidates that a
row has anywhere. The host reads that one: where it is more than K, all processes compute in PyTorch, as exactly. It
asks when the whole forward has been started, so that the device has work meanwhile and does not wait for it.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wespeaker_qm.losses import fused_filter
from wespeaker_qm.losses.alpha import first_derivative_only
from wespeaker_qm.losses.class_sums import sums_by_class
from wespeaker_qm.losses.device_rows import DeviceRows, Lists
from wespeaker_qm.losses.margins import MarginType
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.utils.reading import Reading


class _Settings(NamedTuple):
    alpha: float
    scale: float
    margin: float
    margin_type: MarginType
    partition: ClassPartition
    kept: DeviceRows | None
    lists: Lists


def shard_loss(
    partition: ClassPartition,
    kept: DeviceRows | None,
    embedding: Tensor,
    prototypes: Tensor,
    target: Tensor,
    alpha: float,
    scale: float,
    margin: float,
    margin_type: MarginType,
) -> tuple[Tensor, ...] | None:
    """The loss at alpha > 1.

    Args:
        partition: of at least two processes, all of which have kernels.
        kept: of the prototypes, where their optimiser keeps something: it gets their gradient.
        embedding: (b, D) float32, contiguous.
        prototypes: (n, D) float32, contiguous.
        target: (b,) int64, over all processes; one that is no class has a NaN loss.
        alpha: in (1, 2].
        scale: s.
        margin: m.
        margin_type: where it goes.

    Returns:
        (b,) each: loss, correct, support, candidates and target_posterior of `linear`; or None, on all processes, where
        a row has more candidates than there are places for.
    """
    most: list[Reading] = []
    settings = _Settings(alpha, scale, margin, margin_type, partition, kept, lists=[])
    gate = None
    if kept is not None:
        gate, prototypes = kept.gate(prototypes, settings.lists), prototypes.detach()
    found: tuple[Tensor, ...] = _ShardLoss.apply(embedding, prototypes, gate, target, settings, most)
    return found if most[0].values()["candidates"] <= fused_filter.PLACES else None


class _ShardLoss(torch.autograd.Function):
    """The loss with its closed-form gradients: backward never sees the root finding."""

    @staticmethod
    def forward(
        ctx: Any,
        embedding: Tensor,
        prototypes: Tensor,
        gate: Tensor | None,
        target: Tensor,
        settings: _Settings,
        most: list[Reading],
    ) -> tuple[Tensor, ...]:
        from wespeaker_qm.losses.kernels import launch

        alpha, scale, margin, margin_type, partition, kept, _ = settings
        num_classes, places = len(prototypes), fused_filter.PLACES
        embedding, target = partition.gather_batch(embedding, target)
        local = target - partition.start
        is_owned = (local >= 0) & (local < num_classes)
        unit, inverse_norms, terms = launch.embedding_terms(embedding, prototypes, local, scale, margin, margin_type)
        terms = launch.Target(*partition.sum(torch.stack(terms).masked_fill_(~is_owned, 0)))
        terms.logit.masked_fill_((target < 0) | (target >= partition.num_classes), torch.nan)
        nearby = local.masked_fill(~is_owned, num_classes)
        candidates = fused_filter.find_candidates(
            unit, prototypes, nearby, terms.logit, terms.log_q, alpha, scale, kept
        )
        most.append(Reading({"candidates": partition.max(candidates.number.amax())}))

        candidates.classes[:, 0] = local * is_owned
        cosines = unit.new_full((len(unit), places), -torch.inf)
        fused_filter.fill_cosines(cosines, unit, prototypes, candidates)
        # The place of the target, which the own process of the row knows, tells of a number that is none.
        cosines[:, 0] = torch.where(candidates.threshold.isnan(), torch.nan, -torch.inf)
        found = partition.exchange(cosines).transpose(0, 1).contiguous()  # (b, P, K)
        number = (found > -torch.inf).sum((1, 2)) + 1
        own = launch.Target(*(partition.own_rows(part) for part in terms))
        bound = torch.where(found[:, :, 0].isnan().any(1), torch.nan, 0.0).double()
        in_use = candidates.number.new_full((len(found),), found[0].numel())
        loss, correct, support, posterior = fused_filter.solve(
            found.flatten(1), in_use, bound, own, unit.shape[1], alpha, scale
        )
        ctx.settings = settings
        ctx.set_materialize_grads(False)  # what cannot be derived needs no zeros
        ctx.save_for_backward(
            prototypes, unit, inverse_norms, candidates.inverse_norms, candidates.classes, candidates.number, is_owned,
            target, found,
        )  # fmt: skip
        outputs = (loss, correct, support, number.to(loss), posterior)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        prototypes, unit, inverse_norms, inverse_prototype_norms, classes, count, is_owned, target, found = (
            ctx.saved_tensors
        )
        alpha, scale, _, _, partition, kept, made = ctx.settings
        derivative = found * grad_loss[:, None, None]
        derivative[:, :, 0] = derivative[:, :1, 0]
        derivative = partition.exchange(derivative.transpose(0, 1).flatten(0, 1)).flatten(0, 1)  # (B, K)
        derivative[:, 0].masked_fill_(~is_owned, 0)
        ones, sizes = torch.ones_like(unit[:, 0]), torch.ones_like(inverse_norms)
        # No row has more candidates than places: what is known of such rows only is not read.
        lists = (classes, derivative, count, unit)
        towards = fused_filter.embedding_gradient(
            ones, prototypes, *lists, sizes, inverse_prototype_norms, towards=unit
        )
        share = ones / partition.world_size
        sums = functools.partial(sums_by_class, *lists, inverse_prototype_norms, sizes, target, share, alpha, scale)
        largest = torch.finfo(unit.dtype).max
        towards = partition.sum_own_rows(towards) * partition.own_rows(inverse_norms)[:, None]
        towards = towards.clamp_(-largest, largest).to(unit)
        if kept is None:
            return towards, sums().gradient(prototypes), None, None, None, None
        made[:] = [sums]
        return towards, None, share.new_empty(0), None, None, None
