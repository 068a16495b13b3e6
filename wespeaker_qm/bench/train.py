"""What a training step takes on this machine, part by part and head by head, and the first thing that limits it.

::

    noise of no file, or a packed corpus -> loader -> front end -> | the same network under each head, in turn |
    moments of each part, read one step late --> medians --> ratios of whole steps; what is slowest

The parts are those of a training (:mod:`wespeaker_qm.train.build`, :mod:`wespeaker_qm.train.update`): nothing here
makes a step by itself. Times are the device's own, taken without making it wait.
"""

import dataclasses
import itertools
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wespeaker_qm.bench.machine import machine_facts
from wespeaker_qm.bench.timing import Quartiles, paired_ratios, quartiles
from wespeaker_qm.config import Config
from wespeaker_qm.dataset.chunks import ChunkDataset
from wespeaker_qm.dataset.draws import SNR_RANGES_DB, SPEEDS
from wespeaker_qm.dataset.frontend import TrainingFrontend
from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.dataset.training_set import TrainingSet, draw_settings, open_training_set
from wespeaker_qm.losses.heads import CosineHead, QMarginHead
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.network.build import build_fbank
from wespeaker_qm.network.device import choose_device
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.report.loss_card import loss_card
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.train import build
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.model import EncoderWithHead
from wespeaker_qm.train.speed import Arithmetic, arithmetic_of, peak_memory_mib
from wespeaker_qm.train.update import Underway, Updater
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.moments import Moment
from wespeaker_qm.utils.progress import Progress

COSFACE_SCALE = 32.0
_SETTLING = 3  # steps of a head's turn that do not count: what is of the head before is still under way
_NUM_RECORDINGS, _RECORDING_S, _NUM_RIRS, _RIR_S = 2000, 8.0, 100, 0.5
_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique2")
"""Operations for whose result the host waits."""


class TrainPlan(NamedTuple):
    """What is measured.

    Attributes:
        config: network, loss, front end and precision.
        data: a packed corpus; None for noise that is in no file.
        num_classes: without a corpus.
        rounds: turns of each head.
        steps: of a turn that count.
    """

    config: Config
    data: DataFolder | None
    num_classes: int
    rounds: int
    steps: int


class PlainCosFace(CosineHead):
    """CosFace as commonly written: normalised rows, ``F.linear``, the margin off the target's cosine, cross-entropy."""

    margin_type = "reference"

    def forward(self, embedding: Tensor, target: Tensor, margin: float) -> LinearLoss:
        """Loss of a batch, in the type that autocast chooses."""
        cosine = F.linear(F.normalize(embedding), F.normalize(self.weight))
        shift = torch.zeros_like(cosine).scatter_(1, target[:, None], margin)
        loss = F.cross_entropy(self.scale * (cosine - shift), target, reduction="none")
        return LinearLoss(loss, cosine.detach().argmax(1) == target, None)


class HeadTimes(NamedTuple):
    """What was seen of a head."""

    times_ms: dict[str, list[float]]
    """Part of a step -> milliseconds of each step that counts."""
    turns_ms: list[float]
    """Median of the whole steps of each turn."""
    memory_mib: float
    num_waits: float
    """Times a step that the host waits for the device."""
    waits: Counter[str]
    num_operations: int


# --- what is trained ------------------------------------------------------------------------------------------------


class _Noise:
    """In the place of a packed set: recordings of noise, each a stretch of one array."""

    def __init__(self, count: int, seconds: float, sample_rate: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._samples = (3000 * rng.standard_normal(int(2 * seconds * sample_rate))).astype(np.int16)
        self._starts = rng.integers(0, len(self._samples) // 2, count)
        self.num_samples = np.full(count, len(self._samples) // 2)

    def read_pcm(self, i: int, start: int, pcm: np.ndarray) -> None:
        """As :meth:`ShardReader.read_pcm`."""
        first = self._starts[i] + start
        pcm[:] = self._samples[first : first + len(pcm)]


def noise_set(config: Config, num_classes: int) -> TrainingSet:
    """A training set of noise, with everything that the configuration augments with; no file is read."""
    args = config.dataset_args
    rate = args.resample_rate
    fbank = build_fbank(config, dither=args.fbank_args.dither)
    num_samples = fbank.num_samples(args.num_frms)
    num_speeds = len(SPEEDS) if args.speed_perturb else 1
    num_speakers = max(2, num_classes // num_speeds)
    labels = np.arange(_NUM_RECORDINGS) * 7919 % num_speakers
    speech = _Noise(_NUM_RECORDINGS, max(_RECORDING_S, 2 * num_samples / rate), rate, seed=0)
    noise, rirs = _Noise(300, _RECORDING_S, rate, seed=1), _Noise(_NUM_RIRS, _RIR_S, rate, seed=2)
    categories = tuple(itertools.islice(itertools.cycle(SNR_RANGES_DB), len(noise.num_samples)))
    chunks = ChunkDataset(
        cast(ShardReader, speech),
        utterances=np.arange(_NUM_RECORDINGS),
        labels=labels,
        num_speakers=num_speakers,
        num_samples=num_samples,
        settings=draw_settings(config, num_rirs=_NUM_RIRS, noise_categories=categories),
        noise=cast(ShardReader, noise),
        rirs=cast(ShardReader, rirs),
    )
    return TrainingSet(
        speakers=[str(number) for number in range(num_speakers)],
        num_classes=num_speakers * num_speeds,
        labels=labels,
        shards=np.zeros(_NUM_RECORDINGS, np.int64),
        chunks=chunks,
        frontend=TrainingFrontend(fbank, num_samples=num_samples, rir_lengths=rirs.num_samples),
    )


def heads_of(config: Config, num_classes: int) -> dict[str, CosineHead]:
    """Name -> head: the configuration's, softmax with a margin computed likewise, and as commonly written."""
    dim = config.model_args.embed_dim
    return {
        str(loss_card(config)): build.build_head(config, ClassPartition(num_classes)),
        "CosFace, our head": QMarginHead(dim, num_classes, scale=COSFACE_SCALE),
        "CosFace, F.linear": PlainCosFace(dim, num_classes, scale=COSFACE_SCALE),
    }


# --- measuring ------------------------------------------------------------------------------------------------------


def train_report(plan: TrainPlan) -> str:
    """Measure, and say how it went, in Markdown.

    Raises:
        RecipeError: a count below 1, or a corpus that is not packed.
    """
    for option in ("num_classes", "rounds", "steps"):
        if (value := getattr(plan, option)) < 1:
            raise RecipeError(f"--{option.removeprefix('num_')}: found {value}, expected at least 1")
    config = plan.config
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    processes = Processes(rank=0, world_size=1, device=choose_device(config.device))
    data = noise_set(config, plan.num_classes) if plan.data is None else _open(config, plan.data)
    torch.manual_seed(config.seed)
    models = {
        name: build.build_model(config, data.num_classes, processes, head)
        for name, head in heads_of(config, data.num_classes).items()
    }
    first = next(iter(models.values()))
    args = config.dataset_args
    arithmetic = arithmetic_of(
        first.encoder, args.num_frms, args.fbank_args.num_mel_bins, processes.device, first.amp_dtype
    )
    # One turn more than counts, one step more for its end, and those whose waits and operations are counted.
    num_steps = 3 * (plan.rounds + 1) * (_SETTLING + plan.steps + 1) + 3 * 2
    batches = _batches(config, data, processes, num_steps)
    seen = _measure(plan, models, batches, processes)
    return "\n\n".join([_facts(plan, data, processes.device, arithmetic), *_tables(plan, seen, arithmetic)])


def _open(config: Config, data: DataFolder) -> TrainingSet:
    return open_training_set(config, data, build_fbank(config, dither=config.dataset_args.fbank_args.dither))


def _batches(config: Config, data: TrainingSet, processes: Processes, num_steps: int) -> Iterator[TrainingBatch]:
    """As many batches, of one epoch: at the beginning of one, a training waits for the loader."""
    num_samples = num_steps * config.dataloader_args.batch_size
    args = dataclasses.replace(config.dataset_args, sample_num_per_epoch=num_samples)
    plan = build.build_plan(dataclasses.replace(config, dataset_args=args), data, processes)
    return iter(build.build_loader(config, data, plan, processes.device))


def _measure(
    plan: TrainPlan, models: Mapping[str, EncoderWithHead], batches: Iterator[TrainingBatch], processes: Processes
) -> dict[str, HeadTimes]:
    updaters = {}
    for name, model in models.items():
        head = build.own_head(model, processes)
        optimizer = build.build_optimizer(plan.config, list(model.parameters()), head)
        scaler = build.build_scaler(plan.config, processes.device)
        updaters[name] = _Timed(
            model.train(),
            Updater(model, model, optimizer, scaler, processes),
            processes.device,
            plan.config.margin_update.final_margin,
        )
    times: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    turns: dict[str, list[float]] = {name: [] for name in models}
    memory = dict.fromkeys(models, 0.0)
    with Progress(total=(plan.rounds + 1) * len(models), desc="bench train", unit="turn") as bar:
        for number in range(plan.rounds + 1):
            for name, updater in updaters.items():
                if processes.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(processes.device)
                steps = updater.turn(itertools.islice(batches, _SETTLING + plan.steps + 1))[_SETTLING:]
                memory[name] = max(memory[name], peak_memory_mib(processes.device))
                if number:  # the first is for what is chosen, compiled and allocated once
                    turns[name].append(quartiles([step["step"] for step in steps]).median)
                    for part, value in itertools.chain.from_iterable(step.items() for step in steps):
                        times[name].setdefault(part, []).append(value)
                bar.update()
    counts = {name: updater.count(batches) for name, updater in updaters.items()}
    return {name: HeadTimes(times[name], turns[name], memory[name], *counts[name]) for name in models}


class _Timed:
    """An updater whose model also notes where the network ends and the head begins."""

    def __init__(self, model: EncoderWithHead, updater: Updater, device: torch.device, margin: float) -> None:
        self._updater = updater
        self._margin = margin
        self._device = device
        self._between: list[Moment] = []
        # A compiled network would have what is hooked on compiled with it.
        if model.encoder._compiled_call_impl is None:
            model.encoder.register_forward_hook(self._after_network)

    def _after_network(self, _: Any, __: Any, embedding: Tensor) -> None:
        self._note()
        embedding.register_hook(self._note)

    def _note(self, _: Tensor | None = None) -> None:
        self._between.append(Moment(self._device))

    def turn(self, batches: Iterable[TrainingBatch]) -> list[dict[str, float]]:
        """Part of the step -> milliseconds, of each step but the last; ``step`` is all of it, ``host`` its launch."""
        made: list[tuple[Underway, list[Moment], float]] = []
        for number, batch in enumerate(batches):
            began = time.perf_counter()
            self._between = []
            update = self._updater(number, batch, margin=self._margin, learning_rate=1e-3)
            host_ms = 1e3 * (time.perf_counter() - began)
            if made:
                made[-1][0].figures.values()  # as a training reads them: one step late
            made.append((update, self._between, host_ms))
        made[-1][0].figures.values()
        return [_parts(*each, following[0].moments[0]) for each, following in itertools.pairwise(made)]

    def count(self, batches: Iterator[TrainingBatch]) -> tuple[float, Counter[str], int]:
        """Of a step and its batch: how often the host waits for the device, and where; operations that are started."""
        with operations_noted() as operations:
            self.turn(itertools.islice(batches, 1))
        waits = Counter(name for name in operations if name in _WAITS)
        if self._device.type == "cuda":
            with _waits_noted() as waits:
                self.turn(itertools.islice(batches, 1))
        return waits.total(), waits, len(operations)


def _parts(update: Underway, between: list[Moment], host_ms: float, following: Moment) -> dict[str, float]:
    began, forward, backward, _ = update.moments
    times = update.times_ms()
    if len(between) == 2:
        ends = {"forward: network": between[0], "forward: head": forward, "backward: head": between[1]}
        for name, end in {**ends, "backward: network": backward}.items():
            times[name] = end.ms_since(began)
            began = end
    return {**times, "step": following.ms_since(update.moments[0]), "host": host_ms}


class _Noted(TorchDispatchMode):
    """Notes operations but views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        if not operation.is_view and "empty" not in name and name != "detach":
            self.names.append(name)
        return operation(*args, **(kwargs or {}))


@contextmanager
def operations_noted() -> Iterator[list[str]]:
    """A context that gives the names of the operations which PyTorch starts in it, views and allocations left out."""
    with _Noted() as noted:
        yield noted.names


@contextmanager
def _waits_noted() -> Iterator[Counter[str]]:
    """A context that counts where the host waits for a GPU, events apart."""
    waits: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # "Synchronization debug mode is a prototype" is said of the switch itself.
    places = (each for each in caught if "called a synchronizing" in str(each.message))
    waits.update(f"{'/'.join(each.filename.split('/')[-2:])}:{each.lineno}" for each in places)


# --- telling --------------------------------------------------------------------------------------------------------

_ROWS = {
    "wait": "waited for data",
    "frontend": "copy and front end, beside the step on a GPU",
    "forward": "forward",
    "forward: network": "forward: network",
    "forward: head": "forward: head",
    "backward": "backward",
    "backward: head": "backward: head",
    "backward: network": "backward: network",
    "optimiser": "norm and optimiser",
    "host": "host, to give out the work",
    "step": "whole step",
}


def _facts(plan: TrainPlan, data: TrainingSet, device: torch.device, arithmetic: Arithmetic) -> str:
    config = plan.config
    precision: str = config.amp_dtype if config.enable_amp else "float32"
    if device.type == "cuda" and not config.enable_amp:
        precision += ", convolutions in TF32" if torch.backends.cudnn.allow_tf32 else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return "\n".join(
        [
            *machine_facts(),
            f"- device: {name}; a large product of matrices: {1e-12 * arithmetic.peak_per_s:.2f} TFLOP/s",
            f"- {config.model}, {precision}, channels-last {config.channels_last}, compiled {config.compile}; batches "
            f"of {config.dataloader_args.batch_size} x {config.dataset_args.num_frms} frames, "
            f"{counted(data.num_classes, 'class', 'classes')}; {1e-9 * arithmetic.per_sample:.2f} GFLOP a sample, "
            "without the head",
            f"- data: {'noise of no file' if plan.data is None else plan.data}, "
            f"{counted(config.dataloader_args.num_workers, 'loader process', 'loader processes')}",
            "- "
            f"{counted(plan.rounds, 'turn', 'turns')}"
            f" of {counted(plan.steps, 'step', 'steps')} of each head; milliseconds: median (95th percentile)",
        ]
    )


def _tables(plan: TrainPlan, seen: Mapping[str, HeadTimes], arithmetic: Arithmetic) -> list[str]:
    rows = []
    for part, shown in _ROWS.items():
        if any(part in each.times_ms for each in seen.values()):
            rows.append([shown, *(_cell(each.times_ms.get(part)) for each in seen.values())])
    batch_size = plan.config.dataloader_args.batch_size
    speeds = [1e3 * batch_size / float(np.mean(each.times_ms["step"])) for each in seen.values()]
    rows.append(["samples/s, waits counted in", *(f"{speed:,.1f}" for speed in speeds)])
    rows.append(["model FLOP utilisation, %", *(f"{100 * arithmetic.utilisation(speed):.1f}" for speed in speeds)])
    rows.append(["peak memory, MiB", *(f"{each.memory_mib:,.0f}" for each in seen.values())])
    rows.append(["waits of the host a step", *(f"{each.num_waits:.0f}" for each in seen.values())])
    rows.append(["operations a step", *(str(each.num_operations) for each in seen.values())])
    ours, *others = seen
    ratios = [
        [f"{ours} / {other}", *_ratio(paired_ratios(seen[ours].turns_ms, seen[other].turns_ms))] for other in others
    ]
    waits = "; ".join(
        f"{name}: {', '.join(f'{place} x {count}' for place, count in each.waits.items()) or 'none'}"
        for name, each in seen.items()
    )
    return [
        markdown_table(["part of a step", *seen], rows),
        markdown_table(["ratio of whole steps", "median of turns", "quartiles"], ratios),
        f"The host waits, one event a step apart: {waits}.",
        f"First limit: {first_limit(medians(seen[ours]), arithmetic, batch_size)}.",
    ]


def medians(seen: HeadTimes) -> dict[str, float]:
    """Part of a step -> median of its milliseconds."""
    return {part: quartiles(times).median for part, times in seen.times_ms.items()}


def first_limit(times_ms: Mapping[str, float], arithmetic: Arithmetic, batch_size: int) -> str:
    """What to look at first to make steps faster.

    Args:
        times_ms: part -> milliseconds, as in the table.
        arithmetic: of the network.
        batch_size: samples of a step.
    """
    step = times_ms["step"]
    if times_ms["wait"] > 0.05 * step:
        return (
            f"data, for which {100 * times_ms['wait'] / step:.0f} % of a step is waited: more "
            "dataloader_args.num_workers, a faster disk, or dataloader_args.frontend=device"
        )
    if times_ms["host"] > 0.9 * step and times_ms["forward"] + times_ms["backward"] < 0.9 * step:
        return "the host, which gives out work more slowly than the device does it: a larger batch, or compile=true"
    if times_ms["optimiser"] > 0.1 * step:
        return f"the optimiser, with {100 * times_ms['optimiser'] / step:.0f} % of a step"
    head = times_ms.get("forward: head", 0.0) + times_ms.get("backward: head", 0.0)
    if head > 0.2 * step:
        return f"the head, with {100 * head / step:.0f} % of a step"
    used = arithmetic.utilisation(1e3 * batch_size / step)
    return f"the network, which does {100 * used:.0f} % of the arithmetic of a large product of matrices"


def _cell(times: list[float] | None) -> str:
    return "" if times is None else f"{quartiles(times).median:.2f} ({np.quantile(times, 0.95):.2f})"


def _ratio(ratio: Quartiles) -> list[str]:
    return [f"{ratio.median:.3f}", f"{ratio.lower:.3f} to {ratio.upper:.3f}"]
