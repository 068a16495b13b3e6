"""Trial lists: what is read, and what is refused with which words."""

import pytest

from wespeaker_qm.trials import text
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.utils.errors import RecipeError


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="list"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write_file


def test_reads_a_trial_list(write):
    table = read_trial_table(write("a b target\na c nontarget\nc b nontarget\n"))
    assert table.utterances == ["a", "b", "c"]
    assert table.enrolment.tolist() == [0, 0, 2]
    assert table.test.tolist() == [1, 2, 1]
    assert table.is_target.tolist() == [True, False, False]
    assert len(table) == 3


def test_reads_voxceleb_lists(write):
    ours = read_trial_table(write("1 2/a 1\n", "one"))  # a label at the end is one, whatever the first name is
    assert (ours.utterances, ours.is_target.tolist()) == (["1", "2/a"], [True])
    table = read_trial_table(write("1 id1/x/1.wav id1/y/2.wav\n0 id1/x/1.wav id2/z/1.wav\n"))
    assert table.utterances == ["id1/x/1.wav", "id1/y/2.wav", "id2/z/1.wav"]
    assert table.is_target.tolist() == [True, False]


def test_lines_may_end_in_a_carriage_return(tmp_path):
    lines = ["a b target", "a c nontarget", "c b nontarget"]
    (tmp_path / "list").write_text("".join(f"{line}\n" for line in lines))
    expected = read_trial_table(tmp_path / "list")
    for end in ("\r\n", "\r"):
        (tmp_path / "other").write_bytes("".join(line + end for line in lines).encode())
        assert read_trial_table(tmp_path / "other").same_trials(expected)


def test_other_encodings_are_refused_by_name(tmp_path):
    (tmp_path / "names").write_bytes("a Müller target\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"names:1: not UTF-8 text: found 'a M\\xfcller target'; write it in UTF-8"):
        read_trial_table(tmp_path / "names")
    (tmp_path / "lines").write_bytes("a b target\na Müller 1 2\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"1 of 2 lines(.|\n)*lines:2: 'a M\\xfcller 1 2'"):
        read_trial_table(tmp_path / "lines")


def test_labels_that_are_none_are_counted_across_blocks(write, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)
    lines = [f"e{number} t{number % 7} {'target' if number % 3 else 'nontarget'}" for number in range(200)]
    lines[150] = "e150 t3 yes"
    with pytest.raises(RecipeError, match=r"1 of 200 lines is not .*:\n.*broken:151: 'e150 t3 yes'$"):
        read_trial_table(write("\n".join(lines), "broken"))


def test_an_empty_list_says_what_a_list_looks_like(write):
    for content in ("", " \n", "\r\n\r\n"):
        with pytest.raises(
            RecipeError, match=r"list: the file is empty, expected lines `enrolment test target\|nontarget`"
        ):
            read_trial_table(write(content))


@pytest.mark.parametrize("first", ["0", "1"])
def test_voxceleb_lists_are_told_by_their_first_line(write, first):
    table = read_trial_table(write(f"{first} a/1 b/1\n{1 - int(first)} a/1 c/1\n"))
    assert table.utterances == ["a/1", "b/1", "c/1"]
    assert table.is_target.tolist() == [first == "1", first == "0"]


@pytest.mark.parametrize(
    ("text", "trials"),
    [
        ("1 10 1\n0 10 7\n", [("10", "1", True), ("10", "7", False)]),  # the second line is no trial of Kaldi's
        ("0 10 0\n1 10 12\n", [("10", "0", False), ("10", "12", True)]),
        ("1 a target\n0 a b\n", [("a", "target", True), ("a", "b", False)]),
        ("1 10 1\n7 10 0\n", [("1", "10", True), ("7", "10", False)]),  # nor this one of VoxCeleb's
        ("1 2 1\n0 2 0\n", [("1", "2", True), ("0", "2", False)]),  # both: as Kaldi's
    ],
)
def test_names_that_look_like_labels(tmp_path, text, trials):
    (tmp_path / "list").write_text(text)
    table = read_trial_table(tmp_path / "list")
    names = [tuple(table.names(number).split()) for number in range(len(table))]
    assert [(*pair, bool(label)) for pair, label in zip(names, table.is_target, strict=True)] == trials


def test_a_list_of_neither_kind_is_refused_as_kaldis(tmp_path):
    (tmp_path / "list").write_text("1 10 1\n7 10 8\n")
    with pytest.raises(RecipeError, match=r"1 of 2 lines is not `enrolment test target\|nontarget`"):
        read_trial_table(tmp_path / "list")
