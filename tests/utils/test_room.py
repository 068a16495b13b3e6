"""Disks with less room than what is to be written on them takes."""

import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest

from wespeaker_qm.utils import room
from wespeaker_qm.utils.room import Need, environment_needs, main, shortages

GIB = 2**30


@pytest.fixture
def disks(tmp_path, monkeypatch):
    """Two folders, each a disk of its own or not, with so many free GiB; pip unpacks in the second."""
    here, temporary = tmp_path / "recipe", tmp_path / "tmp"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(here)
    stat = room.os.stat

    def prepare(free, free_temporary=None):
        def usage(path):
            return SimpleNamespace(free=GIB * (free_temporary if numbers(path).st_dev == 2 else free))

        def numbers(path, **options):
            is_other = free_temporary is not None and str(path) == str(temporary)
            return SimpleNamespace(st_dev=2 if is_other else 1) if str(path).startswith(str(tmp_path)) else stat(path)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        monkeypatch.setattr(room.os, "stat", numbers)
        return here, temporary

    return prepare


@pytest.mark.parametrize(("free", "free_temporary"), [(6.0, 3.0), (9.0, None)])
def test_enough_is_enough(disks, capsys, free, free_temporary):
    disks(free, free_temporary)
    assert main("train") == 0
    assert capsys.readouterr().err == ""


def test_each_of_two_disks_is_told_of(disks, capsys):
    here, temporary = disks(6.5, 2.5)
    assert main("test") == 1
    first, second, remedy = capsys.readouterr().err.splitlines()
    packages, downloads = "7.0 for the packages of [test]", "3.0 for what pip downloads meanwhile (TMPDIR)"
    assert first == f"path.sh: {here}/.venv: found 6.5 GiB free on this disk, expected {packages}"
    assert second == f"path.sh: {temporary}: found 2.5 GiB free on this disk, expected {downloads}"
    assert remedy.startswith(
        "path.sh: nothing was installed. Free some space; or let pip unpack on another disk, TMPDIR="
    )
    assert "PYTHON=/path/to/python" in remedy


def test_another_place_to_unpack_is_no_remedy_where_that_has_room(disks, capsys):
    disks(5.9, 3.0)
    assert main("train") == 1
    _, remedy = capsys.readouterr().err.splitlines()
    assert "TMPDIR" not in remedy
    assert "Free some space; or use an environment of your own, PYTHON=/path/to/python" in remedy


def test_what_lies_on_one_disk_is_added_up(disks, capsys):
    here, temporary = disks(8.9)
    assert main("train") == 1
    line = capsys.readouterr().err.splitlines()[0]
    parts = "6.0 for the packages of [train] and 3.0 for what pip downloads meanwhile (TMPDIR)"
    assert line == f"path.sh: {here}/.venv and {temporary}: found 8.9 GiB free on this disk, expected {parts}"


def test_what_is_there_already_is_not_asked_for_again(tmp_path, monkeypatch):
    """A third is there: a third less is downloaded, too. More than all of it asks for nothing."""
    library = tmp_path / ".venv" / "lib"
    library.mkdir(parents=True)
    (library / "cuda.so").write_bytes(bytes(4 << 20))
    (library / "gone.so").symlink_to("nowhere")
    monkeypatch.setattr(room, "ENVIRONMENT_GIB", {"train": 12 / 1024})
    assert [need.gib for need in environment_needs(tmp_path, "train")] == pytest.approx([8 / 1024, 2], rel=0.01)
    monkeypatch.setattr(room, "ENVIRONMENT_GIB", {"train": 1 / 1024})
    assert [need.gib for need in environment_needs(tmp_path, "train")] == [0, 0]


def test_folders_that_do_not_exist_yet_lie_where_they_will_be_made(tmp_path):
    (line,) = shortages([Need(tmp_path / "a" / "b", "a whole library", 1e9)])
    assert line.startswith(f"{tmp_path}/a/b: found ")
    assert line.endswith("expected 1000000000.0 for a whole library")


def test_a_machine_without_a_place_for_temporary_files(tmp_path, monkeypatch):
    """Of which Python says that there is none, where all of them are full."""

    def none():
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    assert str(environment_needs(tmp_path, "train")[1].folder) == "/elsewhere"
    monkeypatch.delenv("TMPDIR")
    assert str(environment_needs(tmp_path, "train")[1].folder) == "/tmp"


def test_it_runs_where_no_package_is_installed(repository):
    command = [sys.executable, "-S", "-m", "wespeaker_qm.utils.room", "train"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode in (0, 1)
    assert result.stdout == ""
    assert all(line.startswith("path.sh: ") for line in result.stderr.splitlines())
