"""What the benchmark of heads found, in Markdown."""

from collections.abc import Mapping
from typing import NamedTuple

from wespeaker_qm.bench.cases import Case
from wespeaker_qm.bench.head_plans import COSFACE, MEMORY_BOUND_MIB
from wespeaker_qm.bench.memory import MIB, dense_cosface_bytes
from wespeaker_qm.bench.timing import Quartiles
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
        f"{case.batch}, {case.dim}, {case.num_classes:,}",
        f"{case.alpha:g}/{case.scale:g}/{case.margin:g}" + ("" if case.margin_type == "reference" else " angular"),
        _data(case),
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


def memory_table(peaks: Mapping[Case, int | None]) -> str:
    """Peak bytes of a step beyond prototypes and embeddings, by case."""
    rows = []
    for case, peak in peaks.items():
        dense_mib = dense_cosface_bytes(case.dim, case.num_classes) / MIB
        found = "not measurable without /proc" if peak is None else f"{peak / MIB:.1f}"
        verdict = "" if peak is None else _verdict(peak <= MEMORY_BOUND_MIB * MIB)
        size = f"{case.batch}, {case.dim}, {case.num_classes:,}"
        rows.append([size, _data(case), found, str(MEMORY_BOUND_MIB), verdict, f"{dense_mib:,.0f}"])
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


def _data(case: Case) -> str:
    return "trained" if case.trained else "init"


def _verdict(met: bool) -> str:
    return "met" if met else "NOT met"
