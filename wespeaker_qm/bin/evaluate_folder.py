"""Options of ``evaluate-folder``, :func:`wespeaker_qm.stages.evaluating_folder.evaluate_folder`."""

import argparse

from wespeaker_qm.bin.recordings import add_tree, tree_options
from wespeaker_qm.stages.evaluating_folder import EVALUATED, evaluate_folder

HELP = "evaluate a finished model on a tree of recordings, with report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm evaluate-folder``."""
    add_tree(
        parser,
        model="model folder, zip of one, or a folder with config.yaml and avg_model.pt",
        out=f"where scores and reports go (default: {EVALUATED}/<name of DIR>)",
    )


def run(args: argparse.Namespace) -> None:
    """From preparation to report."""
    evaluate_folder(**tree_options(args))
