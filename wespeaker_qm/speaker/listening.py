"""What there is to hear in a recording besides a voice: how much speech, clipped or not, how far up it reaches.

Speech is found by energy alone: frames that are loud beside the loudest count, whatever makes the noise. Music and
traffic count too; nothing here tells them from a voice, and so nothing warns of them.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.bandwidth import bandwidth_hz
from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.trials.bandwidths import MIXED_RATIO

LOUD_WITHIN_DB = 30.0
"""Frames that are further below the loud ones (their 95th percentile) count as pauses."""
LEAST_LEVEL_DB = -60.0
"""And so do those below this level, 0 being a full-scale square wave, however quiet the recording."""
SHORT_S = 2.0
"""Less speech than this makes a score unsure: a warning."""
CLIPPED_FRACTION = 1e-3
"""Of samples at the limit, in runs of three or more, from which a recording counts as clipped."""
_RUN = 3


class Listening(NamedTuple):
    """What was heard."""

    duration_s: float
    speech_s: float
    """Seconds of frames that are loud enough for speech."""
    clipped: float
    """Share of the samples that lie at the limit in runs."""
    bandwidth_hz: int
    """Highest frequency that holds anything."""

    def warnings(self, name: str, least_bandwidth_hz: float | None) -> list[str]:
        """What a reader of a score must know, a sentence each.

        Args:
            name: of the recording.
            least_bandwidth_hz: what recordings of this kind reach that the model was measured on; None if unknown.
        """
        found = []
        if self.speech_s < SHORT_S:
            seconds = math.floor(10 * self.speech_s) / 10  # 1.96 s are not "2.0 s, less than 2 s"
            found.append(f"{name}: {seconds:.1f} s of speech, less than {SHORT_S:g} s: the score is unsure")
        if self.clipped >= CLIPPED_FRACTION:
            found.append(
                f"{name}: clipped: {100 * self.clipped:.1f} % of the samples lie at the limit; record it lower"
            )
        if least_bandwidth_hz is not None and MIXED_RATIO * self.bandwidth_hz < least_bandwidth_hz:
            found.append(
                f"{name}: nothing above {self.bandwidth_hz / 1000:.1f} kHz, where the recordings that thresholds rest "
                f"on reach {least_bandwidth_hz / 1000:.1f} kHz (a telephone?): rates of error are others"
            )
        return found


def listen(original: NDArray[np.float32], waveform: NDArray[np.float32], sample_rate: int) -> Listening:
    """Measure a recording.

    Args:
        original: (S,) in [-1, 1], as decoded.
        waveform: (S',) the same as the network gets it.
        sample_rate: of that, in Hz.
    """
    return Listening(
        len(waveform) / sample_rate,
        speech_s(waveform, sample_rate),
        clipped(original),
        bandwidth_hz(waveform, sample_rate),
    )


def speech_s(waveform: NDArray[np.float32], sample_rate: int) -> float:
    """Seconds of frames of 25 ms, one every 10 ms, whose level is near that of the loud ones."""
    frames = Frames.of(sample_rate, 25, 10)
    num_frames = frames.num_frames(len(waveform))
    if not num_frames:
        return 0.0
    sums = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    starts = np.arange(num_frames) * frames.shift
    level_db = 10 * np.log10((sums[starts + frames.length] - sums[starts]).clip(0) / frames.length + 1e-12)
    least_db = max(LEAST_LEVEL_DB, float(np.percentile(level_db, 95)) - LOUD_WITHIN_DB)
    return float((level_db >= least_db).sum() * frames.shift / sample_rate)


def clipped(waveform: NDArray[np.float32]) -> float:
    """Share of the samples that equal the highest or the lowest one in runs of three or more, as voices never do."""
    if not len(waveform):
        return 0.0
    total = 0
    for limit in {float(waveform.max()), float(waveform.min())} - {0.0}:
        at_limit = np.concatenate([[False], waveform == limit, [False]])
        edges = np.flatnonzero(at_limit[1:] != at_limit[:-1])
        lengths = edges[1::2] - edges[::2]
        total += int(lengths[lengths >= _RUN].sum())
    return total / len(waveform)
