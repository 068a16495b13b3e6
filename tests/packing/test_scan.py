"""Shards that WeSpeaker has packed are read as they are: the right samples, or a refusal that names the recording."""

import functools
import io
import multiprocessing
import os
import pickle
import struct
import tarfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.io import read_audio
from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.packing.index import packed_digest, write_index
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.packing.scan import Coding, IndexRow, audio_facts, scan_tar
from wespeaker_qm.utils.errors import RecipeError

RATE = 16000


def wave(seed=0, num_samples=4321, channels=1):
    """Float64 (S,) or (S, channels), below 0.4."""
    shape = (num_samples,) if channels == 1 else (num_samples, channels)
    return 0.1 * np.random.default_rng(seed).standard_normal(shape).clip(-4, 4)


def encoded(samples, kind="wav", rate=RATE, **options):
    """The bytes of an audio file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind.upper(), **options)
    return buffer.getvalue()


def m4a(samples):
    """As VoxCeleb2 is distributed."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        pcm = np.rint(samples * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()


def with_chunk_before_data(content):
    """The same WAV with a chunk of odd length between format and samples."""
    at = content.index(b"data")
    content = content[:at] + b"LIST" + struct.pack("<I", 5) + b"INFO!\0" + content[at:]
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def write_tar(path, members):
    """Name -> content, as tools/make_shard_list.py writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_list(folder, *shards):
    """shard.list and its tars of such members."""
    tars = [write_tar(folder / "shards" / f"shards_{number:09d}.tar", each) for number, each in enumerate(shards)]
    (folder / "shard.list").write_text("".join(f"{tar}\n" for tar in tars))
    return folder / "shard.list"


KINDS = {
    "wav": (encoded(wave()), Coding.PCM, 44),
    "a longer header": (with_chunk_before_data(encoded(wave())), Coding.PCM, 58),
    "extensible": (encoded(wave(), "wavex", subtype="PCM_16"), Coding.PCM, None),
    "flac": (encoded(wave(), "flac", subtype="PCM_16"), Coding.FLAC, 0),
    "24 bit": (encoded(wave(), subtype="PCM_24"), Coding.WHOLE, 0),
    "24-bit flac": (encoded(wave(), "flac", subtype="PCM_24"), Coding.WHOLE, 0),
    "float": (encoded(wave(), subtype="FLOAT"), Coding.WHOLE, 0),
    "mu-law": (encoded(wave(), subtype="ULAW"), Coding.WHOLE, 0),
    "stereo": (encoded(wave(channels=2)), Coding.WHOLE, 0),
    "stereo flac": (encoded(wave(channels=2), "flac"), Coding.WHOLE, 0),
    "sizes of a pipe": (
        encoded(wave())[:40] + b"\xff" * 4 + encoded(wave())[44:],
        Coding.WHOLE,
        0,
    ),
    "ogg": (encoded(wave(), "ogg", subtype="VORBIS"), Coding.WHOLE, 0),
    "mp3": (encoded(wave(), "mp3"), Coding.WHOLE, 0),
    "m4a": (m4a(wave()), Coding.WHOLE, 0),
}
SUFFIX = {"ogg": "ogg", "mp3": "mp3", "m4a": "m4a", "flac": "flac", "24-bit flac": "flac", "stereo flac": "flac"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_audio_gives_the_samples_that_the_decoder_gives(tmp_path, kind):
    content, coding, header_bytes = KINDS[kind]
    facts = audio_facts(content)
    assert facts.coding == coding
    assert header_bytes is None or facts.header_bytes == header_bytes
    expected, rate = read_audio(io.BytesIO(content))
    assert (facts.sample_rate, facts.num_samples) == (rate, len(expected))
    name = f"a.{SUFFIX.get(kind, 'wav')}"
    reader = ShardReader(write_list(tmp_path, {"a.spk": b"s", name: content}))
    assert reader.num_samples.tolist() == [len(expected)]
    np.testing.assert_allclose(reader.read(0), expected, rtol=0, atol=0.5001 / 32768)
    np.testing.assert_array_equal(reader.read(0, 100, 900), reader.read(0)[100:1000])


def test_a_list_of_wespeaker_is_read_as_it_is(tmp_path, monkeypatch, caplog):
    """Speaker before or after the audio, other members, keys that are not ASCII, tars named from elsewhere."""
    monkeypatch.chdir(tmp_path)
    waves = {f"id{number}/clip ä{'x' * 90 * (number % 2)}/0000{number}": wave(number) for number in range(6)}
    members = [
        {f"{key}.spk": key[:3].encode() + b"\n", f"{key}.wav": encoded(samples), f"{key}.vad": b"0 1"}
        if number % 2
        else {f"{key}.wav": encoded(samples), f"{key}.spk": key[:3].encode()}
        for number, (key, samples) in enumerate(waves.items())
    ]
    shards = [functools.reduce(lambda one, two: one | two, members[first : first + 2]) for first in (0, 2, 4)]
    shard_list = write_list(tmp_path / "wespeaker", *shards)
    shard_list.write_text(shard_list.read_text().replace(f"{tmp_path}/", "", 1))
    before = {path: path.read_bytes() for path in (tmp_path / "wespeaker").rglob("*") if path.is_file()}
    with caplog.at_level("INFO"):
        reader = ShardReader("wespeaker/shard.list")
        assert reader.keys == list(waves) and reader.speakers == [key[:3] for key in waves]
        for i, samples in enumerate(waves.values()):
            np.testing.assert_allclose(reader.read(i), samples, rtol=0, atol=1.01 / 32768)
        ShardReader("wespeaker/shard.list")
    assert caplog.text.count("packed by another program; its 3 tars are read once") == 1
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "wespeaker" / "shard.index.npy").is_file()


def test_changed_tars_and_damaged_indices_are_read_again(tmp_path):
    shard_list = write_list(tmp_path, {"a.spk": b"s", "a.wav": encoded(wave(0))})
    digest = packed_digest(tmp_path)
    (tmp_path / "shard.index.npy").write_bytes(b"damaged")
    assert packed_digest(tmp_path) == digest
    np.testing.assert_allclose(ShardReader(shard_list).read(0), wave(0), rtol=0, atol=1.01 / 32768)
    tar = tmp_path / "shards" / "shards_000000000.tar"
    write_tar(tar, {"a.spk": b"s", "a.wav": encoded(wave(1))})
    os.utime(tar, ns=(1, 1))
    assert packed_digest(tmp_path) != digest
    np.testing.assert_allclose(ShardReader(shard_list).read(0), wave(1), rtol=0, atol=1.01 / 32768)


@pytest.mark.parametrize("name", ["shard.index.json", "shard.index.npy"])
def test_where_no_index_can_be_written_it_is_kept_in_memory(tmp_path, name, monkeypatch, caplog):
    caplog.set_level("INFO")
    shard_list = write_list(tmp_path, {f"{key}.{kind}": content for key in "ab" for kind, content in
                                       (("spk", b"s"), ("wav", encoded(wave())))})  # fmt: skip
    (tmp_path / name).write_text('{"mine": 1}')
    reader = ShardReader(shard_list)
    digest = packed_digest(tmp_path)
    monkeypatch.setattr("wespeaker_qm.packing.index.scan_tar", None)  # workers, too, are not to read all again
    assert packed_digest(tmp_path) == digest
    assert caplog.text.count("its index is kept in memory") == 1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(1), reader.read(1))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(reader.read, 1).result(), reader.read(1))
    assert (tmp_path / name).read_text() == '{"mine": 1}'
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["shard.list", "shards", name])


REFUSED = {
    "no speaker": ({"a.wav": encoded(wave())}, r"a has no speaker: no member a\.spk"),
    "no audio": ({"a.spk": b"s"}, r"a has no audio"),
    "an empty speaker": ({"a.spk": b" ", "a.wav": encoded(wave())}, r"a\.spk holds ' ', expected the name"),
    "two words": ({"a.spk": b"s t", "a.wav": encoded(wave())}, r"expected the name of a speaker without white space"),
    "twice": ({"a.spk": b"s", "a.wav": encoded(wave()), "a.flac": encoded(wave(), "flac")}, "a has two members"),
    "no audio file": ({"a.spk": b"s", "a.wav": b"not audio"}, r"a\.wav cannot be used: .*mend the"),
    "nothing": ({}, "sample rates none at all"),
    "two rates": (
        {"a.spk": b"s", "a.wav": encoded(wave()), "b.spk": b"s", "b.wav": encoded(wave(), rate=8000)},
        r"sample rates 8000 Hz \(e\.g\. b\), 16000 Hz \(e\.g\. a\), expected exactly one",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_right_is_refused_by_name(tmp_path, fault):
    members, message = REFUSED[fault]
    with pytest.raises(RecipeError, match=message):
        ShardReader(write_list(tmp_path, members))
    assert not (tmp_path / "shard.index.json").exists()


def test_a_key_in_two_tars_is_refused(tmp_path):
    members = {"a.spk": b"s", "a.wav": encoded(wave())}
    with pytest.raises(RecipeError, match="some keys stand twice"):
        ShardReader(write_list(tmp_path, members, members))


def test_cut_and_compressed_tars_are_refused(tmp_path):
    shard_list = write_list(tmp_path, {"a.spk": b"s", "a.wav": encoded(wave())})
    tar = tmp_path / "shards" / "shards_000000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:3000])
    with pytest.raises(RecipeError, match=r"not a complete tar without compression .*make it again"):
        ShardReader(shard_list)
    with tarfile.open(tar, "w:gz") as archive:
        archive.add(shard_list, "a.spk")
    with pytest.raises(RecipeError, match=r"not a complete tar without compression"):
        list(scan_tar(tar))
    tar.unlink()
    with pytest.raises(RecipeError, match=r"shard\.list: names .*which does not exist"):
        ShardReader(shard_list)


def test_a_flac_that_does_not_know_its_length_is_decoded_whole():
    """Written to a pipe: the 36 bits of STREAMINFO's length are zero."""
    content = bytearray(encoded(wave(), "flac"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    facts = audio_facts(bytes(content))
    assert (facts.coding, facts.sample_rate, facts.num_samples) == (Coding.WHOLE, RATE, 4321)


def test_a_wav_without_its_last_samples_is_not_read_beyond_its_end():
    """Ten samples less than its header says is within what decoders forgive; they are not there to be cut from."""
    facts = audio_facts(encoded(wave())[:-20])
    assert (facts.coding, facts.num_samples) == (Coding.WHOLE, 4311)
    with pytest.raises(AudioError, match="no samples"):
        audio_facts(encoded(wave(num_samples=0)))


def test_an_index_reaches_to_the_last_byte_of_its_tar_and_no_further(tmp_path):
    tar, shard_list = tmp_path / "x.tar", tmp_path / "shard.list"
    shard_list.write_text(f"{tar}\n")
    row = IndexRow("a", "s", Coding.PCM, 50, 50, 44, RATE, 3, 0)
    tar.write_bytes(bytes(100))
    write_index(shard_list, [(tar, iter([row]))])
    tar.write_bytes(bytes(99))
    with pytest.raises(RecipeError, match=r"x\.tar: 99 bytes, but its index goes up to byte 100"):
        write_index(shard_list, [(tar, iter([row]))])


def test_recordings_of_which_a_chunk_takes_all_the_decoding_are_counted(tmp_path, caplog):
    members = {"a.spk": b"s", "a.wav": encoded(wave(0)), "b.spk": b"s", "b.wav": encoded(wave(1), subtype="PCM_24")}
    ShardReader(write_list(tmp_path, members))
    assert "1 of 2 recordings is neither 16-bit mono WAV nor 16-bit mono FLAC" in caplog.text
    caplog.clear()
    ShardReader(write_list(tmp_path / "fast", {name: members[name] for name in ("a.spk", "a.wav")}))
    assert "neither" not in caplog.text


def test_a_flac_whose_header_promises_what_no_bytes_hold_is_refused(tmp_path):
    """2^36 samples went into the index, and the first reader of the recording ran out of memory."""
    content = bytearray(encoded(wave(), "flac"))
    content[21] |= 0x0F
    content[22:26] = bytes(4 * [0xFF])
    with pytest.raises(RecipeError, match=r"tar: a\.flac cannot be used: 4321 of 68719476735 samples can be decoded"):
        ShardReader(write_list(tmp_path, {"a.spk": b"s", "a.flac": bytes(content)}))
