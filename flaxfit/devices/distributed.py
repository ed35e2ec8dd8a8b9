"""Several processes that make one run: how they start, agree, and end when one of them is lost.

Every process runs the same script. What they compute together is one program over all devices; between its chunks they agree on what
the first one decides and on what any of them heard.
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
_lost: list[str] = []  # why this process must not wait for the others at its end: they are gone, or wait for it


def initialize(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process with the others of a run; before anything else touches JAX.

    What is not given comes from the environment variables `FLAXFIT_COORDINATOR`, `FLAXFIT_PROCESSES` and `FLAXFIT_PROCESS`, or from
    what JAX detects of a cluster (Slurm, Open MPI, Kubernetes, Cloud TPU). Then `fit(..., mesh=Mesh(jax.devices(), ("data",)))` is one
    run of all.

    Args:
      coordinator: address and port of the first process, such as `"10.0.0.1:1234"`.
      processes: how many there are.
      process: this one's number, from 0.

    Raises:
      ValueError: only some of the three are given.
      RuntimeError: JAX has been used already, or the others do not come.

    Example:
      >>> initialize(processes=2)
      Traceback (most recent call last):
      ValueError: give coordinator, processes and process together, or none of them; missing: coordinator, process.
    """
    named: dict[str, Any] = {"coordinator": coordinator, "processes": processes, "process": process}
    named = {name: os.environ.get(f"FLAXFIT_{name.upper()}") if value is None else value for name, value in named.items()}
    missing = [name for name, value in named.items() if value is None]
    if 0 < len(missing) < 3:
        raise ValueError(f"give coordinator, processes and process together, or none of them; missing: {', '.join(missing)}.")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM, which is for the run to hear
    count, number = (None if missing else int(named[name]) for name in ("processes", "process"))
    jax.distributed.initialize(named["coordinator"], count, number)
    atexit.register(_leave)  # before JAX's own, which waits minutes for processes that are gone


def _leave() -> None:
    if _lost:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


@dataclass(frozen=True)
class Team:
    """The processes of a run. All call the same methods in the same order.

    Attributes:
      size: how many there are; of 1, every method answers by itself.
    """

    size: int = 1

    @property
    def index(self) -> int:
        """The number of this process."""
        return jax.process_index() if self.size > 1 else 0

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and lets callbacks look."""
        return self.index == 0

    def gather(self, number: int) -> np.ndarray:
        """Everybody's number (from 0 to below 2**32), by process."""
        if self.size == 1:
            return np.array([number])
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(np.uint32(number))).astype(int)

    def from_first(self, array: np.ndarray) -> np.ndarray:
        """The first process's array, bit for bit; the others give one of the same shape and type."""
        if self.size == 1 or not array.size:
            return array
        from jax.experimental import multihost_utils

        words = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return np.asarray(multihost_utils.broadcast_one_to_all(words)).view(array.dtype).reshape(array.shape)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside succeeds for all or fails for all, instead of leaving some to wait for the others.

        Raises:
          RuntimeError: it failed for another process.
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
            raise RuntimeError(f"process {failed[0]} of {self.size} failed, so this one ends too; its own error says why.")

    @contextmanager
    def watch(self, directory: Any) -> Iterator[None]:
        """Says what happened where the end of another process breaks off what is done inside.

        Args:
          directory: where the run's checkpoints are, or None.

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
            how = "There are no checkpoints to go on from: fit(run_dir=...) makes some."
            if directory is not None:
                how = f"Start all again with the same command: it goes on from its last checkpoint in {directory}, on another"
                how += " number of processes too, if these have the same rows in all."
            what = " ".join(str(error).split())[:200]
            raise RuntimeError(f"another of the {self.size} processes of this run was lost ({what}). {how}") from error


ALONE = Team()
