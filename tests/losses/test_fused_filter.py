"""Kernels on the survivors of a filter against the plain computation in float64: few candidates, many, odd values."""

import math
from typing import Any

import loss_and_gradients
import pytest
import torch
from loss_and_gradients import Found
from torch import Tensor

from wespeaker_qm.bench.cases import Case, simulate
from wespeaker_qm.losses import dispatch, fused_filter
from wespeaker_qm.losses.dispatch import Way
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.losses.margins import MarginType

# What numpy says in the interpreter; a GPU computes in silence.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|underflow):RuntimeWarning")


def compute(way: Way, *arguments: Any, **options: Any) -> Found:
    """In one of the ways."""
    rows = ((math.inf, way),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "WAYS", {"cpu": rows, "cuda": rows})
        return loss_and_gradients.compute(*arguments, **options)


def assert_same(inputs: tuple[Any, ...], tolerance: float, **options: Any) -> LinearLoss:
    """As in float64 on all classes."""
    embedding, prototypes, target, *settings = inputs
    actual = compute(Way.FUSED_FILTER, *inputs, **options)
    wide = (embedding.cpu().double(), prototypes.cpu().double(), target.cpu())
    expected = compute(Way.DENSE, *wide, *settings, **options)
    torch.testing.assert_close(actual.output.loss.cpu().double(), expected.output.loss, rtol=3e-6, atol=3e-6)
    for value, wanted in zip(actual[1:], expected[1:], strict=True):
        assert (value.cpu() - wanted).norm() <= tolerance * max(wanted.norm().item(), 1e-3)
    assert torch.equal(actual.output.correct.cpu(), expected.output.correct)
    sparsity, wanted = actual.output.sparsity, expected.output.sparsity
    assert sparsity is not None and wanted is not None
    assert torch.equal(sparsity.support.cpu().double(), wanted.support)
    torch.testing.assert_close(sparsity.target_posterior.cpu().double(), wanted.target_posterior, rtol=3e-6, atol=3e-6)
    assert (sparsity.candidates >= sparsity.support).all()
    return actual.output


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups, blocks and places of few, so that rows of few classes have several of each."""
    for name, size in {"_GROUP": 8, "PLACES": 64, "_BLOCK_CLASSES": 32, "_PAIRS": 8, "_WIDE_PROGRAMS": 2}.items():
        monkeypatch.setattr(fused_filter, name, size)


def problem(device: torch.device, *sizes: int, trained: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    found = simulate(Case(*sizes, 1, 1, 0, trained=trained))
    return tuple(tensor.detach().to(device) for tensor in found)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("alpha", "scale", "margin", "kind", "trained"),
    [
        (1.25, 35, 0.2, "reference", True),
        (1.5, 10, 0.1, "reference", True),
        (1.5, 30, 0.1, "angular", False),
        (1.6, 30, 0.1, "easy_angular", False),
        (2, 10, 0.1, "reference", False),
    ],
)
def test_few_candidates(
    alpha: float, scale: float, margin: float, kind: MarginType, trained: bool, device: torch.device
) -> None:
    """A ragged last group."""
    inputs = (*problem(device, 3, 24, 131, trained=trained), alpha, scale, margin)
    output = assert_same(inputs, 4e-6 if kind == "angular" else 2e-6, margin_type=kind)
    assert output.sparsity is not None and (output.sparsity.candidates <= 64).all()


@pytest.mark.parametrize(("alpha", "scale"), [(1.5, 10), (1.6, 10)])
def test_rows_with_more_candidates_than_places(
    alpha: float, scale: float, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows for two programs, each with a line of scratch, one of them with few candidates."""
    monkeypatch.setattr(fused_filter, "PLACES", 4)
    embedding, prototypes, target = problem(device, 3, 16, 70)
    embedding[1] = prototypes[target[1]]
    output = assert_same((embedding, prototypes, target, alpha, scale, 0.1), 2e-6)
    assert output.sparsity is not None
    assert (output.sparsity.candidates > 4).tolist() == [True, False, True]


def test_ties_and_few_classes(device: torch.device) -> None:
    """All prototypes there twice; embeddings on their own, on another, between two."""
    prototypes = torch.eye(10, device=device).repeat(2, 1)
    embedding = torch.stack([prototypes[0], prototypes[1], prototypes[2] + prototypes[3]])
    target = torch.tensor([10, 7, 2], device=device)
    output = assert_same((embedding, prototypes, target, 1.5, 20.0, 0.0), 4e-6)
    assert output.correct.tolist() == [True, False, True]
    assert_same((*problem(device, 1, 3, 1), 1.5, 10.0, 0.1), 1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_finite_loss(bad: float, device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 3, 8, 40)
    embedding[1, 3] = bad
    output = compute(Way.FUSED_FILTER, embedding, prototypes, target, 1.5, 30.0, 0.1).output
    assert output.loss.isnan().tolist() == [False, True, False]
    embedding[1, 3] = 0
    prototypes[39, 1] = bad
    output = compute(Way.FUSED_FILTER, embedding, prototypes, target, 1.5, 30.0, 0.1).output
    assert output.loss.isnan().all() and not output.correct.any()


def test_few_operations_none_of_which_waits(noted: Any, device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 2, 8, 40)
    with noted() as forward:
        kept = fused_filter.filter_loss.plain(embedding, prototypes, target, 1.5, 30.0, 0.1, "reference")
    grad_loss = torch.ones(2, device=device)
    with noted() as backward:
        fused_filter.filter_loss_backward.plain(grad_loss, prototypes, *kept[5:], 1.5, 30.0)
    assert forward == [
        "embedding_terms", "clamp", "unit_rows", "_to_copy", "mm", "group_max", "bound", "compact",
        "candidate_cosines", "candidate_root", "wide_rows", "_to_copy",
    ]  # fmt: skip
    assert backward == [
        "candidate_embedding_gradient", "sort", "arange", "searchsorted", "gt", "sum", "candidate_prototype_gradient"
    ]  # fmt: skip
    assert len(forward + backward) <= 25


def test_the_operators_keep_what_they_promise_to_pytorch(device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 2, 8, 40)
    arguments = (embedding.requires_grad_(), prototypes.requires_grad_(), target, 1.5, 30.0, 0.1, "reference")
    kinds = ("test_autograd_registration", "test_faketensor")
    torch.library.opcheck(fused_filter.filter_loss.node, arguments, test_utils=kinds)
    found = fused_filter.filter_loss.node(*arguments)
    kept = (tensor.detach() for tensor in found[5:])
    inputs = (torch.ones(2, device=device), prototypes.detach(), *kept, 1.5, 30.0)
    torch.library.opcheck(fused_filter.filter_loss_backward.node, inputs, test_utils=kinds)


def test_at_alpha_1_there_is_no_filter(device: torch.device, noted: Any) -> None:
    with noted() as names:
        compute(Way.FUSED_FILTER, *problem(device, 2, 8, 40), 1.0, 10.0, 0.1)
    assert "softmax_rows" in names and "bound" not in names
