"""The figures of the pages are what their programs draw, and the example of ten seconds learns."""

import importlib.util
import re

import pytest


@pytest.fixture
def program(repository):
    """Function: a program outside the package, as a module."""

    def load(path):
        spec = importlib.util.spec_from_file_location("program", repository / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_the_family_is_drawn(program, tmp_path):
    program("docs/figures.py").family(tmp_path / "family.svg")
    assert (tmp_path / "family.svg").stat().st_size > 10_000


def test_digits(program, tmp_path, capsys):
    digits = program("examples/digits.py")
    digits.main(["--out", str(tmp_path / "digits.svg")])
    accuracy, support, solved = (
        float(re.search(r": ([\d.]+)", line)[1]) for line in capsys.readouterr().out.splitlines()
    )
    assert accuracy > 80
    assert 1 <= support < 3
    assert solved > 25
    assert "<svg" in (tmp_path / "digits.svg").read_text()


def test_with_alpha_1_no_digit_is_ever_done(program):
    learnt = program("examples/digits.py").learn(1.0)
    assert (learnt.support, learnt.solved) == (10, 0)
