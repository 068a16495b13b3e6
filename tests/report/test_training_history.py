"""What the log of a training says."""

import pytest

from wespeaker_qm.report.training_history import read_training_history
from wespeaker_qm.utils.errors import RecipeError


def test_amount_of_training(tmp_path, write_training_log):
    write_training_log(tmp_path / "log")
    history = read_training_history(tmp_path / "log")
    assert (history.num_epochs, history.num_samples, history.minutes) == (4, 1280, 10.0)
    assert str(history) == "1,280 training samples in 4 epochs and 10.0 minutes"
    assert len(history.steps) == 8
    assert len(history.validations) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no finished epoch"),
        ('{"type": "step", "step": 1}\n', "no finished epoch"),
        ('{"type": "epoch"\n', "log:1: found"),
        ('{"type": "epoch", "epoch": 1, "step": 1}\n{"type": "other"}\n', "log:2: found"),
        ("[1]\n", "log:1: found"),
    ],
)
def test_broken_logs_are_refused(tmp_path, text, message):
    (tmp_path / "log").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_training_history(tmp_path / "log")
    with pytest.raises(RecipeError, match="none: no such file; train first"):
        read_training_history(tmp_path / "none")
