"""Checkpoints: plain tensors under WeSpeaker's names, whole and finite, or an error that says what was found."""

import dataclasses
import gzip
import math
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wespeaker_qm.config import Config
from wespeaker_qm.network import build, checkpoint
from wespeaker_qm.utils.errors import RecipeError


def test_averaging_is_the_mean_and_refuses_strangers(tmp_path: Path) -> None:
    states = [{"w": torch.full((2,), float(i)), "n": torch.tensor(i)} for i in range(3)]
    paths = [tmp_path / f"model_{i}.pt" for i in range(3)]
    for state, path in zip(states, paths, strict=True):
        checkpoint.save(state, path)
    mean = checkpoint.mean_weights(paths)
    assert mean["w"].tolist() == [1.0, 1.0]
    assert mean["n"].item() == 2
    checkpoint.save({"v": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(RecipeError, match=r"other.pt: entries differ"):
        checkpoint.mean_weights([paths[0], tmp_path / "other.pt"])


class Runs:
    """Unpickling it makes a file."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.ran,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_no_checkpoint_runs_anything(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": Runs(tmp_path / "ran")}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(RecipeError, match=r"model\.pt: not a checkpoint of plain tensors"):
        checkpoint.load(path)
    assert not (tmp_path / "ran").exists()


def test_loading_refuses_what_is_not_a_checkpoint(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file; train first"):
        checkpoint.load(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(RecipeError, match=r"text.pt: not a checkpoint"):
        checkpoint.load(tmp_path / "text.pt")
    encoder = build.build_encoder(tiny_config)
    state = encoder.state_dict()
    state["seg_1.weight"] = torch.zeros(3, 3)
    with pytest.raises(RecipeError, match=r"1 entry does not fit the network: seg_1.weight \(3x3, expected 8x128\)"):
        checkpoint.load_encoder(encoder, state, tmp_path)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"epoch": 3, "net": {"w": torch.zeros(2)}}, "a dict whose entry 'epoch' is a int"),
        ({"w": [0.0, 1.0]}, "a dict whose entry 'w' is a list"),
        ({"state": {"w": torch.zeros(2)}}, "a dict whose entry 'state' is a dict"),
        ({0: torch.zeros(2)}, "a dict whose entry 0 is a Tensor"),
        ([torch.zeros(2)], "a list"),
        (torch.zeros(2), "a Tensor"),
        (None, "a NoneType"),
        ({}, "an empty dict"),
    ],
)
def test_what_is_no_state_dict_is_told(tiny_config: Config, tmp_path: Path, value, found: str) -> None:
    path = tmp_path / "other.pt"
    checkpoint.save(value, path)
    message = re.escape(f"{path}: found {found}, expected a state_dict of tensors") + r".*/model_<epoch>\.pt or .*avg_"
    with pytest.raises(RecipeError, match=message):
        checkpoint.mean_weights([path])
    with pytest.raises(RecipeError, match=message):
        build.build_encoder(dataclasses.replace(tiny_config, model_init=str(path)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tiny_config: Config, tmp_path: Path, bad: float) -> None:
    path = tmp_path / "given.pt"
    state = build.build_encoder(tiny_config).state_dict()
    state["seg_1.weight"][0, :2] = bad
    state["seg_1.bias"][0] = bad
    checkpoint.save(state, path)
    message = r"given\.pt: 2 of the 1024 values of seg_1\.weight are NaN or infinite, expected finite weights"
    with pytest.raises(RecipeError, match=message):
        build.build_encoder(dataclasses.replace(tiny_config, model_init=str(path)))
    with pytest.raises(RecipeError, match=message):
        checkpoint.mean_weights([path])


def test_weights_beyond_the_networks_range_are_refused(tiny_config: Config, tmp_path: Path) -> None:
    encoder = build.build_encoder(tiny_config)
    state = {name: value.double() for name, value in encoder.state_dict().items()}
    checkpoint.load_encoder(encoder, state, tmp_path)
    state["seg_1.bias"][0] = 1e300
    with pytest.raises(RecipeError, match=r"1 of the 8 values of seg_1\.bias are NaN or infinite"):
        checkpoint.load_encoder(encoder, state, tmp_path)


def test_a_head_that_is_passed_over_may_be_anything(tiny_config: Config, tmp_path: Path) -> None:
    encoder = build.build_encoder(tiny_config)
    state = {**encoder.state_dict(), "projection.weight": torch.full((3, 8), math.nan)}
    checkpoint.load_encoder(encoder, state, tmp_path)


def test_the_same_weights_make_the_same_bytes(tmp_path):
    for name in ("one.pt", "other.pt"):
        checkpoint.save({"weight": torch.arange(6.0)}, tmp_path / name)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


TRAINING_STATE = dict.fromkeys(checkpoint.TRAINING_STATE, 0) | {"epoch": 7}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."])
@pytest.mark.parametrize("counts", [True, False], ids=["counts", "no counts"])
@pytest.mark.parametrize("is_training_state", [True, False], ids=["resume", "weights"])
def test_weights_are_found_however_they_were_saved(
    tiny_config: Config, tmp_path: Path, prefix: str, counts: bool, is_training_state: bool
) -> None:
    given = build.build_encoder(tiny_config).state_dict() | {"projection.weight": torch.ones(3, 8)}
    given["bn1.running_mean"] += 3
    saved = {prefix + name: value for name, value in given.items() if counts or "num_batches" not in name}
    path = tmp_path / "given.pt"
    checkpoint.save(TRAINING_STATE | {"model": saved} if is_training_state else saved, path)
    found = build.build_encoder(dataclasses.replace(tiny_config, model_init=str(path))).state_dict()
    assert found.keys() | {"projection.weight"} == given.keys()
    for name, value in found.items():
        assert torch.equal(value, given[name]), name


@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict"])
def test_weights_are_taken_from_among_other_things(tiny_config: Config, tmp_path: Path, name: str) -> None:
    """As Lightning, Hugging Face's trainers and WeSpeaker's load_checkpoint and average_model.py know them."""
    given = build.build_encoder(tiny_config).state_dict()
    torch.save({"epoch": 3, name: given, "optimizer": {"lr": 0.1}}, tmp_path / "given.ckpt")
    found = build.build_encoder(dataclasses.replace(tiny_config, model_init=str(tmp_path / "given.ckpt")))
    assert all(torch.equal(value, given[key]) for key, value in found.state_dict().items())


def test_a_safetensors_file_is_read(tiny_config: Config, tmp_path: Path) -> None:
    given = build.build_encoder(tiny_config).state_dict()
    path = tmp_path / "model.safetensors"
    save_file(given, path)
    found = build.build_encoder(dataclasses.replace(tiny_config, model_init=str(path))).state_dict()
    assert all(torch.equal(value, given[key]) for key, value in found.items())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RecipeError, match=r"model\.safetensors: not a checkpoint of plain tensors, or damaged \("):
        checkpoint.load(path)
    save_file(given | {"conv1.weight": torch.full_like(given["conv1.weight"], math.nan)}, path)
    with pytest.raises(RecipeError, match=r"values of conv1\.weight are NaN"):
        build.build_encoder(dataclasses.replace(tiny_config, model_init=str(path)))


class Whole(torch.nn.Module):
    """A network that is saved as the object that it is."""


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "avg_model.pt")


FOREIGN = {
    "a TorchScript program": (
        lambda path: _zip(path, "m/data.pkl", "m/constants.pkl", "m/code/m.py"),
        "torch.jit.load",
    ),
    "an ONNX graph": (lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x05" + bytes(90)), "exported from"),
    "a zip archive": (lambda path: _zip(path, "exp/avg_model.pt", "exp/config.yaml"), "unpack it"),
    "NumPy arrays": (lambda path: _zip(path, "w.npy"), "torch.save"),
    "an archive (gzip)": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "unpack it"),
    "an archive (tar)": (lambda path: _tar(path), "unpack it"),
    "a pointer of Git LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "git lfs pull",
    ),
    "a web page": (lambda path: path.write_text("<!DOCTYPE html><html></html>"), "download the file itself"),
    "an HDF5 file": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "torch.save"),
    "an empty file": (lambda path: path.touch(), "again"),
    "a folder": (lambda path: path.mkdir(), "avg_model"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_something_else_is_told_with_what_to_do(tiny_config: Config, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    write, use = FOREIGN[kind]
    write(path)
    with pytest.raises(RecipeError) as error:
        build.build_encoder(dataclasses.replace(tiny_config, model_init=str(path)))
    assert kind in str(error.value)
    assert use in str(error.value)
    assert "delete" not in str(error.value), "it is the user's"


def test_a_network_saved_as_an_object_is_told_by_its_class(tiny_config: Config, tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save(Whole(), path)
    with pytest.raises(
        RecipeError, match=r"whole\.pt: .*holds an object of \S*Whole\); name .*model\.state_dict\(\)"
    ) as error:
        build.build_encoder(dataclasses.replace(tiny_config, model_init=str(path)))
    assert "weights_only" not in str(error.value), "PyTorch's advice to trust the file"


def test_a_prefix_of_some_names_is_no_wrapper(tiny_config: Config, tmp_path: Path) -> None:
    encoder = build.build_encoder(tiny_config)
    state = {f"module.{name}": value for name, value in encoder.state_dict().items()} | {"step": torch.zeros(1)}
    with pytest.raises(RecipeError, match="not fit the network"):
        checkpoint.load_encoder(encoder, state, tmp_path)


def test_only_counters_may_be_missing(tiny_config: Config, tmp_path: Path) -> None:
    encoder = build.build_encoder(tiny_config)
    state = encoder.state_dict()
    del state["bn1.num_batches_tracked"], state["bn1.running_var"]
    with pytest.raises(RecipeError, match=r"1 entry does not fit the network: bn1\.running_var \(absent, expected 4\)"):
        checkpoint.load_encoder(encoder, state, tmp_path)


def test_a_training_state_is_told_which_epoch_is_taken_and_is_no_weights_to_average(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "resume.pt"
    checkpoint.save(TRAINING_STATE | {"model": build.build_encoder(tiny_config).state_dict()}, path)
    with caplog.at_level("INFO", "wespeaker_qm"):
        build.build_encoder(dataclasses.replace(tiny_config, model_init=str(path)))
    assert f"{path}: the state of a training; its weights after epoch 7 are taken" in caplog.text
    with pytest.raises(RecipeError, match=r"found the state of a training \(as in resume/\), expected a state_dict"):
        checkpoint.mean_weights([path])


def test_what_is_not_finite_is_found_in_nested_states() -> None:
    checkpoint.refuse_not_finite({"optimizer": {"state": {3: {"step": 1, "buffer": torch.ones(2)}}}}, "x")
    with pytest.raises(RecipeError, match=r"^x: 1 of the 2 values of optimizer\.state\.3\.buffer are NaN or .*; do y$"):
        bad = torch.tensor([1.0, math.nan])
        checkpoint.refuse_not_finite({"optimizer": {"state": {3: {"step": 1, "buffer": bad}}}}, "x", "do y")


def test_a_checkpoint_that_inflates_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "x.pt", "w") as deflated:
        for entry in plain.infolist():
            deflated.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(RecipeError, match=r"x\.pt: not a checkpoint of plain tensors, or damaged \(compressed, which"):
        checkpoint.load(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.empty(2, device="meta"), r"without values \(meta\)"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2, dtype=torch.complex64), r"of torch\.complex64"),
    ],
)
def test_weights_that_are_no_plain_numbers_are_refused(value: torch.Tensor, kind: str) -> None:
    with pytest.raises(RecipeError, match=rf"^x: conv1\.weight is {kind}, expected dense real numbers; do y$"):
        checkpoint.refuse_not_finite({"conv1.weight": value}, "x", "do y")
