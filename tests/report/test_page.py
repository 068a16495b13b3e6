"""report.html in a browser: it loads without errors or network, its controls work, its numbers are the library's."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.evaluate.operating_points import best_at_far, roc_steps
from wespeaker_qm.report import charts
from wespeaker_qm.report.page import no_interval_marks
from wespeaker_qm.report.runs import Run, config_differences
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.utils.checksums import write_checked_text

RUN = Path("exp/tiny/qmargin_a1.5")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.usefixtures("recipe"),
    # Playwright's own threads and sockets end with its process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Function: open a file; returns the page, whose ``problems`` are what console and network complained of."""

    def open_file(path, width=1200, height=900):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=False)
        page = context.new_page()
        page.set_default_timeout(300_000)  # of a machine that does much else at the same time
        page.problems = []
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: is_local(request.url) or page.problems.append(request.url))
        page.goto(f"file://{path.resolve()}")
        page.wait_for_selector("#det-plot .legend")
        return page

    return open_file


def is_local(url):
    return url.startswith(("file:", "data:", "blob:"))


@pytest.fixture
def report():
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(RUN)]
    assert main(["normalise", *exp_dir, "--top_n", "5"]) == 0
    assert main(["calibrate", *exp_dir, "--top_n", "5", "--quality", "false"]) == 0
    ltas = ["--baseline", "ltas=exp/tiny/ltas"]
    assert main(["evaluate", *exp_dir, *ltas, "--num_resamples", "50"]) == 0
    assert main(["report", *exp_dir]) == 0
    return RUN / "report.html"


def test_it_is_one_file_that_names_no_other(report):
    text = report.read_text()
    head = text[: text.index("<script")]
    assert "http://" not in head
    assert "https://" not in head
    assert "<link" not in head.replace('<link rel="icon" href="data:,">', "")
    assert 'src="' not in head.replace('src="data:', "")
    assert head.count("<audio") == 40
    assert "No voices at all." in head


@needs_browser
def test_it_loads_without_complaint_and_shows_everything(report, open_page):
    page = open_page(report)
    assert page.problems == []
    assert page.locator("h1").inner_text() == "qmargin_a1.5 on tiny"
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert page.locator(".summary li").all_inner_texts() == metrics["summary"]
    assert len(metrics["summary"]) >= 3
    systems = metrics["trial_lists"]["near"]["systems"]
    assert systems["asnorm"]["eer"] == systems["calibrated"]["eer"]
    table = page.locator("table.figures").first
    headings = table.locator("thead th").all_inner_texts()
    assert headings == ["figure", "trained", "asnorm, calibrated", "ltas"]
    cells = table.locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells[0] == "EER"
    for cell, heading in zip(cells[1:], headings[1:], strict=True):
        assert cell.startswith(f"{100 * systems[heading.split(', ')[0]]['eer']:.2f}")
    assert "not measurable" not in " ".join(page.locator("table.figures td").all_inner_texts())
    assert page.get_by_text("Not measurable with so few non-target trials: TAR@FAR").count() == len(
        metrics["trial_lists"]
    )
    assert "no interval" not in " ".join(page.locator("table.figures td").all_text_contents())
    overview = page.locator("table.figures").nth(1)
    assert overview.locator("thead th").all_inner_texts() == ["EER", *headings[1:]]
    assert overview.locator("tbody td:first-child").all_inner_texts() == list(metrics["trial_lists"])
    assert page.locator("details table.figures").count() == len(metrics["trial_lists"]) - 1
    assert not page.locator("details table.figures").first.is_visible()
    for name in ("det-plot", "histogram-plot"):
        assert page.locator(f"#{name} .main-svg").count() > 0
    assert page.locator(".training .main-svg").count() > 0
    duration = page.evaluate(
        "async () => { const a = document.querySelector('audio'); a.load();"
        " await new Promise((good) => a.addEventListener('loadedmetadata', good)); return a.duration; }"
    )
    assert 0.3 < duration < 1.5


@needs_browser
def test_curves_and_bands_can_be_toggled(report, open_page):
    page = open_page(report)

    def traces(field):
        return page.evaluate(
            f"document.getElementById('det-plot').data.map(trace => [trace.meta, trace.name, trace.{field}])"
        )

    assert [name for kind, name, _ in traces("x") if kind == "band"] == ["95 % band of trained".replace("%", "&#37;")]
    trained = [x for kind, _, x in traces("x") if kind == "band"]
    page.locator("#banded").select_option("ltas")
    assert [name for kind, name, _ in traces("x") if kind == "band"] == ["95 % band of ltas".replace("%", "&#37;")]
    assert [x for kind, _, x in traces("y") if kind == "band"] != trained
    page.locator("#bands").uncheck()
    assert {opacity for kind, _, opacity in traces("opacity") if kind == "band"} == {0}
    page.locator("#bands").check()
    assert {opacity for kind, _, opacity in traces("opacity") if kind == "band"} == {1}
    page.locator("#det-plot .legendtoggle").first.click()
    page.wait_for_function("document.getElementById('det-plot').data.some(trace => trace.visible === 'legendonly')")
    hidden = {name for kind, name, visible in traces("visible") if visible == "legendonly" and kind == "curve"}
    assert hidden == {"trained"}


@needs_browser
@pytest.mark.parametrize("system", ["trained", "ltas"])
def test_the_explorers_numbers_are_the_librarys(report, open_page, system):
    page = open_page(report)
    folder = RUN if system == "trained" else Path("exp/tiny/ltas")
    trials, scores, _ = read_scores(folder / "scores" / "near.score")
    roc = roc_steps(scores, trials.is_target)
    page.locator("#system").select_option(system)

    def shown():
        names = ("far", "frr", "tar", "false-accepts", "misses")
        return [page.locator(f"#{name}").inner_text() for name in names]

    def expected(threshold):
        accepted = scores >= threshold
        false_accepts, hits = int((accepted & ~trials.is_target).sum()), int((accepted & trials.is_target).sum())
        targets, nontargets = roc.num_targets, roc.num_nontargets
        rates = (false_accepts / nontargets, (targets - hits) / targets, hits / targets)
        return [
            *(f"{100 * rate:.4f} %" for rate in rates),
            f"{false_accepts} of {nontargets}",
            f"{targets - hits} of {targets}",
        ]

    # It begins at the largest FAR up to 1 %.
    assert shown()[0] == f"{100 * roc.far[roc.far <= 0.01].max():.4f} %"
    assert best_at_far(roc, 0.01).far <= roc.far[roc.far <= 0.01].max()
    for index in (0, 1, len(roc.threshold) // 2, len(roc.threshold) - 1):
        page.locator("#slider").fill(str(index))
        assert float(page.locator("#threshold").input_value()) == pytest.approx(roc.threshold[index], rel=1e-8)
        assert shown() == expected(roc.threshold[index])
    for typed in (roc.threshold[5] - 1e-6, 0.0, 0.123, -2.0, 2.0):
        page.locator("#threshold").fill(str(float(typed)))
        assert shown() == expected(typed)
    assert page.problems == []


@needs_browser
def test_it_is_readable_on_a_phone_and_printed(report, open_page, tmp_path):
    page = open_page(report, width=380, height=700)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    # All systems of a table of figures fit beside its first column, which stays where it is.
    table = page.locator("table.figures").first
    assert table.bounding_box()["width"] <= 380
    assert table.locator("td").first.evaluate("cell => getComputedStyle(cell).position") == "sticky"
    assert page.locator(".axis svg").first.bounding_box()["width"] > 300
    assert page.locator("#differences ~ details table").first.is_hidden()
    page.emulate_media(media="print")
    assert not page.locator(".controls").first.is_visible()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
    assert page.problems == []


@needs_browser
def test_a_set_of_runs_stands_beside_the_paper(open_page):
    options = ["--data", "data/tiny", "--exp_root", "exp/tiny"]
    assert main(["report", *options]) == 1  # not collected yet
    assert main(["table5", *options, "--num_resamples", "50"]) == 0
    assert main(["report", *options]) == 0
    page = open_page(Path("exp/tiny/report.html"))
    assert page.problems == []
    rows = page.locator("table.table5 tbody tr")
    assert rows.count() == 6
    assert rows.first.locator("td").last.inner_text() == "72.08"
    assert page.locator("#system option").count() == 6
    assert page.locator("#differences").count() == 1
    keys = page.locator("#config + p + .scroll tbody tr td:first-child").all_inner_texts()
    assert "projection_args.scale" in keys
    assert "num_epochs" not in keys


def test_runs_of_other_trials_and_old_metrics_are_refused(capsys):
    other = Path("exp/tiny/cosface")
    path = other / "scores" / "near.score"
    write_checked_text(path, "".join(reversed(path.read_text().splitlines(keepends=True))))
    assert main(["report", "--data", "data/tiny", "--exp_dir", str(RUN), str(other)]) == 1
    assert "cosface/scores/near.score: not the trials of" in capsys.readouterr().err
    metrics = json.loads((RUN / "metrics.json").read_text())
    del metrics["trial_lists"]["near"]["resampling"]
    write_checked_text(RUN / "metrics.json", json.dumps(metrics))
    assert main(["report", "--data", "data/tiny", "--exp_dir", str(RUN)]) == 1
    assert "made by an older version" in capsys.readouterr().err


def test_runs_of_one_name_keep_their_own_names():
    """Copies of a run have its figures, and share a column of them."""
    for folder in ("A", "B"):
        shutil.copytree(RUN, f"{folder}/run")
    for name in ("A/run", "B/run", "exp/tiny/cosface"):
        assert main(["evaluate", "--data", "data/tiny", "--exp_dir", name, "--num_resamples", "0"]) == 0
    folders = ["A/run", "B/run", "exp/tiny/cosface"]
    assert main(["report", "--data", "data/tiny", "--exp_dir", *folders]) == 0
    text = Path("A/run/report.html").read_text()
    header = [f"<th>{name}</th>" for name in ("figure", "A/run, B/run", "exp/tiny/cosface")]
    assert "".join(header) in text
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', text, re.DOTALL).group(1))
    assert list(plots["explorer"]) == list(plots["histograms"]) == folders
    assert [trace["name"] for trace in plots["training"]["training loss"]["data"]] == folders


def test_a_run_that_stands_twice_is_refused(capsys):
    assert main(["report", "--data", "data/tiny", "--exp_dir", str(RUN), f"exp/../{RUN}"]) == 1
    assert "one folder, expected each run once" in capsys.readouterr().err


def test_a_run_called_base_is_not_taken_for_the_base_configuration():
    config = {"seed": "2"}
    runs = [Run(folder=Path("base"), name="base", metrics={}, config=config, history=None, systems={})]
    assert config_differences(runs, {"seed": "1"}) == (["key", "base", "base"], [["seed", "1", "2"]])


def test_the_explorer_has_the_thresholds_themselves():
    scores = np.array([0.123456789012, 0.123456789013, 0.2, 0.1])
    roc = roc_steps(scores, np.array([False, True, True, False]))
    assert charts.explorer_points(roc)["threshold"] == roc.threshold.tolist()


def test_many_operating_points_are_thinned_but_never_moved(monkeypatch):
    monkeypatch.setattr(charts, "MAX_POINTS", 100)
    trials, scores, _ = read_scores(RUN / "scores" / "all.score")
    roc = roc_steps(scores, trials.is_target)
    points = charts.explorer_points(roc)
    assert 50 < len(points["threshold"]) <= 100
    exact = set(zip(roc.false_accepts.tolist(), roc.true_accepts.tolist(), strict=True))
    assert set(zip(points["false_accepts"], points["true_accepts"], strict=True)) <= exact
    assert points["false_accepts"][-1] == points["num_nontargets"]


def test_names_cannot_become_markup(capsys):
    """Names of runs, corpora and utterances may come from elsewhere; the page is opened in a browser."""
    hostile = "<!--<script>alert(1)</script><img src=x onerror=alert(2)>"
    path = RUN / "scores" / "near.score"
    utterance = path.read_text().split()[0]
    assert main(["report", "--data", "data/tiny", "--exp_dir", str(RUN)]) == 0
    before = (RUN / "report.html").read_text().count("<script")
    metrics = json.loads((RUN / "metrics.json").read_text())
    metrics["run"] = metrics["corpus"]["name"] = metrics["corpus"]["caveat"] = hostile
    write_checked_text(RUN / "metrics.json", json.dumps(metrics))
    assert main(["report", "--data", "data/tiny", "--exp_dir", str(RUN)]) == 0
    text = (RUN / "report.html").read_text()
    assert utterance in text
    assert text.count("<script") == before
    assert "<img src=x" not in text
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', text, re.DOTALL).group(1))
    assert "<" not in re.search(r'id="plots">(.*?)</script>', text, re.DOTALL).group(1)
    assert plots["explorer"]


def test_a_baseline_scored_anew_is_not_drawn_beside_its_old_figures(report, capsys):
    command = ["report", "--data", "data/tiny", "--exp_dir", str(RUN)]
    assert main(command) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert main(["score", "--data", "data/tiny", "--exp_dir", "exp/tiny/ltas", "--subtract_mean", "false"]) == 0
    assert main(command) == 1
    assert re.search(r"figures of ltas are of other scores than .* evaluate the run again", capsys.readouterr().err)


def test_each_reason_for_no_interval_has_one_mark():
    rows = [["TAR", "48 (no interval: 3 misses)", "20 (no interval: FAR below 1/12)"], ["EER", "2 (1 to 3)", ""]]
    assert no_interval_marks([*rows, ["DCF", "0.5 (no interval: 3 misses)"]]) == {
        "3 misses": "1",
        "FAR below 1/12": "2",
    }
    assert no_interval_marks(rows[1:2]) == {}
