"""The benchmark of heads: its opponents are right, its data are as stated, its rounds are in turn, its tables whole."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from wespeaker_qm.bench.cases import Case, HeadInput, simulate
from wespeaker_qm.bench.contestants import HEADS, gradients_of, why_absent
from wespeaker_qm.bench.head import compete, head_report
from wespeaker_qm.bench.head_plans import (
    ARCFACE,
    BF16,
    CCE,
    COMPILED,
    COSFACE,
    DENSE,
    FP16,
    FULL,
    FULL_CUDA,
    LIGER,
    LINEAR,
    QUICK,
    QUICK_CUDA,
    TF32,
    TOP_BISECTION,
    Contest,
    HeadPlan,
)
from wespeaker_qm.bench.memory import MIB, peak_in_child
from wespeaker_qm.bench.opponents import (
    arcface,
    bisection,
    cosface,
    linear_cross_entropy,
    partial_fc,
    top_bisection,
)
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
    assert_same(problem, partial_fc(*problem, 10.0, 0.1, 1.0), _identity_slope(problem))
    ours = alpha_margin_linear(*problem, 1.0, 10.0, 0.0).loss.mean()
    assert_same(problem, linear_cross_entropy(*problem, 10.0), ours)
    for alpha in (1.25, 1.5, 1.75):
        ours = alpha_margin_linear(*problem, alpha, 10.0, 0.1).loss.mean()
        for as_in_entmax in (False, True):
            assert_same(problem, bisection(*problem, alpha, 10.0, 0.1, as_in_entmax=as_in_entmax), ours)


def _identity_slope(problem: HeadInput) -> torch.Tensor:
    """ArcFace's loss in float64 with a margin that autograd takes for a constant, as InsightFace has it."""
    embedding, prototypes, target = problem
    cosine = F.normalize(embedding) @ F.normalize(prototypes).T
    index = target[:, None]
    moved = torch.cos(torch.acos(cosine.gather(1, index)) + 0.1) - cosine.gather(1, index)
    return F.cross_entropy(10 * cosine.scatter_add(1, index, moved.detach()), target)


def test_a_sample_of_the_classes_has_the_batch_s_own() -> None:
    problem = simulate(TINY)
    gradient = torch.autograd.grad(partial_fc(*problem, 10.0, 0.1, 0.1), problem.prototypes)[0]
    touched = gradient.any(1).nonzero()[:, 0].tolist()
    assert len(touched) == 12 and set(problem.target.tolist()) <= set(touched)


def test_the_top_five_per_cent_are_exact_where_the_support_fits() -> None:
    problem = in_float64(TINY._replace(num_classes=3000, scale=30, trained=True))
    ours = alpha_margin_linear(*problem, 1.75, 30.0, 0.1)
    assert ours.sparsity is not None
    assert ours.sparsity.support.max() < 0.05 * 3000
    assert_same(problem, top_bisection(*problem, 1.75, 30.0, 0.1, share=0.05), ours.loss.mean())


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
        steps=(TINY._replace(num_classes=1200, trained=True),),
    )
    report = head_report(plan, rounds=1)
    (met,) = [line for line in report.splitlines() if COSFACE in line and " inf " in line]
    assert met.rstrip("| ").endswith("met") and "NOT" not in met
    (missed,) = [line for line in report.splitlines() if DENSE in line]
    assert "NOT met" in missed
    assert TOP_BISECTION in report
    assert "peak MiB" in report
    (steps,) = [line for line in report.splitlines() if "8, 16, 1,200" in line]
    assert "lazy SGD, ms" in report
    assert 0 < float(steps.split("|")[4]) < 100
    assert report.count("8, 16, 300") >= 1


def test_the_plans_have_the_bounds_of_the_table() -> None:
    bounds = [bound for contest in FULL.contests for bound in contest.bounds.values() if bound is not None]
    assert sorted(bounds) == sorted([0.65, 0.85, 0.1, 0.5, 0.4, 0.5, 0.1, 0.25, 0.55, 0.4, 0.45, 0.35, 1.4, 1.4, 1.4])
    assert [case.num_classes for case in FULL.growth] == [10_000, 100_000, 1_000_000]


def test_every_opponent_of_the_plans_is_known() -> None:
    contests = (*FULL.contests, *QUICK_CUDA, *FULL_CUDA)
    names = {name for contest in contests for name in contest.bounds}
    assert {name.split(", ")[0] for name in names} < set(HEADS)
    ways = {way for name in names for way in name.split(", ")[1:]}
    assert {f", {way}" for way in ways} == {TF32, BF16, FP16, COMPILED}
    for name in names:
        gradients_of(name, TINY, simulate(TINY))


@pytest.mark.parametrize(("way", "precision"), [("", "highest"), (TF32, "high"), (BF16, "highest"), (FP16, "highest")])
def test_a_head_is_computed_as_its_name_says(way: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, seen = simulate(TINY), []

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):
            seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
            return rows.clone()

        @staticmethod
        def backward(ctx, gradient):
            seen.append(torch.get_float32_matmul_precision())
            return gradient

    loss = HEADS[ARCFACE]
    monkeypatch.setitem(
        HEADS, ARCFACE, lambda case, found: loss(case, found._replace(embedding=Seen.apply(found.embedding)))
    )
    gradients = gradients_of(ARCFACE + way, TINY, problem)()
    assert seen == [(precision, "autocast" in way), precision]
    assert torch.get_float32_matmul_precision() == "highest"
    exact = gradients_of(COSFACE, TINY, problem)()
    assert [gradient.shape for gradient in gradients] == [gradient.shape for gradient in exact]


def test_an_opponent_that_is_not_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.functional, "linear_cross_entropy")
    monkeypatch.setenv("PATH", "")
    contest = Contest(TINY, {LINEAR: None, COSFACE + COMPILED: None, COSFACE: None, LIGER: None, CCE: None})
    assert [result.opponent for result in compete(contest, rounds=1)] == [COSFACE]
    assert [why_absent(name) for name in (LIGER, CCE + BF16, COSFACE)] == ["not installed", "not installed", None]


def test_no_rounds_are_refused() -> None:
    with pytest.raises(RecipeError, match="--rounds: found 0, expected at least 1"):
        head_report(QUICK, 0)
