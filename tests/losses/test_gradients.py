"""Vectors of any norm brought into range, which must cost no digit; `test_linear` compares the gradients themselves."""

import math

import pytest
import torch

from wespeaker_qm.losses.gradients import at_own_norms, in_range


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 37), (torch.float64, 307)])
def test_extreme_rows_are_themselves_times_a_power_of_two(dtype: torch.dtype, largest: int) -> None:
    """The norms are one, then from the smallest numbers of the type to the largest, of even and odd exponents."""
    powers_of_ten = torch.cat([torch.zeros(1), torch.linspace(-largest, largest, 41)]).double()
    vectors = (torch.randn(42, 8, dtype=torch.float64) * 10 ** powers_of_ten[:, None]).to(dtype)
    vectors[5] = 0
    rows, inverse_norms, exponents = in_range(vectors)
    assert exponents is not None and exponents[0] == exponents[5] == 0
    assert torch.equal(torch.ldexp(rows.double(), exponents[:, None]), vectors.double())
    is_scaled = exponents != 0
    assert is_scaled.sum() > 20
    largest_components = rows[is_scaled].abs().amax(1)
    assert ((largest_components >= 0.5) & (largest_components < 1)).all()
    expected = torch.where(torch.arange(42) == 5, 0.0, 1 / torch.linalg.vector_norm(rows.double(), dim=1))
    torch.testing.assert_close(inverse_norms.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)

    gradient = torch.randn(42, 8, dtype=dtype)
    own = torch.ldexp(gradient.double(), -exponents[:, None]).to(dtype)
    limit = torch.finfo(dtype).max
    assert torch.equal(at_own_norms(gradient, exponents), own.clamp(-limit, limit))


def test_ordinary_rows_are_not_copied() -> None:
    vectors = torch.randn(3, 8)
    rows, _, exponents = in_range(vectors)
    assert rows is vectors and exponents is None
    assert at_own_norms(vectors, None) is vectors


def test_the_direction_of_a_gradient_that_overflows_is_kept_and_nan_stays() -> None:
    limit = torch.finfo(torch.float32).max
    gradient = torch.tensor([[1.0, -1.0, 0.0], [math.nan, math.inf, 1.0]])
    found = at_own_norms(gradient, torch.tensor([-130, -130]))
    assert found[0].tolist() == [limit, -limit, 0]
    assert found[1, 0].isnan() and found[1, 1] == math.inf


def test_a_row_that_is_not_finite_is_left_alone() -> None:
    vectors = torch.tensor([[math.inf, 3.0], [1e30, 2e30], [math.nan, 1e-30]])
    rows, _, exponents = in_range(vectors)
    assert exponents is not None and exponents.tolist() == [0, 101, 0]  # 2e30 is 0.79 2^101
    torch.testing.assert_close(rows[[0, 2]], vectors[[0, 2]], rtol=0, atol=0, equal_nan=True)
