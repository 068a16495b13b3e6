"""Extraction: whole utterances, batched without changing them, all or an error."""

from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import torch

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.embed.extract import LtasEmbedder, NetworkEmbedder, batches_by_length, embed_all
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.vectors import write_vectors


@pytest.fixture
def embedder() -> NetworkEmbedder:
    encoder = ResNet((3, 4, 6, 3), feat_dim=16, embed_dim=8, m_channels=4)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.3)
            torch.nn.init.normal_(module.running_mean, std=0.3)
    return NetworkEmbedder(encoder, Fbank(num_mel_bins=16), torch.device("cpu"))


class MeanEncoder(SpeakerEncoder):
    """A network that does not mask: it would count padding frames like any others."""

    min_frames = 3
    masks_padding = False

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim = 32
        self.batches: list[int] = []

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        assert num_frames is None
        self.batches.append(len(features))
        return torch.cat([features.mean(dim=1), features.std(dim=1)], dim=1)


@pytest.fixture
def reader(tiny_corpus: Path) -> ShardReader:
    return ShardReader(tiny_corpus / "eval" / "shard.list")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_equal_one_at_a_time(embedder: NetworkEmbedder, reader: ShardReader, num_workers: int) -> None:
    together = embed_all(embedder, reader, frame_shift=160, num_workers=num_workers, description="test")
    alone = np.concatenate([embedder([reader.read(i)]) for i in range(len(reader))])
    assert together.shape == (18, 8)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_network_that_does_not_mask_gets_one_length_at_a_time() -> None:
    embedder = NetworkEmbedder(MeanEncoder(), Fbank(num_mel_bins=16), torch.device("cpu"))
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(n).astype(np.float32) for n in (8000, 16000, 8000, 16001, 9000)]
    together = embedder(waveforms)
    assert sorted(embedder.encoder.batches) == [1, 2, 2]  # 16,000 and 16,001 samples have as many frames
    alone = np.concatenate([embedder([waveform]) for waveform in waveforms])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    with pytest.raises(RecipeError, match="700 samples has fewer than 3 frames"):
        embedder([waveforms[0][:700]])


def test_batches_hold_every_utterance_once_within_the_limit() -> None:
    num_samples = np.array([5, 100, 7, 6, 30, 30, 1])
    batches = batches_by_length(num_samples, 60)
    assert sorted(position for batch in batches for position in batch) == list(range(7))
    assert batches[0] == [1]
    for batch in batches[1:]:
        assert len(batch) * num_samples[batch].max() <= 60


def test_written_files_are_kaldis(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    write_vectors(tmp_path, "xvector", ["b", "c", "a"], embeddings)
    read = kaldiio.load_scp(str(tmp_path / "xvector.scp"))
    assert list(read) == ["a", "b", "c"]
    for key, row in zip(["b", "c", "a"], embeddings, strict=True):
        assert read[key].dtype == np.float32
        np.testing.assert_array_equal(read[key], row)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["xvector.ark", "xvector.scp", "xvector.scp.crc32"]


def test_non_finite_embedding_names_the_utterance(reader: ShardReader) -> None:
    def broken(waveforms: list[np.ndarray]) -> np.ndarray:
        rows = np.ones((len(waveforms), 2), dtype=np.float32)
        rows[0, 1] = np.nan
        return rows

    longest = reader.keys[int(np.argmax(reader.num_samples))]
    with pytest.raises(RecipeError, match=f"embedding of {longest} is not finite"):
        embed_all(broken, reader, frame_shift=160, num_workers=0, description="test")


def test_too_short_an_utterance_is_refused(embedder: NetworkEmbedder) -> None:
    with pytest.raises(RecipeError, match="1000 samples has fewer than 9 frames"):
        embedder([np.ones(1000, dtype=np.float32)])


def test_ltas_is_one_vector_an_utterance(reader: ShardReader) -> None:
    spectra = embed_all(LtasEmbedder(Fbank()), reader, frame_shift=160, num_workers=0, description="test")
    assert spectra.shape == (18, 80)
    assert np.isfinite(spectra).all()


def test_switches_for_less_precision_change_no_embedding(
    embedder: NetworkEmbedder, reader: ShardReader, products: Any
) -> None:
    waveforms = [reader.read(0), reader.read(1)]
    expected = embedder(waveforms)
    with products, torch.autocast("cpu", torch.bfloat16):
        embeddings = embedder(waveforms)
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, expected)
    assert len(products.seen) > 36  # convolutions, and the products of the filter bank
    assert products.are_exact
