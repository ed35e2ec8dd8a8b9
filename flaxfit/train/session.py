"""The run directory while `fit` works in it, and the handling of signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

import jax
import numpy as np

from flaxfit.arguments import unknown
from flaxfit.devices.distributed import ALONE, Team
from flaxfit.history import History
from flaxfit.state import RunState
from flaxfit.storage.checkpoints import Checkpoints, placed, unfilled
from flaxfit.storage.directory import RunDirectory, environment
from flaxfit.train.record import Resume, check_same_run


class Session:
    """The run directory while `fit` works in it. It is a context manager that keeps other processes out.

    Args:
      run_dir: the directory.
      resume: whether to resume the run that is there.
      config: the description of the run, as `described` returns it.
      team: the processes of the run, all of which have a session. The first one reads and writes the directory.

    Attributes:
      directory: the run directory.

    Raises:
      ValueError, RuntimeError, FileExistsError, FileNotFoundError: on entering, as `fit` says.
    """

    def __init__(self, run_dir: str | os.PathLike[str], resume: Resume, config: Mapping[str, Any], team: Team = ALONE):
        self.directory, self._team = RunDirectory(run_dir), team
        self._resume: Resume = resume
        self._old: dict[str, Any] | None = None
        self._config, self._stack = dict(config), ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with self._team.together():
                if self._team.leads:
                    self._old = stack.enter_context(opened(self.directory, self._resume, "run"))
                    if self._old is not None:
                        check_same_run({**self._old, "program": None}, self._config, self.directory.path, self._resume)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def confirm(self, program: Mapping[str, str]) -> None:
        """Checks that the program is the recorded one, and writes the configuration.

        Raises:
          ValueError: the program is another.
        """
        self._config |= {"program": dict(program), "environment": environment()}
        with self._team.together():
            if self._team.leads:
                if self._old is not None:
                    check_same_run(self._old, self._config, self.directory.path, self._resume)
                self.directory.write_config(self._config)

    def restore(self, like: RunState, names: Sequence[str]) -> tuple[RunState, History, Mapping[str, Any]] | None:
        """Returns the state, epochs and notes of the newest complete checkpoint, or None if there is none.

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
            cure = f"pass epochs={epochs} or more, or use another directory"
            raise ValueError(f"the run in {self.directory.path} has {epochs} epochs already, but epochs={asked}: {cure}.")
        arrays, rows = (unfilled(like), np.empty((epochs, len(names)))) if found is None else found[:2]
        state = placed({name: self._team.from_first(arrays[name]) for name in sorted(arrays)}, like)
        rows = self._team.from_first(rows)
        history = History({name: rows[:, column] for column, name in enumerate(names)})
        with self._team.together():
            if self._team.leads:
                self.directory.write_metrics(history)  # without the epochs after the checkpoint, which will be trained again
        return state, history, {} if found is None else found[3]

    def export(self, write: Any, chunks: int) -> None:
        """Writes the best model for `flaxfit.load` with `write(directory, arguments)`, unless the run was only reopened."""
        with self._team.together():
            if not self._team.leads or (self._old is not None and chunks == 0 and self.directory.export.is_dir()):
                return
            try:
                write(self.directory.export, self._config["arguments"])
            except ValueError as error:
                warnings.warn(
                    f"the run is saved, but its model could not be exported for flaxfit.load: {error}", RuntimeWarning, stacklevel=4
                )


@contextmanager
def opened(directory: RunDirectory, resume: Resume, what: str) -> Iterator[dict[str, Any] | None]:
    """Locks a directory and yields the configuration in it, or None if there is none.

    Args:
      directory: the directory.
      resume: as for `fit`.
      what: "run" or "population", for errors.

    Raises:
      ValueError: `resume` is unknown.
      FileExistsError, FileNotFoundError: as for `fit`.
    """
    if resume not in (known := ("auto", "never", "must", "force")):
        raise ValueError(unknown("way to resume", str(resume), known))
    with directory.lock():
        old = directory.read_config()
        if resume == "never" and old is not None:
            raise FileExistsError(f'{directory.path} has a {what} already: pass resume="auto" to continue it, or use another directory.')
        if resume == "must" and old is None:
            raise FileNotFoundError(f'{directory.path} has no {what} to resume: pass resume="auto" to start one.')
        yield old


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP while it is entered in the main thread, so that a run ends after its chunk and everything is saved.

    A second signal within half a second is ignored, because launchers forward the signals that their processes receive as well. A later
    one does at once what it would have done without this class.

    Attributes:
      heard: the first signal, or None.
    """

    def __init__(self) -> None:
        self.heard: signal.Signals | None = None
        self._when = 0.0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup ignores SIGHUP
                    self._old[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def end(self, message: str, result: Any, returns: bool, team: Team = ALONE) -> None:
        """Ends what was interrupted, after everything is saved and the former handlers are in place again.

        Args:
          message: what to say.
          result: what there is so far.
          returns: whether the caller returns `result` after SIGINT in a notebook or an interactive interpreter.
          team: the processes of the run; the first one says the message.

        Raises:
          KeyboardInterrupt: after SIGINT, with `result` as its attribute.
        """
        assert self.heard is not None
        if self.heard != signal.SIGINT:
            if team.leads:
                _say(f"{self.heard.name}: {message}")
            if team.size > 1:
                jax.distributed.shutdown()  # waits for the other processes, which would otherwise take this one for lost
            os.kill(os.getpid(), self.heard)
        elif returns and hasattr(sys, "ps1"):
            _say(f"Interrupted: {message}")
        else:
            error = KeyboardInterrupt(message)
            error.result = result  # pyright: ignore[reportAttributeAccessIssue]
            raise error

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.heard is None:
            self.heard, self._when = signal.Signals(number), now
            _say(f"\n{self.heard.name}: the run ends after this chunk and is saved. A second signal ends it at once.")
        elif now - self._when >= 0.5:
            signal.signal(number, self._old[number])
            os.kill(os.getpid(), number)


def _say(line: str) -> None:
    with suppress(Exception):  # standard error may be closed, as under `| tee`, or be written to when the signal arrives
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
