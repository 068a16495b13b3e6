"""Draw the figure of the page on the losses: `python docs/figures.py` writes docs/images/family.svg."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from wespeaker_qm.losses import alpha_divergence_loss, alpha_softargmax, target_log_reference

IMAGES = Path(__file__).parent / "images"
ALPHAS = (1.0, 1.25, 1.5, 2.0)
COLOURS = ("0.4", "#0072b2", "#d55e00", "#009e73")
SCALE, MARGIN = 10.0, 0.1


def family(path: Path) -> None:
    """Posterior, threshold, loss and gap of zero loss, for each alpha."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    (posterior, threshold), (loss, gap) = figure.subplots(2, 2)
    difference = torch.linspace(-5, 5, 401, dtype=torch.float64)
    cosine_gap = torch.linspace(-0.5, 1.0, 401, dtype=torch.float64)
    scales = np.linspace(2, 40, 400)
    for alpha, colour in zip(ALPHAS, COLOURS, strict=True):
        style = {"color": colour, "label": f"alpha {alpha:g}"}
        two = torch.stack([difference, torch.zeros_like(difference)], dim=1)
        shares = alpha_softargmax(two, alpha)
        posterior.plot(difference, shares[:, 0], **style)
        (largest, place), a = shares.max(dim=1), alpha - 1
        # p = (1 + a (theta - tau)) ** (1 / a), solved for tau.
        rise = (largest**a - 1) / a if a > 0 else largest.log()
        tau = two.gather(1, place[:, None])[:, 0] - rise
        threshold.plot(difference, tau, **style)
        if a > 0:
            threshold.plot(difference, tau - 1 / a, color=colour, linestyle=":")
        logits = torch.stack([SCALE * cosine_gap, torch.zeros_like(cosine_gap)], dim=1)
        target = torch.zeros(len(cosine_gap), dtype=torch.long)
        values = alpha_divergence_loss(
            logits, target, alpha, target_log_reference(logits, target, -SCALE * MARGIN)
        ).loss
        loss.plot(cosine_gap, values, **style)
        if alpha > 1:
            gap.plot(scales, np.exp((alpha - 1) * scales * MARGIN) / ((alpha - 1) * scales), **style)
    posterior.set(xlabel="logit minus the other logit", ylabel="posterior")
    threshold.plot(difference, two, color="0.8", linewidth=1, zorder=0)
    threshold.set(xlabel="logit minus the other logit", ylabel="threshold", ylim=(-3.5, 5.5))
    loss.set(xlabel="cosine gap to the other class", ylabel="loss (s 10, m 0.1)", xlim=(-0.1, 0.8), ylim=(-0.05, 1.8))
    gap.set(xlabel="scale s", ylabel="cosine gap of zero loss (m 0.1)", ylim=(0, 2.2))
    gap.axhline(2, color="0.7", linestyle=":")
    gap.text(39, 2.03, "no cosine gap is larger", ha="right", fontsize=8, color="0.4")
    posterior.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    mpl.rcParams["svg.hashsalt"] = "wespeaker_qm"
    family(IMAGES / "family.svg")
