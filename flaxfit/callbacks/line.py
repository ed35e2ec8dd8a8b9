"""One line about what is going on, which is updated in place on a terminal and in a notebook."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_PLAIN_SECONDS = 10  # from one plain line to the next, where a line cannot be updated
_VARIANTS = ((0, True, True), (1, True, True), (2, True, True), (2, False, True), (2, False, False), (3, False, False))


@dataclass(frozen=True)
class Status:
    """What the line says."""

    name: str  # what is going on
    done: int  # how much of it is done
    total: int  # how much there is
    rate: str = ""  # how fast it is
    left: float | None = None  # the seconds that are left
    values: Sequence[str] = ("", "", "", "")  # four texts on how well it goes, from the longest to the shortest

    def fitted(self, width: int) -> Text:
        """Returns the line for a terminal. If it is too long, what matters least is left out. The last value is never."""
        from rich.text import Text

        text = Text(self.values[-1])
        for values, rate, left in _VARIANTS:
            parts = [self.name, "", self._count(), self.rate * rate, self._left() * left, self.values[values]]
            text = Text("  ".join(part for part in parts if part))
            room = min(20, width - text.cell_len - 2)
            if room >= 4:
                full = room * self.done // max(self.total, 1)
                parts[1] = "━" * full + "─" * (room - full)
                text = Text("  ".join(part for part in parts if part))
                start = len(self.name) + 2
                text.stylize("green", start, start + full)
                text.stylize("bright_black", start + full, start + room)
            if text.cell_len <= width:
                return text
        rest = Text(f"  {self._count()}  {self.values[-1]}".rstrip())
        name = Text(self.name)
        name.truncate(max(1, width - rest.cell_len), overflow="ellipsis")
        return name + rest

    def bundle(self) -> dict[str, str]:
        """Returns the line for a notebook, by media type."""
        texts = [self.name, self._count(), self.rate, self._left(), self.values[0]]
        text = " · ".join(part for part in texts if part)
        label = html.escape(self.name, quote=True)
        bar = f'<progress value="{self.done}" max="{self.total}" aria-label="{label}" style="width: 10em"></progress>'
        return {"text/plain": text, "text/html": f'<div style="white-space: pre-wrap">{bar} {html.escape(text)}</div>'}

    def _count(self) -> str:
        return f"{self.done:{len(str(self.total))}}/{self.total}"

    def _left(self) -> str:
        return "" if self.left is None else str(timedelta(seconds=round(self.left)))


class Line:
    """A line that is updated in place.

    Where that is not possible, such as in a log file, a plain line is printed every ten seconds. A plain line stays at the end.

    Args:
      file: the text stream to write to. By default it is standard error, or the output of the cell in a notebook.
    """

    def __init__(self, file: TextIO | None = None):
        from rich.console import Console

        self._console = Console(file=file or sys.stderr, force_jupyter=False)
        # Rich would exit when the file is gone. This console falls silent.
        self._console.on_broken_pipe = lambda: setattr(self._console, "quiet", True)
        self._status: Status | None = None
        self._live: Live | None = None
        self._handle: Any = None
        self._notebook, self._printed = file is None and _in_notebook(), time.monotonic()
        if not self._notebook and self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, get_renderable=self._rendered, transient=True)
            self._live.start()

    def show(self, status: Status, plain: str) -> None:
        """Updates the line, or prints the plain one if it is time for it."""
        self._status = status
        if self._notebook:
            self._display(status.bundle())
        elif self._live is None and time.monotonic() - self._printed > _PLAIN_SECONDS:
            self._print(plain)

    def end(self, plain: str | None = None) -> None:
        """Ends the updates, and leaves a plain line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if plain is None:
            return
        if self._notebook:
            self._display({"text/plain": plain, "text/html": f"<div>{html.escape(plain)}</div>"})
        else:
            self._print(plain)

    def _display(self, bundle: dict[str, str]) -> None:
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _print(self, plain: str) -> None:
        self._printed = time.monotonic()
        with suppress(OSError):
            self._console.print(plain, markup=False, highlight=False, soft_wrap=True)

    def _rendered(self) -> Text | str:
        return "" if self._status is None else self._status.fitted(self._console.width)


def pace(seconds: float) -> str:
    """Returns the time of an epoch in a unit in which it is short to read.

    Example:
      >>> pace(0.00124), pace(20.9), pace(754)
      ('1.24 ms/epoch', '20.9 s/epoch', '12.6 min/epoch')
    """
    for unit, size, from_here in (("h", 3600, 7200), ("min", 60, 120), ("s", 1, 0.9995)):
        if seconds >= from_here:
            return f"{seconds / size:.3g} {unit}/epoch"
    return f"{seconds * 1e3:.3g} ms/epoch"


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
