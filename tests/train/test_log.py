"""The journal of a training: its records, what it warns of, and that processes but the first are silent."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from wespeaker_qm.config import Config
from wespeaker_qm.train.distributed import ALONE, Processes
from wespeaker_qm.train.log import Journal
from wespeaker_qm.train.speed import Arithmetic
from wespeaker_qm.utils.layout import RunFolder

SCHEDULED = {"margin": 0.1, "learning_rate": 0.5}


class Second(Processes):
    """The second of two processes, of which the first says nothing."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


def train(config: Config, folder: Path, processes: Processes, dropped: tuple[float, ...]) -> list[dict[str, float]]:
    """The records of epochs of two steps, of which ``dropped`` says the share of dropped samples."""
    run = RunFolder(folder)
    with Journal(
        run,
        config,
        processes,
        Arithmetic(2 * 10**9, 10.0**12),
        epoch=1,
        step=0,
        samples=0,
        samples_left=8 * len(dropped),
    ) as journal:
        for epoch, share in enumerate(dropped, start=1):
            journal.start_epoch(epoch)
            for step in (2 * epoch - 1, 2 * epoch):
                figures = {"loss": float(step), "accuracy": 0.5, "dropped": share}
                times_ms = {"wait": 250.0, "forward": 10.0 * step}
                journal.add_step(step, figures, samples=2 * step, wait_s=0.25, times_ms=times_ms, scheduled=SCHEDULED)
            journal.end_epoch(2 * epoch, SCHEDULED, elapsed_s=90.0 * epoch)
        journal.add_validation(4, {"eer": 0.25, "tar_at_far_1e-2": None}, elapsed_s=180.0)
    path = run.training_log
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_records_are_means_since_the_last_one_and_over_the_epoch(tiny_config: Config, tmp_path: Path, caplog) -> None:
    config = dataclasses.replace(tiny_config, num_epochs=2, log_batch_interval=3)
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        records = train(config, tmp_path, ALONE, (0.75, 0.5))
    assert [(record["type"], record["epoch"], record["step"]) for record in records] == [
        ("epoch", 1, 2),
        ("step", 2, 3),
        ("epoch", 2, 4),
        ("valid", 2, 4),
    ]
    first, step, second, valid = records
    # Of steps of 2, 4, 6 and 8 samples.
    losses = [(1 * 2 + 2 * 4) / 6, 3.0, (3 * 6 + 4 * 8) / 14]
    assert [record["loss"] for record in (first, step, second)] == losses
    assert [record["wait_s"] for record in (first, step, second)] == [0.5, 0.25, 0.5]
    assert {name: first[name] for name in SCHEDULED} == SCHEDULED
    assert [record["speed"]["forward_ms"] for record in (first, step, second)] == [15.0, 30.0, 35.0]
    assert [record["speed"]["forward_ms_p95"] for record in (first, step, second)] == [19.5, 30.0, 39.5]
    for record in (first, step, second):
        speed = record["speed"]
        assert speed["wait_ms"] == 250.0
        assert speed["tflops"] == pytest.approx(2e-3 * record["samples_per_s"])
        assert speed["mfu"] == pytest.approx(speed["tflops"])  # of 1 TFLOP/s
        assert speed["peak_memory_mib"] > 10
    assert [(record["samples"], record["minutes"]) for record in (first, second)] == [(6, 1.5), (20, 3.0)]
    assert (valid["eer"], valid["tar_at_far_1e-2"], valid["minutes"]) == (0.25, None, 3.0)
    assert "epoch 2: held-out speakers: EER 25.0 %, TAR at FAR 1e-2 not measurable" in caplog.text
    assert "too sparse" not in caplog.text


def test_a_log_that_cannot_be_closed_hides_no_error(tiny_config: Config, tmp_path: Path, caplog) -> None:
    arithmetic = Arithmetic(2 * 10**9, 10.0**12)
    with (
        pytest.raises(KeyError, match="the reason"),
        Journal(
            RunFolder(tmp_path), tiny_config, ALONE, arithmetic, epoch=1, step=0, samples=0, samples_left=8
        ) as journal,
    ):
        journal._writer.close()
        journal._writer.close = lambda: (tmp_path / "none" / "file").touch()
        raise KeyError("the reason")
    assert "error: [Errno 2] No such file" in caplog.text


def test_a_last_epoch_that_drops_most_samples_is_told(tiny_config: Config, tmp_path: Path, caplog) -> None:
    train(dataclasses.replace(tiny_config, num_epochs=2), tmp_path, ALONE, (0.0, 0.625))
    assert "in the last epoch 62 % of the samples gave their own class a posterior of exactly 0" in caplog.text


def test_other_processes_than_the_first_write_nothing(
    tiny_config: Config, tmp_path: Path, caplog, capsys: pytest.CaptureFixture[str]
) -> None:
    second = Second(rank=1, world_size=2, device=torch.device("cpu"))
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        assert train(dataclasses.replace(tiny_config, num_epochs=2), tmp_path / "exp", second, (1.0, 1.0)) == []
    assert not (tmp_path / "exp").exists()
    assert not caplog.text
    assert capsys.readouterr().err == ""
