"""Files are whole or absent."""

import os
from pathlib import Path

import pytest

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path, write_text


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
