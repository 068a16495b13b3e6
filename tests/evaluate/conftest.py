"""A small evaluated corpus: simulated embeddings, real files, the real programs."""

import contextlib
import json
import shutil
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.info import CorpusInfo

NUM_SPEAKERS, NUM_UTTERANCES, DIM = 6, 8, 16
ROWS = ("arcface", "cosface", "entmax_a2.0", "entmax_a1.75", "qmargin_a1.75", "qmargin_a1.5")


@pytest.fixture(scope="session")
def repository():
    """The root of the repository, where conf/ lies."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def write_training_log():
    """Function: write ``train_log.jsonl``."""
    return _write_training_log


@pytest.fixture(scope="session")
def _template(tmp_path_factory, repository):
    """A folder with data/tiny and exp/tiny: Table 5's six runs, and ltas as a baseline of the last one.

    ArcFace was trained with another scale than the paper's.
    """
    root = tmp_path_factory.mktemp("recipe")
    (root / "conf").symlink_to(repository / "conf")
    with contextlib.chdir(root):
        _write_corpus()
        _write_run("ltas", noise=3.0)
        for position, loss in enumerate(ROWS):
            folder = _write_run(loss, noise=0.8 + 0.1 * position)
            overrides = ["projection_args.scale=16"] if loss == "arcface" else []
            load_config(["conf/resnet34.yaml", f"conf/loss/{loss}.yaml"], overrides).save(folder / "config.yaml")
            _write_training_log(folder / "train_log.jsonl")
            baseline = ["--baseline", "ltas=exp/tiny/ltas"] if loss == ROWS[-1] else []
            assert main(["evaluate", "--data", "data/tiny", "--exp_dir", str(folder), *baseline]) == 0
    return root


@pytest.fixture
def recipe(_template, tmp_path, monkeypatch):
    """A copy of the template, as the current directory."""
    root = tmp_path / "recipe"
    shutil.copytree(_template, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


def _write_corpus():
    speaker = {f"s{s}-u{u}": f"s{s}" for s in range(NUM_SPEAKERS) for u in range(NUM_UTTERANCES)}
    data = Path("data/tiny")
    (data / "eval").mkdir(parents=True)
    (data / "trials").mkdir()
    (data / "eval" / "utt2spk").write_text("".join(f"{key} {value}\n" for key, value in speaker.items()))
    pairs = [(a, b) for a in speaker for b in speaker if a < b]
    lines = [f"{a} {b} {'target' if speaker[a] == speaker[b] else 'nontarget'}\n" for a, b in pairs]
    (data / "trials" / "all").write_text("".join(lines))
    (data / "trials" / "near").write_text("".join(line for line in lines if "s0" in line or "s1" in line))
    info = CorpusInfo(
        name="tiny",
        description="Simulated.",
        caveat="No voices at all.",
        trials={"near": "eval", "all": "eval"},
        headline="near",
    )
    info.save(data / "corpus.yaml")


def _write_run(name, noise):
    """Embeddings and scores of one system."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((NUM_SPEAKERS, DIM))
    vectors = {
        f"s{s}-u{u}": (centres[s] + noise * rng.standard_normal(DIM)).astype(np.float32)
        for s in range(NUM_SPEAKERS)
        for u in range(NUM_UTTERANCES)
    }
    folder = Path("exp/tiny") / name
    embeddings = folder / "embeddings"
    (embeddings / "eval").mkdir(parents=True)
    kaldiio.save_ark(f"{embeddings}/eval/xvector.ark", vectors, scp=f"{embeddings}/eval/xvector.scp")
    np.save(embeddings / "mean_vec.npy", np.full(DIM, 0.1, np.float32))
    assert main(["score", "--data", "data/tiny", "--exp_dir", str(folder)]) == 0
    return folder


def _write_training_log(path, num_epochs=4, with_steps=True):
    """What the trainer writes: 10 steps of 32 samples an epoch, a record every 5."""
    with path.open("w") as handle:
        for step in range(1, 10 * num_epochs + 1):
            epoch = (step - 1) // 10 + 1
            scheduled = {"margin": 0.01 * epoch, "learning_rate": 0.1 / step}
            figures = {"loss": 3 / step, "accuracy": 1 - 1 / step, "samples_per_s": 8.0, "wait_s": 0.0}
            records = []
            if step % 5 == 0 and with_steps:
                records.append({"type": "step", "epoch": epoch, "step": step, **figures, **scheduled})
            if step % 10 == 0:
                seen = {"samples": 32 * step, "minutes": step / 4}
                records.append({"type": "epoch", "epoch": epoch, "step": step, **figures, **scheduled, **seen})
                records.append({"type": "valid", "epoch": epoch, "step": step, "eer": 0.3 / epoch})
            handle.writelines(json.dumps(record) + "\n" for record in records)
