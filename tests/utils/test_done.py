"""Done markers: current only while inputs and outputs are what they were."""

import hashlib
import json
import os
from pathlib import Path

from wespeaker_qm.utils.done import (
    DoneMarker,
    content_stamp,
    discard,
    file_digest,
    file_stamp,
    recorded_inputs,
    value_digest,
)


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


def test_what_has_changed_is_told_by_name(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_text("one")
    output.write_text("x")

    def marker(top_n: int, version: int = 1) -> DoneMarker:
        inputs = {"top_n": top_n, "file": file_digest(source), "lists": ["a"], "gone": file_digest(tmp_path / "gone")}
        return DoneMarker(tmp_path / "done", inputs, [output], version=version, checks_outputs=True)

    assert "no record of its inputs" in marker(3).changes()[0]
    marker(3).write()
    assert marker(3).changes() == []
    assert marker(5).changes() == ["top_n: was 3, now 5"]
    assert marker(3, version=2).changes() == ["code: was 1, now 2"]
    assert recorded_inputs(tmp_path / "done")["gone"] == "absent"
    (tmp_path / "gone").write_text("back")
    assert marker(3).changes() == ["gone: was absent, now there"]
    (tmp_path / "gone").unlink()
    status = source.stat()
    source.write_text("two")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert marker(3).changes() == ["file: changed"]
    source.write_text("one")
    output.write_text("y")
    assert marker(3).changes() == [f"{output}: not what the stage wrote"]
    output.unlink()
    assert marker(3).changes() == [f"{output}: missing"]


def test_an_input_more_or_less_is_a_change(tmp_path: Path) -> None:
    def marker(**inputs: object) -> DoneMarker:
        return DoneMarker(tmp_path / "done", inputs, [])

    marker(top_n=3).write()
    assert marker(top_n=3, measures=2).changes() == ["measures: was not asked for, now 2"]
    assert marker().changes() == ["top_n: was 3, now not asked for"]


def test_the_order_of_options_is_none_of_their_value() -> None:
    assert value_digest({"a": 1, "b": 2}) == value_digest({"b": 2, "a": 1}) != value_digest({"a": 2, "b": 1})


def test_paths_count_by_their_text() -> None:
    assert value_digest([Path("a/b")]) == value_digest(["a/b"]) == hashlib.sha256(b'["a/b"]').hexdigest()


def test_inputs_without_names_are_recorded_as_they_were_before(tmp_path: Path) -> None:
    """With another name for them, all that is packed would be packed again."""
    DoneMarker(tmp_path / "done", ["wav", 16000], []).write()
    digest = hashlib.sha256(b'["wav", 16000]').hexdigest()
    assert recorded_inputs(tmp_path / "done") == {"code": 1, "inputs": digest}


def test_outputs_are_compared_only_where_it_was_asked_for(tmp_path: Path) -> None:
    """Reading a million recordings again would take hours."""
    output = tmp_path / "out"
    output.write_text("x")
    DoneMarker(tmp_path / "done", {}, [output], checks_outputs=True).write()
    output.write_text("y")
    assert DoneMarker(tmp_path / "done", {}, [output]).is_current()
    assert not DoneMarker(tmp_path / "done", {}, [output], checks_outputs=True).is_current()


def test_a_marker_of_an_earlier_version_counts_where_one_key_was_enough(tmp_path: Path) -> None:
    """Packing VoxCeleb again for the sake of a new marker would take hours."""
    inputs = [["wav", 16000], "a 1 2"]
    key = hashlib.sha256(json.dumps(["0.1.0", inputs], sort_keys=True, default=str).encode()).hexdigest()
    (tmp_path / "stage").write_text(json.dumps({"key": key, "outputs": []}))
    assert DoneMarker(tmp_path / "stage", inputs, []).is_current()
    assert not DoneMarker(tmp_path / "stage", [*inputs, 1], []).is_current()
    assert not DoneMarker(tmp_path / "stage", inputs, [], version=2).is_current()
    assert not DoneMarker(tmp_path / "stage", {"codec": "wav"}, []).is_current()
    assert recorded_inputs(tmp_path / "stage") is None


def test_only_what_the_stage_wrote_is_discarded(tmp_path: Path) -> None:
    outputs = [tmp_path / "ours", tmp_path / "changed", tmp_path / "gone"]
    for output in outputs:
        output.write_text("x")
    DoneMarker(tmp_path / "done", {}, outputs, checks_outputs=True).write()
    outputs[1].write_text("somebody's")
    outputs[2].unlink()
    discard(tmp_path / "done", outputs)
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]
    discard(tmp_path / "done", outputs)
    assert outputs[1].is_file()


def test_an_output_that_never_was_is_not_removed(tmp_path: Path) -> None:
    DoneMarker(tmp_path / "done", {}, [tmp_path / "out"], checks_outputs=True).write()
    discard(tmp_path / "done", [tmp_path / "out"])
    assert list(tmp_path.iterdir()) == []


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
    assert file_stamp(path) == content_stamp(path) == f"{path} absent"
    path.write_text("one")
    by_time, by_content = file_stamp(path), content_stamp(path)
    assert by_content == f"{path} {hashlib.sha256(b'one').hexdigest()}"
    os.utime(path, ns=(0, 0))
    assert file_stamp(path) != by_time
    assert content_stamp(path) == by_content
    path.write_text("two")
    assert content_stamp(path) != by_content
