"""One update of the weights: all that a device is asked to do for it, without the host waiting for any of that.

::

    features -> encoder -> head -> loss --backward--> gradients -> norm
                            |                                       |
                            figures, over all processes ------------+--> finite? -> the optimiser's step, or none

Whether a step is made is decided where the numbers are, on the device. The host reads them one update late, when they
have arrived: the device then has the next update to work on, and a loss that is not finite has changed no weight, nor
does any update after it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.figures import batch_figures
from wespeaker_qm.train.model import EncoderWithHead
from wespeaker_qm.utils.moments import Moment
from wespeaker_qm.utils.reading import Reading


class Underway(NamedTuple):
    """An update that the device was asked to make."""

    step: int
    utterance: torch.Tensor
    """(B,) as in the batch."""
    loss: torch.Tensor
    """(B,), on the device."""
    figures: Reading
    wait_s: float
    """How long the training waited for the batch."""
    frontend: tuple[Moment, Moment] | None
    """As in the batch."""
    moments: tuple[Moment, ...]
    """The beginning, and the ends of forward, backward and the optimiser's step."""

    def times_ms(self) -> dict[str, float]:
        """Part of the step -> milliseconds; once the figures have been read."""
        began, *ends = self.moments
        times = {"wait": 1e3 * self.wait_s}
        if self.frontend is not None:
            times["frontend"] = self.frontend[1].ms_since(self.frontend[0])
        for name, end in zip(("forward", "backward", "optimiser"), ends, strict=True):
            times[name] = end.ms_since(began)
            began = end
        return times


class Updater:
    """Makes the updates of a training.

    Args:
        network: ``model``, or what it is across several processes.
        model: the encoder and the head.
        optimizer: of the parameters of ``model``.
        scaler: of the loss.
        processes: this process among those that train.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        model: EncoderWithHead,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        processes: Processes,
    ) -> None:
        self._network = network
        self._model = model
        self._optimizer = optimizer
        self._scaler = scaler
        self._processes = processes
        self._one = torch.ones((), device=processes.device)
        self._goes_on = self._one  # 0 for ever from the first update on that was not finite

    def __call__(
        self,
        step: int,
        batch: TrainingBatch,
        *,
        margin: float,
        learning_rate: float,
        others: Mapping[str, torch.Tensor] | None = None,
    ) -> Underway:
        """Begin an update.

        Args:
            step: its number, which comes back with it.
            batch: to learn from.
            margin: of the loss.
            learning_rate: of the step.
            others: numbers, of which the mean over the processes is wanted beside the figures.
        """
        device = self._processes.device
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        began = Moment(device)
        output: LinearLoss = self._network(batch.features, batch.label, margin)
        figures = batch_figures(output, self._model.projection.partition.num_classes, self._processes, others)
        forward = Moment(device)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(output.loss.mean()).backward()
        backward = Moment(device)
        figures |= self._step(figures["loss"])
        reading = Reading(figures)
        moments = (began, forward, backward, Moment(device))
        return Underway(step, batch.utterance, output.loss.detach(), reading, batch.wait_s, batch.frontend, moments)

    def _step(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """The optimiser's step, if all is finite; the gradients' norm and, of a scaled loss, the scale."""
        optimizer, scaler = self._optimizer, self._scaler
        norm = gradient_norm(self._model, self._processes)
        if scaler.is_enabled():
            self._goes_on = self._goes_on * loss.isfinite()
            # The scaler looks for what is not finite among the gradients of this process, and makes no step then. All
            # processes must make the same steps: what is wrong on any of them is shown to each.
            shown = next(parameter.grad for parameter in self._model.parameters() if parameter.grad is not None)
            shown += (self._goes_on * norm.isfinite()).log()  # 0, or minus infinity
            scale = scaler.scale(self._one)
            scaler.step(optimizer)
            scaler.update()
            return {"grad_norm": norm / scale, "loss_scale": scale}
        self._goes_on = self._goes_on * loss.isfinite() * norm.isfinite()
        if getattr(optimizer, "_step_supports_amp_scaling", False):  # as GradScaler asks it
            optimizer.found_inf = 1 - self._goes_on  # type: ignore[attr-defined]
            optimizer.step()
            del optimizer.found_inf  # type: ignore[attr-defined]
        elif self._goes_on.item():
            optimizer.step()
        return {"grad_norm": norm}


def gradient_norm(model: EncoderWithHead, processes: Processes) -> torch.Tensor:
    """Euclidean norm of all gradients, those of prototypes that are divided over the processes counted in."""
    head = model.projection
    own = head.gradient_norm()
    shared = [each.grad for each in model.parameters() if each.grad is not None and each is not head.weight]
    if own is None:
        return torch.nn.utils.get_total_norm(shared)
    if head.partition.world_size > 1:
        own = processes.sum(own.square()).sqrt()
    return torch.nn.utils.get_total_norm([*shared, own])  # a number is the norm of itself
