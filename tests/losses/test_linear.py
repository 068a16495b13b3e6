"""The loss from prototypes against the loss of dense float64 logits: in every regime, precision and odd case."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from wespeaker_qm.bench.cases import Case, simulate
from wespeaker_qm.losses import candidates, dispatch
from wespeaker_qm.losses.alpha import alpha_divergence_loss, alpha_softargmax, target_log_reference
from wespeaker_qm.losses.dispatch import Way
from wespeaker_qm.losses.linear import LinearLoss, alpha_margin_linear
from wespeaker_qm.losses.margins import MarginType, angular_margin
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.train.figures import batch_figures
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.reading import Reading

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


MODES = ["dense", "sparse", "chunks"]


def force(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    """One way for all sizes."""
    monkeypatch.setattr(dispatch, "WAYS", {"cpu": ((math.inf, way),)})


def compute(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Densely, with the filter, or with the filter in chunks of few classes, whatever the size."""
    force(monkeypatch, Way.DENSE if mode == "dense" else Way.FILTERED)
    monkeypatch.setattr(candidates, "_DENSE", 1.0)
    monkeypatch.setattr(dispatch, "CHUNK_LOGITS", {"cpu": 400 if mode == "chunks" else 2**19})


@pytest.fixture
def always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter on problems of any size, in chunks of few classes."""
    force(monkeypatch, Way.FILTERED)
    monkeypatch.setattr(candidates, "_DENSE", 1.0)
    monkeypatch.setattr(dispatch, "CHUNK_LOGITS", {"cpu": 400})


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
    force(monkeypatch, Way.DENSE)
    dense, dense_output = ours(*problem)
    assert_near(dense, expected, 1e-11)
    force(monkeypatch, Way.FILTERED)
    monkeypatch.setattr(candidates, "_DENSE", 1.0)
    for chunk_logits in (2**19, 2000):
        monkeypatch.setattr(dispatch, "CHUNK_LOGITS", {"cpu": chunk_logits})
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
        prototypes[:] = prototypes[0].clone()
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
@settings(max_examples=150, deadline=None, derandomize=True)
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
    assume((kind, oddity) != ("easy_angular", "ties"))  # the easy margin jumps at cosine 0, where some of them lie
    embedding, prototypes, target = odd_problem(seed, batch, num_classes, dim, oddity)
    problem = (embedding, prototypes, target, alpha, scale, margin, kind)
    expected = oracle(*problem)
    # At cos = +-1 exactly the clamp and the sine have no slope: round-off decides between one-sided values.
    smooth = oddity not in ("on target", "opposite", "ties", "all equal") and dim > 1
    size = 1 + scale * math.exp(scale * margin * (alpha - 1) if kind == "reference" else 0)
    # Where there is no GPU a kernel takes seconds in the interpreter: some of the examples are for all ways.
    for way in Way if seed % 10 == 0 else (Way.DENSE, Way.FILTERED):
        with pytest.MonkeyPatch.context() as patch:
            force(patch, way)
            patch.setattr(candidates, "_DENSE", 1.0)
            patch.setattr(dispatch, "CHUNK_LOGITS", {"cpu": 100})
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
    exact_logits, pairs = candidates._exact_logits, []
    monkeypatch.setattr(candidates, "_exact_logits", lambda *args: pairs.append(len(args[1])) or exact_logits(*args))
    with torch.autocast("cpu", dtype):
        coarse, output = ours(*problem)
    assert fine_output.sparsity is not None and output.sparsity is not None
    assert torch.equal(output.sparsity.support, fine_output.sparsity.support)
    assert (output.sparsity.candidates >= output.sparsity.support).all()
    # The likeliest first, then those that they leave a doubt about.
    assert len(pairs) == 2
    assert pairs[0] > 0
    assert sum(pairs) >= output.sparsity.candidates.sum() - 32
    assert (output.sparsity.candidates < 3000).all()
    assert torch.equal(output.correct, fine_output.correct)
    assert coarse.loss.dtype == torch.float32
    for value, wanted in zip(coarse, fine, strict=True):
        assert (value - wanted).norm() / wanted.norm() < 4e-6


# --- precision of products ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_products_are_float32_whatever_the_switches_say(
    alpha: float, mode: str, autocast: bool, products: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(mode, monkeypatch)
    problem = (*simulate(Case(8, 16, 300, 1, 1, 0, trained=False)), alpha, 10.0, 0.1)
    expected, _ = ours(*problem, sparse_gradient=True)
    with products, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actual, _ = ours(*problem, sparse_gradient=True)
    assert products.are_exact
    assert torch.get_float32_matmul_precision() == "highest"
    assert_near(actual, Result(*(value.to_dense() for value in expected)), 4e-6 if autocast else 0)


# --- norms ---

FACTORS = [1e20, 1e37, 1e-20, 1e-30, 1e-38, 1e-43]  # the last make numbers below the smallest normal one


def assert_near_by_rows(actual: Tensor, expected: Tensor, vectors: Tensor, tolerance: float) -> None:
    """Gradients go with 1 / norm: compare them at norm 1; where they overflow, they are finite all the same."""
    actual = actual.to_dense().double() if actual.is_sparse else actual.double()
    assert actual.isfinite().all()
    norm = vectors.detach().double().norm(dim=1, keepdim=True)
    largest = torch.finfo(torch.float32).max
    error = (actual - expected.clamp(-largest, largest)) * norm
    assert error.abs().max() <= tolerance * (expected * norm).abs().max()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["reference", "angular"])
@pytest.mark.parametrize("factor", [*FACTORS, "mixed"])
@pytest.mark.parametrize(("alpha", "scale", "margin"), [(1.0, 32.0, 0.2), (1.5, 10.0, 0.1), (1.7, 10.0, 0.1)])
def test_norms_play_no_part_over_the_whole_range_of_float32(
    alpha: float,
    scale: float,
    margin: float,
    factor: float | str,
    kind: MarginType,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute(mode, monkeypatch)
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(8, 16, 300, 1, 1, 0, trained=False)))
    for many in (embedding, prototypes):
        many.clamp_(-5, 5).mul_(1 / many.norm(dim=1, keepdim=True))
    exponents = torch.linspace(-43, 38, 300, dtype=torch.float64)
    of_prototypes = 10**exponents if factor == "mixed" else torch.full((300,), float(factor))
    of_embeddings = 10 ** exponents[torch.randperm(300)[:8]] if factor == "mixed" else of_prototypes[:8]
    prototypes[5] = embedding[5] = 0
    scaled = [
        ((embedding * of_embeddings[:, None]).float(), prototypes),
        (embedding, (prototypes * of_prototypes[:, None]).float()),
        ((embedding * of_embeddings[:, None]).float(), (prototypes * of_prototypes[:, None]).float()),
    ]
    for some_embeddings, some_prototypes in scaled:
        problem = (some_embeddings, some_prototypes, target, alpha, scale, margin, kind)
        expected = oracle(*problem)
        for sparse_gradient in (False, True):
            actual, output = ours(*problem, sparse_gradient=sparse_gradient)
            torch.testing.assert_close(actual.loss.double(), expected.loss, rtol=1e-5, atol=1e-5)
            assert_near_by_rows(actual.embedding_gradient, expected.embedding_gradient, some_embeddings, 1e-5)
            assert_near_by_rows(actual.prototype_gradient, expected.prototype_gradient, some_prototypes, 1e-5)
            assert (actual.embedding_gradient[5] == 0).all()
        wanted = (unit(some_embeddings.double()) @ unit(some_prototypes.double()).T).argmax(1) == target
        wanted[5] = True  # a tie of zeros
        assert torch.equal(output.correct, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_norms_of_half_precision_vectors(dtype: torch.dtype, factor: float, always_sparse: None) -> None:
    factor = factor if dtype == torch.bfloat16 else factor ** (1 / 10)
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(8, 16, 300, 1, 1, 0, trained=False)))
    embedding, prototypes = (factor * embedding).to(dtype), (factor * prototypes).to(dtype)
    problem = (embedding, prototypes, target, 1.5, 10.0, 0.1, "reference")
    actual, _ = ours(*problem)
    assert actual.loss.dtype == torch.float32
    torch.testing.assert_close(actual.loss.double(), oracle(*problem).loss, rtol=1e-5, atol=1e-5)
    assert actual.prototype_gradient.dtype == dtype
    assert actual.prototype_gradient.isfinite().all()


def test_norms_beyond_the_squares_of_float64(always_sparse: None) -> None:
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(8, 16, 300, 1, 1, 0, trained=False)))
    embedding, prototypes = embedding.double(), prototypes.double()
    expected = ours(embedding, prototypes, target, 1.5, 10.0, 0.1)[0]
    for factor in (1e250, 1e-250, 1e-300):
        actual = ours(factor * embedding, factor * prototypes, target, 1.5, 10.0, 0.1)[0]
        torch.testing.assert_close(actual.loss, expected.loss)
        torch.testing.assert_close(factor * actual.prototype_gradient, expected.prototype_gradient)
        torch.testing.assert_close(factor * actual.embedding_gradient, expected.embedding_gradient)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("others", [1.0, 1e30, 0.0])
def test_a_vector_that_is_not_finite_has_no_finite_loss(
    others: float, bad: float, alpha: float, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(mode, monkeypatch)
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(8, 16, 300, 1, 1, 0, trained=False)))
    good = ours(embedding, prototypes, target, alpha, 10.0, 0.1)[0].loss
    spoilt = embedding.clone()
    spoilt[3] *= others
    spoilt[3, 2] = bad
    loss = ours(spoilt, prototypes, target, alpha, 10.0, 0.1)[0].loss
    assert loss.isnan().nonzero().tolist() == [[3]]
    torch.testing.assert_close(loss[:3], good[:3])
    prototypes[7] *= others
    prototypes[7, 2] = bad
    output = ours(embedding, prototypes, target, alpha, 10.0, 0.1)[1]
    assert output.loss.isnan().all()
    assert not output.correct.any()
    assert output.sparsity is None or output.sparsity.target_posterior.isnan().all()


# --- solved, dropped, and how many are in the support ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("alpha", "scale", "margin"),
    [(1.05, 35, 0.1), (1.01, 64, 0.2), (1.25, 35, 0.2), (1.5, 10, 0.1), (1.7, 10, 0.0), (2, 5, 0.1), (2, 10, 0)],
)
@pytest.mark.parametrize("kind", ["reference", "angular"])
@pytest.mark.parametrize("trained", [False, True])
def test_solved_and_dropped_are_what_the_threshold_says(
    alpha: float,
    scale: float,
    margin: float,
    trained: bool,
    kind: MarginType,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sample is solved where its cosine leads by exp(a s m) / (a s); a class is in the support above tau - 1 / a."""
    compute(mode, monkeypatch)
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(256, 64, 400, 1, 1, 0, trained=trained)))
    output = alpha_margin_linear(embedding, prototypes, target, alpha, scale, margin, margin_type=kind)
    cosine = unit(embedding.double()) @ unit(prototypes.double()).T
    index = target[:, None]
    log_q = -scale * margin
    if kind == "angular":
        cosine = cosine.scatter(1, index, angular_margin(cosine.gather(1, index), margin))
        log_q = 0.0
    lead = cosine.gather(1, index)[:, 0] - cosine.scatter(1, index, -1.0).amax(1)
    a = alpha - 1
    is_solved = lead >= math.exp(-a * log_q) / (a * scale)
    posterior = alpha_softargmax(scale * cosine, alpha, target_log_reference(cosine, target, log_q))
    sparsity = output.sparsity
    assert sparsity is not None
    assert torch.equal(sparsity.target_posterior == 1, is_solved)
    assert torch.equal(sparsity.target_posterior == 0, posterior.gather(1, index)[:, 0] == 0)
    support = (posterior > 0).sum(1)
    assert (sparsity.support - support).abs().max() <= 1  # a class on the threshold
    assert (sparsity.support != support).float().mean() < 0.02
    assert torch.equal((sparsity.support == 1) & (sparsity.target_posterior > 0), is_solved)
    assert (output.loss[is_solved] == 0).all()
    figures = Reading(batch_figures(output, 400)).values()
    assert figures["solved"] == is_solved.double().mean()
    assert figures["dropped"] == (sparsity.target_posterior == 0).double().mean()


def test_nearly_solved_is_not_solved() -> None:
    """Another class holds a thousandth to the power of 20, which float32 does not know; a little further it is out."""
    lead = torch.tensor([0.999, 1.001]) / (0.05 * 25)
    angle = torch.acos(lead / math.sqrt(2)) - math.pi / 4  # from class 0 on the way to class 1
    embedding = torch.stack([angle.cos(), angle.sin(), torch.zeros(2)], 1)
    embedding = torch.cat([embedding, embedding[:1, [1, 0, 2]]])
    sparsity = alpha_margin_linear(embedding, torch.eye(3), torch.tensor([0, 0, 0]), 1.05, 25.0, 0.0).sparsity
    assert sparsity is not None
    assert sparsity.support.tolist() == [2, 1, 2]
    assert sparsity.target_posterior[0] == 1 - 2**-24
    assert sparsity.target_posterior[1] == 1
    assert 0 < sparsity.target_posterior[2] < 1e-37


# --- ties ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 1.25, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tie_is_correct_however_it_is_computed(
    dtype: torch.dtype, alpha: float, autocast: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every prototype three times, at other norms; embeddings near their class's, near another's, all equal, zero."""
    compute(mode, monkeypatch)
    directions = torch.randn(100, 37, dtype=dtype)
    prototypes = torch.cat([directions, 3 * directions, 0.7 * directions])
    target = torch.arange(300)
    near_own = prototypes + 0.3 * torch.randn(300, 37, dtype=dtype)
    near_another = prototypes.roll(1, 0) + 0.3 * torch.randn(300, 37, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for embedding, correct in ((near_own, True), (near_another, False), (0 * near_own, True)):
            output = alpha_margin_linear(embedding, prototypes, target, alpha, 10.0, 0.1)
            assert (output.correct == correct).all()
        equal = alpha_margin_linear(near_own, directions[:1].expand(300, -1), target, alpha, 10.0, 0.1)
        assert equal.correct.all()


# --- odd input ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MARGIN_TYPES)
@pytest.mark.parametrize("num_classes", [1, 2, 300, 2000])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_an_empty_batch(
    alpha: float, num_classes: int, kind: MarginType, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(mode, monkeypatch)
    target = torch.zeros(0, dtype=torch.long)
    result, output = ours(torch.zeros(0, 8), torch.randn(num_classes, 8), target, alpha, 10.0, 0.1, kind)
    assert result.loss.shape == output.correct.shape == (0,)
    assert output.sparsity is None or all(figure.shape == (0,) for figure in output.sparsity)
    assert result.embedding_gradient.shape == (0, 8)
    assert torch.equal(result.prototype_gradient, torch.zeros(num_classes, 8))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MARGIN_TYPES)
@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_without_gradients(
    context: type[torch.no_grad], alpha: float, kind: MarginType, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(mode, monkeypatch)
    embedding, prototypes, target = simulate(Case(8, 16, 300, 1, 1, 0, trained=True))
    expected = alpha_margin_linear(embedding, prototypes, target, alpha, 10.0, 0.1, margin_type=kind)
    with context():
        output = alpha_margin_linear(2 * embedding, prototypes, target, alpha, 10.0, 0.1, margin_type=kind)
    assert not output.loss.requires_grad
    torch.testing.assert_close(output.loss, expected.loss.detach())
    assert torch.equal(output.correct, expected.correct)


@pytest.mark.parametrize("mode", MODES)
def test_vectors_of_any_layout_and_type(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compute(mode, monkeypatch)
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(8, 16, 300, 1, 1, 0, trained=False)))
    settings = (1.5, 10.0, 0.1)
    expected = ours(embedding, prototypes, target, *settings)[0]
    across = prototypes.T.contiguous().T
    strided = torch.stack([embedding, embedding], 2).flatten(1)[:, ::2]
    assert not across.is_contiguous() and not strided.is_contiguous()
    for sparse_gradient in (False, True):
        assert_near(ours(strided, across, target, *settings, sparse_gradient=sparse_gradient)[0], expected, 2e-6)
    one = embedding[:1].expand(8, -1)
    assert_near(ours(one, prototypes, target, *settings)[0], ours(one.clone(), prototypes, target, *settings)[0], 0)
    for target_type in (torch.int32, torch.int16):
        assert_near(ours(embedding, prototypes, target.to(target_type), *settings)[0], expected, 0)
    mixed = ours(embedding, prototypes.double(), target, *settings)[0]
    assert (mixed.loss.dtype, mixed.embedding_gradient.dtype) == (torch.float64, torch.float32)
    assert_near(mixed, expected, 2e-6)
    rounded = prototypes.bfloat16()
    mixed = ours(embedding, rounded, target, *settings)[0]
    assert (mixed.loss.dtype, mixed.prototype_gradient.dtype) == (torch.float32, torch.bfloat16)
    assert_near(mixed, ours(embedding, rounded.float(), target, *settings)[0], 1e-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_one_input_alone_may_want_a_gradient(alpha: float, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compute(mode, monkeypatch)
    embedding, prototypes, target = simulate(Case(8, 16, 300, 1, 1, 0, trained=False))
    expected = ours(embedding, prototypes, target, alpha, 10.0, 0.1)[0]
    for leaves, wanted in (
        ((embedding, prototypes.detach()), expected.embedding_gradient),
        ((embedding.detach(), prototypes), expected.prototype_gradient),
    ):
        loss = alpha_margin_linear(*leaves, target, alpha, 10.0, 0.1).loss
        (leaf,) = (leaf for leaf in leaves if leaf.requires_grad)
        weighted = (loss * upstream(loss)).sum()
        for _ in range(2):  # and again through the same graph
            (gradient,) = torch.autograd.grad(weighted, leaf, retain_graph=True)
            assert torch.equal(gradient, wanted)


def test_a_second_derivative_is_refused() -> None:
    embedding, prototypes, target = simulate(Case(8, 16, 300, 1, 1, 0, trained=False))
    loss = alpha_margin_linear(embedding, prototypes, target, 1.5, 10.0, 0.1).loss.sum()
    with pytest.raises(RuntimeError, match=r"create_graph=True, .* first derivatives only"):
        torch.autograd.grad(loss, embedding, create_graph=True)


def test_the_sparse_gradient_arrives_coalesced(always_sparse: None) -> None:
    embedding, prototypes, target = simulate(Case(8, 16, 300, 1, 1, 0, trained=True))
    whole = ours(embedding, prototypes, target, 1.5, 10.0, 0.1)[0].prototype_gradient
    for times in (1, 2):  # the second is added to the first
        loss = alpha_margin_linear(embedding, prototypes, target, 1.5, 10.0, 0.1, sparse_gradient=True).loss
        (loss * upstream(loss)).sum().backward()
        assert prototypes.grad is not None and prototypes.grad.is_coalesced()
        torch.testing.assert_close(prototypes.grad.to_dense(), times * whole)


@pytest.mark.parametrize("mode", MODES)
def test_deterministic_algorithms(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compute(mode, monkeypatch)
    problem = (*simulate(Case(8, 16, 300, 1, 1, 0, trained=False)), 1.5, 10.0, 0.1)
    expected = ours(*problem)[0]
    torch.use_deterministic_algorithms(True)
    try:
        actual = ours(*problem)[0]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [1.0, 1 + 1e-12, 1.0000001, 1.001, 1.3, 2.0])
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 64.0, 1e6])
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0])
def test_extreme_settings(
    alpha: float, scale: float, margin: float, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right, or refused."""
    compute(mode, monkeypatch)
    embedding, prototypes, target = (leaf.detach() for leaf in simulate(Case(8, 16, 300, 1, 1, 0, trained=True)))
    problem = (embedding.double(), prototypes.double(), target, alpha, scale, margin)
    if (alpha - 1) * scale * margin > 64:
        with pytest.raises(RecipeError, match=r"scale margin is .*, expected at most 64: .* exponential"):
            ours(*problem)
        return
    expected = oracle(*problem, "reference")
    assert_near(ours(*problem)[0], expected, 1e-7)
    in_float32 = ours(embedding, prototypes, *problem[2:])[0]
    torch.testing.assert_close(in_float32.loss.double(), expected.loss, rtol=1e-5, atol=3e-6 * max(1.0, scale))
    assert all(value.isfinite().all() for value in in_float32)


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
        ({"alpha": math.nan}, RecipeError, "alpha is nan"),
        ({"scale": 0.0}, RecipeError, "scale is 0.0, expected a number above 0"),
        ({"scale": math.nan}, RecipeError, "scale is nan"),
        ({"scale": math.inf}, RecipeError, "scale is inf"),
        ({"margin": -0.1}, RecipeError, "margin is -0.1, expected a number of at least 0"),
        ({"margin": math.nan}, RecipeError, "margin is nan"),
        ({"margin": math.inf}, RecipeError, "margin is inf"),
        ({"margin": 3.2, "margin_type": "angular"}, RecipeError, "margin is 3.2, expected an angle .* at most 3.14159"),
        ({"margin_type": "arc"}, RecipeError, "margin_type is 'arc', expected one of reference, angular, easy_angular"),
        ({"alpha": 2.0, "scale": 64.0, "margin": 1.1}, RecipeError, "scale margin is 70.4, expected at most 64"),
        ({"target": torch.tensor([0.0, 1, 2, 3])}, ValueError, "target has type torch.float32, expected integers"),
        ({"target": torch.ones(4, dtype=torch.bool)}, ValueError, "target has type torch.bool, expected integers"),
        ({"target": torch.tensor([0, 1, 2, 255]).to(torch.uint8)}, ValueError, r"1 targets such as \[255\]"),
        ({"target": torch.tensor([0, 1, 5, -1])}, ValueError, r"2 targets such as \[5, -1\] are no class in 0 to 4"),
        ({"target": torch.tensor([0])}, ValueError, r"target has shape \(1,\), expected \(4,\)"),
        ({"embedding": torch.zeros(4, 2)}, ValueError, r"embedding has shape \(4, 2\), expected \(B, 3\)"),
        ({"prototypes": torch.zeros(0, 3)}, ValueError, "expected at least one"),
        ({"prototypes": torch.zeros(5)}, ValueError, r"prototypes have shape \(5,\), expected \(C, D\)"),
        ({"partition": ClassPartition(7)}, ValueError, r"prototypes have shape \(5, 3\), expected \(C, D\)"),
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
