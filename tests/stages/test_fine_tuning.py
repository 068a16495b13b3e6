"""A model folder is trained further on a tree of recordings, and compared with what it was, in one command."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from wespeaker_qm import Speaker, stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.trials import read_scores
from wespeaker_qm.utils.layout import RunFolder

SETTINGS = (
    "num_epochs=3",
    "num_avg=2",
    "num_threads=1",
    "dataloader_args.num_workers=0",
    "dataset_args.num_frms=40",
    "dataset_args.sample_num_per_epoch=64",
)
COMMAND = ("fine-tune", "voices", "--num_workers", "1", "--num_resamples", "20", "--device", "cpu", "--set", *SETTINGS)


def _copy_voices(model_run, folder):
    """``voices`` in a folder: 13 speakers with four recordings each."""
    for wav in sorted(model_run.data.path.glob("*/wav/*-*.wav")):
        speaker, _, take = wav.stem.partition("-")
        (folder / "voices" / speaker).mkdir(parents=True, exist_ok=True)
        shutil.copy(wav, folder / "voices" / speaker / f"{take}.wav")


@pytest.fixture
def place(model_run, tmp_path, monkeypatch):
    """As current directory: ``voices``; the default model is a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WESPEAKER_QM_MODEL", str(model_run.run.model_folder))
    _copy_voices(model_run, tmp_path)
    return tmp_path


class Tuned(NamedTuple):
    """A place in which the command has run, and what it printed."""

    folder: Path
    console: str

    @property
    def run(self):
        return RunFolder("exp/fine_tuned/voices")


@pytest.fixture(scope="module")
def _tuned(model_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    _copy_voices(model_run, folder)
    console = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(console):
        patch.chdir(folder)
        patch.setenv("WESPEAKER_QM_MODEL", str(model_run.run.model_folder))
        assert main([*COMMAND]) == 0
    return Tuned(folder, console.getvalue())


@pytest.fixture
def tuned(_tuned, model_run, monkeypatch):
    """As current directory the one place of several tests, which leave it as it was but for folders of their own."""
    monkeypatch.chdir(_tuned.folder)
    monkeypatch.setenv("WESPEAKER_QM_MODEL", str(model_run.run.model_folder))
    return _tuned


def test_a_new_model_stands_beside_the_old_one(tuned, model_run, capsys):
    run = tuned.run
    assert run.report("html").is_file()
    (content,) = json.loads(run.metrics.read_text())["trial_lists"].values()
    assert list(content["systems"]) == ["trained", "before", "initial", "ltas"]
    assert {"EER", "TAR@FAR 1e-1"} <= {each["figure"] for each in content["comparisons"] if each["two"] == "before"}
    assert "before (the model as it was before;" in tuned.console
    assert "the corpus has no list to calibrate on" not in tuned.console

    old, new = ModelFolder.read(model_run.run.model_folder), ModelFolder.read(run.model_folder)
    assert new.fingerprint != old.fingerprint and new.network == old.network and new.features == old.features
    assert new.training["fine_tuned_from"] == {"fingerprint": old.fingerprint, "training": old.training}
    assert f"went on from the model `{old.fingerprint[:16]}`" in (run.model_folder / "README.md").read_text()
    before, after = (read_scores(folder.scores("all")) for folder in (run.before, run))
    speakers = {name.partition("-")[0] for name in before.trials.utterances}
    assert len(speakers) == 6 and len(new.training["config"]["dataset_args"]) > 3
    models = [Speaker.load(folder.path, device="cpu") for folder in (old, new)]
    for trial in (0, 100):
        files = [f"voices/{name.replace('-', '/')}.wav" for name in before.trials.names(trial).split()]
        for model, scored in zip(models, (before, after), strict=True):
            assert scored.scores[trial] == pytest.approx(model.verify(*files).score, abs=1e-4)

    assert main([*COMMAND]) == 0
    text = capsys.readouterr().out
    assert "nothing changed" in text and "done again" not in text and "scored" not in text


def test_an_interrupted_training_goes_on(tuned, monkeypatch, capsys):
    save = Trainer._save

    def interrupted(trainer, epoch=None):
        save(trainer, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", interrupted)
        assert main([*COMMAND, "--out", "parts"]) == 130
    capsys.readouterr()
    assert main([*COMMAND, "--out", "parts"]) == 0
    assert "resumed after epoch 2 of 3" in capsys.readouterr().out
    assert ModelFolder.read("parts/model").fingerprint == ModelFolder.read(tuned.run.model_folder).fingerprint


def test_with_many_training_speakers_scores_are_normalised(place, monkeypatch):
    monkeypatch.setattr("wespeaker_qm.stages.fine_tuning.LEAST_COHORT", 7)
    assert main([*COMMAND]) == 0
    model = ModelFolder.read("exp/fine_tuned/voices/model")
    assert model.scoring.normalisation == "asnorm" and len(model.cohort) == 7


def test_another_model_is_refused_in_the_same_folder(tuned, model_run, capsys):
    run = tuned.run
    before = run.average.read_bytes()
    assert main([*COMMAND, "--model", str(run.model_folder), "--out", str(run)]) == 1
    old, new = ModelFolder.read(model_run.run.model_folder), ModelFolder.read(run.model_folder)
    error = capsys.readouterr().err
    assert f"holds what became of the model {old.fingerprint[:12]}, found" in error and new.fingerprint[:12] in error
    assert run.average.read_bytes() == before
    assert main([*COMMAND, "--model", str(run.model_folder), "--out", "further"]) == 0
    origin = ModelFolder.read("further/model").training["fine_tuned_from"]
    assert origin["fingerprint"] == new.fingerprint
    assert origin["training"]["fine_tuned_from"]["fingerprint"] == old.fingerprint
    card = Path("further/model/README.md").read_text()
    assert new.fingerprint[:16] in card and old.fingerprint[:16] in card


def test_other_recordings_or_settings_are_told_with_the_options_of_this_command(tuned, capsys):
    Path("voices/valid0").rename("voices/another")
    status = main([*COMMAND])
    Path("voices/another").rename("voices/valid0")
    assert status == 1
    error = capsys.readouterr().err
    assert "was made otherwise" in error and "another --out" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none"], "DIR none: no such folder"),
        (["voices", "--model", "none"], "none: no such model folder"),
        (["voices", "--model", "model.onnx"], "--model model.onnx: an .onnx file, expected the model folder"),
        (["voices", "--out", "voices/exp"], "so what is written there would be taken for recordings"),
        (["voices", "--eval_speakers", "all"], "--eval_speakers all: nobody would be left to train on"),
        (["voices", "--eval_speakers", "12"], "1 speaker to train on"),
        (["few"], "3 speakers found (eval0, eval1, eval2), expected at least 4: 2 to train on and 2 to evaluate"),
        (["single"], "have the two recordings that a target trial needs"),
    ],
)
def test_what_cannot_be_trained_on_is_told(place, capsys, options, message):
    for number in range(4):
        if number < 3:
            shutil.copytree(f"voices/eval{number}", f"few/eval{number}")
        Path(f"single/s{number}").mkdir(parents=True)
        shutil.copy(f"voices/eval{number}/0.wav", f"single/s{number}/0.wav")
    assert main(["fine-tune", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (place / "exp").exists()
    assert not (place / "voices" / "exp").exists()


def test_other_files_and_runs_stay_as_they_are(place, model_run, capsys):
    stages.evaluate_folder(audio_root="voices", out="evaluated", num_resamples=0)
    metrics = Path("evaluated/metrics.json").read_bytes()
    assert main([*COMMAND, "--out", "evaluated"]) == 1
    assert "--out evaluated: holds another training or evaluation" in capsys.readouterr().err
    assert Path("evaluated/metrics.json").read_bytes() == metrics
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/README.md").write_text("my own notes")
    assert main([*COMMAND, "--out", "mine"]) == 1
    assert "mine/model/README.md" in capsys.readouterr().err
    assert Path("mine/model/README.md").read_text() == "my own notes"
