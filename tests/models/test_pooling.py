"""Statistics pooling: the definition, and the same in low precision."""

import pytest
import torch

from wespeaker_qm.models.pooling import TemporalStatisticsPooling

LOW = [torch.float16, torch.bfloat16]


def definition(maps: torch.Tensor) -> torch.Tensor:
    """In float64; (B, C, F, T) -> (B, 2 C F)."""
    maps = maps.double()
    mean = maps.mean(-1)
    variance = (maps - mean[..., None]).square().sum(-1) / (maps.shape[-1] - 1)
    return torch.cat([mean.flatten(1), (variance + 1e-7).sqrt().flatten(1)], dim=1)


def odd_maps() -> torch.Tensor:
    """(2, 4, 3, 20): noise, a dead channel, a constant one with a peak of 600, a nearly constant one."""
    maps = torch.randn(2, 4, 3, 20)
    maps[:, 1] = 0
    maps[:, 2] = 1
    maps[:, 2, :, 7] = 600
    maps[:, 3] = 5 + 0.05 * maps[:, 3]
    return maps


@pytest.mark.parametrize("dtype", [*LOW, torch.float32, torch.float64])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_statistics_of_any_precision_are_those_of_float32(dtype: torch.dtype, padded: bool, autocast: bool) -> None:
    maps = odd_maps().to(dtype)
    num_frames = torch.tensor([20, 13]) if padded else None
    if padded:
        maps[1, :, :, 13:] = 0
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pooled = TemporalStatisticsPooling()(maps, num_frames)
    assert pooled.dtype == torch.promote_types(dtype, torch.float32)
    rows = [maps[:1], maps[1:, :, :, :13] if padded else maps[1:]]
    expected = torch.cat([definition(row) for row in rows])
    torch.testing.assert_close(pooled.double(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [*LOW, torch.float32])
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_are_finite_under_a_loss_scale(dtype: torch.dtype, padded: bool) -> None:
    """A dead channel's deviation has the slope 1,581; times 65,536 it overflows fp16, and times 0 that is NaN."""
    maps = odd_maps().to(dtype).requires_grad_()
    num_frames = torch.tensor([20, 20]) if padded else None
    pooled = TemporalStatisticsPooling()(maps, num_frames)
    upstream = 65536 * 1e-3 * torch.randn(pooled.shape).to(pooled)
    (gradient,) = torch.autograd.grad(pooled, maps, upstream)
    precise = maps.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(definition(precise), precise, upstream.double())
    assert gradient.dtype == dtype
    rounding = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), expected, rtol=max(rounding, 1e-4), atol=1e-3)


@pytest.mark.parametrize("lengths", [[400], [1, 399], [399, 1], [100, 1, 7, 292], [1] * 400])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_pieces_merge_to_the_statistics_of_the_whole(lengths: list[int], offset: float) -> None:
    """Far from zero, too, where a sum of squares less a square of sums has no correct digit."""
    maps = torch.randn(2, 3, 4, 400) + torch.linspace(-2, 2, 400) + offset
    merged = TemporalStatisticsPooling().merged(maps.split(lengths, dim=-1))
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged.double(), definition(maps), rtol=1e-5, atol=1e-5)
    precise = TemporalStatisticsPooling().merged(maps.double().split(lengths, dim=-1))
    torch.testing.assert_close(precise, definition(maps), rtol=1e-11, atol=1e-11)
