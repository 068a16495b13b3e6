"""Options of ``forget``: :meth:`wespeaker_qm.enrolment.store.SpeakerStore.forget`."""

import argparse

from wespeaker_qm.bin.chosen_store import add_store
from wespeaker_qm.enrolment.answers import print_forgotten
from wespeaker_qm.enrolment.store import SpeakerStore

HELP = "delete a speaker from a store for good: no byte of name and voice stays in the file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm forget``."""
    parser.add_argument("name", metavar="NAME", help="of the speaker")
    add_store(parser)


def run(args: argparse.Namespace) -> None:
    """Forget, and print who that was."""
    print_forgotten(SpeakerStore(args.store).forget(args.name))
