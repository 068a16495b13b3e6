"""Numbers of the device, read without waiting for more than them."""

from collections.abc import Mapping

import torch


class Reading:
    """Numbers that are on their way from the device to the host.

    Args:
        numbers: name -> scalar, all on one device.
    """

    def __init__(self, numbers: Mapping[str, torch.Tensor]) -> None:
        self._names = tuple(numbers)
        together = torch.stack([number.double() for number in numbers.values()])
        self._numbers = together
        self._arrived: torch.cuda.Event | None = None
        if together.device.type == "cuda":
            self._numbers = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
            self._numbers.copy_(together, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def values(self) -> dict[str, float]:
        """The numbers, once they are there: the host waits for what the device had to do until then, and no more."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._numbers.tolist(), strict=True))
