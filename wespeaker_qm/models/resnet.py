"""ResNet for speaker embeddings, parameter for parameter the network of WeSpeaker's ``models/resnet.py``.

Legend: B batch, T frames, F mel bins, C channels, D embedding dimension.

How it departs from the image ResNet (He et al., arXiv:1512.03385): a 3x3 stem with stride 1, a quarter to half of the
channels, no max-pooling, statistics pooling over time in place of global average pooling. Parameter names are
WeSpeaker's, so that a state_dict of either loads into the other.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from wespeaker_qm.models.encoder import StatisticsEncoder
from wespeaker_qm.models.folding import fold_batch_norm


class TimeMask:
    """Which frames of a padded batch are real, at the time resolution of any layer.

    A convolution pads an utterance with zeros; where a batch pads it further, zeroing every frame behind its end
    before each convolution makes the batch equal to its utterances one at a time.
    """

    def __init__(self, num_frames: torch.Tensor) -> None:
        self.num_frames = num_frames

    def halved(self) -> "TimeMask":
        """The mask behind a convolution with kernel 3, padding 1 and stride 2."""
        return TimeMask((self.num_frames + 1) // 2)

    def apply(self, maps: torch.Tensor) -> torch.Tensor:
        """Zero the padding frames of ``maps`` (B, C, F, T)."""
        frames = torch.arange(maps.shape[-1], device=maps.device)
        return maps * (frames < self.num_frames.view(-1, 1, 1, 1))


def _masked(maps: torch.Tensor, mask: TimeMask | None) -> torch.Tensor:
    return maps if mask is None else mask.apply(maps)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, maps: torch.Tensor, mask: TimeMask | None) -> torch.Tensor:
        """Map (B, C_in, F, T) to (B, C, F / stride, T / stride); ``mask`` is the one at the output's resolution."""
        hidden = _masked(F.relu(self.bn1(self.conv1(maps))), mask)
        hidden = self.bn2(self.conv2(hidden))
        return _masked(F.relu(hidden + self.shortcut(maps)), mask)

    def fold(self) -> None:
        """Fold the batch norms into the convolutions, in place; for evaluation mode only."""
        fold_batch_norm(self, "conv1", "bn1")
        fold_batch_norm(self, "conv2", "bn2")
        if len(self.shortcut):
            fold_batch_norm(self.shortcut, "0", "1")


class ResNet(StatisticsEncoder):
    """Speaker-embedding network: features (B, T, F) -> embedding (B, D). It masks its padding, but with windows.

    Args:
        num_blocks: blocks in each of the four stages; (3, 4, 6, 3) is ResNet-34, (2, 2, 2, 2) ResNet-18, (1, 1, 1, 1)
            ResNet-10.
        feat_dim: F, a multiple of 8 times ``stem_stride``.
        embed_dim: D.
        m_channels: channels of the stem; the stages have 1, 2, 4 and 8 times as many. 32 is WeSpeaker's.
        stem_stride: 1 is WeSpeaker's; with 2 the stem halves frequency and time, so that the stages do a quarter of the
            work.
        window: frames of the windows whose embeddings are averaged in evaluation; see :class:`StatisticsEncoder`.
    """

    def __init__(
        self,
        num_blocks: tuple[int, int, int, int],
        feat_dim: int,
        embed_dim: int,
        m_channels: int = 32,
        stem_stride: int = 1,
        window: int | None = None,
    ) -> None:
        super().__init__(window)
        reduction = 8 * stem_stride
        if feat_dim % reduction:
            raise ValueError(
                f"feat_dim is {feat_dim}, expected a multiple of {reduction}: so many bins become one in the network"
            )
        self.masks_padding = window is None
        # The deviation over time needs two frames of the last maps.
        self.min_frames = reduction + 1
        self.embed_dim = embed_dim
        self.stem_stride = stem_stride
        self.conv1 = nn.Conv2d(1, m_channels, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(m_channels)
        self.layer1 = self._stage(m_channels, m_channels, num_blocks[0], stride=1)
        self.layer2 = self._stage(m_channels, 2 * m_channels, num_blocks[1], stride=2)
        self.layer3 = self._stage(2 * m_channels, 4 * m_channels, num_blocks[2], stride=2)
        self.layer4 = self._stage(4 * m_channels, 8 * m_channels, num_blocks[3], stride=2)
        self.seg_1 = nn.Linear(2 * 8 * m_channels * (feat_dim // reduction), embed_dim)
        self.context, self.time_reduction = 1, stem_stride  # of the stem
        # Each 3x3 convolution sees one frame of its own input further.
        for block in self._blocks():
            self.context += self.time_reduction
            self.time_reduction *= block.stride
            self.context += self.time_reduction

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(num_blocks - 1)))

    def _blocks(self) -> Iterator[BasicBlock]:
        return (block for block in self.modules() if isinstance(block, BasicBlock))

    def frame_maps(
        self, features: torch.Tensor, num_frames: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Maps (B, 8 * m_channels, F', T'), F and T divided by 8 times the stem's stride; see the base class."""
        mask = None if num_frames is None else TimeMask(num_frames)
        maps = features.transpose(1, 2).unsqueeze(1)  # (B, 1, F, T)
        maps = _masked(maps, mask)
        if mask is not None and self.stem_stride == 2:
            mask = mask.halved()
        maps = _masked(F.relu(self.bn1(self.conv1(maps))), mask)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                if mask is not None and block.stride == 2:
                    mask = mask.halved()
                maps = block(maps, mask)
        return maps, None if mask is None else mask.num_frames

    def embed_statistics(self, statistics: torch.Tensor) -> torch.Tensor:
        """The last layer; see :class:`StatisticsEncoder`."""
        return self.seg_1(statistics)

    def last_layer(self) -> nn.Linear:
        """``seg_1``."""
        return self.seg_1

    def _fold(self) -> None:
        fold_batch_norm(self, "conv1", "bn1")
        for block in self._blocks():
            block.fold()
