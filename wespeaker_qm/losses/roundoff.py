"""How far a computed cosine may be off, at most: what a filter of low precision, and a tie, have to allow for.

A product of matrices that computes cosines

- rounds the components of both unit vectors to unit round-off u: 2 u + u^2 by Cauchy-Schwarz;
- adds the D products in float32, in any order and in parts: D 2^-24; and loses digits of components below the smallest
  normal number: 2^-24 sqrt(D) in fp16; D 2^-22 covers both;
- may round the result, a cosine of at most 1 + 2 u + ...: u (1 + 2 u + ...).

That sums are float32 is seen to by `utils.precision.exact_float32`.
"""

import torch

TF32 = "tf32"
"""Float32 whose factors the device cuts off after 10 bits: u is a whole last bit, not half of it."""

_UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, TF32: 2.0**-10, torch.float32: 2.0**-24}
_ROUNDS_THE_RESULT = (torch.bfloat16, torch.float16)


def cosine_error(precision: torch.dtype | str, num_dims: int) -> float:
    """A bound on the error of a cosine of vectors of D dimensions.

    Args:
        precision: torch.bfloat16, torch.float16, torch.float32 or TF32.
        num_dims: D.
    """
    u = _UNIT_ROUNDOFF[precision]
    rounded = 3 * u + 4 * u**2 if precision in _ROUNDS_THE_RESULT else 2 * u + u**2
    return rounded + num_dims * 2.0**-22


def tie_error(dtype: torch.dtype, num_dims: int) -> float:
    """By how much two cosines of D dimensions that are equal may differ, where it is asked which class is nearest.

    Args:
        dtype: that they are computed in, torch.float32 or torch.float64.
        num_dims: D.
    """
    return (num_dims + 8) * torch.finfo(dtype).eps / 2
