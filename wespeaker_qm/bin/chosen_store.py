"""The option of the programs that use a store of speakers."""

import argparse
from pathlib import Path


def add_store(parser: argparse.ArgumentParser) -> None:
    """Declare ``--store``."""
    parser.add_argument(
        "--store",
        type=Path,
        metavar="FILE",
        help="SQLite file of enrolled speakers (default: WESPEAKER_QM_STORE, else wespeaker_qm/speakers.sqlite in "
        "XDG_DATA_HOME or ~/.local/share)",
    )
