"""Table 5 of the paper beside the same six losses trained on another corpus.

The measured columns carry the name of the corpus, those of the paper the name of its test set: figures of two corpora
in one table must not be mistaken for each other. There is a table for the headline list, and one for each other list of
the same trials: on egs/mini for the recordings as they are, without channels.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wespeaker_qm.evaluate.comparison import LEVEL, Comparison
from wespeaker_qm.evaluate.figure import Compared, Figure
from wespeaker_qm.evaluate.figures import EER, TAR_AT_FAR
from wespeaker_qm.evaluate.operating_points import FARS, far_name
from wespeaker_qm.evaluate.results import Resampling
from wespeaker_qm.report.det_plot import det_plot
from wespeaker_qm.report.evaluation import CorpusCard
from wespeaker_qm.report.figure_table import FigureTable, not_measurable_line
from wespeaker_qm.report.latex import latex_text
from wespeaker_qm.report.markdown import differences_section
from wespeaker_qm.report.plotting import save_plot
from wespeaker_qm.report.table5_figures import LossList, evaluate_rows
from wespeaker_qm.report.table5_rows import Measured, Table5, Table5Row
from wespeaker_qm.report.table5_sentences import table5_sentences
from wespeaker_qm.report.tables import markdown_table, markdown_text
from wespeaker_qm.report.text import counts, intervals_note, per_cent, report_title
from wespeaker_qm.utils.checksums import read_checked_json, write_checked_text
from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import ExpRoot

NOT_TRAINED = "not trained"
DIFFERS = "†"
"""Marks a row that was trained with other settings than the paper's."""
FIGURES = (Figure(EER), *(Figure(TAR_AT_FAR, far) for far in FARS))
"""The measured columns."""


def read_written(path: Path) -> dict[str, Any]:
    """Read the ``table5.json`` that :func:`write_table5` wrote: summary, tables, runs, roots and comparisons.

    Raises:
        RecipeError: damaged, or another kind of file.
    """
    remedy = "collect the runs again (run.sh --table5 true --stage 5)"
    content = read_checked_json(path, remedy)
    if not _is_written(content):
        raise RecipeError(
            f"{path}: found {shown(content)}, expected summary, tables, runs, roots and comparisons of Table 5; "
            f"{remedy}"
        )
    return dict(content)


def _is_written(content: Any) -> bool:
    """Whether a JSON value has the shape of what :func:`write_table5` writes."""

    def are(kind: type, values: Any) -> bool:
        return isinstance(values, list) and all(isinstance(value, kind) for value in values)

    def is_table(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != len(FigureTable._fields):
            return False
        header, rows, not_measurable = value
        is_right = are(str, header) and are(list, rows) and isinstance(not_measurable, str)
        return is_right and all(are(str, row) and len(row) == len(header) for row in rows)

    if not isinstance(content, dict) or not content.keys() >= {"summary", "tables", "runs", "roots", "comparisons"}:
        return False
    fields = {field.name for field in dataclasses.fields(Comparison)}
    return (
        are(str, content["summary"])
        and isinstance(content["tables"], dict)
        and all(map(is_table, content["tables"].values()))
        and are(str, content["runs"])
        and are(str, content["roots"])
        and are(dict, content["comparisons"])
        and all(each.keys() >= fields for each in content["comparisons"])
    )


def table5_rows(table: Table5, results: Sequence[Sequence[Measured]], measured: LossList, corpus: str) -> FigureTable:
    """Header and rows of one list, every column under the name of its corpus; what nobody can measure is left out.

    Args:
        table: the rows.
        results: the runs of each row; none for one that was not trained.
        measured: figures of the others on the list.
        corpus: name of the corpus that they were measured on.
    """
    paper_fars = list(table.rows[0].paper_tar)
    figures = [figure for figure in FIGURES if measured.is_measurable(figure)]
    lacking = [figure for figure in FIGURES if figure not in figures]
    header = ["loss", *(f"{corpus}: {_column(figure)}" for figure in figures)]
    header += [f"paper, {table.test_set}: TAR@{far_name(far)}" for far in paper_fars]
    rows = []
    for row, runs in zip(table.rows, results, strict=True):
        loss = measured.losses.get(row.run)
        cells = [NOT_TRAINED if loss is None else loss.shown(figure) for figure in figures]
        paper = [per_cent(row.paper_tar[far]) for far in paper_fars]
        rows.append([f"{row.card}{_mark(row, runs)}", *cells, *paper])
    return FigureTable(header, rows, not_measurable_line(lacking, _column))


def _column(figure: Figure) -> str:
    """What a column is called: a table with the paper's has no room for more."""
    return figure.name.replace("@FAR ", "@")


def table5(
    table: Table5, results: Sequence[Sequence[Measured]], lists: Mapping[str, LossList], corpus: CorpusCard
) -> str:
    """The page in Markdown: what the tables show, then the tables, with the corpus in title, columns and notes.

    Args:
        table: the rows.
        results: the runs of each row; none for one that was not trained.
        lists: list -> figures of the others, the headline first.
        corpus: that they were measured on.
    """
    names = {row.run: str(row.card) for row in table.rows}
    name = markdown_text(corpus.name)
    headline = lists[corpus.headline]
    deviation = "; mean ± deviation of the seeds" if headline.num_runs > 1 else ""
    parts = [
        f"# {markdown_text(report_title('The losses of Table 5', corpus.name, headline.result.num_speakers))}",
        "\n".join(f"- {markdown_text(sentence)}" for sentence in table5_sentences(names, lists)),
        markdown_text(corpus.description),
        f"> **Mind:** {markdown_text(corpus.caveat)}" if corpus.caveat else "",
        f"Columns {name}: measured here, per cent{deviation}; TAR@x is the largest TAR at a false-accept rate of at "
        f"most x. Columns `paper`: {table.paper}, trained on {table.training_set}, tested on {table.test_set}. Figures "
        "of different corpora cannot be compared with each other.",
    ]
    for trial_list, measured in lists.items():
        is_headline = trial_list == corpus.headline
        rows = table5_rows(table, results, measured, corpus.name)
        parts += [
            f"## {markdown_text(trial_list)}{' (headline)' if is_headline else ''}",
            f"{counts(measured.result)}.",
            markdown_table(rows.header, rows.rows),
            rows.not_measurable,
            "" if is_headline or not measured.result.no_intervals else f"No intervals: {measured.result.no_intervals}.",
        ]
    parts += [
        intervals_note(headline.result),
        conclusion(headline.result.comparisons, names, headline.num_runs),
        _notes(table, results),
        f"![DET curves on {name}](det_table5.png)",
    ]
    tested = [each for each in headline.result.comparisons if each.p_holm is not None]
    parts += differences_section(tested, names.__getitem__, "##")
    return "\n\n".join(part for part in parts if part) + "\n"


def conclusion(comparisons: Sequence[Comparison], names: Mapping[str, str], num_runs: int = 1) -> str:
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
    if num_runs > 1:
        heading = (
            f"How the losses differ on other speakers, trained from other seeds (p < {LEVEL} after Holm's correction "
            "for all pairs of a figure):"
        )
    return "\n".join([heading, "", *lines])


def _notes(table: Table5, results: Sequence[Sequence[Measured]]) -> str:
    """One line for each row: amount of training, and where its settings differ from the paper's."""
    lines = []
    for row, runs in zip(table.rows, results, strict=True):
        if runs:
            differs = f"; {DIFFERS} **trained here as {runs[0].trained}**" if _mark(row, runs) else ""
            lines.append(f"- {row.card}: {_amount(runs)}{differs}")
    return "Training here:\n\n" + "\n".join(lines)


def _amount(runs: Sequence[Measured]) -> str:
    """How much the runs of a row were trained, in words."""
    samples = " to ".join(dict.fromkeys(f"{end([run.num_samples for run in runs]):,}" for end in (min, max)))
    minutes = " to ".join(dict.fromkeys(f"{end([run.minutes for run in runs]):.1f}" for end in (min, max)))
    each = "" if len(runs) == 1 else f"{len(runs)} seeds, each "
    return f"{each}{samples} samples, {minutes} minutes"


def _mark(row: Table5Row, runs: Sequence[Measured]) -> str:
    """Behind the name of a row that was trained with other settings than the paper's."""
    return f" {DIFFERS}" if runs and runs[0].trained != row.card else ""


def write_table5(
    table: Table5,
    results: Sequence[Sequence[Measured]],
    corpus: CorpusCard,
    roots: Sequence[ExpRoot],
    *,
    speakers: Mapping[str, Mapping[str, str]],
    resampling: Resampling | None,
) -> str:
    """Write ``table5.md``, ``table5.tex``, ``table5.json``, ``det_table5.png`` and ``.pdf``; returns the Markdown.

    Args:
        table: the rows.
        results: of each its runs, as :func:`collect` read them.
        corpus: what must stand beside the figures.
        roots: where the runs lie; the first is written into.
        speakers: list -> utterance -> speaker; the headline list first.
        resampling: for intervals; None for none.
    """
    lists = {name: evaluate_rows(table.rows, results, name, speaker, resampling) for name, speaker in speakers.items()}
    text = table5(table, results, lists, corpus)
    tables = {name: table5_rows(table, results, measured, corpus.name) for name, measured in lists.items()}
    labels = {row.run: f"{row.card}{_mark(row, runs)}" for row, runs in zip(table.rows, results, strict=True)}
    folder, headline = roots[0], lists[corpus.headline]
    curves = {labels[name]: loss.roc for name, loss in headline.losses.items()}
    title = f"The losses of Table 5 on {corpus.name}: {corpus.headline}"
    subtitle = counts(headline.result) + (f"; the first of {len(roots)} seeds" if len(roots) > 1 else "")
    save_plot(det_plot(curves, title, subtitle), [folder.det_table5("png"), folder.det_table5("pdf")])
    comparisons = [
        dataclasses.replace(each, one=labels[each.one], two=labels[each.two]).to_json()
        for each in headline.result.comparisons
    ]
    content = {
        "summary": table5_sentences({row.run: str(row.card) for row in table.rows}, lists),
        "tables": tables,
        "runs": list(headline.losses),
        "roots": list(map(str, roots)),
        "comparisons": comparisons,
    }
    write_checked_text(folder.table5("json"), json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    lines = []
    for name, (header, rows, _) in tables.items():
        lines += [f"% {latex_text(name)}", f"% {' & '.join(map(latex_text, header))}"]
        lines += [" & ".join(map(latex_text, row)) + r" \\" for row in rows]
    write_text(folder.table5("tex"), "\n".join(lines) + "\n")
    write_text(folder.table5("md"), text)
    return text
