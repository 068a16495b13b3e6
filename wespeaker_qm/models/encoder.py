"""What training, extraction and checking ask of a speaker network, whichever it is.

Legend: B batch, T frames, F mel bins, D embedding dimension.
"""

import abc
import copy
from collections.abc import Callable, Iterator
from typing import ClassVar, Self

import torch
from torch import nn

from wespeaker_qm.models.pooling import TemporalStatisticsPooling


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

    def embed_long(
        self, features: Callable[[int, int], torch.Tensor], num_frames: int, frames_per_piece: int
    ) -> torch.Tensor:
        """Embedding (D,) of one long utterance, as :meth:`forward` gives it up to round-off.

        A network that can be given its frames in pieces is a :class:`StatisticsEncoder`. Any other is given all of
        them, and takes as much more memory as the utterance is longer.

        Args:
            features: gives frames ``first`` to ``end``, (end - first, F), as often as it is asked.
            num_frames: T, at least ``min_frames``.
            frames_per_piece: about how many to work on at a time.
        """
        embedding: torch.Tensor = self(features(0, num_frames).unsqueeze(0))
        return embedding[0]

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


class StatisticsEncoder(SpeakerEncoder):
    """A network that embeds the mean and deviation over time of maps each of which sees a limited span of frames.

    Such a network embeds an utterance of any length in limited memory (:meth:`embed_long`). One of another kind
    (attention over all frames, squeeze and excitation, recurrence) is a plain :class:`SpeakerEncoder`, and is given
    utterances whole.
    """

    time_reduction: int
    """Frames to a frame of the maps: map t is centred on frame ``t * time_reduction``."""
    context: int
    """Frames on either side of that one which the map depends on. Frames before the first and behind the last are
    taken for zeros, by every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = TemporalStatisticsPooling()

    @abc.abstractmethod
    def frame_maps(
        self, features: torch.Tensor, num_frames: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Maps (B, C, F', T') of a batch, T' = ceil(T / time_reduction), and the real frames (B,) of each row's.

        Takes what :meth:`forward` takes; the second is ``None`` where ``num_frames`` is.
        """

    @abc.abstractmethod
    def embed_statistics(self, statistics: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of what the pooling has made of the maps, (B, 2 * C * F')."""

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Embed a batch; see :class:`SpeakerEncoder`."""
        return self.embed_statistics(self.pool(*self.frame_maps(features, num_frames)))

    def embed_long(
        self, features: Callable[[int, int], torch.Tensor], num_frames: int, frames_per_piece: int
    ) -> torch.Tensor:
        """Embed one utterance of any length in the memory that a piece takes; see :class:`SpeakerEncoder`.

        Each piece is given to the network with the frames around it that its maps depend on; the maps of those are
        left out.
        """
        step = self.time_reduction
        core = max(1, frames_per_piece // step) * step
        context = -(-self.context // step) * step

        def maps_of_pieces() -> Iterator[torch.Tensor]:
            for first in range(0, num_frames, core):
                start, end = max(0, first - context), min(first + core, num_frames)
                piece = features(start, min(end + context, num_frames))
                maps, _ = self.frame_maps(piece.unsqueeze(0))
                yield maps[..., (first - start) // step : -(-(end - start) // step)]

        return self.embed_statistics(self.pool.merged(maps_of_pieces()))[0]
