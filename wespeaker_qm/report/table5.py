"""Table 5 of the paper beside the same six losses trained on another corpus.

The rows are ``conf/table5.yaml``; each is a run whose ``metrics.json`` and headline scores are read. The measured
columns carry the name of the corpus, those of the paper the name of its test set: figures of two corpora in one table
must not be mistaken for each other.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.bootstrap import FigureSet
from wespeaker_qm.evaluate.comparison import LEVEL, Comparison
from wespeaker_qm.evaluate.metrics import (
    ListResult,
    Resampling,
    SystemResult,
    comparison_table,
    evaluate_systems,
    markdown_table,
    per_cent,
    show_per_cent,
    show_tar,
)
from wespeaker_qm.evaluate.operating_points import FARS, equal_error_rate, far_name, number_name, roc_steps
from wespeaker_qm.report.det import det_figure, save_figure
from wespeaker_qm.report.markdown import TRAINED, CorpusCard, counts, intervals_note, latex_text
from wespeaker_qm.report.training import LossCard
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.speakers import trial_speakers
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.checksums import read_checked_json, write_checked_text
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.shipped import shipped
from wespeaker_qm.utils.yaml_files import read_yaml_mapping

NOT_TRAINED = "not trained"
DIFFERS = "†"
"""Marks a row that was trained with other settings than the paper's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One loss of the table."""

    card: LossCard
    """As the paper states it."""
    loss: Path
    """The overlay that trains it."""
    paper_tar: dict[float, float]
    """FAR -> the paper's TAR, a fraction."""

    @property
    def run(self) -> str:
        """Name of the run's folder below the experiments of a corpus."""
        return self.loss.name.removesuffix(".yaml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """``conf/table5.yaml``."""

    paper: str
    training_set: str
    test_set: str
    rows: list[Row]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What one run achieved on the headline list."""

    trials: TrialTable
    """The headline list."""
    trained: LossCard
    """The loss as it was trained here."""
    amount: str
    """Of training, in words."""
    scores: NDArray[np.float64]
    """(N,) of the trained system."""


def read_table(path: Path | str) -> Table:
    """Read the rows and the paper's values.

    Raises:
        RecipeError: the file is missing, not YAML, or lacks a key; two rows are one run, or have one name.
    """
    content = read_yaml_mapping(shipped(path))
    try:
        rows = [
            Row(
                card=LossCard(name=row["name"], alpha=row["alpha"], scale=row["scale"], margin=row["margin"]),
                loss=Path(row["loss"]),
                paper_tar={float(far): value / 100 for far, value in row["paper_tar_per_cent"].items()},
            )
            for row in content["rows"]
        ]
        table = Table(
            paper=content["paper"],
            training_set=content["paper_training_set"],
            test_set=content["paper_test_set"],
            rows=rows,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{path}: {error!r}; expected the keys of conf/table5.yaml in every row") from error
    for first, second in itertools.combinations(rows, 2):
        if first.run == second.run:
            raise RecipeError(
                f"{path}: the losses {first.loss} and {second.loss} would both be the run {first.run}; rename one"
            )
        if first.card == second.card:
            raise RecipeError(
                f"{path}: the rows of {first.loss} and {second.loss} are both called {first.card}; rename one"
            )
    return table


def read_written(path: Path) -> dict[str, Any]:
    """Read the ``table5.json`` that :func:`write_table5` wrote: header, rows, runs and comparisons.

    Raises:
        RecipeError: damaged.
    """
    content: dict[str, Any] = read_checked_json(path, "collect the runs again (run.sh --table5 true --stage 5)")
    return content


def read_run(exp_dir: Path, corpus: CorpusCard) -> Measured:
    """Read what an evaluated run achieved on the headline list of ``corpus``.

    Raises:
        RecipeError: the run was not evaluated, or on another corpus or other scores than those that lie there now.
    """
    path = exp_dir / "metrics.json"
    metrics = read_checked_json(path, f"delete it and evaluate the run again (run.sh --stage 5 --exp_dir {exp_dir})")
    if (metrics["corpus"]["name"], metrics["corpus"]["headline"]) != (corpus.name, corpus.headline):
        raise RecipeError(
            f"{path}: figures of {metrics['corpus']['name']}/{metrics['corpus']['headline']}, expected "
            f"{corpus.name}/{corpus.headline}; evaluate the run again (run.sh --stage 5 --exp_dir "
            f"{exp_dir})"
        )
    training = metrics["training"]
    if training is None:
        raise RecipeError(f"{path}: says nothing of a training; a row of Table 5 is a run of stages 3 to 5")
    system = metrics["trial_lists"][corpus.headline]["systems"][TRAINED]
    trials, scores, _ = read_scores(exp_dir / "scores" / f"{corpus.headline}.score")
    eer = equal_error_rate(roc_steps(scores, trials.is_target)).rate
    if eer != system["eer"]:
        raise RecipeError(
            f"{path}: EER {system['eer']}, but {trials.path} has {eer}; evaluate the run again "
            f"(run.sh --stage 5 --exp_dir {exp_dir})"
        )
    return Measured(
        trials=trials,
        trained=LossCard(**training["loss"]),
        amount=f"{training['num_samples']:,} samples, {training['minutes']:.1f} minutes",
        scores=scores,
    )


def collect(table: Table, exp_root: Path, corpus: CorpusCard, partial: bool = False) -> list[Measured | None]:
    """Read the run of every row; with ``partial``, None stands for a row that was not trained yet.

    Raises:
        RecipeError: runs are missing (each is named with the command that makes it), or all of them are.
    """
    missing = [row for row in table.rows if not (exp_root / row.run / "metrics.json").is_file()]
    if missing and (not partial or len(missing) == len(table.rows)):
        commands = "".join(
            f"\n  {exp_root / row.run}: ./run.sh --loss {row.loss} --exp_dir {exp_root / row.run}" for row in missing
        )
        raise RecipeError(
            f"{len(missing)} of {len(table.rows)} rows of Table 5 have no metrics.json. Train and evaluate them "
            f"(`./run.sh --table5 true` does all), or give --partial true for the table without them:{commands}"
        )
    results = [None if row in missing else read_run(exp_root / row.run, corpus) for row in table.rows]
    first, *others = [result.trials for result in results if result is not None]
    for trials in others:
        if not trials.same_trials(first):
            raise RecipeError(
                f"{trials.path}: not the trials of {first.path}; score and evaluate all rows on the same list "
                "(run.sh --table5 true --stage 5)"
            )
    return results


def measure(
    results: list[Measured | None], rows: list[Row], speaker: Mapping[str, str], resampling: Resampling | None
) -> ListResult:
    """Figures, intervals and differences of all rows that were trained, on the same resamples; by name of the run."""
    measured = {row.run: result for row, result in zip(rows, results, strict=True) if result is not None}
    trials = next(iter(measured.values())).trials
    return evaluate_systems(
        trials,
        {name: result.scores for name, result in measured.items()},
        dict.fromkeys(measured, FigureSet()),
        trial_speakers(trials, speaker),
        resampling=resampling,
        progress="intervals of Table 5",
    )


def table5_rows(
    table: Table, results: list[Measured | None], measured: ListResult, corpus: CorpusCard
) -> tuple[list[str], list[list[str]]]:
    """Header and rows, every column under the name of its corpus."""
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


def table5(table: Table, results: list[Measured | None], measured: ListResult, corpus: CorpusCard) -> str:
    """The table in Markdown, with the corpus in its title, its columns and its notes."""
    names = {row.run: str(row.card) for row in table.rows}
    parts = [
        f"# The losses of Table 5 on {corpus.name}",
        corpus.description,
        f"> **Mind:** {corpus.caveat}" if corpus.caveat else "",
        f"Columns `{corpus.name}`: measured here, list {corpus.headline} ({counts(measured)}). Columns `paper`: "
        f"{table.paper}, trained on {table.training_set}, tested on {table.test_set}. Figures of different corpora "
        "cannot be compared with each other. All figures in per cent; TAR@x is the largest TAR at a false-accept rate "
        f"of at most x. {intervals_note(measured)}",
        markdown_table(*table5_rows(table, results, measured, corpus)),
        conclusion(measured.comparisons, names),
        _notes(table, results),
        f"![DET curves on {corpus.name}](det_table5.png)",
    ]
    if measured.comparisons:
        shown = [each for each in measured.comparisons if each.figure.startswith(("EER", "TAR@FAR"))]
        shown = [each for each in shown if each.p_holm is not None]
        parts += ["## Differences", comparison_table(shown, lambda name: names[name])]
    return "\n\n".join(part for part in parts if part) + "\n"


def conclusion(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> str:
    """Which losses differ at the 5 % level, all pairs allowed for; nothing where nothing was compared."""
    if not comparisons:
        return ""
    lines = []
    for figure in dict.fromkeys(each.figure for each in comparisons if each.figure.startswith(("EER", "TAR@FAR"))):
        tested = [each for each in comparisons if each.figure == figure and each.p_holm is not None]
        if not tested:
            lines.append(f"- {figure}: the trials do not support a comparison")
            continue
        sure = [each for each in tested if each.p_holm is not None and each.p_holm < LEVEL]
        pairs = "; ".join(
            f"{names[each.two]} {'above' if each.difference > 0 else 'below'} {names[each.one]}" for each in sure
        )
        lines.append(f"- {figure}: {pairs or 'no two losses differ'}")
    heading = (
        f"How these networks differ on other speakers (p < {LEVEL} after Holm's correction for all pairs of a figure). "
        "Each loss was trained once; that another seed would leave it so is not shown:"
    )
    return "\n".join([heading, "", *lines])


def _measured_cells(system: SystemResult) -> list[str]:
    tars = [show_tar(point, system.sureness(f"TAR@FAR {far_name(far)}")) for far, point in system.tar_at_far.items()]
    return [show_per_cent(system.eer.rate, system.sureness("EER")), *tars]


def _notes(table: Table, results: list[Measured | None]) -> str:
    """One line for each run: amount of training, and where its settings differ from the paper's."""
    lines = []
    for row, result in zip(table.rows, results, strict=True):
        if result is not None:
            differs = f"; {DIFFERS} **trained here as {result.trained}**" if _differs(row, result) else ""
            lines.append(f"- {row.card}: {result.amount}{differs}")
    return "Training here:\n\n" + "\n".join(lines)


def _differs(row: Row, result: Measured | None) -> bool:
    """Whether the run was trained with other settings than the paper's."""
    return result is not None and result.trained != row.card


def write_table5(
    table: Table,
    results: list[Measured | None],
    corpus: CorpusCard,
    folder: Path,
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
    measured = measure(results, table.rows, speaker, resampling)
    text = table5(table, results, measured, corpus)
    header, rows = table5_rows(table, results, measured, corpus)
    labels = {
        row.run: f"{row.card}{f' {DIFFERS}' if _differs(row, result) else ''}"
        for row, result in zip(table.rows, results, strict=True)
    }
    curves = {labels[name]: system.roc for name, system in measured.systems.items()}
    title = f"The losses of Table 5 on {corpus.name}: {corpus.headline}"
    save_figure(det_figure(curves, title, counts(measured)), folder / "det_table5")
    comparisons = [
        {**dataclasses.asdict(each), "one": labels[each.one], "two": labels[each.two]} for each in measured.comparisons
    ]
    content = {"header": header, "rows": rows, "runs": list(measured.systems), "comparisons": comparisons}
    write_checked_text(
        folder / "table5.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
    lines = [f"% {' & '.join(map(latex_text, header))}", *(" & ".join(map(latex_text, row)) + r" \\" for row in rows)]
    write_text(folder / "table5.tex", "\n".join(lines) + "\n")
    write_text(folder / "table5.md", text)
    return text
