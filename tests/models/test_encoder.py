"""What every encoder has from its base."""

import itertools
import math

import pytest
import torch

from wespeaker_qm.models.encoder import SpeakerEncoder, window_frames


class MeanEncoder(SpeakerEncoder):
    """Has nothing to fold."""

    min_frames = 1
    masks_padding = False

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim = 3
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        return self.linear(features.mean(dim=1))


def test_a_network_that_folds_nothing_is_copied_for_evaluation() -> None:
    encoder = MeanEncoder().eval()
    lean = encoder.folded()
    features = torch.randn(2, 5, 4)
    assert torch.equal(lean(features), encoder(features))
    with torch.no_grad():
        encoder.linear.weight.zero_()
    assert lean.linear.weight.any()
    with pytest.raises(ValueError, match="found a network in training mode, expected evaluation mode"):
        encoder.train().folded()


def test_a_network_that_says_nothing_of_pieces_gets_a_long_utterance_whole() -> None:
    encoder = MeanEncoder().eval()
    features = torch.randn(20, 4)
    asked = []

    def frames(first: int, end: int) -> torch.Tensor:
        asked.append((first, end))
        return features[first:end]

    assert torch.equal(encoder.embed_long(frames, 20, 8), encoder(features[None])[0])
    assert asked == [(0, 20)]


def test_a_network_without_a_last_layer_is_not_whitened() -> None:
    with pytest.raises(NotImplementedError, match="MeanEncoder names no last layer, so it cannot be whitened"):
        MeanEncoder().last_layer()


def test_an_encoder_without_forward_is_none() -> None:
    class Empty(SpeakerEncoder):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Empty()


@pytest.mark.parametrize("window", [2, 3, 8, 9, 40])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 9, 13, 40, 41, 59, 60, 61, 500])
def test_windows_cover_an_utterance_from_end_to_end(num_frames: int, window: int) -> None:
    frames = window_frames(torch.tensor(num_frames), window)
    length, hop = min(num_frames, window), window // 2
    assert frames.shape[1] == length
    assert (frames == frames[:, :1] + torch.arange(length)).all()
    starts = frames[:, 0].tolist()
    assert (starts[0], starts[-1]) == (0, num_frames - length)
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert all(0 < step <= hop for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= 1
    assert len(steps) == math.ceil((num_frames - length) / hop)  # no more than needed
