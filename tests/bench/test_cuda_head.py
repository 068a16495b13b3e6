"""The benchmark of heads on a GPU: its tables anywhere, its times and graphs where there is one."""

import pytest
import torch

from wespeaker_qm.bench.cases import Case
from wespeaker_qm.bench.cuda_head import cuda_head_report
from wespeaker_qm.bench.device_timing import DeviceTimes, num_sets, time_on_device
from wespeaker_qm.bench.head_plans import COSFACE, DENSE, LIGER, SPARSE, TF32, Contest
from wespeaker_qm.bench.head_tables import DeviceContest, device_table
from wespeaker_qm.utils.errors import RecipeError

TINY = Case(8, 16, 120, alpha=1.5, scale=10, margin=0.1, trained=False)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_the_table_has_a_row_for_each_head_and_says_what_is_missing() -> None:
    contest = Contest(TINY, {COSFACE: 0.5, DENSE: 0.4, LIGER: None})
    times = {
        SPARSE: DeviceTimes([1.0, 1.0, 2.0], [0.5, 0.5, 0.5], 2**20),
        COSFACE: DeviceTimes([4.0, 4.0, 4.0], None, 3 * 2**20),
        DENSE: DeviceTimes([2.0, 2.0, 2.0], [2.0, 2.0, 2.0], 2**20),
    }
    table = device_table([DeviceContest(contest, 12.0, 60.0, times, {LIGER: "not installed"})], bandwidth=1e9)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    header, *rows = rows[0], *rows[2:]
    assert all(len(row) == len(header) for row in rows)
    sparse, cosface, dense, liger = (dict(zip(header, row, strict=True)) for row in rows)
    assert sparse["support %"] == "10.00" and sparse["candidates %"] == "50.00"
    # 8 (120 + 8) 16 bytes at 1 GB/s are 0.0164 ms.
    assert (sparse["started"], sparse["graph"], sparse["ratio"], sparse["floor / graph"]) == (
        "1.000",
        "0.500",
        "",
        "0.03",
    )
    assert (cosface["ratio"], cosface["graph"], cosface["verdict"]) == ("0.250", "not captured", "met")
    assert (dense["ratio"], dense["graph ratio"], dense["verdict"]) == ("0.500", "0.250", "NOT met")
    assert liger["head"] == f"{LIGER}: not installed" and liger["started"] == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_it_is_refused() -> None:
    with pytest.raises(RecipeError, match="--device: found cuda, but this machine shows no GPU"):
        cuda_head_report([], rounds=1)


@needs_gpu
def test_steps_are_started_and_replayed() -> None:
    source = torch.ones(2**20, device="cuda")
    counts = {"kept": 0, "not": 0}

    def step(name: str) -> torch.Tensor:
        counts[name] += 1
        return source + 1

    names = {name: [lambda name=name: step(name)] * 2 for name in counts}
    times = time_on_device(names, 3, lambda name: name == "kept")
    assert len(times["kept"].started_ms) == len(times["kept"].replayed_ms or []) == 3
    assert times["not"].replayed_ms is None
    assert counts["kept"] == counts["not"] + 2, "the program is not called for a replay"
    assert all(4 * 2**20 <= time.peak_bytes < 5 * 2**20 for time in times.values())
    assert num_sets(2**40) == 1 and num_sets(2**20) > 10


@needs_gpu
def test_a_small_report() -> None:
    report = cuda_head_report([Contest(TINY._replace(num_classes=3000), {COSFACE: 10.0, COSFACE + TF32: None})], 1)
    assert "TB/s" in report and "NVIDIA" in report and report.count("8, 16, 3,000") == 3
