"""How a waveform is divided into frames: what the filter bank, and whoever counts its frames, go by. No torch here."""

import dataclasses

FRAMES_PER_PIECE = 6000
"""Frames that are worked on at a time, a minute at the usual 10 ms: a recording of up to that many is one piece."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames of ``length`` samples, one every ``shift`` samples; only whole ones count (Kaldi's ``snip-edges``).

    >>> frames = Frames.of(16000, 25, 10)
    >>> frames.num_frames(32_240), frames.num_samples(200), frames.num_frames(399)
    (200, 32240, 0)
    """

    length: int
    shift: int

    @classmethod
    def of(cls, sample_rate: int, length_ms: float, shift_ms: float) -> "Frames":
        """Frames of so many milliseconds, in whole samples."""
        return cls(int(sample_rate * length_ms / 1000), int(sample_rate * shift_ms / 1000))

    def num_frames(self, num_samples: int) -> int:
        """Number of whole frames in ``num_samples`` samples; 0 where there is none."""
        return max(0, 1 + (num_samples - self.length) // self.shift)

    def num_samples(self, num_frames: int) -> int:
        """Smallest number of samples that holds ``num_frames`` frames."""
        return (num_frames - 1) * self.shift + self.length
