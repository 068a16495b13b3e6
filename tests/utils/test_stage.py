"""How a stage begins and ends."""

import json
import os

import pytest

from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.lock import LOCK, lock_for_writing, unlock_all
from wespeaker_qm.utils.ownership import claim
from wespeaker_qm.utils.stage import begin, finish, refuse


@pytest.fixture
def marker(tmp_path):
    yield DoneMarker(tmp_path / ".done" / "score", {"option": 1}, [tmp_path / "out"])
    unlock_all()


def test_once_and_not_again(marker, tmp_path, caplog):
    assert begin(marker, "score")
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    (tmp_path / "out").touch()
    finish(marker)
    assert (tmp_path / LOCK).read_text() == ""
    with caplog.at_level("INFO"):
        assert not begin(marker, "score")
    assert "stage score: nothing changed since the last run, skipped" in caplog.text
    assert (tmp_path / LOCK).read_text() == ""


def test_what_another_process_has_done_meanwhile_is_not_done_again(marker, tmp_path, monkeypatch):
    def other_finishes(folder, task):
        (tmp_path / "out").touch()
        marker.write()
        lock_for_writing(folder, task)

    monkeypatch.setattr("wespeaker_qm.utils.stage.lock_for_writing", other_finishes)
    assert not begin(marker, "score")
    assert marker.path.is_file()
    assert (tmp_path / LOCK).read_text() == "", "others may come"


def test_a_stage_that_has_begun_is_not_done(marker, tmp_path):
    (tmp_path / "out").touch()
    marker.write()
    again = DoneMarker(marker.path, {"option": 2}, marker.outputs)
    assert begin(again, "score")
    assert not marker.path.exists()


@pytest.mark.parametrize("name", ["out", "cache"])
def test_a_file_of_somebody_else_is_refused_and_nothing_touched(marker, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RecipeError, match=rf"(?s)nothing has been touched:.*{name}"):
        begin(marker, "score", others=[tmp_path / "cache"])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_what_would_be_refused_is_refused_ahead_of_other_stages(marker, tmp_path):
    refuse(marker)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RecipeError, match=r"(?s)nothing has been touched:.*out"):
        refuse(marker)
    marker.write()  # so it is the stage's own
    refuse(marker)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".done", "out"]


def test_who_begins_again_is_told_why_in_five_reasons(marker, tmp_path, caplog):
    (tmp_path / "out").touch()
    marker.write()
    others = {f"input{number}": number for number in range(1, 6)}
    again = DoneMarker(marker.path, {"option": 1} | others, marker.outputs)
    with caplog.at_level("INFO"):
        assert begin(again, "score")
    reasons = [f"input{number}: was not asked for, now {number}" for number in range(1, 6)]
    assert caplog.messages == [f"stage score: done again, because {'; '.join(reasons)}"]
    unlock_all()
    caplog.clear()
    marker.write()
    with caplog.at_level("INFO"):
        assert begin(DoneMarker(marker.path, {"option": 2} | others, marker.outputs), "score")
    assert caplog.messages == [f"stage score: done again, because {'; '.join(reasons)} ..."]


def test_a_killed_stage_goes_on_also_when_its_marker_is_deleted(marker, tmp_path):
    assert begin(marker, "score", others=[tmp_path / "cache"])
    (tmp_path / "cache").touch()
    unlock_all()  # killed
    assert begin(marker, "score", others=[tmp_path / "cache"])
    (tmp_path / "out").touch()
    finish(marker)
    marker.path.unlink()
    assert begin(marker, "score", others=[tmp_path / "cache"])


@pytest.mark.parametrize("has_ledger", [False, True])
def test_outputs_of_a_version_without_a_ledger(marker, tmp_path, has_ledger):
    if has_ledger:  # which a stage of today has begun
        claim(tmp_path, [tmp_path / "other"])
    (tmp_path / "out").touch()
    (tmp_path / "cache").touch()
    marker.path.parent.mkdir()
    marker.path.write_text('{"key": "of other inputs", "outputs": ["out"]}')
    assert begin(marker, "score", others=[tmp_path / "cache"])
