"""One process or many: the same code under ``torchrun`` (NCCL on GPUs, gloo on CPUs) and without it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from wespeaker_qm.utils.errors import RecipeError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and the progress bar."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum ``tensor`` over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto`` is the GPU of this process if there is one.

    Raises:
        RecipeError: ``cuda`` without a GPU, or fewer GPUs than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise RecipeError(
            f"device: process {local_rank} wants a GPU of its own, but {torch.cuda.device_count()} are visible; "
            "start fewer processes (run.sh --num_gpus), check CUDA_VISIBLE_DEVICES, or set device=cpu"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def joined_processes(device_name: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, if it did, and leave them at the end."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = choose_device(device_name, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank=rank, world_size=world_size, device=device)
    finally:
        if world_size > 1:
            dist.destroy_process_group()
