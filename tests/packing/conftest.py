"""Data directories to pack, and what came of it."""

import numpy as np
import pytest

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader

RATE = 16000


def _tone(seed: int, num_samples: int) -> np.ndarray:
    """Noisy tone (S,), float32, exact in 16 bits."""
    rng = np.random.default_rng(seed)
    wave = 0.3 * np.sin(np.arange(num_samples) * rng.uniform(0.05, 0.3)) + 0.05 * rng.standard_normal(num_samples)
    return (np.round(np.clip(wave, -1, 1) * 32767) / 32768).astype(np.float32)


@pytest.fixture(scope="session")
def tone():
    """Function: a noisy tone (S,)."""
    return _tone


def _make_data_dir(folder, num_utterances=7, num_speakers=3, growth=517):
    """A Kaldi directory of 16 kHz wav files, each longer than the last; returns its path and the waveforms."""
    data = DataDir(wav={}, speaker={}, duration_s={})
    waves = {}
    for number in range(num_utterances):
        key = f"spk{number % num_speakers}-utt.{number:03d}"
        waves[key] = _tone(number, 3000 + growth * number)
        path = folder / "audio" / f"{key}.wav"
        write_wav(path, waves[key], RATE)
        data.wav[key], data.speaker[key] = str(path), f"spk{number % num_speakers}"
        data.duration_s[key] = len(waves[key]) / RATE
    data.write(folder / "set")
    return folder / "set", waves


@pytest.fixture(scope="session")
def make_data_dir():
    """Function: writes a Kaldi directory; returns its path and the waveforms."""
    return _make_data_dir


def _flip_bit(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="session")
def flip_bit():
    """Function: changes one bit of a file."""
    return _flip_bit


def _assert_packing_mends(data_dir, waves, **options):
    """Stage 2, as the message says, and all is as before."""
    pack_data_dir(data_dir, utterances_per_shard=3, **options)
    reader = ShardReader(data_dir / "shard.list")
    for i, key in enumerate(reader.keys):
        np.testing.assert_array_equal(reader.read(i), waves[key])


@pytest.fixture(scope="session")
def assert_packing_mends():
    """Function: packs again, and all is as before."""
    return _assert_packing_mends


def _contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def contents():
    """Function: the bytes of every file below a folder."""
    return _contents


@pytest.fixture
def packed(tmp_path):
    """A packed set of three shards, and its waveforms."""
    data_dir, waves = _make_data_dir(tmp_path)
    pack_data_dir(data_dir, utterances_per_shard=3)
    return data_dir, waves
