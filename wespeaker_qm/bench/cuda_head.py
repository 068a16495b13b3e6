"""The sparse head beside its opponents on a CUDA device: time, started and as a graph, and memory.

::

    Contest -> simulate, several sets -> the sparse head and its opponents in turn -> DeviceTimes -> a row each

A time is that of the loss from embeddings and prototypes, normalisation included, and of its gradients with respect to
both. A bound that is missed is a finding about a machine, not an error.
"""

from collections.abc import Sequence

import torch

from wespeaker_qm.bench.cases import Case, HeadInput, simulate
from wespeaker_qm.bench.contestants import can_be_captured, gradients_of, why_absent
from wespeaker_qm.bench.device_timing import copy_bandwidth, num_sets, time_on_device
from wespeaker_qm.bench.head import check_rounds, sparsity_of
from wespeaker_qm.bench.head_plans import SPARSE, Contest
from wespeaker_qm.bench.head_tables import DeviceContest, device_table
from wespeaker_qm.bench.machine import gpu_facts, machine_facts
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.progress import Progress


def cuda_head_report(plan: Sequence[Contest], rounds: int) -> str:
    """Measure, all in this process, and say how it went, in Markdown.

    Args:
        plan: what to measure.
        rounds: how often each time is taken.

    Raises:
        RecipeError: rounds below 1, or no CUDA device.
    """
    check_rounds(rounds)
    if not torch.cuda.is_available():
        raise RecipeError("--device: found cuda, but this machine shows no GPU to PyTorch; leave it out to use the CPU")
    device = torch.device("cuda")
    bandwidth = copy_bandwidth()
    facts = [
        *machine_facts(),
        *gpu_facts(),
        f"- copies {bandwidth / 1e12:.2f} TB/s (bytes read and written); floor: each input read once and each gradient "
        "written once at that rate",
        f"- times: forward and backward, median of {rounds} rounds in turn, inputs in rotation, in ms; started: as a "
        "program starts the operations; graph: replayed as a CUDA graph; ratio: sparse head / opponent, median and "
        "quartiles over the rounds; MiB: peak beyond prototypes and embeddings, gradients included",
        "- heads without a named precision: float32 as IEEE has it; the sparse head's loss and gradients always",
    ]
    results = []
    with Progress(total=len(plan), desc="bench head", unit="contest") as bar:
        for contest in plan:
            results.append(compete_on_device(contest, rounds, device))
            bar.update()
    return "\n".join(facts) + "\n\n" + device_table(results, bandwidth)


def compete_on_device(contest: Contest, rounds: int, device: torch.device) -> DeviceContest:
    """Time the sparse head and its opponents in turn."""
    absent = {name: why for name in contest.bounds if (why := why_absent(name))}
    names = [SPARSE, *(name for name in contest.bounds if name not in absent)]
    problems = _problems(contest.case, device)
    steps = {name: [gradients_of(name, contest.case, problem) for problem in problems] for name in names}
    for name in names[1:]:
        try:
            steps[name][0]()
        except Exception as error:  # of another's code, of any kind: a row that says so, not the end of all rows
            absent[name] = f"failed, {type(error).__name__}"
            del steps[name]
    times = time_on_device(steps, rounds, can_be_captured)
    support, candidates = sparsity_of(contest.case, problems[0])
    return DeviceContest(contest, support, candidates, times, absent)


def _problems(case: Case, device: torch.device) -> list[HeadInput]:
    """Sets of inputs of the same kind, together larger than the device's cache."""
    sets = num_sets(4 * case.dim * (case.num_classes + case.batch))
    drawn = (simulate(case, seed) for seed in range(sets))
    return [
        HeadInput(
            embedding.detach().to(device).requires_grad_(),
            prototypes.detach().to(device).requires_grad_(),
            target.to(device),
        )
        for embedding, prototypes, target in drawn
    ]
