"""Options of Table 5, :func:`wespeaker_qm.stages.table5.collect_table5`."""

import argparse
from pathlib import Path

from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.report.table5_rows import read_table
from wespeaker_qm.stages.table5 import TABLE, collect_table5
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, ExpRoot

HELP = "collect the runs of the paper's Table 5 into one table and one DET plot (run.sh --table5)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE", help="the rows")
    parser.add_argument("--data", type=DataFolder, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_root",
        type=ExpRoot,
        nargs="+",
        metavar="DIR",
        help="folder of the runs, e.g. exp/mini; table5.md, .tex and .json, det_table5.png and .pdf go here; further "
        "folders hold the same runs with other seeds (run.sh --table5 true --exp_root DIR --overrides seed=2)",
    )
    parser.add_argument(
        "--partial",
        type=true_or_false,
        default=False,
        metavar="BOOL",
        help="true: show rows that were not trained yet as such, instead of stopping (default: false)",
    )
    parser.add_argument(
        "--list_losses",
        type=true_or_false,
        default=False,
        metavar="BOOL",
        help="true: only print the loss overlay of each row (default: false)",
    )
    add_resampling(parser)


def run(args: argparse.Namespace) -> None:
    """Collect the runs, write and print the table; or list the overlays that it needs."""
    if args.list_losses:
        for row in read_table(args.table).rows:
            print(row.loss)  # not a log line: run.sh reads it
        return
    if args.data is None or args.exp_root is None:
        raise RecipeError("table5: --data and --exp_root are needed, e.g. --data data/mini --exp_root exp/mini")
    collect_table5(
        data=args.data,
        exp_root=args.exp_root,
        table=args.table,
        partial=args.partial,
        num_resamples=args.num_resamples,
        seed=args.seed,
    )
