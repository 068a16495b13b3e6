"""Schedules against WeSpeaker's numbers (oracles_data/schedules.json)."""

import json
from pathlib import Path

import pytest

from wespeaker_qm.train.schedules import annealed_margin, exponential_decrease

ORACLE = json.loads((Path(__file__).parents[1] / "oracles_data" / "schedules.json").read_text())
CASES = {name: case for name, case in ORACLE.items() if isinstance(case, dict)}


@pytest.mark.parametrize("name", CASES)
def test_equal_wespeakers(name: str) -> None:
    case = CASES[name]
    rate = exponential_decrease(
        **case["scheduler_args"],
        num_epochs=case["num_epochs"],
        steps_per_epoch=case["epoch_iter"],
        scale_ratio=case["scale_ratio"],
    )
    options = {key: value for key, value in case["margin_update"].items() if key != "update_margin"}
    margin = annealed_margin(**options, steps_per_epoch=case["epoch_iter"])
    assert len(case["rows"]) > 5
    for step, expected_rate, expected_margin in case["rows"]:
        assert rate(step) == pytest.approx(expected_rate, rel=1e-7, abs=1e-15)
        assert margin(step) == pytest.approx(expected_margin, rel=1e-7, abs=1e-15)


def test_unscaled_warm_up_from_one_keeps_a_small_scale() -> None:
    rate = exponential_decrease(
        initial_lr=0.1,
        final_lr=0.1,
        warm_up_epoch=1,
        warm_from_zero=False,
        num_epochs=2,
        steps_per_epoch=10,
        scale_ratio=0.5,
    )
    assert [rate(0), rate(5), rate(15)] == pytest.approx([0.05, 0.05, 0.05])


def test_margin_without_annealing_span_jumps() -> None:
    margin = annealed_margin(
        initial_margin=0.0,
        final_margin=0.2,
        increase_start_epoch=3,
        fix_start_epoch=3,
        increase_type="exp",
        steps_per_epoch=4,
    )
    assert [margin(7), margin(8)] == [0.0, 0.2]
