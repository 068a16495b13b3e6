"""Training with the sparse head is training with the dense loss."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wespeaker_qm.config import Config, load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_heads", ROOT / "tools/compare_heads.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("overlay", ["qmargin_a1.5", "entmax_a1.75"])
def test_the_sparse_head_gives_the_loss_curve_of_the_dense_loss(
    tool: ModuleType, tiny_config: Config, tiny_corpus: Path, tmp_path: Path, overlay: str
) -> None:
    tiny_config.save(tmp_path / "conf.yaml")
    config = load_config([tmp_path / "conf.yaml", ROOT / f"conf/loss/{overlay}.yaml"])
    sparse, dense = (
        tool.train(config, tiny_corpus, 24, torch.float64, compute) for compute in (tool.SPARSE, tool.dense_loss)
    )
    assert len(sparse) == 9
    assert max(step.loss_difference for step in sparse) < 1e-12
    assert 0 < max(step.gradient_difference for step in sparse) < 1e-10
    assert max(tool.apart(sparse, dense)) < tool.LIMIT
