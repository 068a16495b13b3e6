"""The gradients of prototypes before anybody has written them down: whose derivatives each class adds up.

A gradient (n, D) is as large as the prototypes. Kernels make it of the lists here, a class at a time: to write it where
autograd wants it, for its norm, or in passing, as the step of SGD reads and writes the class's prototype.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class StepSettings(NamedTuple):
    """Of a step of `torch.optim.SGD`: learning rate, mu, decay, and whether it is Nesterov's."""

    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool


class ClassSums(NamedTuple):
    """sum_b g_bj x-hat_b of each class, as lists: of what :class:`fused_filter.Candidates` found.

    Legend: B rows, n classes, D dimensions, K places for the candidates of a row; g = d loss / d cosine.
    """

    inverse_norms: Tensor
    """1 / norms (n,) float64 of the prototypes."""
    unit: Tensor
    """Unit embeddings (B, D)."""
    order: Tensor
    """(B K,) int64 places of the candidates, sorted by their class, and within a class by row."""
    offsets: Tensor
    """(n + 1,) int64: where in ``order`` each class begins."""
    derivative: Tensor
    """g (B, K)."""
    target: Tensor
    """(B,) int64 that are classes."""
    number: Tensor
    """(B,) int32 candidates; rows with more than K are solved again for each class."""
    num_wide: Tensor
    """() int64 of these rows."""
    solution: Tensor
    """(3, B) float64 of these rows: the largest logit, height, log of the total weight."""
    factor: Tensor
    """(B,) that each row's g is multiplied by."""
    alpha: float
    scale: float

    def gradient(self, prototypes: Tensor) -> Tensor:
        """(n, D) float32."""
        from wespeaker_qm.losses.kernels import classes

        gradient = torch.empty_like(prototypes)
        classes.candidate_prototype_gradient[(len(prototypes),)](
            prototypes, *self._lists(), gradient, *self._sizes(), **self._constants()
        )
        return gradient

    def squared_norm(self, prototypes: Tensor) -> Tensor:
        """() float64, of all of the gradient."""
        from wespeaker_qm.losses.kernels import classes

        square = torch.empty_like(self.inverse_norms)
        classes.squared_gradient_norms[(len(prototypes),)](
            prototypes, *self._lists(), square, *self._sizes(), **self._constants()
        )
        return square.sum()

    def step(
        self, prototypes: Tensor, momenta: Tensor, low: Tensor, is_stopped: Tensor, settings: StepSettings
    ) -> None:
        """The step of `torch.optim.SGD`, in place; and the unit rows and norms of the prototypes that it makes.

        Args:
            prototypes: (n, D) float32.
            momenta: (n, D) float32.
            low: (n, D) unit prototypes, whose norms are in :attr:`inverse_norms`.
            is_stopped: () where it is not 0, nothing is changed.
            settings: of this step.
        """
        from wespeaker_qm.losses.kernels import classes

        classes.prototype_step[(len(prototypes),)](
            prototypes, *self._lists(), momenta, low, is_stopped, *self._sizes(),
            *settings[:3], NESTEROV=settings.nesterov, **self._constants(),
        )  # fmt: skip

    def _lists(self) -> tuple[Tensor, ...]:
        return (
            self.inverse_norms, self.unit, self.order, self.offsets, self.derivative, self.target, self.number,
            self.num_wide, self.solution, self.factor,
        )  # fmt: skip

    def _sizes(self) -> tuple[int | float, ...]:
        return *self.unit.shape[:1], self.derivative.shape[1], self.unit.shape[1], self.scale, self.alpha - 1

    def _constants(self) -> dict[str, int]:
        from wespeaker_qm.losses.kernels import launch

        width = launch.power_of_two(self.unit.shape[1])
        return {"POWER": launch.power_of(self.alpha - 1), "BLOCK_D": width, "num_warps": 1}


def unit_rows(prototypes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What :meth:`ClassSums.step` leaves of prototypes (n, D): unit rows in a type, and 1 / norms (n,) float64."""
    from wespeaker_qm.losses.kernels import classes, launch

    num_classes, dim = prototypes.shape
    low, inverse_norms = (
        torch.empty_like(prototypes, dtype=dtype),
        prototypes.new_empty(num_classes, dtype=torch.float64),
    )
    width = launch.power_of_two(dim)
    classes.unit_prototypes[(num_classes,)](prototypes, inverse_norms, low, dim, BLOCK_D=width, num_warps=1)
    return low, inverse_norms


def sums_by_class(
    classes: Tensor, derivative: Tensor, number: Tensor, unit: Tensor, inverse_norms: Tensor, solution: Tensor,
    target: Tensor, factor: Tensor, alpha: float, scale: float,
) -> ClassSums:  # fmt: skip
    """Sort the candidates (B, K) of the rows by their class. Nothing waits for the device."""
    by_class, order = classes.flatten().sort(stable=True)
    firsts = torch.arange(len(inverse_norms) + 1, dtype=torch.int32, device=unit.device)
    return ClassSums(
        inverse_norms=inverse_norms,
        unit=unit,
        order=order,
        offsets=torch.searchsorted(by_class, firsts),
        derivative=derivative,
        target=target,
        number=number,
        num_wide=(number > classes.shape[1]).sum(),
        solution=solution,
        factor=factor,
        alpha=alpha,
        scale=scale,
    )
