"""Q-Margin in ten seconds: learn where scikit-learn's digits lie on a circle, and draw it.

    python examples/digits.py                       # writes digits.svg
    python examples/digits.py --alpha 1             # the same with CosFace

A small network maps the 8 x 8 pixels to two numbers; the loss sees only their angle. It needs scikit-learn and
matplotlib (`pip install scikit-learn matplotlib`), and of this project the losses alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import normalize

from wespeaker_qm.losses import alpha_margin_linear

SCALE, MARGIN, NUM_STEPS = 30.0, 0.05, 400
NUM_TRAINING = 1200
"""Of 1,797 digits; the others are told by the nearest prototype."""


class Learnt(NamedTuple):
    """What is drawn, N digits that were not trained on."""

    embeddings: torch.Tensor
    """(N, 2), of length 1."""
    prototypes: torch.Tensor
    """(10, 2), of length 1."""
    labels: torch.Tensor
    """(N,)"""
    accuracy: float
    support: float
    """Mean number of classes with a posterior above 0, in the last step."""
    solved: float
    """Share of the training digits whose loss is exactly 0 in the last step."""


def learn(alpha: float, seed: int = 0) -> Learnt:
    """Train with Q-Margin of this alpha (1: CosFace)."""
    torch.manual_seed(seed)
    digits = load_digits()
    pixels = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels))
    train, test = order[:NUM_TRAINING], order[NUM_TRAINING:]
    network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2))
    angles = torch.arange(10) * (2 * torch.pi / 10)
    prototypes = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
    optimizer = torch.optim.Adam([*network.parameters(), prototypes], lr=0.01)
    for step in range(NUM_STEPS):
        margin = MARGIN * min(1, 2 * step / NUM_STEPS)  # annealed, as in the recipe
        loss, _, sparsity = alpha_margin_linear(
            network(pixels[train]), prototypes, labels[train], alpha=alpha, scale=SCALE, margin=margin
        )
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        embeddings, centres = normalize(network(pixels[test])), normalize(prototypes)
        accuracy = (embeddings @ centres.T).argmax(dim=1).eq(labels[test]).float().mean().item()
    support = 10.0 if sparsity is None else sparsity.support.float().mean().item()  # alpha 1 is dense
    solved = loss.eq(0).float().mean().item()
    return Learnt(embeddings, centres, labels[test], accuracy, support, solved)


def draw(learnt: Learnt, path: Path, title: str) -> None:
    """Write the figure: a digit at the angle of its embedding, at a random radius, so that none hides another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(title=title, aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    axes.axis("off")
    radius = torch.empty(len(learnt.labels)).uniform_(0.75, 1.0, generator=torch.Generator().manual_seed(0))
    places = learnt.embeddings * radius[:, None]
    axes.scatter(places[:, 0], places[:, 1], c=learnt.labels, cmap="tab10", s=12)
    for digit, (x, y) in enumerate(learnt.prototypes.tolist()):
        axes.plot([0, x], [0, y], color="0.8", linewidth=0.8, zorder=0)
        axes.text(1.12 * x, 1.12 * y, str(digit), ha="center", va="center", fontsize=14)
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpha", type=float, default=1.5)
    parser.add_argument("--out", type=Path, default=Path("digits.svg"))
    args = parser.parse_args(arguments)
    learnt = learn(args.alpha)
    draw(learnt, args.out, f"Q-Margin, alpha {args.alpha:g}, s {SCALE:g}, m {MARGIN:g}")
    print(f"accuracy on digits not trained on: {100 * learnt.accuracy:.1f} %")
    print(f"classes with a posterior above 0: {learnt.support:.2f} of 10")
    print(f"training digits whose loss is exactly 0: {100 * learnt.solved:.0f} %")


if __name__ == "__main__":
    main()
