"""What is written is what is read; files of earlier versions are refused by name."""

import json

import numpy as np
import pytest

from wespeaker_qm.score.calibration_check import EerCheck
from wespeaker_qm.score.calibration_file import load_calibration, save_calibration
from wespeaker_qm.score.calibration_fit import fit
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS


@pytest.mark.parametrize("num_measures", [0, 3])
def test_saves_what_it_is(tmp_path, num_measures):
    rng = np.random.default_rng(8)
    is_target = np.arange(60) < 20
    model = fit(rng.standard_normal(60) + 2 * is_target, rng.standard_normal((60, num_measures, 2)), is_target)
    checks = {"all": EerCheck(0.1, 0.11, 0.02, 0.5)}
    save_calibration(tmp_path / "calibration.json", model, checks)
    assert load_calibration(tmp_path / "calibration.json") == (model, checks)


def test_refuses_files_of_earlier_versions(tmp_path):
    path, version = tmp_path / "calibration.json", STAGE_VERSIONS["calibrate"]
    with pytest.raises(RecipeError, match="no such file; calibrate the run again"):
        load_calibration(path)
    path.write_text(json.dumps({"features": ["score"], "mean": [0], "deviation": [1], "weight": [1], "bias": 0}))
    with pytest.raises(RecipeError, match=rf"found version 1, expected {version}.*could decide alone.*--stage 7"):
        load_calibration(path)
    for content in ({"version": version}, {"version": version, "model": {}, "lists": {}}, []):
        path.write_text(json.dumps(content))
        with pytest.raises(RecipeError, match="not a calibration"):
            load_calibration(path)
