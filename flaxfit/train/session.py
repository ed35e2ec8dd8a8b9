"""Runs that outlive their process: what is recorded of them, whether they may go on, and what signals do."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import FrameType, TracebackType
from typing import Any, Literal, Self

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.data.dataset import Dataset
from flaxfit.devices.distributed import ALONE, Team
from flaxfit.history import History
from flaxfit.state import RunState
from flaxfit.storage.checkpoints import Checkpoints, placed, unfilled
from flaxfit.storage.directory import RunDirectory, differences, environment
from flaxfit.train.stopping import EarlyStopping
from flaxfit.train.task import Task

Resume = Literal["auto", "never", "must"]


class Session:
    """A run directory while `fit` works in it: a context manager that keeps others out.

    Args:
      run_dir: the directory.
      resume: whether to go on with what is there.
      config: what is run, as `described` says it.
      signals: what ends the run; by default what this session hears itself.
      team: the processes of the run, all of which have a session; the first one reads and writes the directory.

    Attributes:
      directory: the run directory.
      state: what `restore` found, None where there is nothing.
      signals: what was heard.

    Raises:
      ValueError, RuntimeError, FileExistsError, FileNotFoundError: on entering, as `fit` says.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        resume: Resume,
        config: Mapping[str, Any],
        signals: Signals | None = None,
        team: Team = ALONE,
    ):
        if resume not in ("auto", "never", "must"):
            raise ValueError(unknown("way to resume", str(resume), ("auto", "never", "must")))
        self.directory, self._resume, self.state, self._team = RunDirectory(run_dir), resume, None, team
        self._old: dict[str, Any] | None = None
        self._config, self._stack, self._own, self.signals = dict(config), ExitStack(), signals is None, signals or Signals()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with self._team.together():
                if self._team.leads:
                    stack.enter_context(self.directory.lock())
                    self._open()
            if self._own:
                stack.enter_context(self.signals)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _open(self) -> None:
        self._old = self.directory.read_config()
        if self._resume == "never" and self._old is not None:
            raise FileExistsError(f'{self.directory.path} holds a run: resume="auto" goes on with it; or name another directory.')
        if self._resume == "must" and self._old is None:
            raise FileNotFoundError(f'{self.directory.path} holds no run to resume; resume="auto" starts one.')
        self._check(("program",))

    def confirm(self, program: str) -> None:
        """That the program is the recorded one, by a hash of it; records the configuration.

        Raises:
          ValueError: it is another.
        """
        self._config["program"] = program
        self._config["environment"] = environment()
        with self._team.together():
            if self._team.leads:
                self._check(())
                self.directory.write_config(self._config)

    def check_epochs(self, done: int) -> None:
        """That the run has not gone further than it is to go.

        Raises:
          ValueError: it has.
        """
        if done > (asked := self._config["arguments"]["epochs"]):
            if self._old is not None:
                self.directory.write_config(self._old)
            cure = f"ask for {done} or more, or name another directory"
            raise ValueError(f"the run in {self.directory.path} has {done} epochs already, {asked} were asked for: {cure}.")

    def restore(self, like: RunState, names: Sequence[str]) -> History | None:
        """The epochs up to the newest whole checkpoint, whose state is then in `state`; None where there is none.

        Raises:
          ValueError: they are more than this run is to have.
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
        self.check_epochs(epochs)
        arrays, rows = (unfilled(like), np.empty((epochs, len(names)))) if found is None else found[:2]
        self.state = placed({name: self._team.from_first(arrays[name]) for name in sorted(arrays)}, like)
        rows = self._team.from_first(rows)
        history = History({name: rows[:, column] for column, name in enumerate(names)})
        with self._team.together():
            if self._team.leads:
                self.directory.write_metrics(history)  # without the epochs after the checkpoint, which will come again
        return history

    def finish(self, task: Task, data: Dataset, result: Any) -> None:
        """Writes the best model for `flaxfit.load`; or, where a signal was heard, ends the process.

        Raises:
          SystemExit: 130 for SIGINT, 143 for SIGTERM.
        """
        if (heard := self.signals.heard) is not None:
            if not self._team.leads:
                raise SystemExit(128 + heard)
            epochs = f"{len(result.history.epochs)} of {self._config['arguments']['epochs']} epochs"
            sys.stderr.write(f"{heard.name}: saved after {epochs}. To go on: the same command, or flaxfit resume {self.directory.path}\n")
            raise SystemExit(128 + heard)
        with self._team.together():
            if self._team.leads:
                self._export(task, data, result)

    def _export(self, task: Task, data: Dataset, result: Any) -> None:
        from flaxfit.storage.export import export

        about = {"best_epoch": result.best_epoch, "epochs": len(result.history.epochs), "stop_reason": result.stop_reason}
        if self._old is not None and result.timing.chunks == 0 and self.directory.export.is_dir():
            return
        try:
            export(self.directory.export, task, result.best, data[:1], about=about | {"arguments": self._config["arguments"]})
        except ValueError as error:
            warnings.warn(f"the run is saved, but its model has no export for flaxfit.load: {error}", RuntimeWarning, stacklevel=4)

    def _check(self, later: tuple[str, ...]) -> None:
        """That the run in the directory is this one; versions and device are listed only where something else differs."""
        if self._old is None:
            return
        rows = [about["data"]["train"].get("rows") for about in (self._old, self._config)]
        if None in rows:  # of several processes, which have some each: the checksum tells
            later = (*later, "data.train.rows")
        changed = differences(self._old, self._config, ("arguments.epochs", "environment", *later))
        if changed:
            if "environment" in self._config:
                newly = tuple(f"environment.{name}" for name in ("commit", "command", "directory", "started"))
                changed += differences(self._old or {}, self._config, ("arguments", "task", "data", "program", *newly))
            lines = "".join(f"\n  {line}" for line in changed)
            raise ValueError(f"the run in {self.directory.path} was another: undo these changes, or name another directory.{lines}")


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `fit` that a configuration records."""
    arguments = dict(config["arguments"])
    if arguments["early_stopping"] is not None:
        arguments["early_stopping"] = EarlyStopping(**arguments["early_stopping"])
    if arguments["class_weight"] is not None:
        arguments["class_weight"] = {int(label): factor for label, factor in arguments["class_weight"].items()}
    return arguments


def described(task: Task, arguments: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is, as plain values: arguments, task, and data as `recorded` says it."""
    stopping, weights = arguments["early_stopping"], arguments["class_weight"]
    plain = {
        "early_stopping": None if stopping is None else asdict(stopping),
        "class_weight": None if weights is None else {str(label): float(factor) for label, factor in weights.items()},
    }
    about = {
        "model": re.sub(r" at 0x[0-9a-f]+", "", repr(task.model)),
        "loss": task.loss_name,
        "metrics": list(task.metrics),
        "penalty": task.penalty is not None,
    }
    return {"arguments": {**arguments, **plain}, "task": about, "data": dict(data)}


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

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.heard = signal.Signals(number)
        sys.stderr.write(f"\n{self.heard.name}: the run will end after this chunk and be saved; once more ends it at once.\n")


def checksum(rows: Any, team: Team = ALONE) -> dict[str, Any]:
    """Of the arrays, those of all processes one after the other; a stream's are not read for it."""
    if not isinstance(rows, Dataset):
        return {}
    crc = 0
    for path, leaf in rows.leaves():
        array = np.ascontiguousarray(leaf)
        shape = (team.size * array.shape[0], *array.shape[1:])
        crc = zlib.crc32(f"{path} {array.dtype} {shape}".encode(), crc)
        for process in range(team.size):
            crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc) if process == team.index else 0
            crc = int(team.gather(crc)[process])
    return {"crc32": crc}
