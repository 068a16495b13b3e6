"""Which score files of a run are there, and how they go."""

import numpy as np
import pytest

from wespeaker_qm.trials import variants
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import write_scores
from wespeaker_qm.utils.layout import RunFolder


@pytest.fixture
def trials(tmp_path):
    (tmp_path / "trials").write_text("a b target\na c nontarget\n")
    return read_trial_table(tmp_path / "trials")


def test_a_cache_alone_is_there_and_removed_with_the_text(tmp_path, trials):
    path = RunFolder(tmp_path).scores("x")
    assert not variants.exists(path)
    for text in (True, False):
        write_scores(path, trials, np.array([1.0, 2.0]), text=text)
        assert (path.exists(), cache_path(path).exists()) == (text, True)
        assert variants.exists(path)
        variants.remove(path)
        assert not variants.exists(path)
        assert not cache_path(path).exists()
    variants.remove(path)  # nothing there: no error


def test_a_variant_is_present_where_every_list_has_it(tmp_path, trials):
    run, scores = RunFolder(tmp_path), np.array([1.0, 2.0])
    for name, variant in [("one", "calibrated"), ("one", "snorm"), ("two", "calibrated"), ("two", "asnorm")]:
        write_scores(run.scores(name, variant), trials, scores, text=variant != "calibrated")
    assert variants.present_variants(run, iter(["one", "two"])) == ["calibrated"]
    assert variants.present_variants(run, ["one"]) == ["snorm", "calibrated"]
    assert variants.present_variants(run, ["three"]) == []
