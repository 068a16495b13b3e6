"""Learning rate and margin as pure functions of the step.

A schedule is a closure ``value_at(step)``; steps count optimiser updates from 0 over the whole training. Both follow
WeSpeaker's ``ExponentialDecrease`` and ``MarginScheduler`` to the digit.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def exponential_decrease(
    *,
    initial_lr: float,
    final_lr: float,
    warm_up_epoch: float,
    warm_from_zero: bool,
    num_epochs: int,
    steps_per_epoch: int,
    scale_ratio: float,
) -> Schedule:
    """Warm up linearly, then decay exponentially from ``initial_lr`` to ``final_lr``.

    With n = steps_per_epoch, N = num_epochs * n, W = warm_up_epoch * n and k = scale_ratio (world size * batch / 64)::

        lr(step) = w(step) * initial_lr * (final_lr / initial_lr) ** (step / N)
        w(step)  = k * step / W                     warm_from_zero, step < W
                   1 + (k - 1) * step / W           otherwise,      step < W and k > 1 (from the unscaled rate)
                   k                                else

    Args:
        initial_lr: at the start, before the weight.
        final_lr: at the end, before the weight.
        warm_up_epoch: epochs of warm-up; 0 is none.
        warm_from_zero: warm up from 0, otherwise from the unscaled rate.
        num_epochs: of the training.
        steps_per_epoch: n.
        scale_ratio: k.

    >>> rate = exponential_decrease(initial_lr=0.1, final_lr=5e-5, warm_up_epoch=6, warm_from_zero=True,
    ...                             num_epochs=150, steps_per_epoch=4265, scale_ratio=4.0)
    >>> [round(rate(step), 6) for step in (0, 12795, 25590, 319875)]
    [0.0, 0.171795, 0.295134, 0.008944]
    """
    total_steps = num_epochs * steps_per_epoch
    warm_steps = warm_up_epoch * steps_per_epoch
    decay = math.log(final_lr / initial_lr)

    def value_at(step: int) -> float:
        if step < warm_steps and warm_from_zero:
            weight = scale_ratio * step / warm_steps
        elif step < warm_steps and scale_ratio > 1.0:
            weight = 1.0 + (scale_ratio - 1.0) * step / warm_steps
        else:
            weight = scale_ratio
        return weight * initial_lr * math.exp(step / total_steps * decay)

    return value_at


def annealed_margin(
    *,
    initial_margin: float,
    final_margin: float,
    increase_start_epoch: int,
    fix_start_epoch: int,
    increase_type: str,
    steps_per_epoch: int,
) -> Schedule:
    """Hold ``initial_margin``, then raise it to ``final_margin`` between two epochs (counted from 1), then hold that.

    With x the fraction of the way from the start to the end::

        exp:    initial + (final - initial) * (1 - (1e-3 / (1 + 1e-6)) ** x)
        linear: initial + (final - initial) * x

    Args:
        initial_margin: before it grows.
        final_margin: after it.
        increase_start_epoch: at whose start it begins to grow.
        fix_start_epoch: at whose start it is final.
        increase_type: ``exp`` or ``linear``.
        steps_per_epoch: of the training.

    >>> margin = annealed_margin(initial_margin=0.0, final_margin=0.2, increase_start_epoch=20, fix_start_epoch=40,
    ...                          increase_type="exp", steps_per_epoch=10)
    >>> [round(margin((epoch - 1) * 10), 6) for epoch in (20, 21, 30, 40)]
    [0.0, 0.058411, 0.193675, 0.2]
    """
    start = (increase_start_epoch - 1) * steps_per_epoch
    end = (fix_start_epoch - 1) * steps_per_epoch
    # WeSpeaker's constant: the exponential covers all but a thousandth of the way; the last of it is one jump.
    decay = math.log(1e-3 / (1.0 + 1e-6))

    def value_at(step: int) -> float:
        if step >= end:
            return final_margin
        if step < start:
            return initial_margin
        fraction = (step - start) / (end - start)
        ratio = 1.0 - math.exp(fraction * decay) if increase_type == "exp" else fraction
        return initial_margin + (final_margin - initial_margin) * ratio

    return value_at
