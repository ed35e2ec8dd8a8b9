"""Metrics of a whole set of examples: which of them run inside the compiled program, and the values of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flaxfit.metrics import is_sklearn
from flaxfit.programs.compiled import Programs
from flaxfit.task.task import Task

_NOT_JAX = (
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    TypeError,
    AttributeError,
)


def on_host(programs: Programs, task: Task, numbers: Mapping[str, Any], logits: Any, y: Any, rows: int) -> tuple[str, ...]:
    """Returns the names of the set metrics that JAX cannot trace and lower, so that they have to run on the host.

    Args:
      programs: the programs of the task, which cache the answer.
      task: the task for these numbers.
      numbers: the traced hyperparameters of the task.
      logits, y: outputs and targets of any number of examples, or their shapes.
      rows: the number of examples of the set.

    Raises:
      ValueError: a metric fails, or does not return one number.
    """
    whole = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), (logits, y))
    leaves, structure = jax.tree.flatten(whole)
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves), structure

    def found() -> tuple[str, ...]:
        return tuple(name for name in task.set_metrics if is_sklearn(task.set_metrics[name]) or not _lowers(programs, name, numbers, whole))

    return programs.kept(("set metrics", shapes), found) if task.set_metrics else ()


def compiled(programs: Programs, name: str) -> Any:
    """Returns the compiled function (numbers, logits, y) -> value of a set metric."""
    return programs.jit(("set metric", name), lambda numbers, logits, y: programs.task(numbers).set_metrics[name](logits, y))


def _lowers(programs: Programs, name: str, numbers: Any, whole: Any) -> bool:
    try:
        # Lowering is needed, because some functions of NumPy call methods of a tracer with arguments that only lowering refuses.
        result = compiled(programs, name).lower(numbers, *whole).out_info
    except _NOT_JAX:
        return False
    except Exception as error:
        shapes = jax.tree.map(lambda a: a.shape, whole)
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"the set metric {name!r} fails on (logits {shapes[0]}, y {shapes[1]}): {said}") from error
    if getattr(result, "shape", None) != ():
        raise ValueError(f"the set metric {name!r} must return one number for the whole set, got {result}.")
    return True


def computed(metrics: Mapping[str, Callable[[Any, Any], Any]], logits: Any, y: Any) -> np.ndarray:
    """Returns the values of metrics of NumPy arrays, float32, shape (metrics,). They are NaN if an output of the model is NaN.

    Raises:
      ValueError: a metric does not return one number.
    """
    logits, y = jax.tree.map(np.asarray, (logits, y))
    values = np.full(len(metrics), np.nan, np.float32)
    if any(np.isnan(leaf).any() for leaf in jax.tree.leaves(logits)):
        return values
    for index, (name, metric) in enumerate(metrics.items()):
        try:
            value = np.asarray(metric(logits, y))
        except Exception as error:
            error.add_note(f"in Task(set_metrics=...), the metric {name!r}")
            raise
        if value.shape != () or value.dtype.kind not in "fiub":
            got = f"shape {value.shape}" if value.shape else repr(value[()])
            raise ValueError(f"the set metric {name!r} must return one number for the whole set, got {got}.")
        values[index] = value
    return values
