"""Extraction: whole utterances, batched without changing them, all or an error."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import torch

from wespeaker_qm.audio import pieces
from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.audio.silence import without_silence
from wespeaker_qm.audio.waveform import Waveform
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.embed import extract
from wespeaker_qm.embed.extract import (
    LtasEmbedder,
    NetworkEmbedder,
    TrimmingEmbedder,
    batches_by_length,
    embed_all,
    num_readers,
)
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.parallel import available_cpus
from wespeaker_qm.utils.vectors import write_vectors


@pytest.fixture
def encoder() -> ResNet:
    encoder = ResNet((3, 4, 6, 3), feat_dim=16, embed_dim=8, m_channels=4)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.3)
            torch.nn.init.normal_(module.running_mean, std=0.3)
    return encoder


@pytest.fixture
def embedder(encoder: ResNet) -> NetworkEmbedder:
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
def test_batches_equal_one_at_a_time(
    encoder: ResNet, embedder: NetworkEmbedder, reader: ShardReader, num_workers: int
) -> None:
    together = embed_all(embedder, reader, frame_shift=160, num_workers=num_workers, description="test")
    alone = np.concatenate([embedder([reader.read(i)]) for i in range(len(reader))])
    assert together.shape == (18, 8)
    np.testing.assert_array_equal(together, alone)  # on a CPU
    batched = NetworkEmbedder(encoder, embedder.fbank, embedder.device, batched=True)
    together = embed_all(batched, reader, frame_shift=160, num_workers=num_workers, description="test")
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_readers_are_few_batches_ahead(
    embedder: NetworkEmbedder, reader: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held does not grow with the set, however slow the network is."""
    monkeypatch.setattr(extract, "FRAMES_PER_BATCH", 1)  # an utterance each
    read, noted = ShardReader.read, tmp_path / "read"
    ahead = []

    def watched(self: ShardReader, *place: int) -> np.ndarray:
        with noted.open("a") as file:
            file.write("x")
        return read(self, *place)

    def slow(waveforms: Sequence[Waveform]) -> np.ndarray:
        time.sleep(0.02)
        ahead.append(noted.stat().st_size - len(ahead))
        return np.ones((len(waveforms), 2), np.float32)

    monkeypatch.setattr(ShardReader, "read", watched)
    embed_all(slow, reader, frame_shift=160, num_workers=2, description="test")
    assert len(ahead) == len(reader) == noted.stat().st_size
    assert max(ahead) <= 1 + 2 * 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_recording_is_told_by_its_key(tmp_path: Path, num_workers: int) -> None:
    """By the message alone: PyTorch puts the traceback of a reader in front."""
    data = DataDir(wav={}, speaker={}, duration_s={})
    rng = np.random.default_rng(0)
    for key in ("a", "b", "c"):
        _add(data, tmp_path / f"{key}.wav", 0.1 * rng.standard_normal(8000))
    data.write(tmp_path / "set")
    pack_data_dir(tmp_path / "set")
    reader = ShardReader(tmp_path / "set" / "shard.list")
    with reader.index.tars[0].open("r+b") as tar:
        tar.seek(int(reader.index.records["offset"][reader.index_of("b")]) + 5000)
        tar.write(b"damage")
    with pytest.raises(RecipeError, match=r"recording b is not as .*CRC-32") as raised:
        embed_all(LtasEmbedder(Fbank()), reader, frame_shift=160, num_workers=num_workers, description="test")
    assert str(raised.value).startswith(str(reader.index.tars[0])), raised.value
    assert "Traceback" not in str(raised.value)


def test_readers_by_default() -> None:
    assert num_readers(torch.device("cpu")) == 0
    assert num_readers(torch.device("cuda")) == min(8, available_cpus())


def test_a_batch_is_analysed_at_once(encoder: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """And padding counts in no row's mean; a loud utterance is behind the end of a faint one."""
    fbank = Fbank(num_mel_bins=16)
    rng = np.random.default_rng(0)
    waveforms = [(s * rng.standard_normal(n)).astype(np.float32) for s, n in ((1e-3, 8000), (0.5, 16000), (0.1, 9111))]
    alone = NetworkEmbedder(encoder, fbank, torch.device("cpu"))
    expected = np.concatenate([alone([waveform]) for waveform in waveforms])
    calls: list[torch.Size] = []
    forward = fbank.forward

    def counted(waveform: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(waveform.shape)
        return forward(waveform, *rest)

    monkeypatch.setattr(fbank, "forward", counted)
    batched = NetworkEmbedder(encoder, fbank, torch.device("cpu"), batched=True)
    np.testing.assert_allclose(batched(waveforms), expected, atol=1e-5)
    assert calls == [(3, 15920)]


def test_a_network_that_does_not_mask_gets_one_length_at_a_time() -> None:
    embedder = NetworkEmbedder(MeanEncoder(), Fbank(num_mel_bins=16), torch.device("cpu"), batched=True)
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(n).astype(np.float32) for n in (8000, 16000, 8000, 16001, 9000)]
    together = embedder(waveforms)
    assert sorted(embedder.encoder.batches) == [1, 2, 2]  # 16,000 and 16,001 samples have as many frames
    alone = np.concatenate([embedder([waveform]) for waveform in waveforms])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    with pytest.raises(RecipeError, match="700 samples has fewer than 3 frames"):
        embedder([waveforms[0][:700]])


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_long_utterances_come_out_as_they_would_whole(
    embedder: NetworkEmbedder, tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit lowered to 300 frames; those up to it come out to the bit as ever."""
    rng = np.random.default_rng(0)
    data = DataDir(wav={}, speaker={}, duration_s={})
    for key, num_frames in (("a", 300), ("b", 301), ("c", 80), ("d", 1000)):
        wave = 0.1 * rng.standard_normal(160 * num_frames + 240) * np.linspace(0.1, 1, 160 * num_frames + 240)
        _add(data, tmp_path / f"{key}.wav", wave)
    data.write(tmp_path / "set")
    pack_data_dir(tmp_path / "set", codec=codec)
    reader = ShardReader(tmp_path / "set" / "shard.list")
    waveforms = [reader.read(row) for row in range(4)]
    systems = (embedder, LtasEmbedder(Fbank()))
    whole = [np.concatenate([embed([waveform]) for waveform in waveforms]) for embed in systems]

    monkeypatch.setattr(extract, "FRAMES_PER_PIECE", 300)
    monkeypatch.setattr(pieces.pieces, "__defaults__", (300,))
    read, read_whole = ShardReader.read, []

    def watched(self: ShardReader, i: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        if num_samples is None or num_samples > 160 * (304 + 2 * 112) + 240:
            read_whole.append(self.keys[i])
        return read(self, i, start, num_samples)

    monkeypatch.setattr(ShardReader, "read", watched)
    for embed, expected in zip(systems, whole, strict=True):
        read_whole.clear()
        embeddings = embed_all(embed, reader, frame_shift=160, num_workers=0, description="test")
        assert {"d"}.isdisjoint(read_whole) and {"c"} <= {*read_whole}
        for row, key in enumerate(reader.keys):
            np.testing.assert_allclose(
                embeddings[row], expected[row], atol=1e-5 * np.abs(expected[row]).max(), err_msg=key
            )
    together = embedder(waveforms)  # short and long ones in a batch
    np.testing.assert_allclose(together, whole[0], atol=1e-5 * np.abs(whole[0]).max())
    for row, key in enumerate(reader.keys):
        if key in "ac":
            np.testing.assert_array_equal(embedder([waveforms[row]])[0], whole[0][row])


@pytest.mark.parametrize("system", ["network", "ltas"])
def test_digital_silence_at_the_ends_changes_no_embedding(embedder: NetworkEmbedder, system: str) -> None:
    embed = embedder if system == "network" else LtasEmbedder(Fbank())
    trimming = TrimmingEmbedder(embed, embed.fbank, 9)
    rng = np.random.default_rng(0)
    voices = [(0.1 + 0.2 * rng.random(160 * n + 240)).astype(np.float32) for n in (60, 97)]
    zeros = np.zeros(16000, np.float32)
    np.testing.assert_array_equal(trimming(voices), embed(voices))
    assert trimming.num_trimmed == 0
    beside = np.concatenate([voices[1], zeros])
    together = trimming([voices[0], beside])
    np.testing.assert_array_equal(together[:1], embed([voices[0], beside])[:1])
    np.testing.assert_array_equal(together[1:], trimming([beside]))
    # The frames that hold both come in addition: a few of a long utterance.
    long = (0.1 + 0.2 * rng.random(160 * 2000 + 240)).astype(np.float32)
    padded = np.concatenate([zeros, long, zeros])
    (right,), (trimmed,), (kept,) = embed([long]), trimming([padded]), embed([padded])
    assert trimming.num_trimmed == 3
    assert np.linalg.norm(trimmed - right) < 0.1 * np.linalg.norm(kept - right)


@pytest.mark.parametrize("system", ["network", "ltas"])
def test_digital_silence_inside_changes_no_embedding(embedder: NetworkEmbedder, system: str) -> None:
    """A pause that is cut out leaves a frame for each of its edges; the features of all others are the same."""
    embed = embedder if system == "network" else LtasEmbedder(Fbank())
    trimming = TrimmingEmbedder(embed, embed.fbank, 9)
    long = (0.1 + 0.2 * np.random.default_rng(0).random(160 * 2000 + 240)).astype(np.float32)
    for num_zeros in (8000, 16077):
        pausing = np.insert(long, 100_000, np.zeros(num_zeros, np.float32))
        (right,), (trimmed,), (kept,) = embed([long]), trimming([pausing]), embed([pausing])
        assert np.linalg.norm(trimmed - right) < 0.1 * np.linalg.norm(kept - right)
    assert trimming.num_trimmed == 2


def test_long_utterances_with_silence_inside_come_out_as_they_would_whole(
    embedder: NetworkEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of 300 frames, whose limits fall anywhere beside the pauses; and never read as a whole."""
    voice = 0.1 + 0.2 * np.random.default_rng(0).random(160 * 1000 + 240)
    pauses = np.repeat([16_000, 47_000, 47_500, 120_100], [8000, 500, 9000, 20_000])
    data = DataDir(wav={}, speaker={}, duration_s={})
    _add(data, tmp_path / "a.wav", np.insert(voice, pauses, 0))
    data.write(tmp_path / "set")
    pack_data_dir(tmp_path / "set")
    reader = ShardReader(tmp_path / "set" / "shard.list")
    waveform = reader.read(0)
    left = without_silence(waveform, embedder.fbank.frames)[:]
    assert len(voice) < len(left) < len(voice) + 4 * 800
    systems = embedder, LtasEmbedder(Fbank())
    whole = [embed([left]) for embed in systems]
    monkeypatch.setattr(extract, "FRAMES_PER_PIECE", 300)
    monkeypatch.setattr(pieces.pieces, "__defaults__", (300,))
    read = ShardReader.read

    def watched(self: ShardReader, i: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        assert num_samples is not None and num_samples < len(left) / 2
        return read(self, i, start, num_samples)

    monkeypatch.setattr(ShardReader, "read", watched)
    for embed, expected in zip(systems, whole, strict=True):
        trimming = TrimmingEmbedder(embed, embed.fbank, 9)
        found = embed_all(trimming, reader, frame_shift=160, num_workers=0, description="test")
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_memory_does_not_grow_with_the_length_of_an_utterance(tmp_path: Path) -> None:
    """As a whole, 20 minutes would take over half a gigabyte more than two."""
    data = DataDir(wav={}, speaker={}, duration_s={})
    rng = np.random.default_rng(0)
    for key, minutes in (("long", 20), ("short", 2)):
        _add(data, tmp_path / f"{key}.wav", 0.1 * rng.standard_normal(minutes * 960_000, dtype=np.float32))
    data.write(tmp_path / "set")
    pack_data_dir(tmp_path / "set")
    program = f"""
import resource, torch
from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.embed.extract import LtasEmbedder, NetworkEmbedder
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.packing.reader import ShardReader
reader = ShardReader({str(tmp_path / "set" / "shard.list")!r})
encoder = ResNet((2, 2, 2, 2), feat_dim=80, embed_dim=8, m_channels=4)
systems = NetworkEmbedder(encoder, Fbank(), torch.device("cpu")), LtasEmbedder(Fbank())
for key in ("short", "long"):
    for embed in systems:
        embed([reader.recording(reader.index_of(key))])
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    short_bytes, long_bytes = map(int, done.stdout.split())
    assert long_bytes - short_bytes < 100e6, done.stdout


def _add(data: DataDir, path: Path, wave: np.ndarray) -> None:
    """A recording of some speaker."""
    write_wav(path, wave.astype(np.float32), 16000)
    data.wav[path.stem], data.speaker[path.stem], data.duration_s[path.stem] = str(path), "s", len(wave) / 16000


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
