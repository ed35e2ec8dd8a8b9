"""Compiled programs. Each task holds its own `jax.jit` functions: they go when the task goes, and a second call compiles nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from flaxfit.train.task import Task

MakeTask = Callable[[Mapping[str, Any]], Task] | Task
"""A mapping of hyperparameters -> Task; or a Task."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Found:
    """A value that is not an array as the result of a traced function."""

    value: Any = field(metadata={"static": True})


class Programs:
    """The programs of a task, or of all tasks of a `make_task` that differ only in numbers, which are arguments of the programs.

    Args:
      make: the task or the `make_task`.
      static: names and values of the hyperparameters that are compiled in.
    """

    def __init__(self, make: MakeTask, static: tuple[tuple[str, Hashable], ...] = ()):
        self.make, self.static = make, static
        self._functions: dict[Hashable, Any] = {}
        self._kept: dict[Hashable, Any] = {}
        self._lock = threading.RLock()  # threads of a population ask for the same program at the same time

    def task(self, numbers: Mapping[str, Any]) -> Task:
        """The task for these numbers, which may be traced."""
        return self.make if isinstance(self.make, Task) else self.make({**dict(self.static), **numbers})

    def jit(self, what: Hashable, function: Callable[..., Any], **options: Any) -> Any:
        """`jax.jit(function)`, made once for each `what`; the function may depend on the task and on `what`, and on nothing else."""
        with self._lock:
            if what not in self._functions:
                self._functions[what] = jax.jit(function, **options)
            return self._functions[what]

    def compiled(self, what: Hashable, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """`jit`, compiled for these arguments already. Raises whatever tracing the function raises."""
        directory = os.environ.get("FLAXFIT_CACHE")
        if directory and not jax.config.values["jax_compilation_cache_dir"]:  # another process then only traces
            jax.config.update("jax_compilation_cache_dir", str(Path(directory).resolve() / "programs"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        with self._lock:
            jitted = self.jit(what, function, **options)
            jitted.lower(*args).compile()  # JAX keeps both, for the call
        return jitted

    def found(self, what: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """What `function` returns when it is traced for arguments of these shapes; JAX keeps it. It may be any value."""
        with self._lock:
            return self.jit(what, lambda *traced: _Found(function(*traced))).eval_shape(*args).value

    def kept(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned at the first call with this `what` that did not raise."""
        with self._lock:
            if what not in self._kept:
                self._kept[what] = make()
            return self._kept[what]


def programs_of(make: MakeTask, static: tuple[tuple[str, Hashable], ...] = ()) -> Programs:
    """The programs of a task or `make_task`, which holds them itself."""
    holder, name = getattr(make, "__self__", make), getattr(make, "__name__", "")  # a bound method's object
    attributes = getattr(holder, "__dict__", None)
    held = attributes.setdefault("_flaxfit_programs", {}) if isinstance(attributes, dict) else {}
    return held.setdefault((name, static), Programs(make, static))
