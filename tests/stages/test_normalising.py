"""Stage 6: scores against a cohort, which is made again for other speakers."""

from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.utils.checksums import checksum_path

RUN = Path("exp/tiny/qmargin_a1.5")
EXP_DIR = ["--data", "data/tiny", "--exp_dir", str(RUN)]

pytestmark = pytest.mark.usefixtures("recipe")


def test_snorm_takes_the_whole_cohort_and_wrong_numbers_are_refused(capsys):
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(RUN)]
    assert main(["normalise", *exp_dir, "--method", "snorm"]) == 0
    assert main(["normalise", *exp_dir, "--top_n", "100"]) == 0  # more than there are: all
    one, two = (read_scores(RUN / "scores" / f"near.{name}.score").scores for name in ("snorm", "asnorm"))
    np.testing.assert_array_equal(one, two)
    with pytest.raises(SystemExit):
        main(["normalise", *exp_dir, "--top_n", "1"])
    assert "--top_n: found '1', expected a whole number of at least 2" in capsys.readouterr().err


def test_normalisation_and_calibration_refuse_speakers_of_the_trials(capsys):
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(RUN)]
    for name, command in (("train", "normalise"), ("valid", "calibrate")):
        path = Path(f"data/tiny/{name}/utt2spk")
        text = path.read_text()
        path.write_text(text.replace(f"{name[0]}0\n", "s3\n"))
        assert main([command, *exp_dir]) == 1
        assert "1 speaker is in the c" in capsys.readouterr().err
        path.write_text(text)
        assert main(["normalise", *exp_dir]) == 0


def test_the_cohort_is_made_again_for_other_speakers(capsys, replaced):
    assert main(["normalise", *EXP_DIR]) == 0
    before = read_scores(RUN / "scores" / "near.asnorm.score").scores
    path = Path("data/tiny/train/utt2spk")
    replaced(path, path.read_bytes().replace(b"t0-u0 t0", b"t0-u0 t1"))
    assert main(["normalise", *EXP_DIR]) == 0
    assert "stage normalise: done again, because data/train/utt2spk: changed" in capsys.readouterr().out
    assert not np.array_equal(read_scores(RUN / "scores" / "near.asnorm.score").scores, before)


def test_other_speakers_of_the_cohort_are_normalised_anew(calibrated):
    before = read_scores(RUN / "scores" / "near.asnorm.score").scores
    path = Path("data/tiny/train/utt2spk")
    path.write_text(path.read_text().replace(" t0\n", " t1\n"))
    assert main(["normalise", *calibrated]) == 0
    assert not np.array_equal(read_scores(RUN / "scores" / "near.asnorm.score").scores, before)


@pytest.mark.parametrize("stage", ["normalise", "calibrate"])
def test_no_stage_alone_mixes_old_scores_with_new_embeddings(stage, capsys):
    assert main(["normalise", *EXP_DIR]) == 0
    mean = RUN / "embeddings" / "mean_vec.npy"
    np.save(mean, np.full(16, 0.2, np.float32))
    checksum_path(mean).unlink(missing_ok=True)
    assert main([stage, *EXP_DIR]) == 1
    assert "stage score must run again" in capsys.readouterr().err
