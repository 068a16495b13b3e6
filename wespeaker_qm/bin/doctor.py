"""Options of ``doctor``: :func:`wespeaker_qm.utils.doctor.examine`."""

import argparse
from pathlib import Path

from wespeaker_qm.speaker.default import default_model
from wespeaker_qm.utils.doctor import examine
from wespeaker_qm.utils.errors import RecipeError

HELP = "what this machine has and lacks, and how to get it: for an issue"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Has none of its own."""


def run(args: argparse.Namespace) -> None:
    """Print a line for each thing."""
    for line in examine(Path()):
        print(line)
    try:
        print(f"default model: {default_model()}")
    except RecipeError as error:
        print(f"default model: {error}")
