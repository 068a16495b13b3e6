"""What is valid but worth a second look."""

import math

from wespeaker_qm.config.schema import AlphaArcMarginArgs, Config, FilterArgs, QMarginArgs, ShuffleArgs


def config_notes(config: Config) -> list[str]:
    """What a user should know about a valid configuration: settings without effect or that defeat training."""
    notes = []
    if config.exp_dir is not None:
        notes.append("exp_dir is accepted for compatibility but has no effect; use run.sh --exp_dir")
    if config.gpus is not None:
        notes.append(f"gpus does not choose among GPUs and starts no processes; use run.sh --gpus {config.gpus}")
    dataset = config.dataset_args
    if dataset.shuffle_args != ShuffleArgs():
        notes.append("dataset_args.shuffle_args.shuffle_size has no effect: the whole epoch is permuted")
    if dataset.filter_args.max_num_frames != FilterArgs().max_num_frames:
        notes.append("dataset_args.filter_args.max_num_frames has no effect: chunks are read from the whole utterance")
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
    projection = config.projection_args
    if isinstance(projection, QMarginArgs | AlphaArcMarginArgs) and projection.alpha > 1:
        prior_margin = margin.final_margin if isinstance(projection, QMarginArgs) else 0.0
        gap = zero_loss_gap(projection.alpha, projection.scale, prior_margin)
        if gap > 2:
            notes.append(
                f"projection_args: no sample can ever be solved: the cosine gap that alpha {projection.alpha}, "
                f"scale {projection.scale} and margin {prior_margin} ask for is {gap:.2f}, but no gap exceeds 2; "
                + _remedy(projection.alpha, projection.scale, prior_margin)
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
