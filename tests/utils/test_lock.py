"""Locks of folders: one writer, no writer under a reader, and the dead hold nothing."""

import errno
import fcntl
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from wespeaker_qm.utils import lock
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.lock import LOCK, lock_for_reading, lock_for_writing, unlock, unlock_all
from wespeaker_qm.utils.ownership import LEDGER

HOLDER = """
import sys, time
from pathlib import Path
from wespeaker_qm.utils import lock
kind, folder, task = sys.argv[1:]
if kind == "reader":
    assert lock.lock_for_reading(Path(folder))
else:
    lock.lock_for_writing(Path(folder), task)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _nothing_held():
    yield
    unlock_all()


@pytest.fixture
def folder(tmp_path):
    """A folder that a stage has written into."""
    (tmp_path / LEDGER).touch()
    return tmp_path


@pytest.fixture
def hold():
    """Function: another process that holds a lock of ``folder`` until its input is closed."""
    processes = []

    def start(kind, folder, task=""):
        command = [sys.executable, "-c", HOLDER, kind, str(folder), task]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_second_writer_is_told_who_the_first_is(folder, hold):
    first = hold("writer", folder)
    with pytest.raises(
        RecipeError, match=rf"in use by process {first.pid} on {re.escape(platform.node())}, since 2.*: -c writer"
    ):
        lock_for_writing(folder)
    with pytest.raises(RecipeError, match=rf"process {first.pid} on "):
        lock_for_reading(folder)


@pytest.mark.parametrize("content", ["", "[1]", '{"pid": 1, "task": "the same"}'], ids=["empty", "list", "incomplete"])
def test_a_writer_that_does_not_say_who_it_is_is_found_by_the_system(folder, hold, content):
    first = hold("writer", folder, "the same")
    (folder / LOCK).write_text(content)
    with pytest.raises(RecipeError, match=f"in use by process {first.pid} on this host"):
        lock_for_writing(folder, "the same")


def test_a_writer_waits_for_no_reader_and_names_it(folder, hold):
    first, second = hold("reader", folder), hold("reader", folder)
    with pytest.raises(
        RecipeError, match=rf"process ({first.pid}, {second.pid}|{second.pid}, {first.pid}) on this host"
    ):
        lock_for_writing(folder)
    assert lock_for_reading(folder)


def test_a_reader_is_not_taken_for_the_writer_that_was_killed_before(folder, hold):
    dead = hold("writer", folder, "the same")
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    reader = hold("reader", folder)
    with pytest.raises(RecipeError, match=f"in use by process {reader.pid} on this host, which reads there"):
        lock_for_writing(folder, "the same")


def test_who_is_alone_is_told_so(folder):
    assert lock_for_writing(folder)
    assert lock_for_writing(folder)


def test_where_there_are_no_locks_that_is_told(folder, monkeypatch, caplog):
    def refuse(descriptor, kind):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    assert lock_for_reading(folder)
    assert not lock_for_writing(folder)
    assert caplog.text.count("this file system has no locks ([Errno 95] Operation not supported)") == 1


@pytest.mark.parametrize("kind", ["writer", "reader"])
def test_the_dead_hold_nothing(folder, hold, kind):
    first = hold(kind, folder)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    lock_for_writing(folder)
    assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_is_released_once_for_each_time_it_was_taken(folder, hold):
    lock_for_writing(folder)
    lock_for_writing(folder)
    assert lock_for_reading(folder)
    unlock(folder, writer=True)
    assert (folder / LOCK).read_text()
    unlock(folder, writer=True)
    assert (folder / LOCK).read_text() == "", "who wrote here writes here no more"
    other = hold("reader", folder)
    unlock(folder, writer=False)
    with pytest.raises(RecipeError, match=f"process {other.pid} "):
        lock_for_writing(folder)


def _is_locked(folder):
    descriptor = os.open(folder / LOCK, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@pytest.mark.parametrize("writer", [True, False])
def test_nobody_else_comes_before_the_last_release(folder, writer):
    for _ in range(3):
        (lock_for_writing if writer else lock_for_reading)(folder)
    for expected in (True, True, False):
        unlock(folder, writer=writer)
        assert _is_locked(folder) == expected
    unlock(folder, writer=writer)  # once more than taken
    lock_for_writing(folder)
    assert _is_locked(folder)


def test_who_reads_goes_on_reading_when_it_may_not_write(folder, hold, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.2)
    lock_for_reading(folder)
    other = hold("reader", folder)
    with pytest.raises(RecipeError, match=f"process {other.pid} "):
        lock_for_writing(folder)
    other.kill()
    other.wait()
    assert _is_locked(folder)
    unlock(folder, writer=False)
    assert not _is_locked(folder)


def test_the_end_of_a_program_releases_everything(folder):
    lock_for_writing(folder)
    lock_for_writing(folder / "other")
    unlock_all()
    for each in (folder, folder / "other"):
        assert not _is_locked(each)
        assert (each / LOCK).read_text() == ""


def _sleep(started):
    started.set()
    time.sleep(60)


@pytest.mark.parametrize("release", [lambda folder: unlock(folder, writer=True), lambda folder: unlock_all()])
def test_a_folder_that_somebody_removed_and_made_anew_is_left_alone(folder, hold, release):
    lock_for_writing(folder)
    shutil.rmtree(folder)
    release(folder)
    assert not folder.exists()
    lock_for_writing(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    hold("writer", folder, "theirs")
    text = (folder / LOCK).read_text()
    release(folder)
    assert "theirs" in text and (folder / LOCK).read_text() == text


def test_children_hold_no_copy(folder):
    """A loader's worker that outlives its killed parent would keep everybody out."""
    lock_for_writing(folder)
    context = multiprocessing.get_context("fork")
    started = context.Event()
    child = context.Process(target=_sleep, args=(started,))
    child.start()
    started.wait()
    try:
        unlock(folder, writer=True)
        lock_for_writing(folder)
    finally:
        child.kill()
        child.join()


def test_who_makes_the_same_is_waited_for(folder, hold, caplog, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.2)
    first = hold("writer", folder, "the same")
    with pytest.raises(RecipeError, match="in use by"):
        lock_for_writing(folder, "something else")
    monkeypatch.setattr(lock, "_POLL_S", 0.01)
    with caplog.at_level("INFO"):
        monkeypatch.setattr(lock.time, "sleep", lambda _: first.stdin.closed or first.communicate())
        lock_for_writing(folder, "the same")
    assert f"waiting for process {first.pid} on " in caplog.text


def test_who_only_looks_in_is_waited_for(folder, hold, monkeypatch):
    other = hold("reader", folder)
    monkeypatch.setattr(lock, "_PATIENCE_S", 500.0)
    monkeypatch.setattr(lock.time, "sleep", lambda _: other.stdin.closed or other.communicate())
    lock_for_writing(folder)
    assert other.stdin.closed


def test_what_is_only_to_be_read_is_read(folder, monkeypatch):
    """Without a lock file that could be opened there is nobody to keep out."""

    def refuse(path, flags, mode=0):
        raise PermissionError(path)

    (folder / LOCK).touch()
    monkeypatch.setattr(lock.os, "open", refuse)
    assert not lock_for_reading(folder)
    with pytest.raises(RecipeError, match="cannot be written to"):
        lock_for_writing(folder)


def test_readers_leave_nothing_in_folders_of_others(tmp_path):
    assert not lock_for_reading(tmp_path)
    assert list(tmp_path.iterdir()) == []
