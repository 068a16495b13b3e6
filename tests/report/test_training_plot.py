"""The plot of a training."""

import json

import numpy as np
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


def test_steps_of_several_sizes_are_drawn_where_their_samples_are(tmp_path):
    """Of a run whose batch was changed after its first epoch of ten steps."""
    ends = [(1, 10, 320), (2, 15, 640), (3, 20, 960)]
    records = [{"type": "epoch", "epoch": epoch, "step": step, "samples": seen} for epoch, step, seen in ends]
    figures = {"loss": 1.0, "accuracy": 0.5, "margin": 0.1, "learning_rate": 0.1, "minutes": 1.0}
    records += [{"type": "step", "epoch": 1, "step": 5}, {"type": "step", "epoch": 3, "step": 18}]
    lines = [json.dumps(record | figures) for record in records]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    plot = training_plot(read_training_history(tmp_path / "log"), "a run")
    steps, epochs = plot.axes[0].lines
    np.testing.assert_allclose(steps.get_xdata(), [0.16, 0.832])
    np.testing.assert_allclose(epochs.get_xdata(), [0.16, 0.48, 0.8])


def test_plot_without_steps_and_validation(tmp_path, write_training_log):
    write_training_log(tmp_path / "log", with_steps=False)
    history = read_training_history(tmp_path / "log")
    history.validations.clear()
    plot = training_plot(history, "title")
    assert [axes.get_title("left") for axes in plot.axes if axes.get_title("left")] == [
        *("training loss", "training accuracy without margin (%)", "learning rate")
    ]
    assert all(any(len(line.get_xdata()) for line in axes.lines) for axes in plot.axes), "an empty panel"
    plot.savefig(tmp_path / "training.png")


def test_no_panel_is_empty_and_a_lone_last_one_has_the_whole_width(tmp_path, write_training_log):
    write_training_log(tmp_path / "log")
    history = read_training_history(tmp_path / "log")
    assert [axes.get_title("left") for axes in training_plot(history, "t").axes][2:4] == [
        *("validation EER (%)", "learning rate")
    ]
    history.validations.clear()
    plot = training_plot(history, "title")
    plot.draw_without_rendering()
    loss, accuracy, schedule, _ = (axes.get_position() for axes in plot.axes)
    assert schedule.x0 == pytest.approx(loss.x0, abs=0.02)
    assert schedule.x1 > accuracy.x0


def test_a_validation_at_the_end_is_drawn_whole(tmp_path, write_training_log):
    """Its marker stands on the frame, which would cut it in half."""
    write_training_log(tmp_path / "log")
    _, _, valid, _, _ = training_plot(read_training_history(tmp_path / "log"), "title").axes
    (line,) = valid.lines
    assert line.get_xdata()[-1] == valid.get_xlim()[1]
    assert not line.get_clip_on()
