"""Every YAML loads, and every key of the schema is written down in the base configuration."""

import dataclasses
from pathlib import Path

import pytest

from wespeaker_qm.config import ArcMarginArgs, Config, load_config, schema_keys
from wespeaker_qm.config.loss import LOSSES as ALL_LOSSES
from wespeaker_qm.utils.yaml_files import read_yaml_mapping

ROOT = Path(__file__).parents[2]
BASE = ROOT / "conf" / "resnet34.yaml"
LOSSES = sorted((ROOT / "conf" / "loss").glob("*.yaml"))
CORPORA = sorted((ROOT / "egs").glob("*/conf.yaml"))

TABLE_5 = {  # project type, scale, alpha, margin
    "arcface": ("arc_margin", 32.0, None, 0.2),
    "cosface": ("add_margin", 32.0, None, 0.2),
    "entmax_a2.0": ("alpha_arc_margin", 5.0, 2.0, 0.1),
    "entmax_a1.75": ("alpha_arc_margin", 5.0, 1.75, 0.1),
    "qmargin_a1.75": ("q_margin", 5.0, 1.75, 0.1),
    "qmargin_a1.5": ("q_margin", 10.0, 1.5, 0.1),
}


def leaves(mapping, prefix=""):
    for name, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_base_writes_down_every_key_with_the_default_value():
    sections = {key.rpartition(".")[0] for key in schema_keys()}
    keys = {key for key in schema_keys() if key not in sections}
    of_other_losses = {"projection_args.easy_margin", "projection_args.reinit_epoch"}
    assert set(leaves(read_yaml_mapping(BASE))) == keys - of_other_losses
    assert load_config([BASE]) == Config()


def test_the_base_has_the_protocol_of_table_5():
    config = load_config([BASE])
    assert (config.num_epochs, config.dataloader_args.batch_size) == (150, 128)
    assert (config.scheduler_args.initial_lr, config.scheduler_args.final_lr) == (0.1, 5e-5)
    assert (config.scheduler_args.warm_up_epoch, config.optimizer_args.weight_decay) == (6, 1e-4)
    assert (config.margin_update.increase_start_epoch, config.margin_update.fix_start_epoch) == (20, 40)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda path: path.stem)
def test_a_loss_overlay_holds_the_loss_and_its_margin_only(loss):
    content = read_yaml_mapping(loss)
    assert list(content) == ["projection_args", "margin_update"]
    assert list(content["margin_update"]) == ["final_margin"]
    assert loss.read_text(encoding="utf-8").startswith("# ")
    config = load_config([BASE, loss])
    assert content["projection_args"].items() <= dataclasses.asdict(config)["projection_args"].items()


def test_every_loss_has_an_overlay():
    assert {read_yaml_mapping(loss)["projection_args"]["project_type"] for loss in LOSSES} == ALL_LOSSES.keys()


@pytest.mark.parametrize("name", TABLE_5)
def test_losses_have_the_values_of_table_5(name):
    config = load_config([BASE, ROOT / "conf" / "loss" / f"{name}.yaml"])
    projection = config.projection_args
    found = (projection.project_type, projection.scale, projection.definition.alpha, config.margin_update.final_margin)
    assert found == TABLE_5[name]
    if isinstance(projection, ArcMarginArgs):
        assert not projection.easy_margin


@pytest.mark.parametrize("loss", LOSSES, ids=lambda path: path.stem)
def test_every_corpus_goes_with_the_loss(loss):
    assert ROOT / "egs" / "mini" / "conf.yaml" in CORPORA
    for corpus in CORPORA:
        load_config([BASE, corpus, loss])
