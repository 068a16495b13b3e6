"""Which folders are read, by whom, and what is told of all that was found."""

import errno
import functools
import io
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import flip, other_duration, tar_of, without_first_line

from wespeaker_qm import stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.config import load_config
from wespeaker_qm.packing.index_files import facts_path, records_path
from wespeaker_qm.stages import verifying
from wespeaker_qm.utils.checksums import write_checked_text
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.lock import lock_for_writing


def test_folders_behind_links_are_read_and_circles_are_not(own_model_run: Any, tmp_path: Path) -> None:
    """Checkpoints are moved to another disk."""
    run = own_model_run.run
    shutil.move(run.models, tmp_path / "models")
    run.models.symlink_to(tmp_path / "models")
    (run.all_scores / "up").symlink_to(run.path)
    assert stages.verify_data(folders=run) == []
    flip(5000)(run.average)
    (finding,) = stages.verify_data(folders=run)
    assert str(run.average) in finding


def test_what_cannot_be_read_is_a_finding_and_the_rest_is_read(
    own_model_run: Any, corpus: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails, or somebody else's files. As root nothing is forbidden, so the answers are made up."""
    run = own_model_run.run
    refused = {
        str(run.average): errno.EIO,
        str(tar_of(corpus)): errno.EIO,
        str(corpus.set("eval").utt2spk): errno.EACCES,
    }
    closed, closed_marks = str(run.all_scores), str(corpus.marker("prepare").parent)
    corpus.marker("prepare").parent.mkdir()
    opened, scanned, listed, known = io.open, os.scandir, os.listdir, os.stat

    def open_or_refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path) in refused:
            raise OSError(refused[str(path)], os.strerror(refused[str(path)]), str(path))
        return opened(path, *args, **kwargs)

    def scan_or_refuse(path: Any = ".") -> Any:
        if str(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scanned(path)

    def list_or_refuse(path: Any = ".") -> Any:
        if str(path) == closed_marks:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    def know_or_refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path) == closed_table:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), closed_table)
        return known(path, *args, **kwargs)

    closed_table = str(corpus.set("noise").spk2utt)
    monkeypatch.setattr(io, "open", open_or_refuse)
    monkeypatch.setattr(os, "scandir", scan_or_refuse)
    monkeypatch.setattr(os, "listdir", list_or_refuse)
    monkeypatch.setattr(os, "stat", know_or_refuse)
    flip(140)(run.mean_xvector)
    findings = "\n".join(stages.verify_data(folders=[corpus, run]))
    for path, number in {**refused, **dict.fromkeys((closed, closed_marks, closed_table), errno.EACCES)}.items():
        assert re.search(rf"^{path}: (cannot read this file: )?{os.strerror(number)}; ", findings, re.MULTILINE), path
    assert f"{run.mean_xvector}: " in findings, "the others are read"


def test_baselines_that_nobody_may_look_into_are_a_finding(own_model_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They ended the program. As root nothing is forbidden, so the answers are made up."""
    closed = str(own_model_run.run.path.with_name("baselines"))
    os.mkdir(closed)
    asked = {"access": os.access, "listdir": os.listdir, "scandir": os.scandir}

    def look(name: str, path: Any, *args: Any) -> Any:
        if str(path) != closed:
            return asked[name](path, *args)
        if name == "access":
            return False
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), closed)

    for name in asked:
        monkeypatch.setattr(os, name, functools.partial(look, name))
    (finding,) = stages.verify_data(folders=own_model_run.run.path.parent)
    assert finding.startswith(f"{closed}: Permission denied; ")


@pytest.fixture
def nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is mounted to be read. Root may write where modes forbid it, so the answers are made up."""

    def refused(path: Any) -> OSError:
        return OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    opened, opened_by_number = io.open, os.open

    def open_to_read(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            raise refused(path)
        return opened(path, mode, *args, **kwargs)

    def open_by_number_to_read(path: Any, flags: int, *args: Any, **kwargs: Any) -> Any:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise refused(path)
        return opened_by_number(path, flags, *args, **kwargs)

    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        raise refused(path)

    monkeypatch.setattr(io, "open", open_to_read)
    monkeypatch.setattr("builtins.open", open_to_read)
    monkeypatch.setattr(os, "open", open_by_number_to_read)
    for name in ("mkdir", "unlink", "remove", "rename", "replace", "rmdir", "utime", "chmod"):
        monkeypatch.setattr(os, name, refuse)


def test_a_folder_that_is_only_to_be_read(own_model_run: Any, request: pytest.FixtureRequest) -> None:
    data, run = own_model_run
    request.getfixturevalue("nothing_can_be_written")
    with pytest.raises(OSError, match="Read-only"):
        write_text(run.path / "x", "")
    assert stages.verify_data(folders=[data, run]) == []


def test_shards_of_another_program_that_are_only_to_be_read(corpus: DataFolder, request: pytest.FixtureRequest) -> None:
    """WeSpeaker writes no index, and one that is made here is kept in memory."""
    for name in ("train", "eval", "noise", "rirs"):
        own = corpus.set(name)
        for path in (*own.shards.glob("*.tsv"), records_path(own.shard_list), facts_path(own.shard_list)):
            path.unlink()
    table = corpus.set("eval").utt2dur
    other_duration(table)
    request.getfixturevalue("nothing_can_be_written")
    (finding,) = stages.verify_data(folders=corpus)
    assert f"{table}: 1 of 18 recordings is of another length than what is packed" in finding
    assert not facts_path(corpus.set("eval").shard_list).exists()


def test_a_run_is_compared_with_its_own_corpus_among_several(own_model_run: Any, tmp_path: Path) -> None:
    """Another one may have a list of the same name: one fifth of the speakers each is evaluated in turn."""
    data, run = own_model_run
    other = DataFolder(tmp_path / "data")
    shutil.copytree(data.path, other.path)
    without_first_line(other.trials("eval"))
    for folders in ([data, other, run], [other, data, run]):
        assert [each for each in stages.verify_data(folders=folders) if str(run) in each] == []
    shutil.rmtree(run.path / ".done")  # which would tell
    assert [each for each in stages.verify_data(folders=[other, data, run]) if str(run) in each] == []


def test_a_fault_of_a_list_is_told_once(own_model_run: Any, tmp_path: Path) -> None:
    data, run = own_model_run
    other = DataFolder(tmp_path / "data")
    shutil.copytree(data.path, other.path)
    other.trials("eval").write_text("")
    findings = [each for each in stages.verify_data(folders=[other, run]) if "trials/eval" in each]
    assert len(findings) == 1, findings


def test_names_that_a_terminal_would_obey_are_spelt_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "exp")
    run.models.mkdir(parents=True)
    (run.models / "a\x1b[2J\nb.pt.crc32").touch()
    (finding,) = stages.verify_data(folders=run)
    assert finding.isprintable()


def test_a_level_too_high_or_too_low_is_told_which_folders_to_name(own_model_run: Any, tmp_path: Path) -> None:
    data, run = own_model_run
    above = tmp_path / "above"
    for name in ("mini", "other"):
        shutil.copytree(run.path, above / name / "run")
    (above / "log").mkdir()
    with pytest.raises(RecipeError, match=rf"; name {above}/mini {above}/other$"):
        stages.verify_data(folders=above)
    assert stages.verify_data(folders=[above / "mini", above / "other"]) == [], "as the message says"
    for part, whole in ((data.path / "eval" / "shards", data.path), (run.models, run.path)):
        with pytest.raises(RecipeError, match=rf"{part}: found a folder without .*; name {whole}$"):
            stages.verify_data(folders=part)


def test_what_was_not_compared_is_said_of_scores_alone(
    own_model_run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, run = own_model_run
    bare = RunFolder(tmp_path / "bare")
    shutil.copytree(run.models, bare.models)
    for folders, lists in (([run], "eval"), ([data, run], None), ([bare], None), ([bare, run], "eval")):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            stages.verify_data(folders=folders)
        told = [message for message in caplog.messages if "not compared" in message]
        expected = f"scores of {lists} were not compared with trial lists: name their corpus, too (data/...)"
        assert told == ([] if lists is None else [expected])


def test_notes_on_settings_are_told_to_who_trains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(tmp_path / "exp")
    run.path.mkdir()
    write_checked_text(run.config, "num_epochs: 2\nnum_avg: 1\n")
    with caplog.at_level(logging.WARNING):
        load_config([run.config])
        assert "config: " in caplog.text, "a short training, with no epoch of its final margin"
        caplog.clear()
        assert stages.verify_data(folders=run) == []
    assert not caplog.messages


def test_a_run_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "exp")
    run.models.mkdir(parents=True)
    run.model(1).write_bytes(b"nothing")
    assert len(stages.verify_data(folders=[run.path, tmp_path, run.path])) == 1
    with pytest.raises(RecipeError, match="folders: found none"):
        stages.verify_data(folders=[])


def test_several_processes_find_the_same(corpus: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(6000)(tar_of(corpus))
    alone = stages.verify_data(folders=corpus)
    monkeypatch.setattr(verifying, "_FEW_BYTES", 0)
    assert stages.verify_data(folders=corpus, num_workers=2) == alone
    assert len(alone) == 1


def test_nobody_may_be_writing(corpus: DataFolder, own_model_run: Any, in_other_process: Any) -> None:
    for folder in (corpus.path, own_model_run.run.path):
        taken = in_other_process(lambda folder=folder: lock_for_writing(folder))
        with taken, pytest.raises(RecipeError, match="in use by process"):
            stages.verify_data(folders=[corpus, own_model_run.run])
    assert stages.verify_data(folders=[corpus]) == []


@pytest.fixture
def in_other_process():
    """Function: a context in which another process has done something, such as to take a lock."""
    import contextlib

    @contextlib.contextmanager
    def context(work: Callable[[], object]):
        ready, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            work()
            os.write(ready[1], b".")
            os.read(done[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        yield
        os.write(done[1], b".")
        os.waitpid(child, 0)
        for descriptor in (*ready, *done):
            os.close(descriptor)

    return context


@pytest.mark.usefixtures("logging_as_it_was")
def test_the_program_prints_a_line_for_each_finding_and_exits_with_1(corpus: DataFolder, capsys: Any) -> None:
    command = ["verify-data", str(corpus.path), "--num_workers", "1"]
    assert main(command) == 0
    flip(6000)(tar_of(corpus))
    capsys.readouterr()
    assert main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": 1 finding")
    assert len(lines) == 2
    assert "the CRC-32 of its audio" in lines[1]
    assert main(["verify-data", str(corpus.path / "train")]) == 2
    assert "expected a prepared corpus (corpus.yaml), a run" in capsys.readouterr().err
    assert main(["verify-data", str(corpus.path / "none")]) == 2
    assert "none: found no such folder" in capsys.readouterr().err
