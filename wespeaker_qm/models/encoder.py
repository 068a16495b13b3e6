"""What training, extraction and checking ask of a speaker network, whichever it is.

Legend: B batch, T frames, F mel bins, D embedding dimension.
"""

import abc
import copy
from typing import ClassVar, Self

import torch
from torch import nn


class SpeakerEncoder(nn.Module, abc.ABC):
    """Speaker-embedding network: features (B, T, F) -> embedding (B, D).

    A subclass names its parameters as WeSpeaker does where WeSpeaker has the network, so that a state_dict of either
    loads into the other. No part of it is called ``projection``: that is the head's name in a checkpoint.
    """

    min_frames: ClassVar[int]
    """The fewest frames that it can embed."""
    masks_padding: ClassVar[bool]
    """Whether rows of a padded batch come out as they would alone, given ``num_frames``. Of a network that does not
    mask, only utterances of one length share a batch, and ``num_frames`` is never passed."""
    embed_dim: int
    """D."""

    @abc.abstractmethod
    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Embed a batch.

        Args:
            features: (B, T, F) mean-normalised log mel energies, T at least ``min_frames``.
            num_frames: (B,) real frames of each row of a padded batch, each at least ``min_frames``; ``None`` when no
                row is padded.

        Returns:
            (B, D) embeddings, not length-normalised.
        """

    def folded(self) -> Self:
        """A copy of a network in evaluation mode without batch norms: the same embeddings, up to round-off, sooner.

        Raises:
            ValueError: the network is in training mode.
        """
        if self.training:
            raise ValueError("found a network in training mode, expected evaluation mode: its batch norms still change")
        lean = copy.deepcopy(self)
        lean._fold()
        return lean

    def _fold(self) -> None:
        """Fold the batch norms that can be folded, in place; a network without any has nothing to do."""
