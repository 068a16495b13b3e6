"""Done markers: current only while inputs and outputs are what they were."""

import os
from pathlib import Path

from wespeaker_qm.utils.done import DoneMarker, content_stamp, file_stamp


def test_marker_is_current_until_inputs_change_or_outputs_go(tmp_path: Path) -> None:
    output = tmp_path / "out"
    marker = DoneMarker(tmp_path / ".done" / "stage", {"option": 1}, [output])
    assert not marker.is_current()
    output.write_text("x")
    marker.write()
    assert marker.is_current()
    assert DoneMarker(marker.path, {"option": 1}, [output]).is_current()
    assert not DoneMarker(marker.path, {"option": 2}, [output]).is_current()
    output.unlink()
    assert not marker.is_current()


def test_cleared_or_broken_marker_is_not_current(tmp_path: Path) -> None:
    marker = DoneMarker(tmp_path / "stage", 1, [])
    marker.write()
    marker.clear()
    assert not marker.is_current()
    marker.clear()
    marker.path.write_text('{"key": ')
    assert not marker.is_current()


def test_stamps_tell_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert file_stamp(path).endswith("absent")
    assert content_stamp(path).endswith("absent")
    path.write_text("one")
    by_time, by_content = file_stamp(path), content_stamp(path)
    os.utime(path, ns=(0, 0))
    assert file_stamp(path) != by_time
    assert content_stamp(path) == by_content
    path.write_text("two")
    assert content_stamp(path) != by_content
