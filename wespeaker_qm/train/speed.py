"""How fast a training is: how long each part of a step takes, and how much of the device's arithmetic it makes use of.

Model FLOP utilisation (Chowdhery et al., "PaLM", 2022, appendix B): the operations that the network's forward and
backward must do, a second, over what the device does at most. Here the most is what a large product of matrices reaches
on this device, in the type that the network computes in, and the head is left out, whose work is another for each loss.
"""

import copy
import itertools
import resource
from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn

from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.utils.moments import Moment
from wespeaker_qm.utils.precision import matmul_as_convolutions

MIB = 2**20
_PROBED = 2  # samples: the fewest that batch norm takes in training


class Arithmetic(NamedTuple):
    """Of a network on a device."""

    per_sample: int
    """Floating-point operations of a sample's forward and backward; a multiplication and an addition are two."""
    peak_per_s: float
    """Operations a second of a large product of matrices."""

    def utilisation(self, samples_per_s: float) -> float:
        """Model FLOP utilisation, a fraction, of a process that trains on so many samples a second."""
        return self.per_sample * samples_per_s / self.peak_per_s


def arithmetic_of(
    encoder: SpeakerEncoder, num_frames: int, num_mel_bins: int, device: torch.device, amp_dtype: torch.dtype | None
) -> Arithmetic:
    """Count and measure; takes a moment, and changes neither the network nor the state of random numbers."""
    arithmetic = Arithmetic(training_flops(encoder, num_frames, num_mel_bins), peak_flops(device, amp_dtype))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return arithmetic


def training_flops(encoder: SpeakerEncoder, num_frames: int, num_mel_bins: int) -> int:
    """Operations of the forward and backward of one sample (T, F), of convolutions and linear layers alone.

    Backward does each of their products twice, for the weights and for what came in. (PyTorch's own counter would count
    any product, but takes seconds to import.)
    """
    network = copy.deepcopy(encoder).train()
    weights = next(network.parameters())
    device = weights.device
    features = torch.zeros(_PROBED, num_frames, num_mel_bins, device=device, dtype=weights.dtype)
    counted = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        weight = cast("torch.Tensor", layer.weight)
        counted += 2 * weight.numel() * (output.numel() // len(weight))

    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        network.forward(features)  # not __call__, which a compiled network has compiled
    return 3 * counted // _PROBED


def peak_flops(device: torch.device, amp_dtype: torch.dtype | None, rounds: int = 5) -> float:
    """Operations a second of a square product of matrices; median of ``rounds``.

    Args:
        device: that computes.
        amp_dtype: type of the factors; None for float32, which a GPU rounds to TF32 where it may for convolutions.
        rounds: times that it is timed.
    """
    size = 8192 if device.type == "cuda" else 256
    generator = torch.Generator(device).manual_seed(0)
    factor = torch.randn(size, size, device=device, generator=generator).to(amp_dtype or torch.float32)
    with matmul_as_convolutions():
        factor @ factor
        moments = [Moment(device)]
        for _ in range(rounds):
            factor @ factor
            moments.append(Moment(device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    times_ms = [end.ms_since(began) for began, end in itertools.pairwise(moments)]
    return 2 * size**3 / (1e-3 * float(np.median(times_ms)))


def peak_memory_mib(device: torch.device) -> float:
    """The most memory so far: of a GPU, of tensors; else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class PartTimes:
    """Milliseconds of the parts of steps."""

    def __init__(self) -> None:
        self._times_ms: dict[str, list[float]] = {}

    def add(self, times_ms: Mapping[str, float]) -> None:
        """Count a step."""
        for name, value in times_ms.items():
            self._times_ms.setdefault(name, []).append(value)

    def values(self) -> dict[str, float]:
        """``<part>_ms`` and ``<part>_ms_p95``: the median and the 95th percentile of the steps that have the part."""
        values = {}
        for name, each in self._times_ms.items():
            values[f"{name}_ms"], values[f"{name}_ms_p95"] = np.quantile(each, [0.5, 0.95]).tolist()
        return values
