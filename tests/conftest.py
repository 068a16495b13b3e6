"""What several test folders share: a reproducible generator and a tiny packed corpus of synthetic voices."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.corpus.shards import pack_data_dir
from wespeaker_qm.utils.tables import write_rows

RATE = 16000


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed PyTorch, and put its generator and thread count back afterwards."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def _voice(pitch_hz: float, duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """A buzz that switches between two "vowels" of its speaker: mean normalisation leaves their difference to learn."""
    num_samples = int(duration_s * RATE)
    speaker = np.random.default_rng(int(pitch_hz))
    first, second = speaker.uniform(0, 1, (2, 40))
    is_first = (np.arange(num_samples) // 1600 + rng.integers(2)) % 2 == 0
    phase = 2 * np.pi * pitch_hz * np.arange(num_samples) / RATE
    buzz = sum(np.where(is_first, first[k], second[k]) * np.sin((k + 1) * phase) for k in range(40)) / 40
    return (0.5 * buzz + 0.003 * rng.standard_normal(num_samples)).astype(np.float32)


def _write_set(root: Path, name: str, recordings: dict[str, tuple[str, np.ndarray]]) -> None:
    directory = root / name
    for key, (_, waveform) in recordings.items():
        write_wav(directory / "wav" / f"{key}.wav", waveform, RATE)
    DataDir(
        wav={key: str(directory / "wav" / f"{key}.wav") for key in recordings},
        speaker={key: speaker for key, (speaker, _) in recordings.items()},
        duration_s={key: len(waveform) / RATE for key, (_, waveform) in recordings.items()},
    ).write(directory)
    pack_data_dir(directory, sample_rate=RATE, utterances_per_shard=10, num_workers=1)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed corpus: 4 training and 3 held-out speakers, 6 utterances of 1 to 2 s each, 3 noises, 4 RIRs."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(7)

    def speakers(prefix: str, pitches_hz: list[float]) -> dict[str, tuple[str, np.ndarray]]:
        return {
            f"{prefix}{index}-{take}": (f"{prefix}{index}", _voice(pitch_hz, rng.uniform(1, 2), rng))
            for index, pitch_hz in enumerate(pitches_hz)
            for take in range(6)
        }

    evaluation = speakers("e", [95, 150, 210])
    _write_set(root, "train", speakers("t", [90, 120, 170, 240]))
    _write_set(root, "eval", evaluation)
    noises = {
        f"n{index}": (kind, rng.standard_normal(RATE).astype(np.float32) * 0.1)
        for index, kind in enumerate(("noise", "music", "speech"))
    }
    _write_set(root, "noise", noises)
    decay = np.exp(-np.arange(2000) / 300)
    rirs = {
        f"r{index}": (f"room{index}", (decay * rng.standard_normal(2000) * 0.3).astype(np.float32))
        for index in range(4)
    }
    _write_set(root, "rirs", rirs)
    pairs = [(one, two) for one in evaluation for two in evaluation if one < two]
    for name in ("all", "eval"):
        write_rows(
            root / "trials" / name,
            [(one, two, "target" if evaluation[one][0] == evaluation[two][0] else "nontarget") for one, two in pairs],
        )
    CorpusInfo(name="tiny", trials={"all": "eval"}, headline="all", validation="eval", noise="noise", rirs="rirs").save(
        root / "corpus.yaml"
    )
    return root


TINY_CONFIG = """
device: cpu
num_threads: 1
num_epochs: 3
num_avg: 1
save_epoch_interval: 1
log_batch_interval: 2
valid_epoch_interval: 3
dataloader_args: {batch_size: 8, num_workers: 0}
dataset_args:
  num_frms: 40
  filter_args: {min_num_frames: 40}
  fbank_args: {num_mel_bins: 16}
  channel_prob: 0.5
  spec_aug: true
model_args: {feat_dim: 16, embed_dim: 8, m_channels: 4}
projection_args: {project_type: q_margin, scale: 10.0, alpha: 1.5}
margin_update: {increase_start_epoch: 2, fix_start_epoch: 3}
scheduler_args: {warm_up_epoch: 1}
"""


@pytest.fixture
def tiny_config(tmp_path: Path) -> Config:
    """A configuration with every augmentation on, that trains on the tiny corpus in seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_CONFIG)
    return load_config([path])
