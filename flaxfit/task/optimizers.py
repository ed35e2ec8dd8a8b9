"""What optax's optimizers need besides gradients, and which weights they evaluate."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import CellType, FunctionType, MethodType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import SAMState, ScheduleFreeState

_EMPTY = CellType()
_PRIVATE = {"differentially_private_aggregate", "dpsgd"}


class LookaheadState(NamedTuple):
    """The state of an adapted `optax.lookahead`."""

    inner: Any
    slow: Any  # as params


_KEEPS_OTHER_WEIGHTS = (SAMState, ScheduleFreeState, LookaheadState)


def adapted(optimizer: Any) -> optax.GradientTransformation:
    """Returns `optimizer` as a transformation of a single set of weights, which `update` can call.

    `optax.lookahead` works on pairs of fast and slow weights. Here the slow weights become part of its state.

    Raises:
      TypeError: it is not an optax transformation.
      ValueError: it cannot work here. The message names it and a replacement.
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)  # pyright: ignore[reportArgumentType]
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"Task(optimizer=...) must be an optax transformation such as optax.adam(1e-3), got {type(optimizer).__name__}.")
    names = _names(optimizer)
    if private := names & _PRIVATE:
        raise ValueError(
            f"Task(optimizer=...) cannot use optax's {min(private)}, which needs the gradient of each example; a training step computes "
            "the gradient of the batch. For noise without a privacy guarantee, chain optax.clip_by_global_norm and optax.add_noise."
        )
    if getattr(optimizer.init, "__qualname__", "") == "lookahead.<locals>.init_fn":
        return _lookahead(optimizer)
    if "lookahead" in names:
        raise ValueError(
            "Task(optimizer=...) can use optax.lookahead only as its outermost part, because it changes two sets of weights: "
            "optax.lookahead(optax.chain(...), sync_period=..., slow_step_size=...)."
        )
    return optimizer


def update(
    optimizer: optax.GradientTransformation, gradients: Any, state: Any, params: Any, value: Array, value_fn: Callable[[Any], Array]
) -> tuple[Any, Any]:
    """Returns the updates of an optimizer and its next state. It passes on the extra arguments of optax that the optimizer accepts.

    Args:
      optimizer: an optimizer that `adapted` returned.
      gradients: the gradients of the objective at `params`.
      state: the state of the optimizer.
      params: the weights.
      value: the objective at `params`.
      value_fn: params -> objective, on the same batch with the same random keys. If `optax.masked` hides a leaf from a part of the
        optimizer, the present value of that leaf is used.
    """

    def objective(part: Any, obj_fn: Any = None, grad_fn: Any = None) -> Array:  # line searches pass arguments that they do not know
        return value_fn(completed(part, params))

    gradient = jax.grad(objective)
    extras: dict[str, Any] = {
        "value": value,
        "grad": gradients,
        "value_fn": objective,  # line searches, L-BFGS
        "obj_fn": objective,  # Sophia
        "grad_fn": lambda part, _: gradient(part),  # SAM's opaque mode; its second argument counts adversarial steps
    }
    optimizer = optax.with_extra_args_support(optimizer)
    while True:  # SAM and transformations of users take some of these and refuse the others, perhaps deep inside a chain
        try:
            return optimizer.update(gradients, state, params, **extras)
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or extras.pop(refused[1], None) is None:
                raise
        except ValueError as error:
            if "MaskedNode" not in str(error) or not _names(optimizer) & {"scale_by_zoom_linesearch", "scale_by_backtracking_linesearch"}:
                raise
            raise ValueError(
                "a line search, which is also part of L-BFGS, must be given the gradient of the parameters that it changes: use "
                "optax.masked(..., mask_compatible_extra_args=True), or the same argument of optax.partition."
            ) from error


def keeps_other_weights(state: Any) -> bool:
    """Whether an optimizer with this state evaluates other weights than those it trains, as SAM, schedule-free and lookahead do."""
    return any(isinstance(part, _KEEPS_OTHER_WEIGHTS) for part in _parts(state))


def evaluation_weights(state: Any, params: Any) -> Any:
    """Returns the weights that are to be evaluated according to the authors of an optimizer. For most optimizers these are `params`.

    For SAM they are the weights before the adversarial step (Foret et al. 2021), for schedule-free optimizers the average x (Defazio et
    al. 2024), and for lookahead the slow weights (Zhang et al. 2019).
    """
    for part in _parts(state):
        if isinstance(part, SAMState) and part.cache is not None:
            params = completed(jax.tree.map(_where(part.steps_since_sync == 0), _like(part.cache, params), part.cache), params)
        elif isinstance(part, ScheduleFreeState):
            params = completed(optax.contrib.schedule_free_eval_params(part, _like(part.z, params)), params)
        elif isinstance(part, LookaheadState):
            params = part.slow
    return params


def completed(part: Any, params: Any) -> Any:
    """Returns `part` after filling the leaves that `optax.masked` removed with those of `params`."""
    return jax.tree.map(lambda new, old: old if _missing(new) else new, part, params, is_leaf=_missing)


def _like(part: Any, params: Any) -> Any:
    """Returns `params` without the leaves that are missing in `part`."""
    return jax.tree.map(lambda mine, p: mine if _missing(mine) else p, part, params, is_leaf=_missing)


def _missing(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def _where(condition: Array) -> Callable[[Array, Array], Array]:
    return lambda new, old: jnp.where(condition, new, old)


def _parts(state: Any) -> list[Any]:
    return jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, _KEEPS_OTHER_WEIGHTS))


def _lookahead(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    def init(params: Any) -> LookaheadState:
        both: Any = optax.LookaheadParams.init_synced(params)
        return LookaheadState(optimizer.init(both), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, LookaheadState]:
        both: Any = optax.LookaheadParams(fast=params, slow=state.slow)
        changes: Any
        changes, inner = optimizer.update(updates, state.inner, both)
        return changes.fast, LookaheadState(inner, optax.apply_updates(state.slow, changes.slow))

    return optax.GradientTransformation(init, update)


def _names(optimizer: Any) -> set[str]:
    """Returns the names of the optax functions that an optimizer is made of, which are found in its closures."""
    names, seen, todo = set(), set(), [optimizer]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, tuple | list):
            todo += node
        elif isinstance(node, dict):
            todo += node.values()
        elif isinstance(node, MethodType):  # of `optax.MultiSteps`
            todo += vars(node.__self__).values()
        elif isinstance(node, FunctionType) and node.__module__ != __name__:
            todo += [cell.cell_contents for cell in node.__closure__ or () if cell != _EMPTY]
            names |= {node.__qualname__.split(".")[0]} if node.__module__.startswith("optax.") else set()
    return names
