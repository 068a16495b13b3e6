"""What a training step says of itself, and the means of that over many steps."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.train.distributed import ALONE, Processes


def batch_figures(
    output: LinearLoss,
    num_classes: int,
    processes: Processes = ALONE,
    others: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Means over the batch of all processes; one that is not finite is so on all.

    loss; accuracy: share of samples whose own class is nearest. For alpha > 1 also support: classes with a posterior
    above 0; candidate_density: share of the classes that the head looked at closely; solved and dropped: shares of
    samples whose own class has all of the posterior, or none.

    Args:
        output: of the head, for this process's part of the batch.
        num_classes: of the training.
        processes: this process among those that train.
        others: scalars of which the mean over the processes is wanted likewise.
    """
    figures = {"loss": output.loss, "accuracy": output.correct}
    if output.sparsity is not None:
        support, candidates, target_posterior = output.sparsity
        figures |= {"support": support, "candidate_density": candidates / num_classes}
        figures |= {"solved": target_posterior == 1, "dropped": target_posterior == 0}
    figures |= others or {}
    means = torch.stack([figure.detach().double().mean() for figure in figures.values()])
    means = processes.sum(means) / processes.world_size
    return dict(zip(figures, means.unbind(), strict=True))


class Means:
    """Running means of a batch's figures, and the clock."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.samples = 0
        self.wait_s = 0.0
        self.start = time.monotonic()

    def add(self, figures: dict[str, float], samples: int, wait_s: float) -> None:
        """Count a batch: means over its ``samples`` on all processes, and the seconds that were waited for it.

        What is not finite is left out: of gradients that a scaled loss made too large, as it now and then does.
        """
        for name, value in figures.items():
            if math.isfinite(value):
                self.sums[name] = self.sums.get(name, 0.0) + value * samples
                self.counts[name] = self.counts.get(name, 0) + samples
        self.samples += samples
        self.wait_s += wait_s

    def values(self) -> dict[str, float]:
        """The means, samples a second, and seconds waited for data."""
        elapsed_s = max(time.monotonic() - self.start, 1e-9)
        return {
            **{name: total / self.counts[name] for name, total in self.sums.items()},
            "samples_per_s": self.samples / elapsed_s,
            "wait_s": self.wait_s,
        }

    def state(self) -> dict[str, Any]:
        """All of it as plain values, for :meth:`restored`."""
        elapsed_s = time.monotonic() - self.start
        sums, counts = dict(self.sums), dict(self.counts)
        return {
            "sums": sums,
            "counts": counts,
            "samples": self.samples,
            "wait_s": self.wait_s,
            "elapsed_s": elapsed_s,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Means":
        """As if the time between :meth:`state` and now had not been."""
        means = cls()
        means.sums, means.samples, means.wait_s = dict(state["sums"]), state["samples"], state["wait_s"]
        # An earlier version counted all samples for each figure.
        means.counts = dict(state.get("counts", dict.fromkeys(means.sums, means.samples)))
        means.start -= state["elapsed_s"]
        return means
