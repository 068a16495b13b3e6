"""Data directories, trial lists and corpus.yaml: what is written is read back, what does not fit is named."""

from pathlib import Path

import pytest

from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.trials.lists import Trial, make_trials, write_trials
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.tables import read_rows


def example() -> DataDir:
    return DataDir(
        wav={"b-1": "b 1.wav", "a-2": "a2.wav", "a-1": "a1.wav"},
        speaker={"b-1": "b", "a-2": "a", "a-1": "a"},
        duration_s={"b-1": 1.5, "a-2": 3.0, "a-1": 2.25},
        gender={"a": "f", "b": "m"},
        session={"b-1": "x", "a-2": "y", "a-1": "x"},
    )


def test_directory_round_trip_is_sorted(tmp_path: Path) -> None:
    example().write(tmp_path)
    assert DataDir.read(tmp_path) == example()
    assert [key for key, _ in read_rows(tmp_path / "wav.scp", 2)] == ["a-1", "a-2", "b-1"]
    assert (tmp_path / "spk2utt").read_text() == "a a-1 a-2\nb b-1\n"
    assert example().speakers == ["a", "b"]
    assert len(example()) == 3


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("utt2spk", "a-1 a\na-2 a\n", r"wav\.scp and .*/utt2spk differ in 1 key.*'b-1' stands only in wav\.scp"),
        ("utt2session", "a-1 x\na-2 x\nb-1 x\nc-1 x\n", r"'c-1' stands only in utt2session"),
        ("spk2gender", "a f\n", r"utt2spk and .*/spk2gender.*'b'"),
        ("utt2dur", "a-1 1\na-2 long\nb-1 1\n", r"utt2dur:2: 'a-2': 'long' is no number, expected seconds"),
        ("utt2dur", "a-1 1\na-2 inf\nb-1 1\n", r"utt2dur:2: 'a-2': 'inf' is not finite, expected seconds"),
        ("utt2dur", "a-1 1\na-2 0\nb-1 1\n", r"'a-2' lasts 0\.0 s"),
        ("wav.scp", "", r"no utterances"),
    ],
)
def test_tables_that_disagree(tmp_path: Path, table: str, content: str, message: str) -> None:
    example().write(tmp_path)
    (tmp_path / table).write_text(content)
    with pytest.raises(RecipeError, match=message):
        DataDir.read(tmp_path)


def test_keys_that_kaldi_or_a_tar_cannot_hold() -> None:
    for key in ("a b", "/a", "a/", "a//b", "a/../b", ".", ""):
        with pytest.raises(RecipeError, match="rename it"):
            DataDir(wav={key: "x.wav"}, speaker={key: "s"}, duration_s={key: 1.0}).validate()


def test_trials_are_one_a_line(tmp_path: Path) -> None:
    write_trials(tmp_path / "list", [Trial("a", "b", True), Trial("a", "c", False)])
    assert (tmp_path / "list").read_text() == "a b target\na c nontarget\n"


def test_all_pairs_once_and_seeded_samples() -> None:
    speaker = {f"{name}{number}": name for name in "abcd" for number in range(5)}
    trials = make_trials(speaker)
    assert len(trials) == len({frozenset(trial[:2]) for trial in trials}) == 20 * 19 // 2
    assert all(trial.is_target == (speaker[trial.enrolment] == speaker[trial.test]) for trial in trials)
    assert make_trials(dict(reversed(speaker.items()))) == trials
    few = make_trials(speaker, max_targets=7, max_nontargets=9)
    assert few == make_trials(speaker, max_targets=7, max_nontargets=9) == sorted(few)
    assert sum(trial.is_target for trial in few) == 7 and len(few) == 16 and set(few) <= set(trials)
    assert few != make_trials(speaker, max_targets=7, max_nontargets=9, seed=1)
    only = make_trials(speaker, accept=lambda a, b: a[1] == b[1])
    assert len(only) == 5 * 6 and not any(trial.is_target for trial in only)


def test_a_limit_that_is_just_met_keeps_all_and_a_smaller_one_draws(tmp_path: Path) -> None:
    speaker = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    pairs = [("a1", "a2"), ("a1", "b1"), ("a1", "b2"), ("a2", "b1"), ("a2", "b2"), ("b1", "b2")]
    every = [Trial(one, two, one[0] == two[0]) for one, two in pairs]
    assert make_trials(speaker) == every
    assert make_trials(speaker, max_targets=2, max_nontargets=4) == every
    assert [trial.is_target for trial in make_trials(speaker, max_targets=0)] == [False] * 4
    assert [trial.is_target for trial in make_trials(speaker, max_nontargets=0)] == [True] * 2
    for seed in range(5):  # where all are kept nothing is drawn, so that the other kind's draw stays
        assert make_trials(speaker, max_targets=2, max_nontargets=1, seed=seed) == make_trials(
            speaker, max_nontargets=1, seed=seed
        )
    many = {f"{name}{number}": name for name in "abcdefgh" for number in range(5)}
    limits = {"max_targets": 9, "max_nontargets": 9}
    assert make_trials(many, **limits) == make_trials(many, **limits, seed=42)  # or lists would change with the version
    drawn = {make_trials(speaker, max_targets=1, max_nontargets=0, seed=seed)[0] for seed in range(20)}
    assert drawn == {every[0], every[5]}, "each of the two, for some seed"


def test_corpus_info_round_trip(tmp_path: Path) -> None:
    info = CorpusInfo(
        name="mini", trials={"all": "eval", "cross": "eval"}, headline="all", validation="valid", noise="noise"
    )
    info.save(tmp_path / "corpus.yaml")
    assert CorpusInfo.load(tmp_path) == CorpusInfo.load(tmp_path / "corpus.yaml") == info
    assert info.sets() == ["train", "eval", "valid", "noise"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x\nheadline: all\ntrails: {all: eval}\n", "unknown key 'trails'; nearest: .*trials"),
        ("name: x\nheadline: all\n", "key 'trials' is missing"),
        ("name: x\nheadline: most\ntrials: {all: eval}\n", "headline 'most' is none of the trial lists"),
        ("- name\n", "expected"),
        (
            "name: x\nheadline: a\ntrials: {a: eval, a.asnorm: eval}\n",
            "scores of the trial list 'a.asnorm' and the asnorm scores of 'a' would be one file",
        ),
        (
            "name: x\nheadline: a\ntrials: {a: eval, valid: eval}\nvalidation: valid\n",
            "the list 'valid' is over 'eval' as a trial list, and over 'valid' as validation list",
        ),
    ],
)
def test_corpus_info_refusals(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "corpus.yaml").write_text(content)
    with pytest.raises(RecipeError, match=message):
        CorpusInfo.load(tmp_path)
    with pytest.raises(RecipeError, match="stage 1"):
        CorpusInfo.load(tmp_path / "absent")


@pytest.mark.parametrize("place", ["a.wav\nb touch ran |", "a.wav\x0bb", " a.wav", "a.wav ", ""])
def test_a_file_name_cannot_make_lines_of_its_own(tmp_path, place):
    directory = DataDir(wav={"a": place}, speaker={"a": "s"})
    with pytest.raises(RecipeError, match=r"wav\.scp: 'a' is the file .*rename the file"):
        directory.write(tmp_path / "set")
    assert not (tmp_path / "set").exists()
