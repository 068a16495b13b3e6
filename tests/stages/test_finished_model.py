"""A finished model, also one of which only configuration and weights are left, is evaluated on another corpus."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wespeaker_qm import stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.score.calibration_file import save_calibration
from wespeaker_qm.score.calibration_fit import fit
from wespeaker_qm.score.cohort import load_cohort
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.vectors import write_vectors

RATE = 16000
DIM = 8
CONFIG = """
device: cpu
num_threads: 1
dataset_args: {num_frms: 40, fbank_args: {num_mel_bins: 16}}
model_args: {feat_dim: 16, embed_dim: 8, m_channels: 4}
"""
RUN = RunFolder("exp/calls/with_model")
DATA = DataFolder("data/calls")


@pytest.fixture
def place(tmp_path, monkeypatch, repository):
    """As current directory: ``recordings`` of six speakers, and ``model`` with config.yaml and avg_model.pt only."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    for speaker in range(6):
        for take in range(3):
            time_s = np.arange(int(rng.uniform(0.6, 0.9) * RATE)) / RATE
            wave = np.sin(2 * np.pi * (90 + 17 * speaker) * time_s) / 4 + 0.1 * rng.standard_normal(len(time_s))
            path = tmp_path / "recordings" / f"s{speaker}" / f"u{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, RATE)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.yaml").write_text(CONFIG)
    torch.manual_seed(1)
    checkpoint.save(build_encoder(load_config([model / "config.yaml"])).state_dict(), model / "avg_model.pt")
    return tmp_path


def prepare(repository, eval_speakers="all", **options):
    stages.prepare(
        recipe_dir=repository / "egs/folder",
        data=DATA,
        options={"audio_root": "recordings", "eval_speakers": eval_speakers, **options},
    )
    stages.pack(data=DATA)


def evaluate(model="model"):
    stages.extract(data=DATA, run=RUN, model=RunFolder(model))
    for system in ("untrained", "initial"):
        stages.extract(data=DATA, run=RUN, system=system)
    stages.extract(data=DATA, run=RunFolder("exp/calls/ltas"), system="ltas")
    baselines = {"untrained": RUN.untrained, "ltas": RunFolder("exp/calls/ltas")}
    for system in (RUN, *baselines.values()):
        stages.score(data=DATA, run=system)
    stages.normalise(data=DATA, run=RUN, top_n=3)
    stages.calibrate(data=DATA, run=RUN)
    stages.evaluate(data=DATA, run=RUN, baselines=baselines, num_resamples=20)
    stages.report(data=DATA, runs=[RUN])
    return json.loads(RUN.metrics.read_text())


def give_training_speakers(model: Path, scores="asnorm", top_n=3) -> np.ndarray:
    """What stages 4, 6 and 7 leave in the folder of a training: mean, cohort, calibration; returns the cohort."""
    folder = RunFolder(model)
    rng = np.random.default_rng(3)
    cohort = rng.standard_normal((7, DIM)).astype(np.float32)
    folder.embeddings.mkdir()
    np.save(folder.mean_xvector, np.full(DIM, 0.25, np.float32))
    write_vectors(folder.embeddings / "train", "spk_xvector", [f"t{n}" for n in range(7)], cohort)
    is_target = np.arange(200) < 100
    fitted = fit(np.where(is_target, 1.0, -1.0) + rng.standard_normal(200), np.empty((200, 0, 2)), is_target)
    save_calibration(folder.calibration, fitted, {})
    marker = DoneMarker(
        folder.marker("calibrated"),
        {"scores": scores, "top_n": top_n},
        [folder.calibration],
        version=STAGE_VERSIONS["calibrate"],
    )
    marker.write()
    return cohort


def test_configuration_and_weights_are_enough(place, repository, caplog):
    prepare(repository)
    info = CorpusInfo.load(DATA.info)
    assert (info.train, info.validation, info.noise, info.rirs) == (None, None, None, None)
    assert sorted(path.name for path in DATA.path.iterdir() if path.is_dir() and path.name[0] != ".") == [
        "eval",
        "trials",
    ]
    with caplog.at_level(logging.WARNING, "wespeaker_qm"):
        metrics = evaluate()
    assert list(metrics["trial_lists"]["all"]["systems"]) == ["trained", "untrained", "ltas"]
    assert metrics["trial_lists"]["all"]["num_targets"] == 6 * 3
    assert metrics["notes"] == [
        "Plain cosines, not normalised: there are no training speakers, of the corpus or with the model."
    ]
    assert "stage normalise: skipped, because there are no training speakers" in caplog.text
    assert "stage calibrate: skipped, because there are no normalised scores" in caplog.text
    assert not RUN.mean_xvector.exists()
    assert RUN.report("html").is_file()
    caplog.clear()
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        evaluate()
    assert "nothing changed" in caplog.text and "done again" not in caplog.text


def test_what_the_model_knows_of_its_training_speakers_is_used(place, repository):
    """Also where the corpus has some of its own: a corpus need not be trained on."""
    cohort = give_training_speakers(place / "model")
    prepare(repository, "s0,s1,s2,s3", noise="babble", num_babble=1, num_rooms=1)
    metrics = evaluate()
    assert list(metrics["trial_lists"]["all"]["systems"]) == ["trained", "asnorm", "calibrated", "untrained", "ltas"]
    assert not RUN.xvectors("train").exists()
    np.testing.assert_array_equal(np.load(RUN.mean_xvector), np.full(DIM, 0.25, np.float32))
    np.testing.assert_array_equal(load_cohort(DATA, RUN, CorpusInfo.load(DATA.info)), cohort)
    lines = {}
    for variant in ("", "asnorm", "calibrated"):
        rows = [line.split() for line in RUN.scores("all", variant).read_text().splitlines() if "#" not in line]
        lines[variant] = np.array([float(row[2]) for row in rows])
    assert np.corrcoef(lines["asnorm"], lines["calibrated"])[0, 1] == pytest.approx(1)
    assert not np.allclose(lines[""], lines["asnorm"])


def test_without_any_of_its_own_the_training_speakers_of_the_corpus_serve(place, repository):
    prepare(repository, "s0,s1,s2", noise="babble", num_babble=1, num_rooms=1)
    metrics = evaluate()
    assert list(metrics["trial_lists"]["all"]["systems"]) == ["trained", "asnorm", "untrained", "ltas"]
    assert RUN.mean_xvector.is_file()
    assert not RUN.adopted_cohort.is_file()


def test_a_calibration_of_other_scores_is_left_out(place, repository, caplog):
    give_training_speakers(place / "model", top_n=5)
    prepare(repository)
    metrics = evaluate()
    assert list(metrics["trial_lists"]["all"]["systems"]) == ["trained", "asnorm", "untrained", "ltas"]
    assert "that of the model is for {'scores': 'asnorm', 'top_n': 5}, found {'scores': 'asnorm', 'top_n': 3}" in (
        caplog.text
    )


def test_a_mean_of_other_weights_is_left_out(place, repository, caplog):
    give_training_speakers(place / "model")
    model = RunFolder(place / "model")
    DoneMarker(model.marker("extract_train"), {"models/avg_model.pt": "CRC-32 of others"}, []).write()
    prepare(repository)
    assert "trained" in evaluate()["trial_lists"]["all"]["systems"]
    assert "because the weights are others since" in caplog.text
    assert not RUN.mean_xvector.exists()


def test_neither_the_gpus_nor_the_initial_weights_of_the_training_are_needed(place, repository, monkeypatch):
    """They may be of another machine."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = (place / "model" / "config.yaml").read_text().replace("device: cpu", "device: auto")
    (place / "model" / "config.yaml").write_text(config + 'gpus: "[977]"\nmodel_init: /no/such/weights.pt\n')
    prepare(repository)
    assert "trained" in evaluate()["trial_lists"]["all"]["systems"]


def test_speakers_of_the_training_among_the_trials_are_told(place, repository, caplog):
    give_training_speakers(place / "model")
    cohort = RunFolder(place / "model").embeddings / "train"
    write_vectors(cohort, "spk_xvector", ["s1", "t1"], np.eye(2, DIM, dtype=np.float32))
    prepare(repository)
    assert evaluate()["notes"] == [
        "1 evaluation speaker bears a name of speakers that the model was trained on (s1): if they are the same "
        "people, the figures mislead."
    ]
    assert "1 speaker of the trials (data/calls/eval) bears a name of speakers that the model was trained on" in (
        caplog.text
    )


def test_another_model_in_the_same_folder_leaves_nothing_of_the_first(place, repository):
    shutil.copytree("model", "rich")
    give_training_speakers(place / "rich")
    prepare(repository)
    evaluate("rich")
    assert RUN.scores("all", "calibrated").is_file()
    metrics = evaluate("model")
    assert list(metrics["trial_lists"]["all"]["systems"]) == ["trained", "untrained", "ltas"]
    assert not RUN.mean_xvector.exists()
    assert not RUN.scores("all", "asnorm").exists()


def test_nothing_is_trained_on_a_corpus_without_training_speakers_nor_over_an_evaluation(place, repository):
    prepare(repository)
    with pytest.raises(RecipeError, match=r"corpus\.yaml: names no training set \(train: null\).*run\.sh --model"):
        stages.train(data=DATA, run=RunFolder("exp/calls/run"), config=["model/config.yaml"])
    stages.extract(data=DATA, run=RUN, model=RunFolder("model"))
    prepare(repository, "s0,s1,s2", noise="babble", num_babble=1, num_rooms=1)
    with pytest.raises(RecipeError, match="holds the evaluation of a finished model"):
        stages.train(data=DATA, run=RUN, config=["model/config.yaml"])


def test_what_is_no_model_or_no_place_for_one_is_refused_with_what_helps(place, repository):
    prepare(repository)
    model = RunFolder("model")
    with pytest.raises(RecipeError, match="the folder of the model itself"):
        stages.extract(data=DATA, run=RunFolder("./model"), model=model)
    trained = RunFolder("exp/calls/run")
    trained.states.mkdir(parents=True)
    trained.state(1).write_bytes(b"")
    with pytest.raises(RecipeError, match="holds a training of its own"):
        stages.extract(data=DATA, run=trained, model=model)
    weights = place / "model" / "avg_model.pt"
    weights.rename(place / "elsewhere.pt")
    with pytest.raises(RecipeError, match=r"^model: found no models/avg_model\.pt .*run\.sh --stage 4 --exp_dir"):
        stages.extract(data=DATA, run=RUN, model=model)
    (place / "model" / "config.yaml").unlink()
    with pytest.raises(RecipeError, match=r"^model: found no config\.yaml there"):
        stages.extract(data=DATA, run=RUN, model=model)
    with pytest.raises(RecipeError, match=r"^nowhere: no such folder, expected a model"):
        stages.extract(data=DATA, run=RUN, model="nowhere")
    (place / "a.wav").touch()
    with pytest.raises(RecipeError, match=r"^a\.wav: a file, expected a model"):
        stages.extract(data=DATA, run=RUN, model="a.wav")


def test_a_finished_model_is_no_baseline(place, repository, capsys):
    """Or else its weights would go into the folder of the spectra."""
    prepare(repository)
    with pytest.raises(RecipeError, match="expected average beside a finished model"):
        stages.extract(data=DATA, run=RUN, system="ltas", model=RunFolder("model"))
    with pytest.raises(SystemExit):
        main(["extract", "--data", str(DATA), "--exp_dir", str(RUN), "--ltas", "--model", "model"])
    assert "not allowed with" in capsys.readouterr().err
    assert not RUN.path.exists()


def test_a_copied_run_folder_without_its_checkpoints_goes_on_with_stage_4(place, repository):
    """As --exp_dir: config.yaml and models/avg_model.pt are what extraction needs."""
    prepare(repository)
    run = RunFolder("copied")
    run.models.mkdir(parents=True)
    shutil.copy("model/config.yaml", run.config)
    shutil.copy("model/avg_model.pt", run.average)
    stages.average(run=run)
    stages.extract(data=DATA, run=run)
    stages.score(data=DATA, run=run)
    assert run.scores("all").is_file()


def test_few_speakers_are_told_in_the_first_line_of_the_report(place, repository, caplog):
    """An EER of 0 of two speakers must not stand there alone."""
    for speaker in range(2, 6):
        shutil.rmtree(f"recordings/s{speaker}")
    prepare(repository)
    metrics = evaluate()
    for suffix in ("md", "html"):
        assert "with_model on calls (2 speakers: too few to tell)" in RUN.report(suffix).read_text()
    assert RUN.report("md").read_text().splitlines()[0] == "# with_model on calls (2 speakers: too few to tell)"
    assert metrics["notes"][0].startswith("List all: too few speakers to tell how others fare, and an EER of 0")
    assert "intervals and p-values need 5" in metrics["notes"][0]
    assert metrics["notes"][0] in caplog.text
    assert metrics["notes"][0] in RUN.report("md").read_text().split("\n## ")[0]  # above every table
