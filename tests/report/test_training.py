"""The training log and its figure."""

import pytest

from wespeaker_qm.config import load_config
from wespeaker_qm.report.training import loss_card, read_training_log, training_figure
from wespeaker_qm.utils.errors import RecipeError


def test_amount_of_training(tmp_path, write_training_log):
    write_training_log(tmp_path / "log")
    log = read_training_log(tmp_path / "log")
    assert (log.num_epochs, log.num_samples, log.minutes) == (4, 1280, 10.0)
    assert str(log) == "1,280 training samples in 4 epochs and 10.0 minutes"
    assert len(log.steps) == 8
    assert len(log.validations) == 4


def test_figure_shows_the_log_over_samples(tmp_path, write_training_log):
    write_training_log(tmp_path / "log")
    figure = training_figure(read_training_log(tmp_path / "log"), "title")
    loss, accuracy, valid, schedule, margin = figure.axes
    steps, epochs = loss.lines
    assert steps.get_xdata().tolist() == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8, 0.96, 1.12, 1.28])
    assert steps.get_ydata()[0] == 3 / 5
    assert epochs.get_xdata().tolist() == pytest.approx([0.16, 0.48, 0.8, 1.12])
    assert accuracy.lines[0].get_ydata()[0] == pytest.approx(80)
    assert valid.lines[0].get_ydata().tolist() == pytest.approx([30, 15, 10, 7.5])
    assert schedule.lines[0].get_ydata()[-1] == pytest.approx(0.1 / 40)
    assert margin.lines[0].get_ydata()[-1] == pytest.approx(0.04)


def test_figure_of_a_sparse_loss_shows_its_support(tmp_path, write_training_log):
    write_training_log(tmp_path / "log")
    log = read_training_log(tmp_path / "log")
    for number, record in enumerate(log.epochs):
        record.update(support=40 / (number + 1), solved=number / 10, dropped=0.1)
    figure = training_figure(log, "title")
    support, shares = (axes for axes in figure.axes if "support" in axes.get_title("left") or axes.get_legend())
    assert support.lines[0].get_ydata().tolist() == pytest.approx([40, 20, 40 / 3, 10])
    solved, dropped = shares.lines
    assert solved.get_ydata().tolist() == pytest.approx([0, 10, 20, 30])
    assert dropped.get_ydata().tolist() == pytest.approx([10, 10, 10, 10])
    figure.savefig(tmp_path / "training.png")


def test_figure_without_steps_and_validation(tmp_path, write_training_log):
    write_training_log(tmp_path / "log", with_steps=False)
    log = read_training_log(tmp_path / "log")
    log.validations.clear()
    figure = training_figure(log, "title")
    assert [text.get_text() for text in figure.axes[2].texts] == ["no validation list"]
    figure.savefig(tmp_path / "training.png")


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
        read_training_log(tmp_path / "log")
    with pytest.raises(RecipeError, match="none: no such file; train first"):
        read_training_log(tmp_path / "none")


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("softmax", "softmax (s 32, m 0)"),
        ("arcface", "ArcFace (s 32, m 0.2)"),
        ("cosface", "CosFace (s 32, m 0.2)"),
        ("entmax_a1.75", "EntMax (α 1.75, s 5, m 0.1)"),
        ("qmargin_a1.5", "Q-Margin (α 1.5, s 10, m 0.1)"),
    ],
)
def test_losses_are_named_as_in_the_paper(repository, loss, text):
    config = load_config([f"{repository}/conf/resnet34.yaml", f"{repository}/conf/loss/{loss}.yaml"])
    assert str(loss_card(config)) == text
