"""Whitening within classes: what the last layer of a trained network leaves to be done.

Legend: N samples, D embedding dimension, C classes.

The loss sets the training classes apart, but leaves directions in which the embeddings of one speaker scatter widely:
with the text, the channel, the noise. Within-class covariance normalisation (WCCN: Hatch, Kajarekar and Stolcke,
Interspeech 2006) scales these down. Departures: the map is the symmetric root rather than Cholesky's, of which it is a
rotation, so that all cosines are the same; covariances are of unit embeddings; and the map is not applied to embeddings
but multiplied into the last layer, so that the network remains one of its kind, for whoever reads it.
"""

from collections.abc import Iterable

import torch
from torch import nn

FLOOR = 0.1
"""Added to the variance in every direction, as a share of the mean one: few speakers tell little of the smallest."""


def within_class_covariance(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Mean over all samples of (u - m) (u - m)', u being a unit embedding and m the mean of those of its class.

    Memory: a D x D matrix, and a vector and a count for each class that was seen.

    Args:
        batches: embeddings (B, D), of any norm, and their classes (B,), on one device.

    Returns:
        (D, D), float64, on the CPU.
    """
    second = torch.zeros((), dtype=torch.float64)
    sums: dict[int, torch.Tensor] = {}
    counts: dict[int, int] = {}
    for embedding, label in batches:
        unit = nn.functional.normalize(embedding.detach().cpu().double(), dim=1)
        second = second + unit.T @ unit
        for row, number in zip(unit, label.tolist(), strict=True):
            sums[number] = sums[number] + row if number in sums else row
            counts[number] = counts.get(number, 0) + 1
    for number, total in sums.items():
        second = second - torch.outer(total, total) / counts[number]
    return second / sum(counts.values())


def whitening_map(covariance: torch.Tensor) -> torch.Tensor:
    """(covariance / mean variance + FLOOR)^(-1/2), (D, D) float64: the identity over a constant, where all is even.

    Args:
        covariance: (D, D), symmetric, not zero.
    """
    size = len(covariance)
    scaled = covariance.double() / covariance.trace() * size
    values, vectors = torch.linalg.eigh(scaled + FLOOR * torch.eye(size, dtype=torch.float64))
    return (vectors / values.sqrt()) @ vectors.T


@torch.no_grad()
def multiply_into(layer: nn.Linear, matrix: torch.Tensor) -> None:
    """Make ``layer`` give ``matrix`` (D, D) times what it gave, in place; computed in float64."""
    for parameter in (layer.weight, layer.bias):
        parameter.copy_(matrix @ parameter.double())
