"""The DET plot: its axes, its curves, its files."""

import os

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy.special import ndtr, ndtri

from wespeaker_qm.evaluate.intervals import Band
from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps, tar_at_far
from wespeaker_qm.report.charts import band_traces, det_chart
from wespeaker_qm.report.det_plot import (
    FRR_LIMITS,
    LOWER_LEFT,
    MARKED_FARS,
    RESOLUTION,
    det_curve,
    det_plot,
    distinct_curves,
    eer_mark,
)
from wespeaker_qm.report.plotting import save_plot
from wespeaker_qm.utils.files import temporary_path


def simulate(num_trials, separation, seed=0):
    rng = np.random.default_rng(seed)
    is_target = np.arange(num_trials) < num_trials // 2
    return roc_steps(rng.standard_normal(num_trials) + separation * is_target, is_target)


def curve_of(plot, label):
    return next(line for line in plot.axes[0].lines if line.get_label().startswith(label))


def test_axes_reach_1e5_whatever_the_list():
    for num_trials in (100, 10_000):
        plot = det_plot({"a": simulate(num_trials, 2)}, "title")
        plot.draw_without_rendering()
        axes = plot.axes[0]
        assert axes.get_xlim() == pytest.approx((1e-5, 0.6))
        assert axes.get_ylim() == pytest.approx(FRR_LIMITS)
        # probit scale: 2.5 % and 97.5 % are as far from the middle
        forward = axes.transData.transform
        left, middle, right = (forward((far, 0.5))[0] for far in (0.025, 0.5, 0.975))
        assert middle - left == pytest.approx(right - middle)
        assert (forward((0.1, 0.5))[0] - forward((0.01, 0.5))[0]) == pytest.approx(
            forward((0.5, 0.1))[1] - forward((0.5, 0.01))[1]
        )


def test_curves_are_the_operating_points_where_they_can_be_measured():
    systems = {"good": simulate(2000, 3), "bad": simulate(2000, 1)}
    plot = det_plot(systems, "title", "subtitle")
    for label, roc in systems.items():
        line = curve_of(plot, label)
        far, frr = line.get_data()
        points = set(zip(roc.far, roc.frr, strict=True))
        assert set(zip(far, frr, strict=True)) <= points
        assert far.min() == 1 / 1000
        assert frr.min() > 0
        assert frr.max() < 1
        assert line.get_drawstyle() == "steps-post"
        assert f"EER {100 * equal_error_rate(roc).rate:.2f} %" in line.get_label()
        assert (far >= 1e-3).all(), "1e-4 cannot be measured with 1000 non-target trials"
    assert len({curve_of(plot, label).get_color() for label in systems}) == 2
    texts = [text.get_text() for text in plot.legends[0].get_texts()]
    assert [text.split()[0] for text in texts] == ["good", "bad"]


def test_markers_stand_at_eer_and_at_measurable_fars():
    roc = simulate(4000, 2)
    markers = [line.get_xydata() for line in det_plot({"a": roc}, "title").axes[0].lines if line.get_marker() == "o"]
    eer = equal_error_rate(roc).rate
    assert markers[0].tolist() == [[eer, eer]]
    assert markers[1].tolist() == [[1e-3, 1 - tar_at_far(roc, 1e-3).tar]]
    assert tar_at_far(roc, MARKED_FARS[1]) is None


def test_thinning_moves_no_point_by_more_than_the_resolution():
    roc = simulate(200_000, 2)
    far, frr = det_curve(roc)
    assert len(far) < 20_000
    inside = (roc.far > 0) & (roc.far < 1) & (roc.frr > 0) & (roc.frr < 1)
    kept = np.searchsorted(far, roc.far[inside], side="right") - 1
    assert np.abs(ndtri(far[kept]) - ndtri(roc.far[inside])).max() <= RESOLUTION
    assert (np.diff(far) >= 0).all() and (np.diff(frr) <= 0).all()


@pytest.mark.parametrize("scores", [[3, 2, 1, 0], [0, 1, 2, 3], [1, 1, 1, 1]], ids=["perfect", "inverted", "constant"])
def test_extreme_systems_can_be_drawn(tmp_path, scores):
    roc = roc_steps(scores, [True, True, False, False])
    save_plot(det_plot({"extreme": roc}, "title"), [tmp_path / "det.png", tmp_path / "det.pdf"])


def test_files_are_whole_and_the_same_twice(tmp_path):
    systems = {"a": simulate(500, 2)}
    files = [tmp_path / "det.png", tmp_path / "det.pdf"]
    save_plot(det_plot(systems, "title"), files)
    first = [file.read_bytes() for file in files]
    assert first[0].startswith(b"\x89PNG")
    assert first[1].startswith(b"%PDF")
    save_plot(det_plot(systems, "title"), files)
    assert [file.read_bytes() for file in files] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["det.pdf", "det.png"]


@pytest.mark.parametrize(
    ("targets", "nontargets", "points"),
    [
        ([3, 1], [2, 0], [(0.5, 0.5)]),
        ([5, 0], [4, 3], [(0.5, 0.5)]),  # at FAR 1 there is no probit
        ([3, 2], [4, 1], [(0.5, 0.5)]),  # nor at a miss rate of 1 or 0
        ([6, 4, 2], [5, 3, 1], [(1 / 3, 2 / 3), (1 / 3, 1 / 3), (2 / 3, 1 / 3)]),
        ([2, 1], [0, -1], []),
    ],
)
def test_a_curve_holds_the_points_where_both_rates_lie_within_0_and_1(targets, nontargets, points):
    is_target = [True] * len(targets) + [False] * len(nontargets)
    far, frr = det_curve(roc_steps([*targets, *nontargets], is_target))
    np.testing.assert_allclose(np.stack([far, frr], axis=1), np.reshape(points, (-1, 2)))


def test_names_are_only_names_in_plots(tmp_path):
    names = [r"a$\frac$b$", "_hidden", "50 %"]
    plot = det_plot({name: simulate(100, 2) for name in names}, r"on $\sqrt$: list")
    save_plot(plot, [tmp_path / "det.png"])  # where matplotlib would read the formulas
    texts = [text.get_text().replace(r"\$", "$").strip() for text in plot.legends[0].get_texts()]
    assert [text.partition("   EER")[0] for text in texts] == names


PERFECT = roc_steps(np.array([0.9, 0.8, 0.2, 0.1, 0.0]), np.array([True, True, False, False, False]))
ONE_STEP = roc_steps(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))


def test_a_system_without_an_error_is_marked_where_its_rates_lie_below():
    """One in so many trials; as a curve it would be nowhere, and as a name in the legend alone, missed."""
    plot = det_plot({"other": simulate(2000, 2), "perfect": PERFECT}, "title")
    texts = [text.get_text() for text in plot.legends[0].get_texts()]
    assert texts[1] == "perfect   EER 0.00 %"
    (mark,) = [line for line in plot.axes[0].lines if line.get_marker() == LOWER_LEFT]
    assert mark.get_xydata().tolist() == [[1 / 3, 1 / 2]]
    assert mark.get_color() == curve_of(plot, "perfect").get_color()
    assert min(x + y for x, y in LOWER_LEFT) == -2 and (1, 1) not in LOWER_LEFT
    plot.draw_without_rendering()


@pytest.mark.parametrize(
    ("roc", "mark"),
    [
        (PERFECT, (1 / 3, 1 / 2, True)),
        (roc_steps(np.arange(4000.0), np.arange(4000) >= 2000), (1 / 2000, 1e-3, True)),
        (ONE_STEP, (0.25, 0.25, False)),
    ],
)
def test_the_mark_of_an_equal_error_rate_lies_within_the_axes(roc, mark):
    assert eer_mark(roc) == pytest.approx(mark)


def test_in_the_page_too_a_system_without_a_line_has_points_and_a_name():
    chart = det_chart({"perfect": PERFECT, "one step": ONE_STEP, "usual": simulate(2000, 2)}, {})
    curves = {trace["name"]: trace for trace in chart["data"] if trace.get("meta") == "curve"}
    assert list(curves) == ["perfect", "one step", "usual"]
    assert [curve["mode"] for curve in curves.values()] == ["markers", "markers", "lines"]
    assert curves["perfect"]["marker"]["symbol"] == "triangle-sw"
    np.testing.assert_allclose(curves["perfect"]["x"], ndtri([1 / 3]), rtol=1e-4)
    np.testing.assert_allclose(curves["perfect"]["y"], ndtri([1 / 2]), atol=1e-4)
    assert "FAR below " in curves["perfect"]["hovertemplate"]
    assert len(curves["one step"]["x"]) == len(curves["one step"]["customdata"]) >= 1


def test_a_plot_of_a_killed_program_is_removed(tmp_path):
    left = temporary_path(tmp_path / "det.png")
    left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-")).touch()  # no process has that number
    save_plot(det_plot({"a": simulate(100, 2)}, "title"), [tmp_path / "det.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["det.png"]


BAND = Band(np.array([1e-3, 1e-2, 1e-1]), np.array([0.1, 0.05, 0.01]), np.array([0.6, 0.4, 0.2]))


def test_the_legend_says_whose_band_is_drawn_and_only_one_is():
    systems = {"a_$b$": simulate(2000, 2), "other": simulate(2000, 1)}
    plot = det_plot(systems, "title", "", BAND)
    assert len(plot.axes[0].collections) == 1
    assert plot.axes[0].collections[0].get_facecolor()[0][:3] == pytest.approx(to_rgb(curve_of(plot, "a_").get_color()))
    texts = [text.get_text() for text in plot.legends[0].get_texts()]
    assert texts[-1] == r"95 % band of a_\$b\$"
    assert len(texts) == 3
    assert len(det_plot(systems, "title").legends[0].get_texts()) == 2
    chart = det_chart(systems, {"a_$b$": BAND, "other": BAND})
    assert [trace["name"] for trace in chart["data"] if trace["meta"] == "band"] == ["95 &#37; band of a_$b$"]
    traces = band_traces(systems, {"other": BAND})
    assert list(traces) == ["other"]
    np.testing.assert_allclose(ndtr(traces["other"]["x"]), [1e-3, 1e-2, 1e-1, 1e-1, 1e-2, 1e-3], rtol=1e-3)
    np.testing.assert_allclose(ndtr(traces["other"]["y"]), [0.1, 0.05, 0.01, 0.2, 0.4, 0.6], rtol=1e-3)


def test_systems_that_order_all_trials_alike_share_a_curve():
    """Calibrated scores are a rising function of the normalised ones; of others a single trial may differ."""
    is_target = np.array([True, False, True, False])
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    systems = {"x": scores, "y": scores**3, "z": -scores}
    curves = distinct_curves({name: roc_steps(values, is_target) for name, values in systems.items()})
    assert list(curves) == ["x, y", "z"]
    assert list(distinct_curves({})) == []
