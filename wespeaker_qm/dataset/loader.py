"""Batches of features in the order of a plan, made here or by worker processes.

::

    on the device:   workers: BatchId -> read -> Batch -> | training process: to device -> front end -> TrainingBatch
    on the workers:  workers: BatchId -> read -> Batch -> front end -> | training process: to device -> TrainingBatch

A GPU copies a batch, and computes its features, beside the step before: in a stream of its own.
"""

import atexit
import signal
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from wespeaker_qm.dataset.chunks import ChunkDataset, PackedBatch
from wespeaker_qm.dataset.frontend import TrainingFrontend
from wespeaker_qm.dataset.plan import BatchId, BatchPlan
from wespeaker_qm.utils.allocator import keep_freed_pages
from wespeaker_qm.utils.loading import Handing, handed, unchanged
from wespeaker_qm.utils.moments import Moment

FrontendPlace = Literal["auto", "device", "worker"]


class TrainingBatch(NamedTuple):
    """What a step needs, on the device of the training."""

    utterance: torch.Tensor
    """(B,) position of the utterance among those that are trained on; this one stays on the CPU."""
    label: torch.Tensor
    """(B,) class."""
    features: torch.Tensor
    """(B, T, F)."""
    wait_s: float
    """How long the training process waited for it."""
    frontend: tuple[Moment, Moment] | None = None
    """When the device of the training began and ended to copy it and to compute its features; None: not known."""


class _Featured(NamedTuple):
    """A batch whose features a worker has computed."""

    utterance: torch.Tensor
    label: torch.Tensor
    features: torch.Tensor


class _FeaturedDataset(Dataset[_Featured]):
    """Reads a batch and computes its features, both where it is called."""

    def __init__(self, chunks: ChunkDataset, frontend: TrainingFrontend) -> None:
        self.chunks = chunks
        self.frontend = frontend

    def __getitem__(self, batch_id: BatchId) -> _Featured:
        batch = self.chunks[batch_id]
        return _Featured(batch.utterance, batch.label, self.frontend(batch))


class _PackedDataset(Dataset[PackedBatch]):
    """Reads a batch, and makes one array of it."""

    def __init__(self, chunks: ChunkDataset) -> None:
        self.chunks = chunks

    def __getitem__(self, batch_id: BatchId) -> PackedBatch:
        return PackedBatch(self.chunks[batch_id])


def _leave_signals_to_the_parent(_: int) -> None:
    # A terminal, timeout and Slurm signal a whole group. A worker that ended by it would end the training before that
    # has saved its state; PyTorch ends workers when their parent has ended.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _prepare_worker(number: int) -> None:
    _leave_signals_to_the_parent(number)
    # Otherwise memory for arrays as large as a batch is returned to the system when a batch is done and fetched again
    # for the next one, which takes a third of the time.
    keep_freed_pages()


_at_work: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""Walks over batches that have worker processes."""


@atexit.register
def _end_workers() -> None:
    """Have workers end when this process ends by an error that holds their loader.

    Otherwise Python would send them SIGTERM, which they do not heed, and wait for them for ever.
    """
    for walk in tuple(_at_work):
        walk._shutdown_workers()


def _hand_over(batch: TrainingBatch, beside: torch.cuda.Stream) -> None:
    """Let the current stream of a GPU use what another one makes: once it is made, and before its memory is reused."""
    current = torch.cuda.current_stream(beside.device)
    current.wait_stream(beside)
    for tensor in (batch.label, batch.features):
        tensor.record_stream(current)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On the CPU, compute on one thread, as workers do: sums over several threads differ in their last digits."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TrainingLoader:
    """Walks an epoch's batches. Workers persist over epochs; their number changes no sample.

    Args:
        chunks: reads.
        frontend: augments and computes features; on the CPU.
        plan: the batches, and the epoch.
        device: of the training.
        frontend_on: where the front end runs: ``device`` is the training process, ``worker`` the loader's;
            ``auto`` leaves it to the workers if there are any, unless the training has a GPU.
        num_workers: loader processes; 0 does all in this one, on one thread.
        prefetch_factor: batches that each of them makes ahead.
        pin_memory: for a GPU, hand batches over in page-locked memory, from which it copies faster.
        start_method: ``fork`` or ``spawn``; the platform's default if None.
    """

    def __init__(
        self,
        chunks: ChunkDataset,
        frontend: TrainingFrontend,
        plan: BatchPlan,
        *,
        device: torch.device,
        frontend_on: FrontendPlace = "auto",
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        self.device = device
        self.on_workers = num_workers > 0 and (
            frontend_on == "worker" or (frontend_on == "auto" and device.type == "cpu")
        )
        self.frontend = frontend
        if not self.on_workers:
            self.frontend = frontend.to(device)
        dataset: Dataset[Any] = _FeaturedDataset(chunks, frontend) if self.on_workers else _PackedDataset(chunks)
        self.loader: DataLoader[Any] = DataLoader(
            Handing(dataset),
            batch_size=None,
            sampler=plan,
            collate_fn=unchanged,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory and device.type == "cuda",
            worker_init_fn=_prepare_worker if self.on_workers else _leave_signals_to_the_parent,
            multiprocessing_context=start_method if num_workers else None,
            generator=torch.Generator(),  # of seeds that nothing uses: the training's own generator stays as it is
        )

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Yield the batches of the plan's epoch."""
        beside = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        if beside is not None:
            beside.wait_stream(torch.cuda.current_stream(self.device))  # for what the front end keeps on the device
        started = time.monotonic()
        walk = iter(self.loader)
        if self.loader.num_workers:
            _at_work.add(walk)
        for batch in handed(walk):
            wait_s = time.monotonic() - started
            with torch.cuda.stream(beside):
                made = self._on_device(batch, wait_s)
            if beside is not None:
                _hand_over(made, beside)
            yield made
            started = time.monotonic()

    def worker_ids(self) -> list[int]:
        """Process numbers of the loader processes; empty before the first batch, and without workers."""
        iterator = getattr(self.loader, "_iterator", None)
        return [worker.pid for worker in getattr(iterator, "_workers", [])]

    def _on_device(self, batch: PackedBatch | _Featured, wait_s: float) -> TrainingBatch:
        began = Moment(self.device)
        if isinstance(batch, _Featured):
            utterance, label, features = batch
            label, features = (each.to(self.device, non_blocking=True) for each in (label, features))
        else:
            read = batch.on(self.device)
            utterance, label = read.utterance, read.label
            with _one_thread(self.device):
                features = self.frontend(read)
        return TrainingBatch(utterance, label, features, wait_s, (began, Moment(self.device)))
