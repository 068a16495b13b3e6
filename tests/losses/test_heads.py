"""The heads against WeSpeaker's numbers, plain cross-entropy and the functional core."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wespeaker_qm.config.notes import zero_loss_gap
from wespeaker_qm.losses import heads
from wespeaker_qm.losses.alpha import alpha_divergence_loss
from wespeaker_qm.losses.heads import (
    AngularMarginHead,
    CosineHead,
    QMarginHead,
    reinitialised_prototypes,
)
from wespeaker_qm.losses.margins import angular_margin, angular_slope
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.utils.errors import RecipeError

ORACLE = Path(__file__).parents[1] / "oracles_data" / "arc_margin.npz"  # WeSpeaker dfa7419, ArcMarginProduct
ORACLE_SCALE = 32.0

HEADS: dict[str, Callable[..., CosineHead]] = {
    "cosface": lambda *sizes: QMarginHead(*sizes, scale=32.0),
    "q_margin": lambda *sizes: QMarginHead(*sizes, scale=10.0, alpha=1.5),
    "arcface": lambda *sizes: AngularMarginHead(*sizes, scale=32.0),
    "arcface_easy": lambda *sizes: AngularMarginHead(*sizes, scale=32.0, easy_margin=True),
    "a3m": lambda *sizes: AngularMarginHead(*sizes, scale=5.0, alpha=1.75),
    "sparsemax": lambda *sizes: AngularMarginHead(*sizes, scale=5.0, alpha=2.0),
}
every_head = pytest.mark.parametrize("make_head", HEADS.values(), ids=HEADS.keys())


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Twelve embeddings of 16 dimensions, and targets among 7 classes."""
    torch.manual_seed(0)
    return torch.randn(12, 16), torch.randint(7, (12,))


def cosine_similarity(embedding: Tensor, prototypes: Tensor) -> Tensor:
    return (F.normalize(embedding) @ F.normalize(prototypes).T).clamp(-1, 1)


def with_prototypes(head: CosineHead, prototypes: Tensor) -> CosineHead:
    head.weight.data = prototypes.clone()
    return head


def gradients(head: CosineHead, embedding: Tensor, target: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    embedding = embedding.clone().requires_grad_()
    loss = head(embedding, target, margin).loss
    return (loss, *torch.autograd.grad(loss.mean(), (embedding, head.weight)))


# --- WeSpeaker ---


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.2, 0.5])
def test_arcface_is_wespeakers(margin: float, easy_margin: bool) -> None:
    oracle = np.load(ORACLE)
    embedding, weight, target = (torch.from_numpy(oracle[name]) for name in ("emb", "weight", "labels"))
    suffix = f"m{margin}_easy{int(easy_margin)}"
    head = AngularMarginHead(16, 5, scale=ORACLE_SCALE, easy_margin=easy_margin)
    output = with_prototypes(head, weight)(embedding, target, margin)
    assert output.loss.mean().item() == pytest.approx(oracle[f"loss_{suffix}"].item(), rel=1e-6)

    index = target[:, None]
    cosine = cosine_similarity(embedding, weight)
    penalised = angular_margin(cosine.gather(1, index), margin, easy_margin=easy_margin)
    logits = ORACLE_SCALE * cosine.scatter(1, index, penalised)
    torch.testing.assert_close(logits, torch.from_numpy(oracle[f"logits_{suffix}"]), rtol=0, atol=1e-5)


# --- each head is its formula ---


def test_cosface_is_cross_entropy_of_penalised_cosines(batch: tuple[Tensor, Tensor]) -> None:
    embedding, target = batch
    head = QMarginHead(16, 7, scale=32.0)
    loss = head(embedding, target, 0.2).loss
    cosine = F.linear(F.normalize(embedding), F.normalize(head.weight))
    onehot = F.one_hot(target, 7)
    textbook = F.cross_entropy(32 * (cosine - 0.2 * onehot), target, reduction="none")
    torch.testing.assert_close(loss, textbook, rtol=1e-5, atol=1e-5)


def test_softmax_is_cosface_without_margin(batch: tuple[Tensor, Tensor]) -> None:
    embedding, target = batch
    head = QMarginHead(16, 7, scale=32.0)
    logits = 32 * cosine_similarity(embedding, head.weight)
    expected = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(head(embedding, target, 0.0).loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 1.25, 1.75, 2.0])
def test_q_margin_is_the_loss_with_a_lighter_target(alpha: float, batch: tuple[Tensor, Tensor]) -> None:
    embedding, target = batch
    head = QMarginHead(16, 7, scale=10.0, alpha=alpha)
    logits = 10 * cosine_similarity(embedding, head.weight)
    log_reference = torch.log(torch.where(F.one_hot(target, 7) == 1, math.exp(-10 * 0.3), 1.0))
    expected = alpha_divergence_loss(logits, target, alpha, log_reference).loss
    torch.testing.assert_close(head(embedding, target, 0.3).loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 1.25, 1.75, 2.0])
def test_angular_head_is_the_loss_of_a_wider_angle(alpha: float, batch: tuple[Tensor, Tensor]) -> None:
    embedding, target = (batch[0].double(), batch[1])
    head = AngularMarginHead(16, 7, scale=10.0, alpha=alpha).double()
    angle = cosine_similarity(embedding, head.weight).acos() + 0.1 * F.one_hot(target, 7).double()
    expected = alpha_divergence_loss(10 * angle.cos(), target, alpha).loss
    torch.testing.assert_close(head(embedding, target, 0.1).loss, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_without_margin_both_heads_are_one(alpha: float, batch: tuple[Tensor, Tensor]) -> None:
    q_margin, angular = (kind(16, 7, scale=10.0, alpha=alpha) for kind in (QMarginHead, AngularMarginHead))
    with_prototypes(angular, q_margin.weight.data)
    assert torch.equal(q_margin(*batch, 0.0).loss, angular(*batch, 0.0).loss)


@every_head
def test_gradcheck(make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]) -> None:
    head = make_head(16, 7).double()
    embedding, target = batch[0][:3].double().requires_grad_(), batch[1][:3]

    def loss(embedding: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": weight}, (embedding, target, 0.15)).loss

    assert torch.autograd.gradcheck(loss, (embedding, head.weight))


# --- what every head promises ---


@every_head
def test_prototypes_are_the_only_state(make_head: Callable[..., CosineHead]) -> None:
    head = make_head(16, 7)
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {"weight": (7, 16)}
    bound = math.sqrt(6 / (7 + 16))
    assert 0.8 * bound < head.weight.abs().max() <= bound


@pytest.mark.parametrize("sizes", [(16, 7), (10, 100), (256, 3000)])
def test_prototypes_start_as_xavier_uniform(sizes: tuple[int, int]) -> None:
    torch.manual_seed(3)
    expected = torch.nn.init.xavier_uniform_(torch.empty(sizes[1], sizes[0]))
    torch.manual_seed(3)
    assert torch.equal(QMarginHead(*sizes, scale=10.0).weight, expected)


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("block_rows", [1, 4, 1000])
def test_parts_start_as_rows_of_the_undivided_head_without_drawing_it_at_once(
    world_size: int, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = AngularMarginHead(5, 23, scale=10.0).weight
    monkeypatch.setattr(heads, "_BLOCK_ROWS", block_rows)
    sizes = []

    def empty(*size: int) -> Tensor:
        sizes.append(size[0])
        return torch.zeros(size)

    monkeypatch.setattr(torch, "empty", empty)
    parts = []
    for rank in range(world_size):
        torch.manual_seed(0)
        head = AngularMarginHead(5, 23, scale=10.0, partition=ClassPartition(23, rank, world_size))
        parts.append(head.weight)
        after = torch.rand(1)
    assert torch.equal(torch.cat(parts), expected)
    assert max(sizes) <= max(-(-23 // world_size), min(block_rows, 23))
    torch.manual_seed(0)
    torch.rand(23 * 5)
    assert torch.equal(after, torch.rand(1)), "the generator goes on as after the undivided head"


@every_head
def test_the_loss_is_computed_with_the_heads_partition(
    make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]
) -> None:
    head = make_head(16, 7)
    head.partition = ClassPartition(14, 0, 2)  # its seven classes are the first of 14
    with pytest.raises(ValueError, match=r"12 targets such as .* are no class in 0 to 13"):
        head(batch[0], batch[1] + 14, 0.1)


@every_head
def test_accuracy_is_of_unpenalised_cosines(make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]) -> None:
    head = make_head(16, 7)
    embedding = torch.cat([batch[0], head.weight.detach()])
    target = torch.cat([batch[1], torch.arange(7)])
    output = head(embedding, target, 0.2)
    assert not output.correct.requires_grad
    assert output.loss.shape == (19,)
    nearest = F.cosine_similarity(embedding[:, None], head.weight[None], dim=2).argmax(1)
    assert torch.equal(output.correct, nearest == target)
    assert 7 < output.correct.sum() < 19


@every_head
def test_norms_do_not_matter(make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]) -> None:
    embedding, target = batch
    head = make_head(16, 7)
    expected = head(embedding, target, 0.2).loss
    head.weight.data *= torch.logspace(-3, 3, 7)[:, None]
    torch.testing.assert_close(head(1e3 * embedding, target, 0.2).loss, expected, rtol=1e-4, atol=1e-4)


@every_head
def test_a_larger_margin_never_lowers_the_loss(
    make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]
) -> None:
    head = make_head(16, 7)
    losses = torch.stack([head(*batch, margin).loss for margin in (0.0, 0.1, 0.2, 0.3)])
    assert (losses.diff(dim=0) >= -1e-6).all()


@every_head
def test_autocast_changes_nothing(make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]) -> None:
    head = make_head(16, 7)
    expected = gradients(head, *batch, 0.2)
    embedding = batch[0].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head(embedding, batch[1], 0.2).loss
    actual = (loss, *torch.autograd.grad(loss.mean(), (embedding, head.weight)))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@every_head
def test_half_precision_embeddings(make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]) -> None:
    """What a network under autocast hands over."""
    head = make_head(16, 7)
    embedding, target = batch[0].bfloat16(), batch[1]
    loss, embedding_gradient, _ = gradients(head, embedding, target, 0.2)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, head(embedding.float(), target, 0.2).loss)
    assert embedding_gradient.dtype == torch.bfloat16


@every_head
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_embeddings_on_their_prototypes(make_head: Callable[..., CosineHead], sign: float, margin: float) -> None:
    """cos = +-1, where WeSpeaker's ArcFace gives NaN gradients; in float32 some of these cosines come out beyond it."""
    torch.manual_seed(0)
    prototypes = torch.randn(200, 64)
    head = with_prototypes(make_head(64, 200), prototypes)
    raw = F.normalize(prototypes) @ F.normalize(prototypes).T
    assert (raw.diagonal() > 1).any()
    embedding = torch.cat(
        [sign * prototypes, 3 * sign * prototypes, sign * prototypes * (1 + 1e-4 * torch.randn(200, 64))]
    )
    target = torch.arange(200).repeat(3)
    loss, embedding_gradient, weight_gradient = gradients(head, embedding, target, margin)
    assert loss.isfinite().all()
    assert embedding_gradient.isfinite().all()
    assert weight_gradient.isfinite().all()
    assert embedding_gradient.abs().max() < 1


@every_head
def test_zero_vectors_have_cosine_zero_and_no_gradient(
    make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]
) -> None:
    embedding, target = batch
    embedding = embedding.clone()
    embedding[2] = 0
    head = make_head(16, 7)
    head.weight.data[4] = 0
    loss, embedding_gradient, weight_gradient = gradients(head, embedding, target, 0.2)
    assert loss.isfinite().all()
    assert (embedding_gradient[2] == 0).all()
    assert (weight_gradient[4] == 0).all()
    assert embedding_gradient.abs().max() < 100


@every_head
def test_a_nan_embedding_spoils_its_own_loss_only(
    make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]
) -> None:
    embedding, target = batch
    head = make_head(16, 7)
    expected = head(embedding, target, 0.2).loss
    embedding = embedding.clone()
    embedding[5, 0] = math.nan
    loss = head(embedding, target, 0.2).loss
    assert loss.isnan().nonzero().tolist() == [[5]]
    good = torch.arange(12) != 5
    torch.testing.assert_close(loss[good], expected[good])


@pytest.mark.parametrize("head", [QMarginHead, AngularMarginHead])
def test_alpha_out_of_range(head: type[CosineHead]) -> None:
    with pytest.raises(RecipeError, match=r"alpha is 2.5, expected a number in \[1, 2\]"):
        head(16, 7, scale=10.0, alpha=2.5)


def test_printed_form() -> None:
    assert str(QMarginHead(16, 7, scale=10.0, alpha=1.5)) == (
        "QMarginHead(embed_dim=16, num_classes=7, scale=10.0, alpha=1.5, margin_type=reference)"
    )
    assert str(AngularMarginHead(16, 7, scale=32.0)) == (
        "AngularMarginHead(embed_dim=16, num_classes=7, scale=32.0, alpha=1.0, margin_type=angular)"
    )


@every_head
def test_a_few_embeddings_are_learnt(make_head: Callable[..., CosineHead], batch: tuple[Tensor, Tensor]) -> None:
    embedding, target = batch
    head = make_head(16, 7)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    first = head(embedding, target, 0.1).loss.mean().item()
    for _ in range(200):
        optimiser.zero_grad()
        loss = head(embedding, target, 0.1).loss.mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * first
    assert head(embedding, target, 0.0).correct.float().mean() > 0.9


# --- the angular margin ---


@given(cosine=st.floats(-1, 1), margin=st.floats(0, math.pi))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_angular_margin(cosine: float, margin: float) -> None:
    """The definition up to pi, then linear; never above the unpenalised cosine."""
    penalised = angular_margin(torch.tensor(cosine, dtype=torch.float64), margin).item()
    angle = math.acos(cosine) + margin
    if abs(angle - math.pi) > 1e-6:
        expected = math.cos(angle) if angle < math.pi else cosine - (1 - math.cos(margin))
        assert penalised == pytest.approx(expected, abs=1e-9)
    assert penalised <= cosine + 1e-12


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.5])
def test_angular_margin_rises_with_the_cosine_without_a_jump(margin: float) -> None:
    cosine = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    steps = angular_margin(cosine, margin).diff()
    assert (steps > 0).all() or margin > 1  # beyond pi/3 the line and the curve may meet at different slopes
    assert steps.abs().max() < 0.02


def test_easy_margin_penalises_the_near_half_only() -> None:
    cosine = torch.tensor([-0.9, -0.1, 0.0, 0.1, 0.9])
    penalised = angular_margin(cosine, 0.2, easy_margin=True)
    assert torch.equal(penalised[:3], cosine[:3])
    torch.testing.assert_close(penalised[3:], (cosine[3:].acos() + 0.2).cos())


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_angular_margin_at_the_ends(margin: float) -> None:
    cosine = torch.tensor([-1.0, 1.0], requires_grad=True)
    penalised = angular_margin(cosine, margin)
    torch.testing.assert_close(penalised.detach(), torch.tensor([math.cos(margin) - 2, math.cos(margin)]))
    (gradient,) = torch.autograd.grad(penalised.sum(), cosine)
    torch.testing.assert_close(gradient, torch.tensor([1.0, math.cos(margin)]))


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.5, math.pi])
def test_the_slope_is_the_derivative(margin: float, easy_margin: bool) -> None:
    cosine = torch.linspace(-1, 1, 4001, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(angular_margin(cosine, margin, easy_margin=easy_margin).sum(), cosine)
    torch.testing.assert_close(angular_slope(cosine.detach(), margin, easy_margin=easy_margin), expected)


# --- the gap at which a sample is solved ---


@pytest.mark.parametrize(("alpha", "scale", "margin"), [(1.5, 10.0, 0.1), (1.75, 5.0, 0.1), (1.25, 35.0, 0.2)])
def test_beyond_the_gap_the_loss_is_zero(alpha: float, scale: float, margin: float) -> None:
    head = with_prototypes(QMarginHead(2, 3, scale=scale, alpha=alpha), torch.tensor([[1.0, 0], [0, 1], [0, -1]]))
    gap = zero_loss_gap(alpha, scale, margin)
    # on the way from class 0 to class 1 the cosines differ by sqrt(2) cos(angle + pi/4)
    angles = [math.acos(factor * gap / math.sqrt(2)) - math.pi / 4 for factor in (1.01, 0.95)]
    embedding = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])
    loss = head(embedding, torch.zeros(2, dtype=torch.long), margin).loss
    assert loss[0] == 0
    assert loss[1] > 0


# --- A3M-I ---


def test_reinitialised_prototypes_point_at_the_means_with_their_old_norms() -> None:
    torch.manual_seed(0)
    weight, means = torch.randn(5, 8), torch.randn(5, 8) / 10
    means[[1, 4]] = 0
    before = weight.clone()
    prototypes, kept = reinitialised_prototypes(means, weight)
    assert kept.tolist() == [1, 4]
    assert torch.equal(weight, before)
    assert torch.equal(prototypes[kept], weight[kept])
    moved = [0, 2, 3]
    torch.testing.assert_close(F.cosine_similarity(prototypes[moved], means[moved]), torch.ones(3))
    torch.testing.assert_close(prototypes.norm(dim=1), weight.norm(dim=1))


def test_reinitialisation_keeps_any_norm() -> None:
    weight = torch.randn(5, 8) * torch.tensor([[1e-30], [1e-20], [1.0], [1e20], [1e37]])
    prototypes, _ = reinitialised_prototypes(torch.eye(5, 8) / 1e30, weight)
    torch.testing.assert_close(prototypes.double().norm(dim=1), weight.double().norm(dim=1), rtol=1e-6, atol=0)
    directions = prototypes.double() / weight.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(directions, torch.eye(5, 8).double(), rtol=0, atol=1e-6)


def test_reinitialisation_takes_means_of_higher_precision_and_a_parameter() -> None:
    head = AngularMarginHead(8, 5, scale=5.0, alpha=1.75)
    prototypes, kept = reinitialised_prototypes(torch.eye(5, 8, dtype=torch.float64), head.weight)
    assert prototypes.dtype == torch.float32
    assert not prototypes.requires_grad
    assert kept.numel() == 0


def test_reinitialisation_refuses_what_is_no_mean() -> None:
    with pytest.raises(ValueError, match=r"\(4, 8\), prototypes \(5, 8\)"):
        reinitialised_prototypes(torch.zeros(4, 8), torch.zeros(5, 8))
    with pytest.raises(ValueError, match="zeros for a class without samples"):
        reinitialised_prototypes(torch.full((5, 8), math.nan), torch.zeros(5, 8))
