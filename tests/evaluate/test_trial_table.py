"""Trial lists and score files: what is read, and what is refused with which words."""

import re

import numpy as np
import pytest

from wespeaker_qm.evaluate.trial_table import read_scores, read_trial_table
from wespeaker_qm.utils.errors import RecipeError


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="list"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_reads_a_trial_list(write):
    table = read_trial_table(write("a b target\na c nontarget\nc b nontarget\n"))
    assert table.utterances == ["a", "b", "c"]
    assert table.enrolment.tolist() == [0, 0, 2]
    assert table.test.tolist() == [1, 2, 1]
    assert table.is_target.tolist() == [True, False, False]
    assert len(table) == 3


def test_reads_a_score_file(write):
    trials, scores, _ = read_scores(write("a b 0.123456789 target\na\tc  -1e-3  nontarget\n"))
    np.testing.assert_array_equal(scores, [0.123456789, -1e-3])
    assert trials.same_trials(read_trial_table(write("a b target\na c nontarget\n", "trials")))
    assert not trials.same_trials(read_trial_table(write("a c nontarget\na b target\n", "other")))
    assert not trials.same_trials(read_trial_table(write("a b target\na c target\n", "labels")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b 0.5 target\na b target\n\n", ["2 of 3 lines", "list:2: 'a b target'", "list:3: ''"]),
        ("a b 0.5\n", ["no labels", "expected lines `enrolment test score target|nontarget`", "--trials"]),
        ("a b 0.5 yes\n", ["1 of 1 lines", "'a b 0.5 yes'"]),
        ("a b c 0.5 target\n", ["1 of 1 lines"]),
        ("a b nan target\na c x nontarget\na d 1 target\n", ["2 of 3 scores are not finite", "a b nan", "a c x"]),
        ("a b inf target\n", ["1 of 1 scores are not finite"]),
        ("a b 1 target\nb a 1 target\na b 2 target\n", ["1 trials stand more than once", "list:1"]),
        ("", ["the file is empty"]),
        ("".join(f"a b{n} x target\n" for n in range(20)), ["20 of 20", "a b4 x", "and 15 more"]),
    ],
)
def test_refuses_with_the_first_few_and_the_count(write, text, words):
    with pytest.raises(RecipeError) as error:
        read_scores(write(text))
    for word in words:
        assert word in str(error.value)
    assert "a b5 x" not in str(error.value)


def test_missing_file_names_the_stage(tmp_path):
    for read in (read_scores, read_trial_table):
        with pytest.raises(RecipeError, match=re.escape(f"{tmp_path / 'none'}: no such file; run the stage")):
            read(tmp_path / "none")
