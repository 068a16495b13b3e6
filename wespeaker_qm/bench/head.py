"""The sparse head beside dense heads: time, memory, and growth with the number of classes.

::

    Plan --rows----> simulate -> the sparse head and its opponents in turn -> ratios beside their bounds
         --memory--> a fresh process, one step at its peak, beside what CosFace needs by arithmetic
         --growth--> the sparse head alone at several sizes in turn

A time is that of the loss from embeddings and prototypes, normalisation included, and of its gradients with respect to
both, on one thread. A bound that is missed is a finding about a machine, not an error.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from wespeaker_qm.bench.child import in_child
from wespeaker_qm.bench.machine import machine_facts
from wespeaker_qm.bench.memory import MIB, dense_cosface_bytes, peak_in_child
from wespeaker_qm.bench.opponents import arcface, bisection, cosface, top_bisection
from wespeaker_qm.bench.problems import Case, Problem, simulate
from wespeaker_qm.bench.timing import Quartiles, in_turn, paired_ratios, quartiles
from wespeaker_qm.losses.linear import LinearLoss, alpha_margin_linear
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.utils.allocator import keep_freed_pages
from wespeaker_qm.utils.errors import RecipeError

COSFACE = "CosFace + F.cross_entropy"
DENSE = "own CosFace (alpha 1)"
BISECTION = "bisection as in entmax"
FAST_BISECTION = "own bisection"
TOP_BISECTION = "own bisection, top 5 %"
ARCFACE = "ArcFace as in WeSpeaker"
_SPARSE = "sparse head"


class Row(NamedTuple):
    """A case, and opponent -> the ratio of times that the sparse head is to stay below; None: of interest only.

    With ``keep_pages`` the allocator keeps what is freed. By default it does not keep large blocks, and a dense head of
    so many classes then spends most of its time on being given the same pages again.
    """

    case: Case
    bounds: Mapping[str, float | None]
    keep_pages: bool = False


class Plan(NamedTuple):
    """What is measured.

    rows: for time. memory: for the peak with sparse gradients, which is to stay below `MEMORY_BOUND_MIB`. growth: for
    time with sparse gradients by the number of classes, the first being the reference.
    """

    rows: tuple[Row, ...]
    memory: tuple[Case, ...]
    growth: tuple[Case, ...]


MEMORY_BOUND_MIB = 150

_MIDDLE = Case(128, 256, 17_982, alpha=1.5, scale=10, margin=0.1, trained=False)
_SMALL = Case(128, 256, 5_994, alpha=1.75, scale=5, margin=0.1, trained=False)
_LARGE = Case(128, 512, 200_000, alpha=1.25, scale=35, margin=0.2, trained=False)
_HUGE = Case(64, 512, 1_000_000, alpha=1.25, scale=35, margin=0.2, trained=True)


def _worst(case: Case) -> Case:
    """A small alpha at a small scale before training: the support is wide, and a dense computation the right one."""
    return case._replace(alpha=1.25, scale=10)


QUICK = Plan(
    rows=(
        Row(_MIDDLE, {COSFACE: 0.65, DENSE: 0.85, BISECTION: 0.10, FAST_BISECTION: None, TOP_BISECTION: 0.50}),
        Row(
            _MIDDLE._replace(trained=True),
            {COSFACE: 0.40, DENSE: 0.50, BISECTION: 0.06, FAST_BISECTION: None, TOP_BISECTION: 0.25},
        ),
        Row(_worst(_MIDDLE), {COSFACE: 1.4, DENSE: None}),
        Row(_MIDDLE._replace(margin_type="angular"), {ARCFACE: None}),
        Row(_MIDDLE._replace(margin_type="angular", trained=True), {ARCFACE: None}),
        Row(_SMALL, {COSFACE: 0.55, DENSE: None}),
        Row(_SMALL._replace(trained=True), {COSFACE: 0.40, DENSE: None}),
        Row(_worst(_SMALL), {COSFACE: 1.4, DENSE: None}),
    ),
    memory=(),
    growth=(),
)
"""Sizes of VoxCeleb1 and 2 (with speeds) only: a minute, and less than 1 GiB of memory."""

FULL = Plan(
    rows=(
        *QUICK.rows,
        Row(_LARGE, {COSFACE: 0.45, DENSE: None}, keep_pages=True),
        Row(_LARGE._replace(trained=True), {COSFACE: 0.35, DENSE: None}, keep_pages=True),
        Row(_worst(_LARGE), {COSFACE: 1.4, DENSE: None}, keep_pages=True),
    ),
    memory=(_HUGE._replace(trained=False), _HUGE),
    growth=tuple(_HUGE._replace(num_classes=num_classes) for num_classes in (10_000, 100_000, 1_000_000)),
)
"""Up to a million classes: minutes, and 6 GiB of memory."""


class Comparison(NamedTuple):
    """One opponent in one case. Times in ms; ratio sparse / opponent, by rounds; support and candidates in classes."""

    case: Case
    support: float
    candidates: float
    opponent: str
    opponent_ms: float
    sparse_ms: float
    ratio: Quartiles
    bound: float | None
    pages_kept: bool

    @property
    def verdict(self) -> str:
        """``met`` or ``NOT met``; nothing without a bound."""
        return "" if self.bound is None else _verdict(self.ratio.median <= self.bound)


def head_report(plan: Plan, rounds: int, *, keep_pages: bool = False) -> str:
    """Measure, each row in a process of its own, and say how it went, in Markdown.

    Args:
        plan: what to measure.
        rounds: how often each time is taken.
        keep_pages: keep freed pages for all rows.

    Raises:
        RecipeError: rounds below 1.
    """
    if rounds < 1:
        raise RecipeError(f"--rounds: found {rounds}, expected at least 1; the medians settle from about 7 on")
    with tqdm(total=len(plan.memory) + len(plan.rows) + len(plan.growth), desc="bench head", unit="row") as bar:
        peaks = {}
        for case in plan.memory:
            peaks[case] = peak_in_child(functools.partial(_cold_step, case))
            bar.update()
        facts = _facts(rounds)
        comparisons = []
        for row in plan.rows:
            row = row._replace(keep_pages=keep_pages or row.keep_pages)
            comparisons += in_child(functools.partial(compare, row, rounds))
            bar.update()
        growth = in_child(functools.partial(grow, plan.growth, rounds))
        bar.update(len(plan.growth))
    parts = [facts, comparison_table(comparisons)]
    if peaks:
        parts.append(memory_table(peaks))
    if growth:
        parts.append(growth_table(growth))
    return "\n\n".join(parts)


def _facts(rounds: int) -> str:
    """What the figures depend on, as a Markdown list."""
    return "\n".join(
        [
            *machine_facts(),
            "- one thread; each row in a process of its own; pages: default, as the allocator comes, or kept, where it "
            "was told to keep what is freed",
            f"- times: forward and backward, median of {rounds} rounds in turn; ratio: sparse head / opponent, median "
            "and quartiles over the rounds",
        ]
    )


# --- time -----------------------------------------------------------------------------------------------------------


def compare(row: Row, rounds: int) -> list[Comparison]:
    """Time the sparse head and its opponents in turn, on one thread. Changes the process."""
    torch.set_num_threads(1)
    pages_kept = row.keep_pages and keep_freed_pages()
    problem = simulate(row.case)
    losses = {_SPARSE: _sparse_loss(row.case, problem), **_opponents(row.case, problem)}
    steps = {name: functools.partial(_gradients, losses[name], problem) for name in (_SPARSE, *row.bounds)}
    times_ms = in_turn(steps, rounds)
    support, candidates = _sparsity(row.case, problem)
    return [
        Comparison(
            case=row.case,
            support=support,
            candidates=candidates,
            opponent=name,
            opponent_ms=quartiles(times_ms[name]).median,
            sparse_ms=quartiles(times_ms[_SPARSE]).median,
            ratio=paired_ratios(times_ms[_SPARSE], times_ms[name]),
            bound=bound,
            pages_kept=pages_kept,
        )
        for name, bound in row.bounds.items()
    ]


def grow(cases: tuple[Case, ...], rounds: int) -> dict[Case, float]:
    """Case -> median of the milliseconds of a step with sparse gradients, all cases in turn. Changes the process."""
    torch.set_num_threads(1)
    steps = {}
    for number, case in enumerate(cases):
        problem = simulate(case)
        loss = _sparse_loss(case, problem, sparse_gradient=True)
        steps[str(number)] = functools.partial(_gradients, loss, problem)
    times_ms = in_turn(steps, rounds)
    return {case: quartiles(times_ms[str(number)]).median for number, case in enumerate(cases)}


def _sparse_head(case: Case, problem: Problem, *, sparse_gradient: bool = False) -> LinearLoss:
    return alpha_margin_linear(
        *problem,
        case.alpha,
        case.scale,
        case.margin,
        margin_type=case.margin_type,
        sparse_gradient=sparse_gradient,
    )


def _sparse_loss(case: Case, problem: Problem, *, sparse_gradient: bool = False) -> Callable[[], Tensor]:
    return lambda: _sparse_head(case, problem, sparse_gradient=sparse_gradient).loss.mean()


def _sparsity(case: Case, problem: Problem) -> tuple[float, float]:
    """Mean support and mean number of candidates, in classes."""
    sparsity = _sparse_head(case, problem).sparsity
    if sparsity is None:
        raise ValueError(f"found alpha {case.alpha}, expected a sparse one, above 1")
    return sparsity.support.mean().item(), sparsity.candidates.mean().item()


def _opponents(case: Case, problem: Problem) -> dict[str, Callable[[], Tensor]]:
    _, _, _, alpha, scale, margin, _, _ = case
    return {
        COSFACE: lambda: cosface(*problem, scale, margin),
        DENSE: lambda: alpha_margin_linear(*problem, 1.0, scale, margin).loss.mean(),
        BISECTION: lambda: bisection(*problem, alpha, scale, margin, as_in_entmax=True),
        FAST_BISECTION: lambda: bisection(*problem, alpha, scale, margin, as_in_entmax=False),
        TOP_BISECTION: lambda: top_bisection(*problem, alpha, scale, margin),
        ARCFACE: lambda: arcface(*problem, scale, margin),
    }


def _gradients(loss: Callable[[], Tensor], problem: Problem) -> tuple[Tensor, ...]:
    """Forward and backward; the gradients are the caller's to drop."""
    return torch.autograd.grad(loss(), (problem.embedding, problem.prototypes))


# --- memory ---------------------------------------------------------------------------------------------------------


def _cold_step(case: Case) -> Callable[[], object]:
    """In a process of its own: a step that has not run at its size yet, in a process that has run a small one."""
    small = case._replace(num_classes=min(case.num_classes, 10_000))
    for each in (small, case):
        problem = simulate(each)
        step = functools.partial(_gradients, _sparse_loss(each, problem, sparse_gradient=True), problem)
        if each is small:
            step()
    return step


# --- tables ---------------------------------------------------------------------------------------------------------


def comparison_table(comparisons: list[Comparison]) -> str:
    """One line an opponent."""
    header = [
        "B, D, C",
        "alpha/s/m",
        "data",
        "pages",
        "support %",
        "candidates %",
        "against",
        "its ms",
        "sparse ms",
        "ratio",
    ]
    header += ["quartiles", "bound", "verdict"]
    return markdown_table(header, [_comparison_cells(comparison) for comparison in comparisons])


def _comparison_cells(comparison: Comparison) -> list[str]:
    case, ratio, bound = comparison.case, comparison.ratio, comparison.bound
    return [
        f"{case.batch}, {case.dim}, {case.num_classes:,}",
        f"{case.alpha:g}/{case.scale:g}/{case.margin:g}" + ("" if case.margin_type == "reference" else " angular"),
        _data(case),
        "kept" if comparison.pages_kept else "default",
        f"{100 * comparison.support / case.num_classes:.2f}",
        f"{100 * comparison.candidates / case.num_classes:.2f}",
        comparison.opponent,
        f"{comparison.opponent_ms:.1f}",
        f"{comparison.sparse_ms:.1f}",
        f"{ratio.median:.3f}",
        f"{ratio.lower:.3f} to {ratio.upper:.3f}",
        "" if bound is None else f"{bound:.2f}",
        comparison.verdict,
    ]


def memory_table(peaks: Mapping[Case, int | None]) -> str:
    """Peak bytes of a step beyond prototypes and embeddings, by case."""
    rows = []
    for case, peak in peaks.items():
        dense_mib = dense_cosface_bytes(case.dim, case.num_classes) / MIB
        found = "not measurable without /proc" if peak is None else f"{peak / MIB:.1f}"
        verdict = "" if peak is None else _verdict(peak <= MEMORY_BOUND_MIB * MIB)
        size = f"{case.batch}, {case.dim}, {case.num_classes:,}"
        rows.append([size, _data(case), found, str(MEMORY_BOUND_MIB), verdict, f"{dense_mib:,.0f}"])
    header = ["B, D, C", "data", "peak MiB, sparse gradient", "bound", "verdict", f"{COSFACE}, computed"]
    return markdown_table(header, rows)


def growth_table(growth: Mapping[Case, float]) -> str:
    """Milliseconds by number of classes, the first being the reference."""
    per_class_us = {case: 1e3 * ms / case.num_classes for case, ms in growth.items()}
    reference = next(iter(per_class_us.values()))
    rows = [
        [f"{case.num_classes:,}", f"{ms:.1f}", f"{per_class_us[case]:.2f}", f"{per_class_us[case] / reference:.2f}"]
        for case, ms in growth.items()
    ]
    first = next(iter(growth))
    header = ["C", "sparse ms", "us a class", f"relative to {first.num_classes:,}"]
    return markdown_table(header, rows)


def _data(case: Case) -> str:
    return "trained" if case.trained else "init"


def _verdict(met: bool) -> str:
    return "met" if met else "NOT met"
