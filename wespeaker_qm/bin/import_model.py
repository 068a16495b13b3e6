"""Options of ``import``, :func:`wespeaker_qm.stages.importing.import_model`."""

import argparse
from pathlib import Path

from wespeaker_qm.bin.chosen_model import add_device
from wespeaker_qm.bin.recordings import add_bad_fraction
from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.stages.importing import IMPORTED, import_model

HELP = "make a model folder of a network that WeSpeaker trained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm import``."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="WESPEAKER_DIR",
        help="config.yaml and models/avg_model.pt, or avg_model.pt beside config.yaml",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"model folder to write (default: {IMPORTED}/<name of WESPEAKER_DIR>)"
    )
    parser.add_argument(
        "--trials",
        type=Path,
        metavar="FILE",
        help="trial list of yours, `enrolment test target|nontarget` or `1|0 enrolment test`, to measure thresholds "
        "and a calibration on; without one there are scores and no decisions",
    )
    parser.add_argument("--wav_root", type=Path, metavar="DIR", help="the names in --trials are recordings below it")
    parser.add_argument(
        "--utt2spk",
        type=Path,
        metavar="FILE",
        help="recording and speaker a line, for intervals; not needed where names begin with the speaker and a slash",
    )
    add_bad_fraction(parser)
    add_device(parser)
    add_resampling(parser)


def run(args: argparse.Namespace) -> None:
    """Write the model folder."""
    import_model(
        model=args.folder,
        out=args.out,
        trials=args.trials,
        wav_root=args.wav_root,
        utt2spk=args.utt2spk,
        device=args.device,
        max_bad_fraction=args.max_bad_fraction,
        num_resamples=args.num_resamples,
        seed=args.seed,
    )
