"""What a waveform is to whoever computes on it: an array, or a recording of which parts are read. No torch here."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Waveform(Protocol):
    """Samples in [-1, 1]: an array (S,), or what reads from a file the samples that are asked for."""

    def __len__(self) -> int:
        """S."""

    def __getitem__(self, samples: slice, /) -> NDArray[np.float32]:
        """Samples ``first:end``, float32."""
