"""Options of ``identify``: :meth:`wespeaker_qm.enrolment.store.SpeakerStore.identify`."""

import argparse

from wespeaker_qm.bin.chosen_model import add_model
from wespeaker_qm.bin.chosen_store import add_store
from wespeaker_qm.enrolment.answers import print_identification
from wespeaker_qm.enrolment.store import FPIR, TOP, SpeakerStore
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.arguments import COUNT, RATE

HELP = "who of those enrolled a recording is of: exit status 0 one of them, 1 a stranger, 2 no answer"
FAILURE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm identify``."""
    parser.add_argument("file", metavar="FILE", help="recording of any format and rate; - for standard input")
    parser.add_argument(
        "--far",
        type=RATE,
        default=FPIR,
        metavar="RATE",
        help=f"share of strangers who may be taken for somebody, however many are enrolled (default: {FPIR:g})",
    )
    parser.add_argument("--top", type=COUNT, default=TOP, metavar="N", help=f"list the N nearest (default: {TOP})")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    add_store(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print who it is; the exit status says whether it is anybody."""
    model = Speaker.load(default_model(args.model), device=args.device)
    found = SpeakerStore(args.store).identify(args.file, model, far=args.far, top=args.top)
    print_identification(found, as_json=args.json)
    return FAILURE if found.decided_at.threshold is None else int(found.name is None)
