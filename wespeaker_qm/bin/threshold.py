"""The threshold for a wanted false-accept rate, and how sure it is."""

import argparse
import logging
import math
from decimal import Decimal
from pathlib import Path

from wespeaker_qm.bin.resampling import add_labels, add_resampling
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import TAR_AT_FAR, THRESHOLD_AT_FAR, wanted_figures
from wespeaker_qm.evaluate.metrics import evaluate_systems
from wespeaker_qm.evaluate.operating_points import OperatingPoint, trials_to_measure
from wespeaker_qm.evaluate.results import Resampling
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.report.text import counts, intervals_note, per_cent, show_figure
from wespeaker_qm.trials.systems import read_systems
from wespeaker_qm.utils.arguments import RATE

logger = logging.getLogger(__name__)

HELP = "the threshold for a wanted false-accept rate, with its interval and the trials it rests on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("scores", type=Path, metavar="FILE", help="score file, as for wespeaker-qm metrics")
    parser.add_argument("--far", nargs="+", type=RATE, required=True, metavar="RATE", help="wanted, e.g. 1e-4")
    add_labels(parser)
    add_resampling(parser)


def run(args: argparse.Namespace) -> None:
    """Print a line a rate."""
    trials, scores, speakers = read_systems({"scores": args.scores}, args.trials, args.utt2spk)
    resampling = Resampling("speaker", args.num_resamples, args.seed) if args.num_resamples and speakers else None
    result = evaluate_systems(
        trials,
        scores,
        {"scores": wanted_figures(fars=args.far, tars=(), p_targets=())},
        speakers,
        resampling=resampling,
        progress="intervals",
    )
    system = result.systems["scores"]
    rows = []
    for far in dict.fromkeys(args.far):
        figure, threshold = Figure(TAR_AT_FAR, far), Figure(THRESHOLD_AT_FAR, far)
        point = system.readings[figure]
        tar = show_figure(figure, system.value(figure), system.sureness(figure))
        if not isinstance(point, OperatingPoint):
            rows.append([figure.rate_name, tar, "", "", f"takes {trials_to_measure(far):,} non-target trials"])
            continue
        rows.append(
            [
                figure.rate_name,
                show_figure(threshold, point.threshold, system.sureness(threshold)),
                _far_per_cent(point.far, far),
                tar,
                f"{point.false_accepts:,} of {result.num_nontargets:,}",
            ]
        )
    header = ["FAR at most", "threshold", "FAR %", "TAR %", "false accepts"]
    logger.info("%s.\n\n%s\n\n%s", counts(result), markdown_table(header, rows), intervals_note(result))
    logger.info(
        "Accept a trial when its score is at least the threshold. It was chosen on these trials: on others the "
        "false-accept rate is another; mind the interval, and leave room for it."
    )


def _far_per_cent(far: float, most: float) -> str:
    """A false-accept rate in per cent: four decimals, more where three digits or the limit ``most`` take them.

    >>> _far_per_cent(1 / 99, 0.0102), _far_per_cent(1.49e-7, 1e-6), _far_per_cent(0.0, 1e-3)
    ('1.0101', '0.0000149', '0.0000')
    >>> _far_per_cent(0.012345678, 0.01234568)  # 1.2346 would be above the limit
    '1.234568'
    """
    digits = max(4, -math.floor(math.log10(far))) if far > 0 else 4
    while digits < 17 and Decimal(per_cent(far, digits)) > 100 * Decimal(repr(most)):
        digits += 1
    return per_cent(far, digits)
