"""A small evaluated corpus: simulated embeddings, real files, the real programs."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.bin.main import main
from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.corpus.shards import pack_data_dir
from wespeaker_qm.evaluate.trial_speakers import TrialSpeakers
from wespeaker_qm.utils.vectors import write_vectors

NUM_UTTERANCES, DIM = 8, 16
SETS = {
    "eval": [f"s{number}" for number in range(6)],
    "train": [f"t{number}" for number in range(8)],
    "valid": [f"v{number}" for number in range(5)],
}
EVALUATE = ("evaluate", "--data", "data/tiny", "--num_resamples", "50")
ROWS = ("arcface", "cosface", "entmax_a2.0", "entmax_a1.75", "qmargin_a1.75", "qmargin_a1.5")


@pytest.fixture(scope="session")
def repository():
    """The root of the repository, where conf/ lies."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def simulate():
    """Function: a trial list with speaker effects."""
    return _simulate


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
            assert main([*EVALUATE, "--exp_dir", str(folder), *baseline]) == 0
    return root


@pytest.fixture
def recipe(_template, tmp_path, monkeypatch):
    """A copy of the template, as the current directory."""
    root = tmp_path / "recipe"
    shutil.copytree(_template, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


def _write_corpus():
    """Sets of 8 training, 6 evaluation and 5 validation speakers, the last two with audio; and trial lists."""
    data = Path("data/tiny")
    (data / "trials").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, speakers in SETS.items():
        speaker = {f"{s}-u{u}": s for s in speakers for u in range(NUM_UTTERANCES)}
        folder = data / name
        folder.mkdir()
        (folder / "utt2spk").write_text("".join(f"{key} {value}\n" for key, value in speaker.items()))
        if name == "train":
            continue
        for key in speaker:
            write_wav(folder / "wav" / f"{key}.wav", 0.1 * rng.standard_normal(rng.integers(4000, 9000)), 8000)
        wav = {key: str(folder / "wav" / f"{key}.wav") for key in speaker}
        DataDir(wav=wav, speaker=speaker, duration_s={key: 0.5 for key in speaker}).write(folder)
        pack_data_dir(folder, sample_rate=8000, utterances_per_shard=30, num_workers=1)
        pairs = [(a, b) for a in speaker for b in speaker if a < b]
        lines = [f"{a} {b} {'target' if speaker[a] == speaker[b] else 'nontarget'}\n" for a, b in pairs]
        (data / "trials" / {"eval": "all"}.get(name, name)).write_text("".join(lines))
        if name == "eval":
            (data / "trials" / "near").write_text("".join(line for line in lines if "s0" in line or "s1" in line))
    info = CorpusInfo(
        name="tiny",
        description="Simulated.",
        caveat="No voices at all.",
        trials={"near": "eval", "all": "eval"},
        headline="near",
        validation="valid",
    )
    info.save(data / "corpus.yaml")


def _write_run(name, noise):
    """Embeddings and scores of one system."""
    rng = np.random.default_rng(1)
    folder = Path("exp/tiny") / name
    embeddings = folder / "embeddings"
    for set_name, speakers in SETS.items():
        centre = {speaker: rng.standard_normal(DIM) for speaker in speakers}
        vectors = {
            f"{s}-u{u}": (centre[s] + noise * rng.standard_normal(DIM)).astype(np.float32)
            for s in speakers
            for u in range(NUM_UTTERANCES)
        }
        write_vectors(embeddings / set_name, "xvector", list(vectors), np.stack(list(vectors.values())))
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


def _simulate(num_speakers=30, num_targets=600, num_nontargets=1500, *, effect=0.5, distance=2.5, seed=0, digits=None):
    """Speakers, labels (N,) and scores (N,); ``digits`` rounds the scores, which makes ties."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(num_speakers, size=num_targets)
    one = rng.integers(num_speakers, size=num_nontargets)
    other = (one + rng.integers(1, num_speakers, size=num_nontargets)) % num_speakers
    speakers = TrialSpeakers(
        np.concatenate([owner, one]).astype(np.int32), np.concatenate([owner, other]).astype(np.int32), num_speakers
    )
    is_target = np.arange(num_targets + num_nontargets) < num_targets
    u, v = effect * rng.standard_normal((2, num_speakers))
    scores = np.where(
        is_target, distance + v[speakers.enrolment], u[speakers.enrolment] + u[speakers.test]
    ) + rng.standard_normal(len(is_target))
    return speakers, is_target, scores if digits is None else scores.round(digits)
