"""Table 5 of the paper beside the same six losses trained on another corpus.

The rows are ``conf/table5.yaml``; each is a run whose ``metrics.json`` and headline scores are read. The measured
columns carry the name of the corpus, those of the paper the name of its test set: figures of two corpora in one table
must not be mistaken for each other.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.evaluate.det import det_figure, save_figure
from wespeaker_qm.evaluate.metrics import NOT_MEASURABLE, markdown_table, per_cent
from wespeaker_qm.evaluate.operating_points import FARS, RocSteps, equal_error_rate, far_name, roc_steps
from wespeaker_qm.evaluate.report import TRAINED, CorpusCard
from wespeaker_qm.evaluate.training import LossCard
from wespeaker_qm.evaluate.trial_table import TrialTable, read_scores
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
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
    paper_tar: dict[str, float]
    """FAR (as ``1e-3``) -> the paper's TAR, a fraction."""

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

    system: dict[str, Any]
    """``metrics.json``: the figures of the trained system on the headline list."""
    trials: TrialTable
    """The headline list."""
    trained: LossCard
    """The loss as it was trained here."""
    amount: str
    """Of training, in words."""
    roc: RocSteps
    """All operating points, for the figure."""


def read_table(path: Path | str) -> Table:
    """Read the rows and the paper's values.

    Raises:
        RecipeError: the file is missing, not YAML, or lacks a key.
    """
    content = read_yaml_mapping(path)
    try:
        rows = [
            Row(
                card=LossCard(name=row["name"], alpha=row["alpha"], scale=row["scale"], margin=row["margin"]),
                loss=Path(row["loss"]),
                paper_tar={far: value / 100 for far, value in row["paper_tar_per_cent"].items()},
            )
            for row in content["rows"]
        ]
        return Table(
            paper=content["paper"],
            training_set=content["paper_training_set"],
            test_set=content["paper_test_set"],
            rows=rows,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: {error!r}; expected the keys of conf/table5.yaml in every row") from error


def read_run(exp_dir: Path, corpus: CorpusCard) -> Measured:
    """Read what an evaluated run achieved on the headline list of ``corpus``.

    Raises:
        RecipeError: the run was not evaluated, or on another corpus or other scores than those that lie there now.
    """
    path = exp_dir / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
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
    roc = roc_steps(scores, trials.is_target)
    if equal_error_rate(roc).rate != system["eer"]:
        raise RecipeError(
            f"{path}: EER {system['eer']}, but {trials.path} has {equal_error_rate(roc).rate}; evaluate the run again "
            f"(run.sh --stage 5 --exp_dir {exp_dir})"
        )
    return Measured(
        system=system,
        trials=trials,
        trained=LossCard(**training["loss"]),
        amount=f"{training['num_samples']:,} samples, {training['minutes']:.1f} minutes",
        roc=roc,
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


def table5(table: Table, results: list[Measured | None], corpus: CorpusCard) -> str:
    """The table in Markdown, with the corpus in its title, its columns and its notes."""
    paper_fars = list(table.rows[0].paper_tar)
    header = ["loss", "α", "s", "m", f"{corpus.name}: EER"]
    header += [f"{corpus.name}: TAR@{far_name(far)}" for far in FARS]
    header += [f"paper, {table.test_set}: TAR@{far}" for far in paper_fars]
    lines = []
    for row, result in zip(table.rows, results, strict=True):
        measured = [NOT_TRAINED] * (1 + len(FARS)) if result is None else _measured_cells(result.system)
        alpha = "-" if row.card.alpha is None else f"{row.card.alpha:g}"
        paper = [per_cent(row.paper_tar[far]) for far in paper_fars]
        mark = f" {DIFFERS}" if _differs(row, result) else ""
        lines.append([row.card.name + mark, alpha, f"{row.card.scale:g}", f"{row.card.margin:g}", *measured, *paper])
    parts = [
        f"# The losses of Table 5 on {corpus.name}",
        corpus.description,
        f"> **Mind:** {corpus.caveat}" if corpus.caveat else "",
        f"Columns `{corpus.name}`: measured here, list {corpus.headline} ({_counts(results)}). Columns `paper`: "
        f"{table.paper}, trained on {table.training_set}, tested on {table.test_set}. Figures of different corpora "
        "cannot be compared with each other. All figures in per cent; TAR@x is the largest TAR at a false-accept rate "
        "of at most x.",
        markdown_table(header, lines),
        _notes(table, results),
        f"![DET curves on {corpus.name}](det_table5.png)",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _measured_cells(system: Mapping[str, Any]) -> list[str]:
    points = [system["tar_at_far"][far_name(far)] for far in FARS]
    tars = [NOT_MEASURABLE if point is None else per_cent(point["tar"]) for point in points]
    return [per_cent(system["eer"]), *tars]


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


def _counts(results: list[Measured | None]) -> str:
    roc = next(result.roc for result in results if result is not None)
    return f"{roc.num_targets:,} target and {roc.num_nontargets:,} non-target trials"


def write_table5(table: Table, results: list[Measured | None], corpus: CorpusCard, folder: Path) -> str:
    """Write ``table5.md`` and ``det_table5.png``/``.pdf`` into ``folder``; returns the Markdown."""
    text = table5(table, results, corpus)
    systems = {
        f"{row.card}{f' {DIFFERS}' if _differs(row, result) else ''}": result.roc
        for row, result in zip(table.rows, results, strict=True)
        if result is not None
    }
    title = f"The losses of Table 5 on {corpus.name}: {corpus.headline}"
    save_figure(det_figure(systems, title, _counts(results)), folder / "det_table5")
    write_text(folder / "table5.md", text)
    return text
