"""A model folder is evaluated on a tree of recordings, from preparation to report, in one command."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wespeaker_qm import Speaker, stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.trials import read_scores
from wespeaker_qm.utils.layout import RunFolder


@pytest.fixture
def place(model_run, tmp_path, monkeypatch):
    """As current directory: ``voices``, six speakers with three recordings each; the default model is a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WESPEAKER_QM_MODEL", str(model_run.run.model_folder))
    for speaker in range(6):
        (tmp_path / "voices" / f"s{speaker}").mkdir(parents=True)
        for take in range(3):
            wav = model_run.data.path / "eval" / "wav" / f"eval{speaker}-{take}.wav"
            shutil.copy(wav, tmp_path / "voices" / f"s{speaker}" / f"{take}.wav")
    return tmp_path


def test_a_model_folder_on_a_tree_has_a_report(place, model_run, capsys):
    command = ["evaluate-folder", "voices", "--num_workers", "1", "--num_resamples", "20"]
    assert main(command) == 0
    run = RunFolder("exp/evaluated/voices")
    assert run.report("html").is_file()
    (content,) = json.loads(run.metrics.read_text())["trial_lists"].values()
    assert list(content["systems"]) == ["trained", "asnorm", "calibrated", "untrained", "ltas"]
    assert (content["num_targets"], content["num_nontargets"]) == (18, 135)
    model = Speaker.load(model_run.run.model_folder)
    scored, calibrated = read_scores(run.scores("all", "asnorm")), read_scores(run.scores("all", "calibrated"))
    for trial in (0, 100):
        files = [f"voices/{name.replace('-', '/')}.wav" for name in scored.trials.names(trial).split()]
        decision = model.verify(*files, far=0.1)
        assert scored.scores[trial] == pytest.approx(decision.score, abs=1e-4)
        assert calibrated.scores[trial] == pytest.approx(decision.llr, abs=1e-3)
    capsys.readouterr()
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "nothing changed" in text and "done again" not in text
    zipped = stages.evaluate_folder(audio_root="voices", model=model_run.run.model_zip, out="zipped", num_resamples=0)
    np.testing.assert_array_equal(read_scores(zipped.scores("all", "asnorm")).scores, scored.scores)


def test_what_is_recommended_for_short_recordings_works(place, capsys):
    shortest = sorted(Path("voices").rglob("*.wav"))[0]
    samples, rate = soundfile.read(shortest)
    soundfile.write(shortest, samples[: int(0.4 * rate)], rate)
    command = ["evaluate-folder", "voices", "--num_workers", "1", "--num_resamples", "0"]
    assert main(command) == 1
    option = re.search(r"--min_duration [0-9.]+", capsys.readouterr().err)
    assert option is not None
    assert main([*command, *option[0].split()]) == 0


def _flat(place):
    for number, wav in enumerate(sorted(place.rglob("*.wav"))):
        wav.rename(place / "voices" / f"{number}.wav")


def _one_level_too_many(place):
    (place / "outer").mkdir()
    (place / "voices").rename(place / "outer" / "voices")
    (place / "outer").rename(place / "voices")


def _no_audio(place):
    for wav in place.rglob("*.wav"):
        wav.with_suffix(".txt").touch()
        wav.unlink()


def _one_recording_each(place):
    for wav in place.rglob("[12].wav"):
        wav.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flat, "DIR voices: 0 speakers found (none): 18 of its recordings lie in no speaker's folder, and"),
        (_one_level_too_many, "1 speaker found (voices): all its 18 recordings in folders lie in 'voices'"),
        (_no_audio, "(none): it holds 18 .txt, and no recording (.flac, "),
        (lambda place: shutil.rmtree(place / "voices") or (place / "voices").mkdir(), "(none): it holds nothing, and"),
        (_one_recording_each, "error: nobody has the two recordings that a target trial needs; add some"),
    ],
)
def test_a_tree_that_is_none_is_told_to_be_that(place, capsys, change, message):
    change(place)
    assert main(["evaluate-folder", "voices", "--num_workers", "1"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none"], "DIR none: no such folder"),
        (["voices", "--model", "none"], "none: no such folder, expected a model"),
        (["voices", "--model", "model.onnx"], "--model model.onnx: an .onnx file, expected the model folder"),
        (["voices", "--out", "voices/exp"], "so what is written there would be taken for recordings"),
    ],
)
def test_what_cannot_be_evaluated_is_told(place, capsys, options, message):
    assert main(["evaluate-folder", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (place / "exp").exists()
    assert not (place / "voices" / "exp").exists()
