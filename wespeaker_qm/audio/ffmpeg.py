"""Decoding by FFmpeg, through PyAV: M4A, MP4, AAC, and whatever libsndfile refuses or does not decode to the end.

A file is never asked to open another one, or an address, as a playlist does.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wespeaker_qm.audio.chains import MP3_START, ogg_starts
from wespeaker_qm.audio.source import (
    BLOCK_SAMPLES,
    SLACK_S,
    UNKNOWN_BYTES,
    AudioError,
    Block,
    Mixer,
    PartlyDecodedError,
    RefusedError,
    Source,
    content_of,
)

if TYPE_CHECKING:
    import av.container

# A lossy encoder's delay, and what it pads at the end, are in some containers' durations: two frames each.
_CODEC_DELAY_FRAMES = 4
# Codecs without such a delay, though FFmpeg calls most of them lossy: mu-law, A-law, every ADPCM (G.722, G.726).
_WITHOUT_DELAY = re.compile(r".*pcm|g722|g726")
# Containers of which FFmpeg knows the duration; of others (MP3, ADTS, AMR, ...) it makes an estimate.
_TIMED_CONTAINERS = frozenset(
    {"aiff", "asf", "au", "caf", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "ogg", "tta", "wv"}
)


def ffmpeg_blocks(source: Source, name: str, refusal: RefusedError) -> Iterator[Block]:
    """Mono samples of the first audio stream, decoded by FFmpeg through PyAV, a block at a time.

    Args:
        source: as of :func:`wespeaker_qm.audio.io.read_audio`.
        name: for messages.
        refusal: of soundfile; where it knows the duration, so much must be decoded.

    Raises:
        PartlyDecodedError: it is not; or less than the container says.
        AudioError: cannot be decoded, whatever FFmpeg or PyAV raises.
    """
    extent, mixer = _Extent(refusal.duration_s), Mixer()
    failure: Exception | None = None
    try:
        yield from _decoded(source, name, refusal, extent, mixer)
    except AudioError:
        raise
    except Exception as error:
        failure = error
    reason = f"soundfile: {refusal}; PyAV: {_described(failure)}"
    declared_s, found_s = extent.declared_s, extent.found_s
    if declared_s is not None and found_s and found_s < declared_s - extent.slack_s:
        found, declared = round(found_s * extent.sample_rate), round(declared_s * extent.sample_rate)
        raise PartlyDecodedError(
            f"{name}: {found} of {declared} samples can be decoded: truncated or damaged ({reason})"
        )
    if failure is not None and (declared_s is None or not found_s):
        raise AudioError(f"{name}: cannot be decoded as audio ({reason})") from failure
    mixer.check(name)


def longest_s(source: Source) -> float | None:
    """How long a recording may be by its packets, which are counted and not decoded; None where FFmpeg finds none."""
    try:
        with _open_av(source) as container:
            stream = container.streams.audio[0]
            num_ticks = sum(packet.duration or 0 for packet in container.demux(stream))
            return float(num_ticks * (stream.time_base or 0)) or None
    except Exception:  # what is wrong, decoding tells
        return None


@dataclass
class _Extent:
    """What was found while decoding: of how much the container speaks, how much came, how far both may be apart."""

    declared_s: float | None
    found_s: float = 0.0
    sample_rate: int = 0
    slack_s: float = SLACK_S


def _decoded(source: Source, name: str, refusal: RefusedError, extent: _Extent, mixer: Mixer) -> Iterator[Block]:
    """Decode, and write down how it goes; any exception ends it, and what came before it counts."""
    import av

    is_counted_mp3 = extent.declared_s is not None and MP3_START.search(content_of(source)) is not None
    with _open_av(source) as container:
        if not container.streams.audio:
            raise AudioError(f"{name}: holds no audio stream")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioError(
                f"{name}: cannot be decoded as audio (soundfile: {refusal}; PyAV: no decoder for its audio)"
            )
        codec = stream.codec_context.codec
        delay_frames = _CODEC_DELAY_FRAMES
        is_mp3_in_wav = container.format.name == "wav" and codec.name == "mp3float"
        if extent.declared_s is None or is_mp3_in_wav:  # libsndfile only estimates the duration of MP3 in WAV
            extent.declared_s = _duration_s(container)
        elif is_counted_mp3 or not codec.name.startswith("mp"):  # that of MPEG audio without a count is estimated
            delay_frames = 1
        if container.format.name == "ogg" and len(ogg_starts(content_of(source), name)) > 1:
            extent.declared_s = None  # FFmpeg gives the duration of the last of several streams
        if container.format.name == "caf" and codec.lossless:
            # Else FFmpeg shortens the last packet, which is short already, once more.
            stream.codec_context.flags2 |= av.codec.context.Flags2.skip_manual
        has_delay = not (codec.lossless or _WITHOUT_DELAY.match(codec.name))
        for block, longest_frame in _blocks(container, mixer):
            extent.sample_rate = extent.sample_rate or block.sample_rate
            extent.found_s += len(block.samples) / block.sample_rate
            if has_delay:
                extent.slack_s = max(extent.slack_s, delay_frames * longest_frame / extent.sample_rate)
            yield block


def _described(failure: Exception | None) -> str:
    """What FFmpeg and the system say speaks for itself; anything else that is raised needs its name."""
    import av

    if failure is None:
        return "no error"
    return str(failure) if isinstance(failure, av.FFmpegError | OSError) else f"{type(failure).__name__}: {failure}"


@contextlib.contextmanager
def _open_av(source: Source) -> Iterator["av.container.InputContainer"]:
    """Open with FFmpeg, which gets the bytes from here and must not open anything by itself."""
    import av

    with contextlib.ExitStack() as stack:
        if isinstance(source, Path | str):
            source = stack.enter_context(Path(source).open("rb"))
        else:
            source.seek(0)
        yield stack.enter_context(
            av.open(source, mode="r", metadata_errors="ignore", options={"protocol_whitelist": ""})
        )


def _duration_s(container: "av.container.InputContainer") -> float | None:
    """How long the first audio stream is by the container's own account; None where that is an estimate or missing."""
    import av

    stream = container.streams.audio[0]
    is_timed_wav = (
        container.format.name == "wav"
        and (_WITHOUT_DELAY.match(stream.codec_context.name) or stream.codec_context.name == "mp3float")
        and 0 < (stream.duration or 0) < UNKNOWN_BYTES // 8  # a sample has up to 8 bytes
    )
    if container.format.name not in _TIMED_CONTAINERS and not is_timed_wav:
        return None
    if stream.frames and stream.codec_context.name.startswith("pcm_"):  # a frame is a sample there
        return stream.frames / stream.rate
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


def _blocks(container: "av.container.InputContainer", mixer: Mixer) -> Iterator[tuple[Block, int]]:
    """Blocks of frames of one kind, each with the number of samples in its longest frame.

    What was decoded before an error comes first, then the error.
    """
    parts: list[np.ndarray] = []
    kind, num_samples = (0, 0), 0
    failure: Exception | None = None
    try:
        for sample_rate, samples in _frames(container):
            if parts and (kind != (sample_rate, samples.shape[1]) or num_samples >= BLOCK_SAMPLES):
                yield Block(*kind, np.concatenate(parts)), max(map(len, parts))
                parts, num_samples = [], 0
            kind = (sample_rate, samples.shape[1])
            num_samples += samples.size
            parts.append(mixer.mono(samples))
    except Exception as error:
        failure = error
    if parts:
        yield Block(*kind, np.concatenate(parts)), max(map(len, parts))
    if failure is not None:
        raise failure


def _frames(container: "av.container.InputContainer") -> Iterator[tuple[int, np.ndarray]]:
    """Sample rate and samples (S, channels) float32 of every frame of the first audio stream."""
    import av

    frames = container.decode(container.streams.audio[0])
    for _, alike in groupby(frames, key=lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        # Of the kind of frame that it gets first. Interleaved: of planes, PyAV looks behind the eighth for more.
        floats = av.AudioResampler(format="flt")
        for frame in chain(alike, [None]):  # None flushes it
            for converted in floats.resample(frame):
                channels = converted.to_ndarray().reshape(-1, converted.layout.nb_channels).T
                yield converted.sample_rate, np.ascontiguousarray(channels).T
