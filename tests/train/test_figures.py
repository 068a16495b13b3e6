"""The figures of a batch, from the loss of each of its samples."""

import torch

from wespeaker_qm.losses.linear import LinearLoss, Sparsity
from wespeaker_qm.train.figures import batch_figures


def test_figures_of_a_batch() -> None:
    sparsity = Sparsity(
        support=torch.tensor([1.0, 3.0, 2.0, 2.0]),
        candidates=torch.tensor([4.0, 4.0, 4.0, 4.0]),
        target_posterior=torch.tensor([1.0, 0.0, 0.5, 0.0]),
    )
    output = LinearLoss(torch.tensor([0.0, 4.0, 1.0, 3.0]), torch.tensor([True, False, True, False]), sparsity)
    assert batch_figures(output, num_classes=8).values() == {
        "loss": 2.0,
        "accuracy": 0.5,
        "support": 2.0,
        "candidate_density": 0.5,
        "solved": 0.25,
        "dropped": 0.5,
    }
    dense = batch_figures(output._replace(sparsity=None), num_classes=12)
    assert dense.values() == {"loss": 2.0, "accuracy": 0.5}
