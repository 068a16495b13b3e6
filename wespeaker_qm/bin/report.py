"""Options of the report, :func:`wespeaker_qm.stages.reporting.report`."""

import argparse
from pathlib import Path

from wespeaker_qm.stages.reporting import BASE, report
from wespeaker_qm.utils.layout import DataFolder, ExpRoot, RunFolder

HELP = (
    "one self-contained report.html of a run or a set of runs: tables, DET curves, threshold explorer, hardest errors"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=DataFolder, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--exp_dir", type=RunFolder, nargs="+", metavar="DIR", help="evaluated runs; the report goes into the first"
    )
    place.add_argument(
        "--exp_root", type=ExpRoot, metavar="DIR", help="folder of the runs of Table 5, with table5.json; it goes there"
    )
    parser.add_argument(
        "--base",
        type=Path,
        default=BASE,
        metavar="FILE",
        help="configuration that a single run is compared with (default: conf/resnet34.yaml)",
    )


def run(args: argparse.Namespace) -> None:
    """Write report.html."""
    report(data=args.data, runs=args.exp_root or args.exp_dir, base=args.base)
