"""The sums over classes, and the root that they lead to, against powers of float64."""

import re

import pytest
import torch
from torch import Tensor

from wespeaker_qm.losses import root
from wespeaker_qm.losses.root import Sums, add_sums, class_sums, newton_root, posterior_of, with_class

SMALL_POWERS = [1 / power for power in range(1, 8)]  # the first few are computed as products


def masses(gap: Tensor, a: float, height: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """w and w / share of each class."""
    share = (1 - gap / height).clamp(min=0)
    mass = log_q.exp() * share ** (1 / a)
    return mass, torch.where(share > 0, mass / share, 0.0)


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Gaps (6, 40), some out of the support; heights (6, 1); log q (6, 40)."""
    gap = 3 * torch.rand(6, 40, dtype=torch.float64)
    gap[:, 7] = 0
    return gap, 1 + torch.rand(6, 1, dtype=torch.float64), -torch.rand(6, 40, dtype=torch.float64)


@pytest.mark.parametrize("a", [*SMALL_POWERS, 0.7, 0.3, 0.01])
@pytest.mark.parametrize("with_reference", [False, True])
def test_sums_are_of_powers_of_the_shares(
    a: float, with_reference: bool, problem: tuple[Tensor, Tensor, Tensor]
) -> None:
    gap, height, log_q = problem
    reference = log_q if with_reference else None
    mass, slope = masses(gap, a, height, log_q if with_reference else torch.zeros_like(log_q))
    sums = class_sums(gap, a, height, reference)
    unit = sums.log_unit.exp()
    torch.testing.assert_close(sums.total * unit, mass.sum(1, keepdim=True), rtol=1e-12, atol=0)
    torch.testing.assert_close(sums.slope * unit, slope.sum(1, keepdim=True), rtol=1e-12, atol=0)

    posterior, share = posterior_of(gap, a, root.Root(height, mass.sum(1, keepdim=True).log()), reference)
    torch.testing.assert_close(posterior, mass / mass.sum(1, keepdim=True), rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(share, (1 - gap / height).clamp(min=0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("a", [1.0, 0.5, 0.3, 0.01])
@pytest.mark.parametrize("log_unit", [0.0, -2000.0, 2000.0])
def test_parts_add_up_however_small_or_large_the_masses(
    a: float, log_unit: float, problem: tuple[Tensor, Tensor, Tensor]
) -> None:
    gap, height, log_q = problem
    log_q = log_q + log_unit
    whole = class_sums(gap, a, height, log_q)
    first = class_sums(gap[:, :25], a, height, log_q[:, :25])
    rest = class_sums(gap[:, 25:39], a, height, log_q[:, 25:39])
    parts = with_class(add_sums(first, rest), gap[:, 39:], a, height, log_q[:, 39:])
    for actual, wanted in zip(in_logarithms(parts), in_logarithms(whole), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


def in_logarithms(sums: Sums) -> tuple[Tensor, Tensor]:
    return sums.log_unit + sums.total.log(), sums.log_unit + sums.slope.log()


@pytest.mark.parametrize("a", [1.0, 0.5, 0.3, 0.05])
@pytest.mark.parametrize("distance", [1.0, 1e-6, 1e-12, 0.0])
def test_at_the_root_the_masses_sum_to_one_to_the_last_digits(
    a: float, distance: float, problem: tuple[Tensor, Tensor, Tensor]
) -> None:
    """From far above it, and from so near that the only step is the last one, which is taken to first order."""
    gap, _, _ = problem
    eps = torch.finfo(gap.dtype).eps
    far = torch.full((6, 1), torch.inf, dtype=gap.dtype)

    def solve(height: Tensor) -> root.Root:
        return newton_root(lambda at: class_sums(gap, a, at), a, height, eps, at_most=far)

    start = solve(torch.full((6, 1), 40.0**a, dtype=gap.dtype) + gap.amax()).height
    found = solve(start * (1 + distance))
    power_of_sum = a * found.log_total + found.height.log()
    assert power_of_sum.abs().max() < 4e-15
    mass, _ = masses(gap, a, found.height, torch.zeros_like(gap))
    torch.testing.assert_close(found.log_total, mass.sum(1, keepdim=True).log(), rtol=0, atol=1e-14 / a)


def test_no_convergence_counts_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five rows the first is at its root, and the second so near that no step is left to take."""
    monkeypatch.setattr(root, "_MAX_ITERATIONS", 1)
    gap = torch.tensor([[0, 9], [0, 0], [0, 0.1], [0, 0.2], [0, 0.3]], dtype=torch.float64)
    height = torch.tensor([[1], [0.5**0.5 * (1 + 1e-6)], [2], [2], [2]], dtype=torch.float64)
    message = "no root of the alpha-divergence posterior after 1 iterations at alpha 1.5 in 3 of 5 rows"
    with pytest.raises(ArithmeticError, match=re.escape(message)):
        newton_root(lambda at: class_sums(gap, 0.5, at), 0.5, height, 1e-7, at_most=height)
