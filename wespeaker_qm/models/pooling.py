"""Pooling over time: from frame-level maps to one vector an utterance."""

from collections.abc import Iterable

import torch
from torch import nn


class TemporalStatisticsPooling(nn.Module):
    """TSTP: the mean and the standard deviation over time of every channel and frequency.

    ``[mean; sqrt(unbiased variance + 1e-7)]``, as WeSpeaker's ``TSTP``. It holds no parameters.

    Statistics and their gradients are computed in float32 (or better) outside autocast, whatever the maps' type: in
    fp16 the slope of the root at a dead channel, 1,581, times a loss scale overflows, and so does the square of 300; in
    bf16 the deviation of a nearly constant channel has no correct digit.
    """

    def forward(self, maps: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Pool ``maps`` (B, C, F, T) to (B, 2 * C * F), float32 or float64.

        Args:
            maps: frame-level maps; where ``num_frames`` is given, frames from there on must be zero.
            num_frames: (B,) valid frames of each row, 2 or more; ``None`` when all T are valid.
        """
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
            if num_frames is None:
                mean = maps.mean(dim=-1)
                variance = maps.var(dim=-1)
            else:
                count = num_frames.to(maps.dtype).view(-1, 1, 1)
                mean = maps.sum(dim=-1) / count
                valid = torch.arange(maps.shape[-1], device=maps.device) < num_frames.view(-1, 1, 1, 1)
                centred = (maps - mean.unsqueeze(-1)) * valid
                variance = centred.square().sum(dim=-1) / (count - 1)
            return _mean_and_deviation(mean, variance)

    def merged(self, pieces: Iterable[torch.Tensor]) -> torch.Tensor:
        """Pool maps that come in pieces (B, C, F, T_i), one after the other in time, to what the whole would give.

        The means and sums of squared deviations of the pieces are merged in float64 (Chan, Golub and LeVeque 1983,
        equation 2.1), in which sums over any number of frames lose nothing that float32 shows.
        """
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())
        dtype = torch.float32
        for maps in pieces:
            dtype = torch.promote_types(maps.dtype, torch.float32)
            maps = maps.to(dtype)
            num_frames = maps.shape[-1]
            piece_variance, piece_mean = torch.var_mean(maps, dim=-1, correction=0)
            difference = piece_mean.double() - mean
            together = count + num_frames
            squares = (
                squares + piece_variance.double() * num_frames + difference.square() * (count * num_frames / together)
            )
            mean = mean + difference * (num_frames / together)
            count = together
        return _mean_and_deviation(mean, squares / (count - 1)).to(dtype)


def _mean_and_deviation(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """(B, 2 * C * F) of two (B, C, F)."""
    deviation = torch.sqrt(variance + 1e-7)
    return torch.cat((mean.flatten(start_dim=1), deviation.flatten(start_dim=1)), dim=1)
