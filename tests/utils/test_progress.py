"""Bars on a terminal, lines in files and pipes."""

import re
import sys
from pathlib import Path

import pytest

from wespeaker_qm.utils import progress
from wespeaker_qm.utils.progress import Progress


class Clock:
    """The time that bars see."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def test_a_log_gets_one_line_a_minute_with_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total=1000, desc="training", unit="sample") as bar:
        for _ in range(300):  # two a second
            clock.now_s += 0.5
            bar.set_postfix({"loss": "4.1"}, refresh=False)
            bar.update()
            bar.refresh()
    lines = capsys.readouterr().err.split("\n")
    assert lines == [
        "training: 120 of 1000 (12 %), 2 sample/s, 07:20 left, loss=4.1",
        "training: 240 of 1000 (24 %), 2 sample/s, 06:20 left, loss=4.1",
        "training: 300 of 1000 (30 %), 2 sample/s, 02:30 in all, loss=4.1",
        "",
    ]


def test_what_takes_less_than_a_minute_writes_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in Progress(range(590), desc="rooms"):
        clock.now_s += 0.1
    assert capsys.readouterr().err == ""


def test_what_was_done_before_counts_for_the_share_and_not_for_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(total=2_000_000, initial=1_000_000, desc="download", unit="B", unit_scale=True) as bar:
        clock.now_s += 100
        bar.update(100_000)
    assert capsys.readouterr().err.split("\n")[0] == "download: 1.10M of 2.00M (55 %), 1.00k B/s, 15:00 left"


def test_without_a_total_there_is_no_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(unit="utt") as bar:
        clock.now_s += 60
        bar.update(30)
    assert capsys.readouterr().err == "progress: 30, 0.5 utt/s\nprogress: 30, 0.5 utt/s, 01:00 in all\n"


def test_messages_do_not_draw_bars_into_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total=3, desc="x") as bar:
        bar.update()
        Progress.write("a message", file=sys.stderr)
    assert capsys.readouterr().err == "a message\n"


def test_nothing_is_shown_where_nothing_is_wanted(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        for _ in Progress(range(3), show=False):
            clock.now_s += 100
    assert capsys.readouterr().err == ""


def test_a_terminal_has_the_bar_of_tqdm(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for _ in Progress(range(4), desc="rooms", ncols=60):
        clock.now_s += 1
    drawn = capsys.readouterr().err
    assert re.search(r"\rrooms: +50%\|█+ +\| 2/4 \[00:02<00:02", drawn)
    assert re.search(r"\rrooms: 100%\|█+\| 4/4 \[00:04<00:00,[^\n]*\n$", drawn)


def test_all_bars_are_made_here() -> None:
    root = Path(progress.__file__).parents[2]
    users = [
        str(path.relative_to(root))
        for folder in ("wespeaker_qm", "tools")
        for path in (root / folder).rglob("*.py")
        if re.search(r"\btqdm\b", path.read_text(encoding="utf-8"))
    ]
    assert users == ["wespeaker_qm/utils/progress.py"]
