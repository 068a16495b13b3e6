"""Options of ``embed``: embeddings of recordings, without a corpus."""

import argparse

from wespeaker_qm.bin.chosen_model import add_model
from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.speaker.embedding_files import embed_files
from wespeaker_qm.speaker.speaker import BATCH, Speaker
from wespeaker_qm.utils.arguments import COUNT, number

HELP = "embeddings of recordings of any format and rate"
_LENGTH_S = number(0.01)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm embed``."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings; - for standard input")
    parser.add_argument(
        "--out",
        metavar="WHERE",
        help="X.npz, X.jsonl, or ark,scp:X for X.ark and X.scp (Kaldi); default: JSON lines on standard output",
    )
    parser.add_argument(
        "--window",
        type=_LENGTH_S,
        metavar="SECONDS",
        help="an embedding for each window of this length",
    )
    parser.add_argument(
        "--step", type=_LENGTH_S, metavar="SECONDS", help="from one window to the next (default: half a window)"
    )
    parser.add_argument(
        "--batch", type=COUNT, default=BATCH, metavar="N", help=f"recordings read at a time (default: {BATCH})"
    )
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    """Embed all files, or none."""
    embed_files(
        Speaker.load(default_model(args.model), device=args.device),
        args.files,
        out=args.out,
        window_s=args.window,
        step_s=args.step,
        batch=args.batch,
    )
