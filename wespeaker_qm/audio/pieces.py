"""Features of recordings of any length, a minute at a time: what is held in memory does not grow with the recording."""

from collections.abc import Iterator

import torch

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.audio.frames import FRAMES_PER_PIECE
from wespeaker_qm.audio.waveform import Waveform


def pieces(num_frames: int, frames_per_piece: int = FRAMES_PER_PIECE) -> Iterator[tuple[int, int]]:
    """Divide frames: ``(first, end)`` of one piece after the other, the last of which may be shorter."""
    for first in range(0, num_frames, frames_per_piece):
        yield first, min(first + frames_per_piece, num_frames)


def features_of(waveform: Waveform, fbank: Fbank, first: int, end: int) -> torch.Tensor:
    """Frames ``first`` to ``end`` of the features of a waveform: (end - first, F), on the filter bank's device."""
    start = first * fbank.frame_shift
    samples = waveform[start : start + fbank.num_samples(end - first)]
    features: torch.Tensor = fbank(torch.from_numpy(samples).to(fbank.window.device).unsqueeze(0))
    return features[0]


def mean_features(waveform: Waveform, fbank: Fbank) -> torch.Tensor:
    """Mean (F,) of the features over all T frames, float32.

    The means of the pieces are weighted in float64; that of a single piece comes out to the bit.

    Raises:
        RecipeError: the waveform is shorter than a frame.
    """
    num_frames = max(1, fbank.num_frames(len(waveform)))
    total = torch.zeros(fbank.num_mel_bins, dtype=torch.float64, device=fbank.window.device)
    for first, end in pieces(num_frames):
        total += features_of(waveform, fbank, first, end).mean(dim=0).double() * (end - first)
    return (total / num_frames).float()
