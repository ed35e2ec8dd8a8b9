"""Small arrays of weights joined to one vector while a loop trains, since each operation costs a small network a part of its step.

The optimizer then has one array to update instead of many. This is right only if it treats all arrays alike and each number by itself, as
Adam does, and a mask or a clipped norm does not. Whether it does is found in its jaxpr.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal

from flaxfit.shapes import Scalar
from flaxfit.task import optimizers
from flaxfit.task.task import Task

LARGEST = 2**11
"""The largest size of an array that is joined with others. Larger arrays stay apart, because the vector is copied in each step."""
_EACH_NUMBER = {
    "abs", "add", "and", "cbrt", "clamp", "convert_element_type", "copy", "cos", "div", "eq", "erf", "exp", "expm1", "ge", "gt",
    "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rsqrt",
    "select_n", "sign", "sin", "sqrt", "square", "stop_gradient", "sub", "tanh",
}  # fmt: skip
"""The names of operations that compute each number of their result from the numbers at the same place."""
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call"}


class Packed(NamedTuple):
    """A tree of weights as the vector of its small arrays, and the others in their order."""

    vector: Array
    others: tuple[Array, ...]


@dataclass(frozen=True)
class Packing:
    """How the arrays of a tree of weights are joined.

    Attributes:
      structure: the structure of the tree.
      shapes: the shapes of its leaves.
      small: for each leaf, whether it is joined with the others.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    small: tuple[bool, ...]

    def packed(self, tree: Any) -> Any:
        """Returns `tree` with a `Packed` in the place of each part that is like the weights."""

        def pack(part: Any) -> Any:
            if not self.like_weights(part):
                return part
            leaves = list(zip(jax.tree.leaves(part), self.small, strict=True))
            vector = jnp.concatenate([leaf.ravel() for leaf, small in leaves if small])
            return Packed(vector, tuple(leaf for leaf, small in leaves if not small))

        return jax.tree.map(pack, tree, is_leaf=self.like_weights)

    def unpacked(self, tree: Any) -> Any:
        """Returns what `packed` was given."""

        def unpack(part: Any) -> Any:
            if not isinstance(part, Packed):
                return part
            leaves, others, at = [], iter(part.others), 0
            for shape, small in zip(self.shapes, self.small, strict=True):
                size = math.prod(shape)
                leaves.append(part.vector[at : at + size].reshape(shape) if small else next(others))
                at += size * small
            return jax.tree.unflatten(self.structure, leaves)

        return jax.tree.map(unpack, tree, is_leaf=lambda part: isinstance(part, Packed))

    def like_weights(self, part: Any) -> bool:
        """Whether a part of a tree has the structure and the shapes of the weights."""
        leaves, structure = jax.tree.flatten(part)
        return structure == self.structure and tuple(leaf.shape for leaf in leaves) == self.shapes


def packing_of(task: Task, params: Any, opt_state: Any) -> Packing | None:
    """Returns how the weights of a task can be joined while it trains, or None if its optimizer or they do not allow it.

    Args:
      task: what is trained.
      params: the weights, or their shapes.
      opt_state: the state of the optimizer.
    """
    leaves, structure = jax.tree.flatten(params)
    small = tuple(leaf.size <= LARGEST and leaf.dtype == jnp.float32 for leaf in leaves)
    if sum(small) < 2 or task.trainable is not None or task.constraint is not None:
        return None
    packing = Packing(structure, tuple(leaf.shape for leaf in leaves), small)
    try:
        values = _Values()
        apart = _formulas(values, task, params, opt_state, packing.like_weights)
        params, opt_state = jax.eval_shape(packing.packed, (params, opt_state))
        joined = _formulas(values, task, params, opt_state, lambda part: isinstance(part, Packed))
    except Exception:  # It mixes numbers, needs the objective, or knows the arrays by name. If it is wrong, the training step says so.
        return None
    return packing if apart == joined else None


class _Mixed(Exception):
    """An operation mixes numbers of several places."""


def _formulas(values: _Values, task: Task, params: Any, state: Any, is_part: Callable[[Any], bool]) -> list[int]:
    """Returns the number of the formula by which an optimizer computes each part of its updates and of its state.

    Args:
      values: which numbers formulas have.
      task: what is trained.
      params: shapes of the weights.
      state: shapes of the state of the optimizer.
      is_part: whether a part of a tree has one array for each of `params`.

    Raises:
      _Mixed: the arrays of a part have several formulas, or one that mixes them or numbers of several places.
    """

    def update(gradients: Any, state: Any, params: Any) -> Any:
        return optimizers.update(task.optimizer, gradients, state, params, jnp.zeros(()), _unknown)

    def places(tree: Any) -> list[tuple[int, int | None]]:
        """For each leaf: the number of the part that it is in, and its place there if that part has one for each of `params`."""
        parts = enumerate(jax.tree.leaves(tree, is_leaf=is_part))
        return [(number, leaf if is_part(part) else None) for number, part in parts for leaf in range(len(jax.tree.leaves(part)))]

    given = params, state, params
    closed, shapes = jax.make_jaxpr(update, return_shape=True)(*given)
    found = values.of(closed, [values.given(*place) for place in places(given)])
    formulas: dict[int, int] = {}
    for value, (part, leaf) in zip(found, places(shapes), strict=True):
        if value.leaf not in ((None,) if leaf is None else (leaf, "any")) or formulas.setdefault(part, value.formula) != value.formula:
            raise _Mixed
    return list(formulas.values())


def _unknown(_: Any) -> Scalar:
    raise _Mixed  # the objective depends on all of them


class _Value(NamedTuple):
    """What is known of an array of a jaxpr.

    Attributes:
      formula: the number of the formula that computes it, in which all leaves of a part are one.
      leaf: of which leaf it is computed, "any" for a scalar that was broadcast, or None for what all leaves share.
      scalar: whether it is a scalar.
    """

    formula: int
    leaf: int | str | None
    scalar: bool = False


class _Values:
    """Finds by which formula each result of a jaxpr is computed. Equal formulas have equal numbers."""

    def __init__(self) -> None:
        self._formulas: dict[Any, int] = {}
        self._consts: list[Any] = []  # whose identities are in the formulas

    def _number(self, *formula: Any) -> int:
        return self._formulas.setdefault(formula, len(self._formulas))

    def given(self, part: int, leaf: int | None) -> _Value:
        """Returns an input."""
        return _Value(self._number("given", part), leaf)

    def of(self, closed: ClosedJaxpr, inputs: Sequence[_Value]) -> list[_Value]:
        """Returns the results of a jaxpr.

        Raises:
          _Mixed: one of them is computed of numbers of several places.
        """
        jaxpr = closed.jaxpr
        self._consts += closed.consts
        consts = [_Value(self._number("constant", id(const)), None) for const in closed.consts]
        known: dict[Any, _Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

        def value(atom: Any) -> _Value:
            found = _Value(self._number("literal", str(atom.val), str(atom.val.dtype)), None) if isinstance(atom, Literal) else known[atom]
            return found._replace(scalar=getattr(atom.aval, "shape", None) == ())

        for eqn in jaxpr.eqns:
            known |= zip(eqn.outvars, self._results(eqn, [value(atom) for atom in eqn.invars]), strict=True)
        return [value(atom) for atom in jaxpr.outvars]

    def _results(self, eqn: Any, inputs: list[_Value]) -> list[_Value]:
        name, formulas = eqn.primitive.name, tuple(each.formula for each in inputs)
        inner = next((each for each in eqn.params.values() if isinstance(each, ClosedJaxpr)), None)
        if name in _CALLS and inner is not None:
            return self.of(inner, inputs)
        leaves = {each.leaf for each in inputs} - {None, "any"}
        if leaves or any(each.leaf == "any" for each in inputs):
            shared = any(each.leaf is None and not each.scalar for each in inputs)
            if name not in _EACH_NUMBER or shared or len(leaves) > 1:
                raise _Mixed
            options = {key: option for key, option in eqn.params.items() if key != "sharding"}
            return [_Value(self._number(name, str(options), *formulas), next(iter(leaves), "any"))]
        if name == "broadcast_in_dim" and inputs[0].scalar:
            return [_Value(self._number(name, *formulas), "any")]
        return [_Value(self._number(name, str(eqn.params), place, *formulas), None) for place in range(len(eqn.outvars))]
