"""``report.md``: what the corpus is, the headline list, the other lists, the training."""

import json

from wespeaker_qm.evaluate.figure import Compared, Figure
from wespeaker_qm.evaluate.figures import TAR_AT_FAR, THRESHOLD_AT_FAR
from wespeaker_qm.evaluate.operating_points import OperatingPoint
from wespeaker_qm.evaluate.results import ListResult
from wespeaker_qm.report.det_plot import eer_mark
from wespeaker_qm.report.evaluation import TRAINED, Evaluation
from wespeaker_qm.report.tables import comparison_table, figures_table, markdown_table, markdown_text
from wespeaker_qm.report.text import counts, intervals_note, report_title, show_figure


def markdown_report(evaluation: Evaluation) -> str:
    """The report in Markdown: what the corpus is, the headline list, the other lists, the training."""
    corpus = evaluation.corpus
    headline = evaluation.lists[corpus.headline]
    parts = [f"# {markdown_text(report_title(evaluation.run, corpus.name, headline.num_speakers))}"]
    parts += [f"> **Mind:** {markdown_text(note)}" for note in evaluation.notes]
    parts.append(markdown_text(corpus.description))
    if corpus.caveat:
        parts.append(f"> **Mind:** {markdown_text(corpus.caveat)}")
    if evaluation.training is not None:
        parts.append(f"Trained with {evaluation.training.loss}, {evaluation.training.history}.")
    is_bound = any(eer_mark(system.roc).is_bound for system in headline.systems.values())
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
        + (" Triangles: systems with less error than can be drawn; their rates lie below." if is_bound else ""),
    ]
    if headline.comparisons:
        parts += [
            "### Differences",
            "Of the systems on the same trials and the same resamples; rates in per cent.",
            comparison_table(
                [each for each in headline.comparisons if each.figure.kind.compared is Compared.REPORTED],
                evaluation.label,
            ),
        ]
    others = {name: result for name, result in evaluation.lists.items() if name != corpus.headline}
    if others:
        parts.append("## Other lists")
    for name, result in others.items():
        reason = f"No intervals: {result.no_intervals}." if result.no_intervals else ""
        parts += [f"### {markdown_text(name)}", f"{counts(result)}.", list_table(evaluation, result), reason]
    if evaluation.training is not None:
        parts += ["## Training", "![learning curves](training.png)"]
    parts += ["## Made with", f"```\n{json.dumps(dict(evaluation.provenance), indent=1)}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def list_table(evaluation: Evaluation, result: ListResult) -> str:
    """One line a figure, one column a system."""
    return figures_table({evaluation.label(name): system for name, system in result.systems.items()})


def threshold_table(result: ListResult) -> str:
    """The operating points of the trained system, with intervals: what a user would set."""
    rows = []
    trained = result.systems[TRAINED]
    for figure, point in trained.readings.items():
        if figure.kind is not TAR_AT_FAR:
            continue
        tar = show_figure(figure, trained.value(figure), trained.sureness(figure))
        if not isinstance(point, OperatingPoint):
            rows.append([figure.rate_name, tar, "", ""])
            continue
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
