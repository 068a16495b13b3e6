"""Files that are lost or damaged: one message, exit status 1; and what the message recommends puts things right.

Each stage runs on a tiny experiment, and each file that it reads is replaced by something else in turn.
"""

import ast
import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wespeaker_qm.bin.main import SUBCOMMANDS, main
from wespeaker_qm.train.log import LogWriter
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder

ROOT = Path(__file__).parents[2]
PLACE = ("--data", "tiny", "--exp_dir", "exp")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (*PLACE, "--config", "tiny.yaml"),
    "average": PLACE[2:],
    "extract": PLACE,
    "score": PLACE,
    "normalise": (*PLACE, "--top_n", "2"),
    "evaluate": (*PLACE, "--num_resamples", "0"),
}
"""In the order of run.sh."""
_SCORES = ("exp/scores/all.score", "--utt2spk", "tiny/eval/utt2spk", "--num_resamples", "0")
OTHERS: dict[str, tuple[str, ...]] = {
    "pack": ("--data", "tiny", "--num_workers", "1"),
    "metrics": (*_SCORES, "--trials", "tiny/trials/all"),
    "threshold": (*_SCORES, "--far", "0.3"),
}
"""Not needed by other stages."""
TOLD_OTHERWISE = {
    "tiny/trials/all": "(data/trials/all: changed",
    "exp/.done/score": "exp/scores: no record",
    "tiny/train/utt2spk": "exp/embeddings/train/xvector.scp: 1 of the 1 utterances has no embedding",
}
"""Where what was made of a file shows the damage, or a marker is not there to be named: what the message says."""
MARKERS = {
    "train": (),
    "average": ("average",),
    "extract": ("extract_train", "extract_eval"),
    "score": ("score",),
    "normalise": ("asnorm", "cohort"),
    "evaluate": ("evaluate",),
}
"""Removed, so that the stage has something to do; a whole training takes too long here."""
STAGE_NUMBERS = {"3": "train", "4": "average", "5": "score", "6": "normalise"}


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _of_another_kind(path: Path) -> None:
    """Of the format that its name says, and with nothing in it that belongs there."""
    if path.suffix == ".npy":
        np.save(path, np.zeros((2, 3), np.int64))
    elif path.suffix == ".pt":
        torch.save([1, "a"], path)
    else:
        path.write_bytes(b"[]\n")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256))),
    "other": lambda path: path.write_bytes(b'{"a": [1, 2]}\n'),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "folder": _folder,
    "loop": _loop,
    "null": lambda path: path.write_bytes(b"null\n"),
    "of another kind": _of_another_kind,
    "gone": Path.unlink,
}


pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.fixture(scope="module")
def _whole(tiny_corpus, tiny_yaml, tmp_path_factory):
    """A folder with ``tiny`` and ``exp``, all stages done."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(tiny_corpus, root / "tiny")
    shutil.copy(tiny_yaml, root / "tiny.yaml")
    with contextlib.chdir(root):
        for stage, options in COMMANDS.items():
            assert main([stage, *options]) == 0
    return root


@pytest.fixture
def place(_whole, tmp_path, monkeypatch):
    """A copy of it, as the current directory."""
    root = tmp_path / "place"
    shutil.copytree(_whole, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


def _run(stage: str, capsys: Any) -> tuple[int, str]:
    capsys.readouterr()
    status = main([stage, *(COMMANDS | OTHERS)[stage]])
    return status, capsys.readouterr().err


_opened: set[str] | None = None


@functools.cache
def _watch() -> None:
    """Note the files that are opened; a hook cannot be removed, so it does nothing outside of :func:`_reads`."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _opened is not None and event == "open" and isinstance(arguments[0], str):
            _opened.add(arguments[0])

    sys.addaudithook(hook)


def _reads(stage: str) -> list[Path]:
    """The files of data and experiment that a stage opens."""
    global _opened
    _watch()
    before = [path for folder in ("tiny", "exp") for path in Path(folder).rglob("*") if path.is_file()]
    _opened = set()
    assert main([stage, *(COMMANDS | OTHERS)[stage]]) == 0
    opened, _opened = {str(Path(name).absolute()) for name in _opened}, None
    skipped = (".lock", ".wespeaker_qm")
    return [path for path in before if str(path.absolute()) in opened and path.name not in skipped]


@pytest.mark.parametrize("stage", COMMANDS | OTHERS)
def test_no_file_that_a_stage_reads_makes_it_crash(place, stage, capsys):
    """A message names the file. Each file meets one kind of damage; with ALL_DAMAGES=1 in the environment, all."""
    clean = place.parent / "clean"
    for marker in MARKERS.get(stage, ()):
        Path("exp/.done", marker).unlink()
    shutil.copytree(place, clean, symlinks=True)
    files = _reads(stage)
    assert len(files) > 2
    faults = []
    for number, file in enumerate(files):
        rotated = list(DAMAGES)[number % len(DAMAGES)]
        for name in DAMAGES if os.environ.get("ALL_DAMAGES") else (rotated,):
            for folder in ("tiny", "exp"):
                shutil.rmtree(folder)
                shutil.copytree(clean / folder, folder, symlinks=True)
            if not file.is_file():
                continue
            DAMAGES[name](file)
            status, message = _run(stage, capsys)
            meant = "config.yaml" if file.name.startswith("config.yaml") else str(file).removesuffix(".crc32")
            # What an earlier stage has made of a file since is told by its name in the run.
            names = {meant, f"({meant.removeprefix('exp/')}: changed"}
            names |= {TOLD_OTHERWISE[meant]} if meant in TOLD_OTHERWISE else set()
            is_told = message.count("error: ") == 1 and any(each in message for each in names)
            if "Traceback" in message or status not in (0, 1) or (status == 1 and not is_told):
                faults.append(f"{file} {name}: {status} {message[-300:]}")
    assert not faults, "\n".join(faults)


ADVICE = {
    "xvector.ark": ("exp/embeddings/eval/xvector.ark", "cut", "score"),
    "xvector.scp": ("exp/embeddings/eval/xvector.scp", "cut", "score"),
    "spk_xvector.ark": ("exp/embeddings/train/spk_xvector.ark", "cut", "normalise"),
    "mean_vec.npy": ("exp/embeddings/mean_vec.npy", "cut", "score"),
    "avg_model.pt": ("exp/models/avg_model.pt", "cut", "extract"),
    "avg_model.pt of stage 4": ("exp/models/avg_model.pt", "cut", "average"),
    "config.yaml": ("exp/config.yaml", "gone", "average"),
    "config.yaml that is damaged": ("exp/config.yaml", "cut", "average"),
    "train_log.jsonl": ("exp/train_log.jsonl", "garbage", "evaluate"),
    "train_log.jsonl without its checksum": ("exp/train_log.jsonl", "other", "evaluate"),
    "a score file": ("exp/scores/all.score", "cut", "evaluate"),
    "a score file of stage 6": ("exp/scores/all.asnorm.score", "garbage", "evaluate"),
    "scores before stage 6": ("exp/scores/all.score", "cut", "normalise"),
    "xvector.ark before stage 6": ("exp/embeddings/eval/xvector.ark", "cut", "normalise"),
    "no xvector.ark before stage 6": ("exp/embeddings/eval/xvector.ark", "gone", "normalise"),
    "xvector.scp before stage 6": ("exp/embeddings/eval/xvector.scp", "garbage", "normalise"),
    "no xvector.scp before stage 6": ("exp/embeddings/train/xvector.scp", "gone", "normalise"),
    "xvector.scp before stage 6 without its checksum": ("exp/embeddings/eval/xvector.scp", "garbage", "normalise"),
    "mean_vec.npy before stage 6": ("exp/embeddings/mean_vec.npy", "cut", "normalise"),
    "avg_model.pt before stage 5": ("exp/models/avg_model.pt", "cut", "score"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_what_the_message_recommends_puts_things_right(place, case, capsys):
    """Delete what it says, run again what it names first, and go on: every stage after it ends well."""
    name, damage, stage = ADVICE[case]
    file = Path(name)
    DAMAGES[damage](file)
    if "without its checksum" in case:
        Path(f"{name}.crc32").unlink()
    Path("exp/.done", MARKERS[stage][0]).unlink()
    stages = list(COMMANDS)
    status, message = _run(stage, capsys)
    if status:
        assert "Traceback" not in message
        if re.search(r"\b[Dd]elete (it|what is there)\b", message) and file.exists():
            file.unlink()
        (number,) = re.findall(r"stage (\d)\b", message)[:1] or [None]
        first = stages.index(STAGE_NUMBERS[number]) if number else stages.index(stage)
        for each in stages[first : stages.index(stage)]:
            status, message = _run(each, capsys)
            assert status == 0, message
    for each in stages[stages.index(stage) :]:
        status, message = _run(each, capsys)
        assert status == 0, message


def test_an_experiment_that_is_a_file_or_a_circle_of_links(place, capsys, monkeypatch):
    Path("file").write_text("x")
    Path("loop").symlink_to("loop")
    for name in ("file", "loop"):
        for stage, options in COMMANDS.items():
            capsys.readouterr()
            assert main([stage, *(name if each == "exp" else each for each in options)]) == 1
            message = capsys.readouterr().err
            assert re.match(rf"error: {name}\b", message), message
            assert "Traceback" not in message


@pytest.mark.parametrize("content", [b'{"a": [1, 2]}', b"[]", b"3", b"null", b"{}"])
def test_metrics_without_a_checksum_that_are_no_figures_are_refused(place, content, capsys):
    """And what the message recommends mends them."""
    Path("exp/metrics.json").write_bytes(content)
    Path("exp/metrics.json.crc32").unlink()
    report = ["report", *PLACE, "--base", "tiny.yaml"]
    assert main(report) == 1
    message = capsys.readouterr().err
    assert "exp/metrics.json: found" in message
    assert "delete it and evaluate the run again (run.sh --stage 5 --exp_dir exp)" in message
    Path("exp/metrics.json").unlink()
    assert _run("evaluate", capsys)[0] == 0
    assert main(report) == 0


@pytest.mark.parametrize(
    "record",
    [
        '{"type": "epoch"}',
        '{"type": "epoch", "epoch": null, "step": null, "samples": null, "minutes": null}',
        '{"type": "step", "epoch": "a", "step": "b"}',
        '{"type": ["epoch"]}',
    ],
)
def test_a_log_without_a_checksum_that_holds_other_records_is_refused(place, record, capsys):
    log = Path("exp/train_log.jsonl")
    log.write_text(f"{record}\n")
    Path(f"{log}.crc32").unlink()
    Path("exp/.done/evaluate").unlink()
    status, message = _run("evaluate", capsys)
    assert status == 1
    assert re.match(rf"error: {log}:(1:)? found .*or delete it", message)
    with pytest.raises(RecipeError, match=r"train_log\.jsonl.*or delete it"):
        LogWriter(RunFolder("exp"), 1)
    log.unlink()
    assert _run("evaluate", capsys)[0] == 0


@pytest.mark.parametrize("offset", ["9" * 13, "9" * 26])
def test_an_scp_that_does_not_fit_its_ark_is_refused(place, offset, capsys):
    scp = Path("exp/embeddings/eval/xvector.scp")
    scp.write_text(re.sub(r":\d+$", f":{offset}", scp.read_text(), flags=re.MULTILINE))
    Path(f"{scp}.crc32").unlink()
    status, message = _run("score", capsys)
    assert status == 1
    assert re.match(rf"error: {scp}: cannot be read \(.*; delete it and extract again", message)


def test_a_list_of_one_target_and_one_nontarget_has_a_report(place, capsys):
    trials = Path("tiny/trials/all")
    lines = trials.read_text().splitlines(keepends=True)
    trials.write_text(
        "".join(next(line for line in lines if line.endswith(f" {kind}\n")) for kind in ("target", "nontarget"))
    )
    for stage in ("score", "evaluate"):
        assert _run(stage, capsys)[0] == 0
    assert main(["report", *PLACE, "--base", "tiny.yaml"]) == 0


def _strings() -> list[tuple[Path, str]]:
    """All texts of the package, but for docstrings; f-strings with a word in the place of what is filled in."""
    texts = []
    for path in sorted((ROOT / "wespeaker_qm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append((path, node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = [each.value if isinstance(each, ast.Constant) else "VALUE" for each in node.values]
                texts.append((path, "".join(map(str, parts))))
    return texts


def test_every_option_that_a_message_names_exists():
    run_sh = subprocess.run([ROOT / "run.sh", "--help"], capture_output=True, text=True, check=True).stdout
    of_run_sh = set(re.findall(r"^  --(\w+)", run_sh, re.MULTILINE))
    unknown = []
    for path, text in _strings():
        for part in re.findall(r"run\.sh((?: --\w+(?: [\w./<>]+)?)+)", text):
            unknown += [f"{path}: run.sh --{name}" for name in re.findall(r"--(\w+)", part) if name not in of_run_sh]
        for name in re.findall(r"wespeaker-qm (\w+(?:-\w+)*)", text):
            if name not in SUBCOMMANDS and name not in ("in", "which", "has"):
                unknown.append(f"{path}: wespeaker-qm {name}")
    assert not unknown
