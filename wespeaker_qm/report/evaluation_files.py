"""The files that an evaluation leaves in the folder of a run."""

import json

from wespeaker_qm.evaluate.results import TRAINED
from wespeaker_qm.report.det_plot import det_plot, distinct_curves
from wespeaker_qm.report.evaluation import Evaluation
from wespeaker_qm.report.latex import latex_rows
from wespeaker_qm.report.markdown import markdown_report
from wespeaker_qm.report.plotting import save_plot
from wespeaker_qm.report.text import counts
from wespeaker_qm.report.training_plot import training_plot
from wespeaker_qm.utils.checksums import write_checked_text
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import RunFolder


def write_evaluation(evaluation: Evaluation, run: RunFolder) -> None:
    """Write ``det.png``, ``det.pdf``, ``training.png``, ``metrics.json``, ``report.md`` and ``report.tex``."""
    headline = evaluation.lists[evaluation.corpus.headline]
    systems = {evaluation.label(name): system.roc for name, system in headline.systems.items()}
    title = f"{evaluation.corpus.name}: {evaluation.corpus.headline}"
    plot = det_plot(distinct_curves(systems), title, counts(headline), headline.systems[TRAINED].band)
    save_plot(plot, [run.det("png"), run.det("pdf")])
    if evaluation.training is not None:
        plot = training_plot(evaluation.training.history, f"{evaluation.corpus.name}: {evaluation.training.loss}")
        save_plot(plot, [run.training_curves])
    write_checked_text(run.metrics, json.dumps(evaluation.to_json(), indent=1, allow_nan=False) + "\n")
    write_text(run.report("md"), markdown_report(evaluation))
    write_text(run.report("tex"), latex_rows(evaluation.lists, evaluation.label))
