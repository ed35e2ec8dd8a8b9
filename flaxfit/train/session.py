"""The run directory while `fit` works in it, and the handling of signals."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from types import FrameType, TracebackType
from typing import Any, Self

import jax
import numpy as np

from flaxfit.arguments import unknown
from flaxfit.data.dataset import Dataset
from flaxfit.devices.distributed import ALONE, Team
from flaxfit.durable import warned
from flaxfit.history import History
from flaxfit.state import RunState
from flaxfit.storage.checkpoints import Checkpoints, placed, unfilled
from flaxfit.storage.directory import RunDirectory, environment
from flaxfit.train.export import check_replaceable, export, holds
from flaxfit.train.record import Resume, check_same_run
from flaxfit.train.result import Result
from flaxfit.train.task import Task

SAME_SECONDS = 0.5
"""Signals within this time are one."""


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
                    self._prepare()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _prepare(self) -> None:
        """Checks what is in the directory before anything is trained."""
        if self._old is not None:
            if "arguments" not in self._old:
                raise ValueError(f"{self.directory.path} has a population, not a run: use fit_many, or another directory.")
            check_same_run({**self._old, "program": None}, self._config, self.directory.path, self._resume)
        check_replaceable(self.directory.export)
        for path in (self.directory.checkpoints, self.directory.metrics_path):
            if path.exists() and path.is_dir() != (path == self.directory.checkpoints):
                raise FileExistsError(f"{path} is in the place of a file or directory of the run: move it away, or use another directory.")
        self._config["run"] = self._identity()

    def _identity(self) -> str | None:
        """Returns the identity of the run, which is None if it was started before runs had one.

        Raises:
          ValueError: the checkpoints in the directory are those of another run.
        """
        with Checkpoints(self.directory.checkpoints) as checkpoints:
            saved, owner = checkpoints.saved(), checkpoints.owner()
        mine = uuid.uuid4().hex if self._old is None else self._old.get("run")
        if not saved or (self._old is not None and owner in (None, (mine,))):
            return mine
        if self._resume == "force" and owner is not None:
            return owner[0]
        why = "no config.json that says whose they are" if self._old is None else "the config.json of another run"
        raise ValueError(
            f"{self.directory.checkpoints} has checkpoints, but {self.directory.path} has {why}: bring back the right config.json, move "
            'the checkpoints away to start anew, or continue from them with resume="force".'
        )

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
                with warned(self.directory.config_path) if self._old is not None else nullcontext():
                    self.directory.write_config(self._config)

    def restore(self, like: RunState, names: Sequence[str]) -> tuple[RunState, History, Mapping[str, Any]] | None:
        """Returns the state, epochs and notes of the newest complete checkpoint, or None if there is none.

        Raises:
          ValueError: it has more epochs than this run is to have.
        """
        found, epochs = None, -1
        with self._team.together():
            if self._team.leads:
                with Checkpoints(self.directory.checkpoints, run=self._config["run"]) as checkpoints:
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
                if self._config["run"] is None:
                    message = "was started by a version that gave runs no identity, and its checkpoints are taken to be its own"
                    warnings.warn(f"the run in {self.directory.path} {message}.", UserWarning, stacklevel=4)
                with warned(self.directory.metrics_path):
                    self.directory.write_metrics(history)  # without the epochs after the checkpoint, which will be trained again
        return state, history, {} if found is None else found[3]

    def export(self, task: Task, result: Result, row: Dataset) -> None:
        """Writes the best model for `flaxfit.load`, unless it is there already.

        Args:
          task: what was trained.
          result: the result of the run.
          row: a training row.
        """
        about = {"run": self._config.get("run"), "best_epoch": result.best_epoch, "epochs": len(result.history.epochs)}
        about |= {"stop_reason": result.stop_reason, "arguments": self._config["arguments"]}
        with self._team.together():
            if not self._team.leads or holds(self.directory.export, task, result.best, about):
                return
            try:
                export(self.directory.export, task, result.best, row, about=about)
            except Exception as error:
                message = f"the run is saved, but its model could not be exported for flaxfit.load: {error}"
                if self.directory.export.exists():
                    message += f" {self.directory.export} still holds an older model."
                warnings.warn(message, RuntimeWarning, stacklevel=4)


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
    one does at once what it would have done without this class. In another thread nothing is noted but a Ctrl-C that ended the main thread.

    Attributes:
      heard: the first signal, or None.
    """

    def __init__(self) -> None:
        self.heard: signal.Signals | None = None
        self._when, self._over = 0.0, threading.Event()
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup ignores SIGHUP
                    self._old[number] = signal.signal(number, self._hear)
        elif not threading.current_thread().daemon:
            _hold_exit()
            _elsewhere.add(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self.heard is not None and self._old:
            time.sleep(max(0.0, self._when + SAME_SECONDS - time.monotonic()))  # its forwarded copy may still come
        for number, old in reversed(self._old.items()):  # SIGINT last: what it raises must not keep the others from their handlers
            signal.signal(number, old)
        _elsewhere.discard(self)
        self._over.set()

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
        elif now - self._when >= SAME_SECONDS:
            signal.signal(number, self._old[number])
            os.kill(os.getpid(), number)


_elsewhere: set[Signals] = set()  # of runs in other threads than the main one


@functools.cache
def _hold_exit() -> None:
    """Has the interpreter wait for runs in other threads before it shuts down the thread pools with which they save."""
    threading._register_atexit(_wait_for_runs)  # pyright: ignore[reportAttributeAccessIssue]


def _wait_for_runs() -> None:
    for signals in list(_elsewhere):
        if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
            signals.heard = signal.SIGINT
        signals._over.wait()


def _say(line: str) -> None:
    with suppress(Exception):  # standard error may be closed, as under `| tee`, or be written to when the signal arrives
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
