"""The table of figures, folded: what no system can measure is a line below it, and systems of the same figures share a
column.

Normalised scores that are calibrated keep their order, so that every figure that looks at the order alone is the same.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import in_table_order
from wespeaker_qm.report.text import NOT_MEASURABLE

Line = TypeVar("Line")


class FigureTable(NamedTuple):
    """Header and rows, the first cell of which names the figure, and what was left out."""

    header: list[str]
    rows: list[list[str]]
    not_measurable: str
    """The figures that the list cannot measure, in a line; nothing where there are none."""


def figure_table(
    columns: Mapping[str, Mapping[Figure, str]], row_name: Callable[[Figure], str] = lambda figure: figure.title
) -> FigureTable:
    """Fold the cells of several systems into one table.

    Args:
        columns: system -> figure -> what the cell shows; a system may lack figures.
        row_name: of a figure, in the first column.
    """
    shared = share_columns(columns)
    rows, lacking = [], []
    for figure in in_table_order(figure for cells in columns.values() for figure in cells):
        cells = [column.get(figure, "") for column in shared.values()]
        if set(cells) - {""} == {NOT_MEASURABLE}:
            lacking.append(figure)
        else:
            rows.append([row_name(figure), *cells])
    return FigureTable(["figure", *shared], rows, not_measurable_line(lacking, row_name))


def share_columns(columns: Mapping[str, Mapping[Line, str]]) -> dict[str, dict[Line, str]]:
    """Join the systems whose cells are the same wherever both have one; the names are joined by commas.

    >>> from wespeaker_qm.evaluate.figures import CLLR, EER
    >>> eer, cllr = Figure(EER), Figure(CLLR)
    >>> shared = share_columns({"a": {eer: "2"}, "b": {eer: "3"}, "c": {eer: "2", cllr: "1"}})
    >>> list(shared), len(shared["a, c"])
    (['a, c', 'b'], 2)
    """
    groups: list[tuple[list[str], dict[Line, str]]] = []
    for name, cells in columns.items():
        for names, joined in groups:
            both = joined.keys() & cells.keys()
            if both and all(joined[figure] == cells[figure] for figure in both):
                names.append(name)
                joined.update(cells)
                break
        else:
            groups.append(([name], dict(cells)))
    return {", ".join(names): joined for names, joined in groups}


def not_measurable_line(figures: Iterable[Figure], row_name: Callable[[Figure], str]) -> str:
    """Which figures are not measurable: each kind once, with its rates; nothing where there are none.

    >>> from wespeaker_qm.evaluate.figures import TAR_AT_FAR
    >>> not_measurable_line([Figure(TAR_AT_FAR, far) for far in (1e-4, 1e-5)], lambda figure: figure.title)
    'Not measurable with so few non-target trials: TAR % at FAR 1e-4, 1e-5.'
    """
    rates: dict[str, list[str]] = {}
    for figure in figures:
        rates.setdefault(row_name(figure).removesuffix(figure.rate_name), []).append(figure.rate_name)
    kinds = [f"{name}{', '.join(names)}" for name, names in rates.items()]
    return f"{NOT_MEASURABLE.capitalize()} with so few non-target trials: {'; '.join(kinds)}." if kinds else ""
