"""Rows for a table in a paper."""

from collections.abc import Callable, Mapping

from wespeaker_qm.evaluate.figure import Figure, Quantity
from wespeaker_qm.evaluate.results import ListResult, Sureness

_ESCAPED = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)


def latex_rows(lists: Mapping[str, ListResult], label: Callable[[str], str] = str) -> str:
    """A row a list and system: EER, minDCF and TAR, with intervals; the columns in a comment.

    Args:
        lists: trial list -> figures of its systems.
        label: name of a system -> what the rows call it.
    """
    lines = []
    for name, result in lists.items():
        first = next(iter(result.systems.values()))
        figures = [
            figure for figure in first.readings if figure.kind.in_papers and figure.is_measurable(result.num_nontargets)
        ]
        lines.append(f"% {' & '.join(['list', 'system', *(figure.title for figure in figures)])}")
        for system, found in result.systems.items():
            cells = [latex_text(name), latex_text(label(system))]
            cells += [latex_cell(figure, found.value(figure) or 0.0, found.sureness(figure)) for figure in figures]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    r"""``text`` as LaTeX shows it: in names from elsewhere no character is a command, a group or a new line.

    >>> print(latex_text(r"a_b \input x"))
    a\_b \textbackslash{}input x
    """
    return " ".join(text.translate(_ESCAPED).split())


def latex_cell(figure: Figure, value: float, sureness: Sureness) -> str:
    """A figure, rates in per cent, and in small print its interval or why there is none."""
    factor, digits = 100 if figure.kind.quantity is Quantity.RATE else 1, figure.kind.digits
    shown = f"{factor * value:.{digits}f}"
    if sureness is None:
        return shown
    if isinstance(sureness, str):
        return rf"{shown} {{\scriptsize [{latex_text(sureness)}]}}"
    low, high = (factor * end for end in sureness)
    return rf"{shown} {{\scriptsize [{low:.{digits}f}, {high:.{digits}f}]}}"
