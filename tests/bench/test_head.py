"""The benchmark of heads: its opponents are right, its data are as stated, its rounds are in turn, its tables whole."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from wespeaker_qm.bench.cases import Case, HeadInput, simulate
from wespeaker_qm.bench.head import _opponents, compete, head_report
from wespeaker_qm.bench.head_plans import (
    COMPILED,
    COSFACE,
    DENSE,
    FULL,
    LINEAR,
    QUICK,
    TOP_BISECTION,
    Contest,
    HeadPlan,
)
from wespeaker_qm.bench.memory import MIB, peak_in_child
from wespeaker_qm.bench.opponents import arcface, bisection, cosface, linear_cross_entropy, top_bisection
from wespeaker_qm.bench.timing import in_turn, paired_ratios
from wespeaker_qm.losses.linear import alpha_margin_linear
from wespeaker_qm.utils.errors import RecipeError

TINY = Case(8, 16, 120, alpha=1.5, scale=10, margin=0.1, trained=False)


def in_float64(case: Case) -> HeadInput:
    embedding, prototypes, target = simulate(case)
    return HeadInput(
        embedding.detach().double().requires_grad_(), prototypes.detach().double().requires_grad_(), target
    )


def assert_same(problem: HeadInput, loss: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)
    leaves = (problem.embedding, problem.prototypes)
    gradients, wanted_gradients = (torch.autograd.grad(each, leaves, retain_graph=True) for each in (loss, expected))
    for actual, wanted in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("trained", [False, True])
def test_opponents_compute_what_ours_computes(trained: bool) -> None:
    problem = in_float64(TINY._replace(trained=trained))
    ours = alpha_margin_linear(*problem, 1.0, 10.0, 0.1).loss.mean()
    assert_same(problem, cosface(*problem, 10.0, 0.1), ours)
    ours = alpha_margin_linear(*problem, 1.0, 10.0, 0.1, margin_type="angular").loss.mean()
    assert_same(problem, arcface(*problem, 10.0, 0.1), ours)
    ours = alpha_margin_linear(*problem, 1.0, 10.0, 0.0).loss.mean()
    assert_same(problem, linear_cross_entropy(*problem, 10.0), ours)
    for alpha in (1.25, 1.5, 1.75):
        ours = alpha_margin_linear(*problem, alpha, 10.0, 0.1).loss.mean()
        for as_in_entmax in (False, True):
            assert_same(problem, bisection(*problem, alpha, 10.0, 0.1, as_in_entmax=as_in_entmax), ours)


def test_the_top_five_per_cent_are_exact_where_the_support_fits() -> None:
    problem = in_float64(TINY._replace(num_classes=3000, scale=30, trained=True))
    ours = alpha_margin_linear(*problem, 1.75, 30.0, 0.1)
    assert ours.sparsity is not None
    assert ours.sparsity.support.max() < 0.05 * 3000
    assert_same(problem, top_bisection(*problem, 1.75, 30.0, 0.1), ours.loss.mean())


def test_trained_data_have_the_stated_cosines() -> None:
    embedding, prototypes, target = simulate(Case(400, 256, 5025, 1.5, 10, 0.1, trained=True))
    cosine = F.cosine_similarity(embedding, prototypes[target])
    assert cosine.mean().item() == pytest.approx(0.7, abs=0.02)
    assert cosine.std().item() == pytest.approx(0.1, abs=0.02)
    unit = F.normalize(prototypes.detach())
    assert (unit[:50] @ unit[:50].T).fill_diagonal_(0.2).mean().item() == pytest.approx(0.2, abs=0.02)
    assert (unit[:50] @ unit[50:100].T).mean().item() == pytest.approx(0, abs=0.1)
    assert prototypes.norm(dim=1).std() > 0.1


def test_contestants_take_turns() -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in "ABC"}
    times_ms = in_turn(steps, rounds=2)
    assert order == list("ABC" * 3)
    assert {name: len(values) for name, values in times_ms.items()} == {"A": 2, "B": 2, "C": 2}
    assert paired_ratios([1.0, 4.0, 9.0], [2.0, 4.0, 3.0]).median == 1.0


def test_the_child_measures_an_allocation() -> None:
    # Partials, since a child need not be able to import this file.
    make_step = partial(partial, torch.ones, 16 * 2**20)
    peak = peak_in_child(make_step)
    if peak is None:
        pytest.skip("no /proc with counters that can be reset")
    assert peak / MIB == pytest.approx(64, abs=8)


def test_the_report_has_every_row_and_bound() -> None:
    huge = TINY._replace(num_classes=300)
    plan = HeadPlan(
        contests=(Contest(TINY, {COSFACE: math.inf, DENSE: 0.0, TOP_BISECTION: None}),),
        memory=(huge,),
        growth=(TINY, huge),
    )
    report = head_report(plan, rounds=1)
    (met,) = [line for line in report.splitlines() if COSFACE in line and " inf " in line]
    assert met.rstrip("| ").endswith("met") and "NOT" not in met
    (missed,) = [line for line in report.splitlines() if DENSE in line]
    assert "NOT met" in missed
    assert TOP_BISECTION in report
    assert "peak MiB" in report
    assert report.count("8, 16, 300") >= 1


def test_the_plans_have_the_bounds_of_the_table() -> None:
    bounds = [bound for contest in FULL.contests for bound in contest.bounds.values() if bound is not None]
    assert sorted(bounds) == sorted([0.65, 0.85, 0.1, 0.5, 0.4, 0.5, 0.06, 0.25, 0.55, 0.4, 0.45, 0.35, 1.4, 1.4, 1.4])
    assert [case.num_classes for case in FULL.growth] == [10_000, 100_000, 1_000_000]


def test_every_opponent_of_the_plans_is_known() -> None:
    known = _opponents(TINY, simulate(TINY))
    assert {name for contest in FULL.contests for name in contest.bounds} <= known.keys()


def test_an_opponent_that_is_not_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.functional, "linear_cross_entropy")
    monkeypatch.setenv("PATH", "")
    results = compete(Contest(TINY, {LINEAR: None, COMPILED: None, COSFACE: None}), rounds=1)
    assert [result.opponent for result in results] == [COSFACE]


def test_no_rounds_are_refused() -> None:
    with pytest.raises(RecipeError, match="--rounds: found 0, expected at least 1"):
        head_report(QUICK, 0)
