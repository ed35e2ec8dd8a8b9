"""A run directory while `fit` works in it, and what signals do."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.devices.distributed import ALONE, Team
from flaxfit.history import History
from flaxfit.state import RunState
from flaxfit.storage.checkpoints import Checkpoints, placed, unfilled
from flaxfit.storage.directory import RunDirectory, environment
from flaxfit.train.record import Resume, check_same_run


class Session:
    """A run directory while `fit` works in it: a context manager that keeps other processes out and listens to signals.

    Args:
      run_dir: the directory.
      resume: whether to continue what is there.
      config: what is run, as `described` gives it.
      team: the processes of the run, all of which have a session; the first one reads and writes the directory.

    Attributes:
      directory: the run directory.
      signals: what was heard.

    Raises:
      ValueError, RuntimeError, FileExistsError, FileNotFoundError: on entering, as `fit` says.
    """

    def __init__(self, run_dir: str | os.PathLike[str], resume: Resume, config: Mapping[str, Any], team: Team = ALONE):
        self.directory, self._team = RunDirectory(run_dir), team
        self._resume: Resume = resume
        self._old: dict[str, Any] | None = None
        self._config, self._stack, self.signals = dict(config), ExitStack(), Signals()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with self._team.together():
                if self._team.leads:
                    self._old = stack.enter_context(opened(self.directory, self._resume, "run"))
                    if self._old is not None:
                        check_same_run({**self._old, "program": None}, self._config, self.directory.path, self._resume)
            stack.enter_context(self.signals)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def confirm(self, program: Mapping[str, str]) -> None:
        """Checks that the program is the recorded one, and records the configuration.

        Raises:
          ValueError: it is another.
        """
        self._config |= {"program": dict(program), "environment": environment()}
        with self._team.together():
            if self._team.leads:
                if self._old is not None:
                    check_same_run(self._old, self._config, self.directory.path, self._resume)
                self.directory.write_config(self._config)

    def restore(self, like: RunState, names: Sequence[str]) -> tuple[RunState, History, Mapping[str, Any]] | None:
        """State, epochs and notes of the newest whole checkpoint; None where there is none.

        Raises:
          ValueError: it has more epochs than this run is to have.
        """
        found, epochs = None, -1
        with self._team.together():
            if self._old is not None:
                with Checkpoints(self.directory.checkpoints) as checkpoints:
                    found = checkpoints.read(like)
                epochs = -1 if found is None else len(found[1])
        epochs = self._team.gather(epochs + 1)[0] - 1
        if epochs < 0:
            return None
        asked = self._config["arguments"]["epochs"]
        if epochs > asked:
            if self._old is not None:
                self.directory.write_config(self._old)
            cure = f"ask for {epochs} or more, or name another directory"
            raise ValueError(f"the run in {self.directory.path} has {epochs} epochs already, {asked} were asked for: {cure}.")
        arrays, rows = (unfilled(like), np.empty((epochs, len(names)))) if found is None else found[:2]
        state = placed({name: self._team.from_first(arrays[name]) for name in sorted(arrays)}, like)
        rows = self._team.from_first(rows)
        history = History({name: rows[:, column] for column, name in enumerate(names)})
        with self._team.together():
            if self._team.leads:
                self.directory.write_metrics(history)  # without the epochs after the checkpoint, which will come again
        return state, history, {} if found is None else found[3]

    def finish(self, epochs: int) -> None:
        """Ends the process where a signal was heard.

        Raises:
          SystemExit: 130 for SIGINT, 143 for SIGTERM.
        """
        if self.signals.heard is not None:
            saved = f"saved after {epochs} of {self._config['arguments']['epochs']} epochs"
            self.signals.leave(f"{saved}. To continue: the same command, or flaxfit resume {self.directory.path}", self._team)

    def export(self, write: Any, chunks: int) -> None:
        """Writes the best model for `flaxfit.load`, by `write(directory, arguments)`; not again for a run that was only reopened."""
        with self._team.together():
            if not self._team.leads or (self._old is not None and chunks == 0 and self.directory.export.is_dir()):
                return
            try:
                write(self.directory.export, self._config["arguments"])
            except ValueError as error:
                warnings.warn(f"the run is saved, but its model has no export for flaxfit.load: {error}", RuntimeWarning, stacklevel=4)


@contextmanager
def opened(directory: RunDirectory, resume: Resume, what: str) -> Iterator[dict[str, Any] | None]:
    """Locks a directory and gives the configuration in it, None where there is none.

    Args:
      directory: the directory.
      resume: as for `fit`.
      what: what it holds, "run" or "population".

    Raises:
      ValueError: an unknown way to resume.
      FileExistsError, FileNotFoundError: what `resume` refuses.
    """
    if resume not in (known := ("auto", "never", "must", "force")):
        raise ValueError(unknown("way to resume", str(resume), known))
    with directory.lock():
        old = directory.read_config()
        if resume == "never" and old is not None:
            raise FileExistsError(f'{directory.path} holds a {what}: resume="auto" continues it; or name another directory.')
        if resume == "must" and old is None:
            raise FileNotFoundError(f'{directory.path} holds no {what} to resume; resume="auto" starts one.')
        yield old


class Signals:
    """Hears SIGINT and SIGTERM, in the main thread: the first is noted, the second ends the process at once.

    Attributes:
      heard: the first signal, or None.
    """

    def __init__(self) -> None:
        self.heard: signal.Signals | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def leave(self, message: str, team: Team = ALONE) -> None:
        """Ends the process after the signal that was heard, as that signal would have."""
        assert self.heard is not None
        if team.leads:
            sys.stderr.write(f"{self.heard.name}: {message}\n")
        raise SystemExit(128 + self.heard)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.heard = signal.Signals(number)
        sys.stderr.write(f"\n{self.heard.name}: the run will end after this chunk and be saved; once more ends it at once.\n")
