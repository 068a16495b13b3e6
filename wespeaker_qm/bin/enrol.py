"""Options of ``enrol``: :meth:`wespeaker_qm.enrolment.store.SpeakerStore.enrol`."""

import argparse

from wespeaker_qm.bin.chosen_model import add_model
from wespeaker_qm.bin.chosen_store import add_store
from wespeaker_qm.enrolment.answers import print_enrolment
from wespeaker_qm.enrolment.store import SpeakerStore
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.speaker.speaker import Speaker

HELP = "add recordings of a speaker to a store: all of them, or none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm enrol``."""
    parser.add_argument("name", metavar="NAME", help="of the speaker, who may be enrolled already")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="recordings of any format and rate; - for standard input"
    )
    parser.add_argument("--replace", action="store_true", help="forget the speaker's other recordings")
    add_store(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    """Enrol, and print who has what now."""
    model = Speaker.load(default_model(args.model), device=args.device)
    print_enrolment(SpeakerStore(args.store).enrol(args.name, args.files, model, replace=args.replace))
