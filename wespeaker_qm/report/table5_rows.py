"""The rows of Table 5: what the paper says of each, and what the run of each achieved here.

The rows are ``conf/table5.yaml``; each is a run whose ``metrics.json`` and headline scores are read.
"""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps
from wespeaker_qm.evaluate.results import TRAINED
from wespeaker_qm.report.evaluation import CorpusCard
from wespeaker_qm.report.loss_card import LossCard
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.checksums import read_checked_json
from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.layout import ExpRoot, RunFolder
from wespeaker_qm.utils.shipped import shipped
from wespeaker_qm.utils.yaml_files import read_yaml_mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table5Row:
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
class Table5:
    """``conf/table5.yaml``."""

    paper: str
    training_set: str
    test_set: str
    rows: list[Table5Row]


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


def read_table(path: Path | str) -> Table5:
    """Read the rows and the paper's values.

    Raises:
        RecipeError: the file is missing, not YAML, or lacks a key; two rows are one run, or have one name.
    """
    content = read_yaml_mapping(shipped(path))
    try:
        rows = [
            Table5Row(
                card=LossCard(name=row["name"], alpha=row["alpha"], scale=row["scale"], margin=row["margin"]),
                loss=Path(row["loss"]),
                paper_tar={float(far): value / 100 for far, value in row["paper_tar_per_cent"].items()},
            )
            for row in content["rows"]
        ]
        table = Table5(
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


def read_measured(run: RunFolder, corpus: CorpusCard) -> Measured:
    """Read what an evaluated run achieved on the headline list of ``corpus``.

    Raises:
        RecipeError: the run was not evaluated, or on another corpus or other scores than those that lie there now;
            its figures are no figures of an evaluation.
    """
    path = run.metrics
    again = f"evaluate the run again (run.sh --stage 5 --exp_dir {run})"
    metrics = read_checked_json(path, f"delete it and {again}")
    try:
        found = f"{metrics['corpus']['name']}/{metrics['corpus']['headline']}"
        if found != f"{corpus.name}/{corpus.headline}":
            raise RecipeError(f"{path}: figures of {found}, expected {corpus.name}/{corpus.headline}; {again}")
        training = metrics["training"]
        if training is None:
            raise RecipeError(f"{path}: says nothing of a training; a row of Table 5 is a run of stages 3 to 5")
        trained = LossCard(**training["loss"])
        amount = f"{training['num_samples']:,} samples, {training['minutes']:.1f} minutes"
        recorded = float(metrics["trial_lists"][corpus.headline]["systems"][TRAINED]["eer"])
        str(trained)  # which takes numbers
    except (LookupError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{path}: found {shown(metrics)} ({type(error).__name__}: {error}), expected the figures of an evaluation; "
            f"delete it and {again}"
        ) from error
    trials, scores, _ = read_scores(run.scores(corpus.headline))
    eer = equal_error_rate(roc_steps(scores, trials.is_target)).rate
    if eer != recorded:
        raise RecipeError(f"{path}: EER {recorded}, but {trials.path} has {eer}; {again}")
    return Measured(trials=trials, trained=trained, amount=amount, scores=scores)


def collect(table: Table5, exp_root: ExpRoot, corpus: CorpusCard, partial: bool = False) -> list[Measured | None]:
    """Read the run of every row.

    Args:
        table: the rows.
        exp_root: folder of the runs.
        corpus: that the runs are of.
        partial: let None stand for a row that was not trained yet.

    Raises:
        RecipeError: runs are missing (each is named with the command that makes it), or all of them are.
    """
    missing = [row for row in table.rows if not exp_root.run(row.run).metrics.is_file()]
    if missing and (not partial or len(missing) == len(table.rows)):
        commands = "".join(
            f"\n  {exp_root.run(row.run)}: ./run.sh --loss {row.loss} --exp_dir {exp_root.run(row.run)}"
            for row in missing
        )
        raise RecipeError(
            f"{len(missing)} of {len(table.rows)} rows of Table 5 have no metrics.json. Train and evaluate them "
            f"(`./run.sh --table5 true` does all), or give --partial true for the table without them:{commands}"
        )
    results = [None if row in missing else read_measured(exp_root.run(row.run), corpus) for row in table.rows]
    first, *others = [result.trials for result in results if result is not None]
    for trials in others:
        if not trials.same_trials(first):
            raise RecipeError(
                f"{trials.path}: not the trials of {first.path}; score and evaluate all rows on the same list "
                "(run.sh --table5 true --stage 5)"
            )
    return results
