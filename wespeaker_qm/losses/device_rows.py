"""Prototypes on a GPU, between a step and the next: what each hands to the other instead of reading all rows again.

::

    filter <-- unit rows in low precision, norms <-- step of SGD <-- lists of who adds up to what <-- backward

The head's backward leaves the gradient as lists (`class_sums`), and not in ``weight.grad``; the step makes the gradient
of a class as it reads and writes the class's prototype and momentum. It writes what the next filter begins with in the
same pass. So a step of n prototypes of D float32 numbers moves 18 n D bytes, and up to 4 more for the gradient's norm,
which needs the prototypes that have a gradient; a gradient that is written, its norm, the fused SGD of PyTorch and the
filter's own unit rows move 34 to 38. The memory for the gradient is spared, too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wespeaker_qm.losses.alpha import first_derivative_only
from wespeaker_qm.losses.class_sums import ClassSums, StepSettings, unit_rows
from wespeaker_qm.losses.lazy_rows import OTHER_PROTOTYPES

LOW = torch.float16
"""Of unit prototypes, whose small components it may lose; bfloat16 leaves four times the candidates."""

Lists = list[Callable[[], ClassSums]]
"""Where the backward of a loss leaves what makes the gradient of its prototypes; empty before."""


class DeviceRows:
    """What is kept of the prototypes between steps.

    Args:
        weight: (n, D) float32 prototypes on a device that has kernels.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._rows = weight.data  # for whose place there may be others in the weight later
        self._unit: tuple[Tensor, Tensor] | None = None
        self._version = -1  # of the weight that the unit rows are of
        self._held: list[tuple[int, ClassSums]] = []  # with the version of the weight

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Of a head that is copied or pickled, this is no part: the optimiser is that of the original."""
        return type(None), ()

    @property
    def holds_gradient(self) -> bool:
        """Whether the gradient, or a part of it, is here and not in ``weight.grad``."""
        return bool(self._held)

    @property
    def holds_one(self) -> bool:
        """Whether the gradient is that of one backward, of which :meth:`step` can make a step."""
        return len(self._held) == 1

    def unit_rows(self, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Unit prototypes (n, D) in :data:`LOW`, and 1 / norms (n,) float64, as they are now.

        Args:
            prototypes: those that these are kept of.

        Raises:
            ValueError: ``prototypes`` are others.
        """
        if prototypes.data_ptr() != self._rows.data_ptr():
            raise ValueError(OTHER_PROTOTYPES)
        if self._unit is None or self._version != self._weight._version:
            with torch.inference_mode(False):  # a training goes on with what a check has left here
                self._unit, self._version = unit_rows(prototypes, LOW), self._weight._version
        return self._unit

    def gate(self, prototypes: Tensor, lists: Lists) -> Tensor:
        """An empty tensor (0,) in the place of prototypes (n, D): its gradient is asked for where theirs is.

        That of a loss may be asked for that of the embeddings alone, which is none of the prototypes' business.

        Args:
            prototypes: those that these are kept of.
            lists: where the backward of the loss leaves theirs, which is then held here.
        """
        gate: Tensor = _Gate.apply(prototypes, self, lists)
        return gate

    def hold(self, sums: ClassSums) -> None:
        """Take the gradient of a backward; it is added to what is here."""
        self._held.append((self._weight._version, sums))

    def drop_gradient(self) -> None:
        """Forget the gradient, as ``zero_grad`` does."""
        self._held.clear()

    def gradient(self) -> Tensor:
        """The gradient (n, D) that is here, written down."""
        first, *others = [sums.gradient(self._rows) for sums in self._sums()]
        for other in others:
            first += other
        return first

    def write_gradient(self) -> None:
        """Add the gradient that is here, if there is one, to ``weight.grad``."""
        if self._held:
            gradient = self.gradient()
            self._weight.grad = gradient if self._weight.grad is None else self._weight.grad + gradient
            self.drop_gradient()

    def gradient_norm(self) -> Tensor:
        """() float32, of the gradient that is here."""
        sums = self._sums()
        if len(sums) > 1:
            norm: Tensor = torch.linalg.vector_norm(self.gradient())
            return norm
        return sums[0].squared_norm(self._rows).sqrt().to(self._weight.dtype)

    def step(
        self, momenta: Tensor, is_stopped: Tensor | None, gradient_scale: Tensor | None, settings: StepSettings
    ) -> None:
        """A step of SGD with the gradient that is here, and nothing else; it is gone afterwards.

        Args:
            momenta: (n, D) float32, changed in place as the prototypes are.
            is_stopped: () where it is not 0, nothing is changed.
            gradient_scale: () what the gradient is divided by.
            settings: of this step.
        """
        (sums,) = self._sums()
        if gradient_scale is not None:
            sums = sums._replace(factor=sums.factor / gradient_scale)
        low, _ = self.unit_rows(self._rows)
        stopped = torch.zeros((), device=low.device) if is_stopped is None else is_stopped
        sums.step(self._rows, momenta, low, stopped, settings)
        self._unit = low, sums.inverse_norms  # which need not be those that were here: rows may have been read again
        # A loss that was computed before this step can no longer be derived.
        torch.autograd.graph.increment_version(self._weight)
        self._version = self._weight._version
        self.drop_gradient()

    def hand_over(self) -> None:
        """Let somebody read or change the prototypes: the next filter reads them all again."""
        self._version = -1

    def _sums(self) -> list[ClassSums]:
        if any(version != self._weight._version for version, _ in self._held):
            raise RuntimeError(
                "found prototypes that were changed between backward() and step(), expected none of that: the gradient "
                "is made of them in the step"
            )
        return [sums for _, sums in self._held]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prototypes: Tensor, kept: DeviceRows, lists: Lists) -> Tensor:
        ctx.kept, ctx.lists = kept, lists
        return prototypes.new_empty(0)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, _: Tensor) -> tuple[None, None, None]:
        ctx.kept.hold(ctx.lists.pop()())
        return None, None, None
