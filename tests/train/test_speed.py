"""Operations of a network by hand, percentiles, and what a machine does at most."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wespeaker_qm.config import Config
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.train.speed import Arithmetic, PartTimes, arithmetic_of, peak_flops, training_flops


def forward_flops(num_frames: int, num_mel_bins: int, blocks: tuple[int, ...], channels: int, dim: int) -> int:
    """Of a ResNet, layer by layer: 2 for each weight and place."""
    frames, bins = num_frames, num_mel_bins
    total = 2 * 9 * channels * frames * bins
    before = channels
    for stage, count in enumerate(blocks):
        wide = channels * 2**stage
        for number in range(count):
            if stage and not number:
                frames, bins = -(-frames // 2), -(-bins // 2)
                total += 2 * before * wide * frames * bins  # the shortcut
            total += 2 * 9 * (before + wide) * wide * frames * bins
            before = wide
    return total + 2 * 2 * before * bins * dim


def test_operations_are_those_of_the_layers(tiny_config: Config) -> None:
    """And those that PyTorch counts, but for the gradient of the features, which nobody asks for."""
    encoder = build_encoder(tiny_config)
    before = copy.deepcopy(encoder.state_dict())
    state = torch.get_rng_state()
    forward = forward_flops(40, 16, (3, 4, 6, 3), 4, 8)
    assert training_flops(encoder, 40, 16) == 3 * forward
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(2, 40, 16)).sum().backward()
    assert counter.get_total_flops() == 2 * (3 * forward - 2 * 9 * 4 * 40 * 16)


def test_the_papers_network_takes_27_billion_operations_a_chunk() -> None:
    forward = forward_flops(200, 80, (3, 4, 6, 3), 32, 256)
    assert round(3 * forward / 1e9, 1) == 27.2
    assert training_flops(ResNet((3, 4, 6, 3), 80, 256), 200, 80) == 3 * forward


def test_utilisation_is_what_is_done_of_what_could_be(tiny_config: Config) -> None:
    assert Arithmetic(per_sample=2 * 10**9, peak_per_s=10.0**13).utilisation(1000) == 0.2
    found = arithmetic_of(build_encoder(tiny_config), 40, 16, torch.device("cpu"), None)
    assert found.peak_per_s > 1e8


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_peak_leaves_the_switches_and_the_random_numbers_alone(dtype: torch.dtype | None) -> None:
    switches = torch.backends.cuda.matmul.fp32_precision
    state = torch.get_rng_state()
    assert peak_flops(torch.device("cpu"), dtype, rounds=2) > 1e7
    assert torch.backends.cuda.matmul.fp32_precision == switches
    assert torch.equal(torch.get_rng_state(), state)


def test_percentiles_are_of_the_steps_that_have_the_part() -> None:
    times = PartTimes()
    values = np.random.default_rng(0).random(41).tolist()
    for value in values:
        times.add({"forward": value})
    times.add({"wait": 7.0})
    assert times.values() == {
        "forward_ms": sorted(values)[20],
        "forward_ms_p95": sorted(values)[38],
        "wait_ms": 7.0,
        "wait_ms_p95": 7.0,
    }
