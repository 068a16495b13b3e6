"""When something was done, on the device that did it: time is measured without making the host wait.

A host gives a GPU its work long before that is done, so that the host's clock tells little of it. There a moment is an
event in the stream of work; elsewhere it is the clock.
"""

import time

import torch


class Moment:
    """Now, in the work of a device: when all that was given to it before is done.

    Args:
        device: whose work; of a GPU, that of the current stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._event = None
        self._seconds = time.perf_counter()
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def ms_since(self, earlier: "Moment") -> float:
        """Milliseconds of the device from ``earlier`` to this moment, both of which it must have come past."""
        if self._event is not None and earlier._event is not None:
            return earlier._event.elapsed_time(self._event)
        return 1e3 * (self._seconds - earlier._seconds)
