"""Kernels on rows against the plain computation in float64: every loss, odd shapes and values, and no waiting."""

import math
from typing import Any

import pytest
import torch
from loss_and_gradients import Found, compute
from torch import Tensor

from wespeaker_qm.bench.cases import Case, simulate
from wespeaker_qm.losses import dispatch, fused_rows
from wespeaker_qm.losses.dispatch import Way, way_of
from wespeaker_qm.losses.linear import alpha_margin_linear
from wespeaker_qm.losses.margins import MarginType

LOSSES = [(1, 32, 0.2), (1.05, 60, 0.1), (1.25, 35, 0.2), (1.5, 10, 0.1), (1.6, 10, 0.1), (1.75, 5, 0.1), (2, 5, 0.1)]


# What numpy says in the interpreter; a GPU computes in silence.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|underflow):RuntimeWarning")


def plain(embedding: Tensor, prototypes: Tensor, target: Tensor, *settings: Any, **options: Any) -> Found:
    """In float64, which kernels leave to PyTorch, on all classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "WAYS", {"cpu": ((math.inf, Way.DENSE),)})
        return compute(embedding.cpu().double(), prototypes.cpu().double(), target.cpu(), *settings, **options)


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any device, in blocks of few classes: rows have several, the last of them ragged."""
    rows = ((math.inf, Way.FUSED_ROWS),)
    monkeypatch.setattr(dispatch, "WAYS", {"cpu": rows, "cuda": rows})
    monkeypatch.setattr(fused_rows, "_BLOCK_CLASSES", 128)


def problem(device: torch.device, *sizes: int, trained: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    found = simulate(Case(*sizes, 1, 1, 0, trained=trained))
    return tuple(tensor.detach().to(device) for tensor in found)  # type: ignore[return-value]


def assert_same(actual: Found, expected: Found, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(actual.output.loss.cpu().double(), expected.output.loss, rtol=3e-6, atol=3e-6)
    for value, wanted in zip(actual[1:], expected[1:], strict=True):
        assert (value.cpu() - wanted).norm() <= tolerance * max(wanted.norm().item(), 1e-3)
    assert torch.equal(actual.output.correct.cpu(), expected.output.correct)
    assert (actual.output.sparsity is None) == (expected.output.sparsity is None)
    if actual.output.sparsity is not None and expected.output.sparsity is not None:
        assert torch.equal(actual.output.sparsity.support.cpu().double(), expected.output.sparsity.support)
        posteriors = (actual.output.sparsity.target_posterior, expected.output.sparsity.target_posterior)
        torch.testing.assert_close(posteriors[0].cpu().double(), posteriors[1], rtol=3e-6, atol=3e-6)
        for extreme in (0, 1):
            assert torch.equal(posteriors[0].cpu() == extreme, posteriors[1] == extreme)
        assert (actual.output.sparsity.candidates == expected.output.sparsity.candidates.max()).all()


@pytest.mark.parametrize(("kind", "trained"), [("reference", True), ("angular", False)])
@pytest.mark.parametrize(("alpha", "scale", "margin"), LOSSES)
def test_the_loss_is_that_of_float64(
    alpha: float, scale: float, margin: float, kind: MarginType, trained: bool, device: torch.device
) -> None:
    inputs = (*problem(device, 5, 24, 500, trained=trained), alpha, scale, margin)
    actual, expected = compute(*inputs, margin_type=kind), plain(*inputs, margin_type=kind)
    assert actual.output.loss.dtype == torch.float32
    assert_same(actual, expected, 4e-6 if kind == "angular" else 2e-6)


@pytest.mark.parametrize(
    ("batch", "dim", "num_classes"), [(1, 1, 1), (2, 33, 2), (2, 5, 127), (1, 33, 128), (2, 64, 129)]
)
@pytest.mark.parametrize(("alpha", "kind"), [(1.0, "reference"), (1.5, "easy_angular"), (1.8, "reference")])
def test_sizes_that_fill_no_block(
    alpha: float, kind: MarginType, batch: int, dim: int, num_classes: int, device: torch.device
) -> None:
    embedding, prototypes, target = problem(device, batch, dim, num_classes)
    inputs = (embedding + 0.01, prototypes, target, alpha, 10.0, 0.1)
    assert_same(compute(*inputs, margin_type=kind), plain(*inputs, margin_type=kind), 1e-5)


@pytest.mark.parametrize("alpha", [1.25, 1.7, 2.0])
def test_solved_dropped_and_tied(alpha: float, device: torch.device) -> None:
    """On the target; on another class; between the target and another; on two other classes that are the same."""
    prototypes = torch.eye(50, device=device).repeat(2, 1)[:99]
    base = prototypes[:50]
    embedding = torch.stack([base[49], base[1], base[2] + base[3], base[4] + 0.5 * base[5]])
    target = torch.tensor([49, 7, 2, 8], device=device)
    found, expected = (of(embedding, prototypes, target, alpha, 20.0, 0.0) for of in (compute, plain))
    assert_same(found, expected, 4e-6)
    assert found.output.sparsity is not None
    assert found.output.sparsity.target_posterior[:2].tolist() == [1, 0]
    assert found.output.loss[0] == 0
    assert (found.embedding_gradient[0] == 0).all()
    assert found.output.correct.tolist() == [True, False, True, False]


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("factor", [1e37, 1e-30, 1e-43])
def test_norms_play_no_part(factor: float, alpha: float, device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 4, 16, 300)
    embedding, prototypes = (rows.clamp(-5, 5) / rows.norm(dim=1, keepdim=True) for rows in (embedding, prototypes))
    prototypes[5] = embedding[1] = 0
    for inputs in ((factor * embedding, prototypes), (embedding, factor * prototypes)):
        settings = (target, alpha, 10.0, 0.1)
        actual, expected = compute(*inputs, *settings), plain(*inputs, *settings)
        torch.testing.assert_close(actual.output.loss.cpu().double(), expected.output.loss, rtol=1e-5, atol=1e-5)
        largest = torch.finfo(torch.float32).max
        for value, wanted, rows in zip(actual[1:], expected[1:], inputs, strict=True):
            assert value.isfinite().all()
            norm = rows.cpu().double().norm(dim=1, keepdim=True)
            error = (value.cpu() - wanted.clamp(-largest, largest)) * norm
            assert error.abs().max() <= 1e-5 * (wanted * norm).abs().max()


@pytest.mark.parametrize("alpha", [1.0, 1.25, 1.6])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_finite_loss(bad: float, alpha: float, device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 4, 16, 300)
    good = compute(embedding, prototypes, target, alpha, 10.0, 0.1).output.loss
    embedding[2, 3] = bad
    output = compute(embedding, prototypes, target, alpha, 10.0, 0.1).output
    assert output.loss.isnan().nonzero().tolist() == [[2]]
    torch.testing.assert_close(output.loss[:2], good[:2], rtol=0, atol=0)
    embedding[2, 3] = 0
    prototypes[299, 1] = bad
    output = compute(embedding, prototypes, target, alpha, 10.0, 0.1).output
    assert output.loss.isnan().all() and not output.correct.any()
    assert output.sparsity is None or output.sparsity.target_posterior.isnan().all()


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("wrong", [300, -1])
def test_a_target_that_is_no_class_has_no_loss(wrong: int, alpha: float, device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 3, 16, 300)
    target[1] = wrong
    found = compute(embedding, prototypes, target, alpha, 10.0, 0.1)
    assert found.output.loss.isnan().nonzero().tolist() == [[1]]
    assert found.embedding_gradient[::2].isfinite().all()


@pytest.mark.parametrize(("alpha", "kind"), [(1.0, "angular"), (1.5, "reference"), (1.6, "angular")])
def test_few_operations_none_of_which_waits(alpha: float, kind: MarginType, noted: Any, device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 3, 16, 300)
    with noted() as forward:
        _, _, _, _, *kept = fused_rows.row_loss.plain(embedding, prototypes, target, alpha, 10.0, 0.1, kind)
    grad_loss = torch.ones(3, device=device)
    with noted() as backward:
        fused_rows.row_loss_backward.plain(grad_loss, prototypes, *kept)
    assert forward == ["embedding_terms", "cosines", "softmax_rows" if alpha == 1 else "divergence_rows"]
    assert backward == ["embedding_sums", "embedding_gradient", "prototype_gradient"]
    assert len(forward + backward) <= 15


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_under_compile_it_is_one_node_and_the_same(alpha: float, device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 3, 16, 300)

    def loss_and_support(embedding: Tensor, prototypes: Tensor) -> Tensor:
        return alpha_margin_linear(2 * embedding, prototypes, target, alpha, 10.0, 0.1).loss

    compiled = torch.compile(loss_and_support, fullgraph=True, backend="aot_eager")
    results = []
    for function in (loss_and_support, compiled):
        leaves = tuple(leaf.clone().requires_grad_() for leaf in (embedding, prototypes))
        with torch.autocast(device.type, torch.bfloat16):
            loss = function(*leaves)
        results.append((loss, *torch.autograd.grad(loss.sum(), leaves)))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_the_operators_keep_what_they_promise_to_pytorch(device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 3, 16, 300)
    arguments = (embedding.requires_grad_(), prototypes.requires_grad_(), target, 1.5, 10.0, 0.1, "reference")
    kinds = ("test_schema", "test_autograd_registration", "test_faketensor")  # compilation is tested above
    torch.library.opcheck(fused_rows.row_loss.node, arguments, test_utils=kinds)
    _, _, _, _, *kept = fused_rows.row_loss.node(*arguments)
    inputs = (torch.ones(3, device=device), prototypes.detach(), *(tensor.detach() for tensor in kept))
    torch.library.opcheck(fused_rows.row_loss_backward.node, inputs, test_utils=kinds)


def test_a_second_derivative_is_refused(device: torch.device) -> None:
    embedding, prototypes, target = problem(device, 3, 16, 300)
    loss = alpha_margin_linear(embedding.requires_grad_(), prototypes, target, 1.5, 10.0, 0.1).loss.sum()
    with pytest.raises(RuntimeError, match=r"create_graph=True, .* first derivatives only"):
        torch.autograd.grad(loss, embedding, create_graph=True)


@pytest.mark.parametrize("change", ["float64", "empty", "sparse gradient"])
def test_what_kernels_do_not_do_is_done_in_plain_pytorch(change: str, device: torch.device, noted: Any) -> None:
    embedding, prototypes, target = problem(device, 3, 16, 300)
    if change == "float64":
        prototypes = prototypes.double()
    if change == "empty":
        embedding, target = embedding[:0], target[:0]
    with noted() as names:
        alpha_margin_linear(embedding, prototypes, target, 1.5, 10.0, 0.1, sparse_gradient=change == "sparse gradient")
    assert "divergence_rows" not in names and "mm" in names


def test_without_triton_the_computation_is_plain(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    assert way_of(device, 300) is Way.FUSED_ROWS
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    assert way_of(device, 300) is Way.DENSE
    assert way_of(device, 3000) is Way.FILTERED
