"""What all plots share: colours, and how they are written."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.ownership import PLOT_MARK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette: distinct for colour-blind readers and, with the line styles, in grey."""


def plot_text(text: str) -> str:
    r"""``text`` as matplotlib shows it: in names no dollar begins a formula, and no underscore hides them.

    >>> plot_text("a$b"), plot_text("_c")
    ('a\\$b', ' _c')
    """
    return " " * text.startswith("_") + text.replace("$", r"\$")


def save_plot(plot: "Figure", files: Iterable[Path]) -> None:
    """Write ``plot`` into each of ``files``, a ``.png`` or ``.pdf``, atomically and without a time stamp."""
    for file in files:
        with atomic_path(file) as temporary:
            # matplotlib picks the Agg or PDF backend by the format; a pyplot window is never involved.
            is_pdf = file.suffix == ".pdf"
            by = {"Creator": PLOT_MARK, "CreationDate": None} if is_pdf else {"Software": PLOT_MARK}
            plot.savefig(temporary, metadata=by)
