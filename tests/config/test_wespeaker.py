"""WeSpeaker's files load here, and ours load there."""

import logging
from pathlib import Path

import pytest
import yaml

from wespeaker_qm.config import (
    Config,
    MarginUpdate,
    SoftmaxArgs,
    config_notes,
    load_config,
    saved_settings,
    schema_keys,
)
from wespeaker_qm.utils.errors import RecipeError

EXAMPLE = Path(__file__).parent / "wespeaker_resnet.yaml"

NOT_IN_WESPEAKER = {
    "device", "num_threads", "channels_last", "compile", "whiten", "amp_dtype", "trackers", "valid_epoch_interval",
    "save_step_interval", "save_minutes", "profile",
    "dataloader_args.frontend", "dataset_args.sampler", "dataset_args.channel_prob",
    "dataset_args.shuffle_args.shard_window",
    "model_args.m_channels", "model_args.stem_stride", "model_args.window", "projection_args.shard_classes",
}  # fmt: skip


def example():
    return yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))


def noted_by_train_py(**changes):
    """What WeSpeaker's train.py, called by its run.sh, writes into the config.yaml of an experiment folder."""
    values = example()
    values |= {"exp_dir": "exp/resnet", "gpus": [0, 1], "data_type": "shard", "train_data": "data/vox2_dev/shard.list"}
    values |= {"train_label": "data/vox2_dev/utt2spk", "reverb_data": "data/rirs/lmdb", "noise_data": "data/musan/lmdb"}
    values["projection_args"] |= {"embed_dim": 256, "num_class": 17982, "do_lm": False}
    values["optimizer_args"] |= {"lr": 0.1}
    values["scheduler_args"] |= {"num_epochs": 150, "epoch_iter": 4265, "scale_ratio": 4.0}
    values["margin_update"] |= {"epoch_iter": 4265}
    return values | changes


def write(path, values):
    path.write_text(yaml.dump(values), encoding="utf-8")
    return path


def keys_of(values, prefix=""):
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")


def test_the_config_of_an_experiment_folder_trains_as_the_example_it_was_made_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        config = load_config([write(tmp_path / "config.yaml", noted_by_train_py(exp_dir=None))])
    assert config == load_config([EXAMPLE], ["exp_dir=null"])
    notes = [record.getMessage() for record in caplog.records[:2]]
    added = sorted(set(keys_of(noted_by_train_py())) - set(keys_of(example())))
    assert len(added) == 13
    for key in added:
        assert key in notes[0]
    assert "use run.sh --gpus [0,1]" in notes[1]


@pytest.mark.parametrize(("gpus", "text"), [([0, 1], "[0,1]"), (3, "[3]"), ([], "[]"), ("[0,1]", "[0,1]")])
def test_gpus_are_text_a_list_or_a_number(tmp_path, gpus, text):
    assert load_config([write(tmp_path / "config.yaml", {"gpus": gpus})]).gpus == text


@pytest.mark.parametrize("gpus", [[0, "a"], [True], True, 0.5, {"a": 1}])
def test_gpus_that_are_no_numbers_are_refused(tmp_path, gpus):
    with pytest.raises(RecipeError, match="gpus: found "):
        load_config([write(tmp_path / "config.yaml", {"gpus": gpus})])


@pytest.mark.parametrize(
    "dataset",
    [
        {"frontend": "fbank"},
        {"cmvn": True},
        {"cmvn": True, "cmvn_args": {"norm_mean": True, "norm_var": False}},
        {"cmvn_args": {"norm_mean": True}},
        {"speed_perturb_mode": "random"},
    ],
)
@pytest.mark.parametrize("for_training", [True, False])
def test_what_is_no_choice_here_is_accepted_where_it_says_so(tmp_path, dataset, for_training):
    file = write(tmp_path / "config.yaml", {"dataset_args": dataset})
    assert load_config([file], for_training=for_training) == Config()


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"frontend": "s3prl"}, "dataset_args.frontend: found 's3prl' (text), expected fbank, the only value offered"),
        ({"frontend": "auto"}, "dataset_args.frontend: found 'auto' (text), expected fbank, the only value offered"),
        ({"cmvn": False}, "dataset_args.cmvn: found false (true/false), expected true, the only value offered"),
        ({"cmvn": 1}, "dataset_args.cmvn: found 1 (integer), expected true, the only value offered"),
        ({"cmvn_args": {"norm_var": True}}, "dataset_args.cmvn_args: found {'norm_var': True} (mapping), expected "
         "norm_mean true, norm_var false, the only value offered"),
        ({"cmvn_args": 3}, "dataset_args.cmvn_args: found 3 (integer), expected norm_mean true, norm_var false"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("for_training", [True, False])
def test_other_features_are_refused_with_what_is_offered(tmp_path, dataset, message, for_training):
    file = write(tmp_path / "config.yaml", {"dataset_args": dataset})
    with pytest.raises(RecipeError) as caught:
        load_config([file], for_training=for_training)
    assert f"{file}: {message}" in str(caught.value)


def test_on_the_command_line_what_train_py_notes_is_refused():
    """There somebody has asked for it."""
    with pytest.raises(RecipeError, match=r"command line: optimizer_args\.lr: no effect, WeSpeaker"):
        load_config([EXAMPLE], ["optimizer_args.lr=0.1"])
    assert load_config([EXAMPLE], ["dataset_args.cmvn=true"]) == load_config([EXAMPLE])


FOREIGN_TRAININGS = [
    {"do_lm": True},
    {"projection_args": {"project_type": "sphereface2", "scale": 32.0, "t": 3, "lanbuda": 0.7, "margin_type": "C"}},
    {"projection_args": {"project_type": "softmax", "embed_dim": 256}},
    {"optimizer": "Adam", "optimizer_args": {"lr": 1e-3}},
    {"scheduler": "warmup_step", "scheduler_args": {"decay_step": 5}},
    {"loss_args": {"label_smoothing": 0.1}},
    {"dataset_args": {"speed_perturb_mode": "expanded", "fbank_args": {"num_mel_bins": 80}, "shuffle": False}},
    {"dataloader_args": {"persistent_workers": True}},
    {"clip_grad": 3.0, "seed": 7},
]


@pytest.mark.parametrize("changes", FOREIGN_TRAININGS, ids=lambda changes: next(iter(changes)))
def test_a_finished_network_may_have_been_trained_in_any_way(tmp_path, changes):
    file = write(tmp_path / "config.yaml", noted_by_train_py(**changes))
    config = load_config([file], for_training=False)
    assert (config.model, config.model_args) == ("ResNet34", Config().model_args)
    assert (config.num_avg, config.num_epochs, config.gpus) == (10, 150, None)
    with pytest.raises(RecipeError):
        load_config([file], ["seed=1", *(["clip_grad=1"] if "clip_grad" in changes else [])])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "ECAPA_TDNN_c512"}, "model: found 'ECAPA_TDNN_c512', expected one of ResNet10, ResNet18, ResNet34"),
        ({"model_args": {"feat_dim": 80, "pooling_func": "ASTP"}}, "model_args.pooling_func: found 'ASTP'"),
        ({"model_args": {"feat_dim": 80, "two_emb_layer": True}}, "model_args.two_emb_layer: found true"),
        (
            {"dataset_args": {"fbank_args": {"num_mel_bins": 80, "window": "hann"}}},
            "fbank_args.window: unknown key",
        ),
        ({"dataset_args": {"fbank_args": {"num_mel_bins": 40}}}, "model_args.feat_dim: found 80, expected"),
    ],
)
def test_another_network_is_refused_however_it_was_trained(tmp_path, changes, message):
    with pytest.raises(RecipeError) as caught:
        load_config([write(tmp_path / "config.yaml", noted_by_train_py(**changes))], for_training=False)
    assert message in str(caught.value)


def test_softmax_is_told_from_wespeakers(tmp_path):
    softmax = SoftmaxArgs(project_type="softmax", scale=32.0)
    (note,) = config_notes(Config(projection_args=softmax, margin_update=MarginUpdate(final_margin=0.0)))
    assert "scaled cosines" in note and "WeSpeaker's softmax is another loss, a plain linear layer" in note
    file = write(tmp_path / "config.yaml", {"projection_args": {"project_type": "softmax"}})
    with pytest.raises(RecipeError, match=r"projection_args\.scale: missing.*scaled cosines.*a plain linear layer"):
        load_config([file])


def test_a_saved_configuration_has_only_keys_that_wespeaker_knows(tmp_path):
    """Its extract.py calls the network with all of model_args, and stops at an m_channels."""
    config = load_config([EXAMPLE])
    config.save(tmp_path / "config.yaml")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert set(keys_of(saved)) - set(keys_of(example())) == {"do_lm"}
    assert load_config([tmp_path / "config.yaml"]) == config


def test_every_key_of_our_own_is_left_out_at_its_default_and_there_elsewhere(tmp_path):
    config = load_config([EXAMPLE])
    config.save(tmp_path / "config.yaml")
    saved = set(keys_of(yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))))
    of_other_losses = {"projection_args.alpha", "projection_args.reinit_epoch"}
    assert set(schema_keys()) - saved == NOT_IN_WESPEAKER | of_other_losses
    values = ["device=cuda", "num_threads=2", "channels_last=true", "compile=true", "whiten=true", "amp_dtype=bf16"]
    values += ["save_step_interval=7", "save_minutes=1", "profile=[1,2]", "trackers=[wandb]"]
    values += ["valid_epoch_interval=0", "dataloader_args.frontend=device", "dataset_args.channel_prob=0.5"]
    values += ["dataset_args.shuffle_args.shard_window=2", "model_args.m_channels=16"]
    values += ["model_args.stem_stride=2", "model_args.window=40"]
    values += ["projection_args={project_type: add_margin, scale: 32, shard_classes: true}"]
    other = load_config([EXAMPLE], values)
    other.save(tmp_path / "other.yaml")
    kept = set(keys_of(yaml.safe_load((tmp_path / "other.yaml").read_text(encoding="utf-8"))))
    assert NOT_IN_WESPEAKER - kept == {"dataset_args.sampler"}
    assert load_config([tmp_path / "other.yaml"]) == other


def test_reports_see_what_was_left_out(tmp_path):
    """As those of a run of an earlier version, which left nothing out."""
    config = load_config([EXAMPLE])
    config.save(tmp_path / "config.yaml")
    (tmp_path / "earlier.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert saved_settings(tmp_path / "config.yaml") == saved_settings(tmp_path / "earlier.yaml")
    assert saved_settings(tmp_path / "config.yaml")["model_args"]["m_channels"] == 32
    assert saved_settings(write(tmp_path / "other.yaml", {"mine": 3})) == {"mine": 3}
