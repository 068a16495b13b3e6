"""The threshold for a wanted false-accept rate, and how sure it is."""

import argparse
import logging
import math
from decimal import Decimal
from pathlib import Path

from wespeaker_qm.bin.resampling import add_labels, add_resampling
from wespeaker_qm.evaluate.bootstrap import FigureSet
from wespeaker_qm.evaluate.metrics import (
    NOT_MEASURABLE,
    Resampling,
    evaluate_systems,
    markdown_table,
    per_cent,
    show_tar,
)
from wespeaker_qm.evaluate.operating_points import far_name, trials_to_measure
from wespeaker_qm.report.markdown import counts, intervals_note, show_threshold
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
        {"scores": FigureSet(fars=tuple(args.far), tars=(), p_targets=())},
        speakers,
        resampling=resampling,
        progress="intervals",
    )
    system = result.systems["scores"]
    rows = []
    for far, point in system.tar_at_far.items():
        name = far_name(far)
        if point is None:
            rows.append([name, NOT_MEASURABLE, "", "", f"takes {trials_to_measure(far):,} non-target trials"])
            continue
        rows.append(
            [
                name,
                show_threshold(point.threshold, system.sureness(f"threshold@FAR {name}")),
                _far_per_cent(point.far, far),
                show_tar(point, system.sureness(f"TAR@FAR {name}")),
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
