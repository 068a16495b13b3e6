"""The heads of a contest by name: which loss, in which precision, compiled or not.

A name is that of a head of `HEADS`; how it is computed may follow: ``"CosFace + F.cross_entropy, TF32"``.
"""

import contextlib
import functools
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from wespeaker_qm.bench import opponents
from wespeaker_qm.bench.cases import Case, HeadInput
from wespeaker_qm.bench.head_plans import (
    ARCFACE,
    BISECTION,
    CCE,
    COSFACE,
    DENSE,
    FAST_BISECTION,
    LIGER,
    LINEAR,
    PARTIAL_FC,
    SAMPLED_FC,
    SPARSE,
    TOP_BISECTION,
    TOP_PERCENT,
)
from wespeaker_qm.losses.linear import LinearLoss, alpha_margin_linear

Loss = Callable[[Case, HeadInput], Tensor]


def sparse_head(case: Case, problem: HeadInput, *, sparse_gradient: bool = False) -> LinearLoss:
    """The head that is measured."""
    return alpha_margin_linear(
        *problem,
        case.alpha,
        case.scale,
        case.margin,
        margin_type=case.margin_type,
        sparse_gradient=sparse_gradient,
    )


def _cosface(case: Case, problem: HeadInput) -> Tensor:
    return opponents.cosface(*problem, case.scale, case.margin)


def _arcface(case: Case, problem: HeadInput) -> Tensor:
    return opponents.arcface(*problem, case.scale, case.margin)


def _partial_fc(case: Case, problem: HeadInput, *, rate: float) -> Tensor:
    return opponents.partial_fc(*problem, case.scale, case.margin, rate)


def _bisection(case: Case, problem: HeadInput, *, as_in_entmax: bool) -> Tensor:
    return opponents.bisection(*problem, case.alpha, case.scale, case.margin, as_in_entmax=as_in_entmax)


def _top_bisection(case: Case, problem: HeadInput, *, share: float) -> Tensor:
    return opponents.top_bisection(*problem, case.alpha, case.scale, case.margin, share=share)


HEADS: Mapping[str, Loss] = {
    SPARSE: lambda case, problem: sparse_head(case, problem).loss.mean(),
    DENSE: lambda case, problem: alpha_margin_linear(*problem, 1.0, case.scale, case.margin).loss.mean(),
    COSFACE: _cosface,
    ARCFACE: _arcface,
    PARTIAL_FC: functools.partial(_partial_fc, rate=1.0),
    SAMPLED_FC: functools.partial(_partial_fc, rate=0.1),
    BISECTION: functools.partial(_bisection, as_in_entmax=True),
    FAST_BISECTION: functools.partial(_bisection, as_in_entmax=False),
    TOP_BISECTION: functools.partial(_top_bisection, share=0.05),
    TOP_PERCENT: functools.partial(_top_bisection, share=0.01),
    LINEAR: lambda case, problem: opponents.linear_cross_entropy(*problem, case.scale),
    LIGER: lambda case, problem: opponents.liger(*problem, case.scale),
    CCE: lambda case, problem: opponents.cut_cross_entropy(*problem, case.scale),
}

_PACKAGES = {LIGER: "liger_kernel", CCE: "cut_cross_entropy"}
_COMPILED = "torch.compile"
_WAITING = (LIGER, CCE)  # they ask the device for numbers


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Products of float32 matrices as TF32, as ``torch.set_float32_matmul_precision("high")`` has them."""
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(found)


def _autocast(problem: HeadInput, dtype: torch.dtype) -> AbstractContextManager[None]:
    return torch.autocast(problem.embedding.device.type, dtype)


_PRECISIONS: Mapping[str, Callable[[HeadInput], AbstractContextManager[None]]] = {
    "TF32": lambda problem: _tf32(),
    "bf16 autocast": functools.partial(_autocast, dtype=torch.bfloat16),
    "fp16 autocast": functools.partial(_autocast, dtype=torch.float16),
}
"""How a head is computed -> the context of its forward, and for TF32 of its backward. Without, float32 is IEEE's."""


def gradients_of(name: str, case: Case, problem: HeadInput) -> Callable[[], tuple[Tensor, ...]]:
    """A step of a head: forward and backward.

    The gradients are returned, so that they are in memory as in a training step.
    """
    head, *ways = name.split(", ")
    loss = _compiled(head, case) if _COMPILED in ways else functools.partial(HEADS[head], case)
    forward = [_PRECISIONS[way] for way in ways if way != _COMPILED]
    is_tf32 = "TF32" in ways

    def step() -> tuple[Tensor, ...]:
        with contextlib.ExitStack() as around:
            for precision in forward:
                around.enter_context(precision(problem))
            value = loss(problem)
        with _tf32() if is_tf32 else contextlib.nullcontext():
            return torch.autograd.grad(value, (problem.embedding, problem.prototypes))

    return step


@functools.cache
def _compiled(head: str, case: Case) -> Callable[[HeadInput], Tensor]:
    return torch.compile(functools.partial(HEADS[head], case), dynamic=False)


def why_absent(name: str) -> str | None:
    """Why a head cannot run here, or None."""
    head, *ways = name.split(", ")
    if head == LINEAR and not hasattr(torch.nn.functional, "linear_cross_entropy"):
        return f"not in PyTorch {torch.__version__}"
    if head in _PACKAGES and importlib.util.find_spec(_PACKAGES[head]) is None:
        return "not installed"
    if _COMPILED in ways and not torch.cuda.is_available() and shutil.which("c++") is None:
        return "no C++ compiler"
    return None


def can_be_captured(name: str) -> bool:
    """Whether a head may be captured in a CUDA graph: it must not wait for the device."""
    return name.split(", ")[0] not in _WAITING
