"""Stage 5: the cosines of every list, and what was made of others."""

import re
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.utils.checksums import checksum_path

RUN = Path("exp/tiny/qmargin_a1.5")
SCORE = ["score", "--data", "data/tiny", "--exp_dir", str(RUN)]
EVALUATE = ["evaluate", "--data", "data/tiny", "--num_resamples", "50", "--exp_dir", str(RUN)]
EXP_DIR = ["--data", "data/tiny", "--exp_dir", str(RUN)]

pytestmark = pytest.mark.usefixtures("recipe")


def test_score_writes_every_list_and_skips_what_is_done(capsys):
    trials, scores, _ = read_scores(RUN / "scores" / "near.score")
    assert len(trials) == len(Path("data/tiny/trials/near").read_text().splitlines())
    assert scores[trials.is_target].mean() > scores[~trials.is_target].mean()
    assert (RUN / "scores" / "all.score").is_file()
    for _ in range(2):  # the copy is newer than what was scored
        assert main(SCORE) == 0
    assert "nothing changed since the last run, skipped" in capsys.readouterr().out
    assert np.array_equal(read_scores(RUN / "scores" / "near.score").scores, scores)
    assert main([*SCORE, "--subtract_mean", "false"]) == 0
    assert not np.array_equal(read_scores(RUN / "scores" / "near.score").scores, scores)


def test_score_refuses_unknown_lists_and_missing_embeddings(capsys):
    assert main([*SCORE, "--trials", "other"]) == 1
    assert "--trials: unknown other; data/tiny has near, all" in capsys.readouterr().err
    scp = RUN / "embeddings" / "eval" / "xvector.scp"
    scp.write_text("".join(scp.read_text().splitlines(keepends=True)[3:]))
    checksum_path(scp).unlink()
    assert main(SCORE) == 1
    assert "3 of the 48 utterances have no embedding" in capsys.readouterr().err
    assert not (RUN / ".done" / "score").exists()


def test_scores_without_text_are_read_all_the_same():
    before = read_scores(RUN / "scores" / "near.score")
    assert main([*SCORE, "--text", "false"]) == 0
    assert not (RUN / "scores" / "near.score").exists()
    after = read_scores(RUN / "scores" / "near.score")
    np.testing.assert_allclose(after.scores, before.scores, rtol=1e-8)
    assert main([*EVALUATE]) == 0


def test_cosines_of_other_embeddings_or_trials_are_refused(capsys, replaced):
    ark = RUN / "embeddings" / "eval" / "xvector.ark"
    before = ark.read_bytes()
    replaced(ark, before[:-4] + np.float32(3).tobytes())
    checksum_path(ark.with_suffix(".scp")).unlink()
    assert main(EVALUATE) == 1
    assert (
        "stage score must run again before anything is made of it (embeddings/eval: changed)" in capsys.readouterr().err
    )
    scores = read_scores(RUN / "scores" / "near.score").scores
    assert main(SCORE) == 0
    assert "stage score: done again, because embeddings/eval: changed" in capsys.readouterr().out
    assert not np.array_equal(read_scores(RUN / "scores" / "near.score").scores, scores)
    assert main(EVALUATE) == 0
    (RUN / ".done" / "score").unlink()  # as an interrupted run leaves it
    assert main(EVALUATE) == 1
    assert "no record of what they were made from: scoring was interrupted" in capsys.readouterr().err


def test_scoring_one_list_leaves_the_others_unknown(capsys):
    assert main([*SCORE, "--trials", "near"]) == 0
    assert main(EVALUATE) == 1
    assert "all: not scored with the others" in capsys.readouterr().err
    assert main(SCORE) == 0
    assert main(EVALUATE) == 0


def test_scores_that_somebody_put_there_are_not_removed():
    assert main(["normalise", *EXP_DIR]) == 0
    foreign = RUN / "scores" / "near.asnorm.score"
    foreign.write_text("mine\n")
    checksum_path(foreign).unlink()
    assert main([*SCORE, "--subtract_mean", "false"]) == 0
    assert foreign.read_text() == "mine\n"
    assert not (RUN / "scores" / "all.asnorm.score").exists()


def test_a_text_of_the_same_size_and_time_is_not_read_from_the_cache_of_another(replaced):
    path = RUN / "scores" / "near.score"
    assert cache_path(path).is_file()
    before = read_scores(path).scores
    replaced(path, path.read_bytes().replace(b" 0.1", b" 0.2"))
    assert not np.array_equal(read_scores(path).scores, before)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["scores/near.score", "embeddings/eval/xvector.ark"])
def test_a_flipped_bit_stops_the_program_and_what_was_put_back_is_taken(capsys, name):
    path = RUN / name
    whole = path.read_bytes()
    flip_a_bit(path)
    command = EVALUATE if name.startswith("scores") else SCORE
    (RUN / ".done" / command[0]).unlink(missing_ok=True)
    assert main(command) == 1
    message = capsys.readouterr().err
    assert re.search(rf"{path.name}: CRC-32 \w+ of \d+ bytes, expected CRC-32", message)
    assert "If you have put this file here on purpose, delete " in message
    path.write_bytes(whole)
    assert main(command) == 0


def test_damaged_scores_are_made_again_as_the_message_says(capsys):
    path = RUN / "scores" / "near.score"
    whole = path.read_text()
    flip_a_bit(path)
    assert main(EVALUATE) == 1
    assert "delete it and score the trials again (run.sh --stage 5)" in capsys.readouterr().err
    path.unlink()
    assert main(SCORE) == 0
    assert path.read_text() == whole
    assert main(EVALUATE) == 0
