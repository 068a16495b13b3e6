"""Benchmarks on the user's machine; each is a subcommand of this one."""

import argparse
import logging

from wespeaker_qm.bench import head

logger = logging.getLogger(__name__)

HELP = "measure on this machine: head, the sparse losses beside dense ones"

_HEAD_HELP = (
    "time and memory of the sparse head beside CosFace, ArcFace and bisection, with the ratios that it is to keep"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmarks and their options."""
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    head_parser = benchmarks.add_parser("head", help=_HEAD_HELP, description=_HEAD_HELP)
    head_parser.add_argument("--rounds", type=int, default=9, metavar="N", help="times each is timed (default: 9)")
    head_parser.add_argument(
        "--quick",
        action="store_true",
        help="5,994 and 17,982 classes only; the full benchmark goes up to 1,000,000 and takes 6 GiB of memory",
    )
    head_parser.add_argument(
        "--keep_pages",
        action="store_true",
        help="let the allocator keep freed memory in all rows, not only in the large ones (glibc); dense heads gain",
    )


def run(args: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    logger.info(
        "%s", head.head_report(head.QUICK if args.quick else head.FULL, args.rounds, keep_pages=args.keep_pages)
    )
