"""What is advised about a file depends on whose it is: a stage is recommended for what stages made."""

from pathlib import Path

import pytest

from wespeaker_qm.utils.ownership import LEDGER, claim
from wespeaker_qm.utils.remedies import made_again, mended, one_command

FOREIGN = "make it again with the program that wrote it, or name another file"
NAMES = {
    "exp/scores/all.score": "score the trials again (run.sh --stage 5)",
    "exp/scores/all.score.npz": "score the trials again (run.sh --stage 5)",
    "exp/embeddings/eval/xvector.ark": "extract again (run.sh --stage 4)",
    "exp/embeddings/mean_vec.npy": "extract again (run.sh --stage 4)",
    "data/trials/all": "prepare the data again (run.sh --stage 1)",
    "data/train/utt2spk": "prepare the data again (run.sh --stage 1)",
}


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize("name", NAMES)
def test_files_that_stages_made_are_made_again_by_them(name):
    path = Path(name)
    claim(Path(path.parts[0]), [Path("exp/scores/all.score"), Path("exp/embeddings"), path], made_before=True)
    assert mended(path) == f"delete it and {NAMES[name]}"
    assert mended(path.absolute()) == f"delete it and {NAMES[name]}"
    path.unlink()
    assert made_again(path) == NAMES[name]
    with one_command({}):
        assert made_again(path) == "run the same command again"


@pytest.mark.parametrize("name", [*NAMES, "exp/models/avg_model.pt", "exp/config.yaml"])
def test_files_of_others_are_not_deleted_whatever_they_are_called(name):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert mended(path) == made_again(path) == FOREIGN
    claim(Path(path.parts[0]), [Path(path.parts[0], "scores", "another.score")], made_before=True)  # a file beside ours
    assert mended(path) == made_again(path) == FOREIGN


def test_a_file_that_is_not_there_may_be_anybodys():
    assert made_again("scores/a.score") == "score the trials again (run.sh --stage 5), or name another file"


def test_a_ledger_that_is_damaged_lists_nothing():
    Path("exp", LEDGER).write_bytes(b"\xff\n\xfe\n")
    assert mended("exp/scores/all.score") == FOREIGN


def test_runs_of_versions_without_ledgers_are_of_stages():
    Path("exp/.done").mkdir()
    assert mended("exp/scores/all.score") == "delete it and score the trials again (run.sh --stage 5)"
