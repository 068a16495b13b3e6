"""The rows of Table 5: what the paper says of each, and what the run of each achieved here.

The rows are ``conf/table5.yaml``; each is a run whose ``metrics.json`` and headline scores are read.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps
from wespeaker_qm.evaluate.results import TRAINED
from wespeaker_qm.report.evaluation import CorpusCard
from wespeaker_qm.report.loss_card import LossCard
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.systems import refuse_copies
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.checksums import read_checked_json
from wespeaker_qm.utils.errors import RecipeError, counted, shown
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
    """What one run achieved on the headline list, and on others of the same trials."""

    trials: TrialTable
    """The headline list; the others have the same trials."""
    trained: LossCard
    """The loss as it was trained here."""
    num_samples: int
    """Of training."""
    minutes: float
    """Of training."""
    scores: dict[str, NDArray[np.float64]]
    """Trial list -> (N,) of the trained system."""


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


def read_measured(run: RunFolder, corpus: CorpusCard, lists: Sequence[str]) -> Measured:
    """Read what an evaluated run achieved on the headline list of ``corpus`` and on the other ``lists``.

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
        num_samples, minutes = int(training["num_samples"]), float(training["minutes"])
        recorded = {name: float(metrics["trial_lists"][name]["systems"][TRAINED]["eer"]) for name in lists}
        str(trained)  # which takes numbers
    except (LookupError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{path}: found {shown(metrics)} ({type(error).__name__}: {error}), expected the figures of an evaluation; "
            f"delete it and {again}"
        ) from error
    trials: dict[str, TrialTable] = {}
    scores: dict[str, NDArray[np.float64]] = {}
    for name in lists:
        trials[name], scores[name], _ = read_scores(run.scores(name))
        eer = equal_error_rate(roc_steps(scores[name], trials[name].is_target)).rate
        if eer != recorded[name]:
            raise RecipeError(f"{path}: EER {recorded[name]}, but {trials[name].path} has {eer}; {again}")
        _refuse_other_trials(trials[name], trials[corpus.headline])
    return Measured(
        trials=trials[corpus.headline], trained=trained, num_samples=num_samples, minutes=minutes, scores=scores
    )


def collect(
    table: Table5, roots: Sequence[ExpRoot], corpus: CorpusCard, lists: Sequence[str], partial: bool = False
) -> list[list[Measured]]:
    """Read the runs of every row.

    Args:
        table: the rows.
        roots: folders of the runs; several hold the same runs with other seeds.
        corpus: that the runs are of.
        lists: the headline and others of the same trials.
        partial: let a row, or a seed of it, that was not trained yet be left out.

    Returns:
        Of each row its runs, in the order of ``roots``.

    Raises:
        RecipeError: runs are missing (each is named with the command that makes it), or all of them are; those of a row
            are no seeds of one training.
    """
    runs = [[root.run(row.run) for root in roots] for row in table.rows]
    there = [[run for run in of_row if run.metrics.is_file()] for of_row in runs]
    missing = [
        (run, f"--loss {row.loss} --exp_dir {run}{f' --overrides seed={number}' if number > 1 else ''}")
        for row, of_row in zip(table.rows, runs, strict=True)
        for number, run in enumerate(of_row, 1)
        if not run.metrics.is_file()
    ]
    if missing and (not partial or not any(there)):
        commands = "".join(f"\n  {run}: ./run.sh {options}" for run, options in missing)
        of = f"of {len(table.rows) * len(roots)} runs of Table 5"
        raise RecipeError(
            f"{counted(len(missing), f'{of} has', f'{of} have')} no metrics.json. Train and evaluate them "
            "(`./run.sh --table5 true` does all), or give --partial true for the table without them:"
            f"{commands}"
        )
    results = [[read_measured(run, corpus, lists) for run in of_row] for of_row in there]
    first, *others = [result.trials for of_row in results for result in of_row]
    for trials in others:
        _refuse_other_trials(trials, first)
    for row, of_row, found in zip(table.rows, results, there, strict=True):
        _refuse_no_seeds(row, dict(zip(map(str, found), of_row, strict=True)), corpus.headline)
    return results


def _refuse_other_trials(trials: TrialTable, expected: TrialTable) -> None:
    if not trials.same_trials(expected):
        raise RecipeError(
            f"{trials.path}: not the trials of {expected.path}; score and evaluate all rows on the same list "
            "(run.sh --table5 true --stage 5)"
        )


def _refuse_no_seeds(row: Table5Row, runs: Mapping[str, Measured], headline: str) -> None:
    """Runs of a row must be one loss, trained again: not a copy, nor another setting."""
    for (one, first), (two, second) in itertools.combinations(runs.items(), 2):
        if first.trained != second.trained:
            raise RecipeError(
                f"{two}: trained as {second.trained}, but {one} as {first.trained}; expected runs that differ in their "
                "seed"
            )
    refuse_copies(str(row.card), {Path(name): run.scores[headline] for name, run in runs.items()})
