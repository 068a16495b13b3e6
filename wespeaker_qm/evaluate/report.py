"""``metrics.json`` and ``report.md`` of one experiment."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.evaluate.det import det_figure, save_figure
from wespeaker_qm.evaluate.metrics import ListResult, markdown_table, per_cent, show_tar
from wespeaker_qm.evaluate.operating_points import FARS, P_TARGETS, far_name
from wespeaker_qm.evaluate.training import LossCard, TrainingLog, training_figure
from wespeaker_qm.utils.files import write_text

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
    provenance: Mapping[str, object]
    """Command, commit, versions."""

    def to_json(self) -> dict[str, Any]:
        """The content of ``metrics.json``. Rates are fractions; null is a figure that the list cannot measure."""
        return {
            "run": self.run,
            "corpus": dataclasses.asdict(self.corpus),
            "trial_lists": {name: result.to_json() for name, result in self.lists.items()},
            "training": None if self.training is None else self.training.to_json(),
            "provenance": dict(self.provenance),
        }


def write_evaluation(evaluation: Evaluation, exp_dir: Path) -> None:
    """Write ``det.png``, ``det.pdf``, ``training.png``, ``metrics.json`` and ``report.md`` into ``exp_dir``."""
    headline = evaluation.lists[evaluation.corpus.headline]
    systems = {_label(evaluation, name): system.roc for name, system in headline.systems.items()}
    title = f"{evaluation.corpus.name}: {evaluation.corpus.headline}"
    save_figure(det_figure(systems, title, counts(headline)), exp_dir / "det")
    if evaluation.training is not None:
        figure = training_figure(evaluation.training.log, f"{evaluation.corpus.name}: {evaluation.training.loss}")
        save_figure(figure, exp_dir / "training", formats=["png"])
    write_text(exp_dir / "metrics.json", json.dumps(evaluation.to_json(), indent=1, allow_nan=False) + "\n")
    write_text(exp_dir / "report.md", report(evaluation))


def report(evaluation: Evaluation) -> str:
    """The report in Markdown: what the corpus is, the headline list, the other lists, the training."""
    corpus = evaluation.corpus
    parts = [f"# {evaluation.run} on {corpus.name}", f"{corpus.description}"]
    if corpus.caveat:
        parts.append(f"> **Mind:** {corpus.caveat}")
    if evaluation.training is not None:
        parts.append(f"Trained with {evaluation.training.loss}, {evaluation.training.log}.")
    headline = evaluation.lists[corpus.headline]
    parts += [
        f"## Headline list: {corpus.headline}",
        f"{counts(headline)}.",
        list_table(evaluation, headline),
        "All figures but minDCF in per cent. A trial is accepted when its score is at least the threshold; tied scores "
        "move together. TAR@FAR x is the largest TAR at any threshold whose FAR is at most x, and takes 1/x non-target "
        "trials to measure.",
        "Operating points of the trained system:",
        threshold_table(headline),
        "![DET curves](det.png)",
        "Filled circles: equal error rates. Hollow circles: FAR 1e-3 and 1e-4, where measurable.",
    ]
    others = {name: result for name, result in evaluation.lists.items() if name != corpus.headline}
    if others:
        parts.append("## Other lists")
    for name, result in others.items():
        parts += [f"### {name}", f"{counts(result)}.", list_table(evaluation, result)]
    if evaluation.training is not None:
        parts += ["## Training", "![learning curves](training.png)"]
    parts += ["## Made with", f"```\n{json.dumps(dict(evaluation.provenance), indent=1)}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def counts(result: ListResult) -> str:
    """How many trials, and of how many speakers."""
    return (
        f"{result.num_targets:,} target and {result.num_nontargets:,} non-target trials of "
        f"{result.num_utterances:,} utterances by {result.num_speakers:,} speakers"
    )


def list_table(evaluation: Evaluation, result: ListResult) -> str:
    """One line a system."""
    header = ["system", "EER", *(f"minDCF {p}" for p in P_TARGETS), *(f"TAR@FAR {far_name(far)}" for far in FARS)]
    rows = [
        [
            _label(evaluation, name),
            per_cent(system.eer.rate),
            *(f"{system.min_dcf[p_target].cost:.4f}" for p_target in P_TARGETS),
            *(show_tar(system.tar_at_far[far]) for far in FARS),
        ]
        for name, system in result.systems.items()
    ]
    return markdown_table(header, rows)


def threshold_table(result: ListResult) -> str:
    """The operating points of the trained system: what a user would set."""
    rows = []
    for far, point in result.systems[TRAINED].tar_at_far.items():
        if point is None:
            rows.append([far_name(far), show_tar(None), "", ""])
        else:
            rows.append(
                [
                    far_name(far),
                    per_cent(point.tar),
                    f"{point.threshold:.6f}",
                    f"{point.false_accepts:,} of {result.num_nontargets:,}",
                ]
            )
    return markdown_table(["FAR at most", "TAR", "threshold", "false accepts"], rows)


def _label(evaluation: Evaluation, system: str) -> str:
    return f"{evaluation.run} ({TRAINED})" if system == TRAINED and evaluation.training is not None else system
