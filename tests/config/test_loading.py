import dataclasses
import logging
import pickle
import re
from pathlib import Path

import pytest

from wespeaker_qm.config import AddMarginArgs, ArcMarginArgs, Config, QMarginArgs, ResNetArgs, load_config
from wespeaker_qm.utils.errors import RecipeError

WESPEAKER = Path(__file__).parent / "wespeaker_resnet.yaml"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_wespeakers_file_loads_unchanged_and_what_has_no_effect_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        config = load_config([WESPEAKER])
    assert config.projection_args == ArcMarginArgs(project_type="arc_margin", scale=32.0, easy_margin=False)
    assert config.scheduler_args.final_lr == 5e-5
    assert config.gpus == "[0,1]"
    differs = {
        field.name
        for field in dataclasses.fields(Config)
        if getattr(config, field.name) != getattr(Config(), field.name)
    }
    assert differs == {"exp_dir", "gpus", "projection_args", "margin_update", "dataloader_args"}
    assert dataclasses.replace(config.dataloader_args, pin_memory=True) == Config().dataloader_args
    assert [record.getMessage().split()[1] for record in caplog.records] == ["exp_dir", "gpus"]


def test_files_merge_left_to_right_and_the_command_line_wins(tmp_path):
    base = write(tmp_path / "base.yaml", "num_epochs: 20\ndataset_args: {num_frms: 150, aug_prob: 0.5}\n")
    overlay = write(tmp_path / "overlay.yaml", "dataset_args:\n  num_frms: 100\n")
    config = load_config([base, overlay], ["num_epochs=30", "dataset_args.fbank_args.dither=0"])
    assert config.num_epochs == 30
    assert config.dataset_args.num_frms == 100
    assert config.dataset_args.aug_prob == 0.5
    assert config.dataset_args.fbank_args.dither == 0
    assert config.dataset_args.fbank_args.num_mel_bins == 80


def test_an_overlay_that_names_the_loss_replaces_projection_args(tmp_path):
    cosface = write(tmp_path / "cosface.yaml", "projection_args: {project_type: add_margin, scale: 30}\n")
    # WeSpeaker's easy_margin would not fit CosFace, so the load fails if anything of arc_margin is left over.
    assert load_config([WESPEAKER, cosface]).projection_args == AddMarginArgs(project_type="add_margin", scale=30.0)


def test_an_overlay_that_does_not_name_the_loss_changes_the_one_there(tmp_path):
    overlay = write(tmp_path / "scale.yaml", "projection_args: {scale: 64}\n")
    assert load_config([WESPEAKER, overlay]).projection_args == ArcMarginArgs(project_type="arc_margin", scale=64.0)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_overrides_is_of_no_matter(reverse):
    overrides = ["projection_args.project_type=q_margin", "projection_args.scale=5", "projection_args.alpha=1.75"]
    config = load_config([WESPEAKER], overrides[::-1] if reverse else overrides)
    assert config.projection_args == QMarginArgs(project_type="q_margin", scale=5.0, alpha=1.75)


def test_small_numbers_without_a_dot_are_numbers():
    assert load_config([WESPEAKER], ["scheduler_args.final_lr=5e-5"]).scheduler_args.final_lr == 5e-5
    assert load_config([WESPEAKER], ["scheduler_args.final_lr=1E-4"]).scheduler_args.final_lr == 1e-4


def test_a_saved_configuration_loads_back_equal(tmp_path):
    config = load_config([WESPEAKER], ["scheduler_args.final_lr=1e-7", "model_init=a/b.pt", "num_threads=2"])
    config.save(tmp_path / "exp" / "config.yaml")
    assert load_config([tmp_path / "exp" / "config.yaml"]) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset_args.num_frmes=100", "command line: dataset_args.num_frmes: unknown key; nearest valid names: "
         "dataset_args.num_frms"),
        ("num_frms=100", "command line: num_frms: unknown key; nearest valid names: dataset_args.num_frms"),
        ("xyz=1", "command line: xyz: unknown key; valid names here: exp_dir, gpus, device"),
        ("num_epochs=ten", "command line: num_epochs: found 'ten' (text), expected an integer"),
        ("num_epochs=1e2", "command line: num_epochs: found 100.0 (number), expected an integer"),
        ("num_epochs=true", "command line: num_epochs: found true (true/false), expected an integer"),
        ("dataset_args.speed_perturb=1", "found 1 (integer), expected true or false"),
        ("dataset_args.aug_prob=1.5", "found 1.5 (number), expected less than or equal to 1"),
        ("dataset_args.aug_prob=.nan", "dataset_args.aug_prob: found "),
        ("model_init=''", "command line: model_init: found '' (text), expected text that is not empty, or null"),
        ("dataset_args.sampler=speaker", "found 'speaker' (text), expected 'utterance' or 'speaker_balanced'"),
        ("model=ResNet43", "model: found 'ResNet43', expected one of ResNet10, ResNet18, ResNet34 (nearest: ResNet34"),
        ("model=3", "command line: model: found 3, expected one of ResNet10, ResNet18, ResNet34"),
        ("model=[ResNet34]", "model: found ['ResNet34'], expected one of ResNet10, ResNet18, ResNet34"),
        ("model_args.m_chanels=3", "command line: model_args.m_chanels: unknown key; nearest: m_channels; ResNet34 has "
         "feat_dim, embed_dim, pooling_func, two_emb_layer, m_channels, stem_stride, window"),
        ("model_args.stem_stride=3", "model_args.stem_stride: found 3 (integer), expected 1 or 2"),
        ("model_args.model=ResNet18", "model_args.model: unknown key; it belongs to model; ResNet34 has"),
        ("model_args.num_frms=3", "model_args.num_frms: unknown key; it belongs to dataset_args.num_frms; "),
        ("model_args=[ResNet18]", "model_args: found ['ResNet18'] (list), expected a mapping of keys to values"),
        ("projection_args=3", "projection_args: found 3 (integer), expected a mapping of keys to values"),
        ("dataset_args=3", "dataset_args: found 3 (integer), expected a mapping of keys to values"),
        ("dataloader_args.batch_size=0", "dataloader_args.batch_size: found 0 (integer), expected greater than or"),
        ("do_lm=true", "do_lm: found true (true/false), expected false, the only value offered"),
        ("loss_args.label_smoothing=0.1", "loss_args.label_smoothing: unknown key"),
        ("projection_args.scale=0", "projection_args.scale: found 0 (integer), expected greater than 0"),
        ("projection_args.alpha=1.5", "projection_args.alpha: unknown key; it belongs to alpha_arc_margin, q_margin; "
         "arc_margin has project_type, scale, shard_classes, easy_margin"),
        ("projection_args.project_type=qmargin", "projection_args.project_type: found 'qmargin', expected one of "
         "softmax, add_margin, arc_margin, alpha_arc_margin, q_margin (nearest: q_margin"),
        ("projection_args.project_type=q_margin", "command line: projection_args.scale: missing"),
        ("projection_args={project_type: q_margin, scale: 5, alpha: 2.5}",
         "projection_args.alpha: found 2.5 (number), expected less than or equal to 2"),
        ("projection_args={project_type: q_margin, scale: 5, alpha: 2, easy_margin: false}",
         "projection_args.easy_margin: unknown key; it belongs to arc_margin"),
        ("projection_args={project_type: softmax, scale: 5}", "margin_update.final_margin: found 0.2 with project_type "
         "softmax, expected 0"),
        ("seed", "command line: found override 'seed', expected key=value"),
        ("=3", "command line: found override '=3', expected key=value"),
        ("seed=[1", "command line: seed:1: not valid YAML"),
        ("model_args.feat_dim=40", "model_args.feat_dim: found 40, expected dataset_args.fbank_args.num_mel_bins (80)"),
        ("num_epochs=5", "num_avg: found 10, expected at most num_epochs (5)"),
        ("margin_update.initial_margin=0.3", "found 0.3, expected at most final_margin (0.2)"),
        ("optimizer_args.momentum=0", "optimizer_args.nesterov: found true with momentum 0"),
        ("dataset_args.filter_args.min_num_frames=900", "found 900, expected at most max_num_frames (800)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(override, message):
    with pytest.raises(RecipeError) as caught:
        load_config([WESPEAKER], [override])
    assert message in str(caught.value)


def test_every_error_is_reported_at_once_with_its_file(tmp_path):
    one = write(tmp_path / "one.yaml", "num_epochs: many\n")
    two = write(tmp_path / "two.yaml", "margin_update:\n  final_margn: 0.2\n")
    with pytest.raises(RecipeError) as caught:
        load_config([one, two])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{one}: num_epochs: found 'many'")
    assert lines[1].startswith(f"{two}: margin_update.final_margn: unknown key; nearest valid names: margin_update.fin")


def test_keys_at_odds_name_both_files(tmp_path):
    one = write(tmp_path / "one.yaml", "margin_update: {increase_start_epoch: 20}\n")
    two = write(tmp_path / "two.yaml", "margin_update: {fix_start_epoch: 10}\n")
    with pytest.raises(RecipeError) as caught:
        load_config([one, two])
    assert str(caught.value) == (
        f"{one} and {two}: margin_update.increase_start_epoch: found 20, expected at most fix_start_epoch (10)"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("model_args.window=16 model_args.stem_stride=2", "model_args.window: found 16, expected more than 16, 8"),
        ("model_args.window=8", "model_args.window: found 8, expected more than 8, 8 times stem_stride (1)"),
        (
            "model_args.feat_dim=76 dataset_args.fbank_args.num_mel_bins=76",
            "model_args.feat_dim: found 76, expected a multiple of 8, 8 times stem_stride (1)",
        ),
        (
            "model_args.feat_dim=40 dataset_args.fbank_args.num_mel_bins=40 model_args.stem_stride=2",
            "model_args.feat_dim: found 40, expected a multiple of 16, 8 times stem_stride (2)",
        ),
    ],
)
def test_sizes_that_a_resnet_cannot_have_are_refused_before_it_is_built(overrides, message):
    with pytest.raises(RecipeError) as caught:
        load_config([WESPEAKER], overrides.split())
    assert str(caught.value).startswith(f"command line: {message}")


@pytest.mark.parametrize("channels", [8, 12, 24])
@pytest.mark.parametrize("key", ["channels_last", "compile"])
def test_the_channels_last_trap_is_refused_on_the_cpu(key, channels):
    overrides = [f"{key}=true", f"model_args.m_channels={channels}"]
    with pytest.raises(RecipeError, match=f"{key} true.*corrupt the heap"):
        load_config([WESPEAKER], overrides)
    assert getattr(load_config([WESPEAKER], [*overrides, "device=cuda"]), key)
    assert getattr(load_config([WESPEAKER], [f"{key}=true", "model_args.m_channels=16"]), key)


def test_a_window_of_shards_needs_the_utterance_sampler():
    window = "dataset_args.shuffle_args.shard_window=8"
    assert load_config([WESPEAKER], [window]).dataset_args.shuffle_args.shard_window == 8
    with pytest.raises(RecipeError, match=r"shard_window: found 8 with sampler speaker_balanced, expected 0"):
        load_config([WESPEAKER], [window, "dataset_args.sampler=speaker_balanced"])


def test_reinitialisation_after_the_end_is_refused():
    loss = "projection_args={project_type: alpha_arc_margin, scale: 5, alpha: 2, reinit_epoch: 151}"
    with pytest.raises(RecipeError, match=r"projection_args.reinit_epoch: found 151, expected at most num_epochs"):
        load_config([WESPEAKER], [loss])


def test_a_projection_without_its_type_is_refused(tmp_path):
    overlay = write(tmp_path / "scale.yaml", "projection_args: {scale: 64}\n")
    with pytest.raises(RecipeError, match=r"scale.yaml: projection_args.project_type: missing, expected one of"):
        load_config([overlay])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"absent.yaml: cannot read this file"):
        load_config([tmp_path / "absent.yaml"])


RANGES = {
    "dataloader_args.batch_size": (["1", "4096"], ["0", "-1", "1.5"]),
    "dataloader_args.num_workers": (["0", "64"], ["-1"]),
    "dataloader_args.prefetch_factor": (["1"], ["0"]),
    "dataset_args.shuffle_args.shard_window": (["0", "1"], ["-1"]),
    "dataset_args.filter_args.min_num_frames": (["0", "800"], ["-1"]),
    "dataset_args.filter_args.max_num_frames": (["100"], ["99", "0"]),
    "dataset_args.fbank_args.frame_shift": (["1"], ["0"]),
    "dataset_args.fbank_args.frame_length": (["1"], ["0"]),
    "dataset_args.fbank_args.dither": (["0", "0.5"], ["-0.001", ".inf"]),
    "dataset_args.spec_aug_args.num_t_mask": (["0"], ["-1"]),
    "dataset_args.spec_aug_args.num_f_mask": (["0"], ["-1"]),
    "dataset_args.spec_aug_args.max_t": (["1"], ["0"]),
    "dataset_args.spec_aug_args.max_f": (["1"], ["0"]),
    "dataset_args.spec_aug_args.prob": (["0", "1"], ["-0.001", "1.001"]),
    "dataset_args.sample_num_per_epoch": (["0", "1"], ["-1"]),
    "dataset_args.resample_rate": (["4000", "48000"], ["3999"]),
    "dataset_args.num_frms": (["2"], ["1"]),
    "dataset_args.aug_prob": (["0", "1"], ["-0.001", "1.001"]),
    "dataset_args.channel_prob": (["0", "1"], ["-0.001", "1.001"]),
    "model_args.embed_dim": (["1"], ["0"]),
    "model_args.m_channels": (["1"], ["0"]),
    "projection_args.scale": (["0.001", "1e6"], ["0", "-1"]),
    "projection_args.alpha": (["1", "2"], ["0.999", "2.001"]),
    "projection_args.reinit_epoch": (["1", "150", "null"], ["0", "151"]),
    "margin_update.initial_margin": (["0", "0.2"], ["-0.001", "0.201"]),
    "margin_update.final_margin": (["0", "1"], ["-0.001", "1.001"]),
    "margin_update.increase_start_epoch": (["1", "40"], ["0", "41"]),
    "margin_update.fix_start_epoch": (["20"], ["19"]),
    "optimizer_args.momentum": (["0.001", "0.999"], ["-0.1", "0", "1"]),
    "optimizer_args.weight_decay": (["0"], ["-1e-9"]),
    "scheduler_args.initial_lr": (["1e-9"], ["0"]),
    "scheduler_args.final_lr": (["1e-9"], ["0"]),
    "scheduler_args.warm_up_epoch": (["0"], ["-1"]),
    "num_threads": (["1", "null"], ["0"]),
    "num_avg": (["1", "150"], ["0", "151"]),
    "seed": (["0"], ["-1"]),
    "num_epochs": (["10"], ["9", "0"]),
    "save_epoch_interval": (["1"], ["0"]),
    "log_batch_interval": (["1"], ["0"]),
    "valid_epoch_interval": (["0", "1"], ["-1"]),
}
"""Key -> the ends of its range beside WeSpeaker's other values, and what lies just beyond."""
ENTMAX = "projection_args={project_type: alpha_arc_margin, scale: 5, alpha: 2}"


@pytest.mark.parametrize("key", RANGES)
def test_ranges_hold_their_ends_and_nothing_beyond(key):
    inside, outside = RANGES[key]
    for value in inside:
        load_config([WESPEAKER], [ENTMAX, f"{key}={value}"])
    for value in outside:
        with pytest.raises(RecipeError, match=r"command line.*: found .*expected"):
            load_config([WESPEAKER], [ENTMAX, f"{key}={value}"])


def test_bands_have_a_least_number_which_is_the_same_in_both_places():
    keys = "dataset_args.fbank_args.num_mel_bins", "model_args.feat_dim"
    assert load_config([WESPEAKER], [f"{key}=8" for key in keys]).model_args.feat_dim == 8
    with pytest.raises(RecipeError) as caught:
        load_config([WESPEAKER], [f"{key}=3" for key in keys])
    assert [line.split()[2] for line in str(caught.value).splitlines()] == [f"{key}:" for key in keys]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("projection_args={project_type: q_margin, alpha: 2}",
         "command line: projection_args.scale: missing, expected a value (project_type q_margin needs it)"),
        ("projection_args={project_type: q_margin, scale: 5, alhpa: 2}",
         "command line: projection_args.alhpa: unknown key; nearest: alpha; q_margin has project_type, scale, "
         "shard_classes, alpha"),
        ("projection_args={project_type: q_margin, scale: 5, alpha: 2, xyz: 1}",
         "command line: projection_args.xyz: unknown key; q_margin has project_type"),
        ("loss_args.x=1", "command line: loss_args.x: unknown key; valid names here: none"),
        ("dataset_args.fbank_args.num_frms=1", "unknown key; nearest valid names: dataset_args.num_frms"),
        ("dataset_args.xyz=1", "valid names here: sample_num_per_epoch, sampler, shuffle, shuffle_args, filter, "),
        ("max_t=1", "command line: max_t: unknown key; nearest valid names: dataset_args.spec_aug_args.max_t"),
        ("sheduler=1", "sheduler: unknown key; nearest valid names: scheduler, scheduler_args, margin_scheduler"),
        ("seed=null", "command line: seed: found null, expected an integer"),
        ("seed=[1]", "command line: seed: found [1] (list), expected an integer"),
        ("seed={a: 1}", "command line: seed: found {'a': 1} (mapping), expected an integer"),
        ("seed=2024-01-01", "command line: seed: found '2024-01-01' (text), expected an integer"),
        ("a.b=1", "command line: a: unknown key; valid names here: exp_dir"),
    ],
)  # fmt: skip
def test_more_of_what_is_wrong_is_said_with_its_place(override, message):
    with pytest.raises(RecipeError) as caught:
        load_config([WESPEAKER], [override])
    assert message in str(caught.value)


def test_a_key_below_a_value_is_refused_with_both():
    with pytest.raises(RecipeError, match=r"command line: seed\.x: seed was given the value 3 \(integer\) before"):
        load_config([WESPEAKER], ["seed=3", "seed.x=4"])


def test_spaces_around_a_key_and_equals_signs_in_a_value_are_kept_apart():
    assert load_config([WESPEAKER], [" model_init = a=b.pt "]).model_init == "a=b.pt"


def test_the_last_of_two_values_wins_and_a_section_may_be_given_whole():
    config = load_config([WESPEAKER], ["seed=1", "seed=2", "scheduler_args={warm_up_epoch: 3}"])
    assert (config.seed, config.scheduler_args.warm_up_epoch, config.scheduler_args.final_lr) == (2, 3, 5e-5)


def test_what_a_replaced_loss_said_is_not_blamed(tmp_path):
    """The first file's scale is gone with its loss; the second file is at fault for leaving it out."""
    one = write(tmp_path / "one.yaml", "projection_args: {project_type: q_margin, scale: 5, alpha: 2}\n")
    two = write(tmp_path / "two.yaml", "projection_args: {project_type: q_margin, alpha: 2}\n")
    with pytest.raises(RecipeError) as caught:
        load_config([one, two])
    assert str(caught.value).startswith(f"{two}: projection_args.scale: missing")


def test_a_section_that_replaces_a_value_and_the_other_way_round(tmp_path):
    one = write(tmp_path / "one.yaml", "scheduler_args: 3\n")
    two = write(tmp_path / "two.yaml", "scheduler_args: {warm_up_epoch: 7}\n")
    assert load_config([one, two]).scheduler_args.warm_up_epoch == 7
    with pytest.raises(RecipeError, match=r"one\.yaml: scheduler_args: found 3 \(integer\), expected a mapping"):
        load_config([two, one])


def test_a_saved_configuration_keeps_the_order_of_the_schema():
    """As conf/resnet34.yaml has it; sorted by name it is hard to read."""
    names = [line.split(":")[0] for line in Config().to_yaml().splitlines() if not line.startswith((" ", "-"))]
    assert names == [field.name for field in dataclasses.fields(Config)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**63),
        ("num_epochs", 10**30),
        ("dataloader_args.num_workers", 10**6),
        ("dataloader_args.batch_size", 2**64),
        ("dataset_args.resample_rate", 10**9),
        ("dataset_args.fbank_args.dither", 1e300),
        ("dataset_args.fbank_args.frame_length", 10**6),
        ("scheduler_args.initial_lr", 1e300),
        ("optimizer_args.weight_decay", 1.5),
        ("model_args.m_channels", 10**9),
        ("num_threads", 10**9),
        *((key, value) for key in ("projection_args.scale", "scheduler_args.final_lr") for value in (".nan", ".inf")),
        *((key, value) for key in ("dataset_args.aug_prob", "seed") for value in (".nan", "-.inf", "null")),
    ],
)
def test_numbers_that_mean_nothing_are_refused_with_their_key(key, value):
    with pytest.raises(RecipeError, match=f"command line: {re.escape(key)}: found .*, expected"):
        load_config([WESPEAKER], [f"{key}={value}"])


@pytest.mark.parametrize(("key", "most"), [("max_t", 200), ("max_f", 80)])
def test_a_mask_is_no_wider_than_the_features(key, most):
    masks = ["dataset_args.spec_aug=true", f"dataset_args.spec_aug_args.{key}"]
    load_config([WESPEAKER], [masks[0], f"{masks[1]}={most}"])
    load_config([WESPEAKER], [f"{masks[1]}={most + 1}"])
    with pytest.raises(RecipeError, match=rf"{key}: found {most + 1}, expected at most .* \({most}\)"):
        load_config([WESPEAKER], [masks[0], f"{masks[1]}={most + 1}"])


def test_a_default_at_odds_is_blamed_on_the_file_with_the_nearest_section(tmp_path):
    one = write(tmp_path / "one.yaml", "dataset_args: {filter_args: {min_num_frames: 900}}\n")
    two = write(tmp_path / "two.yaml", "dataset_args: {num_frms: 150}\n")
    with pytest.raises(RecipeError) as caught:
        load_config([one, two])
    assert str(caught.value) == (
        f"{one}: dataset_args.filter_args.min_num_frames: found 900, expected at most max_num_frames (800)"
    )


def test_a_loss_that_resembles_none_gets_no_hint():
    with pytest.raises(RecipeError) as caught:
        load_config([WESPEAKER], ["projection_args.project_type=zzz"])
    assert str(caught.value).endswith("expected one of softmax, add_margin, arc_margin, alpha_arc_margin, q_margin")


def test_one_of_several_words_is_not_called_the_only_value():
    with pytest.raises(RecipeError) as caught:
        load_config([WESPEAKER], ["dataset_args.sampler=Speaker"])
    assert str(caught.value).endswith("found 'Speaker' (text), expected 'utterance' or 'speaker_balanced'")


def test_an_unknown_network_is_the_only_complaint():
    with pytest.raises(RecipeError) as caught:
        load_config([WESPEAKER], ["model=ECAPA", "model_args.channels=512"])
    assert str(caught.value) == "command line: model: found 'ECAPA', expected one of ResNet10, ResNet18, ResNet34"


def test_another_network_of_the_same_arguments_keeps_them_all():
    config = load_config([WESPEAKER], ["model_args.m_channels=16", "model=ResNet18"])
    assert (config.model, config.model_args) == ("ResNet18", ResNetArgs(m_channels=16))
    assert "model: ResNet18\n" in config.to_yaml()
    assert "model" not in dataclasses.asdict(config)["model_args"]


def test_arguments_of_another_network_are_refused_from_python_too():
    with pytest.raises(ValueError, match="none of"):
        Config(model="ResNet35")
    with pytest.raises(ValueError, match="ResNet10 or ResNet18 or ResNet34"):
        Config(model_args=3)
