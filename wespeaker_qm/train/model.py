"""The network as it trains: a speaker encoder and a projection head; and the names that checkpoints have for its parts.

::

    features (B, T, F) -> encoder -> embedding (B, D) -> projection (with targets and margin) -> loss (B,)

In a checkpoint the encoder's entries have its own names and the prototypes are ``projection.weight``, as in WeSpeaker,
whose encoder holds the head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wespeaker_qm.losses.heads import CosineHead
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.network.checkpoint import HEAD, State
from wespeaker_qm.train.distributed import Processes

PROTOTYPES = f"{HEAD}weight"
"""Their name in checkpoints."""


class EncoderWithHead(nn.Module):
    """A speaker encoder and the projection head that trains it.

    Args:
        encoder: features to embeddings.
        projection: embeddings to losses; it holds the prototypes.
        amp_dtype: the low precision that the encoder computes in, or None.

    Raises:
        ValueError: the encoder has a part of the head's name, so that a checkpoint could not tell them apart.
    """

    def __init__(self, encoder: SpeakerEncoder, projection: CosineHead, amp_dtype: torch.dtype | None) -> None:
        super().__init__()
        if any(name.startswith(HEAD) for name in encoder.state_dict()):
            raise ValueError("the encoder has a part called projection, expected that name for the head alone")
        self.encoder = encoder
        self.projection = projection
        self.amp_dtype = amp_dtype

    def forward(self, features: torch.Tensor, target: torch.Tensor, margin: float) -> LinearLoss:
        """Loss of features (B, T, F) for targets (B,), in float32 even under autocast."""
        with torch.autocast(features.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            output: LinearLoss = self.projection(self.encoder(features), target, margin)
        return output

    def checkpoint_state(self) -> State:
        """The state_dict of both under the names of checkpoints; of the prototypes, the rows of this process."""
        state: State = self.encoder.state_dict()
        self.projection.state_dict(destination=state, prefix=HEAD)
        return state

    def load_checkpoint_state(self, state: State) -> None:
        """Load what :meth:`checkpoint_state` gave."""
        self.encoder.load_state_dict({name: value for name, value in state.items() if not name.startswith(HEAD)})
        own = {name.removeprefix(HEAD): value for name, value in state.items() if name.startswith(HEAD)}
        self.projection.load_state_dict(own)

    def change_class_rows(
        self, state: State, optimizer: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor | None]
    ) -> None:
        """Apply ``change`` to what a checkpoint has a row of for each class: the prototypes and their momentum.

        Args:
            state: as :meth:`checkpoint_state` gave it; changed in place.
            optimizer: state_dict of an optimiser of :meth:`parameters`; changed in place.
            change: from the rows of this process to those of all, or back.
        """
        changed: dict[str, Any] = state
        changed[PROTOTYPES] = change(state[PROTOTYPES])
        index = [id(parameter) for parameter in self.parameters()].index(id(self.projection.weight))
        # A new dictionary, because the optimiser goes on with the one that it handed out.
        optimizer["state"][index] = {
            name: change(value) if isinstance(value, torch.Tensor) else value
            for name, value in optimizer["state"].get(index, {}).items()
        }

    def across(self, processes: Processes) -> nn.Module:
        """This network as it trains on several processes, which average their gradients.

        Divided prototypes are left out of that: each process has rows of its own, and their gradients are complete. All
        processes call it together, and go on with the weights of the first.
        """
        if processes.world_size == 1:
            return self
        # Statistics of batch norm stay each process's own: those of the first are saved; training makes no use of them.
        # (The option for that has another name in PyTorch 2.14 than before.)
        ignored = [name for name, _ in self.named_buffers()]
        if self.projection.partition.world_size > 1:
            ignored.append(PROTOTYPES)
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, ignored)
        device_ids = [processes.device] if processes.device.type == "cuda" else None
        return DistributedDataParallel(self, device_ids=device_ids, gradient_as_bucket_view=True)
