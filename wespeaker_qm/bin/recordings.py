"""Options of the programs that read recordings that a list names."""

import argparse

from wespeaker_qm.utils.arguments import FRACTION


def add_bad_fraction(parser: argparse.ArgumentParser) -> None:
    """Declare ``--max_bad_fraction``."""
    parser.add_argument(
        "--max_bad_fraction",
        type=FRACTION,
        default=0.0,
        metavar="FRACTION",
        help="of the recordings that may be missing or unusable, and are left out (default: 0)",
    )
