"""How many members of a population have ended, on the screen."""

from __future__ import annotations

import threading
import time

from flaxfit.callbacks import Callback, Progress
from flaxfit.callbacks.line import Line, Status


class Tally:
    """Reports how many members have ended: as a bar on a terminal and in a notebook, else with a line now and then.

    Args:
      name: a title, or None for no report.
      total: the number of members.
      transient: whether nothing stays at the end.
    """

    def __init__(self, name: str | None, total: int, transient: bool = False):
        self._name, self._total, self._done, self._line, self._transient = name, total, 0, None, transient
        self._began, self._lock = time.monotonic(), threading.Lock()

    def __enter__(self) -> Tally:
        if self._name is not None:
            self._line = Line()
            self._line.show(Status(self._name, 0, self._total), self._name)
        return self

    def __exit__(self, *error: object) -> None:
        if self._line is not None:
            self._line.end(self._told() if self._done == self._total and not self._transient else None)

    def add(self, members: int = 1) -> None:
        """Counts members that have ended. It may be called from any thread."""
        if not members:
            return
        with self._lock:
            self._done += members
            if self._line is not None:
                left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
                self._line.show(Status(str(self._name), self._done, self._total, left=left, values=("members",) * 4), self._told())

    def _told(self) -> str:
        return f"{self._name}: {self._done}/{self._total} members, {time.monotonic() - self._began:.0f} s"


class Ends(Callback):
    """Counts members that have ended."""

    reads_state = False

    def __init__(self, tally: Tally):
        self._tally = tally

    def on_chunk_end(self, progress: Progress) -> None:
        """Counts the member at its end."""
        if progress.ended and progress.stop_reason != "interrupted":
            self._tally.add()
