"""Figures of score files of any origin."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.bin.resampling import add_labels, add_resampling
from wespeaker_qm.evaluate.figures import wanted_figures
from wespeaker_qm.evaluate.metrics import evaluate_systems
from wespeaker_qm.evaluate.operating_points import FARS, P_TARGETS, TARS
from wespeaker_qm.evaluate.results import ListResult, Resampling
from wespeaker_qm.report.tables import figures_table
from wespeaker_qm.report.text import counts, intervals_note
from wespeaker_qm.trials.systems import read_systems
from wespeaker_qm.utils.arguments import RATE, true_or_false
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import refuse_figures, write_json

logger = logging.getLogger(__name__)

HELP = "EER, TAR@FAR, FAR@TAR, minDCF, Cllr of any score files, with intervals over speakers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "scores",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="`enrolment test score label`, WeSpeaker's 8 columns, or Kaldi's `enrolment test score` with --trials; "
        "several files are systems on the same trials",
    )
    add_labels(parser)
    parser.add_argument(
        "--far", nargs="+", type=RATE, default=FARS, metavar="RATE", help="false-accept rates of TAR@FAR"
    )
    parser.add_argument(
        "--tar", nargs="+", type=RATE, default=TARS, metavar="RATE", help="true-accept rates of FAR@TAR"
    )
    parser.add_argument("--p_target", nargs="+", type=RATE, default=P_TARGETS, metavar="P", help="priors of the DCF")
    parser.add_argument(
        "--llr",
        type=true_or_false,
        default=False,
        metavar="BOOL",
        help="true: scores are natural log-likelihood ratios; adds Cllr and actDCF (default: false)",
    )
    add_resampling(parser)
    parser.add_argument(
        "--by",
        choices=("speaker", "trial"),
        default="speaker",
        help="what is drawn; trial is too narrow, and there to show it (default: speaker)",
    )
    parser.add_argument("--det", type=Path, metavar="NAME", help="draw the DET curves into NAME.png and NAME.pdf")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE, rates as fractions")


def run(args: argparse.Namespace) -> None:
    """Read, measure, print."""
    names = [str(path) for path in args.scores]
    if len(set(names)) < len(names):
        raise RecipeError("a score file stands twice on the command line, expected each once")
    trials, scores, speakers = read_systems(dict(zip(names, args.scores, strict=True)), args.trials, args.utt2spk)
    wanted = wanted_figures(fars=args.far, tars=args.tar, p_targets=args.p_target, is_llr=args.llr)
    resampling = None
    if args.num_resamples and (speakers is not None or args.by == "trial"):
        resampling = Resampling(args.by, args.num_resamples, args.seed)
    result = evaluate_systems(
        trials, scores, dict.fromkeys(scores, wanted), speakers, resampling=resampling, progress="intervals"
    )
    logger.info("%s.\n\n%s\n\n%s", counts(result), figures_table(result.systems), intervals_note(result))
    if args.json is not None:
        write_json(args.json, result.to_json())
    if args.det is not None:
        _draw(result, args.det)


def _draw(result: ListResult, path: Path) -> None:
    from wespeaker_qm.report.det_plot import det_plot
    from wespeaker_qm.report.plotting import save_plot

    curves = {name: system.roc for name, system in result.systems.items()}
    bands = {name: system.band for name, system in result.systems.items()}
    refuse_figures(Path(f"{path}.{suffix}") for suffix in ("png", "pdf"))
    files = save_plot(det_plot(curves, path.name, counts(result), bands), path)
    logger.info("DET curves: %s", ", ".join(map(str, files)))
