"""Options of stage 2, :func:`wespeaker_qm.stages.packing.pack`."""

import argparse

from wespeaker_qm.packing.format import CODECS
from wespeaker_qm.stages.packing import pack
from wespeaker_qm.utils.arguments import COUNT, FRACTION, PROCESSES, SAMPLE_RATE_HZ, SECONDS, SEED
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.parallel import available_cpus

HELP = "pack audio, noise and impulse responses into shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm pack``."""
    parser.add_argument("--data", type=DataFolder, required=True, help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--codec", choices=CODECS, default="wav", help="wav is fastest, flac half as large (default %(default)s)"
    )
    parser.add_argument("--sample_rate", type=SAMPLE_RATE_HZ, default=16000, help="in Hz (default %(default)s)")
    parser.add_argument("--utterances_per_shard", type=COUNT, default=1000, help="default %(default)s")
    parser.add_argument("--seed", type=SEED, default=42, help="of the training set's order (default %(default)s)")
    parser.add_argument(
        "--num_workers", type=PROCESSES, default=available_cpus(), help="default: all cores, %(default)s"
    )
    parser.add_argument(
        "--min_duration", type=SECONDS, default=0.1, help="shorter speech, in s, is bad audio (default %(default)s)"
    )
    parser.add_argument(
        "--max_bad_fraction",
        type=FRACTION,
        default=0.0,
        help="fraction of a set's recordings that may be unreadable, silent or too short; they are left out and listed "
        "in <set>/bad_audio.tsv, more of them stops the stage (default %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Pack every set that the corpus names."""
    pack(
        data=args.data,
        codec=args.codec,
        sample_rate=args.sample_rate,
        utterances_per_shard=args.utterances_per_shard,
        seed=args.seed,
        num_workers=args.num_workers,
        min_duration_s=args.min_duration,
        max_bad_fraction=args.max_bad_fraction,
    )
