"""``metrics.json`` and ``report.md`` of one experiment."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.evaluate.evidence import LEAST_ERRORS
from wespeaker_qm.evaluate.metrics import (
    ListResult,
    Sureness,
    comparison_table,
    figures_table,
    markdown_table,
    show_tar,
    with_sureness,
)
from wespeaker_qm.evaluate.operating_points import far_name, is_measurable, number_name
from wespeaker_qm.report.det import det_figure, save_figure
from wespeaker_qm.report.training import LossCard, TrainingLog, training_figure
from wespeaker_qm.utils.checksums import write_checked_text
from wespeaker_qm.utils.files import write_text

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)
TRAINED = "trained"
"""The name of the evaluated system in ``metrics.json``; the others are baselines."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusCard:
    """What must stand beside every figure."""

    name: str
    description: str
    caveat: str
    """What the figures must not be taken for, or nothing."""
    headline: str
    """The trial list that counts."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """How the evaluated system was trained."""

    loss: LossCard
    log: TrainingLog

    def to_json(self) -> dict[str, Any]:
        """Loss and amounts as plain values."""
        return {
            "loss": dataclasses.asdict(self.loss),
            "num_epochs": self.log.num_epochs,
            "num_samples": self.log.num_samples,
            "minutes": self.log.minutes,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All there is to say about one experiment."""

    run: str
    """Name of the run, i.e. of its folder."""
    corpus: CorpusCard
    lists: dict[str, ListResult]
    """Trial list -> figures, for each of its systems; the headline is one of them."""
    training: Training | None
    """None when the embeddings come from elsewhere."""
    notes: list[str]
    """What must not be overlooked, e.g. of the calibration; one paragraph each."""
    baselines: Mapping[str, Path]
    """Baseline -> its folder."""
    provenance: Mapping[str, object]
    """Command, commit, versions."""

    def to_json(self) -> dict[str, Any]:
        """The content of ``metrics.json``. Rates are fractions; null is a figure that the list cannot measure."""
        return {
            "run": self.run,
            "corpus": dataclasses.asdict(self.corpus),
            "trial_lists": {name: result.to_json() for name, result in self.lists.items()},
            "training": None if self.training is None else self.training.to_json(),
            "baselines": {name: str(folder) for name, folder in self.baselines.items()},
            "provenance": dict(self.provenance),
            **({"notes": self.notes} if self.notes else {}),
        }


def write_evaluation(evaluation: Evaluation, exp_dir: Path) -> None:
    """Write ``det.png``, ``det.pdf``, ``training.png``, ``metrics.json``, ``report.md`` and ``report.tex``."""
    headline = evaluation.lists[evaluation.corpus.headline]
    systems = {_label(evaluation, name): system.roc for name, system in headline.systems.items()}
    title = f"{evaluation.corpus.name}: {evaluation.corpus.headline}"
    bands = {_label(evaluation, name): system.band for name, system in headline.systems.items()}
    save_figure(det_figure(systems, title, counts(headline), bands), exp_dir / "det")
    if evaluation.training is not None:
        figure = training_figure(evaluation.training.log, f"{evaluation.corpus.name}: {evaluation.training.loss}")
        save_figure(figure, exp_dir / "training", formats=["png"])
    write_checked_text(exp_dir / "metrics.json", json.dumps(evaluation.to_json(), indent=1, allow_nan=False) + "\n")
    write_text(exp_dir / "report.md", report(evaluation))
    write_text(exp_dir / "report.tex", latex_rows(evaluation))


def report(evaluation: Evaluation) -> str:
    """The report in Markdown: what the corpus is, the headline list, the other lists, the training."""
    corpus = evaluation.corpus
    parts = [f"# {evaluation.run} on {corpus.name}", f"{corpus.description}"]
    if corpus.caveat:
        parts.append(f"> **Mind:** {corpus.caveat}")
    parts += [f"> **Mind:** {note}" for note in evaluation.notes]
    if evaluation.training is not None:
        parts.append(f"Trained with {evaluation.training.loss}, {evaluation.training.log}.")
    headline = evaluation.lists[corpus.headline]
    parts += [
        f"## Headline list: {corpus.headline}",
        f"{counts(headline)}.",
        list_table(evaluation, headline),
        intervals_note(headline),
        "A trial is accepted when its score is at least the threshold; tied scores move together. TAR at FAR x is the "
        "largest TAR at any threshold whose FAR is at most x, and takes 1/x non-target trials to measure.",
        "Operating points of the trained system:",
        threshold_table(headline),
        "![DET curves](det.png)",
        "Filled circles: equal error rates. Hollow circles: FAR 1e-3 and 1e-4, where measurable.",
    ]
    if headline.comparisons:
        parts += [
            "### Differences",
            "Of the systems on the same trials and the same resamples; rates in per cent.",
            comparison_table(
                [each for each in headline.comparisons if each.figure.startswith(("EER", "TAR@FAR"))],
                lambda name: _label(evaluation, name),
            ),
        ]
    others = {name: result for name, result in evaluation.lists.items() if name != corpus.headline}
    if others:
        parts.append("## Other lists")
    for name, result in others.items():
        reason = f"No intervals: {result.no_intervals}." if result.no_intervals else ""
        parts += [f"### {name}", f"{counts(result)}.", list_table(evaluation, result), reason]
    if evaluation.training is not None:
        parts += ["## Training", "![learning curves](training.png)"]
    parts += ["## Made with", f"```\n{json.dumps(dict(evaluation.provenance), indent=1)}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def counts(result: ListResult) -> str:
    """How many trials, and of how many speakers."""
    text = (
        f"{result.num_targets:,} target and {result.num_nontargets:,} non-target trials of "
        f"{result.num_utterances:,} utterances"
    )
    return text if result.num_speakers is None else f"{text} by {result.num_speakers:,} speakers"


LEVELS = {
    "speaker": "In simulated lists such intervals hold the true value in 91 to 99 %, but in 66 to 92 % at rates below "
    "3 in so many speakers where a few speakers are very unlike the rest (tools/validate_intervals.py).",
    "trial": "They are too narrow: trials that share a speaker are not independent.",
}
"""What is drawn -> how often the intervals hold the true value."""


def intervals_note(result: ListResult) -> str:
    """What the intervals of a list are, or why there are none."""
    if result.resampling is not None:
        return (
            f"In brackets: {100 * result.resampling.confidence:g} % intervals for other {result.resampling.unit}s of "
            f"this kind, from {result.resampling.num_resamples:,} resamples of the {result.resampling.unit}s; or why a "
            f"figure has none: fewer than {LEAST_ERRORS} errors of a kind, or a rate below 1 in so many speakers, tell "
            f"too little of others. {LEVELS[result.resampling.unit]}"
        )
    if result.num_speakers is None:
        return "No intervals: it is not known who speaks."
    return f"No intervals: {result.no_intervals or 'none were asked for (--num_resamples 0)'}."


def list_table(evaluation: Evaluation, result: ListResult) -> str:
    """One line a figure, one column a system."""
    return figures_table({_label(evaluation, name): system for name, system in result.systems.items()})


def latex_rows(evaluation: Evaluation) -> str:
    """Rows for a table in a paper: list, system, EER, minDCF and TAR, with intervals; the columns in a comment."""
    lines = []
    for name, result in evaluation.lists.items():
        first = next(iter(result.systems.values()))
        fars = [far for far in first.tar_at_far if is_measurable(far, result.num_nontargets)]
        columns = ["list", "system", "EER %", *(f"minDCF {number_name(p_target)}" for p_target in first.min_dcf)]
        columns += [f"TAR % at FAR {far_name(far)}" for far in fars]
        lines.append(f"% {' & '.join(columns)}")
        for system, figures in result.systems.items():
            cells = [latex_text(name), latex_text(_label(evaluation, system))]
            cells.append(latex_cell(100 * figures.eer.rate, figures.sureness("EER"), 100))
            for p_target, best in figures.min_dcf.items():
                cells.append(latex_cell(best.cost, figures.sureness(f"minDCF {number_name(p_target)}"), 1))
            for far in fars:
                point = figures.tar_at_far[far]
                tar = 0.0 if point is None else point.tar
                cells.append(latex_cell(100 * tar, figures.sureness(f"TAR@FAR {far_name(far)}"), 100))
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    r"""``text`` as LaTeX shows it: in names from elsewhere no character is a command, a group or a new line.

    >>> print(latex_text(r"a_b \input x"))
    a\_b \textbackslash{}input x
    """
    return " ".join(text.translate(_LATEX).split())


def latex_cell(value: float, sureness: Sureness, factor: float) -> str:
    """A number, and in small print its interval (times ``factor``) or why there is none."""
    digits = 3 if factor == 1 else 2
    if sureness is None:
        return f"{value:.{digits}f}"
    if isinstance(sureness, str):
        return rf"{value:.{digits}f} {{\scriptsize [{latex_text(sureness)}]}}"
    low, high = (factor * end for end in sureness)
    return rf"{value:.{digits}f} {{\scriptsize [{low:.{digits}f}, {high:.{digits}f}]}}"


def threshold_table(result: ListResult) -> str:
    """The operating points of the trained system, with intervals: what a user would set."""
    rows = []
    trained = result.systems[TRAINED]
    for far, point in trained.tar_at_far.items():
        if point is None:
            rows.append([far_name(far), show_tar(None), "", ""])
        else:
            rows.append(
                [
                    far_name(far),
                    show_tar(point, trained.sureness(f"TAR@FAR {far_name(far)}")),
                    show_threshold(point.threshold, trained.sureness(f"threshold@FAR {far_name(far)}")),
                    f"{point.false_accepts:,} of {result.num_nontargets:,}",
                ]
            )
    return markdown_table(["FAR at most", "TAR %", "threshold", "false accepts"], rows)


def show_threshold(threshold: float, sureness: Sureness) -> str:
    """A threshold with its interval: six decimals, more where fewer would be another threshold.

    Scores are compared with it, so that what is shown must accept the very trials that were counted.

    >>> show_threshold(0.5, (0.4, 0.6)), show_threshold(0.123456789, None)
    ('0.500000 (0.400000 to 0.600000)', '0.123456789')
    """
    text = f"{threshold:.6f}"
    if float(text) != threshold:
        text = repr(threshold)
    return with_sureness(lambda end: text if end == threshold else f"{end:.6f}", threshold, sureness)


def _label(evaluation: Evaluation, system: str) -> str:
    return f"{evaluation.run} ({TRAINED})" if system == TRAINED and evaluation.training is not None else system
