"""Options of ``verify``: :meth:`wespeaker_qm.speaker.speaker.Speaker.verify` of two recordings."""

import argparse

from wespeaker_qm.bin.chosen_model import add_model
from wespeaker_qm.speaker.answers import print_decision
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.arguments import RATE

HELP = "whether two recordings are of one speaker: exit status 0 yes, 1 no, 2 no answer"
FAILURE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm verify``."""
    parser.add_argument("one", type=str, metavar="FILE", help="recording of any format and rate; - for standard input")
    parser.add_argument("other", type=str, metavar="FILE", help="another")
    parser.add_argument(
        "--far", type=RATE, default=1e-3, metavar="RATE", help="share of impostors that may be accepted (default: 1e-3)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print the decision; the exit status says it, too."""
    decision = Speaker.load(default_model(args.model), device=args.device).verify(args.one, args.other, far=args.far)
    print_decision(decision, as_json=args.json)
    return FAILURE if decision.same is None else int(not decision.same)
