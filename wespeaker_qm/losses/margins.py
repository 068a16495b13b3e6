"""Where the margin goes: into the reference measure of the target, or into its angle."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

MarginType = Literal["reference", "angular", "easy_angular"]
"""reference: q_y = exp(-s m) (CosFace, Q-Margin). angular: cos(angle_y + m) (ArcFace, EntMax, A3M). easy_angular: the
same for angles below 90 degrees only."""


class TargetLogit(NamedTuple):
    """Of the target, each of the cosines' shape: its logit, d logit / d cosine, and log of its reference measure."""

    logit: Tensor
    slope: Tensor
    log_q: Tensor


def target_logit(cosine: Tensor, scale: float, margin: float, margin_type: MarginType) -> TargetLogit:
    """What a margin makes of the targets' cosines, which are in [-1, 1]."""
    if margin_type == "reference":
        return TargetLogit(scale * cosine, torch.full_like(cosine, scale), torch.full_like(cosine, -scale * margin))
    with torch.enable_grad():
        variable = cosine.detach().requires_grad_()
        penalised = angular_margin(variable, margin, easy_margin=margin_type == "easy_angular")
        (slope,) = torch.autograd.grad(penalised.sum(), variable)
    return TargetLogit(scale * penalised.detach(), scale * slope, torch.zeros_like(cosine))


def angular_margin(cosine: Tensor, margin: float, *, easy_margin: bool = False) -> Tensor:
    """cos(angle + m) elementwise, for cosines in [-1, 1] and 0 <= m <= pi (ArcFace; WeSpeaker's ``ArcMarginProduct``).

    ``torch.cos(torch.acos(cosine) + margin)``, except where angle + m > pi: there it is cos - (1 - cos m), which meets
    the curve at angle + m = pi and keeps falling. With ``easy_margin``, the penalty holds for cos > 0 only.

    Gradients are finite everywhere: at cos = +-1, where the sine's own slope is infinite (and the embedding's gradient
    through it 0), it counts as 0.
    """
    sine_squared = (1 - cosine) * (1 + cosine)
    inside = sine_squared > 0
    sine = torch.where(inside, sine_squared, 1.0).sqrt() * inside
    penalised = cosine * math.cos(margin) - sine * math.sin(margin)
    if easy_margin:
        return torch.where(cosine > 0, penalised, cosine)
    return torch.where(cosine > -math.cos(margin), penalised, cosine - (1 - math.cos(margin)))
