"""Where the margin goes: into the reference measure of the target, or into its angle."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from wespeaker_qm.utils.errors import RecipeError

_LARGEST_EXPONENT = 64  # (alpha - 1) s m, of which the loss is an exponential: 6e27 leaves float32 room for sums

MarginType = Literal["reference", "angular", "easy_angular"]
"""reference: q_y = exp(-s m) (CosFace, Q-Margin). angular: cos(angle_y + m) (ArcFace, EntMax, A3M). easy_angular: the
same for angles below 90 degrees only."""


def check_scale_and_margin(alpha: float, scale: float, margin: float, margin_type: MarginType) -> None:
    """Refuse what no loss can be computed with.

    Args:
        alpha: in [1, 2].
        scale: s.
        margin: m, the largest that will be asked for.
        margin_type: where it goes.

    Raises:
        RecipeError: names the value and the range.
    """
    if not 0 < scale < math.inf:
        raise RecipeError(f"scale is {scale!r}, expected a number above 0")
    if margin_type not in get_args(MarginType):
        raise RecipeError(f"margin_type is {margin_type!r}, expected one of {', '.join(get_args(MarginType))}")
    if not 0 <= margin < math.inf:
        raise RecipeError(f"margin is {margin!r}, expected a number of at least 0")
    if margin_type != "reference":
        if margin > math.pi:
            raise RecipeError(f"margin is {margin!r}, expected an angle in radians, at most {math.pi:.5f}")
        return
    exponent = (alpha - 1) * scale * margin
    if exponent > _LARGEST_EXPONENT:
        raise RecipeError(
            f"alpha {alpha!r}, scale {scale!r}, margin {margin!r}: (alpha - 1) scale margin is {exponent:.4g}, "
            f"expected at most {_LARGEST_EXPONENT}: the loss is of the size of its exponential; lower one of the three"
        )


class TargetLogit(NamedTuple):
    """Of the target, each of the cosines' shape: its logit, d logit / d cosine, and log of its reference measure."""

    logit: Tensor
    slope: Tensor
    log_q: Tensor


def target_logit(cosine: Tensor, scale: float, margin: float, margin_type: MarginType) -> TargetLogit:
    """What a margin makes of the targets' cosines.

    Args:
        cosine: of any shape, in [-1, 1].
        scale: s.
        margin: m; radians where it goes into the angle.
        margin_type: where it goes.
    """
    if margin_type == "reference":
        return TargetLogit(scale * cosine, torch.full_like(cosine, scale), torch.full_like(cosine, -scale * margin))
    easy_margin = margin_type == "easy_angular"
    penalised = angular_margin(cosine, margin, easy_margin=easy_margin)
    slope = angular_slope(cosine, margin, easy_margin=easy_margin)
    return TargetLogit(scale * penalised, scale * slope, torch.zeros_like(cosine))


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
    elsewhere = cosine if easy_margin else cosine - (1 - math.cos(margin))
    return torch.where(_is_curved(cosine, margin, easy_margin=easy_margin), penalised, elsewhere)


def angular_slope(cosine: Tensor, margin: float, *, easy_margin: bool) -> Tensor:
    """The derivative of `angular_margin`, in closed form: autograd is no part of an inference."""
    sine_squared = (1 - cosine) * (1 + cosine)
    cotangent = torch.where(sine_squared > 0, cosine / sine_squared.sqrt(), 0.0)
    slope = math.cos(margin) + math.sin(margin) * cotangent
    return torch.where(_is_curved(cosine, margin, easy_margin=easy_margin), slope, 1.0)


def _is_curved(cosine: Tensor, margin: float, *, easy_margin: bool) -> Tensor:
    return cosine > (0.0 if easy_margin else -math.cos(margin))
