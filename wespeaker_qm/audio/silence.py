"""Digital silence: frames without any energy, as editors and telephone systems put around a voice.

A frame whose samples all have one value, zero as a rule, comes out at the floor of the logarithm in every mel bin,
-15.9. Training never sees that: its dither alone gives 4.4 on average. Extraction does not dither, and a tenth of such
frames lowers the mean that is taken from all the others by 2 or more.
"""

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.waveform import Waveform

_BLOCK_SAMPLES = 1 << 16


class _Part:
    """Samples ``first`` to ``end`` of a waveform, which are not read before they are asked for."""

    def __init__(self, waveform: Waveform, first: int, end: int) -> None:
        self._waveform, self._first, self._num_samples = waveform, first, end - first

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, samples: slice) -> NDArray[np.float32]:
        first, end, _ = samples.indices(self._num_samples)
        return self._waveform[self._first + first : self._first + end]


def without_silent_ends(waveform: Waveform, frames: Frames, min_frames: int = 1) -> Waveform:
    """A waveform less the frames at its beginning and end that are digital silence.

    Whole frames go, and the others are those that they were: a few zeros before a voice, which most files have, change
    nothing.

    Args:
        waveform: (S,).
        frames: how it is divided.
        min_frames: where fewer than these would be left, the waveform stays as it is.

    Returns:
        The same object where no frame goes.
    """
    num_frames = frames.num_frames(len(waveform))
    first = frames.num_frames(_num_equal(waveform))
    end = min(num_frames, (len(waveform) - _num_equal(waveform, from_end=True) - 1) // frames.shift + 1)
    if end - first < max(1, min_frames) or end - first == num_frames:
        return waveform
    start = first * frames.shift
    return _Part(waveform, start, start + frames.num_samples(end - first))


def _num_equal(waveform: Waveform, *, from_end: bool = False) -> int:
    """How many samples equal the first (or the last), before (or behind) any other."""
    num_samples = len(waveform)
    for done in range(0, num_samples, _BLOCK_SAMPLES):
        to = min(done + _BLOCK_SAMPLES, num_samples)
        block = waveform[num_samples - to : num_samples - done][::-1] if from_end else waveform[done:to]
        if done == 0:
            value = block[0]
        others = np.flatnonzero(block != value)
        if len(others):
            return done + int(others[0])
    return num_samples
