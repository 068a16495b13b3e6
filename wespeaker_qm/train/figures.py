"""What a training step says of itself, and the means of that over many steps."""

import time

import torch

from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.train.distributed import ALONE, Processes


def batch_figures(output: LinearLoss, num_classes: int, processes: Processes = ALONE) -> dict[str, float]:
    """Means over the batch of all processes, moved from the device at once; one that is not finite is so on all.

    loss; accuracy: share of samples whose own class is nearest. For alpha > 1 also support: classes with a posterior
    above 0; candidate_density: share of the classes that the head looked at closely; solved and dropped: shares of
    samples whose own class has all of the posterior, or none.
    """
    figures = {"loss": output.loss, "accuracy": output.correct}
    if output.sparsity is not None:
        support, candidates, target_posterior = output.sparsity
        figures |= {"support": support, "candidate_density": candidates / num_classes}
        figures |= {"solved": target_posterior == 1, "dropped": target_posterior == 0}
    means = torch.stack([figure.detach().double().mean() for figure in figures.values()])
    means = processes.sum(means) / processes.world_size
    return dict(zip(figures, means.tolist(), strict=True))


class Means:
    """Running means of a batch's figures, and the clock."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.samples = 0
        self.wait_s = 0.0
        self.start = time.monotonic()

    def add(self, figures: dict[str, float], samples: int, wait_s: float) -> None:
        """Count a batch: means over its ``samples``, and the seconds that the training waited for it."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples
        self.samples += samples
        self.wait_s += wait_s

    def values(self, world_size: int) -> dict[str, float]:
        """The means, samples a second over all processes, and seconds waited for data."""
        elapsed_s = max(time.monotonic() - self.start, 1e-9)
        return {
            **{name: total / self.samples for name, total in self.sums.items()},
            "samples_per_s": world_size * self.samples / elapsed_s,
            "wait_s": self.wait_s,
        }
