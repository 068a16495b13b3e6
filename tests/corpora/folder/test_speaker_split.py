"""Which speakers of one's own recordings are evaluated: drawn, named, or one part of several."""

import itertools

import pytest

from wespeaker_qm.corpora.folder.speaker_split import parse_eval_speakers, split_speakers
from wespeaker_qm.utils.errors import RecipeError


def test_split_is_seeded_and_disjoint():
    counts = {f"s{number:02d}": 3 for number in range(40)}
    first = split_speakers(counts, 0.25, 0.1, 1)
    assert first == split_speakers(counts, 0.25, 0.1, 1) != split_speakers(counts, 0.25, 0.1, 2)
    assert [len(part) for part in first] == [27, 3, 10] and len(set().union(*first)) == 40


def test_parse_eval_speakers():
    assert parse_eval_speakers(0.5) == 0.5
    assert parse_eval_speakers(" b, a,,b ") == ["a", "b"]
    assert parse_eval_speakers(["b", "a"]) == ["a", "b"]
    with pytest.raises(RecipeError, match="names no speaker"):
        parse_eval_speakers(",")
    assert parse_eval_speakers("5") == parse_eval_speakers(5) == 5
    assert parse_eval_speakers("1e-1") == 0.1
    assert parse_eval_speakers("0084,1e5,null,1of5,all,on,-x,.,0.5") == sorted(
        ["0084", "1e5", "null", "1of5", "all", "on", "-x", ".", "0.5"]
    )


@pytest.mark.parametrize("choice", ["0", "-5", "1.0", "5.0", "1e5", "0084", "nan", "inf", "1e400", "9" * 5000, "1_0"])
def test_a_number_that_is_neither_a_count_nor_a_fraction_is_refused(choice):
    with pytest.raises(RecipeError) as caught:
        split_speakers(dict.fromkeys("abcdef", 2), parse_eval_speakers(choice), 0.1, 1)
    assert "--eval_speakers" in str(caught.value) and len(str(caught.value)) < 400


def test_what_says_how_many_or_all_is_no_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("5", "0.5", "all", "1of5", "names"):
        (tmp_path / name).write_text("anna\nben\n")
        assert parse_eval_speakers(f"./{name}") == ["anna", "ben"]
    assert [parse_eval_speakers(each) for each in ("5", "0.5", "all", "1of5")] == [5, 0.5, None, (1, 5)]
    assert parse_eval_speakers("names") == ["anna", "ben"]


def test_the_parts_of_a_cross_validation_hold_everybody_once():
    counts = {f"s{number}": 1 if number == 3 else 4 for number in range(11)}
    parts = [split_speakers(counts, parse_eval_speakers(f"{k}of5"), 0.0, seed=4) for k in range(1, 6)]
    assert sorted(itertools.chain(*(part.evaluation for part in parts))) == sorted(counts.keys() - {"s3"})
    for part in parts:
        assert len(part.evaluation) == 2
        assert sorted(part.train + part.evaluation) == sorted(counts)
    assert parts != [split_speakers(counts, parse_eval_speakers(f"{k}of5"), 0.0, seed=5) for k in range(1, 6)]


@pytest.mark.parametrize("choice", ["0of5", "6of5", "1of1"])
def test_a_part_that_is_none_is_refused(choice):
    with pytest.raises(RecipeError, match=f"--eval_speakers {choice}: expected 1ofN to NofN"):
        parse_eval_speakers(choice)
