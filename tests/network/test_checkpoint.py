"""Checkpoints: plain tensors under WeSpeaker's names, whole and finite, or an error that says what was found."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch

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
    with pytest.raises(RecipeError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(RecipeError, match=r"text.pt: not a checkpoint"):
        checkpoint.load(tmp_path / "text.pt")
    encoder = build.build_encoder(tiny_config)
    state = encoder.state_dict()
    state["seg_1.weight"] = torch.zeros(3, 3)
    with pytest.raises(RecipeError, match=r"1 entries do not fit the network: seg_1.weight \(3x3, expected 8x128\)"):
        checkpoint.load_encoder(encoder, state, tmp_path)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"epoch": 3, "model": {"w": torch.zeros(2)}}, "a dict whose entry 'epoch' is a int"),  # as resume.pt
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
