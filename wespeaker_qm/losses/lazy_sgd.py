"""SGD of the prototypes of a head whose supports are few: a step moves the rows that it needs, and no others.

::

    embeddings -> filter, by directions that are behind -> candidates --caught up--> loss -> sparse gradient -> step
                       ^                                                                                         |
                       +--------- every 32 steps, or where a row may have turned too far: caught up <------------+

The weights are those of `torch.optim.SGD` in its plain form, bit for bit at equal gradients; its fused form rounds
otherwise. See `lazy_rows`. What is spared is to read and write all prototypes, momenta and gradients in each step and,
where a CPU multiplies bfloat16, most of the product of the filter.
"""

from collections.abc import Callable
from typing import Any

import torch

from wespeaker_qm.losses.heads import CosineHead
from wespeaker_qm.losses.lazy_rows import LazyRows
from wespeaker_qm.utils.errors import RecipeError


class LazySGD(torch.optim.Optimizer):
    """SGD with momentum and weight decay of ``head.weight``, on a CPU; for alpha > 1, 100,000 classes or more, and
    supports of a few classes.

    It takes the place of ``torch.optim.SGD([head.weight], ...)``; the encoder has an optimiser of its own. The head
    then computes with what it keeps, and has sparse gradients. Where a step was dense (alpha 1, many candidates) it
    does what SGD does.

    Between steps rows of ``head.weight`` may be behind. The head knows; ``state_dict()`` of the head and of this bring
    all up to date, and are those of a head and of SGD as ever. Whoever reads or changes ``head.weight`` itself calls
    :meth:`catch_up` before.

    Args:
        head: whose prototypes are moved; float32.
        lr: learning rate; may be changed before any step, in ``param_groups``, as in PyTorch.
        momentum: mu.
        weight_decay: d.
        nesterov: Nesterov's step.

    Raises:
        RecipeError: the prototypes are not float32 on a CPU.
        ValueError: Nesterov's step without momentum.
    """

    def __init__(
        self, head: CosineHead, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        weight = head.weight
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise RecipeError(
                f"found prototypes of {weight.dtype} on {weight.device}, expected torch.float32 on cpu; take "
                "torch.optim.SGD, on a GPU with fused=True"
            )
        if nesterov and not momentum:
            raise ValueError("found nesterov without momentum, expected a momentum above 0")
        self._head = head
        super().__init__([weight], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})
        self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        if head.lazy is not None:
            head.lazy.catch_up()
        self._keep()

    def catch_up(self) -> None:
        """Bring all prototypes and momenta up to date: what is there afterwards is what SGD would have made."""
        self._rows.catch_up()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step with the gradient of the prototypes, sparse or dense; without a gradient, none.

        Args:
            closure: computes the loss and the gradients anew, and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        weight = self._head.weight
        if weight.grad is None:
            return loss
        self._rows.check(weight)
        settings = tuple(group[name] for name in _SETTINGS)
        if settings != tuple(getattr(self._rows, name) for name in _SETTINGS):
            self.catch_up()
            self._keep()
        if weight.grad.is_sparse:
            gradient = weight.grad.coalesce()
            classes, values = gradient.indices()[0], gradient.values()
        else:
            classes, values = torch.arange(len(weight)), weight.grad
        self._rows.step(group["lr"], classes, values)
        # A loss that was computed before this step can no longer be derived.
        torch.autograd.graph.increment_version(weight)
        self._rows.version = weight._version
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As of `torch.optim.SGD`, with the momenta of all prototypes up to date."""
        self.catch_up()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this or of `torch.optim.SGD`; that of the head is loaded before or after.

        Args:
            state_dict: copied.
        """
        self.catch_up()
        super().load_state_dict(state_dict)
        weight = self._head.weight
        momenta = self.state[weight].get("momentum_buffer")  # None before SGD's first step
        self.state[weight]["momentum_buffer"] = torch.zeros_like(weight) if momenta is None else momenta.clone()
        self._keep()

    def _keep(self) -> None:
        """Begin with rows and momenta as they are."""
        (group,) = self.param_groups
        weight = self._head.weight
        self._rows = LazyRows(
            weight,
            self.state[weight]["momentum_buffer"],
            **{name: group[name] for name in _SETTINGS},
        )
        self._head.lazy = self._rows


_SETTINGS = ("momentum", "weight_decay", "nesterov")
