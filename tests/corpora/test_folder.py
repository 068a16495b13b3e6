"""One's own recordings: any tree in, Kaldi directories out, and everything that would spoil the figures refused."""

import itertools
import os
import re
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from wespeaker_qm.bin.main import main
from wespeaker_qm.corpora.folder.tree import list_recordings
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.trials.lists import Trial, read_trial_table
from wespeaker_qm.trials.score_files import write_scores
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import claim
from wespeaker_qm.utils.tables import read_rows

QUICK = ["--noise", "babble", "--num_babble", "2", "--num_rooms", "2", "--num_workers", "1"]


def read_trials(path: Path) -> list[Trial]:
    return [Trial(enrolment, test, label == "target") for enrolment, test, label in read_rows(path, 3)]


def voice(seed: int, rate: int = 8000, duration_s: float = 0.6) -> np.ndarray:
    """A hum with noise (S,), different for every seed."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(rate * duration_s)) / rate
    return 0.3 * np.sin(2 * np.pi * rng.uniform(100, 300) * time_s) + 0.01 * rng.standard_normal(len(time_s))


def write_m4a(path: Path, wave: np.ndarray, rate: int) -> None:
    """AAC in MP4, the format of VoxCeleb2."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.fixture
def tree(tmp_path):
    """Six speakers with three 8 kHz wav files each."""
    root = tmp_path / "tree"
    for speaker in range(6):
        for number in range(3):
            path = root / f"s{speaker}" / "day1" / f"u{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, voice(10 * speaker + number), 8000)
    return root


@pytest.fixture
def prepare(tmp_path, tree):
    """Run the command on the tree, with further options; returns the folder that it wrote."""

    def run(*options: str, status: int = 0) -> Path:
        data = tmp_path / "data"
        arguments = ["prepare", "--corpus", "egs/folder", "--data", str(data), "--audio_root", str(tree)]
        assert main([*arguments, *QUICK, *options]) == status
        return data

    return run


def test_every_format_rate_and_channel_count(tree, prepare):
    wave = voice(1000, 44100, 1.0)
    mixed = tree / "s0" / "deep" / "er"
    mixed.mkdir(parents=True)
    soundfile.write(mixed / "stereo.WAV", np.stack([wave, voice(1001, 44100, 1.0)], axis=1), 44100)
    soundfile.write(mixed / "a.flac", voice(1002, 16000, 1.0), 16000)
    soundfile.write(mixed / "b.ogg", voice(1003, 22050, 1.0), 22050)
    soundfile.write(mixed / "c.mp3", voice(1004, 32000, 1.0), 32000)
    soundfile.write(mixed / "d.opus", voice(1005, 48000, 1.0), 48000, format="OGG", subtype="OPUS")
    write_m4a(mixed / "e.m4a", voice(1006, 16000, 1.0), 16000)
    data = prepare("--eval_speakers", "s0,s1")
    directory = DataDir.read(data / "eval")
    for name in ("stereo", "a", "b", "c", "d", "e"):
        assert directory.speaker[f"s0-deep-er-{name}"] == "s0"
        assert directory.duration_s[f"s0-deep-er-{name}"] == pytest.approx(1.0, abs=0.15), "codecs pad"
    assert main(["pack", "--data", str(data), "--num_workers", "1"]) == 0
    reader = ShardReader(data / "eval" / "shard.list")
    assert reader.sample_rate == 16000 and len(reader) == len(directory) == 12
    for i, key in enumerate(reader.keys):
        assert reader.num_samples[i] == pytest.approx(16000 * directory.duration_s[key], abs=1)


def test_what_is_written(tree, prepare):
    data = prepare("--eval_speakers", "0.4", "--valid_speakers", "0.5")
    info = CorpusInfo.load(data)
    assert info.sets() == ["train", "eval", "valid", "noise", "rirs"] and info.name == "data"
    sets = {name: DataDir.read(data / name) for name in info.sets()}
    speakers = [set(sets[name].speakers) for name in ("train", "valid", "eval")]
    assert [len(members) for members in speakers] == [2, 2, 2] and len(set.union(*speakers)) == 6
    for name, set_name in (("all", "eval"), ("valid", "valid")):
        trials = read_trials(data / "trials" / name)
        assert Counter(trial.is_target for trial in trials) == {True: 6, False: 9}
        for trial in trials:
            speaker = sets[set_name].speaker
            assert trial.is_target == (speaker[trial.enrolment] == speaker[trial.test])
    assert set(sets["noise"].speaker.values()) == {"speech"} and len(sets["rirs"]) == 2


def test_few_speakers_go_without_validation(prepare):
    info = CorpusInfo.load(prepare())
    assert info.validation is None and info.trials == {"all": "eval"}


def test_the_second_run_skips_and_a_change_runs_again(tree, prepare, capsys):
    data = prepare()
    first = (data / "corpus.yaml").stat().st_mtime_ns
    prepare()
    assert "nothing changed since the last run, skipped" in capsys.readouterr().out
    assert (data / "corpus.yaml").stat().st_mtime_ns == first
    soundfile.write(tree / "s0" / "new.wav", voice(77), 8000)
    prepare()
    assert (data / "corpus.yaml").stat().st_mtime_ns != first
    assert "s0-new" in DataDir.read(data / "train").wav | DataDir.read(data / "eval").wav
    capsys.readouterr()
    prepare("--seed", "7")
    assert "skipped" not in capsys.readouterr().out


def test_a_kaldi_directory_is_no_tree(tree, prepare, capsys):
    """Its segments and speakers would be ignored."""
    (tree / "wav.scp").touch()
    prepare(status=1)
    assert "a Kaldi directory (it has wav.scp), expected a tree" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--audio_root", "--noise"])
@pytest.mark.parametrize(
    ("data", "source"),
    [("tree", "tree"), ("tree/s0/day1", "tree"), ("tree/data/mine", "tree"), ("here", "here/tree"), ("link/x", "tree"),
     ("tree/new", "link"), ("tree/s0/../../tree", "tree")],
)  # fmt: skip
def test_what_is_made_cannot_become_a_speaker_or_a_noise(tree, tmp_path, capsys, option, data, source):
    (tmp_path / "here").mkdir()
    shutil.copytree(tree, tmp_path / "here" / "tree")
    shutil.copytree(tree, tmp_path / "voices")
    (tmp_path / "link").symlink_to(tree)
    files = sorted(tmp_path.rglob("*"))
    arguments = {"--audio_root": str(tmp_path / "voices"), "--noise": "babble", option: str(tmp_path / source)}
    options = [*itertools.chain(*arguments.items()), *QUICK[2:]]
    assert main(["prepare", "--corpus", "egs/folder", "--data", str(tmp_path / data), *options]) == 1
    message = capsys.readouterr().err
    assert f"--data {tmp_path / data}: " in message and f"{option} {tmp_path / source} (" in message
    assert "give another --data" in message
    assert sorted(tmp_path.rglob("*")) == files


def test_downloaded_noises_cannot_become_a_speaker(tree, prepare, capsys):
    prepare("--noise", "debian", "--downloads", str(tree / "downloads"), status=1)
    assert f"--downloads {tree / 'downloads'}: not apart from --audio_root {tree}" in capsys.readouterr().err
    assert not (tree / "downloads").exists()


@pytest.mark.parametrize("noise", ["tree", "tree/s0", "link/s0", "."])
def test_noises_cannot_become_speakers_nor_recordings_noises(tree, prepare, tmp_path, capsys, noise):
    (tmp_path / "link").symlink_to(tree)
    prepare("--noise", str(tmp_path / noise), status=1)
    assert f"--noise {tmp_path / noise}: not apart from --audio_root {tree}" in capsys.readouterr().err


def test_what_stages_have_made_is_no_speaker(tree, tmp_path):
    recordings = list_recordings(tree).recordings
    made = tmp_path / "mine"
    shutil.copytree(tree, made / "wav")
    claim(made, [made / "corpus.yaml"])
    (tree / "more").symlink_to(made)
    listing = list_recordings(tree)
    assert listing.recordings == recordings
    assert listing.others == {"corpora or runs that wespeaker-qm has made": 1}
    assert len(list_recordings(made).recordings) == len(recordings), "where it is asked for"


def test_recordings_may_lie_beside_what_is_made(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "data" / "mine-audio")
    options = ["--audio_root", str(tmp_path / "data" / "mine-audio"), *QUICK]
    assert main(["prepare", "--corpus", "egs/folder", "--data", str(tmp_path / "data" / "mine"), *options]) == 0


@pytest.mark.parametrize("name", ["train/wav.scp", "trials/all", "wav/noise/mine.wav", "corpus.yaml", "bad_audio.tsv"])
def test_a_prepared_folder_of_somebody_else_is_refused(prepare, tmp_path, name, capsys):
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine\n")
    data = prepare(status=1)
    assert "nothing has been touched" in capsys.readouterr().err
    assert [file for file in data.rglob("*") if file.is_file()] == [path]
    assert path.read_text() == "mine\n"


@pytest.mark.parametrize("table", ["train/wav.scp", "eval/utt2spk", "noise/wav.scp"])
def test_a_table_that_was_lost_is_written_again(prepare, table):
    data = prepare()
    content = (data / table).read_text()
    (data / table).unlink()
    prepare()
    assert (data / table).read_text() == content


def test_workers_change_nothing(prepare):
    def contents(data):
        return {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}

    data = prepare("--num_workers", "1")
    alone = contents(data)
    (data / ".done" / "prepare").unlink()
    assert contents(prepare("--num_workers", "2")) == alone


def refusal(capsys, prepare, *options: str) -> str:
    """The message of a run that must fail."""
    data = prepare(*options, status=1)
    assert not (data / "corpus.yaml").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("num_speakers", [1, 3])
def test_too_few_speakers(tmp_path, capsys, num_speakers):
    root = tmp_path / "few"
    for speaker in range(num_speakers):
        (root / f"s{speaker}").mkdir(parents=True)
        for number in range(2):
            soundfile.write(root / f"s{speaker}" / f"{number}.wav", voice(10 * speaker + number), 8000)
    arguments = [
        "prepare",
        "--corpus",
        "egs/folder",
        "--data",
        str(tmp_path / "data"),
        "--audio_root",
        str(root),
        *QUICK,
    ]
    assert main(arguments) == 1
    assert f"{num_speakers} speaker{'s' * (num_speakers != 1)} found (s0" in capsys.readouterr().err


def test_an_empty_tree(tmp_path, capsys):
    (tmp_path / "empty" / "s0").mkdir(parents=True)
    (tmp_path / "empty" / "s0" / "a.txt").write_text("x")
    arguments = ["prepare", "--corpus", "egs/folder", "--data", str(tmp_path / "data"), *QUICK]
    assert main([*arguments, "--audio_root", str(tmp_path / "empty")]) == 1
    message = capsys.readouterr().err
    assert "0 speakers found" in message and "1 .txt" in message and "1 folder holds no recording: s0" in message
    assert main([*arguments, "--audio_root", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main(arguments) == 1
    assert "give --audio_root" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("s0", "1 speaker to evaluate (s0)"),
        ("s0,s1,s2,s3,s4", "1 speaker to train on (s5)"),
        ("s0,anna", "anna is not among the 6 speakers"),
        ("1.5", "expected how many (a whole number of at least 2), a fraction between 0 and 1, names separated by"),
        ("1", "1 speaker to evaluate (s"),
        ("5", "1 speaker to train on (s"),
        ("7", "--eval_speakers 7 asks for 7 speakers, but only 6 have the two recordings"),
        ("s0,alone", "1 speaker has one recording only, and a target trial needs two: alone"),
    ],
)
def test_impossible_evaluations(tree, prepare, capsys, choice, expected):
    if "alone" in choice:
        (tree / "alone").mkdir()
        soundfile.write(tree / "alone" / "a.wav", voice(99), 8000)
    assert expected in refusal(capsys, prepare, "--eval_speakers", choice)


def test_a_draw_passes_over_speakers_with_one_recording(tree, prepare):
    (tree / "alone").mkdir()
    soundfile.write(tree / "alone" / "a.wav", voice(99), 8000)
    for seed in range(4):
        data = prepare("--eval_speakers", "0.6", "--seed", str(seed))
        assert "alone" in DataDir.read(data / "train").speakers


def test_a_draw_that_needs_speakers_with_one_recording(tree, prepare, capsys):
    for number in range(4):
        (tree / f"alone{number}").mkdir()
        soundfile.write(tree / f"alone{number}" / "a.wav", voice(99 + number), 8000)
    message = refusal(capsys, prepare, "--eval_speakers", "0.8")
    assert "asks for 8 speakers, but only 6" in message and "alone0, alone1, alone2, alone3" in message


def test_eval_speakers_from_a_file(tree, prepare, tmp_path):
    (tree / "s0").rename(tree / "Anna B.")
    names = tmp_path / "names"
    names.write_text("Anna B.\ns1\n\n")
    assert DataDir.read(prepare("--eval_speakers", str(names)) / "eval").speakers == ["Anna_B.", "s1"]


def test_bad_audio_is_listed_and_counted(tree, prepare, capsys):
    folder = tree / "s0" / "day1"
    (folder / "u0.wav").write_bytes(b"this is no audio")
    soundfile.write(folder / "u1.wav", np.zeros(8000), 8000)
    soundfile.write(tree / "s1" / "day1" / "u0.wav", voice(1, duration_s=0.2), 8000)
    (tree / "s1" / "day1" / "u1.wav").write_bytes(b"")
    message = refusal(capsys, prepare)
    list_path = tree.parent / "data" / "bad_audio.tsv"
    assert f"{list_path}: 4 of 18" in message and "--max_bad_fraction 0.223" in message and "s0-day1-u0" in message
    reasons = {row.split("\t")[0]: row.split("\t")[2] for row in list_path.read_text().splitlines()[1:]}
    for key, reason in [
        ("s0-day1-u0", "cannot be decoded"), ("s0-day1-u1", "silent"), ("s1-day1-u0", "too short: 0.200 s"),
        ("s1-day1-u1", "empty (0 bytes)"),
    ]:  # fmt: skip
        assert reason in reasons[key]

    data = prepare("--max_bad_fraction", "0.223", "--eval_speakers", "s2,s3")
    assert not set(reasons) & set(DataDir.read(data / "train").wav)
    assert "4 of 18 recordings are left out" in capsys.readouterr().err
    # What is left out may leave a speaker with one recording.
    assert "one recording only, and a target trial needs two: s0, s1" in refusal(
        capsys, prepare, "--max_bad_fraction", "0.223", "--eval_speakers", "s0,s1"
    )


def test_the_same_audio_under_two_speakers(tree, prepare, capsys):
    wave, rate = soundfile.read(tree / "s0" / "day1" / "u0.wav", dtype="int16")
    soundfile.write(tree / "s1" / "copy.flac", wave, rate)
    message = refusal(capsys, prepare, "--max_bad_fraction", "1")
    assert "1 pair of files holds the same audio under two speakers" in message
    for path in ("s0/day1/u0.wav", "s1/copy.flac"):
        assert (
            str(tree / path) in message and str(tree / path) in (tree.parent / "data" / "shared_audio.tsv").read_text()
        )


def test_the_same_audio_twice_under_one_speaker(tree, prepare, capsys):
    (tree / "s0" / "again.wav").write_bytes((tree / "s0" / "day1" / "u0.wav").read_bytes())
    assert "the same audio as" in refusal(capsys, prepare)
    data = prepare("--max_bad_fraction", "0.1")
    assert sum(len(DataDir.read(data / name)) for name in ("train", "eval")) == 18


def test_names_become_keys(tree):
    (tree / "Jörg M.").mkdir()
    soundfile.write(tree / "Jörg M." / "hello (2).wav", voice(5), 8000)
    keys = {recording.key: recording for recording in list_recordings(tree).recordings}
    assert keys["Jörg_M.-hello__2_"].speaker == "Jörg_M."
    assert keys["s0-day1-u0"].path == str(tree / "s0" / "day1" / "u0.wav")


def test_colliding_names(tree, prepare, capsys):
    soundfile.write(tree / "s0" / "day1" / "u0.flac", voice(5), 8000)
    message = refusal(capsys, prepare)
    assert "u0.flac and" in message and "would both get the key 's0-day1-u0'" in message
    (tree / "s0" / "day1" / "u0.flac").unlink()
    for name in ("a b", "a_b"):
        (tree / name).mkdir()
        soundfile.write(tree / name / f"{len(name)}{name}.wav", voice(5), 8000)
    assert "'a b' and 'a_b' would both be speaker 'a_b'" in refusal(capsys, prepare)


def test_names_that_are_not_text(tree, prepare, capsys):
    soundfile.write(tree / "s0" / "a\nb.wav", voice(5), 8000)
    assert "control characters, or bytes that are not UTF-8; rename" in refusal(capsys, prepare)


@pytest.mark.parametrize("name", [b"Jos\xe9", b"tab\there", b"bell\x07", b"next\xc2\x85line"])
def test_names_without_a_text_are_refused(tree, name):
    folder = os.fsencode(tree) + b"/" + name
    os.mkdir(folder)
    shutil.copy(tree / "s0" / "day1" / "u0.wav", os.fsdecode(folder + b"/1.wav"))
    with pytest.raises(RecipeError, match="control characters, or bytes that are not UTF-8; rename"):
        list_recordings(tree)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Jose\u0301", "José"),  # as macOS writes it
        ("José", "José"),
        ("Bildschirmfoto 10.15.30\u202fPM", "Bildschirmfoto_10.15.30_PM"),
        ("no\xa0break\u3000wide\u2028line", "no_break_wide_line"),
        ("हिन्दी", "हिन्दी"),  # vowel signs and virama are marks
        ("กำลัง", "กำลัง"),
        ("شَدَّة", "شَدَّة"),
        ("가나", "가나"),
        ("\u1100\u1161", "가"),
        ("王小明", "王小明"),
        ("g\u0303a", "g\u0303a"),  # no letter of its own
        ("left\u200eto\u200dright", "left_to_right"),
        ("smile \U0001f600", "smile__"),
        ("a:b#c", "a_b_c"),
        ("-rf", "-rf"),
        ("007", "007"),
        ("1e5", "1e5"),
        ("a+b=c@d.e-f_g", "a+b=c@d.e-f_g"),  # keys of ASCII are what they were
    ],
)
def test_names_of_all_scripts_are_keys_that_tables_read_back(tree, tmp_path, name, key):
    folder = tree / name / name
    folder.mkdir(parents=True)
    shutil.copy(tree / "s0" / "day1" / "u0.wav", folder / f"{name}.wav")
    (found,) = [each for each in list_recordings(tree).recordings if each.path == str(folder / f"{name}.wav")]
    assert (found.speaker, found.key) == (key, f"{key}-{key}-{key}")
    directory = DataDir(wav={found.key: found.path}, speaker={found.key: found.speaker})
    directory.write(tmp_path / "set")
    assert DataDir.read(tmp_path / "set") == directory


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [("Jose\u0301", "José", True), ("a b", "a\u202fb", True), ("a:b", "a#b", False)],
)
def test_two_names_of_one_key_are_told_apart(tree, one, other, is_alike):
    """Where they look the same, by what they are in ASCII."""
    for name in (one, other):
        (tree / name).mkdir()
        shutil.copy(tree / "s0" / "day1" / "u0.wav", tree / name / f"{len(name)}.wav")
    with pytest.raises(RecipeError, match=r"would both be speaker .*; rename one") as caught:
        list_recordings(tree)
    names = str(caught.value).split("the folders ")[1].split(" would both")[0].split(" and ")
    assert sorted(names) == sorted([ascii(one), ascii(other)] if is_alike else [repr(one), repr(other)])
    (tree / other).rename(tree / "elsewhere")
    for name in (one, other):
        (tree / "s0" / name).with_suffix(".wav").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"would both get the key .*; rename one"):
        list_recordings(tree)


def test_speakers_are_named_in_either_spelling(tree, prepare):
    (tree / "s5").rename(tree / "Jose\u0301")
    (tree / "s4").rename(tree / "Zoe\u0308")
    data = prepare("--eval_speakers", "José,Zoe\u0308")
    assert set(DataDir.read(data / "eval").speaker.values()) == {"José", "Zoë"}


def test_other_files_are_counted(tree, prepare, capsys):
    (tree / "s0" / "notes.txt").write_text("x")
    (tree / "s0" / ".hidden.wav").write_text("x")
    (tree / "README").write_text("x")
    soundfile.write(tree / "loose.wav", voice(5), 8000)
    prepare()
    message = capsys.readouterr().err
    assert "4 other files are left alone: 1 .txt, 1 audio that is in no speaker's folder, 1 hidden" in message
    assert "1 without extension" in message


def test_links_are_followed_once(tree):
    before = len(list_recordings(tree).recordings)
    elsewhere = tree.parent / "elsewhere"
    elsewhere.mkdir()
    soundfile.write(elsewhere / "a.wav", voice(5), 8000)
    (tree / "linked").symlink_to(elsewhere)
    (tree / "s0" / "loop").symlink_to(tree)
    assert len(list_recordings(tree).recordings) == before + 1


def test_a_tree_of_noises(tree, prepare, tmp_path, capsys):
    for name in ("noise/free/n.wav", "music/m.wav", "speech/s.wav"):
        (tmp_path / "musan" / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / "musan" / name, voice(len(name), duration_s=12.0), 8000)
    data = prepare("--noise", str(tmp_path / "musan"))
    assert Counter(DataDir.read(data / "noise").speaker.values()) == {"noise": 1, "music": 1, "speech": 2}
    prepare("--noise", "nowhere", status=1)
    assert "no such folder; expected 'debian', 'babble'" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    prepare("--noise", str(tmp_path / "nothing"), status=1)
    assert "no audio files" in capsys.readouterr().err


def test_corpus_yaml_gives_defaults(tree, tmp_path, capsys):
    recipe = tmp_path / "egs" / "mine"
    recipe.mkdir(parents=True)
    settings = {"kind": "folder", "audio_root": str(tree), "eval_speakers": ["s0", "s1"], "noise": "babble"}
    arguments = ["prepare", "--corpus", str(recipe), "--data", str(tmp_path / "data"), *QUICK[2:]]
    (recipe / "corpus.yaml").write_text(yaml.safe_dump(settings))
    assert main(arguments) == 0
    assert DataDir.read(tmp_path / "data" / "eval").speakers == ["s0", "s1"]
    (recipe / "corpus.yaml").write_text(yaml.safe_dump({**settings, "audio_rot": "x"}))
    assert main(arguments) == 1
    assert "unknown key 'audio_rot'; nearest: audio_root" in capsys.readouterr().err


def test_prepare_refuses_an_unknown_recipe(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--corpus", str(tmp_path)])
    assert stopped.value.code == 1 and "egs/folder, egs/mini" in capsys.readouterr().err
    (tmp_path / "corpus.yaml").write_text("kind: voxceleb9\n")
    with pytest.raises(SystemExit):
        main(["prepare", "--corpus", str(tmp_path)])
    assert "kind is 'voxceleb9', expected one of mini, folder" in capsys.readouterr().err


def test_help_shows_the_options_of_the_corpus(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--help", "--corpus", "egs/folder"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--audio_root" in text and "--deb_dir" not in text


def test_a_number_is_how_many_speakers(tree, prepare):
    data = prepare("--eval_speakers", "2", "--valid_speakers", "2")
    sizes = {name: len(DataDir.read(data / name).speakers) for name in ("eval", "valid", "train")}
    assert sizes == {"eval": 2, "valid": 2, "train": 2}


def test_so_many_as_there_are_not_are_not_set_aside_in_silence(tree, prepare, capsys):
    message = refusal(capsys, prepare, "--eval_speakers", "2", "--valid_speakers", "3")
    assert "--valid_speakers 3: of the 4 speakers who are not evaluated 4 have" in message
    assert "give 2, or add speakers" in message
    prepare("--eval_speakers", "2", "--valid_speakers", "2")


def test_speakers_called_by_numbers_are_named_together(tree, prepare, capsys):
    for number, name in enumerate(("2", "1e5", "null", "1of5", "all", "0.5")):
        (tree / f"s{number}").rename(tree / name)
    assert DataDir.read(prepare("--eval_speakers", "2,all") / "eval").speakers == ["2", "all"]
    assert DataDir.read(prepare("--eval_speakers", "1e5,null,1of5,0.5") / "eval").speakers == [
        "0.5", "1e5", "1of5", "null"
    ]  # fmt: skip
    assert len(DataDir.read(prepare("--eval_speakers", "2") / "eval").speakers) == 2
    (tree / "2").rename(tree / "9")
    prepare("--eval_speakers", "9", status=1)
    assert "for the speaker 9 name others, too, with commas" in capsys.readouterr().err


def spoil(folder):
    """Files that no decoder can be trusted with, in a speaker's folder; returns key -> part of the reason."""
    flac = folder / "promises.flac"
    soundfile.write(flac, voice(500), 8000)
    content = bytearray(flac.read_bytes())
    content[21], content[22:26] = content[21] | 0x0F, bytes(4 * [0xFF])  # 2^36 - 1 samples
    flac.write_bytes(content)
    for number, rate in enumerate((999_983, 191_999)):
        soundfile.write(folder / f"rate{number}.wav", voice(501 + number, 48000), rate)
    soundfile.write(folder / "wide.wav", np.tile(voice(503)[:, None], 100), 8000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(4800) == 77, np.nan, voice(504)), 8000, subtype="FLOAT")
    os.mkfifo(folder / "pipe.wav")
    (folder / "gone.wav").symlink_to(folder / "nothing.wav")
    (folder / "circle.wav").symlink_to(folder / "circle.wav")
    return {
        "promises": "of 68719476735 samples can be decoded",
        "rate0": "sample rate 999983 Hz, expected 1000 to 768000",
        "rate1": "sample rate 191999 Hz, which is to 16000 Hz as 191999 to 16000",
        "wide": "100 channels, expected at most 64",
        "nan": "not a number",
        "pipe": "is a pipe, a socket or a device",
        "gone": "no such file",
        "circle": "Too many levels of symbolic links",
    }


def test_what_no_decoder_takes_is_listed_and_the_rest_is_prepared(tree, prepare):
    """With a FLAC and a WAV that were written to a pipe, which do not know their length, and are read."""
    folder = tree / "s0" / "day1"
    reasons = {f"s0-day1-{name}": reason for name, reason in spoil(folder).items()}
    for name, container in (("piped.flac", "FLAC"), ("piped.wav", "WAV")):
        soundfile.write(folder / name, voice(len(name)), 8000, format=container)
        content = bytearray((folder / name).read_bytes())
        if container == "FLAC":
            content[21], content[22:26] = content[21] & 0xF0, bytes(4)
        else:
            content[40:44] = bytes(4 * [0xFF])
        (folder / name).write_bytes(content)
        (folder / name).rename(folder / f"{container}-{name}")
    data = prepare("--max_bad_fraction", "0.5")
    rows = [row.split("\t") for row in (data / "bad_audio.tsv").read_text().splitlines()[1:]]
    assert {key for key, _, _ in rows} == set(reasons)
    for key, _, reason in rows:
        assert reasons[key] in reason
    prepared = set().union(
        *(DataDir.read(data / name).wav for name in ("train", "valid", "eval") if (data / name).exists())
    )
    assert len(prepared) == 20
    assert {"s0-day1-FLAC-piped", "s0-day1-WAV-piped"} <= prepared


def test_noises_that_cannot_be_read_are_listed_like_recordings(tree, prepare, tmp_path, capsys):
    folder = tmp_path / "noises"
    folder.mkdir()
    soundfile.write(folder / "good.wav", 0.1 * np.random.default_rng(3).standard_normal(40000), 8000)
    (folder / "bad.wav").write_bytes(b"no audio")
    prepare("--noise", str(folder), status=1)
    assert "bad_noise.tsv: 1 of 2 recordings cannot be used" in capsys.readouterr().err
    data = prepare("--noise", str(folder), "--max_bad_fraction", "0.5")
    assert "noise-0000" in DataDir.read(data / "noise").wav
    assert f"noise\t{folder / 'bad.wav'}\tcannot be decoded" in (data / "bad_noise.tsv").read_text()


def test_few_speakers_are_told_and_what_is_recommended_works(tree, prepare, tmp_path, capsys):
    """A quarter of six speakers are two."""
    prepare()
    said = capsys.readouterr().err
    assert "2 speakers to evaluate are too few to tell how others fare" in said
    assert "--eval_speakers 1of3 to 3of3 evaluate all in turns" in said
    assert "--eval_speakers all evaluates all with a finished model (run.sh --model)" in said
    assert "--eval_speakers 0." not in said  # of six speakers nobody would be left to train on
    assert len(DataDir.read(prepare("--eval_speakers", "all") / "eval").speakers) == 6
    assert "too few" not in capsys.readouterr().err
    shutil.copytree(tree / "s0", tree / "s6")
    for path in (tree / "s6").rglob("*.wav"):
        soundfile.write(path, voice(int(path.stem[1:]) + 60), 8000)
    prepare("--eval_speakers", "s0,s1")
    (proposed,) = re.findall(r"--eval_speakers (0\.\d+) evaluates 5", capsys.readouterr().err)
    assert len(DataDir.read(prepare("--eval_speakers", proposed) / "eval").speakers) == 5
    assert "too few" not in capsys.readouterr().err


def test_the_trials_of_all_parts_are_put_together_as_the_readme_says(prepare, tmp_path, capsys):
    rng = np.random.default_rng(0)
    scores, speakers = tmp_path / "calls.score", tmp_path / "calls.utt2spk"
    for part in ("1of3", "2of3", "3of3"):
        data = prepare("--eval_speakers", part)
        table = read_trial_table(data / "trials" / "all")
        one = tmp_path / f"{part}.asnorm.score"
        write_scores(one, table, table.is_target + rng.standard_normal(len(table)))
        for source, target in ((one, scores), (data / "eval" / "utt2spk", speakers)):
            with target.open("a") as handle:
                handle.write(source.read_text())
    assert main(["metrics", str(scores), "--utt2spk", str(speakers), "--num_resamples", "20"]) == 0
    assert "18 target and 27 non-target trials of 18 utterances by 6 speakers" in capsys.readouterr().out


def test_all_may_be_evaluated_and_nothing_is_made_for_a_training(tree, prepare, tmp_path, capsys):
    """Neither of noises that are not there; a speaker with one recording is an impostor."""
    for path in list((tree / "s4").rglob("*.wav"))[1:]:
        path.unlink()
    nowhere = ["--noise", str(tmp_path / "no noises")]
    data = prepare("--eval_speakers", "all", *nowhere)
    info = CorpusInfo.load(data)
    assert info.sets() == ["eval"] and info.train is None
    assert len(DataDir.read(data / "eval").speakers) == 6
    assert Counter(trial.is_target for trial in read_trials(data / "trials" / "all")) == {True: 15, False: 105}
    assert not (data / "wav").exists()
    assert main(["pack", "--data", str(data), "--num_workers", "1"]) == 0
    capsys.readouterr()
    prepare("--eval_speakers", "all", *nowhere)
    assert "nothing changed since the last run, skipped" in capsys.readouterr().out
    prepare("--eval_speakers", "s0,s1,s2,s3,s4,s5", status=1)  # by name they are meant to have target trials
    assert "s4" in capsys.readouterr().err
    soundfile.write(tree / "s4" / "second.wav", voice(99), 8000)
    named = CorpusInfo.load(prepare("--eval_speakers", "s0,s1,s2,s3,s4,s5", *nowhere))
    assert named == info


@pytest.mark.parametrize("table", ["eval/utt2spk", "eval/wav.scp", "train/utt2dur"])
@pytest.mark.parametrize("content", [b"", b"s0-day1-u0 s0\n"])
def test_what_the_message_of_a_damaged_table_recommends_works(prepare, capsys, table, content):
    """Stage 1 finds its tables and is skipped, unless the one that is named is deleted."""
    data = prepare()
    path = data / table
    path.write_bytes(content)
    pack = ["pack", "--data", str(data), "--num_workers", "1"]
    if main(pack) == 0:
        assert table == "train/utt2dur" and not content  # as if there were none
        return
    message = capsys.readouterr().err
    assert str(path) in message
    (named,) = re.findall(r"delete (\S+) and prepare the data again \(run\.sh --stage 1\)", message)
    (path if named == "it" else Path(named)).unlink()
    prepare()
    assert main(pack) == 0


def test_a_lost_trial_list_is_made_again(prepare):
    data = prepare()
    whole = (data / "trials" / "all").read_bytes()
    (data / "trials" / "all").unlink()
    prepare()
    assert (data / "trials" / "all").read_bytes() == whole
