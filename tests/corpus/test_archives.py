"""Recordings in zip archives (whole and in parts), tars and LMDBs, read by their locators."""

import io
import random
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest

from wespeaker_qm.audio.io import AudioError
from wespeaker_qm.corpus.archives import (
    JoinedFile,
    archive_files,
    list_lmdb,
    list_tar,
    list_zip,
    open_recording,
    read_member,
    recording_stamps,
)
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
