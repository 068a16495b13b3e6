"""Recordings as the network gets them: the samples that packing (stage 2) makes of the same file."""

import io
import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.io import read_audio
from wespeaker_qm.audio.resample import resample_audio
from wespeaker_qm.audio.silence import without_silence
from wespeaker_qm.audio.source import AudioError, check_format, check_source
from wespeaker_qm.export.contents import FeatureCard
from wespeaker_qm.packing.format import PCM_SCALE, to_pcm16
from wespeaker_qm.utils.errors import RecipeError

STDIN = "-"
"""In the place of a path: standard input."""

Recording = Path | str | BinaryIO | NDArray[Any]
"""A file of any format, ``-`` for standard input, a binary file object, or samples (S,): floats in [-1, 1] or int16."""


class Audio(NamedTuple):
    """One recording."""

    name: str
    """For messages."""
    original: NDArray[np.float32]
    """(S,) as decoded."""
    waveform: NDArray[np.float32]
    """(S',) at the model's rate, rounded to 16 bits."""


def read_recording(recording: Recording, features: FeatureCard, sample_rate: int | None = None) -> Audio:
    """Decode, mix down and resample a recording of any kind.

    Args:
        recording: a file or samples.
        features: of the model.
        sample_rate: of samples, in Hz; None for a file, which knows its own.

    Raises:
        RecipeError: it cannot be used as audio, has no signal, or its sample rate is missing.
    """
    if isinstance(recording, np.ndarray):
        name = "array"
        original, original_rate = _samples(recording, sample_rate), int(sample_rate or 0)
    else:
        if sample_rate is not None:
            raise RecipeError(f"sample_rate: found {sample_rate} beside a file, which knows its own; leave it out")
        source = recording
        if isinstance(recording, str) and recording == STDIN:
            source = io.BytesIO(sys.stdin.buffer.read())
        name = "standard input" if source is not recording else check_source(source)
        original, original_rate = read_audio(source)
    if not np.any(original != original[0]):
        raise AudioError(f"{name}: silent: no signal at all")
    resampled = resample_audio(original, original_rate, features.sample_rate)
    waveform = to_pcm16(resampled).astype(np.float32) / np.float32(PCM_SCALE)
    return Audio(name, original, waveform)


def network_input(
    audio: Audio, features: FeatureCard, min_frames: int, max_frames: int | None = None
) -> NDArray[np.float32]:
    """What goes into the network: the waveform, without its digital silence where the model says so.

    Args:
        audio: a recording.
        features: of the model.
        min_frames: the fewest frames that it can embed.
        max_frames: the most; None for any number.

    Raises:
        RecipeError: there are fewer, or more.
    """
    frames = Frames.of(features.sample_rate, features.frame_length_ms, features.frame_shift_ms)
    if frames.num_frames(len(audio.waveform)) < min_frames:
        found, least = (count / features.sample_rate for count in (len(audio.waveform), frames.num_samples(min_frames)))
        raise AudioError(f"{audio.name}: {found:.3f} s of audio, expected at least {least:.3f} s")
    waveform = without_silence(audio.waveform, frames, min_frames)[:] if features.trim_silence else audio.waveform
    if max_frames is not None and frames.num_frames(len(waveform)) > max_frames:
        found_s, most_s = (count / features.sample_rate for count in (len(waveform), frames.num_samples(max_frames)))
        raise AudioError(
            f"{audio.name}: {found_s:.0f} s of audio, but an .onnx file of this network embeds at most {most_s:.0f} s "
            "as one: it holds every frame's maps at once. Take the model folder in its place, which embeds any length "
            "(needs torch), or embed windows (embed --window 3)"
        )
    return waveform


def _samples(samples: NDArray[Any], sample_rate: int | None) -> NDArray[np.float32]:
    """Samples as a file of them would be read."""
    if sample_rate is None:
        raise RecipeError("sample_rate: missing beside an array of samples, expected their number a second")
    check_format("array", sample_rate, 1)
    if samples.ndim != 1 or not len(samples):
        raise RecipeError(
            f"array of shape {samples.shape}, expected (samples,) of one channel; of several channels, take the mean"
        )
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(PCM_SCALE)
    if samples.dtype.kind != "f":
        raise RecipeError(f"array of {samples.dtype}, expected floats in [-1, 1], or int16")
    with np.errstate(over="ignore"):
        waveform = samples.astype(np.float32)
    peak = float(np.abs(waveform).max())
    if not np.isfinite(peak):
        raise AudioError("array: has samples that are infinite or not a number")
    return waveform / np.float32(peak) if peak > 1 else waveform
