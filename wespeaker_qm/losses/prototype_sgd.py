"""SGD of a network with a head of so many prototypes that moving them is most of a step.

::

    embeddings -> filter -> candidates -> loss -> who adds up to what -> step of SGD
                    ^                                                     |
                    +---------- what is kept of the prototypes -----------+

The weights are those of `torch.optim.SGD`. What differs is when and how they are made, which depends on where they are:

=========  ==============  =================================================================================
device     keeps           what is spared
=========  ==============  =================================================================================
CPU        `lazy_rows`     a row is moved when somebody looks at it, and then given all steps that it has missed
GPU        `device_rows`   the gradient is not written: a kernel makes it, the step and the next unit rows at once
=========  ==============  =================================================================================
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor

from wespeaker_qm.losses.class_sums import StepSettings
from wespeaker_qm.losses.device_rows import DeviceRows
from wespeaker_qm.losses.dispatch import Way, way_of
from wespeaker_qm.losses.heads import CosineHead
from wespeaker_qm.losses.lazy_rows import LazyRows
from wespeaker_qm.losses.linear import Kept
from wespeaker_qm.utils.errors import RecipeError, shown


class PrototypeSGD(torch.optim.SGD):
    """SGD with momentum and weight decay of a network whose head has very many prototypes and sparse posteriors.

    It takes the place of ``torch.optim.SGD(parameters, ...)``, for alpha > 1 and, on a CPU, 100,000 classes or more
    with supports of a few; on a GPU, more classes than :data:`dispatch.WAYS` computes all logits of. The prototypes of
    a CPU are those of SGD's plain form bit for bit, at equal gradients; those of a GPU differ by round-off from its
    fused form. Where a step was dense (alpha 1, many candidates, several backwards), it is SGD's own.

    On a CPU rows of ``head.weight`` may be behind between steps. The head knows; ``state_dict()`` of the head and of
    this bring all up to date. Whoever reads or changes ``head.weight`` itself calls :meth:`catch_up` before. On a GPU
    prototypes are always up to date, but their gradient is not in ``head.weight.grad``: see
    :meth:`CosineHead.gradient_norm`, and :meth:`write_gradient`, which comes before what looks for it there, such as
    ``clip_grad_norm_`` and ``GradScaler.unscale_``. A step uses it up; :meth:`zero_grad` of this drops it, that of a
    module does not.

    Before an optimiser of another class goes on with the head: :meth:`catch_up`, and ``head.kept = None``.

    Args:
        params: of the network, the prototypes among them, or groups of them, as in PyTorch.
        head: whose prototypes are float32; each process that has the same head takes `torch.optim.SGD` instead.
        lr: learning rate; may be changed before any step, in ``param_groups``, as the other settings may.
        momentum: mu.
        weight_decay: d.
        nesterov: Nesterov's step.
        fused: of all other parameters, as in PyTorch. On a GPU they always are: a scaler of the loss leaves it to a
            fused step to divide by its scale.

    Raises:
        RecipeError: prototypes are not float32, or where neither way applies; the group of the prototypes has
            ``maximize`` or ``dampening``.
        ValueError: ``params`` have not the prototypes among them; Nesterov's step without momentum.
    """

    def __init__(
        self,
        params: Iterable[Any],
        head: CosineHead,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        fused: bool | None = None,
    ) -> None:
        weight = head.weight
        is_on_gpu = way_of(weight.device, len(weight)) is Way.FUSED_FILTER
        if weight.dtype != torch.float32 or not (is_on_gpu or weight.device.type == "cpu"):
            raise RecipeError(
                f"found {len(weight)} prototypes of {weight.dtype} on {weight.device}, expected torch.float32 on cpu, "
                "or on a GPU with Triton, where they are so many that a filter is worth it; take torch.optim.SGD, on a "
                "GPU with fused=True"
            )
        fused = is_on_gpu or fused
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)
        self._head = head
        settings = self._settings()
        self._begin_momenta()
        head.catch_up()
        self._kept: Kept = DeviceRows(weight) if is_on_gpu else self._lazy_rows(settings)
        head.kept = self._kept

    def __getstate__(self) -> NoReturn:
        """Refuse to be copied or pickled.

        Raises:
            TypeError: always.
        """
        raise TypeError("PrototypeSGD is not copied or pickled; load its state_dict() into one made for the other head")

    @property
    def kept(self) -> Kept:
        """What is kept of the prototypes: the head works with it."""
        return self._kept

    def catch_up(self) -> None:
        """Bring all prototypes and momenta up to date: what is there afterwards is what SGD would have made."""
        self._kept.hand_over()

    def write_gradient(self) -> None:
        """Put the gradient of the prototypes into ``head.weight.grad``, where it is not written: on a GPU."""
        if isinstance(self._kept, DeviceRows):
            self._kept.write_gradient()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step of all parameters that have a gradient.

        Args:
            closure: computes the loss and the gradients anew, and returns the loss.

        Raises:
            RecipeError: settings as for the class.
            RuntimeError: another optimiser has taken the head over; prototypes were changed since their gradient was
                computed, or while some were behind; a scaler has divided gradients by its scale, but not theirs.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._head.kept is not self._kept:
            raise RuntimeError("found a head that another optimiser has taken over, expected a step of that one")
        weight, kept = self._head.weight, self._kept
        if self.state[weight].get("momentum_buffer") is None:  # somebody has cleared the state
            self._begin_momenta()
        is_made = self._lazy_step(kept) if isinstance(kept, LazyRows) else self._device_step(kept)
        gradient = weight.grad
        if is_made:
            weight.grad = None
        inspect.unwrap(torch.optim.SGD.step)(self)  # without what PyTorch puts around every step: hooks ran twice
        weight.grad = gradient
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in PyTorch."""
        if isinstance(self._kept, DeviceRows):
            self._kept.drop_gradient()
        super().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As of `torch.optim.SGD`, with the momenta of all prototypes up to date."""
        self.catch_up()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this or of `torch.optim.SGD`; that of the head is loaded before or after.

        Args:
            state_dict: copied, of the prototypes.
        """
        self.catch_up()
        super().load_state_dict(state_dict)
        state = self.state[self._head.weight]
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"] = state["momentum_buffer"].clone()
        if isinstance(self._kept, DeviceRows):
            for group in self.param_groups:
                group["fused"] = True  # also where a CPU saved the state
        self._begin_momenta()

    def _begin_momenta(self) -> None:
        """Give those a momentum of zero that have none, as before SGD's first step.

        A fused step wants the momenta of all parameters or of none; those that it makes itself it leaves as they come
        where the first update is not made.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["fused"] or parameter is self._head.weight:
                    state = self.state[parameter]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(parameter)

    def _settings(self) -> StepSettings:
        """Of the prototypes, not as tensors: these are changed in place."""
        for group in self.param_groups:
            if any(parameter is self._head.weight for parameter in group["params"]):
                break
        else:
            raise ValueError("found no prototypes of the head among the parameters, expected all that are trained")
        for name in ("maximize", "dampening"):
            if group[name]:
                raise RecipeError(
                    f"found {name} {shown(group[name])} in the group of the prototypes, expected none: PrototypeSGD "
                    "has no such step; take torch.optim.SGD"
                )
        lr, momentum, weight_decay = (float(group[name]) for name in ("lr", "momentum", "weight_decay"))
        return StepSettings(lr, momentum, weight_decay, bool(group["nesterov"]))

    def _lazy_rows(self, settings: StepSettings) -> LazyRows:
        lasting = settings._asdict()
        del lasting["lr"]
        weight = self._head.weight
        return LazyRows(weight, self.state[weight]["momentum_buffer"], **lasting)

    def _flag(self, name: str) -> Tensor | None:
        """What a scaler of the loss, or whoever watches over it, has said of this step: a number, on the device."""
        value: Tensor | None = getattr(self, name, None)
        return value

    def _lazy_step(self, kept: LazyRows) -> bool:
        """Make the prototypes' step, if there is one; whether it is made."""
        weight, settings = self._head.weight, self._settings()
        if weight.grad is None:
            return False
        kept.check(weight)
        momenta = self.state[weight]["momentum_buffer"]  # maybe others, of a state that was loaded
        is_same = momenta.data_ptr() == kept.momenta.data_ptr()
        if not is_same or settings[1:] != (kept.momentum, kept.weight_decay, kept.nesterov):
            kept.catch_up()
            self._kept = self._head.kept = kept = self._lazy_rows(settings)
        stopped, scale = self._flag("found_inf"), self._flag("grad_scale")
        if stopped is not None and stopped.item():
            return True
        if weight.grad.is_sparse:
            gradient = weight.grad.coalesce()
            classes, values = gradient.indices()[0], gradient.values()
        else:
            classes, values = torch.arange(len(weight)), weight.grad
        kept.step(settings.lr, classes, values if scale is None else values / scale)
        # A loss that was computed before this step can no longer be derived.
        torch.autograd.graph.increment_version(weight)
        kept.version = weight._version
        return True

    def _device_step(self, kept: DeviceRows) -> bool:
        """Likewise; a gradient that is here in parts is written down, for SGD."""
        weight, settings = self._head.weight, self._settings()
        if not kept.holds_gradient:
            return False
        stopped, scale = self._flag("found_inf"), self._flag("grad_scale")
        # A scaler leaves no scale where it has divided all that it found, and no tensor where it found nothing.
        if hasattr(self, "grad_scale") and (scale is None or not isinstance(stopped, Tensor)):
            raise RuntimeError(
                "found a gradient of prototypes that GradScaler has not seen, because it is not in head.weight.grad; "
                "expected write_gradient() of this optimiser before its unscale_(), or step() of a head alone"
            )
        if weight.grad is not None or not kept.holds_one:
            kept.write_gradient()
            return False
        kept.step(self.state[weight]["momentum_buffer"], stopped, scale, settings)
        return True
