"""verify-data: each kind of damage is one finding, with the file, and what is whole has none."""

import errno
import functools
import io
import json
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wespeaker_qm import stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.packing.format import INDEX_COLUMNS, index_path, marker_path, write_list
from wespeaker_qm.packing.index_files import facts_path, records_path
from wespeaker_qm.score.cosine import load_mean
from wespeaker_qm.stages import verifying
from wespeaker_qm.train.log import LogWriter
from wespeaker_qm.utils.checksums import checksum_path, write_checked_text
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.lock import lock_for_writing
from wespeaker_qm.utils.ownership import LEDGER


@pytest.fixture
def corpus(tiny_corpus: Path, tmp_path: Path) -> DataFolder:
    """A copy of the tiny corpus, whose lists name the tars of the copy."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_corpus, folder)
    for name in ("train", "eval", "noise", "rirs"):
        shutil.rmtree(folder / name / "shards")
        (folder / name / "shard.list").unlink()
    stages.pack(data=folder, utterances_per_shard=10)
    return DataFolder(folder)


def tar_of(data: DataFolder) -> Path:
    """The second tar of the training set."""
    return data.set("train").shards / "shards_000001.tar"


def silently(path: Path, change: Callable[[bytearray], object]) -> None:
    """Change a file as a failing disk does: its time stays."""
    content, times = bytearray(path.read_bytes()), path.stat()
    change(content)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flip(place: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        silently(path, lambda content: content.__setitem__(place, content[place] ^ 1))

    return damage


def header_of_second_audio(path: Path) -> None:
    with tarfile.open(path) as tar:
        member = [each for each in tar if each.name.endswith(".wav")][1]
    flip(member.offset_data - 512 + 150)(path)  # its own checksum


def other_speaker(path: Path) -> None:
    with tarfile.open(path) as tar:
        member = next(each for each in tar if each.name.endswith(".spk"))
    flip(member.offset_data)(path)


def replaced(old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return damage


def of_another_speaker(path: Path) -> None:
    replaced(" noise", " music")(path)
    path.with_name("spk2utt").unlink()  # which would contradict it


def without_first_line(path: Path) -> None:
    path.write_text(path.read_text().partition("\n")[2])


def other_duration(path: Path) -> None:
    key, seconds = path.read_text().splitlines()[1].split()
    replaced(f"{key} {seconds}\n", f"{key} {float(seconds) + 0.06:g}\n")(path)


def emptied(path: Path) -> None:
    assert path.stat().st_size
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DATA_DAMAGES: dict[str, tuple[Callable[[DataFolder], Path], Callable[[Path], object], str]] = {
    "audio": (tar_of, flip(6000), r"_000001\.tar: \S+: the CRC-32 of its audio is \w+, expected \w+: damaged; remove"),
    "header": (tar_of, header_of_second_audio, r"_000001\.tar: \S+: no member of the tar at byte \d+, and so of 9 "),
    "speaker in the tar": (tar_of, other_speaker, r"shards_000001\.tar: \S+: its speaker is 'u\d', expected 't\d'"),
    "tar gone": (tar_of, Path.unlink, r"shards_000001\.tar: no such file, expected a tar that "),
    "list of a tar, empty": (
        lambda data: index_path(tar_of(data)),
        lambda path: path.write_text(""),
        r"index\.tsv: damaged, its last line is not the SHA-256",
    ),
    "list of a tar": (lambda data: index_path(tar_of(data)), flip(200), r"index\.tsv: damaged, its last line"),
    "table of the index": (lambda data: records_path(data.set("train").shard_list), flip(300), r"index\.npy: damaged"),
    "facts of the index": (lambda data: facts_path(data.set("train").shard_list), flip(40), r"shard\.index\.json: "),
    "shard.list gone": (lambda data: data.set("train").shard_list, Path.unlink, r"shard\.list: no such file; pack"),
    "another speaker": (
        lambda data: data.set("noise").utt2spk,
        of_another_speaker,
        r"noise/shard\.list: 1 packed recording is of another speaker .*: of 'noise', expected 'music'; pack again",
    ),
    "a table": (lambda data: data.set("eval").utt2spk, without_first_line, r"wav\.scp and .*utt2spk differ in 1 key"),
    "a label": (lambda data: data.trials("all"), replaced(" nontarget", " target"), r"trials/all: 1 label disagrees"),
    "a name": (lambda data: data.trials("all"), replaced("e0-0 ", "e9-9 "), r"trials/all: 1 utterance is not in"),
    "list gone": (lambda data: data.trials("all"), Path.unlink, r"trials/all: "),
    "a duration": (
        lambda data: data.set("train").utt2dur,
        other_duration,
        r"train/utt2dur: 1 of 24 recordings is of another length than what is packed, e\.g\. '\S+': [\d.]+ s, exp",
    ),
    "durations, empty": (lambda data: data.set("eval").utt2dur, emptied, r"eval/utt2dur: found an empty file, exp"),
    "spk2utt": (
        lambda data: data.set("eval").spk2utt,
        without_first_line,
        r"spk2utt: lacks 6 of the 18 utterances of \S+utt2spk, e\.g\. 'e0-0'; correct it, or remove the table",
    ),
    "spk2utt, empty": (lambda data: data.set("eval").spk2utt, emptied, r"eval/spk2utt: found an empty file, expected "),
    "marker of a tar": (
        lambda data: marker_path(tar_of(data)),
        emptied,
        r"done/shards_000001: found an empty file, expected the record of a stage's .*; remove \S+ and pack again",
    ),
    "marker": (
        lambda data: data.marker("prepare"),
        lambda path: write_text(path, '{"inputs": []}'),
        r"\.done/prepare: found another content, expected the record of a stage's .*; remove it and prepare the data",
    ),
    "ledger": (lambda data: data.set("eval").path / LEDGER, emptied, r"/\.wespeaker_qm: found an empty file, exp"),
    "ledger, cut": (
        lambda data: data.set("train").shards / LEDGER,
        halved,
        r"shards/\.wespeaker_qm: found another content, expected the names of ",
    ),
    "corpus.yaml": (lambda data: data.info, replaced("headline:", "headlin:"), r"corpus\.yaml: unknown key 'headlin'"),
}  # fmt: skip


def test_a_whole_corpus_has_no_findings(corpus: DataFolder) -> None:
    assert stages.verify_data(folders=corpus) == []


@pytest.mark.parametrize("kind", DATA_DAMAGES)
def test_damage_of_a_corpus_is_found_and_named(corpus: DataFolder, kind: str) -> None:
    choose, damage, message = DATA_DAMAGES[kind]
    damage(choose(corpus))
    findings = stages.verify_data(folders=corpus)
    about = [finding for finding in findings if re.search(message, finding)]
    assert len(about) == 1, findings
    assert all("\n" not in finding for finding in findings)
    assert len(findings) <= (2 if kind in ("tar gone", "facts of the index") else 1), findings


def test_the_remedy_for_an_emptied_marker_works(corpus: DataFolder) -> None:
    emptied(marker_path(tar_of(corpus)))
    (finding,) = stages.verify_data(folders=corpus)
    (marker,) = re.findall(r"remove (\S+) and pack again", finding)
    Path(marker).unlink()
    stages.pack(data=corpus, utterances_per_shard=10)
    assert stages.verify_data(folders=corpus) == []


def test_durations_are_compared_as_closely_as_programs_count_them(corpus: DataFolder) -> None:
    """Kaldi's are of whole frames, and all are written in a few digits. What was left out is not known."""
    table = corpus.set("train").utt2dur
    rows = [line.split() for line in table.read_text().splitlines()]
    table.write_text("".join(f"{key} {float(seconds) - 0.049:.3f}\n" for key, seconds in rows))
    assert stages.verify_data(folders=corpus) == []
    table.write_text("".join(f"{key} {float(seconds) - 0.051:.3f}\n" for key, seconds in rows))
    (finding,) = stages.verify_data(folders=corpus)
    assert "utt2dur: 24 of 24 recordings are of another length" in finding
    table.unlink()
    assert stages.verify_data(folders=corpus) == [], "as the message says"


def test_the_remedy_for_damaged_audio_works(corpus: DataFolder) -> None:
    """Its time says nothing: stage 2 alone would take it for done."""
    flip(6000)(tar_of(corpus))
    stages.pack(data=corpus, utterances_per_shard=10)
    (finding,) = stages.verify_data(folders=corpus)
    (marker,) = re.findall(r"remove (\S+) and pack again", finding)
    Path(marker).unlink()
    stages.pack(data=corpus, utterances_per_shard=10)
    assert stages.verify_data(folders=corpus) == []


def test_a_copy_whose_lists_name_the_original(corpus: DataFolder) -> None:
    """Of its own tars none is read; packed again, it stands alone."""
    copy = DataFolder(corpus.path.with_name("copy"))
    shutil.copytree(corpus.path, copy.path)
    findings = stages.verify_data(folders=copy)
    assert len(findings) == 4, "a set each"
    assert all(re.search(r"shard\.list: names .*/tiny/\S+, expected .*/copy/.*: a copy", each) for each in findings)
    stages.pack(data=copy, utterances_per_shard=10)
    assert stages.verify_data(folders=copy) == []


def test_every_damaged_recording_is_told_and_a_cut_tar(corpus: DataFolder) -> None:
    tar = tar_of(corpus)
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    findings = stages.verify_data(folders=corpus)
    assert sum("the CRC-32 of its audio" in finding for finding in findings) >= 4
    assert sum("bytes when it was packed" in finding or "but" in finding for finding in findings) >= 1


def test_packed_by_an_earlier_version_without_checksums(corpus: DataFolder) -> None:
    tar = tar_of(corpus)
    rows = [line.split("\t")[:-1] for line in index_path(tar).read_text().splitlines()[1:-1]]
    index_path(tar).write_text("".join("\t".join(row) + "\n" for row in [INDEX_COLUMNS[:-1], *rows]))
    facts_path(corpus.set("train").shard_list).unlink()  # its index was another, too
    (finding,) = stages.verify_data(folders=corpus)
    assert "no checksums stored, in 1 of 3 lists, by an earlier version" in finding
    assert "run stage 2" in finding
    stages.pack(data=corpus, utterances_per_shard=10)
    assert stages.verify_data(folders=corpus) == [], "as the message says"


def test_an_index_of_another_packing(corpus: DataFolder) -> None:
    """Whole, like the list beside the tar, but not made from it."""
    tar = tar_of(corpus)
    rows = [line.split("\t") for line in index_path(tar).read_text().splitlines()[1:-1]]
    rows[2][0] = "t9-9"
    write_list(index_path(tar), [INDEX_COLUMNS, *rows])
    (finding,) = stages.verify_data(folders=corpus)
    assert re.search(r"shard\.index\.npy: .*key='t\d-\d'.*expected .*key='t9-9'", finding)


def test_shards_of_another_program_are_compared_with_what_they_were(corpus: DataFolder) -> None:
    """WeSpeaker writes no lists."""
    for path in (*corpus.set("train").shards.glob("*.tsv"), records_path(corpus.set("train").shard_list)):
        path.unlink()
    facts_path(corpus.set("train").shard_list).unlink()
    assert stages.verify_data(folders=corpus) == []
    flip(6000)(tar_of(corpus))
    (finding,) = stages.verify_data(folders=corpus)
    assert re.search(r"the CRC-32 of its audio .*; make the tar again$", finding)


def test_what_is_trained_on_and_tested(tmp_path: Path, write_set: Any, voice: Any) -> None:
    rng = np.random.default_rng(1)
    waves = {f"{speaker}-{take}": voice(100.0, 0.5, rng) for speaker in "abc" for take in range(2)}
    write_set(tmp_path, "train", {key: (key[0], waves[key]) for key in ("a-0", "a-1", "b-0", "b-1")})
    tested = {key: (key[0], waves[key]) for key in ("c-0", "c-1")}
    write_set(tmp_path, "eval", {**tested, "b-2": ("b", voice(110.0, 0.5, rng)), "d-0": ("d", waves["a-1"])})
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "all").write_text("c-0 c-1 target\nc-0 b-2 nontarget\nc-1 d-0 nontarget\n")
    CorpusInfo(name="tiny", trials={"all": "eval"}, headline="all").save(tmp_path / "corpus.yaml")
    known, heard = stages.verify_data(folders=tmp_path)
    assert re.search(r"eval/utt2spk: 1 of its 3 speakers is trained on .*, e\.g\. 'b', expected none", known)
    assert re.search(r"eval/shard\.list: 1 of its recordings is trained on .*, e\.g\. 'd-0', which is 'a-1' of ", heard)


def test_trials_of_what_was_left_out(corpus: DataFolder, tmp_path: Path) -> None:
    name = corpus.set("eval").wav_scp.read_text().split()[0]
    wav = corpus.set("eval").wav_scp.read_text().split()[1]
    other = tmp_path / "other.wav"
    other.write_bytes(b"no audio")
    replaced(wav, str(other))(corpus.set("eval").wav_scp)
    stages.pack(data=corpus, utterances_per_shard=10, max_bad_fraction=0.5)
    findings = stages.verify_data(folders=corpus)
    assert len(findings) == 2, "two lists"
    assert all(f"1 of its 18 utterances is not packed, e.g. '{name}'" in finding for finding in findings), findings


RUN_FILES = (
    *("config.yaml", "models/avg_model.pt", "embeddings/eval/xvector.ark", "embeddings/eval/xvector.scp"),
    *("embeddings/mean_vec.npy", "scores/eval.score", "scores/eval.score.npz", "scores/eval.asnorm.score"),
    *("scores/calibration.json", "metrics.json", "model/weights.safetensors", "model.zip"),
)


@pytest.fixture
def run(own_model_run: Any) -> RunFolder:
    return own_model_run.run


def test_a_whole_run_has_no_findings(own_model_run: Any) -> None:
    data, run = own_model_run
    for _ in range(2):
        assert stages.verify_data(folders=[data, run]) == []
        assert stages.verify_data(folders=run.path.parent) == [], "the folder of its runs"
    assert not (run.path / ".lock").exists() or (run.path / ".lock").read_text() == ""


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_of_a_run_is_found_and_named(own_model_run: Any, name: str, damage: str) -> None:
    data, run = own_model_run
    path = run.path / name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        flip(path.stat().st_size // 2)(path)
    findings = stages.verify_data(folders=[data, run])
    if damage == "gone" and name == "model.zip":
        assert findings == [], "it may be moved elsewhere"
        return
    assert len(findings) == 1, findings
    folder = name.rpartition("/")[0] if name.startswith("model/") else name
    assert str(run.path / folder) in findings[0]


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a pipe, a socket or a device, expected a file: move it away"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe, a socket or a device, expected a file: move it"),
    "folder": (Path.mkdir, "is a folder, expected a file: move it away"),
    "link": (lambda path: path.symlink_to("nothing"), "is a link to nothing, which leads in a circle or to nothing: "),
}
FILES = (*RUN_FILES, "models/model_9.pt", "resume/step_3.pt", "resume.pt", "train_log.jsonl")


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_told_as_what_it_is(own_model_run: Any, kind: str) -> None:
    """Whether or not there is a checksum beside it."""
    run = own_model_run.run
    make, message = NO_FILES[kind]
    for name in FILES:
        path = run.path / name
        before = path.read_bytes() if path.is_file() else None
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        make(path)
        about = [finding for finding in stages.verify_data(folders=run) if f"{name}: {message}" in finding]
        assert len(about) == 1, name
        assert ".crc32" not in about[0]
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
        if before is not None:
            path.write_bytes(before)
    assert stages.verify_data(folders=run) == []


def test_a_log_that_was_cut_after_the_evaluation(own_model_run: Any) -> None:
    """Which has recorded it: then neither checkpoints nor states need be there."""
    data, run = own_model_run
    figures = dict.fromkeys(("loss", "accuracy", "margin", "learning_rate", "minutes"), 0.5)
    numbers = [{"epoch": epoch, "step": 10 * epoch, "samples": 90 * epoch} for epoch in (1, 2, 3)]
    lines = [json.dumps({"type": "epoch", **each, **figures}) + "\n" for each in numbers]
    run.training_log.write_text("".join(lines))
    stages.evaluate(data=data, run=run, num_resamples=0)
    assert stages.verify_data(folders=[data, run]) == []
    run.training_log.write_text("".join(lines[:2]))
    (finding,) = stages.verify_data(folders=[data, run])
    assert f"{run.marker('evaluate')}: made from others than there are now (train_log.jsonl: changed)" in finding
    run.training_log.unlink()
    assert stages.verify_data(folders=[data, run]) == [], "who deletes it knows that"


def test_emptied_markers_of_a_run_are_found_and_their_remedies_work(own_model_run: Any) -> None:
    data, run = own_model_run
    markers = sorted(path for path in run.path.rglob(".done/*") if path.is_file())
    assert {"score", "evaluate", "export"} <= {path.name for path in markers}
    for path in markers:
        before = path.read_bytes()
        emptied(path)
        (finding,) = stages.verify_data(folders=[data, run])
        assert f"{path}: found an empty file, expected the record of a stage's inputs and outputs: damaged; " in finding
        assert "put back a copy of it, or let " in finding
        path.write_bytes(before)
    score = run.marker("score")
    emptied(score)
    assert "let run.sh --stage 5 make it" in stages.verify_data(folders=run)[0]
    stages.score(data=data, run=run)
    assert stages.verify_data(folders=run) == []
    for path in (run.provenance, run.origin):
        write_text(path, "{}\n")
        assert stages.verify_data(folders=run) == []
        emptied(path)
        (finding,) = stages.verify_data(folders=run)
        assert f"{path}" in finding
        path.unlink()
    emptied(run.path / LEDGER)
    (finding,) = stages.verify_data(folders=run)
    assert f"{run.path / LEDGER}: found an empty file, expected the names of files below " in finding


def test_a_record_of_an_earlier_version_is_one(own_model_run: Any) -> None:
    """It had one key for all inputs."""
    run = own_model_run.run
    run.marker("average").write_text('{"key": "0f3c", "version": "0.1.0"}\n')
    assert stages.verify_data(folders=run) == []
    (run.path / ".done" / ".score.0a1b2c3d-7-01234567.tmp").touch()
    assert stages.verify_data(folders=run) == [], "what a killed program left half written"


def test_scores_are_compared_with_the_trials(own_model_run: Any, tmp_path: Path) -> None:
    data, run = own_model_run
    other = tmp_path / "data"
    shutil.copytree(data.path, other)
    path = DataFolder(other).trials("eval")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    findings = [each for each in stages.verify_data(folders=[other, run]) if "shard.list" not in each]
    assert len(findings) == 3, "cosines, normalised, calibrated"
    assert all("1 trial is not in" in finding for finding in findings)
    assert stages.verify_data(folders=run) == [], "without the corpus nobody can know"


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


def test_files_that_came_with_their_checksums_from_another_run(own_model_run: Any) -> None:
    """Whole by themselves, and not what the run's stages wrote, or made of."""
    data, run = own_model_run
    for name in ("embeddings/eval/utt2bandwidth", "scores/eval.score", "scores/eval.asnorm.score"):
        path = run.path / name
        before = path.read_bytes()
        write_checked_text(path, "".join(reversed(path.read_text().splitlines(keepends=True))))
        (finding,) = [each for each in stages.verify_data(folders=run) if f"{path}: " in each]
        assert re.search(
            r"CRC-32 \w+ of \d+ bytes, expected CRC-32 .* says: another file in its place; delete", finding
        )
        path.write_bytes(before)
        checksum_path(path).unlink()
    assert stages.verify_data(folders=run) == []
    np.save(run.mean_xvector, load_mean(run.mean_xvector) + 1)
    checksum_path(run.mean_xvector).unlink()
    findings = stages.verify_data(folders=[data, run])
    assert any(
        f"{run.marker('score')}: made from others than there are now (embeddings/mean_vec.npy: changed)" in each
        and "run.sh --stage 5 makes it again" in each
        for each in findings
    ), findings
    stages.score(data=data, run=run)
    assert not any(str(run.marker("score")) in each for each in stages.verify_data(folders=[data, run]))


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


@pytest.mark.parametrize("name", ["shards_000001.index.tsv", "shards_000002.index.tsv"])
def test_a_lost_list_beside_a_tar(corpus: DataFolder, tmp_path: Path, name: str) -> None:
    """The index says all of it, until that is lost, too."""
    path = corpus.set("train").shards / name
    path.unlink()
    (finding,) = stages.verify_data(folders=corpus)
    assert f"{path}: no such file, expected one beside each tar, as of 2 of 3; " in finding
    (shard_list,) = re.findall(r"; move (\S+) away and pack again", finding)
    Path(shard_list).rename(tmp_path / "away")
    stages.pack(data=corpus, utterances_per_shard=10)
    assert stages.verify_data(folders=corpus) == [], "as the message says"


def test_a_corpus_whose_description_is_a_link_to_nothing(corpus: DataFolder) -> None:
    corpus.info.unlink()
    corpus.info.symlink_to("nothing")
    (finding,) = stages.verify_data(folders=corpus)
    assert f"{corpus.info}: is a link to nothing" in finding


def test_states_and_logs(tiny_corpus: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "exp")
    stages.train(data=tiny_corpus, run=run, config=tiny_yaml, overrides="valid_epoch_interval=1")
    assert stages.verify_data(folders=run) == []
    lines = run.training_log.read_text().splitlines(keepends=True)
    second = [number for number, line in enumerate(lines) if '"type": "epoch"' in line][1]
    step = next(number for number, line in enumerate(lines) if '"type": "step"' in line)
    for name, kept in (
        ("missing", [*lines[:second], *lines[second + 1 :]]),
        ("double", [*lines[: step + 1], *lines[step:]]),
        ("out of order", [lines[second], *lines[:second]]),
    ):
        write_checked_text(run.training_log, "".join(kept))
        (finding,) = stages.verify_data(folders=run)
        assert re.search(r"train_log\.jsonl:\d+: a record of type .*, expected the next", finding), name
    write_checked_text(run.training_log, "".join(lines) + '{"type": "ste')
    assert stages.verify_data(folders=run) == [], "half a line is what a killed training leaves"
    write_checked_text(run.training_log, json.dumps({"type": "step"}) + "\n")
    (finding,) = stages.verify_data(folders=run)
    assert "a record without type, epoch or step" in finding
    assert '"type": "valid"' in lines[-1]
    for cut in ("".join(lines)[:-10], "".join(lines[:-1]), "".join(lines[: second + 1]), ""):
        run.training_log.write_text(cut)
        checksum_path(run.training_log).unlink(missing_ok=True)
        (finding,) = stages.verify_data(folders=run)
        assert re.search(
            r"train_log\.jsonl: cut off, .* expected all records up to epoch 3, of which \S+/(step_9|model_3)\.pt is; ",
            finding,
        )
    run.marker("train").rename(tmp_path / "train")
    run.training_log.write_text("".join(lines)[:-10])
    assert stages.verify_data(folders=run) == [], "half a line is what a killed training leaves"
    (tmp_path / "train").rename(run.marker("train"))
    shutil.move(run.states, tmp_path / "states")
    (finding,) = stages.verify_data(folders=run)
    assert f"of which {run.model(3)} is; " in finding
    shutil.move(tmp_path / "states", run.states)
    run.training_log.unlink()
    assert stages.verify_data(folders=run) == [], "who deletes it knows that"
    write_checked_text(run.training_log, "")
    assert stages.verify_data(folders=run) == [], "it begins anew where the training goes on"
    write_checked_text(run.training_log, "".join(lines))
    (state,) = run.states.glob("step_*.pt")
    load_config([tiny_yaml], ["projection_args.alpha=1.6"]).save(run.config)
    (finding,) = stages.verify_data(folders=run)
    assert (
        f"{state}: made with other settings than {run.config} has: projection_args.alpha: was 1.5, now 1.6" in finding
    )
    load_config([tiny_yaml]).save(run.config)
    moved = state.with_name("step_7.pt")
    state.rename(moved)
    checksum_path(state).unlink()
    (finding,) = stages.verify_data(folders=run)
    assert f"{moved}: found the state after 9 updates, expected that of its name" in finding
    moved.rename(state)
    flip(5000)(state)
    (finding,) = stages.verify_data(folders=run)
    assert str(state) in finding


@pytest.mark.parametrize(
    "values",
    [
        *('"step", "epoch": 1e400', '{"a": 1}, "epoch": 1', '"step", "epoch": "1"', '"step", "epoch": true'),
        *('"step", "epoch": 1, "loss": "2"', '"step", "epoch": 1, "speed": {"mfu": []}'),
    ],
)
def test_a_log_of_records_that_nobody_wrote(tmp_path: Path, values: str) -> None:
    """What is found is what a training would not go on with."""
    run = RunFolder(tmp_path / "exp")
    run.models.mkdir(parents=True)
    run.training_log.write_text(f'{{"type": {values}, "step": 1}}\n')
    (finding,) = stages.verify_data(folders=run)
    assert ":1: found a record without type, epoch or step, or with values that are no figures" in finding
    with pytest.raises(RecipeError, match="a record without type, epoch or step"):
        LogWriter(run, 1)


def test_models_are_those_of_the_configuration(tmp_path: Path, tiny_config: Config) -> None:
    """As extraction, which takes half-precision weights, but none of another network."""
    run = RunFolder(tmp_path / "exp")
    tiny_config.save(run.config)
    weights = build_encoder(tiny_config).state_dict()
    checkpoint.save({name: value.half() for name, value in weights.items()}, run.model(1))
    assert stages.verify_data(folders=run) == []
    name = next(iter(weights))
    for change, found in (
        ({name: weights[name][..., :1]}, f"1 entry does not fit the network: {name} "),
        ({name: weights[name].to(torch.float8_e4m3fn)}, f"{name} is of torch.float8_e4m3fn, expected dense real"),
        ({"more": weights[name]}, "more "),
    ):
        checkpoint.save({**weights, **change}, run.model(1))
        (finding,) = stages.verify_data(folders=run)
        assert found in finding
        checkpoint.save({**weights, **change}, run.average)
        with pytest.raises(RecipeError, match=re.escape(found)):
            checkpoint.load_encoder(build_encoder(tiny_config), checkpoint.load(run.average), run.average)
        run.average.unlink()
        checksum_path(run.average).unlink()


@pytest.mark.parametrize("place", range(len(RunFolder("exp").earlier_states)))
def test_a_state_of_an_earlier_version_is_read_as_one(tmp_path: Path, place: int) -> None:
    path = RunFolder(tmp_path / "exp").earlier_states[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "exp" / "models").mkdir(exist_ok=True)
    checkpoint.save({"epoch": 1}, path)
    (finding,) = stages.verify_data(folders=tmp_path / "exp")
    assert f"{path}: found no elapsed_s, world_size, " in finding


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.zeros(2)], "a list"),
        (None, "a NoneType"),
        (torch.zeros(2), "a Tensor"),
        ({}, "an empty dict"),
        ({"a": 1}, "a dict whose entry 'a' is a int"),
    ],
    ids=["list", "none", "tensor", "empty", "number"],
)
def test_a_model_that_is_no_state_dict(tmp_path: Path, content: object, found: str) -> None:
    run = RunFolder(tmp_path / "exp")
    run.models.mkdir(parents=True)
    torch.save(content, run.model(1))
    (finding,) = stages.verify_data(folders=run)
    assert f"{run.model(1)}: found {found}, expected a state_dict" in finding


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


def test_no_more_is_read_than_the_name_of_a_speaker_is_long(corpus: DataFolder) -> None:
    with tarfile.open(tar_of(corpus)) as tar:
        member = [each for each in tar if each.name.endswith(".spk")][-1]
    member.size = 10**12
    header = slice(member.offset, member.offset + 512)
    silently(tar_of(corpus), lambda content: content.__setitem__(header, member.tobuf(tarfile.GNU_FORMAT)))
    findings = stages.verify_data(folders=corpus)
    assert any("its speaker is 't1" in finding for finding in findings), findings


def test_several_processes_find_the_same(corpus: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(6000)(tar_of(corpus))
    alone = stages.verify_data(folders=corpus)
    monkeypatch.setattr(verifying, "_FEW_BYTES", 0)
    assert stages.verify_data(folders=corpus, num_workers=2) == alone
    assert len(alone) == 1


def test_nobody_may_be_writing(corpus: DataFolder, run: RunFolder, in_other_process: Any) -> None:
    for folder in (corpus.path, run.path):
        taken = in_other_process(lambda folder=folder: lock_for_writing(folder))
        with taken, pytest.raises(RecipeError, match="in use by process"):
            stages.verify_data(folders=[corpus, run])
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
