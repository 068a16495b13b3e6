"""The folder in which the pages' examples run: as after ``./run.sh``, but small, of synthetic voices."""

import contextlib
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from wespeaker_qm import stages
from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.enrolment.store import STORE_VARIABLE
from wespeaker_qm.utils.layout import LATEST_MODEL, DataFolder, RunFolder
from wespeaker_qm.utils.tables import write_rows

EVALUATED = {"kl_es": 0, "tp_ru": 13, "kl_hu": 14, "tp_ca": 15}
"""Speakers of egs/mini whom the pages name -> which of 25 voices they have here: some that the network tells apart."""


@pytest.fixture(scope="session")
def page_examples(repository: Path) -> ModuleType:
    """``tools/page_examples.py``."""
    spec = importlib.util.spec_from_file_location("page_examples", repository / "tools/page_examples.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TRAINING = """
device: cpu
num_threads: 1
num_epochs: 24
num_avg: 1
valid_epoch_interval: 0
dataloader_args: {batch_size: 16, num_workers: 0}
dataset_args:
  num_frms: 40
  aug_prob: 0
  speed_perturb: false
  filter_args: {min_num_frames: 40}
  fbank_args: {num_mel_bins: 32}
model: ResNet10
model_args: {feat_dim: 32, embed_dim: 16, m_channels: 4}
projection_args: {project_type: q_margin, scale: 10.0, alpha: 1.5}
margin_update: {increase_start_epoch: 2, fix_start_epoch: 3}
scheduler_args: {warm_up_epoch: 1}
"""
"""A network that tells the voices apart after 140 steps: the pages' answers are right ones here, too."""

SETS = {
    "train": [f"t{number}" for number in range(24)],
    "valid": [f"v{number}" for number in range(6)],
    "eval": [next((name for name in EVALUATED if EVALUATED[name] == place), f"e{place}") for place in range(25)],
}
TAKES = {"tp_ru": (6, 18, 30, 42), "tp_ca": (3, 11, 19, 27)}
"""Numbers of recordings, where those of egs/mini are not the first ones."""
HEADLINE = "same_package_gender_channel"


@pytest.fixture(scope="session")
def _world(tmp_path_factory, voice, write_set, repository) -> Path:
    root = tmp_path_factory.mktemp("pages")
    for name in ("conf", "egs", "examples", "tools", "run.sh", "path.sh", "docs", "tests", "requirements"):
        (root / name).symlink_to(repository / name)
    with contextlib.chdir(root):
        data, run = DataFolder("data/mini"), RunFolder("exp/mini/qmargin_a1.5")
        rng = np.random.default_rng(0)
        everybody = [speaker for speakers in SETS.values() for speaker in speakers]
        for name, speakers in SETS.items():
            takes = {
                f"{speaker}-{speaker.rpartition('_')[2]}-{take:04}": speaker
                for speaker in speakers
                for take in TAKES.get(speaker, range(4))
            }
            waves = {}
            for key, speaker in takes.items():
                pitch_hz = 90 + 99 * everybody.index(speaker) % 160
                waves[key] = (speaker, voice(pitch_hz, rng.uniform(1.0, 1.3), rng))
                if speaker in EVALUATED:
                    path = data.path / "wav" / name / speaker / f"{key}.wav"
                    write_wav(path, voice(pitch_hz, rng.uniform(2.3, 3.0), rng), 16000)
            write_set(data.path, name, waves)
            if name != "train":
                pairs = [(one, two) for one in takes for two in takes if one < two]
                labels = ["target" if takes[one] == takes[two] else "nontarget" for one, two in pairs]
                rows = [(*pair, label) for pair, label in zip(pairs, labels, strict=True)]
                write_rows(data.trials({"eval": HEADLINE}.get(name, name)), rows)
        trials = {HEADLINE: "eval"}
        CorpusInfo(name="mini", trials=trials, headline=HEADLINE, validation="valid").save(data.info)
        Path("training.yaml").write_text(TRAINING)
        stages.train(data=data, run=run, config=["training.yaml"])
        stages.average(run=run)
        stages.extract(data=data, run=run)
        stages.score(data=data, run=run)
        stages.normalise(data=data, run=run, top_n=10)
        stages.calibrate(data=data, run=run)
        stages.evaluate(data=data, run=run, num_resamples=50)
        stages.export(data=data, run=run, num_resamples=50, latest=LATEST_MODEL)
        stages.export_onnx(data=data, run=run)
    return root


@pytest.fixture
def world(_world, tmp_path, monkeypatch) -> Path:
    """As current directory, a copy of it."""
    root = tmp_path / "world"
    shutil.copytree(_world, root, symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.delenv("WESPEAKER_QM_MODEL", raising=False)
    monkeypatch.setenv(STORE_VARIABLE, str(root / "speakers.sqlite"))
    return root
