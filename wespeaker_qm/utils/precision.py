"""Float32 that is float32, whatever PyTorch's process-wide switches say.

``torch.set_float32_matmul_precision("high")``, ``torch.backends.cuda.matmul.allow_tf32``,
``torch.backends.fp32_precision`` and the environment's TORCH_ALLOW_TF32_CUBLAS_OVERRIDE let products of float32
matrices round their factors to TF32 (11 bits) or bfloat16 (8 bits); for cuDNN's convolutions that is PyTorch's default.
A network trains well on it. A loss, and features and embeddings that are compared with others', must not depend on it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_backends: Any = torch.backends  # some of its parts are unknown to the type checker

# Owner, attribute, value within `exact_float32`. The switches of each backend and operation decide over all others.
_SWITCHES: list[tuple[Any, str, Any]] = [
    *(
        (operation, "fp32_precision", "ieee")
        for operation in (
            _backends.cuda.matmul,
            _backends.cudnn.conv,
            _backends.mkldnn.matmul,
            _backends.mkldnn.conv,
        )
    ),
    # Sums and partial sums of products of half-precision matrices, which cuBLAS may otherwise round to half precision.
    (_backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
    (_backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
    (_backends.cuda.matmul, "allow_fp16_accumulation", False),
]

_lock = threading.Lock()
_inside = 0  # contexts entered and not left, in all threads
_found: list[tuple[Any, str, Any]] = []  # what the first of them found and the last puts back


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products and convolutions of float32 are IEEE float32 (half-precision ones add in float32); then as before.

    The switches hold for the whole process and for all its threads, among them the one in which autograd runs a
    backward on a GPU. So contexts may be nested and may overlap in several threads: the first one sets the switches,
    the last one puts them back. A switch that is exact already is not touched.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _set_exact()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _put_back()


@contextmanager
def matmul_as_convolutions() -> Iterator[None]:
    """Products of float32 matrices on a GPU round their factors as convolutions may; then as before."""
    matmul, convolutions = _backends.cuda.matmul, _backends.cudnn.conv
    found, matmul.fp32_precision = matmul.fp32_precision, convolutions.fp32_precision
    try:
        yield
    finally:
        matmul.fp32_precision = found


def _set_exact() -> None:
    for owner, name, exact in _SWITCHES:
        found = getattr(owner, name)
        if found not in (exact, "none"):  # none, of this switch and of those above it: nothing is allowed
            _found.append((owner, name, found))
            setattr(owner, name, exact)


def _put_back() -> None:
    while _found:
        owner, name, found = _found.pop()
        if name == "fp32_precision":
            # "none" hands the decision to the switches above: if they give what was found, they go on deciding.
            owner.fp32_precision = "none"
            if owner.fp32_precision == found:
                continue
        setattr(owner, name, found)
