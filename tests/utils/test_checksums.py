"""A file that is not what was written is refused; one from elsewhere is taken."""

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from wespeaker_qm.utils.checksums import (
    Checksum,
    ChecksumError,
    GrowingText,
    checked_path,
    checksum_of,
    checksum_path,
    read_checked_json,
    read_checked_text,
    remove_checked,
    verify,
    write_checked_text,
)
from wespeaker_qm.utils.files import write_text

REMEDY = "make it again"


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    write_checked_text(path, "one 1\ntwo 2\n")
    content = path.read_bytes()
    assert verify(path, REMEDY) == {"table.txt": Checksum(zlib.crc32(content), len(content))}
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ChecksumError, match=r"table\.txt: CRC-32 .* make it again.* delete .*table\.txt\.crc32"):
            verify(path, REMEDY)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ChecksumError, match=f"of {length} bytes, expected"):
            verify(path, REMEDY)


def test_a_damaged_checksum_never_lets_a_damaged_file_pass(tmp_path: Path) -> None:
    """Every flip in the checksum is an error: what it says of the file is changed."""
    path = tmp_path / "table.txt"
    write_checked_text(path, "one 1\n")
    content = checksum_path(path).read_bytes()
    for bit in range(8 * (len(content) - 1)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        checksum_path(path).write_bytes(damaged)
        with pytest.raises(ChecksumError, match=r"table\.txt"):
            verify(path, REMEDY)
    checksum_path(path).write_bytes(b"")
    with pytest.raises(ChecksumError, match=r"crc32: damaged, expected a line `<crc32> <bytes> table\.txt`"):
        verify(path, REMEDY)


@pytest.mark.parametrize("read", [read_checked_text, read_checked_json])
def test_a_text_that_is_read_is_compared(tmp_path: Path, read: Callable[[Path, str], object]) -> None:
    path = tmp_path / "figures.json"
    write_checked_text(path, '{"eer": 0.1}\n')
    assert read(path, REMEDY) == ('{"eer": 0.1}\n' if read is read_checked_text else {"eer": 0.1})
    path.write_text('{"eer": 0.2}\n')
    with pytest.raises(ChecksumError, match=r"figures\.json: CRC-32 .* expected CRC-32 .* make it again"):
        read(path, REMEDY)


@pytest.mark.parametrize(("content", "found"), [(b'{"eer": \xff}', "not UTF-8 text"), (b'{"eer": ', "not JSON")])
def test_a_text_from_elsewhere_is_no_traceback(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "figures.json").write_bytes(content)
    with pytest.raises(ChecksumError, match=rf"figures\.json:.* {found}.* make it again"):
        read_checked_json(tmp_path / "figures.json", REMEDY)


def test_a_file_from_elsewhere_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "theirs.txt"
    write_text(path, "theirs")
    assert verify(path, REMEDY) == {}
    write_checked_text(path, "ours")
    path.write_text("theirs again")
    checksum_path(path).unlink()  # as the message says
    assert verify(path, REMEDY) == {}


def test_large_files_are_read_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "large").write_bytes(content)
    assert checksum_of(tmp_path / "large") == (zlib.crc32(content), len(content))


def test_names_what_belongs_to_it(tmp_path: Path) -> None:
    (tmp_path / "x.ark").write_bytes(b"vectors")
    with checked_path(tmp_path / "x.scp", [tmp_path / "x.ark"]) as temporary:
        temporary.write_text("a x.ark:0\n")
    assert verify(tmp_path / "x.scp", REMEDY)["x.ark"] == checksum_of(tmp_path / "x.ark")
    remove_checked(tmp_path / "x.scp")
    remove_checked(tmp_path / "x.scp")
    assert [path.name for path in tmp_path.iterdir()] == ["x.ark"]


@pytest.mark.parametrize("moment", ["before the rename", "before the checksum"])
def test_an_interruption_leaves_what_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    path = tmp_path / "model.bin"
    write_checked_text(path, "old")

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    target = "pathlib.Path.replace" if moment == "before the rename" else "wespeaker_qm.utils.checksums.write_text"
    monkeypatch.setattr(target, stop)
    with pytest.raises(KeyboardInterrupt):
        write_checked_text(path, "new")
    monkeypatch.undo()
    assert verify(path, REMEDY) == {}
    assert path.read_text() == ("old" if moment == "before the rename" else "new")


def test_an_error_of_the_writer_keeps_the_old_file_with_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_checked_text(path, "old")
    with pytest.raises(RuntimeError), checked_path(path):
        raise RuntimeError
    assert verify(path, REMEDY)["model.bin"] == checksum_of(path)


def test_a_file_replaced_while_it_is_read_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    write_checked_text(path, "old")

    def replaced_first(path: Path, limit: int | None) -> Checksum:
        monkeypatch.undo()
        write_checked_text(path, "new")
        return checksum_of(path, limit)

    monkeypatch.setattr("wespeaker_qm.utils.checksums.checksum_of", replaced_first)
    assert verify(path, REMEDY)["model.bin"] == checksum_of(path)


def test_a_text_that_grows_is_covered_as_far_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    text = GrowingText(path, "one\n")
    for line in ("two\n", "drei ß\n"):
        text.add(line)
        assert verify(path, REMEDY)["log.jsonl"] == checksum_of(path)
    text.close()
    content = path.read_bytes()
    assert content.decode() == "one\ntwo\ndrei ß\n"
    path.write_bytes(content + b"half a li")  # a program that was killed
    verify(path, REMEDY, grows=True)
    with pytest.raises(ChecksumError):
        verify(path, REMEDY)
    for damaged in (content[:8], content.replace(b"two", b"tvo") + b"more\n", b""):
        path.write_bytes(damaged)
        with pytest.raises(ChecksumError, match=r"log\.jsonl: CRC-32"):
            verify(path, REMEDY, grows=True)
