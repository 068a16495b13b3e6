"""What a core makes of training samples, stage by stage, and whether that keeps the network busy.

::

    stages of a batch, on one thread ------> ms a sample, samples/s a core
    batched fbank, torchaudio's, in turn --> ratio
    training steps, plain and channels-last, and embeddings with batch norm and with it folded, in turn --> ratios
    loader and training steps together ----> seconds waited for data
"""

import functools
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wespeaker_qm.audio.mel import INT16_SCALE
from wespeaker_qm.bench.child import in_child
from wespeaker_qm.bench.machine import machine_facts
from wespeaker_qm.bench.memory import MIB, private_bytes
from wespeaker_qm.bench.timing import Quartiles, in_turn, paired_ratios, quartiles
from wespeaker_qm.config import Config
from wespeaker_qm.dataset.loader import TrainingLoader
from wespeaker_qm.dataset.plan import BatchId, BatchPlan
from wespeaker_qm.dataset.training_set import TrainingSet, open_training_set
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.network.build import build_encoder, build_fbank
from wespeaker_qm.network.device import choose_device
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.train import build
from wespeaker_qm.utils.allocator import keep_freed_pages
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.progress import Progress

STAGES = ("read", "change speed", "augment", "fbank")


class LoaderPlan(NamedTuple):
    """What is measured.

    Attributes:
        config: front end, network and loss.
        data: a packed corpus.
        batch_size: samples of a batch.
        rounds: times that each is timed.
        steps: training steps for the time waited.
        num_workers: loader processes then.
    """

    config: Config
    data: DataFolder
    batch_size: int
    rounds: int
    steps: int
    num_workers: int


def loader_report(plan: LoaderPlan) -> str:
    """Measure, each table in a process of its own, and say how it went, in Markdown.

    Raises:
        RecipeError: a count below 1, or a corpus that is not packed.
    """
    for option, value in (("batch_size", plan.batch_size), ("rounds", plan.rounds), ("steps", plan.steps)):
        if value < 1:
            raise RecipeError(f"--{option}: found {value}, expected at least 1")
    parts = []
    with Progress(total=3, desc="bench loader", unit="table") as bar:
        times_ms, fbank_ratio = in_child(functools.partial(time_stages, plan))
        bar.update()
        consumed, step_ratio, folded_ratio = in_child(functools.partial(time_network, plan))
        bar.update()
        waited_s, step_s, worker_bytes = in_child(functools.partial(wait_for_data, plan))
        bar.update()
    parts.append(
        "\n".join(
            [
                *machine_facts(),
                "- each table in a process of its own; stages on one thread, the network on num_threads",
                f"- medians of {plan.rounds} rounds, batches of {plan.batch_size}; ratios of times taken in turn",
            ]
        )
    )
    read_ms, all_ms = times_ms["read"], sum(times_ms.values())
    rows = [[stage, f"{ms:.3f}", f"{1e3 / ms:,.0f}"] for stage, ms in times_ms.items()]
    rows.append(["all on a worker", f"{all_ms:.3f}", f"{1e3 / all_ms:,.0f}"])
    parts.append(markdown_table(["stage", "ms a sample", "samples/s a core"], rows))
    parts.append(
        markdown_table(
            ["ratio of times", "median", "quartiles"],
            [
                ["torchaudio's Kaldi fbank, a row at a time / ours", *_cells(fbank_ratio)],
                ["training step, contiguous / channels-last", *_cells(step_ratio)],
                ["embedding, batch norm / folded", *_cells(folded_ratio)],
            ],
        )
    )
    workers = max(plan.num_workers, 1)
    parts.append(
        f"This machine feeds {workers * 1e3 / all_ms:,.0f} samples/s from "
        f"{counted(workers, 'loader process that does all', 'loader processes that do all')}, "
        f"{workers * 1e3 / read_ms:,.0f} from as many that only read; {plan.config.model} here consumes "
        f"{consumed:,.1f} samples/s."
    )
    memory = "" if worker_bytes is None else f" A loader process has {worker_bytes / MIB:.0f} MiB to itself."
    parts.append(
        f"{plan.steps} training steps of {plan.batch_size} with "
        f"{counted(plan.num_workers, 'loader process', 'loader processes')}: waited "
        f"{1e3 * waited_s:.1f} ms a step of {1e3 * step_s:.0f} ms.{memory}"
    )
    return "\n\n".join(parts)


def _cells(ratio: Quartiles | None) -> list[str]:
    if ratio is None:
        return ["not for this network", ""]
    return [f"{ratio.median:.2f}", f"{ratio.lower:.2f} to {ratio.upper:.2f}"]


def _open(plan: LoaderPlan) -> tuple[TrainingSet, BatchPlan]:
    fbank = build_fbank(plan.config, dither=plan.config.dataset_args.fbank_args.dither)
    training = open_training_set(plan.config, plan.data, fbank)
    batches = BatchPlan(
        training.labels,
        sampler=plan.config.dataset_args.sampler,
        samples_per_epoch=plan.batch_size * max(2 * (plan.rounds + 1), plan.steps + 2),
        batch_size=plan.batch_size,
        seed=plan.config.seed,
        rank=0,
        world_size=1,
    )
    return training, batches


def time_stages(plan: LoaderPlan) -> tuple[dict[str, float], Quartiles]:
    """Stage -> median milliseconds a sample; and torchaudio's time for features over ours.

    Sets threads and allocator of this process.
    """
    import torchaudio.compliance.kaldi as kaldi  # type: ignore[import-untyped]

    torch.set_num_threads(1)
    keep_freed_pages()  # as loader processes do
    training, batches = _open(plan)
    frontend, args = training.frontend, plan.config.dataset_args.fbank_args
    times_ms: dict[str, list[float]] = {stage: [] for stage in STAGES}
    identifiers = list(itertools.islice(batches, plan.rounds + 1))
    for number, identifier in enumerate(identifiers):
        stage_ms = _stage_times(training, identifier)
        for stage, elapsed_ms in zip(STAGES, stage_ms, strict=True):
            if number:
                times_ms[stage].append(elapsed_ms / plan.batch_size)
    batch = training.chunks[identifiers[-1]]
    waveform = frontend.at_speed(batch)

    def rows_by_torchaudio() -> list[Tensor]:
        return [
            kaldi.fbank(
                row[None] * INT16_SCALE,
                num_mel_bins=args.num_mel_bins,
                frame_length=args.frame_length,
                frame_shift=args.frame_shift,
                dither=args.dither,
                sample_frequency=frontend.fbank.sample_rate,
                window_type="hamming",
            )
            for row in waveform
        ]

    compared = in_turn(
        {"torchaudio": rows_by_torchaudio, "ours": lambda: frontend.fbank(waveform, batch.dither_start)}, plan.rounds
    )
    medians = {stage: quartiles(times).median for stage, times in times_ms.items()}
    return medians, paired_ratios(compared["torchaudio"], compared["ours"])


@torch.no_grad()
def _stage_times(training: TrainingSet, identifier: BatchId) -> list[float]:
    """Milliseconds of each stage for one batch."""
    frontend = training.frontend
    clock = [time.perf_counter()]
    batch = training.chunks[identifier]
    clock.append(time.perf_counter())
    waveform = frontend.at_speed(batch)
    clock.append(time.perf_counter())
    waveform = frontend.augment(waveform, batch)
    clock.append(time.perf_counter())
    frontend.features(waveform, batch)
    clock.append(time.perf_counter())
    return [1e3 * (end - start) for start, end in itertools.pairwise(clock)]


def _training_step(plan: LoaderPlan, num_classes: int, *, channels_last: bool) -> Callable[[Tensor, Tensor], object]:
    """Forward, backward and update of a new network on the device of the training."""
    torch.manual_seed(plan.config.seed)
    device = choose_device(plan.config.device)
    encoder = build_encoder(plan.config).to(device)
    encoder = encoder.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    head = build.build_head(plan.config, ClassPartition(num_classes)).to(device)
    amp_dtype = build.amp_dtype(plan.config)
    if plan.config.compile:
        encoder.compile()
    optimizer = build.build_optimizer(plan.config, [*encoder.parameters(), *head.parameters()])

    def step(features: Tensor, label: Tensor) -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
            loss = head(encoder(features), label, 0.0).loss.mean()
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU

    return step


def time_network(plan: LoaderPlan) -> tuple[float, Quartiles | None, Quartiles]:
    """Samples a second of training; contiguous / channels-last time; batch norm / folded time.

    Sets the threads of this process.
    """
    args = plan.config.dataset_args
    if plan.config.num_threads is not None:
        torch.set_num_threads(plan.config.num_threads)
    device = choose_device(plan.config.device)
    features = torch.randn(plan.batch_size, args.num_frms, args.fbank_args.num_mel_bins, device=device)
    label = torch.arange(plan.batch_size, device=device)
    has_both = device.type != "cpu" or plan.config.model_args.cpu_channels_last_fault() is None
    steps = {
        name: functools.partial(_training_step(plan, plan.batch_size, channels_last=channels_last), features, label)
        for name, channels_last in (("contiguous", False), ("channels-last", True))[: 2 if has_both else 1]
    }
    times_ms = in_turn(steps, plan.rounds)
    encoder = build_encoder(plan.config).to(device).eval()
    without_norm = encoder.folded()

    @torch.inference_mode()
    def embed(network: torch.nn.Module) -> float:
        embedding: Tensor = network(features)
        return embedding.sum().item()

    compared = in_turn(
        {"norm": functools.partial(embed, encoder), "folded": functools.partial(embed, without_norm)}, plan.rounds
    )
    step_ratio = paired_ratios(times_ms["contiguous"], times_ms["channels-last"]) if has_both else None
    layout = "channels-last" if plan.config.channels_last else "contiguous"
    consumed = 1e3 * plan.batch_size / quartiles(times_ms[layout]).median
    return consumed, step_ratio, paired_ratios(compared["norm"], compared["folded"])


def wait_for_data(plan: LoaderPlan) -> tuple[float, float, int | None]:
    """Mean seconds waited in a step, mean seconds of a step, and the most private bytes of a loader process."""
    if plan.config.num_threads is not None:
        torch.set_num_threads(plan.config.num_threads)
    device = choose_device(plan.config.device)
    training, batches = _open(plan)
    loader = TrainingLoader(
        training.chunks,
        training.frontend,
        batches,
        device=device,
        frontend_on=plan.config.dataloader_args.frontend,
        num_workers=plan.num_workers,
        prefetch_factor=plan.config.dataloader_args.prefetch_factor,
    )
    step = _training_step(plan, training.num_classes, channels_last=plan.config.channels_last)
    waited_s, started, private = 0.0, 0.0, None
    for number, batch in enumerate(itertools.islice(loader, plan.steps + 1)):
        if number == 1:  # the first waits for the loader to start, and its step for the network
            started = time.monotonic() - batch.wait_s
        if number:
            waited_s += batch.wait_s
        step(batch.features, batch.label)
    elapsed_s = time.monotonic() - started
    if plan.num_workers:
        try:
            private = max(private_bytes(process) for process in loader.worker_ids())
        except OSError:
            private = None
    return waited_s / plan.steps, elapsed_s / plan.steps, private
