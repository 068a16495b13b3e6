"""What the benchmark of heads found, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wespeaker_qm.bench.cases import Case
from wespeaker_qm.bench.device_timing import DeviceTimes
from wespeaker_qm.bench.head_plans import COSFACE, MEMORY_BOUND_MIB, SPARSE, Contest
from wespeaker_qm.bench.memory import MIB, dense_cosface_bytes
from wespeaker_qm.bench.timing import Quartiles, paired_ratios, quartiles
from wespeaker_qm.report.tables import markdown_table


class ContestResult(NamedTuple):
    """One opponent in one case."""

    case: Case
    support: float
    """Mean number of classes with a posterior above 0."""
    candidates: float
    """Mean number of classes that the sparse head looks at."""
    opponent: str
    opponent_ms: float
    sparse_ms: float
    ratio: Quartiles
    """Of the times, sparse / opponent, over the rounds."""
    bound: float | None
    """That the median of the ratio is to stay below; None for none."""
    pages_kept: bool
    """Whether freed memory stayed in the process."""

    @property
    def verdict(self) -> str:
        """``met`` or ``NOT met``; nothing without a bound."""
        return "" if self.bound is None else _verdict(self.ratio.median <= self.bound)


def times_table(results: list[ContestResult]) -> str:
    """One line an opponent."""
    header = [
        "B, D, C",
        "alpha/s/m",
        "data",
        "pages",
        "support %",
        "candidates %",
        "against",
        "its ms",
        "sparse ms",
        "ratio",
    ]
    header += ["quartiles", "bound", "verdict"]
    return markdown_table(header, [_cells(result) for result in results])


def _cells(result: ContestResult) -> list[str]:
    case, ratio, bound = result.case, result.ratio, result.bound
    return [
        *names(case),
        data(case),
        "kept" if result.pages_kept else "default",
        f"{100 * result.support / case.num_classes:.2f}",
        f"{100 * result.candidates / case.num_classes:.2f}",
        result.opponent,
        f"{result.opponent_ms:.1f}",
        f"{result.sparse_ms:.1f}",
        f"{ratio.median:.3f}",
        f"{ratio.lower:.3f} to {ratio.upper:.3f}",
        "" if bound is None else f"{bound:.2f}",
        result.verdict,
    ]


class DeviceContest(NamedTuple):
    """What was measured of one contest on a CUDA device."""

    contest: Contest
    support: float
    """Mean number of classes with a posterior above 0."""
    candidates: float
    """Mean number of classes that the sparse head looks at."""
    times: Mapping[str, DeviceTimes]
    """Of the sparse head, and of each opponent that is there."""
    absent: Mapping[str, str]
    """Opponent -> why it is not."""


def device_table(results: Sequence[DeviceContest], bandwidth: float) -> str:
    """One line a head, the sparse head first in each contest.

    Args:
        results: of the contests.
        bandwidth: bytes a second that the device reads and writes.
    """
    header = ["B, D, C", "alpha/s/m", "data", "support %", "candidates %", "head"]
    header += ["started", "graph", "ratio", "quartiles", "graph ratio", "quartiles", "bound", "verdict", "MiB"]
    header.append("floor / graph")
    rows = []
    for result in results:
        for name in (SPARSE, *result.contest.bounds):
            rows.append(_case_cells(result) + _device_cells(result, name, bandwidth))
    return markdown_table(header, rows)


def _case_cells(result: DeviceContest) -> list[str]:
    case = result.contest.case
    shares = [f"{100 * number / case.num_classes:.2f}" for number in (result.support, result.candidates)]
    return [*names(case), data(case), *shares]


def _device_cells(result: DeviceContest, name: str, bandwidth: float) -> list[str]:
    if name in result.absent:
        return [f"{name}: {result.absent[name]}", *[""] * 10]
    case, own, sparse = result.contest.case, result.times[name], result.times[SPARSE]
    started, replayed = own.started_ms, own.replayed_ms
    floor_ms = 1e3 * 8 * case.dim * (case.num_classes + case.batch) / bandwidth
    graph = (
        ["not captured", ""] if replayed is None else [_ms(replayed), f"{floor_ms / quartiles(replayed).median:.2f}"]
    )
    ratios, verdict, limit = [""] * 4, "", result.contest.bounds.get(name)
    if name != SPARSE:
        ratios = _ratio(sparse.started_ms, started)
        ratios += _ratio(sparse.replayed_ms, replayed) if sparse.replayed_ms and replayed else ["", ""]
    if limit is not None:
        met = paired_ratios(sparse.started_ms, started).median <= limit
        verdict = _verdict(met)
    bound = "" if limit is None else f"{limit:.2f}"
    return [name, _ms(started), graph[0], *ratios, bound, verdict, f"{own.peak_bytes / MIB:,.0f}", graph[1]]


def _ratio(times_ms: list[float], other_ms: list[float]) -> list[str]:
    ratio = paired_ratios(times_ms, other_ms)
    return [f"{ratio.median:.3f}", f"{ratio.lower:.3f} to {ratio.upper:.3f}"]


def _ms(times_ms: list[float]) -> str:
    return f"{quartiles(times_ms).median:.3f}"


def names(case: Case) -> list[str]:
    """Size and loss."""
    return [
        f"{case.batch}, {case.dim}, {case.num_classes:,}",
        f"{case.alpha:g}/{case.scale:g}/{case.margin:g}" + ("" if case.margin_type == "reference" else " angular"),
    ]


def memory_table(peaks: Mapping[Case, int | None]) -> str:
    """Peak bytes of a step beyond prototypes and embeddings, by case."""
    rows = []
    for case, peak in peaks.items():
        dense_mib = dense_cosface_bytes(case.dim, case.num_classes) / MIB
        found = "not measurable without /proc" if peak is None else f"{peak / MIB:.1f}"
        verdict = "" if peak is None else _verdict(peak <= MEMORY_BOUND_MIB * MIB)
        size = f"{case.batch}, {case.dim}, {case.num_classes:,}"
        rows.append([size, data(case), found, str(MEMORY_BOUND_MIB), verdict, f"{dense_mib:,.0f}"])
    header = ["B, D, C", "data", "peak MiB, sparse gradient", "bound", "verdict", f"{COSFACE}, computed"]
    return markdown_table(header, rows)


def growth_table(growth: Mapping[Case, float]) -> str:
    """Milliseconds by number of classes, the first being the reference."""
    per_class_us = {case: 1e3 * ms / case.num_classes for case, ms in growth.items()}
    reference = next(iter(per_class_us.values()))
    rows = [
        [f"{case.num_classes:,}", f"{ms:.1f}", f"{per_class_us[case]:.2f}", f"{per_class_us[case] / reference:.2f}"]
        for case, ms in growth.items()
    ]
    first = next(iter(growth))
    header = ["C", "sparse ms", "us a class", f"relative to {first.num_classes:,}"]
    return markdown_table(header, rows)


def data(case: Case) -> str:
    """Whether prototypes and embeddings are trained."""
    return "trained" if case.trained else "init"


def _verdict(met: bool) -> str:
    return "met" if met else "NOT met"
