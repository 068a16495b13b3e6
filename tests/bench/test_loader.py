"""The benchmark of the loader: its table is whole, and it refuses what cannot be measured."""

from pathlib import Path

import pytest

from wespeaker_qm.bench.loader import STAGES, LoaderPlan, loader_report
from wespeaker_qm.config import Config
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder


def test_the_report_says_what_feeds_and_what_consumes(tiny_config: Config, tiny_corpus: Path) -> None:
    report = loader_report(
        LoaderPlan(tiny_config, DataFolder(tiny_corpus), batch_size=4, rounds=2, steps=2, num_workers=1)
    )
    rows = {cells[1].strip(): cells[2:-1] for line in report.splitlines() if len(cells := line.split("|")) > 3}
    for stage in (*STAGES, "all on a worker"):
        milliseconds, per_second = (float(cell.replace(",", "")) for cell in rows[stage])
        assert per_second == pytest.approx(1e3 / milliseconds, rel=0.05, abs=1)
    assert float(rows["torchaudio's Kaldi fbank, a row at a time / ours"][0]) > 0
    assert float(rows["embedding, batch norm / folded"][0]) > 0
    assert rows["training step, contiguous / channels-last"][0].strip() == "not for this network"  # too few channels
    assert "ResNet34 here consumes" in report
    assert "2 training steps of 4 with 1 loader process: waited" in report
    assert "A loader process has" in report


@pytest.mark.parametrize("option", ["batch_size", "rounds", "steps"])
def test_counts_below_one_are_refused(tiny_config: Config, tiny_corpus: Path, option: str) -> None:
    plan = LoaderPlan(tiny_config, DataFolder(tiny_corpus), batch_size=4, rounds=2, steps=2, num_workers=1)
    with pytest.raises(RecipeError, match=f"--{option}: found 0, expected at least 1"):
        loader_report(plan._replace(**{option: 0}))
