"""A note where trials mix narrow and wide recordings, and none where they do not."""

from pathlib import Path

import pytest

from wespeaker_qm.trials.bandwidths import mixed_bandwidths_note
from wespeaker_qm.trials.lists import read_trial_table

LINES = ["a b target", "a c target", "b c nontarget", "a d nontarget", "c d nontarget", "a e nontarget"]


@pytest.mark.parametrize(
    ("bandwidth_hz", "counts"),
    [
        ({"a": 4000, "b": 7900, "c": 7900, "d": 4100, "e": 8000}, ("2 of 2", "2 of 4", "4.0 and 7.9 kHz")),
        ({"a": 4000, "b": 4100, "c": 5900, "d": 5000}, None),
        ({"a": 8000, "b": 8000, "c": 8000, "d": 8000, "e": 0}, None),
        ({"a": 4000, "e": 6001}, ("0 of 2", "1 of 4", "4.0 and 6.0 kHz")),
        ({}, None),
    ],
)
def test_mixed_trials_are_counted(
    tmp_path: Path, bandwidth_hz: dict[str, float], counts: tuple[str, ...] | None
) -> None:
    (tmp_path / "trials").write_text("\n".join(LINES) + "\n")
    note = mixed_bandwidths_note(read_trial_table(tmp_path / "trials"), bandwidth_hz)
    if counts is None:
        assert note is None
    else:
        targets, nontargets, medians = counts
        assert note is not None
        assert note.startswith(f"{targets} target trials and {nontargets} non-target trials compare")
        assert medians in note
