"""Times of a CUDA device by its own events: of steps in turn, started one by one and replayed as CUDA graphs.

Each step comes on several sets of inputs, which are taken in rotation: together they are larger than the cache.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from wespeaker_qm.bench.timing import quartiles

Step = Callable[[], object]

_ROUND_MS = 10  # that the calls of a round take together, about
_MOST_CALLS = 100
_COPIED_BYTES = 2**30


class DeviceTimes(NamedTuple):
    """Milliseconds of a step, one a round, and the bytes that it allocates beyond its inputs at its peak.

    started_ms: as a program starts it, operation by operation; what takes longer counts, the device or the program.
    replayed_ms: the same work captured in a CUDA graph, which has no program; None where it was not captured.
    """

    started_ms: list[float]
    replayed_ms: list[float] | None
    peak_bytes: int


def time_on_device(
    steps: Mapping[str, Sequence[Step]], rounds: int, captured: Callable[[str], bool] = lambda name: True
) -> dict[str, DeviceTimes]:
    """Time steps in turn, first started, then replayed.

    Args:
        steps: name -> the step on each set of inputs; what it returns is freed at once.
        rounds: times that each is timed, after one that does not count.
        captured: whether a name's step is captured, too.
    """
    peaks = {name: _peak_bytes(own) for name, own in steps.items()}
    started = _rounds(steps, rounds)
    graphs = _capture({name: own for name, own in steps.items() if captured(name)})
    replayed = _rounds({name: [graph.replay for graph in own] for name, own in graphs.items()}, rounds)
    return {name: DeviceTimes(started[name], replayed.get(name), peaks[name]) for name in steps}


def copy_bandwidth() -> float:
    """Bytes a second, read and written ones together, of the largest copy that a device is good at."""
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    times_ms = _rounds({"copy": [lambda: target.copy_(source)]}, 5)["copy"]
    return 2 * _COPIED_BYTES / (quartiles(times_ms).median / 1e3)


def num_sets(num_bytes: int) -> int:
    """How many sets of inputs of this size are more than the device's cache holds."""
    cache = getattr(torch.cuda.get_device_properties("cuda"), "L2_cache_size", 0) or 2**26
    return 1 + cache // num_bytes


def _peak_bytes(steps: Sequence[Step]) -> int:
    """Of the first of them, when it runs for the second time: the first compiles kernels and makes workspaces."""
    for step in steps:
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    steps[0]()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _rounds(steps: Mapping[str, Sequence[Step]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a call, in turn."""
    times_ms: dict[str, list[float]] = {name: [] for name in steps}
    calls = {name: _calls_of_a_round(own) for name, own in steps.items()}
    for number in range(rounds + 1):
        for name, own in steps.items():
            elapsed_ms = _elapsed_ms(own, calls[name])
            if number > 0:
                times_ms[name].append(elapsed_ms)
    return times_ms


def _calls_of_a_round(steps: Sequence[Step]) -> int:
    once_ms = _elapsed_ms(steps, len(steps))
    return min(_MOST_CALLS, max(len(steps), round(_ROUND_MS / max(once_ms, 1e-3))))


def _elapsed_ms(steps: Sequence[Step], calls: int) -> float:
    """Milliseconds a call, of this many of them in rotation."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for number in range(calls):
        steps[number % len(steps)]()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / calls


def _capture(steps: Mapping[str, Sequence[Step]]) -> dict[str, list[torch.cuda.CUDAGraph]]:
    """Each step as a graph. They are never replayed at the same time, and so share their memory."""
    graphs: dict[str, list[torch.cuda.CUDAGraph]] = {}
    pool = torch.cuda.graph_pool_handle()
    for name, own in steps.items():
        graphs[name] = []
        for step in own:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                step()
            graphs[name].append(graph)
    return graphs
