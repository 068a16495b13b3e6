"""A new loss is a class of arguments and an overlay; a network is a model, a class of arguments and a table row."""

import json
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from pydantic.dataclasses import dataclass

from wespeaker_qm.config import Config, HeadArgs, LossDefinition, ModelArgs, config_notes, load_config, schema_keys
from wespeaker_qm.config.fields import STRICT
from wespeaker_qm.config.loss import LOSSES
from wespeaker_qm.config.model import MODELS
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import ENCODERS, build_encoder, build_fbank
from wespeaker_qm.report.loss_card import loss_card
from wespeaker_qm.score.validation import validation_check
from wespeaker_qm.train.build import HEADS, build_training
from wespeaker_qm.train.distributed import ALONE
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HalfArgs(HeadArgs):
    """A member of the family that nobody needs."""

    project_type: Literal["half"]
    half_alpha: float

    @property
    def definition(self) -> LossDefinition:
        return LossDefinition("Half", "reference", alpha=2 * self.half_alpha)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MeanArgs(ModelArgs):
    """Of a network that is a linear map of the mean features."""

    bias: bool = True


class MeanEncoder(SpeakerEncoder):
    """Does not mask padding, and folds nothing."""

    min_frames = 1
    masks_padding = False

    def __init__(self, feat_dim: int, embed_dim: int, bias: bool) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.seg_1 = torch.nn.Linear(feat_dim, embed_dim, bias)

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        assert num_frames is None
        assert features.shape[1] >= self.min_frames
        return self.seg_1(features.std(dim=1))


@pytest.fixture
def base(tiny_config: Config, tmp_path: Path) -> Path:
    """The file of a small training."""
    tiny_config.save(tmp_path / "base.yaml")
    return tmp_path / "base.yaml"


def test_a_loss(base: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = tmp_path / "half.yaml"
    overlay.write_text("projection_args: {project_type: half, scale: 10.0, half_alpha: 0.75}\n")
    with pytest.raises(RecipeError, match=r"half\.yaml: projection_args\.project_type: found 'half', expected one of"):
        load_config([base, overlay])

    monkeypatch.setitem(LOSSES, "half", HalfArgs)
    config = load_config([base, overlay], ["num_epochs=1"])
    assert str(loss_card(config)) == "Half (α 1.5, s 10, m 0.1)"
    parts = build_training(config, DataFolder(tiny_corpus), ALONE)
    assert (parts.model.projection.alpha, parts.model.projection.margin_type) == (1.5, "reference")
    Trainer(config, parts, RunFolder(tmp_path / "exp")).run()
    epoch = json.loads(RunFolder(tmp_path / "exp").training_log.read_text().splitlines()[-1])
    assert epoch["type"] == "epoch"
    assert epoch["support"] > 1

    config.save(tmp_path / "saved.yaml")
    assert load_config([tmp_path / "saved.yaml"]) == config
    assert "projection_args.half_alpha" in schema_keys()
    assert any("no sample can ever be solved" in note for note in config_notes(load_config(
        [base, overlay], ["projection_args.scale=0.5"]
    )))  # fmt: skip
    with pytest.raises(RecipeError, match=r"projection_args\.alpha: unknown key; it belongs to alpha_arc"):
        load_config([base, overlay], ["projection_args.alpha=1.5"])


def test_a_network(base: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "Mean", MeanArgs)
    monkeypatch.setitem(ENCODERS, "Mean", lambda args: MeanEncoder(args.feat_dim, args.embed_dim, args.bias))
    # Of the ResNet before, m_channels means nothing to it; the sizes that every network has stay.
    config = load_config([base], ["model=Mean", "model_args.bias=false", "num_epochs=1"])
    assert config.model_args == MeanArgs(feat_dim=16, embed_dim=8, bias=False)
    assert load_config([base], ["model=Mean", "channels_last=true"]).channels_last
    with pytest.raises(RecipeError, match=r"model_args\.m_channels: unknown key; it belongs to ResNet10, ResNet18, "):
        load_config([base], ["model=Mean", "model_args.m_channels=4"])

    # The check embeds utterances of unequal lengths.
    check = validation_check(DataFolder(tiny_corpus), build_fbank(config, dither=0.0), torch.device("cpu"))
    run = RunFolder(tmp_path / "exp")
    Trainer(config, build_training(config, DataFolder(tiny_corpus), ALONE), run, check).run()
    weights = checkpoint.load(run.model(1))
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        "seg_1.weight": (8, 16),
        "projection.weight": (12, 8),
    }
    encoder = build_encoder(config)
    checkpoint.load_encoder(encoder, weights, run.model(1))
    np.testing.assert_array_equal(encoder.seg_1.weight.detach(), weights["seg_1.weight"])


def test_every_place_of_a_margin_has_a_head() -> None:
    assert HEADS.keys() == set(get_args(LossDefinition.__annotations__["margin_type"]))


def test_chunks_too_short_for_the_network_are_refused_before_training(base: Path, tiny_corpus: Path) -> None:
    overrides = ["dataset_args.spec_aug=false", "dataset_args.num_frms"]
    build_training(load_config([base], [overrides[0], f"{overrides[1]}=9"]), DataFolder(tiny_corpus), ALONE)
    with pytest.raises(RecipeError, match=r"num_frms: found 8, expected at least 9, the fewest frames that"):
        build_training(load_config([base], [overrides[0], f"{overrides[1]}=8"]), DataFolder(tiny_corpus), ALONE)
