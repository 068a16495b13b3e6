"""A share of what `tools/fuzz.py` does, and that it would notice."""

import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import fuzz
import pytest
from fuzz import Place, mutated
from fuzz_parsers import PARSERS, Parser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wespeaker_qm.utils.errors import RecipeError

SLOW = {"model.json", "cohort of a model", "model.zip", "model.onnx"}
"""Half a second each."""


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, name: str) -> None:
    place = Place(PARSERS[name], tmp_path)

    @settings(max_examples=20 if name in SLOW else 100, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def attempt(rng: random.Random) -> None:
        place.refusal(mutated(rng, place.valid))

    attempt()


def _raise(error: Exception) -> Any:
    raise error


FAULTS = {
    "raises": lambda path: _raise(KeyError("x")),
    "crashes": lambda path: os.abort(),
    "writes elsewhere": lambda path: Path(os.environ["ELSEWHERE"]).write_text("x"),
    "writes beside it": lambda path: path.with_name("y").write_text("x"),
    "unpickles": lambda path: pickle.loads(pickle.dumps(Path)),
    "starts a program": lambda path: os.system("true"),
    "takes memory": lambda path: len(b"x" * (100 << 20)),
    "does not end": lambda path: _forever(),
    "names no file": lambda path: _raise(RecipeError("no")),
    "obeys a terminal": lambda path: _raise(_RawError(f"{path}: \x1b[2J")),
    "says too much": lambda path: _raise(RecipeError("\n".join([f"{path} {'x' * 99}"] * 99))),
}


class _RawError(RecipeError):
    def __str__(self) -> str:
        return "x \x1b[2J"


def _forever() -> None:
    while True:
        pass


@pytest.mark.parametrize("fault", FAULTS)
def test_it_would_notice(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, fault: str
) -> None:
    """A reader that is right with a valid file and does harm with one that begins with another letter."""

    def read(path: Path) -> str:
        text = path.read_bytes()
        return "" if text.startswith(b"valid") else FAULTS[fault](path)

    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 1)
    monkeypatch.setattr(fuzz, "MOST_BYTES", 1 << 26)
    monkeypatch.setitem(PARSERS, "wrong", Parser("x", lambda path: path.write_bytes(b"valid"), read))
    assert fuzz.main(["--parser", "wrong", "--inputs", "3"]) == 1
    found = capfd.readouterr().out
    assert "again: tools/fuzz.py --parser 'wrong' --first " in found


def test_what_is_written_must_be_read_again(tmp_path: Path) -> None:
    parser = Parser(
        "x", lambda path: path.write_bytes(b"a"), Path.read_bytes, lambda value, path: path.write_bytes(b"a")
    )
    place = Place(parser, tmp_path)
    with pytest.raises(AssertionError):
        place.refusal(b"b")


def test_an_input_is_a_function_of_its_number(capfd: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--parser", "table", "--inputs", "30", "--first", "7", "--seed", "3"]) == 0
    first = capfd.readouterr().out
    assert first.startswith("table: 30 inputs, ")
    assert fuzz.main(["--parser", "table", "--inputs", "30", "--first", "7", "--seed", "3"]) == 0
    assert capfd.readouterr().out.partition(" refused")[0] == first.partition(" refused")[0]


def test_every_option_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fuzz.main(["--help"])
    assert "--parser" in capfd.readouterr().out
    assert "fuzz" in sys.modules
