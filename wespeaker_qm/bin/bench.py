"""Benchmarks on the user's machine; each is a subcommand of this one."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.bench.cuda_head import cuda_head_report
from wespeaker_qm.bench.enrolment import identification_report
from wespeaker_qm.bench.head import head_report
from wespeaker_qm.bench.head_plans import FULL, FULL_CUDA, QUICK, QUICK_CUDA
from wespeaker_qm.bench.loader import LoaderPlan, loader_report
from wespeaker_qm.bench.table4 import table4_report
from wespeaker_qm.bench.train import TrainPlan, train_report
from wespeaker_qm.config import load_config
from wespeaker_qm.utils.arguments import COUNT, READERS
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.parallel import available_cpus
from wespeaker_qm.utils.stage import reading

logger = logging.getLogger(__name__)

HELP = (
    "measure on this machine: head, the sparse losses beside dense ones; loader, training samples beside the network; "
    "train, the parts of a training step; identify, the search among enrolled speakers; table4, the paper's Table 4 "
    "with the heads of a GPU here"
)

_HEAD_HELP = (
    "time and memory of the sparse head beside CosFace, ArcFace and bisection, with the ratios that it is to keep"
)
_LOADER_HELP = (
    "time of a training sample by stage (read, change speed, augment, fbank), time that training waits for data, and "
    "how many samples a second the network consumes"
)
_TABLE4_HELP = (
    "samples a second that the paper's training on two million classes would reach with heads measured on this GPU, "
    "beside its Table 4; the rest of a step is the paper's"
)
_TRAIN_HELP = (
    "time of a training step by part (data, front end, network, head, optimiser) under this loss and under CosFace, "
    "samples a second, use of the device, and the first thing that limits it"
)
_IDENTIFY_HELP = "time of finding one of many enrolled speakers, in a store of random embeddings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmarks and their options."""
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    head_parser = benchmarks.add_parser("head", help=_HEAD_HELP, description=_HEAD_HELP)
    head_parser.add_argument("--rounds", type=COUNT, default=9, metavar="N", help="times each is timed (default: 9)")
    head_parser.add_argument(
        "--quick",
        action="store_true",
        help="a minute or two; on a CPU 5,994 and 17,982 classes only (else up to 1,000,000, in 6 GiB of memory), on a "
        "GPU the opponents that matter most",
    )
    head_parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="that computes: one thread of the CPU, or a GPU, up to 257,488 classes (default: cpu)",
    )
    head_parser.add_argument(
        "--keep_pages",
        action="store_true",
        help="let the allocator keep freed memory in all rows, not only in the large ones (glibc); dense heads gain",
    )
    head_parser.set_defaults(report=_head_report)

    loader_parser = benchmarks.add_parser("loader", help=_LOADER_HELP, description=_LOADER_HELP)
    loader_parser.add_argument(
        "--data", type=DataFolder, default=DataFolder("data/mini"), help="packed (default: %(default)s)"
    )
    loader_parser.add_argument(
        "--config", type=Path, nargs="+", default=[Path("conf/resnet34.yaml")], metavar="YAML",
        help="front end, network and loss (default: conf/resnet34.yaml)",
    )  # fmt: skip
    loader_parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="dotted overrides")
    loader_parser.add_argument(
        "--batch_size", type=COUNT, default=16, metavar="N", help="samples of a batch (default: 16, for a CPU's sake)"
    )
    loader_parser.add_argument("--rounds", type=COUNT, default=9, metavar="N", help="times each is timed (default: 9)")
    loader_parser.add_argument("--steps", type=COUNT, default=10, metavar="N", help="training steps (default: 10)")
    loader_parser.add_argument(
        "--num_workers", type=READERS, default=max(1, available_cpus() - 1), metavar="N",
        help="loader processes in these steps (default: all cores but one, %(default)s)",
    )  # fmt: skip
    loader_parser.set_defaults(report=_loader_report)

    train_parser = benchmarks.add_parser("train", help=_TRAIN_HELP, description=_TRAIN_HELP)
    train_parser.add_argument(
        "--data", type=DataFolder, metavar="FOLDER", help="packed; without it, noise that is in no file"
    )
    train_parser.add_argument(
        "--config", type=Path, nargs="+", default=[Path("conf/resnet34.yaml")], metavar="YAML",
        help="network, loss, batch and front end (default: conf/resnet34.yaml, of VoxCeleb)",
    )  # fmt: skip
    train_parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="dotted overrides")
    train_parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(default: the configuration's)")
    train_parser.add_argument(
        "--classes", type=COUNT, default=17982, metavar="N", help="without --data (default: 17982, of VoxCeleb2)"
    )
    train_parser.add_argument("--rounds", type=COUNT, default=5, metavar="N", help="turns of each head (default: 5)")
    train_parser.add_argument("--steps", type=COUNT, default=10, metavar="N", help="steps of a turn (default: 10)")
    train_parser.set_defaults(report=_train_report)

    identify_parser = benchmarks.add_parser("identify", help=_IDENTIFY_HELP, description=_IDENTIFY_HELP)
    identify_parser.add_argument(
        "--speakers", type=COUNT, default=100_000, metavar="N", help="enrolled speakers (default: 100000)"
    )
    identify_parser.add_argument(
        "--rounds", type=COUNT, default=9, metavar="N", help="times each is timed (default: 9)"
    )
    identify_parser.set_defaults(report=_identify_report)

    table4_parser = benchmarks.add_parser("table4", help=_TABLE4_HELP, description=_TABLE4_HELP)
    table4_parser.add_argument("--rounds", type=COUNT, default=9, metavar="N", help="times each is timed (default: 9)")
    table4_parser.set_defaults(report=_table4_report)


def _head_report(args: argparse.Namespace) -> str:
    if args.device == "cuda":
        return cuda_head_report(QUICK_CUDA if args.quick else FULL_CUDA, args.rounds)
    return head_report(QUICK if args.quick else FULL, args.rounds, keep_pages=args.keep_pages)


def _identify_report(args: argparse.Namespace) -> str:
    return identification_report(args.speakers, args.rounds)


def _table4_report(args: argparse.Namespace) -> str:
    return table4_report(args.rounds)


def _loader_report(args: argparse.Namespace) -> str:
    config = load_config(args.config, args.set)
    plan = LoaderPlan(config, args.data, args.batch_size, args.rounds, args.steps, args.num_workers)
    with reading(args.data):
        return loader_report(plan)


def _train_report(args: argparse.Namespace) -> str:
    overrides = [*args.set, *([] if args.device is None else [f"device={args.device}"])]
    config = load_config(args.config, overrides)
    plan = TrainPlan(config, args.data, args.classes, args.rounds, args.steps)
    if args.data is None:
        return train_report(plan)
    with reading(args.data):
        return train_report(plan)


def run(args: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    logger.info("%s", args.report(args))
