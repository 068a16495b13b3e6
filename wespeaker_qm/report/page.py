"""``report.html``: one file, no network, for one run or a set of runs."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.comparison import Comparison, comparisons_from_json
from wespeaker_qm.evaluate.figure import Compared, Figure
from wespeaker_qm.evaluate.figures import EER, values_from_json
from wespeaker_qm.evaluate.intervals import Band
from wespeaker_qm.evaluate.results import TRAINED
from wespeaker_qm.report.charts import band_traces, det_chart, explorer_points, histogram_chart, training_charts
from wespeaker_qm.report.det_plot import distinct_curves
from wespeaker_qm.report.differences import charted
from wespeaker_qm.report.figure_table import FigureTable, figure_table, share_columns
from wespeaker_qm.report.hardest_errors import HardErrors, hard_errors
from wespeaker_qm.report.loss_card import LossCard
from wespeaker_qm.report.runs import Run, config_differences, distinct, flat, read_run
from wespeaker_qm.report.table5 import read_written
from wespeaker_qm.report.tables import comparison_rows
from wespeaker_qm.report.text import NO_INTERVAL, list_notes_line, report_title, show_figure
from wespeaker_qm.score.upstream import stale
from wespeaker_qm.utils.errors import RecipeError, counted, printable
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.tables import read_map, read_numbers
from wespeaker_qm.utils.yaml_files import read_yaml_mapping


@dataclasses.dataclass(frozen=True)
class PageTable:
    """A table of text; the first cell of a row is its heading."""

    header: list[str]
    rows: list[list[str]]


def write_report(
    folders: Sequence[RunFolder], data: DataFolder, output: Path, *, base: Path, table5: Path | None = None
) -> None:
    """Write the report of evaluated runs.

    Args:
        folders: of the runs; all on the same headline list.
        data: the prepared corpus, for speakers, durations and audio.
        output: the file to write.
        base: configuration that a single run is compared with.
        table5: ``table5.json``, shown beside the paper's figures; None leaves it out.

    Raises:
        RecipeError: a run was not evaluated, or its scores have changed since; it stands twice, or the runs are of
            different trials.
    """
    runs = distinct([read_run(folder) for folder in folders])
    first = runs[0].systems[TRAINED].trials
    for run in runs[1:]:
        if not run.systems[TRAINED].trials.same_trials(first):
            raise RecipeError(
                f"{run.systems[TRAINED].trials.path}: not the trials of {first.path}; expected runs on the same list"
            )
    for folder in folders:
        if reasons := stale("evaluate", folder, data):
            raise RecipeError(
                f"{folder}: its figures are of other files than lie there ({'; '.join(reasons)}); evaluate it again "
                "(run.sh --stage 5)"
            )
    write_text(output, _render(_content(runs, data, base, table5)))


def _content(runs: list[Run], data: DataFolder, base: Path, table5: Path | None) -> dict[str, Any]:
    """Everything that the template shows."""
    written = None if table5 is None else read_written(table5)
    comparisons = _comparisons(runs, written)
    corpus = runs[0].metrics["corpus"]
    labelled = {
        _label(runs, run, name): (run, name, system)
        for run in runs
        for name, system in run.systems.items()
        if len(runs) == 1 or name == TRAINED
    }
    errors = hard_errors(runs[0].systems[TRAINED], data, corpus["headline"]) if len(runs) == 1 else HardErrors([], [])
    histories = {run.name: run.history for run in runs if run.history is not None}
    header, rows = config_differences(runs, flat(read_yaml_mapping(base)) if base.is_file() else {})
    curves = distinct_curves({label: system.roc for label, (_, _, system) in labelled.items()})
    bands = {
        joined: next(_band(run, name) for run, name, system in labelled.values() if system.roc is roc)
        for joined, roc in curves.items()
    }
    plots = {
        "det": det_chart(curves, bands),
        "bands": band_traces(curves, bands),
        "histograms": {
            label: histogram_chart(system.scores, system.trials.is_target) for label, (_, _, system) in labelled.items()
        },
        "explorer": {label: explorer_points(system.roc) for label, (_, _, system) in labelled.items()},
        "training": training_charts(histories),
    }
    list_notes = _list_notes(runs)
    return {
        "title": report_title(_what(runs, written), corpus["name"], runs[0].headline["num_speakers"]),
        "summary": _summary(runs, written),
        "corpus": corpus,
        "notes": list(dict.fromkeys(note for run in runs for note in run.metrics.get("notes", []))),
        "list_notes": [text for of_list in list_notes.values() for text in of_list],
        "list_notes_line": list_notes_line(list_notes),
        "headline": runs[0].headline,
        "overview": _overview(runs),
        "lists": {name: _list_table(runs, name) for name in runs[0].metrics["trial_lists"]},
        "no_intervals": {
            name: result["no_intervals"]
            for name, result in runs[0].metrics["trial_lists"].items()
            if result["no_intervals"] and name != corpus["headline"]
        },
        "differences": charted(comparisons),
        "comparisons": PageTable(*comparison_rows(comparisons)),
        "table5": None if written is None else {name: FigureTable(*cells) for name, cells in written["tables"].items()},
        "roots": [] if written is None else written["roots"],
        "systems": list(labelled),
        "banded": list(plots["bands"]),
        "training_titles": list(plots["training"]),
        "runs": [
            {
                "name": run.name,
                "training": run.metrics["training"],
                "loss": LossCard(**run.metrics["training"]["loss"]) if run.metrics["training"] else None,
                "provenance": run.metrics["provenance"],
            }
            for run in runs
        ],
        "config": PageTable(header, rows),
        "sets": _sets(data),
        "errors": errors,
        "plots": plots,
    }


def _what(runs: list[Run], written: dict[str, Any] | None) -> str:
    """What the page is about."""
    if written is not None:
        return "The losses of Table 5"
    return runs[0].name if len(runs) == 1 else counted(len(runs), "run", "runs")


def _label(runs: list[Run], run: Run, system: str) -> str:
    return system if len(runs) == 1 else run.name


def _band(run: Run, system: str) -> Band | None:
    """The DET band that the evaluation stored."""
    band = run.headline["systems"][system].get("band")
    return None if band is None else Band(*(np.array(band[edge]) for edge in ("far", "low", "high")))


def _summary(runs: list[Run], written: dict[str, Any] | None) -> list[str]:
    """What the figures say, as the evaluation wrote it; of several runs how well each does."""
    if written is not None:
        return list(written["summary"])
    if len(runs) == 1:
        return list(runs[0].metrics.get("summary", []))
    told = [run.metrics["summary"][0] for run in runs if run.metrics.get("summary")]
    return [*told, "Whether the runs differ for other speakers was not tested (wespeaker-qm compare does it)."]


def _list_notes(runs: list[Run]) -> dict[str, list[str]]:
    """List -> the notes of it, of all runs, each once."""
    notes: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, texts in run.metrics.get("list_notes", {}).items():
            notes.setdefault(name, {}).update(dict.fromkeys(texts))
    return {name: list(texts) for name, texts in notes.items()}


def _columns(runs: list[Run], trial_list: str) -> dict[str, dict[Figure, str]]:
    """System, or run where there are several -> its figures on a list."""
    return {
        _label(runs, run, name): _figures(system)
        for run in runs
        for name, system in run.metrics["trial_lists"][trial_list]["systems"].items()
        if len(runs) == 1 or name == TRAINED
    }


def _list_table(runs: list[Run], trial_list: str) -> FigureTable:
    """A line a figure, a column a system."""
    return figure_table(_columns(runs, trial_list), lambda figure: figure.name)


def _overview(runs: list[Run]) -> PageTable | None:
    """Equal error rates, a line a list; None where there is but one."""
    lists = list(runs[0].metrics["trial_lists"])
    columns: dict[str, dict[str, str]] = {}
    for name in lists:
        for system, figures in _columns(runs, name).items():
            columns.setdefault(system, {})[name] = figures[Figure(EER)]
    shared = share_columns(columns)
    rows = [[name, *(cells.get(name, "") for cells in shared.values())] for name in lists]
    return PageTable(["EER", *shared], rows) if len(lists) > 1 else None


def no_interval_marks(rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """Reason why figures of a table have no interval -> the number that stands for it, in the order of the cells.

    A page has no room for a reason in every cell.

    >>> no_interval_marks([["EER", "3 (2 to 4)", "1 (no interval: 3 misses)"], ["Cllr", "2 (no interval: 3 misses)"]])
    {'3 misses': '1'}
    """
    reasons = [cell.partition(NO_INTERVAL)[2].removesuffix(")") for row in rows for cell in row if NO_INTERVAL in cell]
    return {reason: str(number) for number, reason in enumerate(dict.fromkeys(reasons), 1)}


def _figures(system: dict[str, Any]) -> dict[Figure, str]:
    """Figure -> value and interval, from ``metrics.json``."""
    sureness = system["intervals"] | system["no_interval"]
    return {
        figure: show_figure(figure, value, sureness.get(figure.name))
        for figure, value in values_from_json(system).items()
    }


def _comparisons(runs: list[Run], written: dict[str, Any] | None) -> list[Comparison]:
    """Those of Table 5, or of the systems of one run, in the figures of reports."""
    contents = runs[0].headline["comparisons"] if len(runs) == 1 else []
    comparisons = comparisons_from_json(contents if written is None else written["comparisons"])
    return [each for each in comparisons if each.figure.kind.compared is Compared.REPORTED]


def _sets(data: DataFolder) -> PageTable:
    """Utterances, speakers and hours of the sets of the corpus."""
    info = CorpusInfo.load(data.info)
    rows = []
    for name in info.sets():
        folder = data.set(name)
        if not folder.utt2spk.is_file():
            continue
        speaker = read_map(folder.utt2spk)
        durations = read_numbers(folder.utt2dur, "seconds").values() if folder.utt2dur.is_file() else None
        hours = None if durations is None else sum(durations) / 3600
        rows.append(
            [name, f"{len(speaker):,}", f"{len(set(speaker.values())):,}", "" if hours is None else f"{hours:,.2f}"]
        )
    return PageTable(["set", "recordings", "speakers or kinds", "hours"], rows)


def _render(content: dict[str, Any]) -> str:
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wespeaker_qm.report", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    plots = json.dumps(content.pop("plots"), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    environment.filters["marks"] = no_interval_marks
    template = environment.get_template("template.html")
    return template.render(**content, no_interval=NO_INTERVAL, plots=plots, plotly=get_plotlyjs())
