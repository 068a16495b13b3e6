"""Paired differences as a small chart: how much better or worse each system is than one of them, with the interval.

::

    EER %                             worse        |        better
    asnorm                                     ----|-*-----           +3.20 (-1.10 to 8.02)
    ltas                                           |    ---*-----    +14.88 (5.24 to 27.25)

All pairs, with p-values, stand in tables and in ``metrics.json``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from wespeaker_qm.evaluate.comparison import Comparison
from wespeaker_qm.evaluate.figure import Compared, Quantity
from wespeaker_qm.evaluate.figures import in_table_order
from wespeaker_qm.report.text import NO_INTERVAL

WIDTH = 41
"""Characters of an axis in a text."""
_ROOM = 0.05
"""Of an axis, beyond the outermost interval."""


class Difference(NamedTuple):
    """How much better a system is than the reference in a figure, or worse where it is negative."""

    system: str
    """Its name; several that differ from the reference in the same way are joined."""
    better_by: float
    """In points where the figure is in per cent."""
    interval: tuple[float, float] | None
    """Likewise; None where there is none."""
    reason: str | None
    """Why there is none."""
    digits: int

    @property
    def leaves_0_out(self) -> bool:
        """Whether the interval says that the systems differ."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def __str__(self) -> str:
        text = f"{self.better_by:+.{self.digits}f}"
        text = text if float(text) else text[1:]  # no sign that says which is better
        if self.interval is None:
            return f"{text}{NO_INTERVAL}{self.reason})"
        low, high = (f"{end:+.{self.digits}f}" for end in self.interval)
        return f"{text} ({low} to {high})"


class Axis(NamedTuple):
    """The differences in one figure, on an axis of their own."""

    title: str
    """Of the figure."""
    differences: list[Difference]

    def place(self, value: float) -> float:
        """Where a value lies between the ends of the axis, 0 and 1; no difference lies in the middle."""
        reach = max(abs(end) for each in self.differences for end in (each.better_by, *(each.interval or ())))
        return 0.5 if reach == 0 else 0.5 + value / reach * (0.5 - _ROOM)


class Differences(NamedTuple):
    """What a chart shows."""

    reference: str
    """The system that the others are compared with."""
    axes: list[Axis]


def charted(comparisons: Sequence[Comparison], label: Callable[[str], str] = str) -> Differences | None:
    """The differences from the first system that was compared, in the figures of reports; None where there are none.

    Args:
        comparisons: of all pairs.
        label: name of a system -> what the chart calls it.
    """
    reported = [each for each in comparisons if each.figure.kind.compared is Compared.REPORTED]
    if not reported:
        return None
    reference = reported[0].one
    axes = []
    for figure in in_table_order(each.figure for each in reported):
        joined: dict[Difference, list[str]] = {}
        for each in reported:
            if each.figure == figure and each.one == reference:
                joined.setdefault(_difference(each), []).append(label(each.two))
        if joined:
            differences = [each._replace(system=", ".join(names)) for each, names in joined.items()]
            axes.append(Axis(figure.title, differences))
    return Differences(label(reference), axes)


def text_chart(differences: Differences) -> str:
    """The chart in letters of one width."""
    rows = [each for axis in differences.axes for each in axis.differences]
    width = max(len(text) for text in [*(each.system for each in rows), *(axis.title for axis in differences.axes)])
    lines = []
    for axis in differences.axes:
        lines.append(f"{axis.title:{width}}  {'worse':^{WIDTH // 2}}|{'better':^{WIDTH // 2}}")
        for each in axis.differences:
            cells = [" "] * WIDTH
            cells[WIDTH // 2] = "|"
            if each.interval is not None:
                first, last = (round(axis.place(end) * (WIDTH - 1)) for end in each.interval)
                cells[first : last + 1] = "-" * (last + 1 - first)
            cells[round(axis.place(each.better_by) * (WIDTH - 1))] = "*" if each.leaves_0_out else "o"
            lines.append(f"{each.system:{width}}  {''.join(cells)}  {each}")
    return "\n".join(lines)


def _difference(comparison: Comparison) -> Difference:
    """Of the second system, without its name."""
    kind = comparison.figure.kind
    factor = 100 if kind.quantity is Quantity.RATE else 1
    factor *= 1 if kind.more_is_better else -1
    interval = None
    if comparison.low is not None and comparison.high is not None:
        low, high = sorted((factor * comparison.low, factor * comparison.high))
        interval = (low, high)
    return Difference("", factor * comparison.difference, interval, comparison.reason, kind.digits)
