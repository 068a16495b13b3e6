"""Score files: what is read, and what is refused with which words."""

import re
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.trials import text
from wespeaker_qm.trials.cache import read_cache
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores, write_scores
from wespeaker_qm.utils.checksums import checked_path, checksum_path
from wespeaker_qm.utils.errors import RecipeError


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="list"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_reads_a_score_file(write):
    trials, scores, _ = read_scores(write("a b 0.123456789 target\na\tc  -1e-3  nontarget\n"))
    np.testing.assert_array_equal(scores, [0.123456789, -1e-3])
    assert trials.same_trials(read_trial_table(write("a b target\na c nontarget\n", "trials")))
    assert not trials.same_trials(read_trial_table(write("a c nontarget\na b target\n", "other")))
    assert not trials.same_trials(read_trial_table(write("a b target\na c target\n", "labels")))


def test_reads_wespeakers_normalised_scores(write):
    scored = read_scores(write("a b 1.5 target 10.1 9.2 0.05 0.06\nc b -2 nontarget 8 9.2 0.07 0.06\n"))
    np.testing.assert_array_equal(scored.scores, [1.5, -2])
    np.testing.assert_array_equal(scored.measures, [[10.1, 9.2, 0.05, 0.06], [8, 9.2, 0.07, 0.06]])


def test_labels_come_from_the_list_where_the_scores_have_none(write):
    trials = read_trial_table(write("a b target\na c nontarget\nc b nontarget\n", "trials"))
    scored = read_scores(write("c b 3\na b 1\na c 2\n"), trials)
    np.testing.assert_array_equal(scored.scores, [1, 2, 3])
    assert scored.trials.same_trials(trials)


@pytest.mark.parametrize(("one", "zero"), [("tgt", "imp"), ("1", "0")])
def test_other_words_for_the_labels(write, one, zero):
    trials, _, _ = read_scores(write(f"a b 0.5 {one}\na c 0.1 {zero}\n"))
    assert trials.is_target.tolist() == [True, False]


def test_lines_are_counted_across_blocks(write, monkeypatch):
    lines = [f"e{number} t{number % 7} {number / 8} {'target' if number % 3 else 'nontarget'}" for number in range(200)]
    whole = read_scores(write("\n".join(lines)))  # no line end after the last one
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)
    blocks = read_scores(write("\n".join(lines), "again"))
    assert blocks.trials.same_trials(whole.trials)
    np.testing.assert_array_equal(blocks.scores, whole.scores)
    lines[150] = "e150 t3 1"
    lines[151] = "e151 t3 1 target more"  # as many fields in all
    with pytest.raises(RecipeError, match=r"(?s)2 of 200 lines.*broken:151: 'e150 t3 1'\n.*broken:152"):
        read_scores(write("\n".join(lines), "broken"))


def test_a_cache_is_used_while_it_belongs_to_its_text(write, tmp_path):
    trials = read_trial_table(write("a b target\na c nontarget\n", "trials"))
    path = tmp_path / "x.score"
    write_scores(path, trials, np.array([1 / 3, 0.1]))
    text = path.read_text()
    cached = read_scores(path)
    assert read_cache(path) is not None
    (tmp_path / "x.score.npz").rename(tmp_path / "kept.npz")
    parsed = read_scores(path)
    np.testing.assert_array_equal(cached.scores, parsed.scores)  # to the last bit
    assert cached.trials.same_trials(parsed.trials)
    (tmp_path / "kept.npz").rename(tmp_path / "x.score.npz")
    path.write_text(text.replace("0.1", "0.25"))
    with pytest.raises(RecipeError, match=r"x\.score: CRC-32 .* delete .*x\.score\.crc32$"):
        read_scores(path)
    checksum_path(path).unlink()  # changed on purpose
    assert read_scores(path).scores[1] == 0.25
    (tmp_path / "x.score.npz").write_bytes(b"broken")
    assert read_scores(path).scores[1] == 0.25


def test_a_cache_can_stand_alone(write, tmp_path):
    trials = read_trial_table(write("a b target\na c nontarget\n", "trials"))
    path = tmp_path / "x.score"
    write_scores(path, trials, np.array([3.0, 4.0]))
    write_scores(path, trials, np.array([1 / 3, 0.1]), np.arange(8.0).reshape(2, 4), text=False)
    assert not path.exists()
    scored = read_scores(path)
    np.testing.assert_array_equal(scored.scores, [1 / 3, 0.1])
    np.testing.assert_array_equal(scored.measures, np.arange(8.0).reshape(2, 4))
    (tmp_path / "x.score.npz").write_bytes(b"broken")
    with pytest.raises(RecipeError, match=r"x\.score\.npz: cannot be read"):
        read_scores(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b 0.5 target\na b target\n\n", ["1 of 3 lines", "list:2: 'a b target'"]),
        ("a b 0.5\n", ["no labels", "expected lines `enrolment test score target|nontarget`", "--trials"]),
        ("a b 0.5 yes\n", ["1 of 1 lines", "'a b 0.5 yes'"]),
        ("a b c 0.5 target\n", ["1 of 1 lines"]),
        ("a b nan target\na c -inf nontarget\na d 1 target\n", ["2 of 3 scores are not finite", "list:1: 'a b nan"]),
        (
            "a b nan target\n\na c x nontarget\na d 1 target\n",
            ["1 of 3 trials has a field that is no number", "list:3"],
        ),
        ("a b 1_0 target\n", ["1 of 1 trials has a field that is no number", "list:1: 'a b 1_0 target'"]),
        ("a b 1 target 2 3 4 x\n", ["1 of 1 trials has a field that is no number", "list:1"]),
        ("a b inf target\n", ["1 of 1 scores is not finite"]),
        ("a b 1 target\nb a 1 target\na b 2 target\n", ["1 trial stands more than once", "list:1"]),
        ("", [": the file is empty, expected lines `enrolment test score target|nontarget`"]),
        (" \n\n", [": the file is empty, expected lines `enrolment test score target|nontarget`"]),
        ("a b 1 target\nb a 1 target\nb a 2 target\n", ["1 trial stands more than once", "repetitions:\n", "list:2"]),
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


def test_columns_follow_their_trials_into_the_order_of_the_list(write):
    trials = read_trial_table(write("a b target\na c nontarget\nc b nontarget\n", "trials"))
    scored = read_scores(
        write("c b 3 nontarget 31 32 33 34\na b 1 target 11 12 13 14\na c 2 nontarget 21 22 23 24\n"), trials
    )
    assert scored.trials is trials
    np.testing.assert_array_equal(scored.scores, [1, 2, 3])
    np.testing.assert_array_equal(scored.measures, [[n * 10 + k for k in (1, 2, 3, 4)] for n in (1, 2, 3)])
    same_order = read_scores(write("a b 1 target\na c 2 nontarget\nc b 3 nontarget\n", "same"), trials)
    assert same_order.trials is trials
    assert same_order.measures is None


def test_scores_know_the_file_they_come_from(write, tmp_path):
    trials = read_trial_table(write("a b target\na c nontarget\n", "trials"))
    assert trials.path == tmp_path / "trials"
    write_scores(tmp_path / "x.score", trials, np.array([0.5, 0.25]))
    cached = read_scores(tmp_path / "x.score")
    (tmp_path / "x.score.npz").unlink()
    assert cached.trials.path == read_scores(tmp_path / "x.score").trials.path == tmp_path / "x.score"


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ("a b 1 target\n", ["2 of the 3 trials of", "have no score", "\n  a c", "\n  c b"]),
        ("a b 1 target\na c 1 nontarget\nc b 1 nontarget\nx y 1 target\nb a 1 target\n",
         ["2 trials are not in", "\n  x y", "\n  b a"]),
        ("c b 1 target\na b 1 nontarget\na c 1 nontarget\n",
         ["2 trials have another label than in", "\n  a b", "\n  c b"]),
    ],
)  # fmt: skip
def test_scores_of_another_list_are_refused_with_the_trials_that_differ(write, scores, words):
    trials = read_trial_table(write("a b target\na c nontarget\nc b nontarget\n", "trials"))
    with pytest.raises(RecipeError) as error:
        read_scores(write(scores), trials)
    for word in [*words, f"{trials.path}"]:
        assert word in str(error.value)


def test_labels_that_only_the_list_has_are_not_compared(write):
    """A file without labels says nothing that could disagree, whatever the labels of the list."""
    trials = read_trial_table(write("a b nontarget\na c target\n", "trials"))
    assert read_scores(write("a c 2\na b 1\n"), trials).trials.is_target.tolist() == [False, True]


class Trap:
    """An object whose pickle makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("text", [True, False])
def test_a_cache_that_holds_a_pickle_is_refused_before_it_runs_anything(write, tmp_path, text):
    trials = read_trial_table(write("a b target\na c nontarget\n", "trials"))
    path = tmp_path / "x.score"
    write_scores(path, trials, np.array([3.0, 4.0]), text=text)
    cache = tmp_path / "x.score.npz"
    with np.load(cache) as arrays:
        content = dict(arrays) | {"scores": np.array([Trap(tmp_path / "sprung")] * 2, dtype=object)}
    with checked_path(cache) as temporary, temporary.open("wb") as handle:  # its checksum is right
        np.savez(handle, **content)
    if text:
        np.testing.assert_array_equal(read_scores(path).scores, [3, 4])
    else:
        with pytest.raises(RecipeError, match=r"x\.score\.npz: cannot be read"):
            read_scores(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("write_other", [np.savez_compressed, lambda handle, **content: np.save(handle, [1.0])])
def test_a_cache_that_no_version_wrote_is_not_inflated(write, tmp_path, text, write_other):
    trials = read_trial_table(write("a b target\na c nontarget\n", "trials"))
    path = tmp_path / "x.score"
    write_scores(path, trials, np.array([3.0, 4.0]), text=text)
    with np.load(tmp_path / "x.score.npz") as arrays:
        content = dict(arrays) | {"scores": np.array([5.0, 6.0])}
    with checked_path(tmp_path / "x.score.npz") as temporary, temporary.open("wb") as handle:
        write_other(handle, **content)
    if text:
        np.testing.assert_array_equal(read_scores(path).scores, [3, 4])
    else:
        with pytest.raises(RecipeError, match=r"x\.score\.npz: cannot be read"):
            read_scores(path)


def test_lines_that_are_too_long_and_too_short_do_not_make_up_for_each_other(write):
    """Six fields on two lines, and numbers in the right columns, if one looks at the fields alone."""
    trials = read_trial_table(write("x y target\na b nontarget\n", "trials"))
    with pytest.raises(
        RecipeError, match=r"2 of 3 lines are not `enrolment test score`; correct .*:\n.*:2: 'a b 1 c'\n.*:3: 'd 2'"
    ):
        read_scores(write("x y 1\na b 1 c\nd 2\n"), trials)


def test_a_score_that_is_none_of_a_name_in_another_encoding(tmp_path):
    (tmp_path / "x.score").write_bytes("a Müller nan target\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"x\.score:1: not UTF-8 text"):
        read_scores(tmp_path / "x.score")
