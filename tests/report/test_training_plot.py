"""The plot of a training."""

import pytest

from wespeaker_qm.report.training_history import read_training_history
from wespeaker_qm.report.training_plot import training_plot


def test_plot_shows_the_log_over_samples(tmp_path, write_training_log):
    write_training_log(tmp_path / "log")
    plot = training_plot(read_training_history(tmp_path / "log"), "title")
    loss, accuracy, valid, schedule, margin = plot.axes
    steps, epochs = loss.lines
    assert steps.get_xdata().tolist() == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8, 0.96, 1.12, 1.28])
    assert steps.get_ydata()[0] == 3 / 5
    assert epochs.get_xdata().tolist() == pytest.approx([0.16, 0.48, 0.8, 1.12])
    assert accuracy.lines[0].get_ydata()[0] == pytest.approx(80)
    assert valid.lines[0].get_ydata().tolist() == pytest.approx([30, 15, 10, 7.5])
    assert schedule.lines[0].get_ydata()[-1] == pytest.approx(0.1 / 40)
    assert margin.lines[0].get_ydata()[-1] == pytest.approx(0.04)


def test_plot_of_a_sparse_loss_shows_its_support(tmp_path, write_training_log):
    write_training_log(tmp_path / "log")
    history = read_training_history(tmp_path / "log")
    for number, record in enumerate(history.epochs):
        record.update(support=40 / (number + 1), solved=number / 10, dropped=0.1)
    plot = training_plot(history, "title")
    support, shares = (axes for axes in plot.axes if "support" in axes.get_title("left") or axes.get_legend())
    assert support.lines[0].get_ydata().tolist() == pytest.approx([40, 20, 40 / 3, 10])
    solved, dropped = shares.lines
    assert solved.get_ydata().tolist() == pytest.approx([0, 10, 20, 30])
    assert dropped.get_ydata().tolist() == pytest.approx([10, 10, 10, 10])
    plot.savefig(tmp_path / "training.png")


def test_plot_without_steps_and_validation(tmp_path, write_training_log):
    write_training_log(tmp_path / "log", with_steps=False)
    history = read_training_history(tmp_path / "log")
    history.validations.clear()
    plot = training_plot(history, "title")
    assert [text.get_text() for text in plot.axes[2].texts] == ["no validation list"]
    plot.savefig(tmp_path / "training.png")
