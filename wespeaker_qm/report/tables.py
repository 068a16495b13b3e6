"""Tables of figures and of differences, in Markdown."""

from collections.abc import Callable, Mapping, Sequence

from wespeaker_qm.evaluate.comparison import Comparison
from wespeaker_qm.evaluate.figure import Quantity
from wespeaker_qm.evaluate.figures import in_table_order
from wespeaker_qm.evaluate.results import SystemResult
from wespeaker_qm.report.text import show_figure, show_p_value


def figures_table(systems: Mapping[str, SystemResult]) -> str:
    """A line a figure, a column a system, in Markdown; intervals in brackets, rates in per cent."""
    figures = in_table_order(figure for system in systems.values() for figure in system.readings)
    rows = [
        [
            figure.title,
            *(
                show_figure(figure, system.value(figure), system.sureness(figure)) if figure in system.readings else ""
                for system in systems.values()
            ),
        ]
        for figure in figures
    ]
    return markdown_table(["figure", *systems], rows)


def comparison_table(comparisons: Sequence[Comparison], label: Callable[[str], str] = str) -> str:
    """A line a pair of systems and figure, in Markdown; rates in per cent.

    Args:
        comparisons: of systems.
        label: name of a system -> what the table calls it.
    """
    rows = []
    for each in comparisons:
        factor, digits = (100, 2) if each.figure.kind.quantity is Quantity.RATE else (1, 4)
        if each.low is None or each.high is None:
            interval = f"none: {each.reason}"
        else:
            interval = " to ".join(f"{factor * end:+.{digits}f}" for end in (each.low, each.high))
        rows.append(
            [
                f"{each.figure.name}: {label(each.two)} less {label(each.one)}",
                f"{factor * each.difference:+.{digits}f}",
                interval,
                show_p_value(each.p_value),
                show_p_value(each.p_holm),
            ]
        )
    return markdown_table(["difference", "estimate", "95 % interval", "p", "p, all pairs (Holm)"], rows)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it also reads well as text; the first column left, the others right.

    >>> print(markdown_table(["system", "EER %"], [["a", "13.05"]]))
    | system | EER % |
    |:-------|------:|
    | a      | 13.05 |
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * (width + 1) for width in widths]
    lines.insert(1, f"|:{rule[0]}|{''.join(f'{dashes}:|' for dashes in rule[1:])}")
    return "\n".join(lines)
