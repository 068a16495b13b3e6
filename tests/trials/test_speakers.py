"""Whose voices are in the trials."""

import re

import numpy as np
import pytest

from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.speakers import speakers_by_folder, trial_speakers
from wespeaker_qm.utils.errors import RecipeError


@pytest.fixture
def table(tmp_path):
    def read(text):
        (tmp_path / "list").write_text(text)
        return read_trial_table(tmp_path / "list")

    return read


def test_numbers_follow_the_names_of_the_speakers(table):
    trials = table("b1 b2 target\nb1 a1 nontarget\na1 c1 nontarget\n")
    found = trial_speakers(trials, {"b1": "B", "b2": "B", "a1": "A", "c1": "C", "z9": "unused"})
    assert found.num_speakers == 3
    assert found.enrolment.tolist() == [1, 1, 0]
    assert found.test.tolist() == [1, 0, 2]
    assert found.enrolment.dtype == found.test.dtype == np.int32


def test_utterances_without_a_speaker_are_named(table):
    trials = table("a1 a2 target\na1 b1 nontarget\n")
    with pytest.raises(RecipeError, match=r"list: 2 utterances are not in utt2spk.*right utt2spk:\n  a2\n  b1$"):
        trial_speakers(trials, {"a1": "A"})


def test_labels_that_disagree_are_shown_with_what_they_say(table):
    trials = table("a1 a2 nontarget\na1 b1 target\na2 b1 nontarget\n")
    shown = "2 labels disagree with utt2spk, expected target for one speaker on both sides and nontarget for two:\n"
    shown += "  a1 a2 nontarget\n  a1 b1 target"
    with pytest.raises(RecipeError, match=re.escape(shown) + "$"):
        trial_speakers(trials, {"a1": "A", "a2": "A", "b1": "B"})


def test_speakers_from_folders(table):
    trials = table("id1/v/1.wav id1/w/1.wav target\nid1/v/1.wav id2/x/1.wav nontarget\n")
    found = speakers_by_folder(trials)
    assert found is not None
    assert (found.enrolment.tolist(), found.test.tolist(), found.num_speakers) == ([0, 0], [0, 1], 2)
    assert speakers_by_folder(table("id1/v/1.wav a target\n")) is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "wav/a/1 wav/a/2 target\nwav/a/1 wav/b/1 nontarget\n",
            "1 label says otherwise (wav/a/1 wav/b/1 is nontarget)",
        ),
        ("d1/a/1 d2/a/1 target\nd1/a/1 d2/b/1 nontarget\n", "1 label says otherwise (d1/a/1 d2/a/1 is target)"),
        ("/data/a/1 /data/b/1 nontarget\n/data/a/1 /data/a/2 target\n", "(/data/a/1 /data/b/1 is nontarget)"),
        ("./a/1 ./b/1 nontarget\n./a/1 ./a/2 target\n", "(./a/1 ./b/1 is nontarget)"),
    ],
)
def test_a_guess_that_contradicts_the_labels_is_dropped_with_a_note(table, caplog, lines, said):
    assert speakers_by_folder(table(lines)) is None
    (note,) = [record.getMessage() for record in caplog.records]
    assert said in note
    assert "--utt2spk" in note
