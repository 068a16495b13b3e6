"""The alpha-divergence loss against its definition, entmax, high precision and its own invariants."""

import math

import entmax
import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from wespeaker_qm.losses import root
from wespeaker_qm.losses.alpha import (
    AlphaLoss,
    alpha_divergence_loss,
    alpha_softargmax,
    target_log_reference,
)
from wespeaker_qm.utils.errors import RecipeError

ALPHAS = [1.0, 1.0001, 1.1, 1.25, 1.5, 1.75, 2.0]
SPARSE_ALPHAS = ALPHAS[1:]
SETTINGS = [(5.0, 0.1), (10.0, 0.2), (35.0, 0.2)]  # scale, margin


# --- the definition, slowly, in float64 ---


def divergence(p: Tensor, q: Tensor, alpha: float) -> Tensor:
    """D_f(p : q) = sum_j q_j f(p_j / q_j) with f of equation (6), or its limit u log u - (u - 1) at alpha 1."""
    u = p / q
    if alpha == 1:
        f = torch.special.xlogy(u, u) - (u - 1)
    else:
        f = ((u**alpha - 1) - alpha * (u - 1)) / (alpha * (alpha - 1))
    return (q * f).sum(1)


def posterior_by_bisection(logits: Tensor, q: Tensor, alpha: float) -> Tensor:
    """Equations (9) and (10), with the paper's bracket."""
    if alpha == 1:
        return torch.softmax(logits + q.log(), dim=1)
    a = alpha - 1
    largest, index = logits.max(1, keepdim=True)
    low = largest - (q.gather(1, index) ** -a - 1) / a
    high = largest - (q.sum(1, keepdim=True) ** -a - 1) / a
    for _ in range(200):
        tau = (low + high) / 2
        p = q * (1 + a * (logits - tau)).clamp(min=0) ** (1 / a)
        too_low = p.sum(1, keepdim=True) > 1
        low, high = torch.where(too_low, tau, low), torch.where(too_low, high, tau)
    return p / p.sum(1, keepdim=True)


def definition(logits: Tensor, target: Tensor, alpha: float, log_reference: Tensor | None) -> AlphaLoss:
    """Equation (5) term by term."""
    logits = logits.double()
    q = torch.ones_like(logits) if log_reference is None else log_reference.double().exp().expand_as(logits)
    p = posterior_by_bisection(logits, q, alpha)
    onehot = F.one_hot(target, logits.shape[1]).double()
    loss = ((p - onehot) * logits).sum(1) - divergence(p, q, alpha) + divergence(onehot, q, alpha)
    return AlphaLoss(loss, p)


def speaker_logits(
    num_classes: int, scale: float, lead: float = 0.0, batch: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Scaled cosines of embeddings of 64 dimensions to random prototypes; targets lead by up to ``lead``."""
    generator = torch.Generator().manual_seed(seed)
    cosine = torch.randn(batch, num_classes, generator=generator, dtype=torch.float64) / 8
    target = torch.randint(num_classes, (batch,), generator=generator)
    cosine[torch.arange(batch), target] += lead * torch.linspace(0, 1, batch, dtype=torch.float64)
    return scale * cosine.clamp(-1, 1), target


def loss_and_gradient(
    logits: Tensor, target: Tensor, alpha: float, log_reference: Tensor | None = None
) -> tuple[AlphaLoss, Tensor]:
    logits = logits.clone().requires_grad_()
    output = alpha_divergence_loss(logits, target, alpha, log_reference)
    (gradient,) = torch.autograd.grad(output.loss.sum(), logits)
    return output, gradient


@pytest.mark.parametrize("num_classes", [2, 3, 47, 1000])
@pytest.mark.parametrize(("scale", "margin"), SETTINGS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_definition_with_a_margin_in_the_reference(alpha: float, scale: float, margin: float, num_classes: int) -> None:
    logits, target = speaker_logits(num_classes, scale, lead=1.0)
    log_reference = target_log_reference(logits, target, -scale * margin)
    expected = definition(logits, target, alpha, log_reference)
    output = alpha_divergence_loss(logits, target, alpha, log_reference)
    torch.testing.assert_close(output.posterior, expected.posterior, rtol=0, atol=1e-11)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-12, atol=1e-11 / max(alpha - 1, 1e-3))
    posterior = alpha_softargmax(logits, alpha, log_reference)
    torch.testing.assert_close(posterior, output.posterior, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_definition_with_any_reference(alpha: float, spread: float) -> None:
    logits, target = speaker_logits(40, scale=8.0)
    generator = torch.Generator().manual_seed(1)
    for shape in ((40,), (16, 40)):
        log_reference = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        expected = definition(logits, target, alpha, log_reference)
        output = alpha_divergence_loss(logits, target, alpha, log_reference)
        torch.testing.assert_close(output.posterior, expected.posterior, rtol=0, atol=1e-10)
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-9, atol=1e-9 / max(alpha - 1, 1e-2))


def test_a_reference_for_all_rows_is_the_same_reference_in_each() -> None:
    logits, target = speaker_logits(20, scale=5.0)
    log_reference = torch.linspace(-1, 1, 20, dtype=torch.float64)
    shared = alpha_divergence_loss(logits, target, 1.5, log_reference)
    repeated = alpha_divergence_loss(logits, target, 1.5, log_reference.repeat(16, 1))
    assert torch.equal(shared.loss, repeated.loss)
    assert torch.equal(shared.posterior, repeated.posterior)


# --- other implementations ---


@pytest.mark.parametrize("alpha", [1.05, 1.25, 1.5, 1.75, 2.0])
@pytest.mark.parametrize("scale", [2.0, 10.0, 35.0])
def test_entmax_is_the_case_of_reference_one(alpha: float, scale: float) -> None:
    logits, target = speaker_logits(100, scale, lead=0.8)
    output = alpha_divergence_loss(logits, target, alpha)
    torch.testing.assert_close(output.posterior, entmax.entmax_bisect(logits, alpha, n_iter=60), rtol=0, atol=1e-11)
    expected = entmax.entmax_bisect_loss(logits, target, alpha=alpha, n_iter=60)
    torch.testing.assert_close(output.loss, expected, rtol=1e-10, atol=1e-10)


def test_sparsemax_by_its_sorting_algorithm() -> None:
    logits, target = speaker_logits(100, scale=10.0, lead=0.8)
    output = alpha_divergence_loss(logits, target, 2.0)
    torch.testing.assert_close(output.posterior, entmax.sparsemax(logits), rtol=0, atol=1e-13)
    torch.testing.assert_close(output.loss, entmax.sparsemax_loss(logits, target), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2.0])
@pytest.mark.parametrize(("copies", "out_of"), [(1, 2), (3, 8), (1, 12)])
def test_a_margin_is_fewer_copies_of_the_target(alpha: float, copies: int, out_of: int) -> None:
    """Reference q_y = n/N: entmax of N^(-a) theta with N copies of every class but n of the target, copies added up."""
    logits, target = speaker_logits(30, scale=6.0, lead=1.0)
    posterior = alpha_softargmax(logits, alpha, target_log_reference(logits, target, math.log(copies / out_of)))
    for row, y, p in zip(logits, target, posterior, strict=True):
        counts = torch.full((30,), out_of)
        counts[y] = copies
        copied = entmax.entmax_bisect(out_of ** (1 - alpha) * row.repeat_interleave(counts)[None], alpha, n_iter=60)[0]
        expected = torch.stack([part.sum() for part in copied.split(counts.tolist())])
        torch.testing.assert_close(p, expected, rtol=0, atol=1e-11)


# --- fifty digits ---


def exact_loss(logits: list[float], target: int, alpha: float, log_q: float) -> mpmath.mpf:
    """Equations (5), (9) and (10) with fifty digits; all arguments are taken as exact binary numbers."""
    with mpmath.workdps(50):
        alpha_, theta = mpmath.mpf(alpha), [mpmath.mpf(t) for t in logits]
        a = alpha_ - 1
        q = [mpmath.mpf(1)] * len(theta)
        q[target] = mpmath.exp(mpmath.mpf(log_q))
        low, high = max(theta) - (max(u**-a for u in q) - 1) / a - 1, max(theta) + 1 / a
        for _ in range(200):
            tau = (low + high) / 2
            p = [u * max(1 + a * (t - tau), 0) ** (1 / a) for u, t in zip(q, theta, strict=True)]
            low, high = (tau, high) if sum(p) > 1 else (low, tau)
        onehot = [mpmath.mpf(j == target) for j in range(len(theta))]

        def d(p: list[mpmath.mpf]) -> mpmath.mpf:
            f = [((x / u) ** alpha_ - 1 - alpha_ * (x / u - 1)) / (alpha_ * a) for x, u in zip(p, q, strict=True)]
            return sum(u * value for u, value in zip(q, f, strict=True))

        return sum((x - y) * t for x, y, t in zip(p, onehot, theta, strict=True)) - d(p) + d(onehot)


@pytest.mark.parametrize(
    ("logits", "alpha", "log_q", "single_tolerance"),
    [
        ([3.0, 1.0, 0.5, -1.0], 1.5, -1.0, 1e-6),  # a usual sample
        ([3.2890625, 0.0, -1.0, -2.0], 1.5, -1.0, 1e-4),  # all but solved: the loss is 5e-8
        ([2.0, 0.0, 0.0], 1.0009765625, -0.5, 1e-6),  # alpha near 1
        ([12.0, 0.0, -3.0], 1.0000152587890625, -0.5, 3e-6),  # nearer, and a loss of 1e-5
        ([3.5, 0.0, 0.25], 1.25, -2.0, 1e-6),  # where the series hands over to the closed form
        ([-2.0, 3.0, 2.5], 2.0, -0.5, 1e-6),  # the target out of the support
        ([-20.0, 30.0, 29.75], 1.25, -6.0, 1e-6),
    ],
)
def test_fifty_digits(logits: list[float], alpha: float, log_q: float, single_tolerance: float) -> None:
    """Relative errors, also of losses near zero, where the definition's difference has no digit left in float32."""
    expected = float(exact_loss(logits, 0, alpha, log_q))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, single_tolerance)):
        row, target = torch.tensor([logits], dtype=dtype), torch.tensor([0])
        loss = alpha_divergence_loss(row, target, alpha, target_log_reference(row, target, log_q)).loss
        assert loss.item() == pytest.approx(expected, rel=tolerance)


# --- limits ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_one_is_cross_entropy_to_the_bit(dtype: torch.dtype) -> None:
    logits, target = speaker_logits(50, scale=30.0)
    logits = logits.to(dtype).requires_grad_()
    log_reference = target_log_reference(logits, target, -6.0)
    output = alpha_divergence_loss(logits, target, 1.0, log_reference)
    expected = F.cross_entropy(logits + log_reference, target, reduction="none")
    assert torch.equal(output.loss, expected)
    assert torch.equal(*(torch.autograd.grad(loss.sum(), logits)[0] for loss in (output.loss, expected)))
    torch.testing.assert_close(output.posterior, torch.softmax(logits + log_reference, dim=1).detach())
    assert not output.posterior.requires_grad


@pytest.mark.parametrize(("alpha", "distance"), [(1.001, 7e-3), (1.00001, 7e-5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosface_is_the_limit_at_first_order(alpha: float, distance: float, dtype: torch.dtype) -> None:
    logits, target = speaker_logits(100, scale=10.0)
    logits = logits.to(dtype)
    log_reference = target_log_reference(logits, target, -2.0)
    cosface = F.cross_entropy(logits + log_reference, target, reduction="none")
    loss = alpha_divergence_loss(logits, target, alpha, log_reference).loss
    # the first-order term, log^2 p_y / 2 for one, depends on the logits; 7e-3 is a typical size
    assert distance / 10 < (loss - cosface).abs().mean() < 10 * distance


# --- gradient ---


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("log_q", [0.0, -1.5])
def test_gradcheck(alpha: float, log_q: float) -> None:
    logits, target = speaker_logits(9, scale=4.0, lead=0.5, batch=4)
    log_reference = target_log_reference(logits, target, log_q)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: weights * alpha_divergence_loss(x, target, alpha, log_reference).loss, logits.requires_grad_()
    )


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_posterior_is_a_constant(alpha: float) -> None:
    logits, target = speaker_logits(9, scale=4.0)
    logits.requires_grad_()
    assert not alpha_divergence_loss(logits, target, alpha).posterior.requires_grad
    assert not alpha_softargmax(logits, alpha).requires_grad


@pytest.mark.parametrize("alpha", SPARSE_ALPHAS)
def test_inputs_are_left_alone(alpha: float) -> None:
    logits, target = speaker_logits(40, scale=8.0)
    log_reference = target_log_reference(logits, target, -1.0)
    before = logits.clone(), log_reference.clone()
    output, gradient = loss_and_gradient(logits, target, alpha, log_reference)
    gradient.zero_()
    assert torch.equal(logits, before[0])
    assert torch.equal(log_reference, before[1])
    torch.testing.assert_close(output.posterior.sum(1), torch.ones(16, dtype=torch.float64))


# --- invariants ---

cosines = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=24)
coarse_cosines = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=24)  # many ties


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    cosine=cosines | coarse_cosines,
    target=st.integers(0, 1000),
    alpha=st.floats(1, 2, exclude_min=True) | st.sampled_from([1.0, 1.25, 1.5, 2.0]),
    scale=st.floats(1, 64),
    margin=st.floats(0, 0.5),
)
@example(cosine=[1.0, -1.0], target=0, alpha=1.000001, scale=64.0, margin=0.5)
@example(cosine=[0.5] * 24, target=3, alpha=2.0, scale=64.0, margin=0.5)
def test_invariants(cosine: list[float], target: int, alpha: float, scale: float, margin: float) -> None:
    logits = scale * torch.tensor([cosine], dtype=torch.float64)
    y = torch.tensor([target % len(cosine)])
    log_q = -scale * margin
    log_reference = target_log_reference(logits, y, log_q)
    output, gradient = loss_and_gradient(logits, y, alpha, log_reference)
    posterior = output.posterior

    assert output.loss >= 0
    assert (posterior >= 0).all()
    assert posterior.sum().item() == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(gradient, posterior - F.one_hot(y, len(cosine)), rtol=1e-14, atol=1e-15)
    assert (output.loss.item() == 0) == (posterior[0, y].item() == 1) or output.loss < 1e-15
    others = torch.arange(len(cosine)) != y  # a larger logit never has less mass, among equal references
    assert (posterior[0, others][logits[0, others].argsort()].diff() >= 0).all()

    if alpha > 1:  # optimality: q_j f'(p_j / q_j) - theta_j is one constant on the support
        a = alpha - 1
        support = posterior[0] > 1e-9
        log_ratio = (posterior.clamp(min=1e-300).log() - log_reference)[0, support]
        tau = logits[0, support] - torch.expm1(a * log_ratio) / a
        torch.testing.assert_close(tau, tau.mean().expand_as(tau), rtol=1e-9, atol=1e-8)

    single, single_gradient = loss_and_gradient(logits.float(), y, alpha, log_reference)
    double = alpha_divergence_loss(logits.float().double(), y, alpha, log_reference.float().double())
    torch.testing.assert_close(single.loss.double(), double.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.posterior.double(), double.posterior, rtol=0, atol=2e-5)
    assert single.loss >= 0
    torch.testing.assert_close(single_gradient, single.posterior - F.one_hot(y, len(cosine)), rtol=1e-6, atol=1e-7)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), alpha=st.floats(1, 2), shift=st.floats(-50, 50))
def test_symmetries(seed: int, alpha: float, shift: float) -> None:
    """Shifting all logits changes nothing; permuting the classes permutes the posterior; a far class does nothing."""
    logits, target = speaker_logits(12, scale=10.0, lead=0.5, batch=4, seed=seed)
    output = alpha_divergence_loss(logits, target, alpha)
    shifted = alpha_divergence_loss(logits + shift, target, alpha)
    torch.testing.assert_close(shifted.loss, output.loss, rtol=1e-9, atol=1e-11)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    permuted = alpha_divergence_loss(logits[:, order], order.argsort()[target], alpha)
    torch.testing.assert_close(permuted.loss, output.loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(permuted.posterior, output.posterior[:, order], rtol=0, atol=1e-12)
    if alpha > 1.2:
        padded = alpha_divergence_loss(F.pad(logits, (0, 5), value=-1e3), target, alpha)
        torch.testing.assert_close(padded.loss, output.loss, rtol=1e-10, atol=1e-12)
        assert (padded.posterior[:, 12:] == 0).all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("num_classes", [5, 33, 700])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_a_row_does_not_know_its_batch(alpha: float, num_classes: int, dtype: torch.dtype, tolerance: float) -> None:
    logits, target = speaker_logits(num_classes, scale=20.0, lead=1.0)
    logits = logits.to(dtype)
    log_reference = target_log_reference(logits, target, -2.0)
    output = alpha_divergence_loss(logits, target, alpha, log_reference)
    for b in range(len(target)):
        row = slice(b, b + 1)
        alone = alpha_divergence_loss(logits[row], target[row], alpha, log_reference[row])
        torch.testing.assert_close(alone.loss, output.loss[row], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(alone.posterior, output.posterior[row], rtol=0, atol=tolerance)


# --- precision ---


@pytest.mark.parametrize("alpha", ALPHAS)
def test_autocast_changes_nothing(alpha: float) -> None:
    logits, target = speaker_logits(50, scale=20.0)
    logits = logits.float()
    expected, expected_gradient = loss_and_gradient(logits, target, alpha)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, gradient = loss_and_gradient(logits, target, alpha)
        posterior = alpha_softargmax(logits, alpha)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(gradient, expected_gradient)
    torch.testing.assert_close(posterior, expected.posterior)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_half_precision_logits_are_computed_in_float32(alpha: float, dtype: torch.dtype) -> None:
    logits, target = speaker_logits(50, scale=20.0)
    logits = logits.to(dtype)
    output, gradient = loss_and_gradient(logits, target, alpha)
    expected, expected_gradient = loss_and_gradient(logits.float(), target, alpha)
    assert output.loss.dtype == output.posterior.dtype == torch.float32
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(gradient, expected_gradient.to(dtype))


@pytest.mark.parametrize("alpha", [1.00001, 1.001, 1.25, 1.5, 2.0])
@pytest.mark.parametrize("num_classes", [2, 200, 6000])
def test_float32_losses_keep_their_digits_near_zero(alpha: float, num_classes: int) -> None:
    logits, target = speaker_logits(num_classes, scale=10.0, lead=1.2, batch=32)
    logits = logits.float()
    log_reference = target_log_reference(logits, target, -1.0)
    loss = alpha_divergence_loss(logits, target, alpha, log_reference).loss
    exact = alpha_divergence_loss(logits.double(), target, alpha, log_reference.double()).loss
    assert (loss >= 0).all()
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=2e-7)


# --- edge cases ---


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("num_classes", [1, 2, 3, 16, 17, 5000])
@pytest.mark.parametrize("value", [0.0, -3.7, 64.0])
def test_equal_logits_share_the_mass_equally(alpha: float, num_classes: int, value: float) -> None:
    logits, target = torch.full((2, num_classes), value), torch.tensor([0, num_classes - 1])
    output = alpha_divergence_loss(logits, target, alpha)
    torch.testing.assert_close(output.posterior, torch.full_like(logits, 1 / num_classes))
    # -f(uniform) + f(onehot): (1 - C^(1 - alpha)) / (alpha a), tending to log C
    a = alpha - 1
    expected = math.log(num_classes) if a == 0 else -math.expm1(-a * math.log(num_classes)) / (alpha * a)
    torch.testing.assert_close(output.loss, torch.full((2,), expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_one_class_is_always_solved(alpha: float) -> None:
    logits, target = torch.tensor([[-3.0], [40.0]]), torch.tensor([0, 0])
    output, gradient = loss_and_gradient(logits, target, alpha, target_log_reference(logits, target, -2.0))
    assert torch.equal(output.loss, torch.zeros(2))
    assert torch.equal(gradient, torch.zeros(2, 1))
    assert torch.equal(output.posterior, torch.ones(2, 1))


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_a_tie_at_the_threshold_is_out_of_the_support(alpha: float) -> None:
    gap = 1 / (alpha - 1)
    logits = torch.tensor([[0.0, -gap, -gap, -gap], [0.0, -gap + 1e-3, -gap - 1e-3, -gap]], dtype=torch.float64)
    posterior = alpha_softargmax(logits, alpha)
    assert torch.equal(posterior[0], torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    assert posterior[1, 1] > 0
    assert torch.equal(posterior[1, 2:], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_off_of_the_root_lets_no_tie_at_the_threshold_in(alpha: float, dtype: torch.dtype) -> None:
    """The other class lies where the target alone, of any reference, has all the mass: exactly, with a a power of 2."""
    a = alpha - 1
    log_q = -torch.linspace(0.01, 5, 1000, dtype=dtype)[:, None]
    logits = torch.cat([torch.zeros_like(log_q), -torch.exp(-a * log_q) / a], 1)
    output = alpha_divergence_loss(logits, torch.zeros(1000, dtype=torch.long), alpha, F.pad(log_q, (0, 1)))
    assert (output.loss == 0).all()
    assert (output.posterior[:, 1] == 0).all()


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sample_solved(alpha: float, dtype: torch.dtype) -> None:
    """The target beyond exp(a M) / a of all others: no loss and no gradient, to the bit; just below it, some."""
    log_q, a = -0.7, alpha - 1
    gap = math.exp(-a * log_q) / a
    target = torch.arange(4)
    for factor, solved in ((1.001, True), (0.99, False)):
        logits = torch.zeros(4, 50, dtype=dtype)
        logits[target, target] = factor * gap
        output, gradient = loss_and_gradient(logits, target, alpha, target_log_reference(logits, target, log_q))
        assert bool((output.loss == 0).all()) == solved
        assert bool((gradient == 0).all()) == solved
        assert bool((output.loss > 0).all()) != solved


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_every_target_out_of_the_support(alpha: float) -> None:
    logits, target = torch.zeros(4, 50, dtype=torch.float64), torch.arange(4)
    logits[target, target] = -9.0
    log_reference = target_log_reference(logits, target, -1.0)
    output, gradient = loss_and_gradient(logits, target, alpha, log_reference)
    assert (output.posterior[target, target] == 0).all()
    assert (gradient[target, target] == -1).all()
    torch.testing.assert_close(output.loss, definition(logits, target, alpha, log_reference).loss)
    lower = alpha_divergence_loss(logits - 5 * F.one_hot(target, 50), target, alpha, log_reference).loss
    torch.testing.assert_close(lower, output.loss + 5)  # linear in the logit from there on


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("magnitude", [1e3, 1e6, 1e30])
def test_huge_logits(alpha: float, magnitude: float) -> None:
    logits, target = magnitude * torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.5, -1.0]]), torch.tensor([0, 2])
    output, gradient = loss_and_gradient(logits, target, alpha)
    assert torch.equal(output.posterior, torch.tensor([[1.0, 0, 0], [1, 0, 0]]))
    assert torch.equal(gradient, torch.tensor([[0.0, 0, 0], [1, 0, -1]]))
    torch.testing.assert_close(output.loss, torch.tensor([0.0, 2 * magnitude]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("alpha", [1.01, 1.1])
def test_a_huge_margin_does_not_underflow(alpha: float) -> None:
    """exp(-150) is zero in float32; the target still is solved, or not, as in float64."""
    target = torch.tensor([0, 0, 0])
    logits = torch.tensor([[500.0, 0.0], [300.0, 0.0], [0.0, 1.0]])
    log_reference = target_log_reference(logits, target, -150.0)
    output = alpha_divergence_loss(logits, target, alpha, log_reference)
    exact = alpha_divergence_loss(logits.double(), target, alpha, log_reference.double())
    torch.testing.assert_close(output.loss.double(), exact.loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.posterior.double(), exact.posterior, rtol=0, atol=1e-4)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_logits_reach_the_loss_of_their_row_only(alpha: float, bad: float) -> None:
    logits, target = speaker_logits(50, scale=20.0)
    expected = alpha_divergence_loss(logits, target, alpha)
    logits[3, 7] = bad
    output = alpha_divergence_loss(logits, target, alpha)
    good = torch.arange(16) != 3
    assert not output.loss[3].isfinite()
    assert torch.equal(output.loss[good], expected.loss[good])
    assert torch.equal(output.posterior[good], expected.posterior[good])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_an_empty_batch(alpha: float) -> None:
    output = alpha_divergence_loss(torch.empty(0, 5), torch.empty(0, dtype=torch.long), alpha)
    assert output.loss.shape == (0,)
    assert output.posterior.shape == (0, 5)


@pytest.mark.parametrize("alpha", [1.0, 1.0000001, 1.05, 1.5, 2.0])
def test_masked_classes_are_no_classes(alpha: float) -> None:
    """A logit, or the logarithm of a reference, of -inf."""
    logits, target = speaker_logits(9, scale=4.0, lead=0.5)
    expected, expected_gradient = loss_and_gradient(logits, target, alpha)
    nowhere = torch.full((16, 40), -math.inf, dtype=torch.float64)
    output, gradient = loss_and_gradient(torch.cat([logits, nowhere], 1), target, alpha)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(gradient, F.pad(expected_gradient, (0, 40)))
    assert (output.posterior[:, 9:] == 0).all()
    log_reference = torch.cat([torch.zeros(9), torch.full((40,), -math.inf)]).double()
    output, gradient = loss_and_gradient(F.pad(logits, (0, 40), value=9.0), target, alpha, log_reference)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(gradient, F.pad(expected_gradient, (0, 40)))
    masked = logits.clone()
    masked[3, target[3]] = -math.inf
    loss = alpha_divergence_loss(masked, target, alpha).loss
    assert loss[3] == math.inf, "a target that is no class"
    torch.testing.assert_close(loss[:3], expected.loss[:3])
    masked[3] = -math.inf
    assert alpha_divergence_loss(masked, target, alpha).loss[3].isnan(), "a row without classes"


@pytest.mark.parametrize("alpha", [1.0, 1.0000001, 1.5, 2.0])
def test_no_gradient_is_needed(alpha: float) -> None:
    logits, target = speaker_logits(50, scale=20.0)
    with torch.inference_mode():
        output = alpha_divergence_loss(logits, target, alpha, target_log_reference(logits, target, -1.0))
    expected = alpha_divergence_loss(logits, target, alpha, target_log_reference(logits, target, -1.0))
    assert torch.equal(output.loss, expected.loss)


# --- errors ---


@pytest.mark.parametrize("alpha", [0.999, 2.001, -1.0, math.nan, math.inf])
def test_alpha_out_of_range(alpha: float) -> None:
    for call in (
        lambda: alpha_softargmax(torch.zeros(1, 2), alpha),
        lambda: alpha_divergence_loss(torch.zeros(1, 2), torch.tensor([0]), alpha),
    ):
        with pytest.raises(RecipeError, match=rf"alpha is {alpha}, expected a number in \[1, 2\]"):
            call()


def test_shapes_that_do_not_fit() -> None:
    logits, target = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"\(3,\), expected \(2,\)"):
        alpha_divergence_loss(logits[:2], target, 1.5)
    with pytest.raises(ValueError, match=r"\(3, 0\), expected \(B, C\)"):
        alpha_divergence_loss(logits[:, :0], target, 1.5)
    with pytest.raises(ValueError, match=r"\(3,\), expected \(4,\) or \(3, 4\)"):
        alpha_divergence_loss(logits, target, 1.5, torch.zeros(3))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 4, -1]), r"2 targets such as \[4, -1\] are no class in 0 to 3"),
        (torch.tensor([0.0, 1, 2]), "target has type torch.float32, expected integers"),
        (torch.tensor([True, False, True]), "target has type torch.bool, expected integers"),
    ],
)
def test_targets_that_are_no_class(target: Tensor, message: str, alpha: float) -> None:
    with pytest.raises(ValueError, match=message):
        alpha_divergence_loss(torch.zeros(3, 4), target, alpha)
    assert alpha_divergence_loss(torch.zeros(1, 4), torch.tensor([3], dtype=torch.int32), alpha).loss.isfinite()


def test_a_second_derivative_is_refused() -> None:
    logits, target = speaker_logits(9, scale=4.0)
    loss = alpha_divergence_loss(logits.requires_grad_(), target, 1.5).loss.sum()
    with pytest.raises(RuntimeError, match=r"create_graph=True, .* first derivatives only"):
        torch.autograd.grad(loss, logits, create_graph=True)


def test_no_convergence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "_MAX_ITERATIONS", 1)
    logits, target = speaker_logits(50, scale=20.0)
    with pytest.raises(ArithmeticError, match=r"after 1 iterations at alpha 1.5 in \d+ of 16 rows"):
        alpha_divergence_loss(logits, target, 1.5)
