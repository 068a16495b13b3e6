"""How far a program is: on a terminal a bar, in a file or a pipe a line a minute.

A bar that is drawn anew ten times a second would fill a log with thousands of lines. There it says the same in words::

    training: 12800 of 640000 (2 %), 86.1 sample/s, 2:01:24 left, loss=4.127
"""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from wespeaker_qm.utils.errors import printable

SECONDS_BETWEEN_LINES = 60.0


class Progress(tqdm):  # type: ignore[type-arg]
    """A bar of tqdm, with its arguments, that writes lines where its output is no terminal.

    What takes less than a minute writes none there, and whatever wrote one says in the end how long all took. Of
    several training processes, which do the same, the first alone shows anything.

    Args:
        iterable: to be passed through, counted; None: :meth:`update` counts.
        show: False shows nothing.
        options: those of ``tqdm.tqdm``.
    """

    def __init__(self, iterable: Iterable[Any] | None = None, *, show: bool = True, **options: Any) -> None:
        self._is_drawn = sys.stderr.isatty()
        self._last_line_s: float | None = None
        self._has_lines = False
        if not show or os.environ.get("RANK", "0") != "0":
            options["disable"] = True
        if not self._is_drawn:
            interval_s = SECONDS_BETWEEN_LINES
            options |= {"mininterval": interval_s, "maxinterval": interval_s, "delay": 0.0, "leave": False}
        if options.get("desc") is not None:
            options["desc"] = printable(options["desc"])
        super().__init__(iterable, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write a line where the last, or the beginning, is a minute ago."""
        if self._is_drawn:
            super().display(msg, pos)
            return
        now_s = self._time()  # type: ignore[attr-defined]
        if self._last_line_s is None:
            self._last_line_s = now_s
        elif msg is None and now_s - self._last_line_s >= SECONDS_BETWEEN_LINES:
            self._last_line_s = now_s
            self._write_line(is_last=False)

    def clear(self, nolock: bool = False) -> None:
        """Remove the bar; lines stay."""
        if self._is_drawn:
            super().clear(nolock)

    def close(self) -> None:
        """Leave the finished bar, or a last line where there were others."""
        if self._has_lines and not self.disable:
            self._write_line(is_last=True)
        super().close()

    def _write_line(self, is_last: bool) -> None:
        self._has_lines = True
        facts = self.format_dict
        rate = None if is_last else facts["rate"]
        rate = rate or (self.n - self.initial) / max(facts["elapsed"], 1e-9)
        of_total = f" of {self._number(self.total)} ({100 * self.n / self.total:.0f} %)" if self.total else ""
        parts = [f"{self._number(self.n)}{of_total}", f"{self._number(rate)} {self.unit.strip()}/s"]
        if is_last:
            parts.append(f"{self.format_interval(facts['elapsed'])} in all")
        elif self.total and rate:
            parts.append(f"{self.format_interval((self.total - self.n) / rate)} left")
        parts += [str(self.postfix)] if self.postfix else []
        self.fp.write(f"{facts['prefix'] or 'progress'}: {', '.join(parts)}\n")
        self.fp.flush()

    def _number(self, value: float) -> str:
        if self.unit_scale:
            return str(self.format_sizeof(value, "", self.unit_divisor))
        return f"{value:.3g}" if isinstance(value, float) else str(value)
