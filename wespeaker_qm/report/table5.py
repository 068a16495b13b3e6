"""Table 5 of the paper beside the same six losses trained on another corpus.

The measured columns carry the name of the corpus, those of the paper the name of its test set: figures of two corpora
in one table must not be mistaken for each other.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wespeaker_qm.evaluate.comparison import LEVEL, Comparison
from wespeaker_qm.evaluate.figure import Compared, Figure
from wespeaker_qm.evaluate.figures import EER, TAR_AT_FAR, wanted_figures
from wespeaker_qm.evaluate.metrics import evaluate_systems
from wespeaker_qm.evaluate.operating_points import FARS, far_name, number_name
from wespeaker_qm.evaluate.results import ListResult, Resampling, SystemResult
from wespeaker_qm.report.det_plot import det_plot
from wespeaker_qm.report.evaluation import CorpusCard
from wespeaker_qm.report.latex import latex_text
from wespeaker_qm.report.markdown import differences_section
from wespeaker_qm.report.plotting import save_plot
from wespeaker_qm.report.table5_rows import Measured, Table5, Table5Row
from wespeaker_qm.report.table5_sentences import table5_sentences
from wespeaker_qm.report.tables import markdown_table, markdown_text
from wespeaker_qm.report.text import counts, intervals_note, per_cent, report_title, show_figure
from wespeaker_qm.trials.speakers import trial_speakers
from wespeaker_qm.utils.checksums import read_checked_json, write_checked_text
from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import ExpRoot

NOT_TRAINED = "not trained"
DIFFERS = "†"
"""Marks a row that was trained with other settings than the paper's."""


def read_written(path: Path) -> dict[str, Any]:
    """Read the ``table5.json`` that :func:`write_table5` wrote: summary, header, rows, runs and comparisons.

    Raises:
        RecipeError: damaged, or another kind of file.
    """
    remedy = "collect the runs again (run.sh --table5 true --stage 5)"
    content = read_checked_json(path, remedy)
    if not _is_written(content):
        raise RecipeError(
            f"{path}: found {shown(content)}, expected summary, header, rows, runs and comparisons of Table 5; {remedy}"
        )
    return dict(content)


def _is_written(content: Any) -> bool:
    """Whether a JSON value has the shape of what :func:`write_table5` writes."""

    def are(kind: type, values: Any) -> bool:
        return isinstance(values, list) and all(isinstance(value, kind) for value in values)

    if not isinstance(content, dict) or not content.keys() >= {"summary", "header", "rows", "runs", "comparisons"}:
        return False
    header, rows = content["header"], content["rows"]
    fields = {field.name for field in dataclasses.fields(Comparison)}
    return (
        are(str, content["summary"])
        and are(str, header)
        and are(list, rows)
        and all(are(str, row) and len(row) == len(header) for row in rows)
        and are(str, content["runs"])
        and are(dict, content["comparisons"])
        and all(each.keys() >= fields for each in content["comparisons"])
    )


def evaluate_rows(
    results: list[Measured | None], rows: list[Table5Row], speaker: Mapping[str, str], resampling: Resampling | None
) -> ListResult:
    """Figures, intervals and differences of all rows that were trained, on the same resamples; by name of the run.

    Args:
        results: of each row.
        rows: of the table.
        speaker: utterance -> speaker of the headline list.
        resampling: for intervals; None for none.
    """
    measured = {row.run: result for row, result in zip(rows, results, strict=True) if result is not None}
    trials = next(iter(measured.values())).trials
    return evaluate_systems(
        trials,
        {name: result.scores for name, result in measured.items()},
        dict.fromkeys(measured, wanted_figures()),
        trial_speakers(trials, speaker),
        resampling=resampling,
        progress="intervals of Table 5",
    )


def table5_rows(
    table: Table5, results: list[Measured | None], measured: ListResult, corpus: CorpusCard
) -> tuple[list[str], list[list[str]]]:
    """Header and rows, every column under the name of its corpus.

    Args:
        table: the rows.
        results: of each row; None for one that was not trained.
        measured: figures of the others.
        corpus: that they were measured on.
    """
    paper_fars = list(table.rows[0].paper_tar)
    header = ["loss", "α", "s", "m", f"{corpus.name}: EER"]
    header += [f"{corpus.name}: TAR@{far_name(far)}" for far in FARS]
    header += [f"paper, {table.test_set}: TAR@{far_name(far)}" for far in paper_fars]
    rows = []
    for row, result in zip(table.rows, results, strict=True):
        cells = [NOT_TRAINED] * (1 + len(FARS)) if result is None else _measured_cells(measured.systems[row.run])
        alpha = "-" if row.card.alpha is None else number_name(row.card.alpha)
        paper = [per_cent(row.paper_tar[far]) for far in paper_fars]
        mark = f" {DIFFERS}" if _differs(row, result) else ""
        rows.append(
            [row.card.name + mark, alpha, number_name(row.card.scale), number_name(row.card.margin), *cells, *paper]
        )
    return header, rows


def table5(table: Table5, results: list[Measured | None], measured: ListResult, corpus: CorpusCard) -> str:
    """The table in Markdown, with the corpus in its title, its columns and its notes.

    Args:
        table: the rows.
        results: of each row; None for one that was not trained.
        measured: figures of the others.
        corpus: that they were measured on.
    """
    names = {row.run: str(row.card) for row in table.rows}
    name, headline = markdown_text(corpus.name), markdown_text(corpus.headline)
    parts = [
        f"# {markdown_text(report_title('The losses of Table 5', corpus.name, measured.num_speakers))}",
        "\n".join(f"- {markdown_text(sentence)}" for sentence in table5_sentences(names, measured)),
        markdown_text(corpus.description),
        f"> **Mind:** {markdown_text(corpus.caveat)}" if corpus.caveat else "",
        f"Columns {name}: measured here, list {headline} ({counts(measured)}). Columns `paper`: "
        f"{table.paper}, trained on {table.training_set}, tested on {table.test_set}. Figures of different corpora "
        "cannot be compared with each other. All figures in per cent; TAR@x is the largest TAR at a false-accept rate "
        f"of at most x. {intervals_note(measured)}",
        markdown_table(*table5_rows(table, results, measured, corpus)),
        conclusion(measured.comparisons, names),
        _notes(table, results),
        f"![DET curves on {name}](det_table5.png)",
    ]
    shown = [each for each in measured.comparisons if each.p_holm is not None]
    parts += differences_section(shown, names.__getitem__, "##")
    return "\n\n".join(part for part in parts if part) + "\n"


def conclusion(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> str:
    """Which losses differ at the 5 % level, all pairs allowed for; nothing where nothing was compared."""
    if not comparisons:
        return ""
    lines = []
    for figure in dict.fromkeys(each.figure for each in comparisons if each.figure.kind.compared is Compared.REPORTED):
        tested = [each for each in comparisons if each.figure == figure and each.p_holm is not None]
        if not tested:
            lines.append(f"- {figure.name}: the trials do not support a comparison")
            continue
        sure = [each for each in tested if each.p_holm is not None and each.p_holm < LEVEL]
        pairs = "; ".join(
            f"{names[each.two]} {'above' if each.difference > 0 else 'below'} {names[each.one]}" for each in sure
        )
        lines.append(f"- {figure.name}: {pairs or 'no two losses differ'}")
    heading = (
        f"How these networks differ on other speakers (p < {LEVEL} after Holm's correction for all pairs of a figure). "
        "Each loss was trained once; that another seed would leave it so is not shown:"
    )
    return "\n".join([heading, "", *lines])


def _measured_cells(system: SystemResult) -> list[str]:
    figures = [Figure(EER), *(Figure(TAR_AT_FAR, far) for far in FARS)]
    return [show_figure(figure, system.value(figure), system.sureness(figure)) for figure in figures]


def _notes(table: Table5, results: list[Measured | None]) -> str:
    """One line for each run: amount of training, and where its settings differ from the paper's."""
    lines = []
    for row, result in zip(table.rows, results, strict=True):
        if result is not None:
            differs = f"; {DIFFERS} **trained here as {result.trained}**" if _differs(row, result) else ""
            lines.append(f"- {row.card}: {result.amount}{differs}")
    return "Training here:\n\n" + "\n".join(lines)


def _differs(row: Table5Row, result: Measured | None) -> bool:
    """Whether the run was trained with other settings than the paper's."""
    return result is not None and result.trained != row.card


def write_table5(
    table: Table5,
    results: list[Measured | None],
    corpus: CorpusCard,
    folder: ExpRoot,
    *,
    speaker: Mapping[str, str],
    resampling: Resampling | None,
) -> str:
    """Write ``table5.md``, ``table5.tex``, ``table5.json``, ``det_table5.png`` and ``.pdf``; returns the Markdown.

    Args:
        table: the rows.
        results: of each, as :func:`collect` read them.
        corpus: what must stand beside the figures.
        folder: to write into.
        speaker: utterance -> speaker of the headline list.
        resampling: for intervals; None for none.
    """
    measured = evaluate_rows(results, table.rows, speaker, resampling)
    text = table5(table, results, measured, corpus)
    header, rows = table5_rows(table, results, measured, corpus)
    labels = {
        row.run: f"{row.card}{f' {DIFFERS}' if _differs(row, result) else ''}"
        for row, result in zip(table.rows, results, strict=True)
    }
    curves = {labels[name]: system.roc for name, system in measured.systems.items()}
    title = f"The losses of Table 5 on {corpus.name}: {corpus.headline}"
    save_plot(det_plot(curves, title, counts(measured)), [folder.det_table5("png"), folder.det_table5("pdf")])
    comparisons = [
        dataclasses.replace(each, one=labels[each.one], two=labels[each.two]).to_json() for each in measured.comparisons
    ]
    content = {
        "summary": table5_sentences({row.run: str(row.card) for row in table.rows}, measured),
        "header": header,
        "rows": rows,
        "runs": list(measured.systems),
        "comparisons": comparisons,
    }
    write_checked_text(folder.table5("json"), json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    lines = [f"% {' & '.join(map(latex_text, header))}", *(" & ".join(map(latex_text, row)) + r" \\" for row in rows)]
    write_text(folder.table5("tex"), "\n".join(lines) + "\n")
    write_text(folder.table5("md"), text)
    return text
