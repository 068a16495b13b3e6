"""Prototypes that are brought up to date only when somebody looks at them.

SGD moves a prototype p at each step, also where its gradient is zero: its momentum m still turns it, weight decay
shortens it. But that needs nothing beside the row itself. With momentum mu, decay d and learning rates lr_t,

    m <- mu m + d p,    p <- p - lr_t m        (Nesterov: p <- p - lr_t (d p + mu m), with the new m)

so a row that has been idle for k steps can be given them later, k at a time while it lies in a core's cache. The same
operations on the same numbers give the same bits as at each step: nothing depends on when a row is caught up.

A filter may work with directions of rows that are behind. After k idle steps p = A p_0 + B m_0, with (A, B) the first
row of a product of 2 x 2 matrices that all rows of one age share. So the row has turned by an angle of at most
asin(|B / A| |m_0| / |p_0|), and a cosine has changed by at most the chord of that. Rows that may have turned by more
than `_MAX_TURN` are caught up before the filter begins; every `_MAX_AGE` steps all rows are, so that no table grows.

Legend: n classes of this process, D dimensions, K rows at a time.
"""

import math

import torch
from torch import Tensor

from wespeaker_qm.losses.gradients import ordinary_norms

_MAX_TURN = 2.0**-7  # chord; of the same size as what bfloat16 rounds off
_MAX_AGE = 32  # steps
_BLOCK_NUMBERS = 2**17  # of rows that are worked on together, and of as many momenta: what stays in a core's cache

OTHER_PROTOTYPES = (
    "found other prototypes than the optimiser's, expected those that it was made for: move or convert a head before "
    "its optimiser is made"
)
"""What is said where a head has got another tensor."""


class LazyRows:
    """Rows (n, D) under SGD, their momenta, and their directions in low precision as they were when last caught up.

    Args:
        weight: (n, D) float32 on a CPU, changed in place, which autograd is not told: what it has kept of the rows that
            it needs is as it was.
        momenta: (n, D) likewise.
        momentum: mu.
        weight_decay: d.
        nesterov: whether the step is Nesterov's.
        precision: of the directions; None for bfloat16 where the CPU multiplies that, and float32 elsewhere.
    """

    def __init__(
        self,
        weight: Tensor,
        momenta: Tensor,
        *,
        momentum: float,
        weight_decay: float,
        nesterov: bool = False,
        precision: torch.dtype | None = None,
    ) -> None:
        self.rows, self.momenta = weight.data, momenta.data
        self.version = weight._version
        """Of ``weight``; another one says that somebody else has changed it."""
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        rows = self.rows
        self.inverse_norms = rows.new_empty(len(rows))
        """1 / norm (n,) of rows that are up to date; 0 for a zero row."""
        self.directions = torch.empty_like(rows, dtype=precision or _fast_precision())
        """(n, D) unit rows; each differs from what it would be now by at most :attr:`turned`."""
        self.turned = 0.0
        self._ratio = rows.new_empty(len(rows))  # |m| / |p| when last caught up
        self._learning_rates: list[float] = []
        self._since = torch.zeros(len(rows), dtype=torch.int64)  # how many of these steps a row has made
        self._idle = torch.eye(2, dtype=torch.float64)[None]  # by number of steps made, what the others do to (p, m)
        self._block = max(1, _BLOCK_NUMBERS // rows.shape[1])
        self._scratch = rows.new_empty(self._block, rows.shape[1])
        self.are_ordinary = True
        """Whether all norms are 0 or such that their squares are numbers of the type, with digits to spare for what a
        row does until it is next looked at; others need another way."""
        self.read_again()

    @property
    def are_current(self) -> bool:
        """Whether all rows are up to date."""
        return not self._learning_rates

    def check(self, weight: Tensor) -> None:
        """Make sure that these are the rows of ``weight``; if somebody has changed them, take them as they are.

        Raises:
            ValueError: ``weight`` is another tensor.
            RuntimeError: rows were changed while some were behind, so that it is not known what they were.
        """
        if weight.data_ptr() != self.rows.data_ptr():
            raise ValueError(OTHER_PROTOTYPES)
        if weight._version != self.version:
            if not self.are_current:
                raise RuntimeError(
                    "found prototypes that were changed while some were behind, expected catch_up() of their optimiser "
                    "before that"
                )
            self.read_again()
            self.version = weight._version

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Of a head that is copied or pickled, this is no part: the optimiser is that of the original."""
        if not self.are_current:
            raise RuntimeError("found prototypes that are behind, expected catch_up() of their optimiser before a copy")
        return type(None), ()

    def hand_over(self) -> None:
        """Let somebody read or change rows and momenta: all are brought up to date, and read again when next asked."""
        self.catch_up()
        self.version = -1

    def read_again(self) -> None:
        """Take rows and momenta for up to date, after somebody has changed them."""
        self._learning_rates.clear()
        self._since.zero_()
        self._idle = torch.eye(2, dtype=torch.float64)[None]
        self.are_ordinary = True
        for start in range(0, len(self.rows), self._block):
            part = slice(start, start + self._block)
            self._note(part, self.rows[part], self.momenta[part])

    def catch_up(self, classes: Tensor | None = None) -> None:
        """Bring rows up to date: those of ``classes`` (K,), each named once, or all."""
        if self.are_current:
            return
        if classes is None:
            self._catch_up((self._since < len(self._learning_rates)).nonzero()[:, 0])
            self._learning_rates.clear()
            self._since.zero_()
            self._idle = self._idle[-1:]
        else:
            self._catch_up(classes[self._since[classes] < len(self._learning_rates)])

    def catch_up_turned(self) -> None:
        """Bring the rows up to date that may have turned too far, and measure how far others have at most."""
        turned = self._turned()
        # Not "greater": where a bound is NaN, there is none.
        far = (~(turned <= _MAX_TURN)).nonzero()[:, 0]
        self._catch_up(far)
        turned[far] = 0.0
        # The steps round, by 2^-24 of the row each; and half a digit is lost here and there on the way to this bound.
        roundoff = 8 * (len(self._learning_rates) + 4) * 2.0**-24
        self.turned = float(turned.max()) * (1 + 1e-5) + roundoff

    def step(self, learning_rate: float, classes: Tensor, gradient: Tensor) -> None:
        """Make a step of all rows: that of ``classes`` (K,), each named once, now, with their gradient (K, D).

        The other rows have a gradient of zero, and are given the step when they are caught up.
        """
        self.catch_up(classes)
        self._learning_rates.append(learning_rate)
        for start in range(0, len(classes), self._block):
            part = classes[start : start + self._block]
            rows, momenta = self.rows.index_select(0, part), self.momenta.index_select(0, part)
            decayed = torch.add(gradient[start : start + self._block], rows, alpha=self.weight_decay)
            self._move(rows, momenta, decayed, learning_rate)
            self._put(part, rows, momenta)
        idle = self._idle_step(learning_rate)
        self._idle = torch.cat([idle @ self._idle, torch.eye(2, dtype=torch.float64)[None]])
        if len(self._learning_rates) == _MAX_AGE:
            self.catch_up()

    def _catch_up(self, classes: Tensor) -> None:
        since, order = self._since[classes].sort()
        classes = classes[order]
        for start in range(0, len(classes), self._block):
            part = classes[start : start + self._block]
            rows, momenta = self.rows.index_select(0, part), self.momenta.index_select(0, part)
            made = since[start : start + self._block]
            counts = torch.searchsorted(made, torch.arange(len(self._learning_rates)), right=True).tolist()
            for count, learning_rate in zip(counts, self._learning_rates, strict=True):
                if count:
                    some = rows[:count]
                    decayed = torch.mul(some, self.weight_decay, out=self._scratch[:count])
                    self._move(some, momenta[:count], decayed, learning_rate)
            self._put(part, rows, momenta)

    def _move(self, rows: Tensor, momenta: Tensor, decayed: Tensor, learning_rate: float) -> None:
        """One step, in place, by the operations of `torch.optim.SGD`."""
        if self.momentum:
            momenta.mul_(self.momentum).add_(decayed)
            decayed = decayed.add_(momenta, alpha=self.momentum) if self.nesterov else momenta
        rows.add_(decayed, alpha=-learning_rate)

    def _put(self, classes: Tensor, rows: Tensor, momenta: Tensor) -> None:
        self.rows.index_copy_(0, classes, rows)
        self.momenta.index_copy_(0, classes, momenta)
        self._since[classes] = len(self._learning_rates)
        self._note(classes, rows, momenta)

    def _note(self, classes: Tensor | slice, rows: Tensor, momenta: Tensor) -> None:
        """Write down what is derived from rows (K, D) that are up to date."""
        norms = torch.linalg.vector_norm(rows, dim=1)
        if not (ordinary_norms(norms) | (norms == 0)).all():
            self.are_ordinary = False
        inverse = torch.where(norms == 0, 0.0, 1 / norms)
        self.inverse_norms[classes] = inverse
        self._ratio[classes] = torch.linalg.vector_norm(momenta, dim=1) * (1 / norms)
        self.directions[classes] = torch.mul(rows, inverse[:, None], out=self._scratch[: len(rows)]).to(
            self.directions.dtype
        )

    def _idle_step(self, learning_rate: float) -> Tensor:
        """What a step does to (p, m) of an idle row, (2, 2)."""
        mu, decay = self.momentum, self.weight_decay
        own, carried = (decay * (1 + mu), mu * mu) if self.nesterov else (decay, mu)
        momentum = [decay, mu] if mu else [0.0, 1.0]
        return torch.tensor([[1 - learning_rate * own, -learning_rate * carried], momentum], dtype=torch.float64)

    def _turned(self) -> Tensor:
        """A bound (n,) of the chord that each row has turned by since it was caught up; inf or NaN for none."""
        by_age = torch.where(self._idle[:, 0, 0] > 0, (self._idle[:, 0, 1] / self._idle[:, 0, 0]).abs(), math.inf)
        sine = by_age.to(self._ratio)[self._since] * self._ratio
        # 2 sin(angle / 2), without the difference 1 - cos(angle).
        return sine * (2 / (1 + (1 - sine.square()).sqrt())).sqrt()


def _fast_precision() -> torch.dtype:
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
