"""Options of :func:`wespeaker_qm.stages.verifying.verify_data`."""

import argparse
from pathlib import Path

from wespeaker_qm.stages.verifying import verify_data
from wespeaker_qm.utils.arguments import PROCESSES
from wespeaker_qm.utils.parallel import available_cpus

HELP = "read all files of corpora and runs: is each what was written, and do they fit together? (exit status 1: no)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DATA|EXP",
        help="prepared corpora, runs, or folders of runs, e.g. data/mini exp/mini; with the corpus of a run its scores "
        "are compared with the trial lists, too",
    )
    parser.add_argument(
        "--num_workers", type=PROCESSES, default=available_cpus(), help="processes that read (default: all cores)"
    )


def run(args: argparse.Namespace) -> int:
    """Print a line for each finding."""
    findings = verify_data(folders=args.folders, num_workers=args.num_workers)
    for finding in findings:
        print(finding)
    return 1 if findings else 0
