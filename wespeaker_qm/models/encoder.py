"""What training, extraction and checking ask of a speaker network, whichever it is.

Legend: B batch, T frames, F mel bins, D embedding dimension.
"""

import abc
import copy
from collections.abc import Callable, Iterator
from typing import Self, cast

import torch
from torch import nn

from wespeaker_qm.models.pooling import TemporalStatisticsPooling


class SpeakerEncoder(nn.Module, abc.ABC):
    """Speaker-embedding network: features (B, T, F) -> embedding (B, D).

    A subclass names its parameters as WeSpeaker does where WeSpeaker has the network, so that a state_dict of either
    loads into the other. No part of it is called ``projection``: that is the head's name in a checkpoint.
    """

    min_frames: int
    """The fewest frames that it can embed."""
    masks_padding: bool
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

    def last_layer(self) -> nn.Linear:
        """The layer whose output is the embedding, or unit embeddings of windows: what ``whiten: true`` changes.

        Raises:
            NotImplementedError: the network has no such layer, or does not say.
        """
        raise NotImplementedError(f"{type(self).__name__} names no last layer, so it cannot be whitened")

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

    window: int | None
    """Frames of the windows whose embeddings are averaged in evaluation mode; None embeds an utterance as one.

    A network that is trained on short chunks is then used on what it knows: the windows (:func:`window_frames`) are
    freed of their own mean, as chunks are, and the mean of their unit embeddings is the utterance's. That takes out
    changes of level within a recording, too.
    """

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.pool = TemporalStatisticsPooling()
        self.window = window

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
        if self.window is None or self.training:
            return self.embed_statistics(self.pool(*self.frame_maps(features, num_frames)))
        frames = window_frames(torch.as_tensor(features.shape[1]), self.window)
        unit = self._embed_windows(features[:, frames].flatten(0, 1))
        return unit.view(features.shape[0], -1, self.embed_dim).mean(dim=1)

    def _embed_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (N, D) of windows (N, W, F)."""
        windows = windows - windows.mean(dim=1, keepdim=True)
        return nn.functional.normalize(self.embed_statistics(self.pool(*self.frame_maps(windows))), dim=1)

    def embed_long(
        self, features: Callable[[int, int], torch.Tensor], num_frames: int, frames_per_piece: int
    ) -> torch.Tensor:
        """Embed one utterance of any length in the memory that a piece takes; see :class:`SpeakerEncoder`.

        Each piece is given to the network with the frames around it that its maps depend on; the maps of those are
        left out. Windows go through the network some at a time.
        """
        if self.window is not None:
            frames = window_frames(torch.tensor(num_frames), self.window)
            return self._embed_windows_of(features, frames, frames_per_piece)
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

    def _embed_windows_of(
        self, features: Callable[[int, int], torch.Tensor], frames: torch.Tensor, frames_per_piece: int
    ) -> torch.Tensor:
        """Mean (D,) of the unit embeddings of windows of the positions ``frames`` (N, W)."""
        unit = []
        for some in frames.split(max(1, frames_per_piece // frames.shape[1])):
            first, last = int(some[0, 0]), int(some[-1, -1])
            unit.append(self._embed_windows(features(first, last + 1)[some - first]))
        return torch.cat(unit).mean(dim=0)


def window_frames(num_frames: torch.Tensor, window: int) -> torch.Tensor:
    """Which frames each window of an utterance has: (N, W) positions.

    The fewest windows that begin at the first frame, end at the last, and overlap by half or more, their starts spread
    evenly and rounded down; an utterance of no more than ``window`` frames is one window. Everything is computed with
    tensors, so that a graph that is traced from one length holds for all.

    Args:
        num_frames: T, a scalar.
        window: W, at least 2.

    >>> window_frames(torch.tensor(9), 4).tolist()
    [[0, 1, 2, 3], [1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8]]
    """
    room = (num_frames - window).clamp(min=0)  # for a start
    hop = window // 2
    steps = torch.div(room + hop - 1, hop, rounding_mode="floor")
    starts = torch.div(_numbers_to(steps + 1) * room, steps.clamp(min=1), rounding_mode="floor")
    return starts[:, None] + _numbers_to(num_frames.clamp(max=window))


def _numbers_to(end: torch.Tensor) -> torch.Tensor:
    """0, 1, ... ``end`` - 1. (PyTorch takes a tensor, too, but does not say so.)"""
    return torch.arange(cast("int", end))
