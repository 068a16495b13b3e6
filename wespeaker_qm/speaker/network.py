"""What a :class:`~wespeaker_qm.speaker.speaker.Speaker` asks of the network behind it, whatever computes it.

Legend: N recordings, S samples, D embedding dimension.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class EmbeddingNetwork(Protocol):
    """Waveforms to embeddings; safe to call from several threads."""

    sample_rate: int
    """Of the waveforms, in Hz."""
    embed_dim: int
    """D."""
    max_frames: int | None
    """The most frames of a recording that it can embed; None for any number."""

    def embed(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embeddings (N, D) of waveforms (S,) in [-1, 1] of any lengths, each as it would come out alone."""
