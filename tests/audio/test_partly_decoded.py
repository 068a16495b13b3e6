"""A recording is read to the end that it says it has, or refused; and none makes the decoder open anything else."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.io import audio_info, read_audio
from wespeaker_qm.audio.resample import resample_audio
from wespeaker_qm.audio.source import AudioError, PartlyDecodedError

RATE = 16000
RNG = np.random.default_rng(0)
TIME_S = np.arange(3 * RATE) / RATE
SWEEP = (0.3 * np.sin(2 * np.pi * (200 + 300 * TIME_S) * TIME_S) + 0.05 * RNG.standard_normal(3 * RATE)).astype("f4")

WITH_SOUNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "float wav": ("WAV", "FLOAT"),
    "mu-law wav": ("WAV", "ULAW"),
    "adpcm wav": ("WAV", "IMA_ADPCM"),
    "gsm wav": ("WAV", "GSM610"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
WITH_PYAV = {
    "m4a": ("ipod", "aac"),
    "alac": ("ipod", "alac"),
    "webm": ("webm", "libopus"),
    "mkv": ("matroska", "flac"),
    "ogg flac": ("ogg", "flac"),
    "mp3 of lame": ("mp3", "libmp3lame"),
    "tta": ("tta", "tta"),
}


def encode(kind: str, waveform: np.ndarray = SWEEP, rate: int = RATE) -> bytes:
    if kind in WITH_SOUNDFILE:
        container, subtype = WITH_SOUNDFILE[kind]
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, rate, format=container, subtype=subtype)
        return buffer.getvalue()
    return encode_with_pyav(*WITH_PYAV[kind], waveform, rate)


def encode_with_pyav(
    container: str, codec: str, waveform: np.ndarray = SWEEP, rate: int = RATE, layout: str = "mono", streams: int = 1
) -> bytes:
    """Encode a mono waveform; a second stream has half its level, a second channel the same."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        for _ in range(streams):
            file.add_stream(codec, rate=rate, layout=layout)
        for number, stream in enumerate(file.streams.audio):
            to_codec = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
            channels = np.stack([waveform / 2**number] * len(stream.layout.channels)).astype(np.float32)
            for start in range(0, len(waveform), 1024):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(channels[:, start : start + 1024]), format="fltp", layout=layout
                )
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                for converted in to_codec.resample(frame):
                    file.mux(stream.encode(converted))
            file.mux(stream.encode(None))
    return buffer.getvalue()


def read(content: bytes) -> tuple[np.ndarray, int]:
    return read_audio(io.BytesIO(content))


@pytest.mark.parametrize("kind", [*WITH_SOUNDFILE, *WITH_PYAV])
def test_whole_recordings_are_read_whole(kind: str) -> None:
    """Encoders append up to two of their frames; with garbage or a tag at the end the recording is the same."""
    content = encode(kind)
    waveform, rate = read(content)
    assert 0 <= len(waveform) / rate - 3 <= 2 * 1024 / RATE
    if kind not in ("w64", "nist"):  # read to the end of the file
        for tail in (bytes(1000), b"TAG" + bytes(125), b"some words"):
            np.testing.assert_array_equal(read(content + tail)[0], waveform)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", [*WITH_SOUNDFILE, *WITH_PYAV])
def test_truncated_recordings_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    content = encode(kind)
    path = tmp_path / "cut.audio"
    path.write_bytes(content[: round(share * len(content))])
    with pytest.raises(AudioError, match=r"cut\.audio: ") as caught:
        read_audio(path)
    if (kind in WITH_SOUNDFILE and kind not in ("vorbis", "opus")) or kind in ("webm", "mkv", "mp3 of lame"):
        assert isinstance(caught.value, PartlyDecodedError)
        found, declared = str(caught.value).split(" samples can be decoded")[0].split(": ")[-1].split(" of ")
        assert int(found) < 0.97 * int(declared)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *((container, codec) for container in ("WAV", "AU", "AIFF", "CAF", "W64", "RF64", "WAVEX", "NIST")
          for codec in ("PCM_16", "ULAW", "ALAW")),
        ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAV", "G721_32"), ("WAV", "GSM610"),
        ("W64", "IMA_ADPCM"), ("W64", "MS_ADPCM"), ("W64", "GSM610"),
        ("AU", "G721_32"), ("AU", "G723_24"), ("AU", "G723_40"), ("AIFF", "IMA_ADPCM"), ("AIFF", "GSM610"),
        ("CAF", "ALAC_16"), ("CAF", "ALAC_24"), ("SVX", "PCM_16"), ("MP3", "MPEG_LAYER_III"),
        ("wav", "adpcm_ima_wav"), ("wav", "adpcm_ms"), ("wav", "adpcm_yamaha"), ("wav", "g722"),
        ("aiff", "adpcm_ima_qt"), ("caf", "pcm_mulaw"), ("caf", "alac"), ("mp3", "libmp3lame"),
    ],
)  # fmt: skip
def test_a_cut_of_a_fiftieth_of_a_second_is_noticed(container: str, codec: str) -> None:
    """Only lossy codecs have a delay that a container may count; of MP3 a frame (576 samples here) may be missing."""
    if container.isupper():
        buffer = io.BytesIO()
        soundfile.write(buffer, SWEEP, RATE, format=container, subtype=codec)
        content = buffer.getvalue()
    else:
        content = encode_with_pyav(container, codec)
    whole, rate = read(content)
    assert rate == RATE and 0 <= len(whole) - len(SWEEP) <= 2048  # blocks of ADPCM are filled up
    for share in (0.93, 0.99 if "mp3" not in container.lower() else 0.97):
        with pytest.raises(AudioError):
            read(content[: round(share * len(content))])
    for lost in range(0, 1000, 37):
        try:
            found = len(read(content[: len(content) - lost])[0])
        except AudioError:
            continue
        assert len(whole) - found <= (576 if "mp3" in container.lower() else 0.02 * RATE)


@pytest.mark.parametrize("rate", [RATE, 22050, 44100])
def test_mp3_in_wav_has_the_length_of_its_header(rate: int) -> None:
    """libsndfile estimates it from the bit rate: a half per cent too much."""
    waveform = np.tile(SWEEP, 20)[: 20 * rate]
    content = encode_with_pyav("wav", "libmp3lame", waveform, rate)
    assert 0 <= len(read(content)[0]) - len(waveform) <= 3 * 1152
    with pytest.raises(PartlyDecodedError):
        read(content[: round(0.97 * len(content))])


def vbr_mp3(rate: int) -> tuple[bytearray, int]:
    """Three seconds of MP3 whose frames differ in size, and where the header stands that counts them."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE") as file:
        file.write(np.tile(SWEEP, 3)[: 3 * rate])
    content = bytearray(buffer.getvalue())
    return content, content.index(b"Xing")


@pytest.mark.parametrize("rate", [8000, RATE, 44100])
@pytest.mark.parametrize("flags", [None, 0])
def test_an_mp3_that_was_written_to_a_pipe_is_read_to_its_end(rate: int, flags: int | None) -> None:
    """libsndfile guesses its length from the size of the first frame, and reads no further: up to two thirds short."""
    content, at = vbr_mp3(rate)
    whole = read(bytes(content))[0]
    assert len(whole) == 3 * rate
    content[at : at + 4] = b"Xing" if flags is not None else bytes(4)
    content[at + 4 : at + 8] = struct.pack(">I", flags or 0)
    found, _ = read(bytes(content))
    assert 0 <= len(found) - len(whole) <= 3 * 1152
    shift = int(np.argmax(np.correlate(found[: 4000 + 3 * 1152], whole[:4000], "valid")))
    np.testing.assert_allclose(found[shift : shift + len(whole)], whole, atol=0.02)
    assert abs(audio_info(io.BytesIO(content)).num_samples - len(found)) <= 160


@pytest.mark.parametrize("num_frames", [0, 1, 10, 50])
def test_an_mp3_with_more_frames_than_its_header_counts_is_read_to_its_end(num_frames: int) -> None:
    content, at = vbr_mp3(RATE)
    content[at + 8 : at + 12] = struct.pack(">I", num_frames)
    assert abs(len(read(bytes(content))[0]) - 3 * RATE) <= 1152
    assert abs(audio_info(io.BytesIO(content)).num_samples - 3 * RATE) <= 1152


@pytest.mark.parametrize("num_frames", [10**6, 2**32 - 1])
def test_an_mp3_with_fewer_frames_than_its_header_counts_is_refused(num_frames: int) -> None:
    content, at = vbr_mp3(RATE)
    content[at + 8 : at + 12] = struct.pack(">I", num_frames)
    with pytest.raises(PartlyDecodedError, match="truncated or damaged"):
        read(bytes(content))


def test_a_wav_of_g722_written_to_a_pipe_is_read_to_its_end() -> None:
    """FFmpeg alone knows the codec; its header was written before the length was known."""
    content = bytearray(encode_with_pyav("wav", "g722"))
    whole, _ = read(bytes(content))
    for name, numbers in ((b"data", (0, 0xFFFFFFFF, 0x7FFFFFFF)), (b"fact", (0, 0xFFFFFFFF))):
        at = content.find(name)
        if name == b"fact" and at < 0:
            continue
        for number in numbers:
            piped = bytearray(content)
            first = at + (4 if name == b"data" else 8)
            piped[first : first + 4] = struct.pack("<I", number)
            np.testing.assert_array_equal(read(bytes(piped))[0], whole)


def test_a_stream_that_ffmpeg_has_no_decoder_for_is_refused() -> None:
    """What is left of a MOV without its index looks like something else to FFmpeg."""
    content = encode_with_pyav("mov", "pcm_mulaw")
    with pytest.raises(AudioError, match=r"cannot be decoded as audio .*no decoder for its audio"):
        read(content[: round(0.995 * len(content))])


@pytest.mark.parametrize("kind", ["flac", "vorbis", "opus", "mp3", "mp3 of lame", "mkv", "m4a", "alac", "webm"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_recordings_with_a_hole_are_refused(kind: str, share: float) -> None:
    content = bytearray(encode(kind))
    first = round(share * len(content))
    content[first : first + 1500] = bytes(1500)
    with pytest.raises(
        PartlyDecodedError, match=r"audio in memory: (\d+ of \d+ samples can|the page of Ogg at byte \d+)"
    ):
        read(bytes(content))
    del content[first : first + 1500]
    with pytest.raises(AudioError):
        read(bytes(content))


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36, 0x80000000])
@pytest.mark.parametrize("in_riff", [False, True])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(length: int, in_riff: bool) -> None:
    """Its header was written before the length was known, with a number that stands for that."""
    content = bytearray(encode("wav"))
    whole, _ = read(bytes(content))
    content[40:44] = struct.pack("<I", length)
    if in_riff:
        content[4:8] = struct.pack("<I", length)
    np.testing.assert_array_equal(read(bytes(content))[0], whole)


def test_a_length_just_below_those_that_stand_for_unknown_is_one() -> None:
    """ffmpeg, sox and arecord write numbers from 2 GiB less 8 KiB on; a recording may be as long as that."""
    content = bytearray(encode("wav"))
    whole, _ = read(bytes(content))
    content[40:44] = struct.pack("<I", 2**31 - 2**13)
    np.testing.assert_array_equal(read(bytes(content))[0], whole)
    content[40:44] = struct.pack("<I", 2**31 - 2**13 - 2)
    with pytest.raises(PartlyDecodedError, match=f"48000 of {2**30 - 2**12 - 1} samples can be decoded"):
        read(bytes(content))


@pytest.mark.parametrize(("extra_bytes", "is_refused"), [(44, False), (318, False), (1000, True)])
def test_a_wav_may_promise_a_hundredth_of_a_second_too_much(extra_bytes: int, is_refused: bool) -> None:
    content = bytearray(encode("wav"))
    whole, _ = read(bytes(content))
    content[40:44] = struct.pack("<I", 2 * len(SWEEP) + extra_bytes)
    if is_refused:
        with pytest.raises(PartlyDecodedError, match="48000 of 48500 samples"):
            read(bytes(content))
        with pytest.raises(PartlyDecodedError, match="48000 of 48500 samples"):
            audio_info(io.BytesIO(bytes(content)))
    else:
        np.testing.assert_array_equal(read(bytes(content))[0], whole)


def test_a_flac_of_unknown_length_is_read_to_its_end() -> None:
    """Written to a pipe: the 36 bits of STREAMINFO's length are zero."""
    content = bytearray(encode("flac"))
    whole, _ = read(bytes(content))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    np.testing.assert_allclose(read(bytes(content))[0], whole, atol=1e-7)
    with pytest.raises(AudioError, match="cannot be decoded"):
        read(bytes(content[:-3000]))


@pytest.mark.parametrize("kind", ["flac", "vorbis", "opus", "mp3"])
def test_joined_files_are_read_to_the_end(kind: str) -> None:
    """``cat a.ogg b.ogg``: libsndfile alone stops after the first."""
    one, two = encode(kind), encode(kind, SWEEP[::-1][:RATE])
    joined, rate = read(one + two)
    np.testing.assert_array_equal(joined, np.concatenate([read(one)[0], read(two)[0]]))
    assert rate == RATE
    assert audio_info(io.BytesIO(one + two)) == (len(joined), RATE, 1)
    part, _ = read_audio(io.BytesIO(one + two), start=47000, num_samples=2000)
    np.testing.assert_array_equal(part, joined[47000:49000])


@pytest.mark.parametrize("counted", [1, 16000, 47000])
def test_a_flac_that_counts_too_few_samples_is_read_to_its_end(counted: int) -> None:
    content = bytearray(encode("flac"))
    whole, _ = read(bytes(content))
    content[21] &= 0xF0
    content[22:26] = counted.to_bytes(4, "big")
    np.testing.assert_allclose(read(bytes(content))[0], whole, atol=1e-7)
    assert audio_info(io.BytesIO(bytes(content))) == (len(whole), RATE, 1)
    part, _ = read_audio(io.BytesIO(bytes(content)), start=40000, num_samples=2000)
    np.testing.assert_allclose(part, whole[40000:42000], atol=1e-7)


def _wav(counted: int, rest: bytes) -> bytes:
    """A WAV whose header counts less than all of its audio, and what follows that."""
    content = bytearray(encode("wav"))
    content[40:44] = (2 * counted).to_bytes(4, "little")
    return bytes(content) + rest


@pytest.mark.parametrize(
    "content",
    [_wav(16000, b""), _wav(48000, encode("wav")), _wav(48000, encode("flac")), _wav(39999, b"LIST\4\0\0\0abcd")],
    ids=["too few counted", "joined", "joined with another kind", "too few counted, and a chunk"],
)
def test_a_wav_with_more_behind_its_end_is_refused(tmp_path: Path, content: bytes) -> None:
    """Decoders stop where the header does, without a word."""
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for source in (path, io.BytesIO(content)):
        for reader in (read_audio, audio_info):
            with pytest.raises(PartlyDecodedError, match=r"its header counts [123]\.\d\d s of audio, but [\d,]+ bytes"):
                reader(source)
            if source is not path:
                source.seek(0)


@pytest.mark.parametrize("kind", ["AU", "AIFF", "CAF", "RF64", "W64", "NIST", "VOC"])
@pytest.mark.parametrize("searched_bytes", [100, 2**20])
def test_joined_files_without_compression_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str, searched_bytes: int
) -> None:
    """Of AU, AIFF, CAF and RF64 decoders read the first; of the others they take a header for a click."""
    monkeypatch.setattr("wespeaker_qm.audio.chains._SEARCHED_BYTES", searched_bytes)
    file = io.BytesIO()
    soundfile.write(file, SWEEP, RATE, format=kind)
    content = file.getvalue()
    assert len(read(content)[0]) == len(SWEEP)
    for reader in (read_audio, audio_info):
        with pytest.raises(PartlyDecodedError, match=f"another recording begins in it, {len(content):,} bytes from"):
            reader(io.BytesIO(content + content))


@pytest.mark.parametrize(
    "rest",
    [b"LIST" + (40000).to_bytes(4, "little") + 40000 * b"x", bytes(40000), b"\xff" * 9999, b"id3 \5\0\0\0abcde"],
    ids=["a chunk", "zeros that fill a block", "a third of a second", "a chunk of odd length"],
)
def test_what_is_no_audio_may_follow_that_of_a_wav(rest: bytes) -> None:
    np.testing.assert_array_equal(read(_wav(48000, rest))[0], read(encode("wav"))[0])


def test_joined_files_of_other_rates_and_channels_are_brought_to_one() -> None:
    long, short = encode("vorbis"), encode("vorbis", SWEEP[:8000], 8000)
    stereo = encode("vorbis", np.stack([SWEEP, 0 * SWEEP], axis=1)[:RATE])
    joined, rate = read(short + long + stereo)
    assert rate == RATE
    expected = [resample_audio(read(short)[0], 8000, RATE), read(long)[0], read(stereo)[0]]
    np.testing.assert_array_equal(joined, np.concatenate(expected))


@pytest.mark.parametrize("lost", ["first", "second"])
def test_joined_files_of_which_one_is_cut_are_refused(lost: str) -> None:
    one, two = encode("vorbis"), encode("vorbis", SWEEP[:8000], 8000)
    content = one[: len(one) // 2] + two if lost == "first" else one + two[:-100]
    with pytest.raises(PartlyDecodedError, match=r"the page of Ogg at byte \d+ is damaged or cut off"):
        read(content)
    damaged = bytearray(one + two)
    first = len(one) // 3 if lost == "first" else len(one) + len(two) // 2
    damaged[first : first + 600] = bytes(600)
    with pytest.raises(AudioError, match="audio in memory"):
        read(bytes(damaged))


def test_digital_silence_joined_to_the_end_is_padding() -> None:
    one, silence = encode("vorbis"), encode("vorbis", np.zeros((RATE, 2)), 44100)
    np.testing.assert_array_equal(read(one + silence + silence)[0], read(one)[0])


@pytest.mark.parametrize(("rate", "layout"), [(32000, "mono"), (RATE, "stereo")])
def test_frames_of_changing_rate_or_layout_are_brought_to_one(rate: int, layout: str) -> None:
    """AAC without a container: each frame says what it is."""
    one = encode_with_pyav("adts", "aac")
    two = encode_with_pyav("adts", "aac", resample_audio(SWEEP[:RATE], RATE, rate), rate, layout)
    joined, found_rate = read(one + two)
    assert found_rate == RATE
    alone = read(one)[0]
    np.testing.assert_allclose(joined[: len(alone)], alone, atol=1e-6)
    second = resample_audio(read(two)[0], rate, RATE)
    np.testing.assert_allclose(joined[len(alone) + 2048 :], second[2048:], atol=0.02)  # the decoder's memory fades


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis", "opus", "mp3", "adpcm wav", "gsm wav", "m4a", "aiff"])
@pytest.mark.parametrize(("start", "num_samples"), [(0, 100), (1000, 500), (20001, 3000), (47000, 900), (47000, 5000)])
def test_a_part_is_that_part_of_the_whole(kind: str, start: int, num_samples: int) -> None:
    """libsndfile's own seeking in Vorbis is off near the end."""
    content = encode(kind)
    part, _ = read_audio(io.BytesIO(content), start=start, num_samples=num_samples)
    np.testing.assert_array_equal(part, read(content)[0][start : start + num_samples])


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis", "mp3"])
def test_id3_tags_change_nothing(kind: str) -> None:
    content = encode(kind)
    tag = b"ID3\3\0\0" + bytes([0, 0, 16, 0]) + bytes(2048)
    if kind == "wav":  # libsndfile takes the tag's length off the data
        with pytest.raises(AudioError, match=r"46971 of 48000 samples"):
            read(tag + content)
    else:
        np.testing.assert_allclose(read(tag + content)[0], read(content)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("container", "codec", "atol"),
    [
        ("mov", "pcm_u8", 2**-7),
        ("mov", "pcm_s16le", 2**-15),
        ("mov", "pcm_s32le", 2**-24),
        ("mov", "pcm_f32le", 0),
        ("mov", "pcm_f64le", 0),
        ("matroska", "pcm_f64le", 0),
        ("matroska", "alac", 2**-15),
    ],
)
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_sample_formats_and_layouts(container: str, codec: str, atol: float, layout: str) -> None:
    waveform, rate = read(encode_with_pyav(container, codec, layout=layout))
    assert rate == RATE
    np.testing.assert_allclose(waveform, SWEEP, rtol=0, atol=atol + 1e-7)


def test_of_several_streams_the_first_is_read() -> None:
    waveform, _ = read(encode_with_pyav("mov", "pcm_f32le", streams=2))
    np.testing.assert_array_equal(waveform, SWEEP)


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile '{name}'\n",
        "ffconcat version 1.0\nfile 'file:{path}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{name}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/{name}\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.m3u8", "a.ffconcat", "concat:secret.aac|secret.aac", "file:secret.aac"])
def test_a_playlist_opens_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, playlist: str, name: str
) -> None:
    """FFmpeg follows playlists, and addresses in names, unless it is told not to."""
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret.aac"
    secret.write_bytes(encode_with_pyav("adts", "aac"))
    assert len(read_audio(secret)[0]) > RATE
    Path(name).write_text(playlist.format(name=secret.name, path=secret))
    for source in (Path(name), name):
        with pytest.raises(AudioError, match="cannot be decoded as audio"):
            read_audio(source)


def test_joined_files_of_two_codecs_are_decoded_or_refused() -> None:
    """libsndfile knows no FLAC in Ogg, and FFmpeg changes no codec in the middle."""
    vorbis, opus = encode("vorbis"), encode("opus", SWEEP[:RATE])
    np.testing.assert_array_equal(read(vorbis + opus)[0], np.concatenate([read(vorbis)[0], read(opus)[0]]))
    with pytest.raises(AudioError, match="cannot be decoded as audio"):
        read(vorbis + encode("ogg flac", SWEEP[:RATE]))
