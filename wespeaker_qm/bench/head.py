"""The sparse head beside dense heads: time, memory, and growth with the number of classes.

::

    HeadPlan --contests-> simulate -> the sparse head and its opponents in turn -> ratios beside their bounds
             --memory---> a fresh process, one step at its peak, beside what CosFace needs by arithmetic
             --growth---> the sparse head alone at several sizes in turn
             --steps----> the head with its optimiser, lazy and dense

A time is that of the loss from embeddings and prototypes, normalisation included, and of its gradients with respect to
both, on one thread. A bound that is missed is a finding about a machine, not an error.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from wespeaker_qm.bench.cases import Case, HeadInput, simulate
from wespeaker_qm.bench.child import in_child
from wespeaker_qm.bench.contestants import gradients_of, sparse_head, why_absent
from wespeaker_qm.bench.head_plans import SPARSE, Contest, HeadPlan
from wespeaker_qm.bench.head_steps import step_contest, steps_table
from wespeaker_qm.bench.head_tables import ContestResult, growth_table, memory_table, times_table
from wespeaker_qm.bench.machine import machine_facts
from wespeaker_qm.bench.memory import peak_in_child
from wespeaker_qm.bench.timing import in_turn, paired_ratios, quartiles
from wespeaker_qm.utils.allocator import keep_freed_pages
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.progress import Progress


def head_report(plan: HeadPlan, rounds: int, *, keep_pages: bool = False) -> str:
    """Measure, each row in a process of its own, and say how it went, in Markdown.

    Args:
        plan: what to measure.
        rounds: how often each time is taken.
        keep_pages: keep freed pages for all rows.

    Raises:
        RecipeError: rounds below 1.
    """
    check_rounds(rounds)
    total = sum(len(rows) for rows in plan)
    with Progress(total=total, desc="bench head", unit="row") as bar:
        peaks = {}
        for case in plan.memory:
            peaks[case] = peak_in_child(functools.partial(_cold_step, case))
            bar.update()
        facts = _facts(rounds)
        results = []
        for contest in plan.contests:
            contest = contest._replace(keep_pages=keep_pages or contest.keep_pages)
            results += in_child(functools.partial(compete, contest, rounds))
            bar.update()
        growth = in_child(functools.partial(grow, plan.growth, rounds))
        bar.update(len(plan.growth))
        steps = []
        for case in plan.steps:
            steps.append(in_child(functools.partial(step_contest, case, rounds)))
            bar.update()
    parts = [facts, times_table(results)]
    if peaks:
        parts.append(memory_table(peaks))
    if growth:
        parts.append(growth_table(growth))
    if steps:
        parts.append(steps_table(steps))
    return "\n\n".join(parts)


def check_rounds(rounds: int) -> None:
    """Refuse to measure nothing.

    Raises:
        RecipeError: rounds below 1.
    """
    if rounds < 1:
        raise RecipeError(f"--rounds: found {rounds}, expected at least 1; the medians settle from about 7 on")


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


def compete(contest: Contest, rounds: int) -> list[ContestResult]:
    """Time the sparse head and its opponents in turn, on one thread.

    Sets threads and allocator of this process.
    """
    torch.set_num_threads(1)
    pages_kept = contest.keep_pages and keep_freed_pages()
    problem = simulate(contest.case)
    contest = contest._replace(bounds={name: bound for name, bound in contest.bounds.items() if not why_absent(name)})
    steps = {name: gradients_of(name, contest.case, problem) for name in (SPARSE, *contest.bounds)}
    times_ms = in_turn(steps, rounds)
    support, candidates = sparsity_of(contest.case, problem)
    return [
        ContestResult(
            case=contest.case,
            support=support,
            candidates=candidates,
            opponent=name,
            opponent_ms=quartiles(times_ms[name]).median,
            sparse_ms=quartiles(times_ms[SPARSE]).median,
            ratio=paired_ratios(times_ms[SPARSE], times_ms[name]),
            bound=bound,
            pages_kept=pages_kept,
        )
        for name, bound in contest.bounds.items()
    ]


def grow(cases: tuple[Case, ...], rounds: int) -> dict[Case, float]:
    """Case -> median of the milliseconds of a step with sparse gradients, all cases in turn.

    Sets the threads of this process.
    """
    torch.set_num_threads(1)
    steps = {}
    for number, case in enumerate(cases):
        problem = simulate(case)
        steps[str(number)] = functools.partial(_sparse_step, case, problem)
    times_ms = in_turn(steps, rounds)
    return {case: quartiles(times_ms[str(number)]).median for number, case in enumerate(cases)}


def _sparse_step(case: Case, problem: HeadInput) -> tuple[Tensor, ...]:
    """Forward and backward with a sparse gradient."""
    loss = sparse_head(case, problem, sparse_gradient=True).loss.mean()
    return torch.autograd.grad(loss, (problem.embedding, problem.prototypes))


def sparsity_of(case: Case, problem: HeadInput) -> tuple[float, float]:
    """Mean support and mean number of candidates, in classes."""
    sparsity = sparse_head(case, problem).sparsity
    if sparsity is None:
        raise ValueError(f"found alpha {case.alpha}, expected a sparse one, above 1")
    return sparsity.support.mean().item(), sparsity.candidates.mean().item()


# --- memory ---------------------------------------------------------------------------------------------------------


def _cold_step(case: Case) -> Callable[[], object]:
    """A step that runs at its size for the first time, after a small one has made the process load what it needs."""
    small = case._replace(num_classes=min(case.num_classes, 10_000))
    for each in (small, case):
        problem = simulate(each)
        step = functools.partial(_sparse_step, each, problem)
        if each is small:
            step()
    return step
