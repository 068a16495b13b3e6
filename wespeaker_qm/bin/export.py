"""Options of stage 8, :mod:`wespeaker_qm.stages.exporting` and :mod:`wespeaker_qm.stages.exporting_onnx`."""

import argparse

from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.stages.exporting import export
from wespeaker_qm.stages.exporting_onnx import export_onnx
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import LATEST_MODEL, DataFolder, RunFolder

HELP = "write the model as a folder that can be copied and used without the corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm export``."""
    parser.add_argument("--data", type=DataFolder, required=True, help="corpus it was evaluated on, e.g. data/mini")
    parser.add_argument(
        "--exp_dir", type=RunFolder, required=True, help="trained run; its model/ and model.zip are written"
    )
    add_resampling(parser)
    parser.add_argument(
        "--onnx",
        type=true_or_false,
        metavar="BOOL",
        help="model/model.onnx, too, used without torch (default: true where onnx and onnxruntime are installed)",
    )
    parser.add_argument(
        "--features",
        choices=("outside", "inside"),
        default="outside",
        help="where the ONNX file's features are computed: outside its graph, as for sherpa-onnx and WeSpeaker, or "
        "inside, so that it takes waveforms (default: outside)",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="model/model.int8.onnx, too, with convolutions in 8 bits; says what that costs on the headline list",
    )


def run(args: argparse.Namespace) -> None:
    """Write it, and note it as the one that ``embed`` and ``verify`` take by default."""
    if args.int8 and args.onnx is False:
        raise RecipeError("--int8 beside --onnx false: expected one or the other; it is an ONNX file in 8 bits")
    export(data=args.data, run=args.exp_dir, num_resamples=args.num_resamples, seed=args.seed, latest=LATEST_MODEL)
    if args.onnx is not False:
        is_asked_for = args.onnx or args.int8
        export_onnx(
            data=args.data, run=args.exp_dir, features=args.features, int8=args.int8, if_possible=not is_asked_for
        )
