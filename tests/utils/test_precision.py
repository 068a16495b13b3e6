"""Exact float32 within a context, and the user's switches as they were behind it."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from wespeaker_qm.utils.precision import exact_float32, matmul_as_convolutions

OPERATIONS = {
    "cuda.matmul": torch.backends.cuda.matmul,
    "cudnn.conv": torch.backends.cudnn.conv,
    "mkldnn.matmul": torch.backends.mkldnn.matmul,
    "mkldnn.conv": torch.backends.mkldnn.conv,
}


def state() -> dict[str, Any]:
    """What every operation is allowed at this moment."""
    matmul = torch.backends.cuda.matmul
    return {
        **{name: operation.fp32_precision for name, operation in OPERATIONS.items()},
        "bf16": (
            matmul.allow_bf16_reduced_precision_reduction,
            matmul.allow_bf16_reduced_precision_reduction_split_k,
        ),
        "fp16": (
            matmul.allow_fp16_reduced_precision_reduction,
            matmul.allow_fp16_reduced_precision_reduction_split_k,
            matmul.allow_fp16_accumulation,
        ),
    }


def assert_exact() -> None:
    found = state()
    assert {found[name] for name in OPERATIONS} <= {"ieee", "none"}
    assert torch.backends.fp32_precision == "none" or {found[name] for name in OPERATIONS} == {"ieee"}
    assert found["bf16"][0] is False and found["fp16"][::2] == (False, False)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for operation in OPERATIONS.values():
        operation.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    torch.backends.cuda.matmul.allow_fp16_accumulation = False


def _each_on_its_own() -> None:
    for operation in OPERATIONS.values():
        operation.fp32_precision = "tf32"


WAYS: dict[str, Callable[[], None]] = {
    "default": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "highest": lambda: torch.set_float32_matmul_precision("highest"),
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "all backends": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "cuda alone": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "each operation": _each_on_its_own,
    "cudnn off": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "half sums": lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", True),
    "no reduced sums": lambda: setattr(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
}
every_way = pytest.mark.parametrize("switch_on", WAYS.values(), ids=WAYS.keys())


@every_way
def test_every_way_to_allow_less_is_off_inside_and_as_before_behind(switch_on: Callable[[], None]) -> None:
    switch_on()
    before = state()
    for _ in range(2):
        with exact_float32():
            assert_exact()
            with exact_float32():
                assert_exact()
            assert_exact()
        assert state() == before
    with pytest.raises(KeyError), exact_float32():
        raise KeyError
    assert state() == before


def test_the_older_switch_can_be_read_behind_it() -> None:
    """PyTorch refuses to tell it where the older and the newer switches contradict each other."""
    torch.set_float32_matmul_precision("high")
    with exact_float32():
        pass
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cuda.matmul.allow_tf32


def test_a_switch_above_goes_on_deciding() -> None:
    torch.backends.fp32_precision = "tf32"
    with exact_float32():
        assert_exact()
    torch.backends.fp32_precision = "none"
    assert torch.backends.cuda.matmul.fp32_precision == "none"


def test_contexts_of_several_threads_overlap() -> None:
    """The first to leave must not switch the other's products back, nor the last one forget the user's choice."""
    torch.set_float32_matmul_precision("high")
    before = state()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with exact_float32():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with exact_float32():
        thread.start()
        assert entered.wait(10)
    assert_exact()
    leave.set()
    thread.join()
    assert state() == before


@pytest.mark.parametrize("convolutions", ["tf32", "ieee"])
@pytest.mark.parametrize("products", ["tf32", "ieee"])
def test_products_as_convolutions_for_a_while(convolutions: str, products: str) -> None:
    OPERATIONS["cudnn.conv"].fp32_precision = convolutions
    OPERATIONS["cuda.matmul"].fp32_precision = products
    before = state()
    with matmul_as_convolutions():
        assert OPERATIONS["cuda.matmul"].fp32_precision == convolutions
    assert state() == before
