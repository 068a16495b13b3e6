"""Kernels on divided classes: what they start, and that nothing of it waits. `test_partition` has the results."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wespeaker_qm.losses import fused_filter
from wespeaker_qm.losses.alpha import alpha_divergence_loss
from wespeaker_qm.losses.device_rows import DeviceRows
from wespeaker_qm.losses.fused_shards import _Settings, _ShardLoss, shard_loss
from wespeaker_qm.losses.margins import angular_margin
from wespeaker_qm.losses.partition import ClassPartition

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|underflow):RuntimeWarning")

WAITS = {"_local_scalar_dense", "_unique2", "bincount", "equal", "is_nonzero", "item", "masked_select", "nonzero"}


class Twins(ClassPartition):
    """Two processes that hold and see the same, one of which is here; the other's part of a sum is nothing."""

    def gather_rows(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows])

    def exchange(self, rows: Tensor) -> Tensor:
        return rows.clone().view(2, len(rows) // 2, *rows.shape[1:])

    def sum_own_rows(self, rows: Tensor) -> Tensor:
        return self.own_rows(rows)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    max = sum


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"_GROUP": 8, "PLACES": 16, "_PAIRS": 8, "_PROGRAMS": 1}.items():
        monkeypatch.setattr(fused_filter, name, size)


def problem(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    prototypes = torch.randn(20, 8, generator=generator).to(device)
    target = torch.tensor([3, 19], device=device)
    noise = torch.randn(2, 8, generator=generator).to(device)
    return (prototypes[target] + noise).requires_grad_(), prototypes.requires_grad_(), target


def test_few_operations_none_of_which_waits(noted: Any, device: torch.device) -> None:
    inputs, partition = problem(device), Twins(40, 0, 2)
    with noted() as forward:
        settings = _Settings(1.5, 30.0, 0.1, "angular", partition, None, [])
        found = _ShardLoss.apply(*inputs[:2], None, inputs[2], settings, [])
    with noted() as backward:
        torch.autograd.grad(found[0].sum(), inputs[:2])
    assert not WAITS & {*forward, *backward}
    kernels = ["embedding_terms", "unit_rows", "group_max", "bound", "compact", "candidate_cosines", "candidate_root"]
    assert [name for name in forward if name in kernels] == kernels
    kernels = [name for name in backward if name.endswith("_gradient")]
    assert kernels == ["candidate_embedding_gradient", "candidate_prototype_gradient"]
    assert len(forward) <= 60 and len(backward) <= 25


def test_a_row_is_solved_among_what_all_have_found_for_it(device: torch.device) -> None:
    """Each other class twice, once of each process."""
    embedding, prototypes, target = problem(device)
    found = shard_loss(Twins(40, 0, 2), None, embedding, prototypes, target, 1.5, 30.0, 0.1, "angular")
    assert found is not None
    cosine = F.normalize(embedding.double()) @ F.normalize(prototypes.double()).T
    own = cosine.gather(1, target[:, None])
    others = cosine.masked_fill(F.one_hot(target, 20).bool(), -torch.inf)
    logits = 30 * torch.cat([angular_margin(own, 0.1), others, others], dim=1)
    expected = alpha_divergence_loss(logits, torch.zeros_like(target), 1.5)
    torch.testing.assert_close(found[0].double(), expected.loss, rtol=3e-6, atol=3e-6)
    assert torch.equal(found[2], (expected.posterior > 0).sum(1).to(found[2]))
    assert torch.equal(found[1], own[:, 0] >= others.amax(1))


def test_where_places_do_not_suffice_there_is_no_result(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    inputs, partition = problem(device), Twins(40, 0, 2)
    assert shard_loss(partition, None, *inputs, 1.5, 2.0, 0.1, "reference") is not None
    monkeypatch.setattr(fused_filter, "PLACES", 4)
    assert shard_loss(partition, None, *inputs, 1.5, 2.0, 0.1, "reference") is None


def test_what_is_no_class_of_anybody_has_no_loss(device: torch.device) -> None:
    embedding, prototypes, target = problem(device)
    target[1] = 40
    found = shard_loss(Twins(40, 0, 2), None, embedding, prototypes, target, 1.5, 30.0, 0.1, "reference")
    assert found is not None and found[0].isnan().tolist() == [False, True]
    assert found[1].tolist()[1] is False


def test_prototypes_that_are_frozen_have_no_gradient(device: torch.device) -> None:
    embedding, prototypes, target = problem(device)
    for is_trained in (False, True):
        kept = DeviceRows(prototypes.requires_grad_(is_trained))
        found = shard_loss(Twins(40, 0, 2), kept, embedding, prototypes, target, 1.5, 30.0, 0.1, "reference")
        assert found is not None
        found[0].sum().backward()
        assert kept.holds_gradient is is_trained and prototypes.grad is None
