"""The loss from prototypes against the loss of dense float64 logits: in every regime, precision and odd case."""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from wespeaker_qm.bench.problems import Case, simulate
from wespeaker_qm.losses import candidates, linear
from wespeaker_qm.losses.alpha import alpha_divergence_loss, target_log_reference
from wespeaker_qm.losses.linear import LinearLoss, alpha_margin_linear
from wespeaker_qm.losses.margins import MarginType, angular_margin
from wespeaker_qm.utils.errors import RecipeError

MARGIN_TYPES: list[MarginType] = ["reference", "angular", "easy_angular"]


class Result(NamedTuple):
    loss: Tensor
    embedding_gradient: Tensor
    prototype_gradient: Tensor


def unit(vectors: Tensor) -> Tensor:
    """Zero rows stay zero, without gradient."""
    norm = vectors.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, vectors / torch.where(norm > 0, norm, 1.0), 0.0)


def oracle(
    embedding: Tensor, prototypes: Tensor, target: Tensor, alpha: float, scale: float, margin: float, kind: MarginType
) -> Result:
    """Dense, in float64, by autograd through normalisation, cosines and margin."""
    embedding, prototypes = (leaf.detach().double().requires_grad_() for leaf in (embedding, prototypes))
    cosine = (unit(embedding) @ unit(prototypes).T).clamp(-1, 1)
    index = target[:, None]
    log_reference = None
    if kind == "reference":
        log_reference = target_log_reference(cosine, target, -scale * margin)
    else:
        penalised = angular_margin(cosine.gather(1, index), margin, easy_margin=kind == "easy_angular")
        cosine = cosine.scatter(1, index, penalised)
    loss = alpha_divergence_loss(scale * cosine, target, alpha, log_reference).loss
    return Result(loss.detach(), *torch.autograd.grad((loss * upstream(loss)).sum(), (embedding, prototypes)))


def upstream(loss: Tensor) -> Tensor:
    """A gradient that differs from sample to sample."""
    return torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype)


def ours(
    embedding: Tensor,
    prototypes: Tensor,
    target: Tensor,
    alpha: float,
    scale: float,
    margin: float,
    kind: MarginType = "reference",
    *,
    sparse_gradient: bool = False,
) -> tuple[Result, LinearLoss]:
    embedding, prototypes = (leaf.detach().clone().requires_grad_() for leaf in (embedding, prototypes))
    output = alpha_margin_linear(
        embedding, prototypes, target, alpha, scale, margin, margin_type=kind, sparse_gradient=sparse_gradient
    )
    gradients = torch.autograd.grad((output.loss * upstream(output.loss)).sum(), (embedding, prototypes))
    return Result(output.loss.detach(), *gradients), output


@pytest.fixture
def always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter on problems of any size, in chunks of few classes."""
    monkeypatch.setattr(linear, "_FEW_CLASSES", 0)
    monkeypatch.setattr(candidates, "_DENSE", 1.0)
    monkeypatch.setattr(candidates, "_CHUNK_LOGITS", 400)


def assert_near(actual: Result, expected: Result, rtol: float) -> None:
    for name, value, wanted in zip(Result._fields, actual, expected, strict=True):
        value = value.to_dense() if value.is_sparse else value
        assert (value - wanted).norm() <= rtol * max(wanted.norm().item(), 1e-3), name


# --- every regime, in float64 ---


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", MARGIN_TYPES)
@pytest.mark.parametrize(
    ("alpha", "scale", "margin"),
    [(1, 32, 0.2), (1.05, 60, 0.1), (1.25, 10, 0.1), (1.25, 35, 0.2), (1.5, 10, 0.1), (1.75, 5, 0.1), (2, 5, 0.1)],
)
def test_dense_and_sparse_computation_are_the_definition(
    alpha: float,
    scale: float,
    margin: float,
    kind: MarginType,
    trained: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(12, 24, 1500, 1, 1, 0, trained=trained)))
    problem = (embedding.double(), prototypes.double(), target, alpha, scale, margin, kind)
    expected = oracle(*problem)
    monkeypatch.setattr(linear, "_FEW_CLASSES", 10**9)
    dense, dense_output = ours(*problem)
    assert_near(dense, expected, 1e-11)
    monkeypatch.setattr(linear, "_FEW_CLASSES", 0)
    monkeypatch.setattr(candidates, "_DENSE", 1.0)
    for chunk_logits in (2**19, 2000):
        monkeypatch.setattr(candidates, "_CHUNK_LOGITS", chunk_logits)
        for sparse_gradient in (False, True):
            sparse, output = ours(*problem, sparse_gradient=sparse_gradient)
            assert_near(sparse, expected, 1e-11)
            assert torch.equal(output.correct, dense_output.correct)
            if alpha == 1:
                assert output.sparsity is None
                continue
            assert sparse.prototype_gradient.is_sparse == sparse_gradient
            assert output.sparsity is not None and dense_output.sparsity is not None
            assert torch.equal(output.sparsity.support, dense_output.sparsity.support)
            assert (output.sparsity.candidates >= output.sparsity.support).all()
            assert (output.sparsity.candidates < 1500).any()
            assert (dense_output.sparsity.candidates == 1500).all()


def test_the_sparse_gradient_is_coalesced_and_has_the_support_and_no_more(always_sparse: None) -> None:
    embedding, prototypes, target = simulate(Case(8, 16, 300, 1, 1, 0, trained=True))
    result, output = ours(embedding, prototypes, target, 2.0, 5.0, 0.1, sparse_gradient=True)
    gradient = result.prototype_gradient
    assert gradient.is_coalesced()
    (rows,) = gradient.indices()
    assert (rows.diff() > 0).all()
    assert output.sparsity is not None
    assert 0 < len(rows) <= output.sparsity.support.sum() + 8
    assert torch.equal(gradient.to_dense(), ours(embedding, prototypes, target, 2.0, 5.0, 0.1)[0].prototype_gradient)


def test_a_wide_support_is_computed_densely_and_a_narrow_one_not() -> None:
    embedding, prototypes, target = simulate(Case(32, 128, 6000, 1, 1, 0, trained=False))
    wide = alpha_margin_linear(embedding, prototypes, target, 1.25, 5.0, 0.1).sparsity
    narrow = alpha_margin_linear(embedding, prototypes, target, 1.5, 20.0, 0.1).sparsity
    assert wide is not None and narrow is not None
    assert (wide.candidates == 6000).all()
    assert wide.support.mean() > 600
    assert (narrow.candidates < 600).all()


# --- properties ---


def odd_problem(seed: int, batch: int, num_classes: int, dim: int, oddity: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    target = torch.randint(num_classes, (batch,), generator=generator)
    if oddity == "duplicates":
        prototypes = prototypes[torch.randint(max(1, num_classes // 3), (num_classes,), generator=generator)]
    elif oddity == "ties":
        prototypes = prototypes.sign()
        embedding = embedding.sign()
    elif oddity == "zero rows":
        prototypes[::3] = 0
        embedding[::2] = 0
    elif oddity == "all equal":
        prototypes[:] = prototypes[0]
    elif oddity == "on target":
        embedding = 3 * prototypes[target]
    elif oddity == "opposite":
        embedding = -prototypes[target]
    elif oddity == "norms":
        prototypes *= torch.logspace(-6, 6, num_classes, dtype=torch.float64)[:, None]
    return embedding, prototypes, target


ODDITIES = ["none", "duplicates", "ties", "zero rows", "all equal", "on target", "opposite", "norms"]


@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 6),
    num_classes=st.integers(1, 70),
    dim=st.integers(1, 9),
    alpha=st.floats(1.001, 2) | st.sampled_from([1.25, 1.5, 2.0]),
    scale=st.floats(0.5, 64),
    margin=st.floats(0, 0.5),
    kind=st.sampled_from(MARGIN_TYPES),
    oddity=st.sampled_from(ODDITIES),
)
@example(seed=0, batch=3, num_classes=1, dim=4, alpha=1.5, scale=10.0, margin=0.1, kind="reference", oddity="none")
@example(seed=0, batch=3, num_classes=2, dim=4, alpha=2.0, scale=10.0, margin=0.1, kind="angular", oddity="ties")
@example(seed=0, batch=5, num_classes=64, dim=1, alpha=2.0, scale=64.0, margin=0.5, kind="reference", oddity="ties")
@settings(max_examples=300, deadline=None, derandomize=True)
def test_properties(
    seed: int,
    batch: int,
    num_classes: int,
    dim: int,
    alpha: float,
    scale: float,
    margin: float,
    kind: MarginType,
    oddity: str,
) -> None:
    embedding, prototypes, target = odd_problem(seed, batch, num_classes, dim, oddity)
    problem = (embedding, prototypes, target, alpha, scale, margin, kind)
    expected = oracle(*problem)
    # At cos = +-1 exactly the clamp and the sine have no slope: round-off decides between one-sided values.
    smooth = oddity not in ("on target", "opposite", "ties", "all equal") and dim > 1
    size = 1 + scale * math.exp(scale * margin * (alpha - 1) if kind == "reference" else 0)
    for few_classes in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linear, "_FEW_CLASSES", few_classes)
            patch.setattr(candidates, "_DENSE", 1.0)
            patch.setattr(candidates, "_CHUNK_LOGITS", 100)
            actual, output = ours(*problem)
            in_float32, _ = ours(embedding.float(), prototypes.float(), *problem[2:])
        assert output.sparsity is not None
        assert (actual.loss >= 0).all() and (in_float32.loss >= 0).all()
        # Near cos = +-1 the sine of the angular margin turns an error e of the cosine into one of sqrt(e).
        rough = kind != "reference" and not smooth
        assert (actual.loss - expected.loss).abs().max() <= (1e-7 if rough else 1e-9) * size
        assert (in_float32.loss - expected.loss).abs().max() <= (1e-3 if rough else 1e-5) * size
        assert all(value.isfinite().all() for value in (*actual, *in_float32))
        solved = output.sparsity.target_posterior == 1
        assert (actual.loss[solved] <= 1e-12 * size).all()
        if num_classes == 1:
            assert (actual.loss == 0).all()
        if smooth:
            norms = embedding.norm(dim=1, keepdim=True).clamp(min=1e-3)
            error = ((actual.embedding_gradient - expected.embedding_gradient) * norms).abs().max()
            assert error <= 1e-6 * (1 + scale)  # p = [.]^(1/a) has an infinite slope in a root where a > 1/2


# --- float32 and below ---


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", ["reference", "angular"])
@pytest.mark.parametrize(
    ("alpha", "scale", "margin"), [(1, 32, 0.2), (1.25, 10, 0.1), (1.25, 35, 0.2), (1.5, 10, 0.1), (1.75, 5, 0.1)]
)
def test_float32_gradients_have_an_error_below_2e_6(
    alpha: float, scale: float, margin: float, kind: MarginType, trained: bool
) -> None:
    embedding, prototypes, target = simulate(Case(128, 256, 3000, 1, 1, 0, trained=trained))
    problem = (embedding, prototypes, target, alpha, scale, margin, kind)
    expected, (actual, _) = oracle(*problem), ours(*problem)
    assert actual.loss.dtype == torch.float32
    # With an angular margin nearly all of these trained samples are solved; the few gradients left are nearly zero.
    bound = 4e-6 if trained and kind == "angular" else 2e-6
    for value, wanted in zip(actual[1:], expected[1:], strict=True):
        assert (value - wanted).norm() / wanted.norm() < bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("alpha", "scale", "margin"), [(1.25, 35, 0.2), (1.5, 10, 0.1), (1.75, 5, 0.1), (2, 5, 0.1)])
def test_under_autocast_only_the_filter_is_coarse(
    alpha: float, scale: float, margin: float, trained: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_DENSE", 1.0)
    embedding, prototypes, target = simulate(Case(32, 64, 3000, 1, 1, 0, trained=trained))
    problem = (embedding, prototypes, target, alpha, scale, margin)
    fine, fine_output = ours(*problem)
    with torch.autocast("cpu", dtype):
        coarse, output = ours(*problem)
    assert fine_output.sparsity is not None and output.sparsity is not None
    assert torch.equal(output.sparsity.support, fine_output.sparsity.support)
    assert (output.sparsity.candidates >= fine_output.sparsity.candidates - 2).all()
    assert output.sparsity.candidates.sum() > fine_output.sparsity.candidates.sum()
    assert (output.sparsity.candidates < 3000).all()
    assert torch.equal(output.correct, fine_output.correct)
    assert coarse.loss.dtype == torch.float32
    for value, wanted in zip(coarse, fine, strict=True):
        assert (value - wanted).norm() / wanted.norm() < 4e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_allowance_for_low_precision_holds(dtype: torch.dtype) -> None:
    """The worst that is constructed: all components lie half-way between two numbers of the type."""
    dim = 64
    eps = torch.finfo(dtype).eps
    rows = torch.full((200, dim), 1 / 8)
    rows[:, ::2] *= 1 + eps / 2 * 0.999
    rows *= 2 * torch.randint(2, (200, dim)) - 1
    exact = F.normalize(rows.double()) @ F.normalize(rows.double()).T
    low = F.normalize(rows).to(dtype)
    error = ((low @ low.T).double() - exact).abs().max().item()
    problem = candidates.Problem(rows, rows, rows[:, 0], 1.0, 0.5, rows[:, 0], rows[:, :1], rows[:, :1], dtype)
    assert 0 < error <= candidates._roundoff(problem)


# --- odd input ---


@pytest.mark.parametrize("alpha", [1.0, 1.5, 1.75])
def test_nan(alpha: float, always_sparse: None) -> None:
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(8, 16, 300, 1, 1, 0, trained=False)))
    good = ours(embedding, prototypes, target, alpha, 10.0, 0.1)[0].loss
    embedding[3, 0] = math.nan
    loss = ours(embedding, prototypes, target, alpha, 10.0, 0.1)[0].loss
    assert loss.isnan().nonzero().tolist() == [[3]]
    torch.testing.assert_close(loss[:3], good[:3])
    embedding[3, 0] = 0
    prototypes[299, 1] = math.nan
    assert ours(embedding, prototypes, target, alpha, 10.0, 0.1)[0].loss.isnan().all()


def test_solved_and_dropped_samples(always_sparse: None) -> None:
    prototypes = torch.eye(50)
    embedding = torch.stack([prototypes[0], prototypes[1], 1.001 * prototypes[2] + prototypes[3]])
    target = torch.tensor([0, 7, 2])
    result, output = ours(embedding, prototypes, target, 2.0, 10.0, 0.0)
    assert output.sparsity is not None
    assert output.sparsity.target_posterior.tolist() == pytest.approx([1.0, 0.0, 0.5], abs=0.01)
    assert output.sparsity.support.tolist() == [1, 1, 2]
    assert output.correct.tolist() == [True, False, True]
    assert result.loss[0] == 0
    assert (result.embedding_gradient[0] == 0).all()
    assert (result.prototype_gradient[0] == 0).all()
    assert result.prototype_gradient[7].norm() > 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"alpha": 2.5}, RecipeError, "alpha is 2.5"),
        ({"target": torch.tensor([0, 1, 5, -1])}, ValueError, r"2 targets such as \[5, -1\] are no class in 0 to 4"),
        ({"target": torch.tensor([0])}, ValueError, r"target has shape \(1,\), expected \(4,\)"),
        ({"embedding": torch.zeros(4, 2)}, ValueError, r"embedding has shape \(4, 2\), expected \(B, 3\)"),
        ({"prototypes": torch.zeros(0, 3)}, ValueError, "expected at least one"),
    ],
)
def test_wrong_input(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "embedding": torch.zeros(4, 3),
        "prototypes": torch.ones(5, 3),
        "target": torch.tensor([0, 1, 2, 3]),
        "alpha": 1.5,
        "scale": 10.0,
        "margin": 0.1,
    }
    with pytest.raises(error, match=message):
        alpha_margin_linear(**{**arguments, **change})  # type: ignore[arg-type]


def test_backward_twice_is_the_same_gradient(always_sparse: None) -> None:
    embedding, prototypes, target = simulate(Case(8, 16, 300, 1, 1, 0, trained=False))
    for alpha in (1.0, 1.5):
        loss = alpha_margin_linear(embedding, prototypes, target, alpha, 10.0, 0.1).loss.sum()
        first, second = (torch.autograd.grad(loss, prototypes, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)
