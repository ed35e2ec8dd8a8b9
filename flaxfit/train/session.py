"""The run directory while `fit` works in it."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.data.dataset import Dataset
from flaxfit.devices.distributed import ALONE, Team
from flaxfit.devices.sharding import gather
from flaxfit.durable import warned
from flaxfit.history import History
from flaxfit.programs.export import check_replaceable, export, holds
from flaxfit.state import RunState
from flaxfit.storage.checkpoints import Checkpoints, placed, unfilled
from flaxfit.storage.directory import RunDirectory, environment
from flaxfit.task.task import Task
from flaxfit.train.record import Resume, check_same_run
from flaxfit.train.result import Result


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

    def restore(self, like: RunState, names: Sequence[str], writers: Team = ALONE) -> tuple[RunState, History, Mapping[str, Any]] | None:
        """Returns the state, epochs and notes of the newest complete checkpoint, or None if there is none.

        Args:
          like: the structure of the state.
          names: the columns of the history.
          writers: the processes that the state is spread over, which read it together. By default the first one reads it for all.

        Raises:
          ValueError: it has more epochs than this run is to have; or it is spread over processes that do not see the directory.
        """
        found, epochs = None, -1
        if writers.size > 1:
            self._check_shared()
        with self._team.together():
            if self._team.leads or writers.size > 1:
                with Checkpoints(self.directory.checkpoints, run=self._config["run"], team=writers) as checkpoints:
                    found = checkpoints.read(like)
                epochs = -1 if found is None else len(found[1])
        epochs = self._team.gather(epochs + 1)[0] - 1
        if epochs < 0:
            with self._team.together():
                if self._team.leads:
                    self._check_space(like)
            return None
        asked = self._config["arguments"]["epochs"]
        if epochs > asked:
            if self._old is not None:
                self.directory.write_config(self._old)
            cure = f"pass epochs={epochs} or more, or use another directory"
            raise ValueError(f"the run in {self.directory.path} has {epochs} epochs already, but epochs={asked}: {cure}.")
        arrays, rows = (unfilled(like), np.empty((epochs, len(names)))) if found is None else found[:2]
        with self._team.together():
            if writers.size == 1:
                arrays = {name: self._team.from_first(arrays[name]) for name in sorted(arrays)}
            state = placed(arrays, like)
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

    def _check_shared(self) -> None:
        """Checks that all processes see the directory of the first one, and lets them know the identity of its run."""
        path = self.directory.config_path
        seen = self._team.gather(zlib.crc32(path.read_bytes()) if path.is_file() else 0)
        if (seen != seen[0]).any():
            raise ValueError(
                "fit(shard=...) spreads the state over several processes, and each of them saves its part in run_dir, but process "
                f"{np.flatnonzero(seen != seen[0])[0]} does not see there what process 0 has written: use a directory that they share."
            )
        self._config["run"] = self.directory.identity

    def _check_space(self, like: RunState) -> None:
        size = sum(array.nbytes for array in unfilled(like).values())
        free = shutil.disk_usage(self.directory.path).free
        if free < size:
            raise OSError(
                errno.ENOSPC, f"No space left: a checkpoint of this run takes {size:,} bytes, {free:,} are free", str(self.directory.path)
            )

    def export(self, task: Task, result: Result, row: Dataset) -> None:
        """Writes the best model for `flaxfit.load`, unless it is there already.

        Args:
          task: what was trained.
          result: the result of the run.
          row: a training row.
        """
        about = {"run": self._config.get("run"), "best_epoch": result.best_epoch, "epochs": len(result.history.epochs)}
        about |= {"stop_reason": result.stop_reason, "arguments": self._config["arguments"]}
        best = gather(result.best, keep=self._team.leads)
        with self._team.together():
            if not self._team.leads or holds(self.directory.export, task, best, about):
                return
            try:
                export(self.directory.export, task, best, row, about=about)
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
