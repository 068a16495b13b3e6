"""``report.md``: what the figures say, what the corpus is, the headline list, the other lists, the training."""

import html
import json
from collections.abc import Callable, Mapping, Sequence

from wespeaker_qm.evaluate.comparison import Comparison
from wespeaker_qm.evaluate.figure import Compared, Figure
from wespeaker_qm.evaluate.figures import TAR_AT_FAR, THRESHOLD_AT_FAR
from wespeaker_qm.evaluate.operating_points import OperatingPoint
from wespeaker_qm.evaluate.results import TRAINED, ListResult
from wespeaker_qm.report.det_plot import eer_mark
from wespeaker_qm.report.differences import charted, text_chart
from wespeaker_qm.report.evaluation import Evaluation
from wespeaker_qm.report.tables import comparison_table, figures_table, markdown_table, markdown_text
from wespeaker_qm.report.text import counts, intervals_note, list_notes_line, report_title, show_figure


def markdown_report(evaluation: Evaluation) -> str:
    """The report in Markdown: what the figures say, then the figures."""
    corpus = evaluation.corpus
    headline = evaluation.lists[corpus.headline]
    parts = [f"# {markdown_text(report_title(evaluation.run, corpus.name, headline.num_speakers))}"]
    parts.append("\n".join(f"- {markdown_text(sentence)}" for sentence in evaluation.summary))
    parts += [f"> **Mind:** {markdown_text(note)}" for note in evaluation.headline_notes]
    parts.append(markdown_text(corpus.description))
    if corpus.caveat:
        parts.append(f"> **Mind:** {markdown_text(corpus.caveat)}")
    if evaluation.training is not None:
        parts.append(f"Trained with {evaluation.training.loss}, {evaluation.training.history}.")
    is_bound = any(eer_mark(system.roc).is_bound for system in headline.systems.values())
    has_band = headline.systems[TRAINED].band is not None
    parts += [
        f"## Headline list: {markdown_text(corpus.headline)}",
        f"{counts(headline)}.",
        list_table(evaluation, headline),
        intervals_note(headline),
        "A trial is accepted when its score is at least the threshold; tied scores move together. TAR at FAR x is the "
        "largest TAR at any threshold whose FAR is at most x, and takes 1/x non-target trials to measure.",
        "Operating points of the trained system:",
        threshold_table(headline),
        "![DET curves](det.png)",
        "Filled circles: equal error rates. Hollow circles: FAR 1e-3 and 1e-4, where measurable."
        + (f" Shaded: the 95 % band of {markdown_text(evaluation.label(TRAINED))}." if has_band else "")
        + (" Triangles: systems with less error than can be drawn; their rates lie below." if is_bound else ""),
        *differences_section(headline.comparisons, evaluation.label, "###"),
    ]
    others = {name: result for name, result in evaluation.lists.items() if name != corpus.headline}
    if others:
        parts.append("## Other lists")
    parts += list_notes_section(evaluation.list_notes)
    for name, result in others.items():
        reason = f"No intervals: {result.no_intervals}." if result.no_intervals else ""
        parts += [f"### {markdown_text(name)}", f"{counts(result)}.", list_table(evaluation, result), reason]
    if evaluation.training is not None:
        parts += ["## Training", "![learning curves](training.png)"]
    parts += ["## Made with", f"```\n{json.dumps(dict(evaluation.provenance), indent=1)}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def list_notes_section(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """The notes of lists other than the headline, folded under a line that counts them; may be nothing."""
    if not notes:
        return []
    texts = "\n".join(f"- {markdown_text(text)}" for of_list in notes.values() for text in of_list)
    summary = f"<summary>{html.escape(list_notes_line(notes), quote=False)}</summary>"
    return [f"<details>{summary}", texts, "</details>"]


def list_table(evaluation: Evaluation, result: ListResult, least: Compared = Compared.NOWHERE) -> str:
    """One line a figure, one column a system; arguments as :func:`wespeaker_qm.report.tables.figures_table`."""
    return figures_table({evaluation.label(name): system for name, system in result.systems.items()}, least)


def differences_section(comparisons: Sequence[Comparison], label: Callable[[str], str], heading: str) -> list[str]:
    """A chart of the differences from the first system, and all of them in a table that is folded; may be nothing."""
    differences = charted(comparisons, label)
    if differences is None:
        return []
    reported = [each for each in comparisons if each.figure.kind.compared is Compared.REPORTED]
    return [
        f"{heading} Differences",
        f"How much better or worse than {markdown_text(differences.reference)} the others are on the same trials, in "
        "points of each figure; lines are 95 % intervals, and a star marks those that leave 0 out.",
        f"```text\n{text_chart(differences)}\n```",
        "<details><summary>All pairs, with p-values (rates in per cent)</summary>",
        comparison_table(reported, label),
        "</details>",
    ]


def threshold_table(result: ListResult) -> str:
    """The operating points of the trained system, with intervals: what a user would set."""
    rows = []
    trained = result.systems[TRAINED]
    for figure, point in trained.readings.items():
        if figure.kind is not TAR_AT_FAR:
            continue
        if not isinstance(point, OperatingPoint):
            continue  # which the table above says
        tar = show_figure(figure, point.tar, trained.sureness(figure))
        threshold = Figure(THRESHOLD_AT_FAR, figure.rate)
        rows.append(
            [
                figure.rate_name,
                tar,
                show_figure(threshold, point.threshold, trained.sureness(threshold)),
                f"{point.false_accepts:,} of {result.num_nontargets:,}",
            ]
        )
    return markdown_table(["FAR at most", "TAR %", "threshold", "false accepts"], rows)
