"""How many members of a population have ended, on the screen."""

from __future__ import annotations

import sys
import threading
import time

from flaxfit.callbacks import Callback, Progress
from flaxfit.callbacks.progress import console


class Tally:
    """Reports on standard error how many members have ended: as a bar on a terminal, else with a line now and then."""

    def __init__(self, name: str | None, total: int):
        self._name, self._total, self._done, self._bar = name, total, 0, None
        self._began, self._lock = time.monotonic(), threading.Lock()
        self._told = self._began

    def __enter__(self) -> Tally:
        if self._name is not None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._console = console(sys.stderr)
            if self._console.is_terminal:
                columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, console=self._console, transient=True)
                self._bar.add_task(self._name, total=self._total)
                self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, members: int = 1) -> None:
        """Counts members that have ended. It may be called from any thread."""
        if not members:
            return
        with self._lock:
            self._done += members
        now = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], members)
        elif self._name is not None and (now - self._told > 10 or self._done == self._total):
            self._told = now
            line = f"{self._name}: {self._done}/{self._total} members, {now - self._began:.0f} s"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Ends(Callback):
    """Counts members that have ended."""

    reads_state = False

    def __init__(self, tally: Tally):
        self._tally = tally

    def on_chunk_end(self, progress: Progress) -> None:
        """Counts the member at its end."""
        if progress.ended and progress.stop_reason != "interrupted":
            self._tally.add()
