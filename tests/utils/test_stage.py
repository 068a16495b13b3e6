"""How a stage begins and ends."""

import json
import os
import subprocess
import sys

import pytest

from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.lock import LOCK, unlock_all
from wespeaker_qm.utils.ownership import claim
from wespeaker_qm.utils.stage import alone, reads_data, refuse_foreign_outputs, stage


@pytest.fixture
def marker(tmp_path):
    yield DoneMarker(tmp_path / ".done" / "score", {"option": 1}, [tmp_path / "out"])
    unlock_all()


def run(marker, *, work=None, others=()):
    """A stage that makes its output; returns whether it had to."""
    with stage("score", marker, others=others) as is_due:
        if is_due:
            (marker.path.parent.parent / "out").touch()
            if work is not None:
                work()
    return is_due


def test_once_and_not_again(marker, tmp_path, caplog):
    def holds_the_folder():
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert not marker.path.exists()

    assert run(marker, work=holds_the_folder)
    assert marker.is_current()
    assert (tmp_path / LOCK).read_text() == ""
    with caplog.at_level("INFO"):
        assert not run(marker)
    assert "stage score: nothing changed since the last run, skipped" in caplog.text
    assert (tmp_path / LOCK).read_text() == ""


def test_a_stage_that_returns_early_because_nothing_changed_writes_no_marker(marker):
    run(marker)
    before = marker.path.stat().st_mtime_ns, marker.path.stat().st_ino

    def leave():
        with stage("score", marker) as is_due:
            if not is_due:
                return "left"

    assert leave() == "left"
    assert (marker.path.stat().st_mtime_ns, marker.path.stat().st_ino) == before


@pytest.mark.parametrize("error", [RecipeError("no audio"), ValueError("a bug"), KeyboardInterrupt()])
def test_an_error_leaves_no_marker_and_lets_others_in(marker, tmp_path, error):
    def fail():
        raise error

    run(marker)
    changed = DoneMarker(marker.path, {"option": 2}, marker.outputs)
    with pytest.raises(type(error)):
        run(changed, work=fail)
    assert not marker.path.exists()
    assert (tmp_path / LOCK).read_text() == ""
    assert run(changed)


def test_what_changed_is_told(marker, caplog):
    run(marker)
    with caplog.at_level("INFO"):
        assert run(DoneMarker(marker.path, {"option": 2}, marker.outputs))
    assert "stage score: done again, because option: was 1, now 2" in caplog.text


def test_who_begins_again_is_told_why_in_five_reasons(marker, caplog):
    run(marker)
    more = {f"input{number}": number for number in range(1, 6)}
    reasons = "; ".join(f"{name}: was not asked for, now {number}" for name, number in more.items())
    for option, end in ((1, ""), (2, " ...")):
        caplog.clear()
        with caplog.at_level("INFO"):
            assert run(DoneMarker(marker.path, {"option": option} | more, marker.outputs))
        assert caplog.messages == [f"stage score: done again, because {reasons}{end}"]
        run(marker)


def test_what_another_process_has_done_meanwhile_is_not_done_again(marker, tmp_path, monkeypatch):
    def other_finishes(folder, task):
        (tmp_path / "out").touch()
        marker.write()

    monkeypatch.setattr("wespeaker_qm.utils.stage.lock_for_writing", other_finishes)
    assert not run(marker)


@pytest.mark.parametrize("name", ["out", "cache"])
def test_a_file_of_somebody_else_is_refused_and_nothing_touched(marker, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RecipeError, match=rf"(?s)nothing has been touched:.*{name}"):
        run(marker, others=[tmp_path / "cache"])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_what_would_be_refused_is_refused_ahead_of_other_stages(marker, tmp_path):
    refuse_foreign_outputs(marker)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RecipeError, match=r"(?s)nothing has been touched:.*out"):
        refuse_foreign_outputs(marker)
    marker.write()  # so it is the stage's own
    refuse_foreign_outputs(marker)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".done", "out"]


def test_a_killed_stage_goes_on_also_when_its_marker_is_deleted(marker, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(marker, work=interrupt_after(tmp_path / "cache"), others=[tmp_path / "cache"])
    assert run(marker, others=[tmp_path / "cache"])
    marker.path.unlink()
    assert run(marker, others=[tmp_path / "cache"])


def interrupt_after(path):
    def work():
        path.touch()
        raise KeyboardInterrupt

    return work


@pytest.mark.parametrize("has_ledger", [False, True])
def test_outputs_of_a_version_without_a_ledger(marker, tmp_path, has_ledger):
    if has_ledger:  # which a stage of today has begun
        claim(tmp_path, [tmp_path / "other"])
    (tmp_path / "out").touch()
    (tmp_path / "cache").touch()
    marker.path.parent.mkdir()
    marker.path.write_text('{"key": "of other inputs", "outputs": ["out"]}')
    assert run(marker, others=[tmp_path / "cache"])


def test_files_without_a_marker_are_owned_by_whoever_was_alone_with_them(tmp_path):
    table = tmp_path / "table5.md"
    table.write_text("mine")
    with pytest.raises(RecipeError, match="nothing has been touched"), alone(tmp_path, [table], made_before=bool):
        pass
    with alone(tmp_path, [table], made_before=lambda: True):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    with alone(tmp_path, [table], made_before=bool):
        table.write_text("ours")
    assert (tmp_path / LOCK).read_text() == ""


def prepare_elsewhere(folder):
    """What another process says that wants to prepare the corpus anew."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom wespeaker_qm.utils.lock import lock_for_writing\n"
        "lock_for_writing(Path(sys.argv[1]))\n"
    )
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True).stderr


def test_while_a_stage_reads_a_corpus_nobody_prepares_it(tmp_path):
    (tmp_path / ".done").mkdir()
    said = []

    @reads_data
    def look(*, data, fails):
        said.append(prepare_elsewhere(data))
        if fails:
            raise ValueError("a bug")
        return "seen"

    assert look(data=DataFolder(tmp_path), fails=False) == "seen"
    with pytest.raises(ValueError, match="a bug"):
        look(data=DataFolder(tmp_path), fails=True)
    assert all("in use by process" in each for each in said)
    assert prepare_elsewhere(tmp_path) == ""


def test_a_corpus_may_be_named_by_its_path(tmp_path):
    @reads_data
    def look(*, data):
        return data

    assert look(data=str(tmp_path)) == str(tmp_path)
    with pytest.raises(TypeError, match="data"):
        look()


KILLED = """
import os, sys, signal
from pathlib import Path
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.stage import stage
folder = Path(sys.argv[1])
marker = DoneMarker(folder / ".done" / "score", {"option": 1}, [folder / "out"])
with stage("score", marker, others=[folder / "deep" / "file.txt", folder / "wav"]):
    for name in ("out", "deep/file.txt", "wav/anna/1.wav", ".done/score"):
        with atomic_path(folder / name) as temporary:
            temporary.touch()
            if name == ".done/score":
                for left in ("out", "deep/file.txt", "wav/anna/1.wav"):
                    atomic_path(folder / left).__enter__().touch()
                os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_removed_by_the_next(marker, tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False).returncode == -9
    mine = tmp_path / "elsewhere" / ".x.0a1b2c3d-12-0a1b2c3d.tmp"
    mine.parent.mkdir()
    mine.touch()
    assert len(list(tmp_path.rglob("*.tmp*"))) == 5
    assert run(marker, others=[tmp_path / "deep" / "file.txt", tmp_path / "wav"])
    assert list(tmp_path.rglob("*.tmp*")) == [mine], "in a folder into which this stage does not write"
