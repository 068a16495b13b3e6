"""tools/parse_options.sh: how run.sh takes a list apart."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "parse_options.sh"


def split(text):
    code = f'set -euo pipefail; . {SCRIPT}; split_option a --list "$1"; printf "%s\\0" ${{a[@]+"${{a[@]}}"}}'
    return subprocess.run(["bash", "-c", code, "bash", text], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", []),
        (" \n\t", []),
        ("a=1 b=2", ["a=1", "b=2"]),
        ("a=1\nb=2\tc=3\n\n d=4\n", ["a=1", "b=2", "c=3", "d=4"]),
        ("--audio_root '/my recordings' x", ["--audio_root", "/my recordings", "x"]),
        ('a="{b: 1, c: 2}" d', ["a={b: 1, c: 2}", "d"]),
        ("$(touch x) `touch x` *", ["$(touch", "x)", "`touch", "x`", "*"]),
    ],
)
def test_entries_stand_apart_by_any_white_space_and_quotes_keep_it(text, entries):
    result = split(text)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\0")[:-1] == (entries or [""])


def test_a_quote_without_its_partner_is_refused():
    result = split("a 'b")
    assert result.returncode == 1
    assert "option --list: found a quote without its partner in: a 'b" in result.stderr
