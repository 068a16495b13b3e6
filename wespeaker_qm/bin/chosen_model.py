"""Options of the programs that use a finished model."""

import argparse
from pathlib import Path


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare ``--model`` and ``--device``."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="model folder, zip of one, or .onnx in one (default: that of WESPEAKER_QM_MODEL, else what "
        "./run.sh has made last here)",
    )
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare ``--device``."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto (default) takes the GPU if there is one",
    )
