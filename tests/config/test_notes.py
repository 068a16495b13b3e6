import math

import pytest

from wespeaker_qm.config import (
    AddMarginArgs,
    AlphaArcMarginArgs,
    Config,
    DatasetArgs,
    FilterArgs,
    MarginUpdate,
    QMarginArgs,
    SchedulerArgs,
    ShuffleArgs,
    config_notes,
)
from wespeaker_qm.config.notes import zero_loss_gap


def test_the_default_deserves_no_note():
    assert config_notes(Config()) == []


def test_a_window_of_shards_has_an_effect_and_no_note():
    assert config_notes(Config(dataset_args=DatasetArgs(shuffle_args=ShuffleArgs(shard_window=3)))) == []


@pytest.mark.parametrize(
    ("config", "note"),
    [
        (Config(exp_dir="exp/x"), "exp_dir is accepted"),
        (Config(num_epochs=30), "never reaches margin_update.final_margin: fix_start_epoch (40) comes after"),
        (Config(margin_update=MarginUpdate(update_margin=False)), "stays at initial_margin"),
        (Config(scheduler_args=SchedulerArgs(warm_up_epoch=150)), "never stops warming up"),
        (
            Config(
                projection_args=QMarginArgs(project_type="q_margin", scale=32.0, alpha=1.5),
                margin_update=MarginUpdate(final_margin=0.5),
            ),
            "gap that alpha 1.5, scale 32.0 and margin 0.5 ask for is 186.31, but no gap exceeds 2; lower scale (the "
            "gap is smallest, 1.36, at 4), alpha or the margin",
        ),
        (
            Config(
                projection_args=QMarginArgs(project_type="q_margin", scale=1.0, alpha=1.25),
                margin_update=MarginUpdate(final_margin=0.1),
            ),
            "is 4.10, but no gap exceeds 2; raise scale (the gap is smallest, 0.27, at 40) or alpha",
        ),
        (
            Config(
                projection_args=AlphaArcMarginArgs(project_type="alpha_arc_margin", scale=1.6, alpha=1.25),
                margin_update=MarginUpdate(final_margin=0.5),
            ),
            "alpha 1.25, scale 1.6 and margin 0.0 ask for is 2.50, but no gap exceeds 2; raise scale or alpha",
        ),
        (
            Config(dataset_args=DatasetArgs(shuffle_args=ShuffleArgs(shuffle_size=7))),
            "shuffle_args.shuffle_size has no effect",
        ),
        (
            Config(dataset_args=DatasetArgs(filter_args=FilterArgs(max_num_frames=700))),
            "filter_args.max_num_frames has no effect",
        ),
    ],
)
def test_what_defeats_training_is_said(config, note):
    (found,) = config_notes(config)
    assert note in found


@pytest.mark.parametrize(
    ("alpha", "scale", "margin", "gap"),
    [
        (1.5, 10, 0.1, 0.33),
        (1.75, 5, 0.1, 0.39),
        (1.25, 35, 0.2, 0.66),
        (1.25, 20, 0.5, 2.44),
        (1.5, 32, 0.5, 186.31),
        (1.0, 32, 0.2, math.inf),
        (2.0, 64, 20.0, math.inf),
        (2.0, 700, 1.0, math.exp(700) / 700),  # float64 ends at exp(709)
        (2.0, 710, 1.0, math.inf),
    ],
)
def test_the_gap_of_a_solved_sample(alpha, scale, margin, gap):
    assert zero_loss_gap(alpha, scale, margin) == pytest.approx(gap, abs=0.005)


@pytest.mark.parametrize(
    "config",
    [
        Config(num_epochs=40),  # the margin is final at the start of the last epoch
        Config(margin_update=MarginUpdate(update_margin=False, initial_margin=0.1, final_margin=0.1)),
        Config(num_epochs=30, margin_update=MarginUpdate(initial_margin=0.1, final_margin=0.1)),  # nothing to reach
        Config(scheduler_args=SchedulerArgs(warm_up_epoch=149)),
        Config(projection_args=QMarginArgs(project_type="q_margin", scale=1.0, alpha=1.0)),  # never exactly solved
        Config(projection_args=AddMarginArgs(project_type="add_margin", scale=1.0)),
        # The gap is exactly 2: exp(0) / (0.5 * 1).
        Config(projection_args=AlphaArcMarginArgs(project_type="alpha_arc_margin", scale=1.0, alpha=1.5)),
    ],
)
def test_what_is_just_right_deserves_no_note(config):
    assert config_notes(config) == []


def test_a_warm_up_as_long_as_the_training_and_a_margin_one_epoch_late_are_said():
    (late,) = config_notes(Config(num_epochs=39))
    assert "fix_start_epoch (40) comes after num_epochs (39)" in late
    (warming,) = config_notes(Config(scheduler_args=SchedulerArgs(warm_up_epoch=150)))
    assert "warm_up_epoch (150) is not below num_epochs (150)" in warming
