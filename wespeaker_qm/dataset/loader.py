"""Batches in the order of a plan, fetched here or by worker processes."""

from typing import Any

from torch.utils.data import DataLoader

from wespeaker_qm.dataset.chunks import ChunkDataset, collate
from wespeaker_qm.dataset.plan import BatchPlan


def make_loader(
    chunks: ChunkDataset,
    plan: BatchPlan,
    *,
    num_workers: int,
    prefetch_factor: int | None = None,
    pin_memory: bool = False,
) -> "DataLoader[Any]":
    """A loader of collated batches; with workers they persist over epochs. Their number changes no sample."""
    return DataLoader(
        chunks,
        batch_sampler=plan,
        collate_fn=collate,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
    )
