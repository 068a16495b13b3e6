"""Paired comparison of systems on the same trials, each one or several runs."""

import argparse
import itertools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.bin.resampling import add_labels, add_resampling
from wespeaker_qm.evaluate.bootstrap import Resamples, SortedTrials, resample
from wespeaker_qm.evaluate.comparison import compare_all
from wespeaker_qm.evaluate.evidence import list_reason
from wespeaker_qm.evaluate.figure import Compared, Figure
from wespeaker_qm.evaluate.figures import figure_named, wanted_figures
from wespeaker_qm.evaluate.intervals import spread
from wespeaker_qm.evaluate.operating_points import FARS, P_TARGETS, TARS
from wespeaker_qm.report.tables import comparison_table, markdown_table
from wespeaker_qm.report.text import show_figure
from wespeaker_qm.trials.speakers import effective_speakers
from wespeaker_qm.trials.systems import read_systems
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import write_json

logger = logging.getLogger(__name__)

HELP = "differences of systems on the same trials, with intervals and p-values; several seeds of one are averaged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "systems",
        nargs="+",
        type=_name_and_files,
        metavar="NAME=FILE[,FILE...]",
        help="a system and its score file; several files are runs of it that differ in their seed",
    )
    add_labels(parser)
    parser.add_argument(
        "--figures",
        nargs="+",
        metavar="NAME",
        help="what to compare, e.g. EER 'TAR@FAR 1e-3', at any rate (default: all that the trials can measure)",
    )
    add_resampling(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparisons to FILE, rates as fractions")


def _name_and_files(text: str) -> tuple[str, list[Path]]:
    name, equals, files = text.partition("=")
    if not (name and equals and files and all(files.split(","))):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=FILE or NAME=FILE,FILE,...")
    return name, [Path(file) for file in files.split(",")]


def run(args: argparse.Namespace) -> None:
    """Resample all runs together; print each system and all differences."""
    names = [name for name, _ in args.systems]
    if len(set(names)) < len(names):
        raise RecipeError(f"found the names {', '.join(names)}, expected each system once; join its files by commas")
    if args.num_resamples == 0:
        raise RecipeError("--num_resamples: found 0, expected at least 2: a comparison needs resamples")
    places = [file.resolve() for _, each in args.systems for file in each]
    twice = [str(place) for place in dict.fromkeys(places) if places.count(place) > 1]
    if twice:
        raise RecipeError(f"{', '.join(twice)}: stands twice, expected each run once; its seed would count as two")
    files = {f"{name} {number}": file for name, each in args.systems for number, file in enumerate(each)}
    trials, scores, speakers = read_systems(files, args.trials, args.utt2spk)
    for name, each in args.systems:
        _refuse_copies(name, {file: scores[f"{name} {number}"] for number, file in enumerate(each)})
    if speakers is None:
        raise RecipeError("it is not known who speaks: name the speakers of the utterances (--utt2spk)")
    asked = {text: figure_named(text) for text in args.figures or ()}
    wanted = _wanted(filter(None, asked.values()))
    num_nontargets = int((~trials.is_target).sum())
    possible = [
        figure
        for figure in wanted
        if figure.kind.compared >= Compared.ON_REQUEST and figure.is_measurable(num_nontargets)
    ]
    unknown = [text for text, figure in asked.items() if figure not in possible]
    if unknown:
        expected = ", ".join(figure.name for figure in possible)
        raise RecipeError(f"--figures: found {', '.join(unknown)}, expected some of: {expected}")
    figures = [figure for figure in dict.fromkeys(asked.values()) if figure is not None] or possible
    too_few = list_reason(effective_speakers(speakers, trials.is_target))
    runs = resample(
        [SortedTrials.of(values, trials.is_target, wanted) for values in scores.values()],
        speakers,
        num_resamples=0 if too_few else args.num_resamples,
        seed=args.seed,
        progress="resamples",
    )
    by_name = dict(zip(files, runs, strict=True))
    systems = {name: [by_name[f"{name} {number}"] for number in range(len(each))] for name, each in args.systems}
    logger.info("%s", _systems_table(systems, figures))
    comparisons = compare_all(systems, figures)
    if comparisons:
        logger.info("\nDifferences, rates in per cent:\n\n%s", comparison_table(comparisons))
    single = [name for name, each in systems.items() if len(each) == 1]
    if comparisons and 0 < len(single) < len(systems):
        logger.info(
            "\nOne run of %s: its own interval leaves seeds out; in differences its seed is taken to vary as those of "
            "the other system.",
            ", ".join(single),
        )
    if too_few:
        logger.info("\nNo intervals and no p-values: %s.", too_few)
    if args.json is not None:
        content = [comparison.to_json() for comparison in comparisons]
        write_json(args.json, content)


def _refuse_copies(name: str, runs: Mapping[Path, NDArray[np.float64]]) -> None:
    """Refuse one run under two names: as two seeds it would say that seeds make no difference."""
    for (one, first), (other, second) in itertools.combinations(runs.items(), 2):
        if np.array_equal(first, second):
            raise RecipeError(
                f"{name}: {one} and {other} hold the same scores, expected runs that differ in their seed; name one of "
                "them only"
            )


def _wanted(asked: Iterable[Figure]) -> tuple[Figure, ...]:
    """The usual figures, and those at the rates of the comparable figures that were ``asked`` for."""
    rates: dict[str, list[float]] = {"far": [*FARS], "tar": [*TARS], "p_target": [*P_TARGETS]}
    for figure in asked:
        is_comparable = figure.kind.compared >= Compared.ON_REQUEST
        if is_comparable and figure.kind.rate_of is not None and figure.rate is not None and 0 < figure.rate < 1:
            rates[figure.kind.rate_of].append(figure.rate)
    return wanted_figures(fars=rates["far"], tars=rates["tar"], p_targets=rates["p_target"])


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
