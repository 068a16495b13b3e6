"""Table 4 of the paper with this GPU's heads: what a head costs in a training on two million classes over 8 devices.

::

    1,024 embeddings x one eighth of the classes -> head: forward, backward; SGD of the prototypes       measured here
    batch / samples a second of the paper's ArcFace, less all that is ArcFace's here -> rest of a step   the paper's
    number and bytes of the collectives, a latency and a bandwidth                                       computed

So the row of ArcFace is the paper's by construction, and each other row says what its head would change. The rest of a
step is that of the paper's A100s, on which the heads, too, would take longer than on a newer card: a composition, not a
training.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wespeaker_qm.bench.cases import Case, HeadInput, simulate
from wespeaker_qm.bench.contestants import can_be_captured, gradients_of
from wespeaker_qm.bench.device_timing import Step, time_on_device
from wespeaker_qm.bench.head import check_rounds, sparsity_of
from wespeaker_qm.bench.head_plans import FAST_BISECTION, FP16, PARTIAL_FC, SPARSE, TF32, TOP_BISECTION, TOP_PERCENT
from wespeaker_qm.bench.machine import gpu_facts, machine_facts
from wespeaker_qm.bench.opponents import BISECTIONS
from wespeaker_qm.bench.timing import quartiles
from wespeaker_qm.losses.heads import QMarginHead
from wespeaker_qm.losses.prototype_sgd import PrototypeSGD
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.utils.errors import RecipeError

DEVICES = 8
CASE = Case(128 * DEVICES, 512, 2_059_906 // DEVICES, alpha=1.25, scale=32, margin=0.2, trained=True)
"""Of one device: the embeddings of all, 128 each, and its part of WebFace42M's classes; as at the end of a training."""

LATENCY_MS = 0.02
BANDWIDTH = 200e9
"""Of a collective among the 8 A100s of a machine: about what NCCL reaches over NVLink, bytes a second and device."""

_PLACES = 1024  # of the candidates of a row in an exchange


class Collectives(NamedTuple):
    """What a head sends among the devices in a step: how often, and bytes that leave each device in all."""

    number: int
    num_bytes: float

    @property
    def milliseconds(self) -> float:
        """Computed, not measured."""
        return self.number * LATENCY_MS + 1e3 * self.num_bytes / BANDWIDTH


SGD, FUSED_SGD = "SGD", "SGD, fused"
"""PyTorch's, as they come and in one pass over all numbers."""


class Method(NamedTuple):
    """A row of the table: its name there, the head that is measured for it, and the paper's samples a second."""

    name: str
    head: str
    paper: float | None
    sgd: str | None = SGD
    """Which step of the prototypes, or None where the head's time has it in it, of `PrototypeSGD`."""
    trained: bool = True
    """Whether embeddings and prototypes are as at the end of a training, or random."""


ARCFACE_SAMPLES_S = 2005.13
"""Of the paper, 8 A100s and ResNet-100."""

ARCFACE = Method("ArcFace", PARTIAL_FC + FP16, ARCFACE_SAMPLES_S)
METHODS = (
    ARCFACE,
    Method("Q-Margin (1 %)", TOP_PERCENT + TF32, 1978.07),
    Method("Q-Margin (5 %)", TOP_BISECTION + TF32, 1900.26),
    Method("Q-Margin (100 %)", FAST_BISECTION + TF32, 1466.45),
    Method("Q-Margin, this project, trained", SPARSE, None, FUSED_SGD),
    Method("Q-Margin, this project, at the start", SPARSE, None, FUSED_SGD, trained=False),
    Method("Q-Margin, this project's SGD, trained", SPARSE, None, sgd=None),
    Method("Q-Margin, this project's SGD, at the start", SPARSE, None, sgd=None, trained=False),
)


def table4_report(rounds: int) -> str:
    """Measure the heads of Table 4, and print them beside it, in Markdown.

    Args:
        rounds: how often each time is taken.

    Raises:
        RecipeError: rounds below 1, or no GPU.
    """
    check_rounds(rounds)
    if not torch.cuda.is_available():
        raise RecipeError(
            "bench table4: this machine shows no GPU to PyTorch, expected one: the rest of a step is that of the "
            "paper's GPUs. Heads on a CPU are measured by wespeaker-qm bench head"
        )
    problems = {trained: _problem(CASE._replace(trained=trained)) for trained in (True, False)}
    heads = {method.name: method.head for method in METHODS}
    steps = steps_of(CASE, problems)
    times = time_on_device(steps, rounds, lambda name: name in heads and can_be_captured(heads[name]))
    sparsities = [sparsity_of(CASE, problem) for problem in problems.values()]
    support, candidates = (" and ".join(f"{mean:.0f}" for mean in means) for means in zip(*sparsities, strict=True))
    facts = [
        *machine_facts(),
        *gpu_facts(),
        f"- measured here: head, forward and backward of {CASE.batch:,} embeddings x {CASE.num_classes:,} classes, D "
        f"{CASE.dim}, prototypes trained as simulated or random, in one process, as CUDA graphs; their SGD, for this "
        f"project fused or, as `PrototypeSGD`, together with the head; medians of {rounds} rounds",
        f"- this project's head, exact: trained and at the start {support} of these classes in the support of a row, "
        f"{candidates} candidates; in the paper's training 1,020 of all on average. It solves all {CASE.batch:,} rows "
        f"here, and {CASE.batch // DEVICES} of them on each of {DEVICES} devices",
        f"- from the paper: samples/s, and with them the rest of a step ({DEVICES} A100s, ResNet-100)",
        f"- computed: collectives, {LATENCY_MS} ms each and {BANDWIDTH / 1e9:.0f} GB/s; no network was used",
        f"- heads: {'; '.join(f'{method.name}: {method.head}' for method in METHODS)}",
    ]
    # As a graph, where there is one: in a training the program has started a head long before the device comes to it.
    medians = {name: quartiles(found.replayed_ms or found.started_ms).median for name, found in times.items()}
    return "\n".join(facts) + "\n\n" + table4(medians)


def _problem(case: Case) -> HeadInput:
    embedding, prototypes, target = (tensor.detach().to("cuda") for tensor in simulate(case))
    return HeadInput(embedding.requires_grad_(), prototypes.requires_grad_(), target)


def steps_of(case: Case, problems: Mapping[bool, HeadInput]) -> dict[str, list[Step]]:
    """What is measured, by the name of the method or of the optimiser's step.

    Args:
        case: scale, margin and alpha.
        problems: trained or not -> inputs.
    """
    steps: dict[str, list[Step]] = {}
    for method in METHODS:
        problem = problems[method.trained]
        steps[method.name] = [gradients_of(method.head, case, problem) if method.sgd else _head_with_sgd(case, problem)]
    for name in (SGD, FUSED_SGD):
        steps[name] = [_sgd(problems[True].prototypes, fused=name == FUSED_SGD)]
    return steps


def _sgd(prototypes: Tensor, *, fused: bool) -> Step:
    """A step of rows like these, with the paper's momentum and decay."""
    weight = prototypes.detach().clone().requires_grad_()
    weight.grad = torch.zeros_like(weight)
    step: Step = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4, fused=fused).step
    return step


def _head_with_sgd(case: Case, problem: HeadInput) -> Step:
    """A step of a head and its prototypes, which stay nearly where they are, as those of the other heads do."""
    head = QMarginHead(case.dim, case.num_classes, scale=case.scale, alpha=case.alpha)
    head.weight = nn.Parameter(problem.prototypes.detach().clone())
    optimizer = PrototypeSGD([head.weight], head, lr=1e-9, momentum=0.9, weight_decay=5e-4, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad()
        embedding = problem.embedding.detach().requires_grad_()
        loss: Tensor = head(embedding, problem.target, case.margin).loss.mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def collectives_of(method: Method, case: Case) -> Collectives:
    """Ours: those of `losses.solve`. Others: PartialFC_V2's.

    They are of embeddings, labels, largest logits, sums, losses and gradients; a bisection over classes that are
    divided has another for each of its steps.
    """
    share = (DEVICES - 1) / DEVICES
    rows, places = 4.0 * case.batch * case.dim, 4.0 * case.batch * _PLACES
    if method.head == SPARSE:
        return Collectives(6, share * 2 * (rows + places))
    return Collectives(6 if method is ARCFACE else 6 + BISECTIONS, share * 2 * rows)


def table4(milliseconds: Mapping[str, float], case: Case = CASE) -> str:
    """The table, from the milliseconds of the methods' heads and of the optimisers."""

    def own_ms(method: Method) -> float:
        sgd_ms = 0.0 if method.sgd is None else milliseconds[method.sgd]
        return milliseconds[method.name] + sgd_ms + collectives_of(method, case).milliseconds

    paper_ms = 1e3 * case.batch / ARCFACE_SAMPLES_S
    rest_ms = paper_ms - own_ms(ARCFACE)
    rows = []
    for method in METHODS:
        step_ms = rest_ms + own_ms(method)
        rows.append(
            [
                method.name,
                f"{milliseconds[method.name]:.2f}",
                "in the head's" if method.sgd is None else f"{milliseconds[method.sgd]:.2f}",
                f"{collectives_of(method, case).milliseconds:.2f}",
                f"{rest_ms:.1f}",
                f"{1e3 * case.batch / step_ms:.1f}",
                f"{100 * (step_ms / paper_ms - 1):+.2f} %",
                "" if method.paper is None else f"{method.paper:.2f}",
                "" if method.paper is None else f"{100 * (ARCFACE_SAMPLES_S / method.paper - 1):+.2f} %",
            ]
        )
    header = ["loss", "head ms, measured", "SGD ms, measured", "collectives ms, computed", "rest ms, from the paper"]
    header += ["samples/s, composed", "over ArcFace", "samples/s, paper", "over ArcFace, paper"]
    return markdown_table(header, rows)
