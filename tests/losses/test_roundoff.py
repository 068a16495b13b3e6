"""The bounds on cosines of low precision: never below an error that occurs, and not far above the worst."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wespeaker_qm.losses.roundoff import TF32, cosine_error
from wespeaker_qm.utils.precision import exact_float32

LOW = [torch.bfloat16, torch.float16]
ALL = [*LOW, TF32, torch.float32]


def low_cosines(rows: Tensor, others: Tensor, precision: torch.dtype | str) -> Tensor:
    """Of unit vectors in float64, as a product of matrices computes them in a precision."""
    with exact_float32():
        if isinstance(precision, torch.dtype):
            return (rows.to(precision) @ others.to(precision).T).double()
        return (cut_off(rows.float()) @ cut_off(others.float()).T).double()


def cut_off(rows: Tensor) -> Tensor:
    """Float32 without its last 13 bits, as the device reads it for a product in TF32."""
    return (rows.view(torch.int32) & ~0x1FFF).view(torch.float32)


def round_off(rows: Tensor, precision: torch.dtype | str) -> Tensor:
    """How far each component is moved."""
    return (cut_off(rows.float()) if isinstance(precision, str) else rows.to(precision)).double() - rows


@given(seed=st.integers(0, 10**6), dim=st.integers(1, 400), kind=st.sampled_from(["signs", "near", "wide", "few"]))
@pytest.mark.parametrize("precision", ALL)
def test_no_cosine_is_further_off(precision: torch.dtype | str, seed: int, dim: int, kind: str) -> None:
    """Against vectors made to be rounded as much as can be, all in one direction: of either sign, half-way, few."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(6, dim, generator=generator, dtype=torch.float64)
    if kind == "near":
        rows = 1 + 0.01 * rows
    elif kind == "wide":
        rows = torch.exp(8 * rows) * rows.sign()
    elif kind == "few":
        rows[:, 3:] *= 1e-6
    rows = F.normalize(rows)
    # What rounding adds to each component, as an opponent: the errors of all components then add up.
    error = round_off(rows, precision)
    if kind == "signs" and error.any():
        rows = torch.cat([rows, F.normalize(error[error.any(1)]), F.normalize(rows + 0.2 * F.normalize(error))])
    exact = rows @ rows.T
    assert (low_cosines(rows, rows, precision) - exact).abs().max() <= cosine_error(precision, dim)


@pytest.mark.parametrize(("precision", "share"), [(torch.bfloat16, 0.6), (torch.float16, 0.55), (TF32, 0.6)])
def test_the_bounds_are_nearly_met(precision: torch.dtype | str, share: float) -> None:
    """Constant vectors whose components lie where rounding moves them furthest: half-way, or before the next number."""
    dims = torch.arange(4, 4097)
    component = dims.double().rsqrt()
    worst = (round_off(component, precision).abs() / component).argmax()
    dim, row = int(dims[worst]), torch.full((1, int(dims[worst])), component[worst].item(), dtype=torch.float64)
    error = (low_cosines(row, row, precision) - 1).abs().item()
    assert share * cosine_error(precision, dim) < error <= cosine_error(precision, dim)


@pytest.mark.parametrize("precision", ALL)
@pytest.mark.parametrize("dim", [3, 513, 8192])
def test_sums_of_any_length(precision: torch.dtype | str, dim: int) -> None:
    """Nearly equal rows: the products all have one sign, and the sum is as far from its terms as it can be."""
    rows = F.normalize(1 + 0.01 * torch.randn(20, dim, dtype=torch.float64))
    error = (low_cosines(rows, rows, precision) - rows @ rows.T).abs().max().item()
    assert 0 < error <= cosine_error(precision, dim)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("dim", [1, 64, 8192])
def test_the_bound_is_not_below_the_worst_case(dtype: torch.dtype, dim: int) -> None:
    """Three roundings by 1 + u each, a sum of float32, and components below the smallest normal number."""
    u = torch.finfo(dtype).eps / 2
    worst = (1 + u) ** 3 - 1 + dim * 2**-24 + dim**0.5 * 2**-24
    assert worst <= cosine_error(dtype, dim) <= worst + u**2 + dim * 2**-22


def test_the_bound_of_tf32_and_float32() -> None:
    for precision, u in ((TF32, 2**-10), (torch.float32, 2**-24)):
        worst = (1 + u) ** 2 - 1 + 64 * 2**-24
        assert worst <= cosine_error(precision, 64) <= worst + 64 * 2**-22
