"""Runs of several processes: how these start, agree with each other, and end when one of them is lost.

Every process runs the same script, and together they compute one program over all devices. Between its chunks, the first process decides
for all, and a signal to any of them reaches all.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND")
HEARTBEAT_SECONDS = 100  # so long a process may be silent, such as one that is stopped, until the others end
_lost: list[str] = []  # Why this process must not wait for the others at its end: they are gone, or wait for it.


def initialize(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Connects this process with the other processes of a run. Call it before anything else uses JAX.

    Arguments that are not given are taken from the environment variables `FLAXFIT_COORDINATOR`, `FLAXFIT_PROCESSES` and `FLAXFIT_PROCESS`,
    or from the cluster that JAX detects (Slurm, Open MPI, Kubernetes, Cloud TPU). After that,
    `fit(..., mesh=Mesh(jax.devices(), ("data",)))` is one run of all processes.

    If a process dies while the others train, these end within seconds. If one hangs or is stopped, JAX ends the others within 100 seconds,
    because its heartbeats are missing. The same command resumes the run from its last checkpoint.

    Args:
      coordinator: the address and port of the first process, such as `"10.0.0.1:1234"`.
      processes: the number of processes.
      process: the number of this process, from 0.

    Raises:
      ValueError: only some of the three are given.
      RuntimeError: JAX has been used already, or the other processes cannot be reached.

    Example:
      >>> initialize(processes=2)
      Traceback (most recent call last):
      ValueError: pass coordinator, processes and process together, or none of them; missing: coordinator, process.
    """
    named: dict[str, Any] = {"coordinator": coordinator, "processes": processes, "process": process}
    named = {name: os.environ.get(f"FLAXFIT_{name.upper()}") if value is None else value for name, value in named.items()}
    missing = [name for name, value in named.items() if value is None]
    if 0 < len(missing) < 3:
        raise ValueError(f"pass coordinator, processes and process together, or none of them; missing: {', '.join(missing)}.")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # It would catch SIGTERM, on which the run saves.
    count, number = (None if missing else int(named[name]) for name in ("processes", "process"))
    jax.distributed.initialize(named["coordinator"], count, number, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    atexit.register(_leave)  # It runs before JAX's own handler, which waits minutes for processes that are gone.


def _leave() -> None:
    if _lost:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


@dataclass(frozen=True)
class Team:
    """The processes of a run, all of which call the same methods in the same order."""

    size: int = 1  # with 1, no method communicates

    @property
    def index(self) -> int:
        """The number of this process."""
        return jax.process_index() if self.size > 1 else 0

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and calls the callbacks."""
        return self.index == 0

    def gather(self, number: Any) -> np.ndarray:
        """Returns the number or array that each process has passed, from 0 to below 2**32, in the order of the processes."""
        if self.size == 1:
            return np.array([number])
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(np.uint32(number))).astype(int)

    def from_first(self, array: np.ndarray) -> np.ndarray:
        """Returns the array that the first process has passed. The others pass one of the same shape and type."""
        if self.size == 1 or not array.size:
            return array
        from jax.experimental import multihost_utils

        words = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return np.asarray(multihost_utils.broadcast_one_to_all(words)).view(array.dtype).reshape(array.shape)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Makes the block succeed in all processes or fail in all of them, so that none waits for another one forever.

        Raises:
          RuntimeError: the block failed in another process.
        """
        if self.size == 1:
            yield
            return
        error = None
        try:
            yield
        except BaseException as raised:
            error = raised
        failed = np.flatnonzero(self.gather(error is not None))
        if error is not None:
            raise error
        if len(failed):
            raise RuntimeError(f"process {failed[0]} of {self.size} failed, so this one ends as well. The error of that process says why.")

    @contextmanager
    def watch(self, directory: Any) -> Iterator[None]:
        """Raises an error that says what happened if the block fails because another process was lost.

        Args:
          directory: the directory of the run, or None.

        Raises:
          RuntimeError: a process was lost.
        """
        try:
            yield
        except (jax.errors.JaxRuntimeError, KeyboardInterrupt) as error:
            if self.size == 1:
                raise
            _lost.append(str(error))
            if isinstance(error, KeyboardInterrupt) or str(error).startswith(_OWN_FAULTS):
                raise
            how = "The run has no checkpoints to resume from: pass fit(run_dir=...) to save some."
            if directory is not None:
                how = f"Start all processes again with the same command, to resume from the last checkpoint in {directory}. There may be"
                how += " another number of processes, if together they have the same examples."
            what = " ".join(str(error).split())[:200]
            raise RuntimeError(f"another one of the {self.size} processes of this run was lost ({what}). {how}") from error


ALONE = Team()
