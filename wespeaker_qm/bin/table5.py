"""Table 5: the six losses of the paper on this corpus, beside the paper's figures."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.metrics import Resampling
from wespeaker_qm.report.markdown import CorpusCard
from wespeaker_qm.report.table5 import collect, read_table, write_table5
from wespeaker_qm.score.upstream import refuse_stale
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.lock import lock_for_writing, unlock
from wespeaker_qm.utils.ownership import claim, refuse_foreign
from wespeaker_qm.utils.tables import read_map

logger = logging.getLogger(__name__)

OUTPUTS = ("table5.md", "table5.tex", "table5.json", "det_table5.png", "det_table5.pdf")

HELP = "collect the runs of the paper's Table 5 into one table and one DET figure (run.sh --table5)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--table", type=Path, default=Path("conf/table5.yaml"), metavar="FILE", help="the rows")
    parser.add_argument("--data", type=Path, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_root",
        type=Path,
        metavar="DIR",
        help="folder of the runs, e.g. exp/mini; table5.md, .tex and .json, det_table5.png and .pdf go here",
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
    table = read_table(args.table)
    if args.list_losses:
        for row in table.rows:
            print(row.loss)  # not a log line: run.sh reads it
        return
    if args.data is None or args.exp_root is None:
        raise RecipeError("table5: --data and --exp_root are needed, e.g. --data data/mini --exp_root exp/mini")
    outputs = [args.exp_root / name for name in OUTPUTS]
    was_reported = (args.exp_root / ".done" / "report").is_file()  # report.html is made of the table
    refuse_foreign(args.exp_root, outputs, made_before=was_reported)
    lock_for_writing(args.exp_root)
    claim(args.exp_root, outputs, made_before=was_reported)
    info = CorpusInfo.load(args.data)
    corpus = CorpusCard(name=info.name, description=info.description, caveat=info.caveat, headline=info.headline)
    results = collect(table, args.exp_root, corpus, args.partial)
    for row in table.rows:
        refuse_stale(args.exp_root / row.run, args.data, info)
    speaker = read_map(args.data / info.trials[info.headline] / "utt2spk")
    resampling = Resampling("speaker", args.num_resamples, args.seed) if args.num_resamples else None
    text = write_table5(table, results, corpus, args.exp_root, speaker=speaker, resampling=resampling)
    unlock(args.exp_root, writer=True)
    logger.info("%s", text)
    logger.info("table: %s, figure: %s", args.exp_root / "table5.md", args.exp_root / "det_table5.png")
