"""Tables of figures and of differences, in Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence

from wespeaker_qm.evaluate.comparison import Comparison
from wespeaker_qm.evaluate.figure import Compared, Quantity
from wespeaker_qm.evaluate.results import SystemResult
from wespeaker_qm.report.figure_table import figure_table
from wespeaker_qm.report.text import show_figure, show_p_value
from wespeaker_qm.utils.errors import printable

_MARKUP = re.compile(
    r"[\\`*\[\]|~]"  # wherever it stands
    r"|(?<![^\W_])_|_(?![^\W_])"  # not in words, where it marks nothing
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"  # HTML
    r"|^([#>]|[-+=](?=\s|$|=|-)|\d+(?=[.)](\s|$)))"  # a block, at the beginning
)


def figures_table(systems: Mapping[str, SystemResult], least: Compared = Compared.NOWHERE) -> str:
    """A line a figure, a column a system, in Markdown, folded; intervals in brackets, rates in per cent.

    Args:
        systems: name -> figures.
        least: leaves out the figures that are compared in fewer places.
    """
    columns = {
        name: {
            figure: show_figure(figure, system.value(figure), system.sureness(figure))
            for figure in system.readings
            if figure.kind.compared >= least
        }
        for name, system in systems.items()
    }
    header, rows, not_measurable = figure_table(columns)
    return "\n\n".join(filter(None, (markdown_table(header, rows), not_measurable)))


def comparison_table(comparisons: Sequence[Comparison], label: Callable[[str], str] = str) -> str:
    """A line a pair of systems and figure, in Markdown; arguments as :func:`comparison_rows`."""
    return markdown_table(*comparison_rows(comparisons, label))


def comparison_rows(
    comparisons: Sequence[Comparison], label: Callable[[str], str] = str
) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one a pair of systems and figure; rates in per cent.

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
    return ["difference", "estimate", "95 % interval", "p", "p, all pairs (Holm)"], rows


def markdown_text(text: str) -> str:
    r"""``text`` as Markdown shows it: in names from elsewhere nothing is markup, HTML or a new line.

    >>> print(markdown_text("a_b *c* <img src=x> | <d"), markdown_text("_e_ < 0.001"), markdown_text("# f"))
    a_b \*c\* \<img src=x> \| \<d \_e\_ < 0.001 \# f
    """

    def escaped(match: re.Match[str]) -> str:
        return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"

    return _MARKUP.sub(escaped, printable(" ".join(text.split())))


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it also reads well as text; the first column left, the others right.

    Cells are text, as :func:`markdown_text` takes it.

    >>> print(markdown_table(["system", "EER %"], [["a", "13.05"]]))
    | system | EER % |
    |:-------|------:|
    | a      | 13.05 |
    """
    table = [[markdown_text(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * (width + 1) for width in widths]
    lines.insert(1, f"|:{rule[0]}|{''.join(f'{dashes}:|' for dashes in rule[1:])}")
    return "\n".join(lines)
