"""What every encoder has from its base."""

import pytest
import torch

from wespeaker_qm.models.encoder import SpeakerEncoder


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


def test_an_encoder_without_forward_is_none() -> None:
    class Empty(SpeakerEncoder):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Empty()
