"""Digital silence: frames without any energy, as editors and telephone systems put around a voice and into its pauses.

A frame whose samples all have one value, zero as a rule, comes out at the floor of the logarithm in every mel bin,
-15.9. Training never sees that: its dither alone gives 4.4 on average. Extraction does not dither, and a tenth of such
frames lowers the mean that is taken from all the others by 2 or more.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.waveform import Waveform

_BLOCK_SAMPLES = 1 << 16


class _Joined:
    """Spans of a waveform one behind the other, which are not read before they are asked for."""

    def __init__(self, waveform: Waveform, spans: NDArray[np.int64]) -> None:
        self._waveform, self._starts = waveform, spans[:, 0]
        self._edges = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])

    def __len__(self) -> int:
        return int(self._edges[-1])

    def __getitem__(self, samples: slice) -> NDArray[np.float32]:
        first, end, _ = samples.indices(len(self))
        parts = [np.empty(0, np.float32)]
        while first < end:
            span = int(np.searchsorted(self._edges, first, side="right")) - 1
            stop = min(end, int(self._edges[span + 1]))
            from_here = int(self._starts[span] - self._edges[span])
            parts.append(self._waveform[from_here + first : from_here + stop])
            first = stop
        return np.concatenate(parts)


def without_silence(waveform: Waveform, frames: Frames, min_frames: int = 1) -> Waveform:
    """A waveform less its frames that are digital silence, wherever they are.

    The other frames are those that they were, in their order: a few equal samples, which most files have, change
    nothing.

    Args:
        waveform: (S,).
        frames: how it is divided.
        min_frames: where fewer than these would be left, the waveform stays as it is.

    Returns:
        The same object where no frame goes.
    """
    num_samples = len(waveform)
    spans: list[tuple[int, int]] = []
    start = num_silent = 0
    for run_start, run_end in _runs(waveform, frames.length):
        first, end = -(-run_start // frames.shift), (run_end - frames.length) // frames.shift + 1
        if first >= end:
            continue
        # What an earlier frame loses of the run to this cut it gets back from behind it: there the run goes on.
        spans.append((start, first * frames.shift))
        start = min(end * frames.shift, num_samples)
        num_silent += end - first
    if not num_silent or frames.num_frames(num_samples) - num_silent < max(1, min_frames):
        return waveform
    left = np.array([*spans, (start, num_samples)])
    return _Joined(waveform, left[left[:, 0] < left[:, 1]])


def _runs(waveform: Waveform, least: int) -> Iterator[tuple[int, int]]:
    """First sample, and that behind the last, of all runs of ``least`` or more equal samples."""
    num_samples, start = len(waveform), 0
    for done in range(1, num_samples, _BLOCK_SAMPLES):
        block = waveform[done - 1 : done + _BLOCK_SAMPLES]
        edges = np.concatenate([[start], done + np.flatnonzero(block[1:] != block[:-1])])
        for run in np.flatnonzero(np.diff(edges) >= least):
            yield int(edges[run]), int(edges[run + 1])
        start = int(edges[-1])
    if num_samples - start >= least:
        yield start, num_samples
