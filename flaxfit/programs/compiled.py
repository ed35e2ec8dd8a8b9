"""Compiled programs. Each task holds its own `jax.jit` functions, so that they are freed with it and a second call compiles nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax

from flaxfit.programs import disk
from flaxfit.task.task import Task

MakeTask = Callable[[Mapping[str, Any]], Task] | Task
"""A function of a mapping of hyperparameters that returns a Task; or a Task."""


MOST_FUNCTIONS = 64
"""How many functions a task keeps. The one that was not asked for the longest goes first."""
MOST_SHAPES = 16
"""For how many shapes of its arguments a function stays compiled. Beyond that, the next call compiles again."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Found:
    """Holds a value that is not an array, so that a traced function can return it."""

    value: Any = field(metadata={"static": True})


class Programs:
    """The programs of a task; or of all tasks of a `make_task` that differ only in numbers, which are arguments of the programs.

    Args:
      make: the task or the `make_task`.
      static: the names and values of the hyperparameters that are compiled in.
    """

    make: MakeTask
    static: tuple[tuple[str, Hashable], ...]

    def __init__(self, make: MakeTask, static: tuple[tuple[str, Hashable], ...] = ()):
        self.make, self.static = make, static
        self._functions: dict[Hashable, Any] = {}
        self._kept: dict[Hashable, Any] = {}
        self._compiled: set[Hashable] = set()
        self._lock = threading.RLock()  # threads of a population ask for the same program at the same time

    def task(self, numbers: Mapping[str, Any]) -> Task:
        """Returns the task for these numbers, which may be traced."""
        return self.make if isinstance(self.make, Task) else self.make({**dict(self.static), **numbers})

    def jit(self, what: Hashable, function: Callable[..., Any], **options: Any) -> Any:
        """Returns `jax.jit(function)`, made once for each `what` that is in use. The function may depend only on the task and on `what`."""
        with self._lock:
            found: Any = self._functions.pop(what, None) or jax.jit(function, **options)
            self._functions[what] = found
            if len(self._functions) > MOST_FUNCTIONS:
                del self._functions[next(iter(self._functions))]
            if found._cache_size() > MOST_SHAPES:  # each compiled program takes about 10 MB
                found.clear_cache()
            return found

    def compiled(self, what: Hashable, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Returns the function of `jit`, already compiled for these arguments. Raises whatever the function raises when it is traced."""
        return self.side_by_side((what, function, args, options))[0]

    def side_by_side(self, *programs: tuple[Hashable, Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]) -> list[Any]:
        """Returns several functions as `compiled` does. They are traced one after the other, but compiled at the same time.

        Args:
          programs: the arguments of `compiled` for each function.
        """
        functions, waiting = [], []
        with self._lock, ThreadPoolExecutor(len(programs)) as pool:
            for what, function, args, options in programs:
                functions.append(self.jit(what, function, **options))
                leaves, structure = jax.tree.flatten(args)
                shapes = what, structure, tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
                if shapes not in self._compiled:
                    lowered = functions[-1].lower(*args)  # JAX keeps what comes of it, for the call
                    waiting.append((shapes, pool.submit(disk.compiled, lowered)))
            for shapes, compiled in waiting:
                compiled.result()
                self._compiled.add(shapes)
        return functions

    def found(self, what: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Returns what `function` returns when it is traced for arguments of these shapes, which may be any value. JAX caches it."""
        with self._lock:
            return self.jit(what, lambda *traced: _Found(function(*traced))).eval_shape(*args).value

    def kept(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what `make` returned at its first call with this `what` that raised nothing."""
        with self._lock:
            if what not in self._kept:
                self._kept[what] = make()
            return self._kept[what]


def programs_of(make: MakeTask, static: tuple[tuple[str, Hashable], ...] = ()) -> Programs:
    """The programs of a task or `make_task`, which holds them itself."""
    holder, name = getattr(make, "__self__", make), getattr(make, "__name__", "")  # a bound method's object
    attributes = getattr(holder, "__dict__", None)
    held = attributes.setdefault("_flaxfit_programs", _Held()) if isinstance(attributes, dict) else _Held()
    return held.setdefault((name, static), Programs(make, static))


class _Held(dict[Any, Programs]):
    """The programs that an object holds. A copy or a pickle of the object holds none, because compiled programs do not travel."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Held, ()
