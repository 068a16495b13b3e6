"""Reading and writing audio: the only decoder of the project.

Everything comes in as mono float32 in [-1, 1] at the file's own sample rate, and goes out as 16-bit PCM WAV. Integer
samples are scaled by 2**15 (as in Kaldi, but divided out), so a 16-bit file survives a round trip bit for bit.

A file that says how long it is must be that long: what was cut off, or has a hole that the decoder steps over, is
refused (:class:`PartlyDecodedError`). Files that were written to a pipe do not know their length and are read to their
end. A file is never asked to open another one, or an address, as a playlist does.
"""

import contextlib
import functools
import io
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, groupby
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path

if TYPE_CHECKING:
    import av.container

Source = Path | str | BinaryIO

# Headers that are a few bytes off, and MP3s that end within a frame, are common and harm nobody.
_SLACK_S = 0.01
# A lossy encoder's delay, and what it pads at the end, are in some containers' durations: two frames each.
_CODEC_DELAY_FRAMES = 4
# Codecs without such a delay, though FFmpeg calls most of them lossy: mu-law, A-law, every ADPCM (G.722, G.726).
_WITHOUT_DELAY = re.compile(r".*pcm|g722|g726")
# What libsndfile logs of files whose data end before their header says so, of blocks, and of RF64, AIFF and CAF.
_BYTES_LOGGED = re.compile(r"^ *(?:data|Data Size|SSND|BODY|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_BLOCKS_LOGGED = re.compile(r"Block Align +: ([1-9]\d*)$.*Samples/Block +: (\d+)$", re.MULTILINE | re.DOTALL)
_FRAMES_LOGGED = re.compile(
    r"value from 'ds64' chunk of (?P<ds64>\d+)|read from 'COMM' chunk \((?P<comm>\d+)\)|Valid frames +: (?P<pakt>\d+)"
)
# Programs that write a WAV to a pipe put one of several numbers from here on in the place of the length, or 0.
_UNKNOWN_BYTES = 2**31 - 2**13
UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile gives as the length of a FLAC that does not know its own."""
# Containers of which FFmpeg knows the duration; of others (MP3, ADTS, AMR, ...) it makes an estimate.
_TIMED_CONTAINERS = frozenset(
    {"aiff", "asf", "au", "caf", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "ogg", "tta", "wv"}
)
_REFLECTED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_LOSSY_FORMATS = ("OGG", "MP3")
_OGG_HEADER_BYTES = 27
# The first frame of an MP3 whose encoder wrote its length: header, side information of one of three sizes, tag, flags.
_MP3_START = re.compile(rb"\xff[\xe2-\xff]..(?:\0{32}|\0{17}|\0{9})(?:Xing|Info)\0\0\0[\x01-\x0f]", re.DOTALL)
_NIST_LENGTH = re.compile(rb"^sample_count -i (\d+)$", re.MULTILINE)


class AudioError(RecipeError):
    """A file that cannot be used as audio; the message names the file and the reason."""


class PartlyDecodedError(AudioError):
    """Fewer samples can be decoded than the file says it has."""


class _ShortError(Exception):
    """What soundfile delivers is not all; ``duration_s`` is that of the whole by the file's own account, if known."""

    def __init__(self, reason: str, duration_s: float | None = None) -> None:
        super().__init__(reason)
        self.duration_s = duration_s


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


def read_audio(
    source: Source, *, start: int = 0, num_samples: int | None = None, raw_format: RawFormat | None = None
) -> tuple[np.ndarray, int]:
    """Read audio as mono; several channels are averaged.

    soundfile decodes WAV, FLAC, Ogg, Opus and MP3; whatever it refuses or does not decode to the end (M4A, MP4, AAC,
    ...) goes to PyAV. Samples beyond full scale (lossy decoders overshoot, float files hold anything) are scaled to a
    peak of 1, never clipped. Where rate or channels change within a file (joined recordings), all of it is brought to
    the rate that most of it has.

    Args:
        source: path, or a binary file object positioned at the start.
        start: first sample wanted. With ``num_samples`` only that part of a WAV or FLAC is decoded; lossy formats are
            decoded from their beginning, because a decoder that starts in the middle gives other samples.
        num_samples: number of samples wanted, default all; fewer come back where the file ends earlier.
        raw_format: sample rate and encoding of a headerless file, which cannot be detected.

    Returns:
        waveform (num_samples,), float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        PartlyDecodedError: the file is truncated or damaged.
        AudioError: missing, empty, unreadable or non-finite samples.
    """
    name = _check_source(source)
    try:
        waveform, sample_rate = _read_soundfile(source, start, num_samples, raw_format)
    except (soundfile.LibsndfileError, _ShortError) as refusal:
        if raw_format is not None:
            raise AudioError(f"{name}: cannot be read as headerless {raw_format.encoding} ({refusal})") from refusal
        waveform, sample_rate, _ = _read_av(source, name, refusal)
        waveform = waveform[start : None if num_samples is None else start + num_samples]
    if len(waveform) == 0:
        raise AudioError(f"{name}: no samples, expected at least one (from sample {start} on)")
    peak = float(np.abs(waveform).max())
    if not np.isfinite(peak):
        raise AudioError(f"{name}: has samples that are infinite or not a number; write the file again")
    return (waveform / np.float32(peak) if peak > 1 else waveform), sample_rate


def read_audio_at(source: Source, sample_rate: int, *, raw_format: RawFormat | None = None) -> np.ndarray:
    """Read audio as by :func:`read_audio` and resample it: waveform (S,), float32 in [-1, 1], at ``sample_rate`` Hz."""
    waveform, original_rate = read_audio(source, raw_format=raw_format)
    return resample_audio(waveform, original_rate, sample_rate)


def audio_info(source: Source, *, raw_format: RawFormat | None = None) -> AudioInfo:
    """Length, sample rate and channels, from the header where soundfile knows the format, else by decoding.

    Of joined files, which are decoded too, the channels are those of the first.

    Raises:
        AudioError: as :func:`read_audio`, so far as the header tells.
    """
    name = _check_source(source)
    try:
        with soundfile.SoundFile(source, **_raw_arguments(raw_format)) as file:
            _check_declared(file)
            info, file_format = AudioInfo(file.frames, file.samplerate, file.channels), file.format
        links = _links(source, file_format)
        if len(links) > 1:
            waveform, sample_rate = _read_links(links)
            info = info._replace(num_samples=len(waveform), sample_rate=sample_rate)
        return info
    except (soundfile.LibsndfileError, _ShortError) as refusal:
        if raw_format is not None:
            raise AudioError(f"{name}: cannot be read as headerless {raw_format.encoding} ({refusal})") from refusal
        waveform, sample_rate, num_channels = _read_av(source, name, refusal)
        return AudioInfo(len(waveform), sample_rate, num_channels)


def write_wav(path: Path | str, waveform: np.ndarray, sample_rate: int) -> None:
    """Write mono 16-bit PCM with the canonical 44-byte header, atomically; samples outside [-1, 1] are clipped.

    Args:
        path: the WAV file; parent folders are made.
        waveform: (num_samples,) floats.
        sample_rate: in Hz.

    Raises:
        AudioError: the waveform is empty, not one-dimensional or not finite.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or len(waveform) == 0 or not np.isfinite(waveform).all():
        raise AudioError(f"{path}: waveform of shape {waveform.shape} is empty, not mono or not finite; not written")
    pcm = np.clip(np.round(waveform * 32768.0), -32768, 32767).astype("<i2").tobytes()
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", 36 + len(pcm), b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16,
        b"data", len(pcm),
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_bytes(header + pcm)


def resample_audio(waveform: np.ndarray, orig_sr: int, new_sr: int) -> np.ndarray:
    """Change the sample rate by polyphase filtering, offline quality: 90 dB stop band, flat to 94 % of Nyquist.

    Args:
        waveform: (S,) float32.
        orig_sr: its sample rate in Hz.
        new_sr: the wanted sample rate in Hz.

    Returns:
        (ceil(S * new_sr / orig_sr),) float32, in time with the input (no delay), clipped to [-1, 1].
    """
    if orig_sr == new_sr:
        return waveform.astype(np.float32, copy=False)
    from scipy.signal import resample_poly

    divisor = gcd(orig_sr, new_sr)
    up, down = new_sr // divisor, orig_sr // divisor
    lowpass: Any = _resampling_filter(max(up, down))  # scipy's stubs know no array here
    resampled: np.ndarray = resample_poly(waveform.astype(np.float32), up, down, window=lowpass)
    clipped: np.ndarray = np.clip(resampled, -1.0, 1.0).astype(np.float32)
    return clipped


@functools.lru_cache(maxsize=16)
def _resampling_filter(max_rate: int) -> np.ndarray:
    """Kaiser-windowed sinc at the common rate; the cut-off (-6 dB) is 97 % of the lower Nyquist frequency."""
    from scipy.signal import firwin

    half_length = 96 * max_rate
    return firwin(2 * half_length + 1, 0.97 / max_rate, window=("kaiser", 9.0)).astype(np.float32)


def _check_source(source: Source) -> str:
    """The source's name for messages; raises for a missing or empty file, whose decoder messages puzzle users."""
    if not isinstance(source, Path | str):
        return str(getattr(source, "name", "audio in memory"))
    path = Path(source)
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    return str(path)


def _raw_arguments(raw_format: RawFormat | None) -> dict[str, Any]:
    if raw_format is None:
        return {}
    return {
        "samplerate": raw_format.sample_rate,
        "channels": 1,
        "format": "RAW",
        "subtype": raw_format.encoding.upper(),
    }


def _mono(samples: np.ndarray) -> np.ndarray:
    """The mean (S,) of channels (S, channels), float32."""
    mean: np.ndarray = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    return mean


def _read_soundfile(
    source: Source, start: int, num_samples: int | None, raw_format: RawFormat | None
) -> tuple[np.ndarray, int]:
    """Mono samples (S,) float32 and the sample rate.

    Raises:
        soundfile.LibsndfileError: not decoded at all.
        _ShortError: not all of it.
    """
    with soundfile.SoundFile(source, **_raw_arguments(raw_format)) as file:
        _check_declared(file)
        stop = file.frames if num_samples is None else min(start + num_samples, file.frames)
        seeks_exactly = file.seekable() and file.format not in _LOSSY_FORMATS
        first = min(start, stop) if seeks_exactly else 0
        if first:
            file.seek(first)
        try:
            samples = file.read(stop - first, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _ShortError(error.error_string, file.frames / file.samplerate) from error
        waveform = _mono(samples)
        _check_length(first + len(waveform), stop, file.frames, file.samplerate)
        waveform = waveform[min(start, stop) - first :]
        sample_rate, num_frames, file_format = file.samplerate, file.frames, file.format
    if file_format == "NIST":
        length = _NIST_LENGTH.search(_content(source)[:1024])
        declared = int(length[1]) if length else 0
        _check_length(num_frames, declared, declared, sample_rate)
    links = _links(source, file_format)
    if len(links) > 1:
        waveform, sample_rate = _read_links(links)
        waveform = waveform[start : None if num_samples is None else start + num_samples]
    return waveform, sample_rate


def _content(source: Source) -> bytes:
    if isinstance(source, Path | str):
        return Path(source).read_bytes()
    source.seek(0)
    return source.read()


def _links(source: Source, file_format: str) -> list[bytes]:
    """The recordings that follow each other in a file, of which libsndfile reads the first; empty for most formats.

    Raises:
        PartlyDecodedError: as :func:`_ogg_starts`.
    """
    if file_format not in _LOSSY_FORMATS:
        return []
    content = _content(source)
    starts = _ogg_starts(content, _check_source(source)) if file_format == "OGG" else _mp3_starts(content)
    return [content[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)]


def _mp3_starts(content: bytes) -> list[int]:
    """Where the MP3s begin that say how long they are; what stands before the first belongs to it."""
    return [0, *[match.start() for match in _MP3_START.finditer(content)][1:]]


def _read_links(links: list[bytes]) -> tuple[np.ndarray, int]:
    """Mono samples (S,) of recordings that follow each other, joined, and the sample rate.

    Digital silence at the end is left out, because it is padding (klettres-data has two seconds of it, in stereo).

    Raises:
        _ShortError: one of them is not all there.
    """
    try:
        parts = [_read_soundfile(io.BytesIO(link), 0, None, None)[::-1] for link in links]
    except _ShortError as error:
        raise _ShortError(str(error), sum(soundfile.info(io.BytesIO(link)).duration for link in links)) from error
    while len(parts) > 1 and not parts[-1][1].any():
        parts.pop()
    return _at_one_rate(parts)


def _check_length(found: int, expected: int, declared: int, sample_rate: int) -> None:
    """Raise where less was found than expected, of a file that has ``declared`` samples by its own account.

    Raises:
        _ShortError: so it is.
    """
    if expected - found > _SLACK_S * sample_rate:
        raise _ShortError(f"{found} of {declared} samples", declared / sample_rate)


def _check_declared(file: soundfile.SoundFile) -> None:
    """Compare the length of a file's data with what its header says, where libsndfile cuts the one to the other.

    Raises:
        _ShortError: the data are shorter, or the header says no length and soundfile cannot read without.
    """
    if file.frames in (0, UNKNOWN_FRAMES):
        raise _ShortError("no length in its header")
    log = file.extra_info
    frames, size, blocks = (pattern.search(log) for pattern in (_FRAMES_LOGGED, _BYTES_LOGGED, _BLOCKS_LOGGED))
    declared = 0
    if frames is not None:
        declared = int(frames[frames.lastindex or 0])
    # AIFF counts packets of ADPCM as frames.
    if size is not None and int(size[1]) < _UNKNOWN_BYTES and (frames is None or frames["comm"]):
        declared = max(declared, round(file.frames * int(size[1]) / max(int(size[2]), 1)))
        if blocks is not None:  # a block that was cut counts for nothing there
            declared = max(declared, int(size[1]) // int(blocks[1]) * int(blocks[2]))
    _check_length(file.frames, declared, declared, file.samplerate)


def _ogg_starts(content: bytes, name: str) -> list[int]:
    """Where the streams begin that follow each other in an Ogg file.

    Raises:
        PartlyDecodedError: a page is damaged, which decoders pass over, or cut off.
    """
    starts = [0]
    at, is_in_headers = content.find(b"OggS\0"), True
    while at >= 0:
        following = content.find(b"OggS\0", at + _OGG_HEADER_BYTES)
        header = content[at : at + _OGG_HEADER_BYTES]
        lengths = content[at + _OGG_HEADER_BYTES : at + _OGG_HEADER_BYTES + header[-1]]
        end = at + _OGG_HEADER_BYTES + header[-1] + sum(lengths)
        is_cut = len(header) < _OGG_HEADER_BYTES or end > (len(content) if following < 0 else following)
        if is_cut or _ogg_crc(header[:22] + bytes(4) + content[at + 26 : end]) != int.from_bytes(
            header[22:26], "little"
        ):
            raise PartlyDecodedError(f"{name}: the page of Ogg at byte {at} is damaged or cut off")
        is_first_page = bool(header[5] & 2)
        if is_first_page and not is_in_headers:
            starts.append(at)
        at, is_in_headers = following, is_first_page
    return starts


def _ogg_crc(page: bytes) -> int:
    """The CRC-32 of Ogg: the polynomial of zip's, but from the highest bit on, and without inversions."""
    reflected = zlib.crc32(page.translate(_REFLECTED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _at_one_rate(parts: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, int]:
    """Join parts, each of a sample rate, at the rate that most of the time has."""
    seconds: defaultdict[int, float] = defaultdict(float)
    for rate, part in parts:
        seconds[rate] += len(part) / rate
    sample_rate = max(seconds, key=seconds.__getitem__)
    joined = [
        resample_audio(np.concatenate([part for _, part in group]), rate, sample_rate)
        for rate, group in groupby(parts, key=lambda part: part[0])
    ]
    return np.concatenate(joined), sample_rate


def _read_av(source: Source, name: str, refusal: Exception) -> tuple[np.ndarray, int, int]:
    """Mono samples (S,) float32, sample rate and channels of the first audio stream, decoded by FFmpeg through PyAV.

    Args:
        source: as of :func:`read_audio`.
        name: for messages.
        refusal: of soundfile; where it knows the duration, so much must be decoded.

    Raises:
        PartlyDecodedError: it is not; or less than the container says.
        AudioError: cannot be decoded.
    """
    import av

    parts: list[tuple[int, np.ndarray]] = []
    num_channels = longest_frame = 0
    is_ogg = False
    failure: Exception | None = None
    declared_s = getattr(refusal, "duration_s", None)
    is_counted_mp3 = declared_s is not None and _MP3_START.search(_content(source)) is not None
    soundfile_says = getattr(refusal, "error_string", refusal)  # without the address of an object in memory
    slack_s = _SLACK_S
    try:
        with _open_av(source) as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: holds no audio stream")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError(
                    f"{name}: cannot be decoded as audio (soundfile: {soundfile_says}; PyAV: no decoder for its audio)"
                )
            codec = stream.codec_context.codec
            is_ogg = container.format.name == "ogg"
            delay_frames = _CODEC_DELAY_FRAMES
            is_mp3_in_wav = container.format.name == "wav" and codec.name == "mp3float"
            if declared_s is None or is_mp3_in_wav:  # of which soundfile's is an estimate
                declared_s = _duration_s(container)
            elif is_counted_mp3 or not codec.name.startswith("mp"):  # of MPEG audio without a count it is an estimate
                delay_frames = 1
            if container.format.name == "caf" and codec.lossless:
                # FFmpeg takes the samples that the last packet lacks off it once more.
                stream.codec_context.flags2 |= av.codec.context.Flags2.skip_manual
            try:
                for rate, samples in _frames(container):
                    parts.append((rate, _mono(samples)))
                    num_channels = max(num_channels, samples.shape[1])
                    longest_frame = max(longest_frame, len(samples))
            except av.FFmpegError as error:
                failure = error
            if parts and not (codec.lossless or _WITHOUT_DELAY.match(codec.name)):
                slack_s = max(slack_s, delay_frames * longest_frame / parts[0][0])
    except av.FFmpegError as error:
        failure = error
    if is_ogg and len(_ogg_starts(_content(source), name)) > 1:
        declared_s = None  # is that of the last of several streams
    reason = f"soundfile: {soundfile_says}; PyAV: {failure or 'no error'}"
    found_s = sum(len(part) / rate for rate, part in parts)
    if declared_s is not None and parts and found_s < declared_s - slack_s:
        found, declared = round(found_s * parts[0][0]), round(declared_s * parts[0][0])
        raise PartlyDecodedError(
            f"{name}: {found} of {declared} samples can be decoded: truncated or damaged ({reason})"
        )
    if failure is not None and (declared_s is None or not parts):
        raise AudioError(f"{name}: cannot be decoded as audio ({reason})") from failure
    if not parts:
        raise AudioError(f"{name}: no samples, expected at least one")
    return *_at_one_rate(parts), num_channels


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
        and 0 < (stream.duration or 0) < _UNKNOWN_BYTES // 8  # a sample has up to 8 bytes
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


def _frames(container: "av.container.InputContainer") -> Iterator[tuple[int, np.ndarray]]:
    """Sample rate and samples (S, channels) float32 of every frame of the first audio stream."""
    import av

    frames = container.decode(container.streams.audio[0])
    for _, alike in groupby(frames, key=lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        planar_float = av.AudioResampler(format="fltp")  # of the kind of frame that it gets first
        for frame in chain(alike, [None]):  # None flushes it
            for converted in planar_float.resample(frame):
                yield converted.sample_rate, converted.to_ndarray().T
