"""Options of ``speakers``: :meth:`wespeaker_qm.enrolment.store.SpeakerStore.speakers`."""

import argparse

from wespeaker_qm.bin.chosen_store import add_store
from wespeaker_qm.enrolment.answers import print_speakers
from wespeaker_qm.enrolment.store import SpeakerStore

HELP = "list who is enrolled in a store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm speakers``."""
    parser.add_argument("--json", action="store_true", help="print a line of JSON a speaker, with all recordings")
    add_store(parser)


def run(args: argparse.Namespace) -> None:
    """Print a line a speaker."""
    print_speakers(SpeakerStore(args.store), as_json=args.json)
