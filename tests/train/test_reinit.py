"""Prototypes are replaced as they are now, also where an optimiser had left some behind."""

import copy
from pathlib import Path

import pytest
import torch

from wespeaker_qm.config import Config
from wespeaker_qm.losses import PrototypeSGD, dispatch
from wespeaker_qm.losses.dispatch import Way
from wespeaker_qm.train.build import build_training
from wespeaker_qm.train.distributed import ALONE
from wespeaker_qm.train.reinit import reinitialise_head
from wespeaker_qm.utils.layout import DataFolder


def test_norms_are_those_that_an_optimiser_has_yet_to_give(
    tiny_config: Config, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dispatch.WAYS, "cpu", ((float("inf"), Way.FILTERED),))
    parts = build_training(tiny_config, DataFolder(tiny_corpus), ALONE)
    head, plain = parts.model.projection, copy.deepcopy(parts.model.projection)
    hyper = {"lr": 0.01, "weight_decay": 5.0}
    optimizers = PrototypeSGD([head.weight], head, **hyper), torch.optim.SGD([plain.weight], **hyper)
    for optimizer, weight in zip(optimizers, (head.weight, plain.weight), strict=True):
        for row in range(2):
            weight.grad = torch.zeros_like(weight)
            weight.grad[row] = 1
            weight.grad = weight.grad.to_sparse(1) if weight is head.weight else weight.grad
            optimizer.step()
    assert not torch.equal(head.weight, plain.weight)
    reinitialise_head(parts.model, parts.data, parts.plan, ALONE)
    torch.testing.assert_close(head.weight.norm(dim=1), plain.weight.norm(dim=1))
    expected = head.weight.detach().clone()
    assert torch.equal(head.state_dict()["weight"], expected)
