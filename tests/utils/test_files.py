"""Files are whole or absent."""

from pathlib import Path

import pytest

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
