"""Options of the second part of stage 4, :func:`wespeaker_qm.stages.extracting.extract`."""

import argparse

from wespeaker_qm.stages.extracting import extract
from wespeaker_qm.utils.arguments import COUNT, READERS, true_or_false
from wespeaker_qm.utils.layout import DataFolder, RunFolder

HELP = "extract embeddings of whole utterances"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm extract``."""
    parser.add_argument("--data", type=DataFolder, required=True, help="prepared and packed corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir", type=RunFolder, required=True, help="trained run; embeddings go to its embeddings/"
    )
    parser.add_argument(
        "--num_workers",
        type=READERS,
        metavar="N",
        help="processes that read audio ahead of the network (default: for a GPU one a core, up to 8; else 0, none)",
    )
    parser.add_argument(
        "--trim_silence",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="false: digital silence in utterances counts as audio, as in WeSpeaker (default: true)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="auto takes the GPU if there is one (default: the key device of the run's configuration)",
    )
    parser.add_argument(
        "--shared",
        metavar="DIR",
        help="of baselines: extract them once in DIR for all runs of which they are the same, and copy them from there",
    )
    system = parser.add_mutually_exclusive_group()
    system.add_argument(
        "--model",
        type=RunFolder,
        help="finished model to evaluate in EXP_DIR: a folder with config.yaml and avg_model.pt, which are copied",
    )
    system.add_argument(
        "--epoch",
        dest="system",
        type=COUNT,
        metavar="N",
        help="use models/model_N.pt instead of the average; write to EXP_DIR/model_N, for a look at how a run develops",
    )
    system.add_argument(
        "--untrained",
        dest="system",
        action="store_const",
        const="untrained",
        help="use a network like the run's with random weights; write to EXP_DIR/untrained",
    )
    system.add_argument(
        "--initial",
        dest="system",
        action="store_const",
        const="initial",
        help="use the weights that the training began with, where model_init names some; write to EXP_DIR/initial",
    )
    system.add_argument(
        "--ltas",
        dest="system",
        action="store_const",
        const="ltas",
        help="use long-term average spectra: no network, and no run needed in EXP_DIR",
    )


def run(args: argparse.Namespace) -> None:
    """Embed every set that scoring needs."""
    extract(
        data=args.data,
        run=args.exp_dir,
        system=args.system or "average",
        model=args.model,
        num_workers=args.num_workers,
        trim_silence=args.trim_silence,
        device=args.device,
        shared=args.shared,
    )
