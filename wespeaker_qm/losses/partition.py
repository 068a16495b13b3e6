"""Classes divided over processes: who holds which prototypes, and the sums that make the parts one.

Every process holds the prototypes of a contiguous range of classes and sees the embeddings of all of them. Alone, a
process holds everything and each operation is free.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from wespeaker_qm.losses.root import Sums, in_unit
from wespeaker_qm.utils.errors import counted


@dataclass(frozen=True)
class ClassPartition:
    """The part of ``num_classes`` classes that process ``rank`` of ``world_size`` holds.

    ``group`` are these processes, if they are not all that there are; ``rank`` and ``world_size`` are of the group.

    Parts differ by at most one class; the first ones are larger. All processes call the same methods in the same
    order, with tensors of the same shape.
    """

    num_classes: int
    rank: int = 0
    world_size: int = 1
    group: "dist.ProcessGroup | None" = None  # where PyTorch is built without processes, there is no such name

    def __post_init__(self) -> None:
        if self.num_classes < self.world_size:
            raise ValueError(
                f"found {counted(self.num_classes, 'class', 'classes')}, expected at least one for each "
                f"of {self.world_size}"
            )

    def first_class(self, rank: int) -> int:
        """The first class of process ``rank``; ``num_classes`` for ``rank = world_size``."""
        size, larger = divmod(self.num_classes, self.world_size)
        return rank * size + min(rank, larger)

    @property
    def start(self) -> int:
        """The first class of this process."""
        return self.first_class(self.rank)

    @property
    def stop(self) -> int:
        """One past the last class of this process."""
        return self.first_class(self.rank + 1)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """The rows (B, ...) of all processes, (B * world_size, ...), in the order of the ranks."""
        if self.world_size == 1:
            return rows
        gathered = rows.new_empty(self.world_size * len(rows), *rows.shape[1:])
        dist.all_gather(list(gathered.chunk(self.world_size)), rows.contiguous(), group=self.group)
        return gathered

    def gather_batch(self, embedding: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D) and int64 targets (B,) of all processes; the targets travel as further columns."""
        if self.world_size == 1:
            return embedding, target
        rows = self.gather_rows(torch.cat([embedding, target[:, None].view(embedding.dtype)], dim=1))
        dim = embedding.shape[1]
        return rows[:, :dim].contiguous(), rows[:, dim:].contiguous().view(torch.int64)[:, 0]

    def own_rows(self, rows: Tensor) -> Tensor:
        """The part of gathered rows that came from this process."""
        return rows if self.world_size == 1 else rows.chunk(self.world_size)[self.rank]

    def exchange(self, rows: Tensor) -> Tensor:
        """Send what this process knows of gathered rows (B * world_size, ...) to the processes that they came from.

        Returns:
            What the processes know of this one's rows, (world_size, B, ...), in the order of the ranks. That may be
            changed, and sent back by the same method.
        """
        parts = torch.empty_like(rows, memory_format=torch.contiguous_format)
        dist.all_to_all_single(parts, rows.contiguous(), group=self.group)
        return parts.view(self.world_size, len(rows) // self.world_size, *rows.shape[1:])

    def sum_own_rows(self, rows: Tensor) -> Tensor:
        """`own_rows` of the sum over the processes, of which none gets more than its part."""
        if self.world_size == 1:
            return rows
        own = torch.empty_like(self.own_rows(rows), memory_format=torch.contiguous_format)
        dist.reduce_scatter(own, list(rows.contiguous().chunk(self.world_size)), group=self.group)
        return own

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """Maximum over the processes, in place; a NaN anywhere is NaN everywhere."""
        if self.world_size > 1:
            bad = None
            if tensor.is_floating_point():
                # Backends differ on whether a maximum with NaN is NaN; a sum is one everywhere.
                bad = self.sum(tensor.isnan().to(tensor.dtype)) > 0
                tensor.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
            if bad is not None:
                tensor.masked_fill_(bad, torch.nan)
        return tensor

    def sum_sums(self, sums: Sums, log_unit: Tensor) -> Sums:
        """`add_sums` over the processes, in a unit (B, 1) that all of them know, the largest weight."""
        here = in_unit(sums, log_unit)
        total, slope = torch.split(self.sum(torch.cat([here.total, here.slope], dim=1)), 1, dim=1)
        return Sums(log_unit, total, slope)

    def own_classes(self, rows: Tensor) -> Tensor:
        """This process's part of rows (C, ...), one a class."""
        return rows[self.start : self.stop]

    def gather_classes(self, rows: Tensor, block_rows: int = 2**16) -> Tensor | None:
        """From every process's rows (C of it, ...), one a class, those of all classes (C, ...), on the first process.

        They go to its CPU in blocks of ``block_rows`` of each process, so that no device has to hold them all; the
        other processes get None. Alone, these are the rows themselves.
        """
        if self.world_size == 1:
            return rows
        bounds = [self.first_class(rank) for rank in range(self.world_size + 1)]
        is_first = self.rank == 0
        gathered = torch.empty(self.num_classes if is_first else 0, *rows.shape[1:], dtype=rows.dtype)
        for done in range(0, bounds[1], block_rows):  # the first process has the largest part
            block = rows.new_zeros(min(block_rows, bounds[1] - done), *rows.shape[1:])
            own = rows[done : done + block_rows]
            block[: len(own)] = own
            parts = [torch.empty_like(block) for _ in range(self.world_size)] if is_first else None
            dist.gather(block, parts, group=self.group, group_dst=0)
            for rank, part in enumerate(parts or []):
                target = gathered[bounds[rank] + done : bounds[rank + 1]][: len(part)]
                target.copy_(part[: len(target)])
        return gathered if is_first else None
