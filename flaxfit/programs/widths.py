"""The number of examples of a validation step, chosen from shapes alone so that what is computed fits into the processor's cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from flaxfit.data.dataset import Dataset
from flaxfit.programs.checks import check_model
from flaxfit.programs.compiled import Programs
from flaxfit.task.task import Task

_BYTES = 4 * 2**20
_LEAST = 256
_USUAL = 1024
_FREE = ("reshape", "squeeze", "broadcast_in_dim")
"""Operations that compute nothing."""


def validation_rows(programs: Programs, numbers: Mapping[str, Any], row: Dataset, rows: int) -> int:
    """Returns how many examples fit into 4 MB of the widest array of the model, and into 64 MB of its inputs, but at least 256.

    Args:
      programs: the programs of the task.
      numbers: its traced hyperparameters.
      row: one example.
      rows: the number of examples to trace, since a model may not take other numbers.
    """
    try:
        widest, inputs = programs.found(("widest", rows), lambda n, x: _widest(programs.task(n), x, rows), numbers, row.x)
    except Exception:  # the checks report what is wrong
        return _USUAL
    return max(_LEAST, min(_BYTES // max(widest, 1), 16 * _BYTES // max(inputs, 1)))


def _widest(task: Task, x: Any, rows: int) -> tuple[int, int]:
    """Returns the bytes for each example of the widest array that the model computes, and of its inputs."""
    state = check_model(task, x, rows)
    x = jax.eval_shape(task.prepared, jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), x))
    closed = jax.make_jaxpr(task.apply)(state.params, state.collections, x)
    shapes: list[Any] = [out.aval for eqn in closed.jaxpr.eqns if eqn.primitive.name not in _FREE for out in eqn.outvars]
    widest = max((_bytes(a) for a in shapes if getattr(a, "shape", ())[:1] == (rows,)), default=0)
    return widest, sum(map(_bytes, jax.tree.leaves(x)))


def _bytes(array: Any) -> int:
    return math.prod(array.shape[1:]) * array.dtype.itemsize
