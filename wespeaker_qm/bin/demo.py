"""Options of ``demo``: :func:`wespeaker_qm.demo.serve.serve`."""

import argparse

from wespeaker_qm.bin.chosen_model import add_model
from wespeaker_qm.bin.chosen_store import add_store
from wespeaker_qm.demo.serve import HOST, PORT, serve
from wespeaker_qm.enrolment.store import SpeakerStore
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.arguments import whole_number

HELP = "a page in the browser: record or choose two recordings, enrol, identify; nothing leaves this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm demo``."""
    parser.add_argument(
        "--host", default=HOST, metavar="ADDRESS", help=f"listen there; by default to this machine alone ({HOST})"
    )
    parser.add_argument(
        "--port", type=whole_number(0, 65535), default=PORT, metavar="N", help=f"0: any free one (default: {PORT})"
    )
    add_store(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    """Serve the page until interrupted."""
    model = Speaker.load(default_model(args.model), device=args.device)
    serve(model, SpeakerStore(args.store), args.host, args.port)
