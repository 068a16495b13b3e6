"""What audio is read from: sources, what is known of them, and what is wrong with them."""

from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from wespeaker_qm.utils.errors import RecipeError

Source = Path | str | BinaryIO
"""A path, or a binary file object positioned at the start."""

SLACK_S = 0.01
"""Headers that are a few bytes off, and MP3s that end within a frame, are common and harm nobody."""
UNKNOWN_BYTES = 2**31 - 2**13
"""Programs that write a WAV to a pipe put one of several numbers from here on in the place of the length, or 0."""


class AudioInfo(NamedTuple):
    """Facts of an audio file, before averaging channels."""

    num_samples: int
    sample_rate: int
    num_channels: int


class RawFormat(NamedTuple):
    """What a headerless mono file does not say of itself.

    Attributes:
        sample_rate: in Hz.
        encoding: ``gsm610`` (GSM 06.10 full rate, 33 bytes a frame) or ``ulaw`` (8-bit mu-law).
    """

    sample_rate: int
    encoding: Literal["gsm610", "ulaw"]


class AudioError(RecipeError):
    """A file that cannot be used as audio; the message names the file and the reason."""


class PartlyDecodedError(AudioError):
    """Fewer samples can be decoded than the file says it has."""


class ShortError(Exception):
    """What soundfile delivers is not all; ``duration_s`` is that of the whole by the file's own account, if known."""

    def __init__(self, reason: str, duration_s: float | None = None) -> None:
        super().__init__(reason)
        self.duration_s = duration_s


def check_source(source: Source) -> str:
    """The source's name for messages; raises for a missing or empty file, whose decoder messages puzzle users."""
    if not isinstance(source, Path | str):
        return str(getattr(source, "name", "audio in memory"))
    path = Path(source)
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    return str(path)


def content_of(source: Source) -> bytes:
    """All bytes, also of a file object that was read before."""
    if isinstance(source, Path | str):
        return Path(source).read_bytes()
    source.seek(0)
    return source.read()


def mono(samples: np.ndarray) -> np.ndarray:
    """The mean (S,) of channels (S, channels), float32."""
    mean: np.ndarray = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    return mean
