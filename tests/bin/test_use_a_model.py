"""``embed`` and ``verify`` from the command line."""

import contextlib
import io
import json
import shutil
import subprocess
import sys

import kaldiio
import numpy as np
import pytest
import soundfile

from wespeaker_qm import Speaker
from wespeaker_qm.bin.main import main


@pytest.fixture
def place(model_run, tmp_path, monkeypatch):
    """As current directory: a.wav and b.mp3 of one voice, c.wav of another, long.flac; exp/mini/qmargin_a1.5/model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WESPEAKER_QM_MODEL", raising=False)
    audio = model_run.data.path / "eval" / "wav"
    shutil.copy(audio / "eval0-0.wav", "a.wav")
    shutil.copy(audio / "eval5-0.wav", "c.wav")
    samples, rate = soundfile.read(audio / "eval0-1.wav")
    soundfile.write("b.mp3", samples, rate)
    soundfile.write("long.flac", np.tile(samples, 5), rate)
    shutil.copytree(model_run.run.model_folder, tmp_path / "exp/mini/qmargin_a1.5/model")
    (tmp_path / "exp" / "latest_model").write_text("model made last: mini/qmargin_a1.5/model\n")
    return tmp_path


def test_the_exit_status_says_the_answer(place, model_run, capsys):
    model = Speaker.load("exp/mini/qmargin_a1.5/model")
    found = set()
    for far in ("0.1", "0.5", "0.01"):
        expected = model.verify("a.wav", "b.mp3", far=float(far))
        found.add(expected.same)
        assert main(["verify", "a.wav", "b.mp3", "--far", far]) == int(not expected.same)
        text = capsys.readouterr().out
        verdict = "same speaker" if expected.same else "different speakers"
        assert text.startswith(f"{verdict} (score {expected.score:.3f}, threshold {expected.threshold:.3f} at FAR ")
        assert f"log-likelihood ratio: {expected.llr:+.2f}; cosine: {expected.cosine:.3f}" in text
        assert "the threshold rests on 240 non-target and 36 target trials of 6 speakers" in text
    assert found == {True, False}


def test_no_answer_and_errors_exit_with_2(place, capsys, monkeypatch):
    assert main(["verify", "a.wav", "b.mp3"]) == 2
    assert "no decision (score " in (text := capsys.readouterr().out)
    assert "mind: no threshold: a false-accept rate of 0.001 takes 1,000 non-target trials" in text
    assert main(["verify", "a.wav", "none.wav", "--far", "0.1"]) == 2
    assert "none.wav: no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["verify", "a.wav"])
    assert caught.value.code == 2
    (place / "exp" / "latest_model").unlink()
    assert main(["verify", "a.wav", "b.mp3", "--far", "0.1"]) == 2
    assert "no model: name one (--model DIR)" in capsys.readouterr().err
    assert main(["embed", "a.wav"]) == 1  # here 1 is no answer
    monkeypatch.setenv("WESPEAKER_QM_MODEL", "exp/mini/qmargin_a1.5/model")
    assert main(["verify", "a.wav", "a.wav", "--far", "0.1"]) in (0, 1)
    (place / "exp/mini/qmargin_a1.5/model/weights.safetensors").write_bytes(b"x")
    assert main(["verify", "a.wav", "a.wav", "--far", "0.1"]) == 2
    assert "weights.safetensors: found 1 bytes, expected" in capsys.readouterr().err


def test_json_holds_the_decision(place, capsys):
    assert main(["verify", "a.wav", "b.mp3", "--far", "0.1", "--json"]) in (0, 1)
    (line,) = capsys.readouterr().out.splitlines()
    content = json.loads(line)
    decision = Speaker.load("exp/mini/qmargin_a1.5/model").verify("a.wav", "b.mp3", far=0.1)
    assert content["score"] == decision.score
    assert content["same"] is decision.same
    assert content["seconds_of_speech"] == list(decision.seconds_of_speech)
    assert content.keys() == {
        *("score", "cosine", "llr", "same", "threshold", "threshold_interval", "far", "rests_on", "warnings"),
        "seconds_of_speech",
    }


def test_standard_input(place, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((place / "a.wav").read_bytes())))
    assert main(["embed", "-"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    expected = Speaker.load("exp/mini/qmargin_a1.5/model").embed("a.wav")
    np.testing.assert_array_equal(np.array(json.loads(line)["embedding"], np.float32), expected)


def test_embeddings_in_every_kind_of_file(place):
    expected = Speaker.load("exp/mini/qmargin_a1.5/model").embed(["a.wav", "c.wav"])
    for out in ("x.npz", "x.jsonl", "ark,scp:folder/x"):
        assert main(["embed", "a.wav", "c.wav", "--out", out]) == 0
    with np.load("x.npz") as content:
        assert content["names"].tolist() == ["a.wav", "c.wav"]
        np.testing.assert_array_equal(content["embeddings"], expected)
    rows = [json.loads(line) for line in (place / "x.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["a.wav", "c.wav"]
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)
    table = kaldiio.load_scp("folder/x.scp")
    for key, row in zip(("a.wav", "c.wav"), expected, strict=True):
        np.testing.assert_array_equal(table[key], row)


@pytest.mark.parametrize("name", ["x.npz", "x.jsonl", "x.scp", "x.ark"])
@pytest.mark.parametrize("content", ["mine", '{"mine": 1}\n', "[1]", ""])
def test_embeddings_are_written_over_embeddings_alone(place, capsys, name, content):
    out = name if name[2:] in ("npz", "jsonl") else "ark,scp:x"
    (place / name).write_text(content)
    assert main(["embed", "a.wav", "--out", out]) == 1
    assert f"{name}: exists, and holds no embeddings of this program" in capsys.readouterr().err
    assert (place / name).read_text() == content
    (place / name).unlink()
    for _ in range(2):
        assert main(["embed", "a.wav", "--out", out]) == 0


def test_windows_with_their_times_in_every_kind_of_file(place):
    expected = Speaker.load("exp/mini/qmargin_a1.5/model").embed_windows("long.flac", 1.0, 0.5)
    for out in ("x.npz", "x.jsonl", "ark,scp:x"):
        assert main(["embed", "long.flac", "--window", "1", "--out", out]) == 0
    with np.load("x.npz") as content:
        for name, values in expected._asdict().items():
            np.testing.assert_array_equal(content[name], values)
    rows = [json.loads(line) for line in (place / "x.jsonl").read_text().splitlines()]
    assert [row["start_s"] for row in rows] == expected.start_s.tolist()
    assert [row["end_s"] for row in rows] == expected.end_s.tolist()
    table = kaldiio.load_scp("x.scp")
    assert sorted(table)[:2] == ["long.flac-0000000-0000100", "long.flac-0000050-0000150"]
    np.testing.assert_array_equal(table["long.flac-0000050-0000150"], expected.embeddings[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "x.csv"], "--out: found x.csv, expected X.npz, X.jsonl or ark,scp:X"),
        (["--out", "ark,scp:"], "--out: found ark,scp:, expected X.npz, X.jsonl or ark,scp:X"),
        (["--step", "1"], "--step: found 1 without --window, expected both"),
        (["none.wav", "--out", "x.npz"], "none.wav: no such file"),
        (["a.wav", "--out", "ark,scp:x"], "'a.wav': stands twice"),
        (["with space.wav", "--out", "ark,scp:x"], "'with space.wav': stands twice, or has spaces"),
    ],
)
def test_what_cannot_be_embedded_writes_nothing(place, capsys, options, message):
    shutil.copy("a.wav", "with space.wav")
    before = sorted(place.iterdir())
    assert main(["embed", "a.wav", *options]) == 1
    assert message in capsys.readouterr().err
    assert sorted(place.iterdir()) == before


def test_a_program_of_ones_own_reads_the_exit_status(place):
    """As a shell would see it."""
    command = [sys.executable, "-m", "wespeaker_qm.bin.main", "verify", "a.wav", "a.wav", "--far", "0.5"]
    with contextlib.chdir(place):
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode in (0, 1)
    assert result.stderr == ""
