"""report.html of one run, or of all runs of a corpus."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.report.page import write_report
from wespeaker_qm.report.runs import evaluated_baselines
from wespeaker_qm.report.table5 import read_written
from wespeaker_qm.score.upstream import digests, refuse_stale
from wespeaker_qm.trials.score_paths import score_path
from wespeaker_qm.utils.done import ABSENT, DoneMarker, file_digest
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.stage import begin, finish

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the code; raised when the page for the same results changes."""

HELP = (
    "one self-contained report.html of a run or a set of runs: tables, DET curves, threshold explorer, hardest errors"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--exp_dir", type=Path, nargs="+", metavar="DIR", help="evaluated runs; the report goes into the first"
    )
    place.add_argument(
        "--exp_root", type=Path, metavar="DIR", help="folder of the runs of Table 5, with table5.json; it goes there"
    )
    parser.add_argument(
        "--base",
        type=Path,
        default=Path("conf/resnet34.yaml"),
        metavar="FILE",
        help="configuration that a single run is compared with (default: conf/resnet34.yaml)",
    )


def run(args: argparse.Namespace) -> None:
    """Write it, unless nothing changed since the last run."""
    if args.exp_root is None:
        folders, table5 = args.exp_dir, None
    else:
        table5 = args.exp_root / "table5.json"
        if not table5.is_file():
            raise RecipeError(f"{table5}: no such file; collect the runs first (run.sh --table5 true --stage 5)")
        runs = read_written(table5)["runs"]
        folders = [args.exp_root / name for name in runs]
    output = (args.exp_root or folders[0]) / "report.html"
    info = CorpusInfo.load(args.data)
    for folder in folders:
        refuse_stale(folder, args.data, info)
    tables = [f"data/{name}/{table}" for name in info.sets() for table in ("utt2spk", "utt2dur", "wav.scp")]
    trials = [f"data/trials/{name}" for name in info.trials]
    sources = ["data/corpus.yaml", f"audio/{info.trials[info.headline]}", *trials, *tables]
    inputs: dict[str, object] = dict(digests(sources, output.parent, args.data))
    inputs |= {"base": file_digest(args.base), "table5": ABSENT if table5 is None else file_digest(table5)}
    for number, folder in enumerate(folders):
        names = {path.name.removesuffix(".npz") for path in (folder / "scores").glob("*.score*")}
        scores = (f"scores/{name}" for name in sorted(names) if name.endswith(".score"))
        files = digests(["metrics.json", "config.yaml", "train_log.jsonl", *scores], folder, args.data)
        inputs |= {f"run {number}: {name}": digest for name, digest in files.items()}
        for name, other in evaluated_baselines(folder).items():
            scores_of = f"scores/{score_path(other, info.headline).name}"
            inputs[f"run {number}: {name}"] = digests([scores_of], other, args.data)
    marker = DoneMarker(output.parent / ".done" / "report", inputs, [output], version=VERSION, checks_outputs=True)
    if not begin(marker, "report"):
        return
    write_report(folders, args.data, output, base=args.base, table5=table5)
    finish(marker)
    logger.info("report: %s (%.1f MB)", output, output.stat().st_size / 1e6)
