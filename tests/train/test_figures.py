"""The figures of a batch, from the loss of each of its samples."""

import torch

from wespeaker_qm.losses.linear import LinearLoss, Sparsity
from wespeaker_qm.train.figures import Means, batch_figures
from wespeaker_qm.utils.reading import Reading


def test_figures_of_a_batch() -> None:
    sparsity = Sparsity(
        support=torch.tensor([1.0, 3.0, 2.0, 2.0]),
        candidates=torch.tensor([4.0, 4.0, 4.0, 4.0]),
        target_posterior=torch.tensor([1.0, 0.0, 0.5, 0.0]),
    )
    output = LinearLoss(torch.tensor([0.0, 4.0, 1.0, 3.0]), torch.tensor([True, False, True, False]), sparsity)
    assert Reading(batch_figures(output, num_classes=8)).values() == {
        "loss": 2.0,
        "accuracy": 0.5,
        "support": 2.0,
        "candidate_density": 0.5,
        "solved": 0.25,
        "dropped": 0.5,
    }
    dense = batch_figures(output._replace(sparsity=None), num_classes=12)
    assert Reading(dense).values() == {"loss": 2.0, "accuracy": 0.5}


def test_means_leave_out_what_is_not_finite_and_go_on_from_their_state() -> None:
    means = Means()
    means.add({"loss": 1.0, "grad_norm": 3.0}, 8, 0.0)
    means.add({"loss": 2.0, "grad_norm": torch.inf}, 8, 0.0)
    means = Means.restored(means.state())
    means.add({"loss": 3.0, "grad_norm": 5.0}, 8, 0.0)
    values = means.values()
    assert (values["loss"], values["grad_norm"]) == (2.0, 4.0)
    earlier = {name: value for name, value in means.state().items() if name != "counts"}
    assert Means.restored({**earlier, "sums": {"loss": 48.0}}).values()["loss"] == 2.0
