"""What is valid but worth a second look."""

import math

from wespeaker_qm.config.schema import Config
from wespeaker_qm.config.wespeaker import compatibility_notes


def config_notes(config: Config) -> list[str]:
    """What a user should know about a valid configuration: settings without effect or that defeat training."""
    notes = compatibility_notes(config)
    margin = config.margin_update
    if margin.update_margin and margin.final_margin > margin.initial_margin:
        if margin.fix_start_epoch > config.num_epochs:
            notes.append(
                f"the margin never reaches margin_update.final_margin: fix_start_epoch ({margin.fix_start_epoch}) "
                f"comes after num_epochs ({config.num_epochs})"
            )
    elif margin.final_margin != margin.initial_margin:
        notes.append("margin_update.update_margin is false: the margin stays at initial_margin")
    if config.scheduler_args.warm_up_epoch >= config.num_epochs:
        notes.append(
            f"the learning rate never stops warming up: scheduler_args.warm_up_epoch "
            f"({config.scheduler_args.warm_up_epoch}) is not below num_epochs ({config.num_epochs})"
        )
    loss, scale = config.projection_args.definition, config.projection_args.scale
    if loss.alpha is not None and loss.alpha > 1:
        prior_margin = margin.final_margin if loss.margin_type == "reference" else 0.0
        gap = zero_loss_gap(loss.alpha, scale, prior_margin)
        if gap > 2:
            notes.append(
                f"projection_args: no sample can ever be solved: the cosine gap that alpha {loss.alpha}, "
                f"scale {scale} and margin {prior_margin} ask for is {gap:.2f}, but no gap exceeds 2; "
                + _remedy(loss.alpha, scale, prior_margin)
            )
    return notes


def _remedy(alpha: float, scale: float, margin: float) -> str:
    """How to bring the gap below 2: it is smallest, e m, at the scale 1 / (a m)."""
    a = alpha - 1
    best_scale = math.inf if margin == 0 else 1 / (a * margin)
    if scale > best_scale:
        return f"lower scale (the gap is smallest, {math.e * margin:.2f}, at {best_scale:.3g}), alpha or the margin"
    smallest = "" if margin == 0 else f" (the gap is smallest, {math.e * margin:.2f}, at {best_scale:.3g})"
    return f"raise scale{smallest} or alpha"


def zero_loss_gap(alpha: float, scale: float, margin: float) -> float:
    """Cosine gap between the target and the best other class beyond which Q-Margin's loss is exactly zero.

    exp(a s m) / (a s), a = alpha - 1; infinite at alpha 1. Cosines differ by at most 2, so a gap above 2 means that no
    sample is ever solved. An angular margin is penalised in the cosine itself: use margin 0.

    >>> round(zero_loss_gap(1.5, 10, 0.1), 2)
    0.33
    """
    slope = (alpha - 1) * scale
    if slope == 0 or slope * margin > 700:  # exp(710) overflows
        return math.inf
    return math.exp(slope * margin) / slope
