"""What audio is read from: sources, what is known of them, and what is wrong with them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from wespeaker_qm.utils.errors import RecipeError

Source = Path | str | BinaryIO
"""A path, or a binary file object positioned at the start."""

SLACK_S = 0.01
"""Headers that are a few bytes off, and MP3s that end within a frame, are common and harm nobody."""
HIGHEST_LEVEL = 2.0**31
"""Of samples in a file of floats, where 1 is full scale: some programs write integers as they are, of up to 32 bits."""
UNKNOWN_BYTES = 2**31 - 2**13
"""Programs that write a WAV to a pipe put one of several numbers from here on in the place of the length, or 0."""

BLOCK_SAMPLES = 2**19
"""Samples, of all channels together, that are decoded at a time, whatever the length of the recording."""
RATES_HZ = (1_000, 768_000)
"""Lowest and highest sample rate that can be that of a voice; beyond them lie headers that are wrong."""
_LEAST_POWER_LEFT = 1e-3
_MOST_BYTES_AT_ONCE = 2**31
MAX_CHANNELS = 64
"""As many as FFmpeg's resampler takes."""


class AudioInfo(NamedTuple):
    """Facts of an audio file, before averaging channels."""

    num_samples: int
    sample_rate: int
    num_channels: int


class Block(NamedTuple):
    """Some of the samples of a recording: their rate in Hz, the channels they were averaged of, mono float32 (S,)."""

    sample_rate: int
    num_channels: int
    samples: np.ndarray


class AudioStream(NamedTuple):
    """A recording as it is decoded: ``blocks`` yields its mono samples in order, float32 of any level."""

    sample_rate: int
    num_channels: int
    blocks: Iterator[np.ndarray]


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


class OppositePhaseError(AudioError):
    """The channels of a recording cancel each other, so that their mean is not what is heard."""


class RefusedError(Exception):
    """What soundfile delivers is not all; ``duration_s`` is that of the whole by the file's own account, if known."""

    def __init__(self, reason: str, duration_s: float | None = None) -> None:
        super().__init__(reason)
        self.duration_s = duration_s


def check_source(source: Source) -> str:
    """The source's name for messages; raises for what is no file or empty, whose decoder messages puzzle users."""
    if not isinstance(source, Path | str):
        return str(getattr(source, "name", "audio in memory"))
    try:
        status = os.stat(source)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"{source}: no such file") from None
    except (OSError, ValueError) as error:  # a name with a zero byte, or one that is too long
        raise AudioError(f"{source}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise AudioError(f"{source}: is {kind}, expected a file")
    if status.st_size == 0:
        raise AudioError(f"{source}: the file is empty (0 bytes)")
    return str(source)


def check_format(name: str, sample_rate: int, num_channels: int) -> None:
    """Refuse what no recording of a voice has, and what would fill the memory when it is averaged or resampled.

    Raises:
        AudioError: the sample rate lies outside :data:`RATES_HZ`, or there are more than :data:`MAX_CHANNELS` channels.
    """
    lowest, highest = RATES_HZ
    if not lowest <= sample_rate <= highest:
        raise AudioError(
            f"{name}: sample rate {sample_rate} Hz, expected {lowest} to {highest}; mend its header, or convert it"
        )
    if num_channels > MAX_CHANNELS:
        raise AudioError(
            f"{name}: {num_channels} channels, expected at most {MAX_CHANNELS}; mend its header, or write the channels "
            "into files of their own"
        )


def content_of(source: Source) -> bytes:
    """All bytes, also of a file object that was read before, whose position stays.

    Raises:
        AudioError: there are more than any recording has that must be looked through as a whole.
    """
    if (num_bytes := size_of(source)) > _MOST_BYTES_AT_ONCE:
        raise AudioError(
            f"{check_source(source)}: {num_bytes:,} bytes, expected at most {_MOST_BYTES_AT_ONCE:,} where all must be "
            "looked through (Ogg, MP3, joined FLAC); cut it into parts"
        )
    if isinstance(source, Path | str):
        return Path(source).read_bytes()
    at = source.tell()
    source.seek(0)
    content = source.read()
    source.seek(at)
    return content


def size_of(source: Source) -> int:
    """Number of bytes; the position of a file object stays."""
    if isinstance(source, Path | str):
        return os.stat(source).st_size
    at = source.tell()
    num_bytes = source.seek(0, os.SEEK_END)
    source.seek(at)
    return num_bytes


def part_of(blocks: Iterator[Block], start: int, num_samples: int | None) -> Iterator[Block]:
    """Samples ``start`` to ``start + num_samples``; the rest is decoded, too, since its end may be missing."""
    at = 0
    for block in blocks:
        first, last = max(start - at, 0), None if num_samples is None else max(start + num_samples - at, 0)
        at += len(block.samples)
        yield block._replace(samples=block.samples[first:last])


class Mixer:
    """Averages the channels of a recording, a block at a time, and sees whether anything is left of them."""

    def __init__(self) -> None:
        self._power_of_channels = self._power_of_mean = 0.0

    def mono(self, samples: np.ndarray) -> np.ndarray:
        """The mean (S,) of channels (S, channels), float32."""
        if samples.shape[1] == 1:
            return samples[:, 0]
        with np.errstate(all="ignore"):  # what is infinite or not a number is found in the result
            mean: np.ndarray = samples.mean(axis=1, dtype=np.float32)
            self._power_of_channels += len(mean) * float(samples.var(axis=0, dtype=np.float64).mean())
            self._power_of_mean += len(mean) * float(mean.var(dtype=np.float64))
        return mean

    def check(self, name: str) -> None:
        """Refuse the recording that was mixed where its channels cancel each other; what has no signal is not meant.

        Raises:
            OppositePhaseError: the mean has less than a thousandth of the channels' power; of independent ones it has
                one part in their number, at most 64.
        """
        if self._power_of_mean < _LEAST_POWER_LEFT * self._power_of_channels:
            raise OppositePhaseError(
                f"{name}: its channels cancel each other (one is the other upside down, as through a cable that is "
                "wired wrongly), so their mean is silent; write one channel to a file of its own"
            )
