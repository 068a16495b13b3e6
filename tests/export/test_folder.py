"""The format of a model folder: what was written is read, and anything else is refused with its name."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from wespeaker_qm.export import files
from wespeaker_qm.export.files import description
from wespeaker_qm.export.folder import ModelFolder, fingerprint
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.vectors import VectorTable

FILES = ["model.json", "weights.safetensors", "cohort.safetensors", "README.md"]


@pytest.fixture
def copy(model_run, tmp_path):
    """A copy of the folder, to be damaged."""
    return shutil.copytree(model_run.run.model_folder, tmp_path / "model")


def content_of(path):
    content = json.loads((path / "model.json").read_text())
    return {name: value for name, value in content.items() if name not in ("format", "version", "sha256", "files")}


def write(path, content):
    """A description with a checksum of its own, as somebody could write it."""
    files = {name: (path / name).read_bytes() for name in FILES[1:]}
    (path / "model.json").write_bytes(description(content, files))


def test_what_stage_8_wrote_is_read(model_run):
    run = model_run.run
    model = ModelFolder.read(run.model_folder)
    cohort = VectorTable(run.speaker_xvectors("train"))
    np.testing.assert_array_equal(model.mean, np.load(run.mean_xvector))
    np.testing.assert_allclose(model.cohort, cohort.load(cohort.names), rtol=1e-3)
    assert len(model.weights) == 218
    assert model.weights["seg_1.weight"].shape == (8, 2 * 8 * 4 * 2)
    assert model.features.sample_rate == 16000
    assert model.features.trim_silence
    assert (model.scoring.normalisation, model.scoring.top_n) == ("asnorm", 3)
    assert (model.evidence.corpus, model.evidence.trial_list, model.evidence.num_nontargets) == ("voices", "eval", 240)
    assert model.calibration is not None
    assert model.training["licence"] == "free"
    assert model.figures.keys() == {"trained", "asnorm", "calibrated"}


def test_the_zip_holds_the_same(model_run, tmp_path):
    one, other = ModelFolder.read(model_run.run.model_folder), ModelFolder.read(model_run.run.model_zip)
    assert one.fingerprint == other.fingerprint
    assert one.evidence == other.evidence
    np.testing.assert_array_equal(one.cohort, other.cohort)
    for place in ("", "some/folder/"):  # as a person may have zipped it
        with zipfile.ZipFile(tmp_path / "own.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in model_run.run.model_folder.iterdir():
                archive.write(path, place + path.name)
        assert ModelFolder.read(tmp_path / "own.zip").fingerprint == one.fingerprint


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "missing", "empty"])
def test_damage_is_told_with_the_files_name(copy, name, damage):
    path = copy / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"flipped": bytes(data), "cut": whole[:-9], "longer": whole + b"1", "empty": b""}[damage])
    with pytest.raises(RecipeError, match=name.replace(".", r"\.") + r".*run\.sh --stage 8"):
        ModelFolder.read(copy)


def test_every_flipped_byte_of_a_zip_is_told_or_changes_nothing(model_run, tmp_path):
    """Names of members and times are nobody's; whatever is read is checked."""
    whole, path = model_run.run.model_zip.read_bytes(), tmp_path / "model.zip"
    expected = ModelFolder.read(model_run.run.model_zip)
    num_refused = 0
    for at in np.linspace(0, len(whole) - 1, 60).astype(int):
        data = bytearray(whole)
        data[at] ^= 0x55
        path.write_bytes(data)
        try:
            found = ModelFolder.read(path)
        except RecipeError as error:
            assert str(path) in str(error)
            num_refused += 1
        else:
            assert found.fingerprint == expected.fingerprint
            assert found.evidence == expected.evidence
            np.testing.assert_array_equal(found.cohort, expected.cohort)
    assert num_refused > 50


def test_a_member_that_unpacks_to_more_than_was_said_is_not_unpacked(copy, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.write(copy / name, name)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(copy / "model.json", "model.json")
        archive.writestr("weights.safetensors", bytes(1 << 24))
    with pytest.raises(RecipeError, match=r"weights\.safetensors: found more than"):
        ModelFolder.read(tmp_path / "bomb.zip")


def test_a_later_version_is_refused_with_what_to_do(copy, monkeypatch):
    monkeypatch.setattr(files, "FORMAT_VERSION", 2)
    write(copy, content_of(copy))
    assert ModelFolder.read(copy)
    monkeypatch.setattr(files, "FORMAT_VERSION", 1)
    with pytest.raises(RecipeError, match=r"found version 2 of the format, this program reads up to 1; update"):
        ModelFolder.read(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 64}, "the fingerprint is not that of network, features and weights"),
        ({"network": {"encoder": "ResNet34"}}, "not what a model's description holds"),
        ({"evidence": {"corpus": "x"}}, "not what a model's description holds"),
        ({"scoring": []}, "not what a model's description holds"),
    ],
)
def test_a_description_of_something_else_is_refused(copy, change, message):
    write(copy, content_of(copy) | change)
    with pytest.raises(RecipeError, match=rf"model\.json: {message}"):
        ModelFolder.read(copy)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"format": "other"}',
        "no JSON",
        '{"format": "wespeaker_qm model"}',
        '{"format": "wespeaker_qm model", "version": 1, "x": NaN}',
        '{"format": "wespeaker_qm model", "version": 1, "x": [1e999]}',
        "\xff",
    ],
)
def test_another_json_is_refused(copy, text):
    (copy / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"model\.json"):
        ModelFolder.read(copy)


def test_no_file_outside_the_folder_is_read(copy):
    (copy.parent / "secret").write_text("x")
    text = (copy / "model.json").read_text()
    content = json.loads(text)
    del content["sha256"]
    content["files"]["../secret"] = {"num_bytes": 1, "sha256": "0"}
    content["sha256"] = files._sha256(files.canonical(content))
    (copy / "model.json").write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=r"lists '\.\./secret', expected the name of a file in the folder"):
        ModelFolder.read(copy)


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(RecipeError, match=r"none: no such model folder; run\.sh --stage 8 makes one"):
        ModelFolder.read(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"found no model\.json there, expected a model folder"):
        ModelFolder.read(tmp_path)
    (tmp_path / "text").write_text("x")
    with pytest.raises(RecipeError, match="neither a model folder nor a zip of one"):
        ModelFolder.read(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(RecipeError, match=r"found no model\.json"):
        ModelFolder.read(tmp_path / "empty.zip")


def test_the_fingerprint_tells_everything_that_changes_an_embedding(model_run):
    model = ModelFolder.read(model_run.run.model_folder)

    def of(**changes):
        parts = {"network": model.network, "features": model.features, "weights": model.weights} | changes
        return fingerprint(**parts)

    assert of() == model.fingerprint
    from dataclasses import replace

    others = {
        of(features=replace(model.features, trim_silence=False)),
        of(features=replace(model.features, sample_rate=8000)),
        of(network=replace(model.network, encoder="ResNet18")),
        of(weights={**model.weights, "seg_1.bias": model.weights["seg_1.bias"] + np.float32(1e-6)}),
        of(weights={name: value for name, value in model.weights.items() if name != "seg_1.bias"}),
    }
    assert len(others | {of()}) == 6
    assert of(weights=dict(reversed(model.weights.items()))) == of()


def test_weights_that_are_not_finite_are_refused(copy):
    content, model = content_of(copy), ModelFolder.read(copy)
    weights = {**model.weights, "seg_1.bias": np.full(8, np.nan, np.float32)}
    (copy / "weights.safetensors").write_bytes(files.safetensors(weights))
    write(copy, content | {"fingerprint": fingerprint(model.network, model.features, weights)})
    with pytest.raises(RecipeError, match=r"weights\.safetensors: seg_1\.bias has values that are NaN or infinite"):
        ModelFolder.read(copy)


def test_reading_needs_no_torch(model_run):
    code = f"""
import sys
sys.modules["torch"] = None
from wespeaker_qm.export.folder import ModelFolder
ModelFolder.read({str(model_run.run.model_folder)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
