"""What the report says of one run: read from the files that the stages left in its folder."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.config import saved_settings
from wespeaker_qm.evaluate.operating_points import RocSteps, equal_error_rate, roc_steps
from wespeaker_qm.evaluate.results import TRAINED
from wespeaker_qm.report.training_history import TrainingHistory, read_training_history
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.trials.variants import VARIANTS, exists
from wespeaker_qm.utils.checksums import read_checked_json
from wespeaker_qm.utils.errors import RecipeError, found_at, shown
from wespeaker_qm.utils.layout import RunFolder


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredSystem:
    """One system on the headline list."""

    trials: TrialTable
    scores: NDArray[np.float64]
    """(N,)."""
    roc: RocSteps


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """An evaluated run."""

    folder: RunFolder
    name: str
    """As the report shows it: of the folder when it was evaluated, or :func:`distinct`."""
    metrics: dict[str, Any]
    """``metrics.json``."""
    config: dict[str, str]
    """Dotted key -> value of ``config.yaml``; empty where nothing was trained."""
    history: TrainingHistory | None
    systems: dict[str, ScoredSystem]
    """On the headline list: ``trained``, what stages 6 and 7 made of it, and the baselines."""

    @property
    def headline(self) -> dict[str, Any]:
        """The figures of the headline list."""
        result: dict[str, Any] = self.metrics["trial_lists"][self.metrics["corpus"]["headline"]]
        return result


def evaluated_baselines(folder: RunFolder) -> dict[str, RunFolder]:
    """Baseline -> its folder, as the run was evaluated; none where it was not."""
    baselines = read_metrics(folder, "baselines")["baselines"] if folder.metrics.is_file() else {}
    return {name: RunFolder(other) for name, other in baselines.items()}


def read_metrics(folder: RunFolder, *needed: str) -> dict[str, Any]:
    """Read ``metrics.json`` of an evaluated run, which has figures of the headline list and the ``needed`` keys.

    Raises:
        RecipeError: damaged, or another kind of file.
    """
    path = folder.metrics
    remedy = f"delete it and evaluate the run again (run.sh --stage 5 --exp_dir {folder})"
    metrics = read_checked_json(path, remedy)
    try:
        headline = metrics["trial_lists"][metrics["corpus"]["headline"]]
        is_whole = metrics.keys() >= set(needed) and "systems" in headline
    except (TypeError, KeyError, IndexError, AttributeError):
        is_whole = False
    if not is_whole:
        raise RecipeError(f"{path}: found {shown(metrics)}, expected the figures of an evaluation; {remedy}")
    return dict(metrics)


def read_run(folder: RunFolder) -> Run:
    """Read an evaluated run.

    Raises:
        RecipeError: it was not evaluated, by this version; or scores are missing, or others than were evaluated.
    """
    path = folder.metrics
    if not path.is_file():
        raise RecipeError(f"{path}: {found_at(path)}; evaluate the run first (run.sh --stage 5 --exp_dir {folder})")
    metrics = read_metrics(folder, "run", "baselines", "training", "provenance")
    headline = metrics["corpus"]["headline"]
    names = [name for name in (TRAINED, *VARIANTS) if name in metrics["trial_lists"][headline]["systems"]]
    if not {"resampling", "no_intervals"} <= metrics["trial_lists"][headline].keys():
        raise RecipeError(
            f"{path}: made by an older version; evaluate the run again (run.sh --stage 5 --exp_dir {folder})"
        )
    files = {name: folder.scores(headline, "" if name == TRAINED else name) for name in names}
    files |= {name: RunFolder(other).scores(headline) for name, other in metrics["baselines"].items()}
    systems = {}
    for name, file in files.items():
        if not exists(file):
            raise RecipeError(
                f"{file}: {found_at(file)}, expected the scores that {path} has figures of ({name}); evaluate the run "
                f"again (run.sh --stage 5 --exp_dir {folder})"
            )
        trials, scores, _ = read_scores(file)
        roc = roc_steps(scores, trials.is_target)
        figures = metrics["trial_lists"][headline]["systems"][name]
        # The run's own scores are known by its marker of the evaluation.
        if name in metrics["baselines"] and equal_error_rate(roc) != (figures["eer"], figures["eer_threshold"]):
            raise RecipeError(
                f"{path}: its figures of {name} are of other scores than {file} holds now; evaluate the run again "
                f"(run.sh --stage 5 --exp_dir {folder})"
            )
        systems[name] = ScoredSystem(trials, scores, roc)
    return Run(
        folder=folder,
        name=str(metrics["run"]),
        metrics=metrics,
        config=flat(saved_settings(folder.config)) if folder.config.is_file() else {},
        history=read_training_history(folder.training_log) if folder.training_log.is_file() else None,
        systems=systems,
    )


def distinct(runs: list[Run]) -> list[Run]:
    """Give runs names that differ: where two have the same, all are called by their folders, as these were given.

    Raises:
        RecipeError: a folder stands twice.
    """
    places = [run.folder.path.resolve() for run in runs]
    twice = [str(run.folder) for run, place in zip(runs, places, strict=True) if places.count(place) > 1]
    if twice:
        raise RecipeError(f"{', '.join(twice)}: one folder, expected each run once")
    if len({run.name for run in runs}) == len(runs):
        return runs
    return [dataclasses.replace(run, name=str(run.folder)) for run in runs]


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys of a nested mapping.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': '1', 'c': '[2]'}
    """
    result: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = str(value)
    return result


def config_differences(runs: list[Run], base: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Where configurations differ: header and rows.

    Of several runs the keys that are not the same in all; of one, the keys that are not those of ``base``.
    """
    trained = [run for run in runs if run.config]
    names, configs = [run.name for run in trained], [run.config for run in trained]
    if len(trained) == 1:
        names, configs = ["base", *names], [dict(base), *configs]
    keys = sorted({key for config in configs for key in config})
    rows = [[key, *(config.get(key, "") for config in configs)] for key in keys]
    return ["key", *names], [row for row in rows if len(set(row[1:])) > 1]
