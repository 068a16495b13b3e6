"""The names of files: those that run.sh, WeSpeaker, the pages and earlier experiments know."""

import os
from pathlib import Path

from wespeaker_qm.utils.layout import DataFolder, ExpRoot, Folder, RunFolder

RUN = RunFolder(Path("exp/mini/qmargin_a1.5"))
DATA = DataFolder(Path("data/mini"))


def within(folder, *paths):
    return [str(Path(path).relative_to(folder)) for path in paths]


def test_a_run():
    found = within(RUN, RUN.config, RUN.provenance, RUN.training_log, RUN.tensorboard, RUN.metrics, RUN.report("html"))
    expected = ["config.yaml", "provenance.json", "train_log.jsonl", "tensorboard", "metrics.json", "report.html"]
    assert found == expected
    found = within(RUN, RUN.model(12), RUN.average, RUN.state(700), RUN.det("png"), RUN.training_curves)
    assert found == ["models/model_12.pt", "models/avg_model.pt", "resume/step_700.pt", "det.png", "training.png"]
    found = within(RUN, RUN.xvectors("eval"), RUN.speaker_xvectors("train"), RUN.mean_xvector)
    assert found == ["embeddings/eval/xvector.scp", "embeddings/train/spk_xvector.scp", "embeddings/mean_vec.npy"]
    found = within(RUN, RUN.scores("all"), RUN.scores("all", "asnorm"), RUN.calibration)
    assert found == ["scores/all.score", "scores/all.asnorm.score", "scores/calibration.json"]
    assert within(RUN, RUN.marker("score"), RUN.log("train")) == [".done/score", "log/train.log"]


def test_systems_beside_a_run_are_runs():
    found = within(RUN, RUN.untrained, RUN.initial, RUN.at_epoch(3), RUN.at_epoch(3).xvectors("eval"))
    assert found == ["untrained", "initial", "model_3", "model_3/embeddings/eval/xvector.scp"]


def test_a_corpus():
    found = within(DATA, DATA.info, DATA.trials("all"), DATA.marker("prepare"), DATA.wav)
    assert found == ["corpus.yaml", "trials/all", ".done/prepare", "wav"]
    assert within(DATA, DATA.bad_audio) == ["bad_audio.tsv"]
    train = DATA.set("train")
    assert within(DATA, train) == ["train"]
    found = within(train, train.wav_scp, train.segments, train.utt2spk, train.utt2dur, train.bad_audio)
    assert found == ["wav.scp", "segments", "utt2spk", "utt2dur", "bad_audio.tsv"]
    assert within(train, train.shards, train.shard_list) == ["shards", "shard.list"]


def test_a_folder_stands_for_its_path(tmp_path):
    assert Folder(str(tmp_path)) == Folder(tmp_path)
    assert os.fspath(RUN) == str(RUN) == "exp/mini/qmargin_a1.5"
    assert Path(RUN) == RUN.path
    assert RunFolder(Path("/exp/a/../b")).name == "b"


def test_the_runs_of_a_corpus():
    root = ExpRoot("exp/mini")
    found = within(root, root.run("cosface"), root.ltas, root.baselines, root.table5("md"), root.det_table5("pdf"))
    assert found == ["cosface", "ltas", "baselines", "table5.md", "det_table5.pdf"]
