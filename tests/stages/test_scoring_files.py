"""A trial list of recordings, scored with a finished model."""

import shutil
import sys

import numpy as np
import pytest

from wespeaker_qm import Speaker
from wespeaker_qm.bin.main import main
from wespeaker_qm.trials import read_scores


@pytest.fixture
def place(model_run, tmp_path, monkeypatch):
    """As current directory: ``wavs`` of six speakers, two each, and ``trials.txt``, all pairs; the default model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WESPEAKER_QM_MODEL", str(model_run.run.model_folder))
    names = []
    for speaker in range(6):
        for take in range(2):
            names.append(f"s{speaker}/{take}.wav")
            path = tmp_path / "wavs" / names[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(model_run.data.path / "eval" / "wav" / f"eval{speaker}-{take}.wav", path)
    pairs = [(one, two) for one in names for two in names if one < two]
    write(tmp_path / "trials.txt", [(*pair, ("nontarget", "target")[pair[0][:2] == pair[1][:2]]) for pair in pairs])
    return tmp_path


def write(path, rows):
    path.write_text("".join(" ".join(row) + "\n" for row in rows))


def rows_of(path):
    return [line.split() for line in path.read_text().splitlines()]


def run(*options):
    return main(["score-files", "trials.txt", "--wav_root", "wavs", "--num_resamples", "20", *options])


def test_scores_are_those_of_verify_and_figures_are_logged(place, model_run, capsys):
    assert run("--out", "x.score") == 0
    text = capsys.readouterr().out
    assert "scored 66 of 66 trials of trials.txt -> x.score" in text
    assert "6 target and 60 non-target trials" in text and "EER" in text
    assert [row[:2] + row[3:] for row in rows_of(place / "x.score")] == rows_of(place / "trials.txt")
    scored = read_scores("x.score")
    model = Speaker.load(model_run.run.model_folder)
    for trial in (0, 5, 65):
        one, two = scored.trials.names(trial).split()
        expected = model.verify(f"wavs/{one}", f"wavs/{two}", far=0.1).score
        assert scored.scores[trial] == pytest.approx(expected, abs=1e-6)


def test_each_recording_is_read_once(place, monkeypatch):
    read = []
    module = sys.modules["wespeaker_qm.speaker.speaker"]
    monkeypatch.setattr(
        module, "read_recording", lambda one, *rest, f=module.read_recording: (read.append(str(one)), f(one, *rest))[1]
    )
    assert run() == 0
    assert sorted(read) == sorted(set(read)) and len(read) == 12
    assert (place / "trials.score").is_file()


def test_a_name_may_write_its_accents_as_another_system_does(place):
    """macOS lists files with an accented letter as two characters; most write one."""
    (place / "wavs" / "s0").rename(place / "wavs" / "Jose\N{COMBINING ACUTE ACCENT}")
    listed = place / "trials.txt"
    listed.write_text(listed.read_text().replace("s0/", "Jos\N{LATIN SMALL LETTER E WITH ACUTE}/"))
    assert run() == 0
    assert len(rows_of(place / "trials.score")) == 66


def test_other_kinds_of_lists(place, capsys):
    """VoxCeleb's, and one without labels: no figures, and a third column that holds the score."""
    rows = rows_of(place / "trials.txt")
    assert run("--out", "kaldi.score") == 0
    write(place / "trials.txt", [(str(int(label == "target")), one, two) for one, two, label in rows])
    assert run("--out", "voxceleb.score") == 0
    assert (place / "voxceleb.score").read_text() == (place / "kaldi.score").read_text()
    capsys.readouterr()
    write(place / "trials.txt", [(one, two) for one, two, _ in rows])
    assert run("--out", "pairs.score") == 0
    assert "EER" not in capsys.readouterr().out
    assert rows_of(place / "pairs.score") == [row[:3] for row in rows_of(place / "kaldi.score")]
    write(place / "trials.txt", rows)
    assert main(["metrics", "pairs.score", "--trials", "trials.txt", "--num_resamples", "0"]) == 0
    write(place / "trials.txt", [row for row in rows if row[2] == "target"])
    assert run("--out", "one.score") == 0
    assert "no figures, because all of its trials are of one kind" in capsys.readouterr().err


def test_what_is_missing_is_counted_and_may_be_left_out(place, capsys):
    (place / "wavs/s0/0.wav").unlink()
    (place / "wavs/s1/0.wav").write_text("no audio")
    assert run() == 1
    message = capsys.readouterr().err
    assert "trials.txt: 1 of its 12 recordings is missing or unusable" in message
    assert "wavs/s0/0.wav: no such file" in message
    assert not (place / "trials.score").exists()
    assert run("--max_bad_fraction", "0.1") == 1
    assert "2 of its 12 recordings" in (message := capsys.readouterr().err)
    assert "--max_bad_fraction 0.167" in message
    assert run("--max_bad_fraction", "0.167") == 0
    assert "left out: wavs/s0/0.wav: no such file" in capsys.readouterr().err
    left = [row for row in rows_of(place / "trials.txt") if not {"s0/0.wav", "s1/0.wav"} & set(row)]
    assert [row[:2] for row in rows_of(place / "trials.score")] == [row[:2] for row in left]
    whole = read_scores("trials.score")
    assert np.isfinite(whole.scores).all() and len(whole.scores) == 45


def test_nothing_is_left_of_a_wrong_folder(place, capsys):
    assert main(["score-files", "trials.txt", "--wav_root", "elsewhere", "--max_bad_fraction", "1"]) == 1
    message = capsys.readouterr().err
    assert "12 of its 12 recordings" in message and "--wav_root elsewhere: correct them or the folder:" in message


def test_a_file_of_somebody_elses_is_not_overwritten(place, capsys):
    (place / "x.score").write_text("mine")
    assert run("--out", "x.score") == 1
    assert "--out x.score: exists, and is no score file of this program" in capsys.readouterr().err
    assert (place / "x.score").read_text() == "mine"
    assert run("--out", "y.score") == 0
    assert run("--out", "y.score") == 0
