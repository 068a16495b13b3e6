"""egs/mini in miniature: its tables are checked as they are, building is tested on packages made here."""

import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from wespeaker_qm.audio.channel import apply_channel, draw_channel
from wespeaker_qm.audio.io import read_audio
from wespeaker_qm.corpora.debian.packages import read_packages
from wespeaker_qm.corpora.mini.prepare import check_counts, prepare
from wespeaker_qm.corpora.mini.settings import MiniSettings
from wespeaker_qm.corpora.mini.tables import CHANNEL, CHANNEL_SETS, SETS, choose_packages, read_sessions
from wespeaker_qm.corpora.settings import read_settings
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.trials.lists import Trial
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import sha256_of
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.tables import read_map, read_rows, read_tsv

RECIPE_DIR = Path(__file__).parents[2] / "egs" / "mini"

SETTINGS: dict[str, Any] = {
    "kind": "mini",
    "name": "mini",
    "description": "tones",
    "caveat": "not voices",
    "validation_speakers": ["v1", "v2"],
    "max_utterances_per_speaker": 4,
    "max_eval_utterances_per_session": 3,
    "num_babble": 2,
    "num_rooms": 2,
}
# Speaker, gender, language, package, split, confidence: what the rules below are about.
ROWS = [
    ("t1", "M", "en", "voices", "train", "high"),
    ("t2", "?", "en", "voices", "train", "high"),
    ("v1", "F", "en", "voices", "train", "high"),
    ("v2", "F", "en", "voices", "train", "high"),
    ("e1", "F", "en", "voices", "eval", "high"),
    ("e1", "F", "it", "others", "eval", "high: documented"),
    ("e2", "F", "en", "voices", "eval", "high"),
    ("e3", "F", "en", "others", "eval", "high"),
    ("e4", "M", "en", "voices", "eval", "high"),
    ("e5", "?", "en", "voices", "eval", "high"),
    ("e2", "F", "it", "others", "eval", "LOW: perhaps somebody else"),
    ("d1", "M", "en", "voices", "drop(<20 s)", "high"),
]
CLIPS_A_ROW = 24


def read_trials(path: Path) -> list[Trial]:
    return [Trial(enrolment, test, label == "target") for enrolment, test, label in read_rows(path, 3)]


def encode(waveform: np.ndarray, sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format="WAV")
    return buffer.getvalue()


def write_deb(path: Path, files: dict[str, bytes]) -> None:
    def archive(content: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()

    with path.open("wb") as handle:
        handle.write(b"!<arch>\n")
        members = {"debian-binary": b"2.0\n", "control.tar.gz": archive({}), "data.tar.gz": archive(files)}
        for name, data in members.items():
            handle.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
            handle.write(data + b"\n" * (len(data) % 2))


def clip(speaker: str, number: int, sample_rate: int) -> np.ndarray:
    """A second of a speaker's own tone between silences; no two clips are alike."""
    rng = np.random.default_rng([*speaker.encode(), number])
    time_s = np.arange(sample_rate) / sample_rate
    sound = 0.3 * np.sin(2 * np.pi * (200 + 37 * number) * time_s) + 0.01 * rng.standard_normal(sample_rate)
    return np.concatenate([np.zeros(sample_rate // 2), sound, np.zeros(sample_rate // 2)]).astype(np.float32)


@pytest.fixture(scope="module")
def recipe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's tables, and its packages in ``debs``."""
    root = tmp_path_factory.mktemp("recipe")
    files: dict[str, dict[str, bytes]] = {"voices": {}, "others": {}, "sounds": {}}
    manifest, speakers = [], ["spk\tgender\tlanguage\tpackage\tsplit\tlabel_confidence"]
    for speaker, gender, language, package, split, confidence in ROWS:
        speakers.append("\t".join((speaker, gender, language, package, split, confidence)))
        for number in range(CLIPS_A_ROW):
            path = f"{language}/{speaker} {number:02d}.wav"
            rate = 8000 if package == "others" else 22050
            files[package][f"./usr/{path}"] = encode(clip(speaker + language, number, rate), rate)
            manifest.append(f"{speaker}\t{package}\tusr\t{path}")
    rng = np.random.default_rng(0)
    for name, duration_s in {"music/tune": 12, "bang": 4, "speech/elk": 4}.items():
        files["sounds"][f"./usr/{name}.wav"] = encode(0.1 * rng.standard_normal(8000 * duration_s), 8000)
    debs = root / "debs"
    debs.mkdir()
    packages = ["package\tversion\tdownload\tsha256"]
    for package, content in files.items():
        deb = debs / f"{package}_1.0_all.deb"
        write_deb(deb, content)
        packages.append(f"{package}\t1.0\t0.1MB\t{sha256_of(deb)}")
    noise = [
        "package\troot\tinclude_regex\texclude_regex\tcategory",
        "sounds\tusr\t^music/\t\tmusic",
        "sounds\tusr\t\\.wav$\t^(music|speech)/\tnoise",
    ]
    for name, lines in {"manifest": manifest, "speakers": speakers, "packages": packages, "noise": noise}.items():
        (root / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "corpus.yaml").write_text(yaml.safe_dump(SETTINGS))
    return root


def build(recipe_dir: Path, data_dir: Path, num_workers: int = 1, **settings: Any) -> CorpusInfo:
    places = {"downloads": data_dir.parent / "downloads", "deb_dir": recipe_dir / "debs"}
    chosen = read_settings(MiniSettings, recipe_dir, {**places, **settings})
    prepare(chosen, data=DataFolder(data_dir), recipe_dir=recipe_dir, num_workers=num_workers)
    return CorpusInfo.load(data_dir)


@pytest.fixture(scope="module")
def built(recipe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("built") / "data"
    build(recipe_dir, data_dir)
    return data_dir


def test_sets_hold_the_right_speakers(built: Path) -> None:
    sets = {name: DataDir.read(built / name) for name in SETS}
    assert {name: directory.speakers for name, directory in sets.items()} == {
        "train": ["t1", "t2"],
        "valid": ["v1", "v2"],
        "eval": ["e1", "e2", "e3", "e4", "e5"],
    }
    assert sets["eval"].gender == {"e1": "f", "e2": "f", "e3": "f", "e4": "m", "e5": "u"}
    for directory in sets.values():
        for key, path in directory.wav.items():
            assert key.startswith(directory.speaker[key] + "-"), "Kaldi sorts by key and by speaker alike"
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert info.frames / 16000 == pytest.approx(directory.duration_s[key], abs=1e-4)
            assert 3.5 <= info.frames / 16000 <= 6.001
            waveform, _ = read_audio(path)
            assert np.mean(np.abs(waveform) < 1e-3) < 0.3, "the silence around the clips is gone"


def test_limits_and_sessions(built: Path) -> None:
    train, evaluation = DataDir.read(built / "train"), DataDir.read(built / "eval")
    assert [list(train.speaker.values()).count(speaker) for speaker in train.speakers] == [4, 4]
    sessions = list(evaluation.session.values())
    assert {name: sessions.count(name) for name in set(sessions)} == {
        "e1-en": 2, "e1-it": 2, "e2-en": 3, "e3-en": 3, "e4-en": 3, "e5-en": 3,
    }  # fmt: skip
    package = read_map(built / "eval" / "utt2package")
    assert {package[key] for key, session in evaluation.session.items() if session == "e1-it"} == {"others"}


def test_trial_lists_follow_their_rules(built: Path) -> None:
    info = CorpusInfo.load(built)
    assert info.headline == "same_package_gender_channel"
    assert info.trials == {
        "same_package_gender_channel": "eval_channel",
        "same_package_gender": "eval",
        "same_gender": "eval",
        "all": "eval",
        "cross_session": "eval",
    }
    assert info.sets() == ["train", "eval_channel", "eval", "valid_channel", "noise", "rirs"]
    directory = DataDir.read(built / "eval")

    def impostors(name: str) -> set[frozenset[str]]:
        trials = [trial for trial in read_trials(built / "trials" / name) if not trial.is_target]
        return {frozenset((directory.session[trial.enrolment], directory.session[trial.test])) for trial in trials}

    def pairs(*names: str) -> set[frozenset[str]]:
        return {frozenset(name.split()) for name in names}

    assert impostors("same_package_gender") == pairs("e1-en e2-en", "e1-it e3-en")
    women = pairs("e1-en e2-en", "e1-it e2-en", "e1-en e3-en", "e1-it e3-en", "e2-en e3-en")
    assert impostors("same_gender") == impostors("cross_session") == women
    assert len(impostors("all")) == 5 * 6 // 2 - 1

    targets = {name: {t for t in read_trials(built / "trials" / name) if t.is_target} for name in info.trials}
    assert len(targets["all"]) == 4 * 3 // 2 + 4 * 3
    assert len(targets["cross_session"]) == 4

    def of_speakers(*speakers: str) -> set[Trial]:
        return {trial for trial in targets["all"] if directory.speaker[trial.enrolment] in speakers}

    # e4, the only man, and e5, of unsure gender, have no impostors there.
    assert targets["same_package_gender"] == targets["same_gender"] == of_speakers("e1", "e2", "e3")
    valid = read_trials(built / "trials" / "valid")
    assert (sum(trial.is_target for trial in valid), len(valid)) == (2 * 6, 2 * 6 + 4 * 4)


def test_every_target_speaker_has_impostors(built: Path) -> None:
    for name, folder in [*CorpusInfo.load(built).trials.items(), ("valid", "valid")]:
        speaker = DataDir.read(built / folder).speaker
        trials = read_trials(built / "trials" / name)
        targets = {speaker[trial.enrolment] for trial in trials if trial.is_target}
        assert targets and targets <= {speaker[key] for trial in trials if not trial.is_target for key in trial[:2]}


@pytest.mark.parametrize(("name", "trial_list"), [("eval", "same_package_gender"), ("valid", "valid")])
def test_each_recording_has_a_channel_of_its_own(built: Path, name: str, trial_list: str) -> None:
    lists = [built / "trials" / each for each in (trial_list, trial_list + CHANNEL)]
    assert lists[0].read_bytes() == lists[1].read_bytes(), "the same trials"
    clean, other = DataDir.read(built / name), DataDir.read(built / CHANNEL_SETS[name])
    assert (clean.speaker, clean.gender, clean.session) == (other.speaker, other.gender, other.session)
    assert clean.duration_s == other.duration_s
    assert read_map(built / name / "utt2package") == read_map(built / CHANNEL_SETS[name] / "utt2package")
    responses = []
    for key, path in clean.wav.items():
        (sent, rate), (received, _) = read_audio(path), read_audio(other.wav[key])
        channel_rng = np.random.default_rng([MiniSettings.seed, *key.encode()])
        expected = apply_channel(sent, draw_channel(channel_rng, rate), rate, channel_rng)
        np.testing.assert_array_equal(received, expected, err_msg=key)
        ratio = np.abs(np.fft.rfft(received, 1 << 17)) / (np.abs(np.fft.rfft(sent, 1 << 17)) + 1e-6)
        octaves = np.array_split(20 * np.log10(ratio[1000:60000] + 1e-9), 16)
        responses.append(np.array([np.median(band) for band in octaves]))
    for first, response in enumerate(responses):
        for another in responses[:first]:
            difference = response - another
            assert difference.std() > 0.2, "two recordings have one channel"


def test_another_seed_gives_other_channels(recipe_dir: Path, built: Path, tmp_path: Path) -> None:
    build(recipe_dir, tmp_path / "data", seed=43)
    for name, is_same in (("eval", True), ("eval_channel", False)):
        before, after = (
            [sha256_of(Path(path)) for path in DataDir.read(data / name).wav.values()]
            for data in (built, tmp_path / "data")
        )
        assert [one == other for one, other in zip(before, after, strict=True)] == [is_same] * len(before)


def test_noise_holds_no_speech_clips(built: Path) -> None:
    noise = DataDir.read(built / "noise")
    categories = list(noise.speaker.values())
    assert {name: categories.count(name) for name in set(categories)} == {"noise": 1, "music": 1, "speech": 2}
    assert noise.duration_s["noise-0000"] == pytest.approx(4.0)
    assert len(DataDir.read(built / "rirs")) == 2


def test_the_result_does_not_depend_on_the_number_of_workers(recipe_dir: Path, built: Path, tmp_path: Path) -> None:
    build(recipe_dir, tmp_path / "data", num_workers=2)
    assert (tmp_path / "data" / "audio.sha256").read_text() == (built / "audio.sha256").read_text()
    for path in (built / "trials").iterdir():
        assert (tmp_path / "data" / "trials" / path.name).read_bytes() == path.read_bytes()
    digest, name = read_rows(built / "audio.sha256", 2)[0]
    assert digest == sha256_of(built / name)


def test_a_second_preparation_removes_its_own_recordings_only(recipe_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    build(recipe_dir, data)
    checksums = (data / "audio.sha256").read_text()
    for name in ("wav/train/mine.wav", "trials/mine", "wav/train/old.wav"):
        (data / name).touch()
    (data / "audio.sha256").write_text(f"{checksums}{'0' * 64}  wav/train/old.wav\n")
    build(recipe_dir, data, description="the same audio")
    assert (data / "audio.sha256").read_text() == checksums
    assert (data / "wav" / "train" / "mine.wav").exists() and (data / "trials" / "mine").exists()
    assert not (data / "wav" / "train" / "old.wav").exists()


def test_few_speakers_are_told_with_the_option_that_helps(
    recipe_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(recipe_dir, tmp_path / "data", packages="voices")
    assert "4 speakers to evaluate are too few to tell how others fare" in caplog.text
    assert "take more packages (--packages)" in caplog.text
    caplog.clear()
    build(recipe_dir, tmp_path / "more")
    assert "too few" not in caplog.text


def test_a_subset_of_packages_leaves_lists_out(recipe_dir: Path, tmp_path: Path) -> None:
    info = build(recipe_dir, tmp_path / "data", packages="voices")
    assert list(info.trials) == ["same_package_gender_channel", "same_package_gender", "same_gender", "all"]
    assert set(DataDir.read(tmp_path / "data" / "noise").speaker.values()) == {"speech"}
    with pytest.raises(RecipeError, match=r"hold 0 speakers for train.*--packages"):
        build(recipe_dir, tmp_path / "data", packages="others")


def test_missing_files_are_tolerated_up_to_a_twentieth(recipe_dir: Path, tmp_path: Path) -> None:
    build(recipe_dir, tmp_path / "data", num_rooms=1)
    roots = {name: tmp_path / "downloads" / "unpacked" / name for name in ("voices", "others")}
    files = sorted(roots["others"].rglob("*.wav"))
    for path in files[:3]:
        path.unlink()
    sessions = read_sessions(recipe_dir, roots)
    assert sum(len(session.clips) for session in sessions if session.package == "others") == 2 * CLIPS_A_ROW - 3
    files[3].unlink()
    with pytest.raises(RecipeError, match=r"only 68 of the 72 files.*95%"):
        read_sessions(recipe_dir, roots)


def test_the_remedy_for_clips_that_cannot_be_used_works(recipe_dir: Path, tmp_path: Path) -> None:
    build(recipe_dir, tmp_path / "data", num_rooms=1)
    unpacked = tmp_path / "downloads" / "unpacked"
    for path in sorted((unpacked / "voices").rglob("t1 *.wav"))[:20]:
        path.write_bytes(b"RIFF")
    with pytest.raises(RecipeError, match=r"20 of \d+ recordings cannot be used") as error:
        build(recipe_dir, tmp_path / "data", num_rooms=2)
    options = set(re.findall(r"--(\w+)", str(error.value)))
    assert options == {"packages", "prepare_opts"}, "options that the corpus, or run.sh, has"
    assert f"Remove {unpacked} and run again" in str(error.value)
    shutil.rmtree(unpacked)
    build(recipe_dir, tmp_path / "data", num_rooms=2)
    (next((unpacked / "sounds").rglob("bang.wav"))).write_bytes(b"RIFF")
    with pytest.raises(RecipeError, match=r"(?s)bad_noise\.tsv.*Remove .*unpacked and run again"):
        build(recipe_dir, tmp_path / "data", num_rooms=1)


def test_prepare_is_skipped_when_nothing_changed(
    recipe_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    caplog.set_level("INFO")
    build(recipe_dir, data)
    assert "skipped" not in caplog.text
    before = (data / "corpus.yaml").stat().st_mtime_ns
    build(recipe_dir, data)
    assert "stage prepare: nothing changed since the last run, skipped" in caplog.text
    assert (data / "corpus.yaml").stat().st_mtime_ns == before
    build(recipe_dir, data, max_utterances_per_speaker=2, packages="voices")
    assert set(read_map(data / "eval" / "utt2package").values()) == {"voices"}
    with pytest.raises(RecipeError, match=r"--packages: 'voice' is none.*voices"):
        build(recipe_dir, data, packages="voice")


def test_the_expected_counts_are_those_of_the_recipes_own_settings(
    recipe_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = tmp_path / "recipe"
    shutil.copytree(recipe_dir, copied)
    (copied / "corpus.yaml").write_text(yaml.safe_dump({**SETTINGS, "expected": {"train": [2, 9]}}))
    build(copied, tmp_path / "data")
    assert "train: [2, 8] speakers and utterances, expected [2, 9]" in caplog.text
    caplog.clear()
    build(copied, tmp_path / "data", max_utterances_per_speaker=2)
    assert "expected" not in caplog.text


def test_counts_are_compared(built: Path, caplog: pytest.LogCaptureFixture) -> None:
    directories = {"train": DataDir.read(built / "train")}
    check_counts({"train": [2, 8]}, directories)
    assert caplog.text == ""
    check_counts({"train": [2, 9]}, directories)
    assert "[2, 8]" in caplog.text and "expected [2, 9]" in caplog.text


# The tables of egs/mini themselves.


def test_packages_can_be_left_out_by_name_or_by_size() -> None:
    pinned = read_packages(RECIPE_DIR / "packages.tsv")
    assert choose_packages(pinned, None, False) is None
    rest = choose_packages(pinned, None, True)
    assert rest is not None and len(rest) == len(pinned) - 1 and "tuxpaint-stamps-default" not in rest
    assert choose_packages(pinned, "saytime, klettres-data", False) == ["klettres-data", "saytime"]


def test_tables_agree() -> None:
    rows = read_tsv(RECIPE_DIR / "speakers.tsv", ("spk", "package"))
    packages = read_packages(RECIPE_DIR / "packages.tsv")
    noise = read_tsv(RECIPE_DIR / "noise.tsv", ("package", "include_regex", "exclude_regex", "category"))
    clips = read_rows(RECIPE_DIR / "manifest.tsv", 4)
    assert set(packages) == {row["package"] for row in rows} | {row["package"] for row in noise}
    assert {row["category"] for row in noise} == {"noise", "music"}
    for row in noise:
        re.compile(row["include_regex"])
        re.compile(row["exclude_regex"])
    used = {(row["spk"], row["package"]) for row in rows if not row["split"].startswith("drop")}
    assert {(speaker, package) for speaker, package, *_ in clips} == used
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["spk"], set()).add(row["split"])
    assert all(len(split) == 1 for split in splits.values()), "nobody is in training and evaluation"


def test_validation_speakers_are_as_described() -> None:
    recipe = read_settings(MiniSettings, RECIPE_DIR)
    rows = {row["spk"]: row for row in read_tsv(RECIPE_DIR / "speakers.tsv", ("spk",))}
    chosen = [rows[speaker] for speaker in recipe.validation_speakers]
    assert {row["split"] for row in chosen} == {"train"}
    assert sorted((row["gender"], row["package"]) for row in chosen) == 3 * [("F", "klettres-data")] + 3 * [
        ("M", "ktuberling-data")
    ]


def test_readme_credits_every_package() -> None:
    text = (RECIPE_DIR / "README.md").read_text(encoding="utf-8")
    for package in read_packages(RECIPE_DIR / "packages.tsv"):
        assert package in text
    for row in read_tsv(RECIPE_DIR / "speakers.tsv", ("credit", "gender_source")):
        if "doc" in row["gender_source"]:  # else the credit names a group, not a voice
            for name in re.split(r" / |, | \(", row["credit"]):
                assert name in text or re.search(r"[)0-9]", name), f"{row['spk']}: {name}"
