"""Files are whole or absent."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from wespeaker_qm.utils import files
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path, remove_leftovers, scratch_folder, temporary_folder, write_text


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_the_new_file_replaces_the_old_and_keeps_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "model.npy"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".npy"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("elsewhere"), lambda path: os.mkfifo(path)])
def test_only_files_are_replaced(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(RecipeError, match=r"out: is .*expected a file or nothing"):
        write_text(tmp_path / "out", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out").is_file()


def test_a_name_that_is_not_utf_8_is_refused_and_nothing_touched(tmp_path: Path) -> None:
    write_text(tmp_path / "wav.scp", "old")
    with pytest.raises(RecipeError, match=r"wav\.scp: cannot hold 'b M\\udcfcller', a name that is not UTF-8; rename"):
        write_text(tmp_path / "wav.scp", f"a 1\nb {os.fsdecode('Müller'.encode('latin-1'))}\nc 2\n")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


KILLED = """
import os, sys, signal
from wespeaker_qm.utils.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave(path: Path) -> Path:
    """What a writer of ``path`` leaves that is killed."""
    others = set(path.parent.iterdir())
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -9
    (left,) = set(path.parent.iterdir()) - others
    return left


def test_two_containers_with_processes_of_one_number_do_not_collide(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.npy") as one, atomic_path(tmp_path / "x.npy") as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert (tmp_path / "x.npy").read_text() == "one", "which ended last"
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize("stem", ["x" * 250, "é" * 125, ".hidden", "a b\nc"])
def test_a_name_that_a_file_can_have_can_be_written(tmp_path: Path, stem: str) -> None:
    write_text(tmp_path / f"{stem}.wav", "content")
    assert (tmp_path / f"{stem}.wav").read_text() == "content"


@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize("name", ["avg_model.pt", "train", ".wespeaker_qm", "a b.c.ark"])
def test_what_the_dead_left_is_removed_and_what_the_living_write_is_not(
    tmp_path: Path, name: str, is_alone: bool
) -> None:
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("whole")
        leave(tmp_path / name)
        remove_leftovers(tmp_path, is_alone=is_alone)
        assert list(tmp_path.iterdir()) == [temporary]


def test_who_is_dead_but_not_yet_asked_how_it_ended_is_dead(tmp_path: Path) -> None:
    """Where the parent was killed, too, that may take whoever follows it a while."""
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "x.tar"]) as writer:
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
        assert list(tmp_path.iterdir())
        remove_leftovers(tmp_path, is_alone=False)
        assert not list(tmp_path.iterdir())


def test_who_writes_into_a_folder_first_removes_what_the_dead_left_there(tmp_path: Path) -> None:
    leave(tmp_path / "x.npz")
    write_text(tmp_path / "other.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_what_cannot_be_removed_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user, in a folder for all."""
    left = leave(tmp_path / "x.npz")

    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_leftovers(tmp_path, is_alone=False)
    assert left.exists()


def test_a_scratch_folder_lies_where_the_system_has_them_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = leave(tmp_path / "model")
    left.unlink()
    left.mkdir()
    (left / "config.yaml").touch()
    with scratch_folder("model") as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed_in_the_end_and_so_are_those_of_the_dead(tmp_path: Path) -> None:
    left = leave(tmp_path / "packages")
    left.unlink()
    left.mkdir()
    (left / "x.deb").touch()
    with temporary_folder(tmp_path / "packages") as one, temporary_folder(tmp_path / "packages") as other:
        assert {one, other} == set(tmp_path.iterdir())
        (one / "x.deb").touch()
    assert list(tmp_path.iterdir()) == []


def test_of_another_machine_only_a_lock_tells_who_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leave(tmp_path / "x.ark")
    monkeypatch.setattr(files, "_machine", lambda: "00000000")
    remove_leftovers(tmp_path, is_alone=False)
    assert left.exists()
    remove_leftovers(tmp_path, is_alone=True)
    assert not left.exists()


@pytest.mark.parametrize("name", [".x.1234.tmp.wav", ".mine.tmp", "x.tmp", ".x.0a1b2c3d-12-0a1b2c3d.tmpfile"])
def test_what_only_looks_temporary_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / ".x.0a1b2c3d-12-0a1b2c3d.tmp").symlink_to("elsewhere")
    remove_leftovers(tmp_path, is_alone=True)
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path / "none", is_alone=True)
