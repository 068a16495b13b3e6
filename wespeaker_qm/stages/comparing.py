"""Beside the stages: paired comparison of systems on the same trials, each one or several runs."""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES, Resamples, SortedTrials, resample
from wespeaker_qm.evaluate.comparison import Comparison, compare_all
from wespeaker_qm.evaluate.evidence import list_reason
from wespeaker_qm.evaluate.figure import Compared, Figure
from wespeaker_qm.evaluate.figures import figure_named, wanted_figures
from wespeaker_qm.evaluate.intervals import spread
from wespeaker_qm.evaluate.operating_points import FARS, P_TARGETS, TARS
from wespeaker_qm.report.tables import comparison_table, markdown_table
from wespeaker_qm.report.text import show_figure
from wespeaker_qm.trials.speakers import effective_speakers
from wespeaker_qm.trials.systems import read_systems, refuse_copies
from wespeaker_qm.utils.calls import AnyPath, listed, optional_path, paths
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import write_json

logger = logging.getLogger(__name__)


def compare(
    *,
    systems: Mapping[str, AnyPath | Sequence[AnyPath]],
    trials: AnyPath | None = None,
    utt2spk: AnyPath | None = None,
    figures: str | Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    json: AnyPath | None = None,
) -> list[Comparison]:
    """Resample all runs together, and log each system and all differences.

    Args:
        systems: name -> score files; several are runs of that system which differ in their seed.
        trials: the list that was scored; None takes trials and labels from the first score file.
        utt2spk: utterance and speaker a line; None takes the speakers from the folders in the names.
        figures: names of what to compare, e.g. ``EER`` or ``TAR@FAR 1e-3``, at any rate; None compares all usual ones
            that the trials can measure.
        num_resamples: of the speakers, at least 2.
        seed: of the resamples.
        json: write the comparisons to this file, rates as fractions.

    Raises:
        RecipeError: a score file is broken or stands twice, two runs of a system hold the same scores, the files do
            not hold the same trials; it is not known who speaks; an unknown figure, or one that cannot be measured.
    """
    if num_resamples == 0:
        raise RecipeError("--num_resamples: found 0, expected at least 2: a comparison needs resamples")
    runs_of = {name: paths(each) for name, each in systems.items()}
    _refuse_repeated_files(itertools.chain.from_iterable(runs_of.values()))
    files = {(name, number): file for name, each in runs_of.items() for number, file in enumerate(each)}
    labels = {f"{name} {number}": file for (name, number), file in files.items()}
    table, by_label, speakers = read_systems(labels, optional_path(trials), optional_path(utt2spk))
    scores = dict(zip(files, by_label.values(), strict=True))
    for name, each in runs_of.items():
        refuse_copies(name, {file: scores[name, number] for number, file in enumerate(each)})
    if speakers is None:
        raise RecipeError("it is not known who speaks: name the speakers of the utterances (--utt2spk)")
    wanted, compared = _figures(listed(figures or ()), int((~table.is_target).sum()))
    too_few = list_reason(effective_speakers(speakers, table.is_target))
    resampled = resample(
        [SortedTrials.of(values, table.is_target, wanted) for values in scores.values()],
        speakers,
        num_resamples=0 if too_few else num_resamples,
        seed=seed,
        progress="resamples",
    )
    runs: dict[str, list[Resamples]] = {name: [] for name in runs_of}
    for (name, _), run in zip(files, resampled, strict=True):
        runs[name].append(run)
    comparisons = compare_all(runs, compared)
    _tell(runs, compared, comparisons, too_few)
    if json is not None:
        write_json(Path(json), [comparison.to_json() for comparison in comparisons])
    return comparisons


def _refuse_repeated_files(files: Iterable[Path]) -> None:
    places = [file.resolve() for file in files]
    twice = [str(place) for place in dict.fromkeys(places) if places.count(place) > 1]
    if twice:
        raise RecipeError(f"{', '.join(twice)}: stands twice, expected each run once; its seed would count as two")


def _figures(names: Sequence[str], num_nontargets: int) -> tuple[tuple[Figure, ...], list[Figure]]:
    """What is measured, and what of it is compared: the figures that were asked for, or all that can be.

    Raises:
        RecipeError: an unknown name, or a figure that so many non-target trials cannot measure.
    """
    asked = {text: figure_named(text) for text in names}
    wanted = _wanted(filter(None, asked.values()))
    possible = [
        figure
        for figure in wanted
        if figure.kind.compared >= Compared.ON_REQUEST and figure.is_measurable(num_nontargets)
    ]
    unknown = [text for text, figure in asked.items() if figure not in possible]
    if unknown:
        expected = ", ".join(figure.name for figure in possible)
        raise RecipeError(f"--figures: found {', '.join(unknown)}, expected some of: {expected}")
    return wanted, [figure for figure in dict.fromkeys(asked.values()) if figure is not None] or possible


def _wanted(asked: Iterable[Figure]) -> tuple[Figure, ...]:
    """The usual figures, and those at the rates of the comparable figures that were ``asked`` for."""
    rates: dict[str, list[float]] = {"far": [*FARS], "tar": [*TARS], "p_target": [*P_TARGETS]}
    for figure in asked:
        is_comparable = figure.kind.compared >= Compared.ON_REQUEST
        if is_comparable and figure.kind.rate_of is not None and figure.rate is not None and 0 < figure.rate < 1:
            rates[figure.kind.rate_of].append(figure.rate)
    return wanted_figures(fars=rates["far"], tars=rates["tar"], p_targets=rates["p_target"])


def _tell(
    runs: dict[str, list[Resamples]], figures: list[Figure], comparisons: list[Comparison], too_few: str | None
) -> None:
    """Log the tables, and what to mind when reading them."""
    logger.info("%s", _systems_table(runs, figures))
    if comparisons:
        logger.info("\nDifferences, rates in per cent:\n\n%s", comparison_table(comparisons))
    single = [name for name, each in runs.items() if len(each) == 1]
    if comparisons and 0 < len(single) < len(runs):
        logger.info(
            "\nOne run of %s: its own interval leaves seeds out; in differences its seed is taken to vary as those of "
            "the other system.",
            ", ".join(single),
        )
    if too_few:
        logger.info("\nNo intervals and no p-values: %s.", too_few)


def _systems_table(systems: dict[str, list[Resamples]], figures: list[Figure]) -> str:
    """A line a figure, a column a system: the mean over its runs, its interval, and the deviation of the runs."""
    rows = []
    for figure in figures:
        cells = [figure.name]
        for runs in systems.values():
            each = spread(figure, runs)
            cell = show_figure(figure, each.estimate, each.reason if each.reason else each.interval())
            if len(runs) > 1:
                deviation = float(np.std([run.estimate(figure) for run in runs], ddof=1))
                cell += f", deviation of {len(runs)} runs {show_figure(figure, deviation)}"
            cells.append(cell)
        rows.append(cells)
    return markdown_table(["figure (rates in per cent)", *systems], rows)
