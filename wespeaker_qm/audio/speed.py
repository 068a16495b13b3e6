"""Speed perturbation of a batch: pitch, formants and tempo change together, as on a tape that runs faster or slower.

Shapes: B batch, S samples.
"""

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from wespeaker_qm.utils.precision import exact_float32

# A Hann-windowed sinc of this length, cut off at 95 % of the lower Nyquist frequency, is within 69 dB of what sox's
# `speed` and `rate` make of broadband speech.
ZERO_CROSSINGS = 32
ROLL_OFF = 0.95
# Blocks of input are multiplied so many at a time: overlapping less, they are copied less, and wider products are
# faster, until the zeros between their weights cost more than that.
_BLOCKS_TOGETHER = 4


def change_speed(waveform: Tensor, speed: float) -> Tensor:
    """Play ``waveform`` (B, S) at ``speed`` times its speed: (B, floor(S / speed)), float32.

    Equal to sox's ``speed`` followed by ``rate`` at the old sample rate, up to the filter. The signal counts as zero
    outside the S samples. A slice that begins at a multiple of the speed's numerator (9 for 0.9, 11 for 1.1)
    gives a slice of the whole, but for some 40 samples at its edges.

    Args:
        waveform: (B, S).
        speed: a ratio of small integers, such as 0.9 = 9/10 and 1.1 = 11/10; 1 returns ``waveform`` itself.

    Raises:
        ValueError: the speed is not positive, or not a ratio of integers up to 100.
    """
    ratio = _ratio(speed)
    if ratio == 1:
        return waveform
    kernel, margin = _kernel(ratio.numerator, ratio.denominator, waveform.device)
    step = _BLOCKS_TOGETHER * ratio.numerator
    num_samples = waveform.shape[-1]
    num_blocks = num_samples // step + 1
    with exact_float32(), torch.autocast(waveform.device.type, enabled=False):
        padded = functional.pad(waveform.float(), (margin, margin + num_blocks * step - num_samples))
        blocks = padded.unfold(-1, step + 2 * margin, step)  # (B, blocks, step + 2 margin)
        output = blocks @ kernel  # (B, blocks, output samples of each)
    return output.flatten(start_dim=-2)[..., : num_samples * ratio.denominator // ratio.numerator]


def speed_input_length(num_samples: int, speed: float) -> int:
    """Smallest input length from which :func:`change_speed` makes at least ``num_samples`` samples.

    So a chunk is cut before its speed is changed, not after: ``speed_input_length(32240, 1.1)`` is 35464.
    """
    ratio = _ratio(speed)
    return -(-num_samples * ratio.numerator // ratio.denominator)


def _ratio(speed: float) -> Fraction:
    ratio = Fraction(speed).limit_denominator(100)
    if ratio <= 0 or ratio.numerator > 100 or abs(float(ratio) - speed) > 1e-9:
        raise ValueError(f"speed {speed}: expected a positive ratio of integers up to 100, such as 0.9 or 1.1")
    return ratio


@functools.lru_cache(maxsize=16)
def _kernel(step: int, phases: int, device: torch.device) -> tuple[Tensor, int]:
    """Weights (K step + 2 margin, K phases) of K blocks' input samples in their output samples, and the margin.

    Kept on the device: to copy it there for every batch, the host would wait for the device.

    Output sample p lies at p * step / phases input samples from the first block's start. It is made from the samples
    within half the filter's width; the margin is that width.
    """
    cut_off = ROLL_OFF * min(1.0, phases / step)  # as a fraction of the input's Nyquist frequency
    half_width = ZERO_CROSSINGS / cut_off
    margin = math.ceil(half_width)
    source = torch.arange(-margin, _BLOCKS_TOGETHER * step + margin, dtype=torch.float64)[:, None]
    target = torch.arange(_BLOCKS_TOGETHER * phases, dtype=torch.float64)[None, :] * step / phases
    distance = target - source
    window = torch.cos((distance / half_width).clamp(-1.0, 1.0) * (math.pi / 2)).square()
    return (cut_off * torch.sinc(cut_off * distance) * window).float().to(device), margin
