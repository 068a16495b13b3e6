"""The benchmark of a training step: its tables are whole, its heads are right, and it finds what is slow."""

import dataclasses
from pathlib import Path

import pytest
import torch

from wespeaker_qm.bench.train import PlainCosFace, TrainPlan, first_limit, heads_of, noise_set, train_report
from wespeaker_qm.config import Config
from wespeaker_qm.losses.alpha import alpha_divergence_loss
from wespeaker_qm.losses.heads import QMarginHead
from wespeaker_qm.train import build
from wespeaker_qm.train.distributed import ALONE
from wespeaker_qm.train.speed import Arithmetic
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder

PARTS = ("waited for data", "forward", "backward", "norm and optimiser", "host, to give out the work", "whole step")
HALVES = ("forward: network", "forward: head", "backward: head", "backward: network")


@pytest.mark.parametrize("on_corpus", [False, True])
def test_the_report_has_every_part_of_a_step_for_every_head(
    tiny_config: Config, tiny_corpus: Path, on_corpus: bool
) -> None:
    data = DataFolder(tiny_corpus) if on_corpus else None
    report = train_report(TrainPlan(tiny_config, data, num_classes=60, rounds=2, steps=2))
    rows = {cells[1].strip(): cells[2:-1] for line in report.splitlines() if len(cells := line.split("|")) > 3}
    assert [name.strip() for name in rows["part of a step"]] == [*heads_of(tiny_config, 60)]
    for part in (*PARTS, *HALVES, "copy and front end, beside the step on a GPU"):
        assert all(float(cell.split()[0]) >= 0 for cell in rows[part]), part
    assert all(float(cell) > 0 for cell in rows["samples/s, waits counted in"])
    assert all(int(cell) > 300 for cell in rows["operations a step"])
    whole, forward, backward = (float(rows[part][0].split()[0]) for part in ("whole step", "forward", "backward"))
    assert whole >= 0.9 * (forward + backward)
    assert len([name for name in rows if name.startswith("Q-Margin") and " / CosFace" in name]) == 2
    assert f"{12 if on_corpus else 60} classes" in report
    assert "First limit: " in report


def test_noise_is_trained_on_as_a_corpus_is(tiny_config: Config) -> None:
    """Every augmentation comes up, and classes go up to the last."""
    dataset_args = dataclasses.replace(tiny_config.dataset_args, speed_perturb=True)
    config = dataclasses.replace(tiny_config, dataset_args=dataset_args)
    data = noise_set(config, 300)
    plan = build.build_plan(config, data, ALONE)
    batches = [data.chunks[identifier] for _, identifier in zip(range(100), plan, strict=False)]
    assert max(int(batch.label.max()) for batch in batches) > 290
    for rows in ("noise_rows", "rir_rows", "tilt_rows", "hiss_rows", "mask_rows"):
        assert sum(len(getattr(batch, rows)) for batch in batches) > 50
    loaded = next(iter(build.build_loader(config, data, plan, ALONE.device)))
    assert loaded.features.shape == (8, 40, 16)
    assert loaded.features.isfinite().all()


def test_the_plain_head_computes_what_ours_does() -> None:
    ours, plain = (kind(8, 30, scale=32.0) for kind in (QMarginHead, PlainCosFace))
    plain.load_state_dict(ours.state_dict())
    embedding = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    target = torch.arange(16)
    outputs = [head(embedding, target, 0.2) for head in (ours, plain)]
    cosine = torch.nn.functional.normalize(embedding) @ torch.nn.functional.normalize(ours.weight).T
    shift = 0.2 * torch.nn.functional.one_hot(target, 30)
    expected = alpha_divergence_loss(32 * (cosine - shift), target, 1.0).loss
    for output in outputs:
        torch.testing.assert_close(output.loss, expected.to(output.loss), atol=1e-4, rtol=1e-4)
    assert torch.equal(outputs[0].correct, outputs[1].correct)


EVEN = {"wait": 0.0, "forward": 30.0, "backward": 60.0, "optimiser": 2.0, "host": 20.0, "step": 95.0}
LIMITS = [
    ({}, "the network, which does 50 % of the arithmetic"),
    ({"wait": 10.0}, "data, for which 11 % of a step is waited"),
    ({"host": 94.0, "forward": 10.0, "backward": 20.0}, "the host"),
    ({"optimiser": 20.0}, "the optimiser, with 21 %"),
    ({"forward: head": 12.0, "backward: head": 15.0}, "the head, with 28 %"),
]


@pytest.mark.parametrize(("times_ms", "limit"), LIMITS)
def test_what_limits_a_step_first(times_ms: dict[str, float], limit: str) -> None:
    arithmetic = Arithmetic(per_sample=95 * 10**6, peak_per_s=2e9)
    assert first_limit({**EVEN, **times_ms}, arithmetic, batch_size=1).startswith(limit)


@pytest.mark.parametrize("option", ["classes", "rounds", "steps"])
def test_counts_below_one_are_refused(tiny_config: Config, option: str) -> None:
    plan = TrainPlan(tiny_config, None, num_classes=60, rounds=1, steps=1)
    field = "num_classes" if option == "classes" else option
    with pytest.raises(RecipeError, match=f"--{option}: found 0, expected at least 1"):
        train_report(plan._replace(**{field: 0}))
