"""Pooling over time: from frame-level maps to one vector an utterance."""

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
            deviation = torch.sqrt(variance + 1e-7)
            return torch.cat((mean.flatten(start_dim=1), deviation.flatten(start_dim=1)), dim=1)
