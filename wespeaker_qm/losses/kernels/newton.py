"""The root and the value of `losses.root`, as functions inside kernels; names and formulas are those of that module.

Legend: one row at a time; "others" are its classes but the target. Vectors over classes are float32 or float64 as their
gaps are, scalars of a row float64. Weights are in units of exp(unit); unit is 0 where 1 / a is a small integer (POWER).
"""

import triton
import triton.language as tl

MAX_STEPS = tl.constexpr(100)  # of Newton's method, which takes 2 to 10
_SERIES_RADIUS = tl.constexpr(1 / 8)
_SERIES_TERMS = tl.constexpr(18)


@triton.jit
def as_double(value):
    """A number or scalar as a float64 scalar, whether it is compiled or interpreted."""
    return tl.full((), value, tl.float64)


@triton.jit
def log1p(x):
    """Of 1 + x the logarithm, for x > -1, to the last digits where x is small."""
    u = 1 + x
    return tl.log(u) + (x - (u - 1)) / u


@triton.jit
def expm1(x):
    """Of a scalar the exponential less 1, to the last digits where x is small (Kahan)."""
    u = tl.exp(x)
    is_small = (u == 1) | (u - 1 == -1) | (u == float("inf"))
    corrected = (u - 1) * (x / tl.log(tl.where(is_small, 2.0, u)))
    return tl.where(u == 1, x, tl.where(is_small, u - 1, corrected))


@triton.jit
def weights(gap, height, a, unit, POWER: tl.constexpr):
    """w_j and share_j of a vector of gaps, of their type."""
    # A GPU multiplies at once, and divides in a dozen steps: what is one number a row is inverted once.
    excess = tl.maximum(-gap * (1 / height).to(gap.dtype), -1.0)
    share = 1 + excess
    if POWER == 1:
        weight = share
    elif POWER == 2:
        weight = share * share
    elif POWER == 3:
        weight = share * share * share
    elif POWER == 4:
        square = share * share
        weight = square * square
    else:
        inside = share > 0
        log_share = log1p(tl.where(inside, excess, 0.0))
        weight = tl.where(inside, tl.exp(log_share * (1 / as_double(a)).to(gap.dtype) - unit.to(gap.dtype)), 0.0)
    return weight, share


@triton.jit
def log_weight(gap, log_q, height, a):
    """Log w and share of one class, scalars; a weight of 0 has a logarithm of -1e37."""
    excess = tl.maximum(-gap / height, -1.0)
    inside = excess > -1
    return tl.where(inside, log1p(tl.where(inside, excess, 0.0)) / a + log_q, -1e37), 1 + excess


@triton.jit
def unit_at(height, best_gap, target_gap, log_q, a, POWER: tl.constexpr):
    """The logarithm of the largest weight of a row, or 0; ``best_gap`` is that of the largest other logit."""
    if POWER > 0:
        return height * 0
    own, _ = log_weight(target_gap, log_q, height, a)
    best, _ = log_weight(best_gap, height * 0, height, a)
    return tl.maximum(tl.maximum(own, best), -1e36)


@triton.jit
def slopes(weight, share, POWER: tl.constexpr):
    """w_j / share_j, 0 where there is no mass."""
    if POWER == 1:
        slope = tl.where(share > 0, 1.0, 0.0).to(share.dtype)
    elif POWER == 2:
        slope = share
    elif POWER == 3:
        slope = share * share
    elif POWER == 4:
        slope = share * share * share
    else:
        slope = tl.where(share > 0, weight / tl.where(share > 0, share, 1.0), 0.0)
    return slope


@triton.jit
def with_target(total, slope, unit, height, target_gap, log_q, a):
    """Sums over the others, with the target."""
    own, share = log_weight(target_gap, log_q, height, a)
    weight = tl.exp(own - unit)
    return total + weight, slope + slopes(weight, share, 0)


@triton.jit
def step_of(total, slope, unit, height, a):
    """Part of the height by which Newton lowers it."""
    return -expm1(-a * (unit + tl.log(total)) - tl.log(height)) * total / slope


@triton.jit
def lone_height(best_gap, target_gap, log_q, a):
    """The lowest height at which one class alone holds all the mass."""
    return tl.minimum(1 + best_gap, target_gap + tl.exp(-a * log_q))


@triton.jit
def vector_root(gap, height, alone, best_gap, target_gap, log_q, a, tolerance, POWER: tl.constexpr):
    """Height and log of the total weight at the root over a vector of others and the target."""
    go = True
    step = height * 0
    log_total = height * 0
    count = 0
    while go:
        unit = unit_at(height, best_gap, target_gap, log_q, a, POWER)
        weight, share = weights(gap, height, a, unit, POWER)
        total, slope = with_target(
            tl.sum(weight, 0).to(height.dtype),
            tl.sum(slopes(weight, share, POWER), 0).to(height.dtype),
            unit,
            height,
            target_gap,
            log_q,
            a,
        )
        step = step_of(total, slope, unit, height, a)
        count += 1
        go = (step > tolerance) & (count < MAX_STEPS)
        log_total = unit + tl.log(total) - step * (slope / total - 1) / a
        height = tl.where(go, height * (1 - tl.maximum(step, 0.0)), tl.minimum(height * (1 - step), alone))
    return height, log_total


@triton.jit
def start_of(gap, alone, best_gap, target_gap, log_q, a, POWER: tl.constexpr):
    """A height a little above the root over a vector of others, float32, and the target; at most ``alone``.

    In float32: a thread of a program is not faster than one alone with what is float64, which a GPU has little of.
    """
    narrow_best, narrow_target = best_gap.to(tl.float32), target_gap.to(tl.float32)
    narrow_log_q, narrow_a = log_q.to(tl.float32), a.to(tl.float32)
    first = lone_height(narrow_best, narrow_target, narrow_log_q, narrow_a)
    tolerance = tl.full((), 6.42e-06, tl.float32)  # eps ** 0.75
    height, _ = vector_root(gap, first, first, narrow_best, narrow_target, narrow_log_q, narrow_a, tolerance, POWER)
    return tl.minimum(alone, height.to(tl.float64) * (1 + 1e-5))


@triton.jit
def loss_of(height, log_total, target_gap, log_q, off_target, energy, a):
    """`losses.root.loss_value`, float64 scalars."""
    deficit = target_gap / height
    inside = deficit < 1
    log_share = tl.where(inside, log1p(tl.where(inside, -deficit, 0.0)), -1e37)
    log_power = log_share + a * (log_q - log_total)
    closed = (-expm1(log_power) / a - off_target * tl.exp(log_power)) / (1 + a)
    binomial = as_double(1.0)
    power = as_double(1.0)
    series = as_double(0.5)
    for n in tl.static_range(1, _SERIES_TERMS):
        binomial *= 1 - a * (1 / n)
        power *= off_target
        series += binomial * power / (n + 2)
    term = tl.where(off_target < _SERIES_RADIUS, off_target * off_target * series, closed)
    return tl.exp(-a * log_q) * term + height * (energy / (1 + a) + tl.maximum(deficit - 1, 0.0) / a)


@triton.jit
def target_posterior(target_gap, log_q, height, log_total, off_target, support, a):
    """p_y, 1 and 0 only where they are so exactly, float32; and 1 if the target is in the support."""
    own, share = log_weight(target_gap, log_q, height, a)
    inside = tl.minimum(tl.maximum(tl.exp(own - log_total).to(tl.float32), 1.1754943508222875e-38), 1 - 2.0**-24)
    is_solved = (support == 0) & (off_target == 0)
    posterior = tl.where(is_solved, 1.0, tl.where(share > 0, inside, 0.0))
    return posterior, (share > 0).to(tl.int32)
