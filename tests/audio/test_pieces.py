"""Features in pieces are those of the whole recording."""

import numpy as np
import pytest
import torch

from wespeaker_qm.audio import pieces
from wespeaker_qm.audio.fbank import Fbank


@pytest.fixture
def waveform() -> np.ndarray:
    """Half a second of noise on a slope, so that frames have different means."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(8100)
    return (noise + np.linspace(-0.3, 0.3, 8100)).astype(np.float32)


def test_pieces_follow_one_another() -> None:
    assert list(pieces.pieces(7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(pieces.pieces(6, 3)) == [(0, 3), (3, 6)]
    assert list(pieces.pieces(2, 3)) == [(0, 2)]


def test_a_piece_has_the_frames_of_the_whole(waveform: np.ndarray) -> None:
    fbank = Fbank(num_mel_bins=16)
    whole = fbank(torch.from_numpy(waveform)[None])[0]
    assert len(whole) == 49
    for first, end in [(0, 49), (0, 1), (17, 30), (48, 49)]:
        piece = pieces.features_of(waveform, fbank, first, end)
        torch.testing.assert_close(piece, whole[first:end], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("frames_per_piece", [1, 7, 48])
def test_mean_of_pieces_is_that_of_the_whole(
    waveform: np.ndarray, frames_per_piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fbank = Fbank(num_mel_bins=16)
    features = fbank(torch.from_numpy(waveform)[None])[0]
    assert torch.equal(pieces.mean_features(waveform, fbank), features.mean(dim=0))  # one piece: to the bit
    monkeypatch.setattr(pieces.pieces, "__defaults__", (frames_per_piece,))
    mean = pieces.mean_features(waveform, fbank)
    torch.testing.assert_close(mean.double(), features.double().mean(dim=0), atol=2e-6, rtol=1e-6)
