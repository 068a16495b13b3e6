"""Stage 8: what goes into the model, when it is made again, and what is done without what a run lacks."""

import json
import logging
import re

import numpy as np
import pytest
import torch

from wespeaker_qm import Speaker, stages
from wespeaker_qm.config import load_config
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.stages import exporting
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder


def export(data, run, **options):
    stages.export(data=data, run=run, **{"num_resamples": 20, **options})


def contents(run):
    return {path.name: path.read_bytes() for path in (*run.model_folder.iterdir(), run.model_zip)}


def test_nothing_is_done_while_nothing_has_changed(own_model_run, caplog):
    data, run = own_model_run
    before = contents(run)
    caplog.set_level(logging.INFO)
    export(data, run)
    assert "stage export: nothing changed since the last run" in caplog.text
    assert contents(run) == before
    run.model_zip.unlink()
    export(data, run)
    again = contents(run)
    assert again.keys() == before.keys()
    for name in ("weights.safetensors", "cohort.safetensors", "README.md"):
        assert again[name] == before[name]
    one, other = (json.loads(files["model.json"]) for files in (before, again))
    assert one["training"].pop("exported")["wespeaker_qm"] == other["training"].pop("exported")["wespeaker_qm"]
    assert {**one, "sha256": None} == {**other, "sha256": None}


def test_it_is_made_again_of_other_scores(own_model_run, caplog):
    data, run = own_model_run
    stages.normalise(data=data, run=run, top_n=2)
    caplog.set_level(logging.INFO)
    export(data, run)
    assert "stage export: done again, because" in caplog.text
    model = ModelFolder.read(run.model_folder)
    assert model.scoring.top_n == 2
    assert model.calibration is None  # it was of the scores before
    assert model.figures == {}  # and so were these
    assert "the model goes without a calibration" in caplog.text
    assert Speaker.load(run.model_folder).verify(*_two(data), far=0.1).llr is None


def _two(data):
    return [data.path / "eval" / "wav" / f"{key}.wav" for key in ("eval0-0", "eval0-1")]


def test_weights_are_the_average_without_the_classifier(model_run):
    run = model_run.run
    state = torch.load(run.average, weights_only=True)
    model = ModelFolder.read(run.model_folder)
    assert model.weights.keys() == {name for name in state if not name.startswith("projection.")}
    for name, value in model.weights.items():
        assert value.shape == state[name].shape, name
        np.testing.assert_array_equal(value, state[name].numpy())
    encoder = build_encoder(load_config([run.config], for_training=False))
    encoder.load_state_dict({name: torch.from_numpy(value) for name, value in model.weights.items()})


def test_the_loss_is_that_of_the_training(own_model_run):
    data, run = own_model_run
    load_config([run.config], ["projection_args.project_type=add_margin", "projection_args.scale=20.0"]).save(
        run.config
    )
    export(data, run)
    training = ModelFolder.read(run.model_folder).training
    assert training["loss"] == "CosFace (s 20, m 0.1)"
    assert training["config"]["projection_args"]["project_type"] == "add_margin"


def test_without_scores_there_is_a_score_and_no_decision(own_model_run, caplog):
    data, run = own_model_run
    for path in (*run.all_scores.iterdir(), run.marker("score"), run.marker("asnorm"), run.marker("calibrated")):
        path.unlink()
    export(data, run)
    assert "the model goes without trial scores" in caplog.text
    model = Speaker.load(run.model_folder)
    assert model.info.evidence is None
    assert model.info.scoring.normalisation == "cosine"
    assert "there are no thresholds and no decisions" in (run.model_folder / "README.md").read_text()
    decision = model.verify(*_two(data), far=0.1)
    assert decision.same is None
    assert decision.score == decision.cosine
    assert decision.rests_on == "nothing"
    assert "exported without scores of a trial list" in decision.warnings[-1]


def test_without_normalised_scores_thresholds_are_of_cosines(own_model_run):
    data, run = own_model_run
    run.marker("asnorm").unlink()
    run.scores("eval", "asnorm").unlink()
    export(data, run)
    model = ModelFolder.read(run.model_folder)
    assert (model.scoring.normalisation, model.scoring.top_n, model.cohort) == ("cosine", None, None)
    assert model.mean is not None
    assert all(-1 <= each.threshold <= 1 for each in model.evidence.thresholds if each.threshold is not None)


def test_a_cohort_of_an_earlier_export_is_taken_away(own_model_run):
    """Where there are neither mean nor cohort, the file of an earlier one would be of nothing."""
    data, run = own_model_run
    for path in (*run.all_scores.iterdir(), run.marker("score"), run.marker("asnorm"), run.marker("calibrated")):
        path.unlink()
    run.mean_xvector.unlink()
    run.marker("extract_train").unlink()
    export(data, run)
    assert not (run.model_folder / "cohort.safetensors").exists()
    assert ModelFolder.read(run.model_folder).mean is None


def test_snorm_takes_all_of_the_cohort(own_model_run):
    data, run = own_model_run
    for path in (run.marker("asnorm"), run.scores("eval", "asnorm"), run.marker("calibrated")):
        path.unlink()
    stages.normalise(data=data, run=run, method="snorm")
    export(data, run)
    model = ModelFolder.read(run.model_folder)
    assert (model.scoring.normalisation, model.scoring.top_n, len(model.cohort)) == ("snorm", None, 4)


def test_embeddings_of_other_weights_are_refused(own_model_run):
    data, run = own_model_run
    state = torch.load(run.average, weights_only=True)
    state["seg_1.bias"] += 1
    run.average.with_name("avg_model.pt.crc32").unlink()
    torch.save(state, run.average)
    before = contents(run)
    with pytest.raises(RecipeError, match=r"stage extract_\w+ must run again"):
        export(data, run)
    assert contents(run) == before


def test_what_cannot_be_made_leaves_the_model_of_before(own_model_run, monkeypatch):
    data, run = own_model_run
    before = contents(run)

    def fails(**parts):
        raise RecipeError("no card")

    monkeypatch.setattr(exporting, "model_card", fails)
    with pytest.raises(RecipeError, match="no card"):
        export(data, run, num_resamples=0)
    assert contents(run) == before
    assert ModelFolder.read(run.model_folder)


def test_files_that_no_stage_made_are_refused(own_model_run):
    data, run = own_model_run
    for path in (*run.model_folder.iterdir(), run.model_zip, run.marker("export")):
        path.unlink()
    ledger = run.path / ".wespeaker_qm"
    ledger.write_text("".join(line for line in ledger.read_text().splitlines(True) if not line.startswith("model")))
    (run.model_folder / "README.md").write_text("mine")
    with pytest.raises(RecipeError, match="that wespeaker-qm has not made"):
        export(data, run)
    assert (run.model_folder / "README.md").read_text() == "mine"


def test_other_files_in_the_folder_stay(own_model_run):
    data, run = own_model_run
    (run.model_folder / "notes.txt").write_text("mine")
    run.marker("export").unlink()
    export(data, run)
    assert (run.model_folder / "notes.txt").read_text() == "mine"
    ModelFolder.read(run.model_folder)


def test_the_latest_is_noted_and_found(own_model_run, tmp_path, monkeypatch):
    data, run = own_model_run
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WESPEAKER_QM_MODEL", raising=False)
    latest = tmp_path / "exp" / "latest_model"
    for _ in range(2):  # also where nothing is to be done, and where it is there
        export(data, run, latest=latest)
        assert latest.read_text() == "model made last: voices/run/model\n"
    assert ModelFolder.read(default_model()).training["corpus"] == "voices"
    latest.write_text("mine")
    with pytest.raises(RecipeError, match="exists, and is no note of wespeaker-qm's"):
        export(data, run, latest=latest)
    assert latest.read_text() == "mine"


def test_a_finished_model_is_exported_with_thresholds_of_the_new_corpus(model_run, tmp_path):
    data, other = model_run.data, RunFolder(tmp_path / "exp" / "with_run")
    stages.extract(data=data, run=other, model=model_run.run)
    stages.score(data=data, run=other)
    stages.normalise(data=data, run=other, top_n=3)
    export(data, other)
    model = ModelFolder.read(other.model_folder)
    assert model.fingerprint == ModelFolder.read(model_run.run.model_folder).fingerprint
    assert model.training["corpus"] is None
    card = (other.model_folder / "README.md").read_text()
    assert "the network came as a finished model, without a record of its training" in card


def test_the_card_says_what_a_user_must_know(model_run):
    card = (model_run.run.model_folder / "README.md").read_text()
    assert card.startswith("# run, evaluated on voices\n")
    for text in ("licence of the recordings", "free", "No voices.", "2026-01-31T12:00:00+00:00, commit abc"):
        assert text in card
    assert "list eval of voices" in card
    assert re.search(r"\| 1e-1 +\| +-?\d+\.\d{3} \|", card)
    assert re.search(r"\| 1e-3 +\| +none: it takes 1,000 non-target trials, there are 240", card)
    assert "## What it must not be used for" in card
    assert ModelFolder.read(model_run.run.model_folder).fingerprint[:16] in card
