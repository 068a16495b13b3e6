"""The filter by itself: the bound that it filters by, and what it lets through."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wespeaker_qm.losses import candidates, dispatch
from wespeaker_qm.losses.candidates import Bound, Problem, all_logits, find_candidates
from wespeaker_qm.losses.gradients import in_range, unit_rows

LOW = [None, torch.bfloat16, torch.float16]


def make_problem(
    embedding: Tensor, prototypes: Tensor, a: float, log_q: float, filter_dtype: torch.dtype | None = None
) -> Problem:
    """Scale 10; the target of row b is class b."""
    unit = unit_rows(embedding)
    target = torch.arange(len(unit))
    target_logit = 10 * (unit.double() * unit_rows(prototypes.double())[target]).sum(1, keepdim=True)
    return Problem(
        unit, in_range(prototypes), 10.0, a, target, target_logit, torch.full_like(target_logit, log_q), filter_dtype
    )


def exact_logits(problem: Problem) -> Tensor:
    """Of all classes in float64; without the targets."""
    logits = problem.scale * F.normalize(problem.unit.double()) @ F.normalize(problem.prototypes.rows.double()).T
    return logits.scatter(1, problem.target[:, None], -torch.inf)


def tau_by_bisection(problem: Problem) -> Tensor:
    """The normaliser of (9), (B, 1)."""
    logits = torch.cat([exact_logits(problem), problem.target_logit], 1)
    log_q = torch.cat([torch.zeros_like(logits[:, :-1]), problem.log_q], 1)
    low, high = logits[:, :-1].amax(1, keepdim=True), logits.amax(1, keepdim=True) + 1 / problem.a
    for _ in range(80):
        middle = (low + high) / 2
        mass = log_q.exp() * (1 + problem.a * (logits - middle)).clamp(min=0) ** (1 / problem.a)
        is_low = mass.sum(1, keepdim=True) > 1
        low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
    return low


@pytest.mark.parametrize("num_leaders", [32, 400])
@pytest.mark.parametrize(("a", "log_q"), [(1.0, 0.0), (0.5, -1.0), (0.25, -3.0), (0.1, -1.0)])
def test_the_bound_rises_to_tau_and_its_threshold_stays_below_the_smallest_of_the_support(
    a: float, log_q: float, num_leaders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_NUM_LEADERS", num_leaders)
    prototypes = torch.randn(300, 8, dtype=torch.float64)
    problem = make_problem(prototypes[:6] + torch.randn(6, 8), prototypes, a, log_q)
    tau, logits = tau_by_bisection(problem), exact_logits(problem)
    bound = Bound(problem)
    for chunk in torch.split(logits, 100, dim=1):
        before = bound.tau
        bound.update(chunk)
        assert (bound.tau >= before).all()
        assert (bound.tau <= tau + 1e-13).all()
    nothing = torch.full((6, 1), -torch.inf, dtype=torch.float64)
    for _ in range(12):  # further steps of Newton's method, over the leaders only
        bound.update(nothing)
    assert (bound.tau <= tau + 1e-13).all()
    assert num_leaders < 300 or (tau - bound.tau < 1e-13).all()
    below = (bound.tau - 1 / a) - bound.threshold()
    assert (below > 8 * 2**-52 * problem.scale).all()
    assert (below < 1e-13 * problem.scale).all()


@pytest.mark.parametrize("filter_dtype", LOW)
@pytest.mark.parametrize("a", [1.0, 0.1])
def test_candidates_are_the_support_and_have_exact_logits(
    a: float, filter_dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few, for which the bound is tau, and more pairs than are computed together; in several chunks of classes."""
    monkeypatch.setattr(candidates, "_DENSE", 1.0)
    monkeypatch.setattr(dispatch, "CHUNK_LOGITS", {"cpu": 30000})
    prototypes = torch.randn(3000, 8)
    problem = make_problem(prototypes[:60] + torch.randn(60, 8), prototypes, a, -1.0, filter_dtype)
    found, tau = find_candidates(problem)
    assert found is not None
    assert (found.number.sum() > 4096) == (a == 0.1)
    assert (found.number < 2500).all()
    exact, true_tau = exact_logits(problem), tau_by_bisection(problem)
    assert (tau <= true_tau + 1e-5).all()
    is_real = torch.arange(found.logits.shape[1]) < found.number[:, None]
    assert torch.equal(found.logits > -torch.inf, is_real)
    wanted = exact.gather(1, found.classes).where(is_real, -torch.inf)
    torch.testing.assert_close(found.logits.double(), wanted, rtol=0, atol=2e-5)
    is_candidate = torch.zeros_like(exact).scatter_add_(1, found.classes, is_real.double())
    assert is_candidate.max() == 1
    assert (is_candidate[exact > true_tau - 1 / a] == 1).all()


def test_nothing_is_remembered_that_was_not_there() -> None:
    """The leaders of 50 logits below zero are the largest of 32 groups; a group of fewer is filled up with nothing."""
    logits = -1 - torch.rand(3, 50)
    leaders = candidates._leaders(logits)
    assert torch.equal(leaders[:, :18], torch.maximum(logits[:, :18], logits[:, 32:]))
    assert torch.equal(leaders[:, 18:], logits[:, 18:32])


@pytest.mark.parametrize("filter_dtype", LOW)
def test_no_cosine_exceeds_one(filter_dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every embedding lies on a prototype that is not its own; in float32 some such products are above 1."""
    monkeypatch.setattr(candidates, "_DENSE", 1.0)
    prototypes = torch.randn(200, 64)
    problem = make_problem(prototypes.roll(1, 0), prototypes, 0.5, 0.0, filter_dtype)
    assert (problem.unit @ problem.unit.T).max() > 1
    assert max(chunk.max() for chunk in all_logits(problem)) == problem.scale
    found, _ = find_candidates(problem)
    assert found is not None and found.logits.max() == problem.scale
