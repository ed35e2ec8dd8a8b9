"""What the jaxpr of a model shows before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, Literal

_FREE = ("reshape", "squeeze", "broadcast_in_dim")
"""Operations that compute nothing."""
_SHAPES = {
    "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "transpose", "copy", "stop_gradient", "slice",
    "dynamic_slice", "gather",
}  # fmt: skip


def gives_probabilities(jaxpr: Jaxpr) -> str | None:
    """Returns "sigmoid" or "softmax" if the model ends in one; None if it ends in something else or has several outputs."""
    if len(jaxpr.outvars) != 1:
        return None
    name, inputs = _source(jaxpr, jaxpr.outvars[0], {})
    if name == "logistic":
        return "sigmoid"
    return "softmax" if name == "div" and [source()[0] for source in inputs] == ["exp", "reduce_sum"] else None


def widest(jaxpr: Jaxpr, rows: int) -> int:
    """Returns the bytes for each example of the widest array that a model computes for so many rows."""
    arrays: list[Any] = [out.aval for eqn in jaxpr.eqns if eqn.primitive.name not in _FREE for out in eqn.outvars]
    return max((bytes_of_a_row(array) for array in arrays if getattr(array, "shape", ())[:1] == (rows,)), default=0)


def bytes_of_a_row(tree: Any) -> int:
    """Returns the bytes for each example of a tree of arrays with a leading axis of examples."""
    return sum(math.prod(array.shape[1:]) * array.dtype.itemsize for array in jax.tree.leaves(tree))


def averages_a_single_row(jaxpr: Jaxpr) -> bool:
    """Whether a mean over the examples, such as that of batch norm, is taken over a single number."""
    for equation in _equations(jaxpr):
        if equation.primitive.name == "reduce_sum":
            axes, shape = equation.params["axes"], equation.invars[0].aval.shape
            if 0 in axes and math.prod(shape[axis] for axis in axes) == 1:
                return True
    return False


def _source(jaxpr: Jaxpr, variable: Any, outside: dict[Any, Any]) -> tuple[str, list[Any]]:
    """Returns the operation that computes a variable, not counting changes of shape and type, and functions that return it for its inputs.

    Args:
      jaxpr: the jaxpr of the variable.
      variable: the variable.
      outside: if `jaxpr` is part of another one, its inputs -> functions that return the operations that compute them.
    """
    if isinstance(variable, Literal):
        return "", []
    if variable in outside:
        return outside[variable]()
    equation = next((e for e in jaxpr.eqns if variable in e.outvars), None)
    if equation is None:
        return "", []
    inputs = [lambda v=v: _source(jaxpr, v, outside) for v in equation.invars]
    inner = next(_inside(equation), None)
    if inner is not None and len(inner.invars) == len(inputs) and len(inner.outvars) == len(equation.outvars):
        return _source(inner, inner.outvars[equation.outvars.index(variable)], dict(zip(inner.invars, inputs, strict=True)))
    return inputs[0]() if equation.primitive.name in _SHAPES else (equation.primitive.name, inputs)


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in _inside(equation):
            yield from _equations(inner)


def _inside(equation: Any) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for part in value if isinstance(value, tuple) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part
