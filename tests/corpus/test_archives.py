"""Recordings in zip archives (whole and in parts), tars and LMDBs, read by their locators."""

import io
import os
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest

from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.corpus import archives
from wespeaker_qm.corpus.archives import (
    JoinedFile,
    archive_files,
    is_locator,
    list_lmdb,
    list_tar,
    list_zip,
    open_recording,
    read_member,
    recording_stamps,
)
from wespeaker_qm.utils.done import file_stamp
from wespeaker_qm.utils.errors import RecipeError

CONTENT = {f"dev/aac/id{number:05d}/v/00001.m4a": np.random.default_rng(number).bytes(5000) for number in range(8)}
CONTENT["dev/aac/id00009/v/00001.m4a"] = b"compressible " * 1000


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "vox2_dev_aac.zip"
    with zipfile.ZipFile(path, "w") as output:
        output.mkdir("dev")
        for number, (name, content) in enumerate(CONTENT.items()):
            output.writestr(name, content, zipfile.ZIP_DEFLATED if number % 2 == 0 else zipfile.ZIP_STORED)
    return path


def _split(archive: Path, num_parts: int) -> None:
    content = archive.read_bytes()
    size = -(-len(content) // num_parts)
    for number in range(num_parts):
        part = archive.with_name(f"{archive.stem}_parta{chr(97 + number)}")
        part.write_bytes(content[number * size : (number + 1) * size])
    archive.unlink()


def test_members_of_a_zip_archive(archive: Path) -> None:
    members = list(list_zip(archive))
    assert [member.name for member in members] == list(CONTENT)
    assert {member.name: read_member(member.locator) for member in members} == CONTENT


@pytest.mark.parametrize("num_parts", [2, 7, 26])
def test_parts_are_read_as_one_archive_and_locators_stay_when_they_are_joined(archive: Path, num_parts: int) -> None:
    whole = list(list_zip(archive))
    _split(archive, num_parts)
    assert len(archive_files(archive)) == num_parts
    members = list(list_zip(archive))
    assert members == whole
    assert {member.name: read_member(member.locator) for member in members} == CONTENT


def test_a_missing_part_is_named(archive: Path) -> None:
    _split(archive, 4)
    archive.with_name("vox2_dev_aac_partab").unlink()
    with pytest.raises(RecipeError, match="found vox2_dev_aac_partac but no vox2_dev_aac_partab"):
        list(list_zip(archive))


def test_a_missing_last_part_and_a_missing_archive_are_told(archive: Path) -> None:
    _split(archive, 4)
    archive.with_name("vox2_dev_aac_partad").unlink()
    with pytest.raises(RecipeError, match="its last part is missing; fetch it again"):
        list(list_zip(archive))
    with pytest.raises(RecipeError, match="no such archive, nor parts none_partaa"):
        list(list_zip(archive.with_name("none.zip")))


def test_a_damaged_member_is_bad_audio_with_a_reason(archive: Path) -> None:
    members = {member.name: member.locator for member in list_zip(archive)}
    content = bytearray(archive.read_bytes())
    for number, locator in enumerate(members.values()):
        offset = int(locator.split(":")[1])
        content[offset + 30 + len("dev/aac/id00000/v/00001.m4a") + 20] ^= 255
        if number == 8:
            content[offset] = 0
    archive.with_name("spoilt.zip").write_bytes(content)
    for number, locator in enumerate(members.values()):
        expected = "no zip member at byte" if number == 8 else "damaged in the archive"
        with pytest.raises(AudioError, match=expected):
            open_recording(locator.replace("vox2_dev_aac.zip", "spoilt.zip"))


def test_a_compression_that_is_not_known_is_refused_when_listing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as output:
        output.writestr("a.wav", b"a" * 100)
    with pytest.raises(RecipeError, match=r"a\.wav is encrypted or compressed with method 14"):
        list(list_zip(tmp_path / "x.zip"))


def test_a_member_that_inflates_without_end_is_bad_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as output:
        output.writestr("bomb.wav", b"\0" * 1_000_000)
        output.writestr("good.wav", b"\0" * 1000)
    bomb, good = list_zip(tmp_path / "x.zip")
    monkeypatch.setattr(archives, "_MAX_INFLATED_BYTES", 10_000)
    assert read_member(good.locator) == b"\0" * 1000
    with pytest.raises(AudioError, match="more than 10000 bytes when inflated from the archive; unpack the archive"):
        read_member(bomb.locator)
    with zipfile.ZipFile(tmp_path / "x.zip") as contents:  # as the message advises
        assert (Path(contents.extract("bomb.wav", tmp_path))).stat().st_size == 1_000_000


def test_a_member_that_is_cut_off_is_bad_audio(archive: Path) -> None:
    offset, size, rest = next(list_zip(archive)).locator.removeprefix("zip:").split(":", 2)
    with pytest.raises(AudioError, match="cut off when inflated from the archive"):
        read_member(f"zip:{offset}:{int(size) - 20}:{rest}")


def test_keys_of_an_lmdb_in_another_encoding_are_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        transaction.put("Müller.wav".encode("latin-1"), b"")
    with pytest.raises(RecipeError, match=r"lmdb:1: not UTF-8 text: found 'M\\xfcller.wav'; write the keys"):
        list(list_lmdb(tmp_path / "lmdb"))


def test_files_of_a_tar_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "musan.tar", "w") as output:
        for name, content in CONTENT.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            output.addfile(info, io.BytesIO(content))
    members = list(list_tar(tmp_path / "musan.tar"))
    assert {member.name: read_member(member.locator) for member in members} == CONTENT
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(RecipeError, match=r"bad\.tar: not a complete tar archive"):
        list(list_tar(tmp_path / "bad.tar"))


def test_entries_of_an_lmdb_in_wespeakers_layout(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for name, content in CONTENT.items():
            transaction.put(name.encode(), content)
        transaction.put(b"__keys__", b"a pickle, which must not be opened")
    members = list(list_lmdb(tmp_path / "lmdb"))
    assert {member.name: read_member(member.locator) for member in members} == CONTENT
    with pytest.raises(AudioError, match="has no such key"):
        read_member(f"lmdb:{tmp_path}/lmdb!/none")
    with pytest.raises(RecipeError, match="not an LMDB"):
        list(list_lmdb(tmp_path / "none"))


def test_the_stamp_of_a_recording_changes_with_its_archive(archive: Path) -> None:
    member = next(list_zip(archive))
    before = list(recording_stamps([member.locator, str(archive)]))
    assert before[0].startswith(member.locator)
    _split(archive, 3)
    after = list(recording_stamps([member.locator, str(archive)]))
    assert after[0] != before[0]
    assert after[1] == f"{archive} absent"


def test_joined_files_read_like_one(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(10_000)
    cuts = [0, 1, 1, 5000, 10_000]
    paths = [tmp_path / str(number) for number in range(4)]
    for path, first, last in zip(paths, cuts, cuts[1:], strict=False):
        path.write_bytes(content[first:last])
    draw = random.Random(0)
    with JoinedFile(paths) as joined:
        assert joined.readall() == content
        for _ in range(200):
            offset, num_bytes = draw.randrange(11_000), draw.randrange(6_000)
            assert joined.pread(num_bytes, offset) == content[offset : offset + num_bytes]
        joined.seek(-10, io.SEEK_END)
        assert (joined.tell(), joined.read(100)) == (9_990, content[-10:])


def test_extra_fields_of_any_length_are_passed_over(tmp_path: Path) -> None:
    """Between a member's name and its data zip programs keep times and owners, at most 65,535 bytes."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as output:
        for name, extra_bytes in (("short.wav", 4), ("long.wav", 40_000)):
            info = zipfile.ZipInfo(name)
            info.extra = struct.pack("<HH", 0x7777, extra_bytes) + bytes(extra_bytes)
            output.writestr(info, name.encode() * 100)
    contents = {member.name: read_member(member.locator) for member in list_zip(path)}
    assert contents == {name: name.encode() * 100 for name in ("short.wav", "long.wav")}


def test_an_encrypted_member_is_refused_when_listing(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag in the table of contents, PKWARE's appnote 4.4.4
    archive.write_bytes(content)
    with pytest.raises(RecipeError, match="is encrypted or compressed"):
        list(list_zip(archive))


def test_a_compressed_tar_is_refused_because_its_offsets_are_not_those_of_the_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz") as output:
        output.addfile(tarfile.TarInfo("a.wav"))
    with pytest.raises(RecipeError, match=r"x\.tar: not a complete tar archive"):
        list(list_tar(tmp_path / "x.tar"))


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, tuple[str, Path]]:
    """Kind of archive -> the locator of an entry that holds b"content", and the file that it lies in."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as output:
        output.writestr("x", b"content")
    with tarfile.open(tmp_path / "a.tar", "w") as output:
        info = tarfile.TarInfo("x")
        info.size = len(b"content")
        output.addfile(info, io.BytesIO(b"content"))
    with lmdb.open(str(tmp_path / "a.lmdb")) as database, database.begin(write=True) as transaction:
        transaction.put(b"x", b"content")
    return {
        "zip": (next(list_zip(tmp_path / "a.zip")).locator, tmp_path / "a.zip"),
        "tar": (next(list_tar(tmp_path / "a.tar")).locator, tmp_path / "a.tar"),
        "lmdb": (next(list_lmdb(tmp_path / "a.lmdb")).locator, tmp_path / "a.lmdb" / "data.mdb"),
    }


@pytest.mark.parametrize("kind", ["zip", "tar", "lmdb"])
def test_an_entry_is_opened_by_its_locator(entries: dict[str, tuple[str, Path]], kind: str) -> None:
    locator, _ = entries[kind]
    assert is_locator(locator)
    handle = open_recording(locator)
    assert not isinstance(handle, str)
    assert handle.read() == b"content"


def test_a_path_is_opened_as_it_is() -> None:
    for path in ("a.wav", "/data/zip/a.wav", "tar/b.flac"):
        assert not is_locator(path)
        assert open_recording(path) == path
    with pytest.raises(AudioError, match="'zip:1:2:x': not a locator of a zip, tar or LMDB entry"):
        open_recording("zip:1:2:x")
    with pytest.raises(AudioError, match=r"\.\.\..*: not a locator") as caught:
        read_member("zip:" + "name\n" * 5000)
    assert len(str(caught.value)) < 300


def test_stamps_tell_which_archive_changed(entries: dict[str, tuple[str, Path]], tmp_path: Path) -> None:
    plain = tmp_path / "plain.wav"
    plain.write_bytes(b"abc")
    paths = [str(plain), *(locator for locator, _ in entries.values()), str(plain)]
    before = list(recording_stamps(paths))
    assert len(before) == len(paths)
    assert before[0] == before[-1] == file_stamp(plain)
    for number, (locator, file) in enumerate(entries.values(), start=1):
        assert before[number] == f"{locator} {file_stamp(file)}"
        os.utime(file, ns=(number, number))
        after = list(recording_stamps(paths))
        assert [one != other for one, other in zip(before, after, strict=True)] == [
            place == number for place in range(len(paths))
        ]
        before = after


def test_the_stamp_of_an_archive_in_parts_names_every_part(archive: Path) -> None:
    locator = next(list_zip(archive)).locator
    _split(archive, 3)
    parts = [archive.with_name(f"vox2_dev_aac_parta{letter}") for letter in "abc"]
    assert list(recording_stamps([locator])) == [" ".join([locator, *map(file_stamp, parts)])]


def test_a_truncated_archive_tells_how_many_bytes_are_missing(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"0123456789")
    assert read_member(f"tar:2:8:{tmp_path}/x.tar!/a") == b"23456789"
    with pytest.raises(AudioError, match="the archive ends 3 bytes too early: truncated"):
        read_member(f"tar:5:8:{tmp_path}/x.tar!/a")


def test_a_joined_file_seeks_like_a_file(tmp_path: Path) -> None:
    for name, content in (("one", b"0123"), ("two", b"456789"), ("all", b"0123456789")):
        (tmp_path / name).write_bytes(content)
    moves = [(3, io.SEEK_SET), (2, io.SEEK_CUR), (-1, io.SEEK_CUR), (-4, io.SEEK_END), (5, io.SEEK_END), (0, 0)]
    with JoinedFile([tmp_path / "one", tmp_path / "two"]) as joined, (tmp_path / "all").open("rb") as plain:
        assert (joined.readable(), joined.seekable(), joined.writable()) == (True, True, False)
        assert [joined.pread(1, offset) for offset in (0, 3, 4, 9, 10)] == [b"0", b"3", b"4", b"9", b""]
        for position, whence in moves:
            assert joined.seek(position, whence) == plain.seek(position, whence)
            assert joined.tell() == plain.tell()
            assert joined.read(3) == plain.read(3)
            assert joined.tell() == plain.tell()
    assert joined.closed


def test_the_parts_after_the_twenty_sixth_are_named_ba(tmp_path: Path) -> None:
    names = [f"x_parta{chr(97 + number)}" for number in range(26)] + ["x_partba", "x_partbb"]
    for name in names:
        (tmp_path / name).write_bytes(b"-")
    assert [path.name for path in archive_files(tmp_path / "x.zip")] == names
    (tmp_path / "x_partba").unlink()
    with pytest.raises(RecipeError, match="found x_partbb but no x_partba"):
        archive_files(tmp_path / "x.zip")


@pytest.mark.parametrize("kind", ["zip", "tar", "lmdb"])
@pytest.mark.parametrize("failure", [OSError(13, "Permission denied"), MemoryError("no memory"), RuntimeError("odd")])
def test_whatever_an_archive_raises_is_bad_audio(
    entries: dict[str, tuple[str, Path]], monkeypatch: pytest.MonkeyPatch, kind: str, failure: Exception
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(archives, "_open_joined", fail)
    monkeypatch.setattr(archives, "_open_lmdb", fail)
    locator, _ = entries[kind]
    with pytest.raises(AudioError, match=rf"cannot be read from its archive \(\w+: .*{failure.args[-1]}"):
        read_member(locator)


@pytest.mark.parametrize("kind", ["zip", "tar", "lmdb"])
def test_an_archive_that_is_gone_is_bad_audio(entries: dict[str, tuple[str, Path]], kind: str) -> None:
    locator, file = entries[kind]
    file.unlink()
    archives._open_lmdb.cache_clear()
    archives._open_joined.cache_clear()
    with pytest.raises(AudioError, match=r"no such archive|not an LMDB"):
        read_member(locator)


@pytest.mark.parametrize(
    ("at", "values"),
    [
        (6, b"\xff\x00"),  # a version that zipfile does not know: NotImplementedError
        (46, b"\xff\xfe"),  # a name that says it is UTF-8: UnicodeDecodeError
        (28, b"\x00\x00"),  # no name: IndexError
    ],
)
def test_a_table_of_contents_that_zipfile_stumbles_over_is_refused(tmp_path: Path, at: int, values: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as output:
        output.writestr("\u00e4.wav", b"content")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    first = content.index(b"PK\1\2") + at
    content[first : first + 2] = values
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(RecipeError, match=r"x\.zip: not a complete zip archive"):
        list(list_zip(tmp_path / "x.zip"))


@pytest.mark.parametrize("list_members", [list_zip, list_tar])
def test_an_archive_that_cannot_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, list_members: Callable
) -> None:
    (tmp_path / "x").write_bytes(b"")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr(tarfile, "open", fail)
    monkeypatch.setattr(archives, "JoinedFile", fail)
    with pytest.raises(RecipeError, match=r"x: not a complete (zip|tar) archive \(.*Permission denied"):
        list(list_members(tmp_path / "x"))
