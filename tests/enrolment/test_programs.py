"""`enrol`, `identify`, `forget` and `speakers` from the command line: what they say, and their exit statuses."""

import json
import subprocess
import sys

import pytest

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.bin.main import main
from wespeaker_qm.enrolment.store import STORE_VARIABLE, SpeakerStore
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.speaker.onnx_model import write_onnx_model
from wespeaker_qm.speaker.speaker import Speaker

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.fixture
def run(make_model, evidence_of, tone, tmp_path, monkeypatch, capsys):
    """Function: a command line; returns exit status, output and errors. Files are a speaker's pitch and a number."""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "speakers.sqlite"))
    monkeypatch.chdir(tmp_path)
    for pitch in (300, 900, 2000):
        for take in (1, 2, 3):
            write_wav(tmp_path / f"{pitch}-{take}.wav", tone(float(pitch), take), 8000)

    def command(*arguments, threshold=0.0, evidence=True):
        model = make_model(evidence=evidence_of(threshold=threshold) if evidence else None)
        monkeypatch.setattr(Speaker, "load", classmethod(lambda cls, path, device="auto": model))
        capsys.readouterr()
        needs_model = ["--model", "any"] if arguments[0] in ("enrol", "identify") else []
        status = main([*arguments, *needs_model])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def test_from_enrolment_to_forgetting(run):
    status, output, _ = run("enrol", "Anna", "300-1.wav", "300-2.wav")
    assert (status, output.splitlines()[0]) == (0, "Anna: 2 added, now 2 recordings of 4.0 s")
    assert run("enrol", "Ben", "900-1.wav")[:2][0] == 0
    assert run("enrol", "Anna", "300-1.wav", "300-3.wav")[1].startswith("Anna: 1 added, now 3 recordings of 6.0 s")
    assert run("enrol", "Anna", "300-1.wav", "--replace")[1].startswith("Anna: 1 added, now 1 recording of 2.0 s")
    assert [line[:4] for line in run("speakers")[1].splitlines()] == ["Anna", "Ben:", "2 en"]
    assert [json.loads(line)["name"] for line in run("speakers", "--json")[1].splitlines()] == ["Anna", "Ben"]
    assert run("forget", "Ben")[:2] == (0, "Ben: forgotten, with 1 recording\n")
    status, _, error = run("forget", "Ben")
    assert (status, "nobody of the name 'Ben' is enrolled" in error) == (1, True)


def test_the_exit_status_says_whether_it_is_anybody(run):
    run("enrol", "Anna", "300-1.wav", "300-2.wav")
    run("enrol", "Ben", "900-1.wav")
    status, output, _ = run("identify", "900-3.wav", "--json")
    known = json.loads(output)
    assert (status, known["name"]) == (0, "Ben")
    score = known["candidates"][0]["score"]
    for threshold, expected, name in ((score, 0, "Ben"), (score + 1e-6, 1, None)):
        status, output, _ = run("identify", "900-3.wav", "--json", threshold=threshold)
        assert (status, json.loads(output)["name"]) == (expected, name)
    status, output, _ = run("identify", "900-3.wav", evidence=False)
    assert (status, output.splitlines()[0]) == (2, "no decision")
    assert "no threshold" in output


def test_options_of_identify(run):
    for name in ("300", "900", "2000"):
        run("enrol", name, f"{name}-1.wav")
    content = json.loads(run("identify", "900-3.wav", "--json", "--top", "2", "--far", "0.2")[1])
    assert len(content["candidates"]) == 2
    assert content["decided_at"]["wanted_fpir"] == 0.2
    output = run("identify", "900-3.wav")[1]
    assert output.splitlines()[0].startswith("900 (threshold 0")
    assert "mind: 1 % of strangers" not in output


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("identify", "no.wav"), 2),
        (("identify", "300-1.wav", "--store", "none.sqlite"), 2),
        (("enrol", "Anna", "300-1.wav", "no.wav"), 1),
        (("forget", "Anna", "--store", "none.sqlite"), 1),
    ],
)
def test_errors_are_told_apart_from_answers(run, arguments, status):
    run("enrol", "Ben", "900-1.wav")
    found, output, error = run(*arguments)
    assert (found, output) == (status, "")
    assert error.startswith("error: ")
    assert [each.name for each in SpeakerStore().speakers()] == ["Ben"]


def test_without_a_store_nobody_is_listed(run):
    assert run("speakers", "--store", "none.sqlite")[:2] == (0, "0 enrolled in none.sqlite\n")


def test_listing_and_forgetting_import_no_torch(run, tmp_path):
    run("enrol", "Anna", "300-1.wav")
    for command in (["speakers"], ["forget", "Anna"]):
        code = "import sys\nsys.modules['torch'] = None\nfrom wespeaker_qm.bin.main import main\n"
        code += f"sys.exit(main({command}))"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "Anna" in result.stdout


@pytest.mark.parametrize("kind", ["folder", "onnx"])
def test_a_model_of_stage_8(model_run, tmp_path, kind):
    """Torch or not, what was enrolled by the folder is found, with the score of a trial."""
    folder = model_run.run.model_folder
    model = folder
    if kind == "onnx":
        model = tmp_path / "model.onnx"
        write_onnx_model(ModelFolder.read(folder), model)
    store = ["--store", tmp_path / "speakers.sqlite"]
    recordings = {
        f"eval{speaker}": model_run.data.path / "eval" / "wav" / f"eval{speaker}-0.wav" for speaker in range(3)
    }
    for name, recording in recordings.items():
        assert main([str(each) for each in ["enrol", name, recording, *store, "--model", folder]]) == 0
    test = model_run.data.path / "eval" / "wav" / "eval1-2.wav"
    arguments = ["identify", test, *store, "--model", model, "--json", "--far", "0.3"]
    hide = "sys.modules['torch'] = None\n" if kind == "onnx" else ""
    code = f"import sys\n{hide}from wespeaker_qm.bin.main import main\nsys.exit(main({list(map(str, arguments))}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr
    found = json.loads(result.stdout)
    loaded = Speaker.load(folder)
    scores = {name: loaded.verify(recording, test, far=0.3).score for name, recording in recordings.items()}
    assert {each["name"]: each["score"] for each in found["candidates"]} == pytest.approx(scores, abs=1e-3)
    assert found["decided_at"]["num_speakers"] == 3
    assert (found["name"] is None) == (result.returncode == 1)
