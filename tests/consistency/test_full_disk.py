"""A disk that takes no more: one line that names a file and a remedy, no half file, and what was there before stays.

The limit of a file's size does to a process what a full disk does, and needs neither a disk nor rights. Limits of
several sizes let a command come further and further.
"""

import contextlib
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.enrolment.store import SpeakerStore
from wespeaker_qm.export.folder import ModelFolder

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

MODEL = ("--model", "run/model", "--device", "cpu")
FAST = ("--num_resamples", "0")
STAGE = ("--data", "data", "--exp_dir", "run")
COMMANDS = {
    "extract": (("extract", *STAGE), ("extract_train", "extract_eval"), ()),
    "score": (("score", *STAGE), ("score",), ()),
    "normalise": (("normalise", *STAGE, "--top_n", "2"), (), ()),
    "calibrate": (("calibrate", *STAGE), ("calibrated",), ()),
    "evaluate": (("evaluate", *STAGE, *FAST), (), ()),
    "report": (("report", *STAGE), (), ()),
    "export": (("export", *STAGE, *FAST, "--onnx", "false"), (), ("run/model", "run/model.zip")),
    "extract with a model": (("extract", *STAGE[:2], "--exp_dir", "made", *MODEL), ("made/.done/adopt",), ()),
    "import": (("import", "run", "--out", "made", "--device", "cpu"), ("made/.done/import",), ("made",)),
    "embed into arrays": (("embed", "b.wav", "--out", "made.npz", *MODEL), (), ("made.npz",)),
    "embed into lines": (("embed", "b.wav", "--out", "made.jsonl", *MODEL), (), ("made.jsonl",)),
    "embed for Kaldi": (("embed", "b.wav", "--out", "ark,scp:made", *MODEL), (), ("made.ark", "made.scp")),
    "score-files": (("score-files", "list", "--wav_root", ".", "--out", "x.score", *MODEL), (), ("x.score",)),
    "enrol": (("enrol", "Berta", "b.wav", "--store", "store", *MODEL), (), ()),
    "metrics": (("metrics", "x.score", "--json", "figures.json", *FAST), (), ("figures.json",)),
}
"""Command line; markers without which it has something to do; the result of before that must stay."""
LIMITS_BYTES = (0, 100, 1000, 5000, 20_000)


@pytest.fixture
def place(own_model_run, tmp_path, monkeypatch, repository):
    """As current directory: a corpus and a run of all stages, and what each command makes of a.wav."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shutil.copytree(own_model_run.run.path, "run", symlinks=True)
    Path("data").symlink_to(own_model_run.data.path)
    for one, other in (("a", "eval0-0"), ("b", "eval1-0"), ("c", "eval0-1")):
        shutil.copy(own_model_run.data.path / "eval" / "wav" / f"{other}.wav", f"{one}.wav")
    Path("list").write_text("a.wav c.wav target\na.wav b.wav nontarget\n")
    return tmp_path


@contextlib.contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(names):
    paths = [path for name in names for path in (Path(name).rglob("*") if Path(name).is_dir() else [Path(name)])]
    return {str(path): path.read_bytes() for path in paths if path.is_file() and path.parent.name != ".done"}


def make_before(command):
    """What is there when the disk is full: the same of another recording or seed."""
    if command[0] in ("embed", "enrol", "import", "score-files"):
        other = [{"b.wav": "a.wav", "Berta": "Anna"}.get(word, word) for word in command]
        assert main(other) == 0
    if command[0] == "metrics":
        assert main([*COMMANDS["score-files"][0]]) == 0
        assert main([*command, "--far", "0.5"]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_and_takes_nothing_away(place, name, capsys):
    command, markers, kept = COMMANDS[name]
    make_before(command)
    before = contents(kept)
    assert bool(before) == bool(kept)
    failures = 0
    for num_bytes in LIMITS_BYTES:
        for marker in markers:
            Path(marker if "/" in marker else f"run/.done/{marker}").unlink(missing_ok=True)
        capsys.readouterr()
        with full_disk(num_bytes):
            status = main([*command])
        message = capsys.readouterr().err
        if status == 0:
            break
        failures += 1
        assert status == 1, message
        assert "Traceback" not in message
        (line,) = re.findall(r"^error: (.*)$", message, re.MULTILINE)
        assert re.match(r"\S+: .*; ", line), line
        assert not [str(path) for path in place.rglob("*") if ".tmp" in path.name]
        assert contents(kept) == before, num_bytes
        if name == "enrol":
            assert [speaker.name for speaker in SpeakerStore("store").speakers()] == ["Anna"]
    assert failures
    assert main([*command]) == 0
    if name == "export":
        assert ModelFolder.read("run/model").fingerprint == ModelFolder.read("run/model.zip").fingerprint


@pytest.mark.usefixtures("place")
def test_looking_whether_all_is_whole_needs_no_room(capsys):
    with full_disk(0):
        status = main(["verify-data", "data", "run", "--num_workers", "1"])
    assert status == 0
    assert capsys.readouterr().out.endswith(": 0 findings\n")
