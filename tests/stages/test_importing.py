"""A network that WeSpeaker trained, as its own train.py leaves it, becomes a model folder."""

import json
import logging

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml

from wespeaker_qm import Speaker, stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.config import load_config
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.vectors import VectorTable

RATE = 16000
SIZES = {"feat_dim": 16, "embed_dim": 8, "pooling_func": "TSTP", "two_emb_layer": False}


@pytest.fixture
def place(tmp_path, monkeypatch, repository):
    """As current directory: ``resnet``, an experiment of WeSpeaker's, and ``recordings`` of six speakers."""
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((repository / "tests/config/wespeaker_resnet.yaml").read_text())
    values |= {"model": "ResNet18", "model_args": SIZES, "exp_dir": "exp/resnet", "gpus": [0, 1], "data_type": "shard"}
    values |= {"train_data": "data/vox2_dev/shard.list", "train_label": "data/vox2_dev/utt2spk"}
    values |= {"reverb_data": "data/rirs/lmdb", "noise_data": "data/musan/lmdb"}
    values["dataset_args"]["fbank_args"]["num_mel_bins"] = 16
    values["projection_args"] |= {"embed_dim": 8, "num_class": 5, "do_lm": False}
    values["optimizer_args"] |= {"lr": 0.1}
    values["scheduler_args"] |= {"num_epochs": 150, "epoch_iter": 4265, "scale_ratio": 4.0}
    values["margin_update"] |= {"epoch_iter": 4265}
    models = tmp_path / "resnet" / "models"
    models.mkdir(parents=True)
    config = tmp_path / "resnet" / "config.yaml"
    config.write_text(yaml.dump(values))
    torch.manual_seed(1)
    encoder = build_encoder(load_config([config], ["device=cpu"], for_training=False))
    torch.save({**encoder.state_dict(), "projection.weight": torch.randn(5, 8)}, models / "avg_model.pt")
    rng = np.random.default_rng(5)
    for speaker in range(6):
        for take in range(3):
            time_s = np.arange(int(rng.uniform(0.6, 0.9) * RATE)) / RATE
            wave = np.sin(2 * np.pi * (90 + 60 * speaker) * time_s) / 4 + 0.02 * rng.standard_normal(len(time_s))
            path = tmp_path / "recordings" / f"s{speaker}" / f"u{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, RATE)
    return tmp_path


def write_list(place, *, labels=("nontarget", "target")):
    names = sorted(str(path.relative_to(place / "recordings")) for path in (place / "recordings").rglob("*.wav"))
    pairs = [(one, two) for one in names for two in names if one < two]
    lines = [f"{one} {two} {labels[one[:2] == two[:2]]}\n" for one, two in pairs]
    (place / "trials.txt").write_text("".join(lines))
    return lines


def test_embeddings_are_those_of_stage_4(place, repository):
    data, run = DataFolder("data/calls"), RunFolder("exp/calls/with_resnet")
    stages.prepare(
        recipe_dir=repository / "egs/folder", data=data, options={"audio_root": "recordings", "eval_speakers": "all"}
    )
    stages.pack(data=data)
    stages.extract(data=data, run=run, model="resnet")
    table = VectorTable(run.xvectors("eval"))
    model = Speaker.load(stages.import_model(model="resnet"))
    paths = [f"recordings/{name.replace('-', '/')}.wav" for name in table.names]
    np.testing.assert_array_equal(model.embed(paths), table.load(table.names))


def test_without_a_list_there_are_scores_and_no_decisions(place, capsys):
    assert main(["import", "resnet", "--out", "mine"]) == 0
    assert "mine: scores, but no decisions: there was no trial list" in capsys.readouterr().err
    model = ModelFolder.read("mine")
    assert (model.evidence, model.calibration, model.mean, model.cohort) == (None, None, None, None)
    assert model.training["config"]["model"] == "ResNet18"
    assert "projection.weight" not in model.weights
    assert "Unknown: the network came as a finished model" in (place / "mine" / "README.md").read_text()
    files = ["recordings/s0/u0.wav", "recordings/s0/u1.wav"]
    assert main(["verify", *files, "--model", "mine", "--far", "0.1", "--json"]) == 2
    decision = json.loads(capsys.readouterr().out)
    assert decision["same"] is None and decision["score"] == decision["cosine"]
    assert "import the network with a list (wespeaker-qm import --trials)" in decision["warnings"][-1]


def write_training_speakers(place, folder="vox2_dev", dim=8):
    """What WeSpeaker's score.sh and vector_mean.py leave of five training speakers; the mean, and speaker -> mean."""
    rng = np.random.default_rng(9)
    speakers = {f"id{number}": rng.standard_normal(dim).astype(np.float32) for number in range(5)}
    mean = (0.1 * rng.standard_normal(dim)).astype(np.float32)
    where = place / "resnet" / "embeddings" / folder
    where.mkdir(parents=True)
    np.save(where / "mean_vec.npy", mean)
    kaldiio.save_ark(str(where / "spk_xvector.ark"), speakers, scp=str(where / "spk_xvector.scp"))
    return mean, np.stack(list(speakers.values()))


def test_the_mean_and_the_training_speakers_come_along(place):
    mean, speakers = write_training_speakers(place)
    (place / "resnet").rename(place / "moved")  # the scp still names the ark where it was
    model = Speaker.load(stages.import_model(model="moved"), device="cpu")
    assert model.info.scoring.normalisation == "asnorm"
    np.testing.assert_array_equal(model.info.mean, mean)
    np.testing.assert_array_equal(model.info.cohort, speakers)
    files = ["recordings/s0/u0.wav", "recordings/s1/u1.wav"]
    one, other, *cohort = (
        row / np.linalg.norm(row) for row in np.concatenate([model.embed(files), speakers]).astype(np.float64) - mean
    )
    expected = 0.0
    for side in (one, other):
        against = np.array([side @ each for each in cohort])
        expected += (one @ other - against.mean()) / against.std() / 2
    assert model.verify(*files).score == pytest.approx(expected, abs=1e-4)


def test_a_mean_alone_is_subtracted(place):
    mean, _ = write_training_speakers(place)
    (place / "resnet/embeddings/vox2_dev/spk_xvector.scp").unlink()
    model = Speaker.load(stages.import_model(model="resnet"), device="cpu")
    assert model.info.scoring.normalisation == "cosine" and model.info.cohort is None
    files = ["recordings/s0/u0.wav", "recordings/s1/u1.wav"]
    one, other = model.embed(files).astype(np.float64) - mean
    assert model.verify(*files).score == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_two_means_are_told_and_left(place, capsys):
    write_training_speakers(place)
    write_training_speakers(place, "vox1_dev")
    assert main(["import", "resnet", "--out", "mine"]) == 0
    assert "several means of training embeddings, of which none is taken" in capsys.readouterr().err
    assert ModelFolder.read("mine").mean is None


def test_training_speakers_of_another_network_are_refused(place, capsys):
    write_training_speakers(place, dim=9)
    assert main(["import", "resnet"]) == 1
    assert "mean_vec.npy: 9 dimensions, expected the 8 of the network" in capsys.readouterr().err


def test_as_offered_for_download_it_is_the_same_model(place):
    (place / "hub").mkdir()
    (place / "resnet/config.yaml").rename("hub/config.yaml")
    (place / "resnet/models/avg_model.pt").rename("hub/avg_model.pt")
    folder = stages.import_model(model="hub")
    assert str(folder) == "exp/imported/hub"
    state = torch.load("hub/avg_model.pt", weights_only=True)
    for name, value in ModelFolder.read(folder).weights.items():
        np.testing.assert_array_equal(value, state[name].numpy())


@pytest.mark.parametrize("labels", [("nontarget", "target"), ("imp", "tgt")])
def test_a_list_gives_thresholds_and_a_calibration(place, labels, capsys):
    lines = write_list(place, labels=labels)
    given = ["import", "resnet", "--out", "mine", "--trials", "trials.txt", "--wav_root", "recordings"]
    assert main([*given, "--num_resamples", "20"]) == 0
    model = Speaker.load("mine")
    evidence = model.info.evidence
    assert (evidence.num_targets, evidence.num_nontargets, evidence.num_speakers) == (18, 135, 6)
    assert model.verify("recordings/s0/u0.wav", "recordings/s0/u1.wav", far=0.1).same is not None
    scores = np.array([model.verify(*(f"recordings/{name}" for name in line.split()[:2])).score for line in lines])
    is_target = np.array([line.split()[2] == labels[1] for line in lines])
    (threshold,) = [each.threshold for each in evidence.thresholds if each.far == 0.1]
    assert (scores[~is_target] >= threshold - 1e-6).sum() <= 13
    two = [model.verify(*(f"recordings/{name}" for name in line.split()[:2])) for line in (lines[0], lines[-4])]
    assert (two[0].llr > two[1].llr) == (two[0].score > two[1].score)
    card = (place / "mine" / "README.md").read_text()
    assert "6 speakers, who may have been trained on: that is not known; list trials.txt of recordings" in card
    capsys.readouterr()
    assert main([*given, "--num_resamples", "20"]) == 0
    assert "stage import: nothing changed since the last run" in capsys.readouterr().out


def test_speakers_that_nobody_knows_give_no_intervals(place):
    write_list(place)
    for number, path in enumerate(sorted((place / "recordings").rglob("*.wav"))):
        path.rename(place / "recordings" / f"{number}.wav")
    names = {f"s{s}/u{t}.wav": f"{3 * s + t}.wav" for s in range(6) for t in range(3)}
    text = (place / "trials.txt").read_text()
    for old, new in names.items():
        text = text.replace(old, new)
    (place / "trials.txt").write_text(text)
    folder = stages.import_model(model="resnet", trials="trials.txt", wav_root="recordings")
    evidence = ModelFolder.read(folder).evidence
    assert evidence.num_speakers is None
    assert evidence.thresholds[0].threshold is not None
    assert evidence.thresholds[0].no_interval == "it is not known who speaks"
    assert "trials of unknown speakers" in Speaker.load(folder).verify("recordings/0.wav", "recordings/1.wav").rests_on


def test_what_is_missing_is_counted_and_may_be_left_out(place, caplog):
    write_list(place)
    given = {"model": "resnet", "out": "mine", "trials": "trials.txt", "wav_root": "recordings"}
    (place / "recordings/s0/u0.wav").unlink()
    (place / "recordings/s1/u0.wav").write_text("no audio")
    with pytest.raises(
        RecipeError, match=r"1 of its 18 recordings is missing .*\n  recordings/s0/u0.wav: no such file"
    ):
        stages.import_model(**given)
    with pytest.raises(RecipeError, match=r"2 of its 18 recordings .*--max_bad_fraction 0.112"):
        stages.import_model(**given, max_bad_fraction=0.06)
    assert not (place / "mine" / "model.json").exists()
    with caplog.at_level(logging.WARNING):
        stages.import_model(**given, max_bad_fraction=0.112, num_resamples=0)
    assert "left out: recordings/s0/u0.wav: no such file" in caplog.text
    assert ModelFolder.read("mine").evidence.num_targets == 14


def test_a_failed_import_leaves_the_model_before(place):
    write_list(place)
    given = {"model": "resnet", "out": "mine", "trials": "trials.txt", "wav_root": "recordings", "num_resamples": 0}
    stages.import_model(**given)
    before = (place / "mine" / "model.json").read_bytes()
    (place / "recordings/s0/u0.wav").unlink()
    with pytest.raises(RecipeError, match="missing or unusable"):
        stages.import_model(**given)
    assert (place / "mine" / "model.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none"], "none: no such folder, expected a model: a folder with config.yaml and avg_model.pt"),
        (["resnet", "--trials", "trials.txt"], "--trials and --wav_root: found one without the other"),
        (["resnet", "--out", "recordings/own"], "holds 1 file under names of ours that wespeaker-qm has not made"),
    ],
)
def test_what_cannot_be_imported_is_told(place, capsys, options, message):
    (place / "recordings/own").mkdir()
    (place / "recordings/own/README.md").write_text("mine")
    assert main(["import", *options]) == 1
    assert message in capsys.readouterr().err
    assert (place / "recordings/own/README.md").read_text() == "mine"


def test_a_network_of_another_kind_is_named(place, capsys):
    config = place / "resnet/config.yaml"
    config.write_text(config.read_text().replace("ResNet18", "ECAPA_TDNN_c512"))
    assert main(["import", "resnet"]) == 1
    assert "config.yaml: model: found 'ECAPA_TDNN_c512'" in capsys.readouterr().err
