"""Pooling over time: from frame-level maps to one vector an utterance."""

import torch
from torch import nn


class TemporalStatisticsPooling(nn.Module):
    """TSTP: the mean and the standard deviation over time of every channel and frequency.

    ``[mean; sqrt(unbiased variance + 1e-7)]``, as WeSpeaker's ``TSTP``. It holds no parameters.
    """

    def forward(self, maps: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Pool ``maps`` (B, C, F, T) to (B, 2 * C * F).

        Args:
            maps: frame-level maps; where ``num_frames`` is given, frames from there on must be zero.
            num_frames: (B,) valid frames of each row, 2 or more; ``None`` when all T are valid.
        """
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
