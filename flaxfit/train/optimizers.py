"""What optax's transformations need beyond gradients, and which weights they want to have evaluated."""

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
    """What an adapted `optax.lookahead` keeps."""

    inner: Any
    slow: Any  # as params


_KEEPS_OTHER_WEIGHTS = (SAMState, ScheduleFreeState, LookaheadState)


def adapted(optimizer: Any) -> optax.GradientTransformation:
    """`optimizer` as a transformation of a single set of weights, which `update` can call.

    `optax.lookahead` works on pairs of fast and slow weights; here the slow ones become part of its state.

    Raises:
      TypeError: it is no optax transformation.
      ValueError: it is one that cannot work. The message names it and says what does.
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)  # pyright: ignore[reportArgumentType]
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"Task(optimizer=...) must be an optax transformation such as optax.adam(1e-3), got {type(optimizer).__name__}.")
    names = _names(optimizer)
    if private := names & _PRIVATE:
        raise ValueError(
            f"Task(optimizer=...) may not hold optax's {min(private)}: it needs the gradient of each example, and a training step has "
            "the batch's. For noise without the guarantee, chain optax.clip_by_global_norm and optax.add_noise."
        )
    if getattr(optimizer.init, "__qualname__", "") == "lookahead.<locals>.init_fn":
        return _lookahead(optimizer)
    if "lookahead" in names:
        raise ValueError(
            "Task(optimizer=...) may hold optax.lookahead only as its outermost part, since it changes two sets of weights: "
            "optax.lookahead(optax.chain(...), sync_period=..., slow_step_size=...)."
        )
    return optimizer


def update(
    optimizer: optax.GradientTransformation, gradients: Any, state: Any, params: Any, value: Array, value_fn: Callable[[Any], Array]
) -> tuple[Any, Any]:
    """An optimizer's updates and its next state. It gets whatever optax's optimizers ask for, as far as it takes it.

    Args:
      optimizer: of `adapted`.
      gradients: of the objective at `params`.
      state: the optimizer's.
      params: the weights.
      value: the objective at `params`.
      value_fn: params -> objective, on the same batch with the same random keys. Where `optax.masked` hides a leaf from a part of the
        optimizer, the objective is taken at that leaf's present value.
    """

    def objective(part: Any, obj_fn: Any = None, grad_fn: Any = None) -> Array:  # line searches pass on what they do not know
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
                "a line search, which L-BFGS has too, must see the gradient of the same parameters as it changes: "
                "optax.masked(..., mask_compatible_extra_args=True), and likewise optax.partition."
            ) from error


def keeps_other_weights(state: Any) -> bool:
    """Whether an optimizer with this state wants other weights evaluated than those it trains: SAM, schedule-free, lookahead."""
    return any(isinstance(part, _KEEPS_OTHER_WEIGHTS) for part in _parts(state))


def evaluation_weights(state: Any, params: Any) -> Any:
    """The weights that an optimizer wants to have evaluated, as its authors say; of most optimizers those that it trains.

    For SAM these are the weights before an adversarial step that is still to be undone (Foret et al. 2021), for schedule-free optimizers
    the average x (Defazio et al. 2024), for lookahead the slow weights (Zhang et al. 2019).
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
    """`part`, which lacks some leaves of `params` as `optax.masked` leaves them out, with these leaves from `params`."""
    return jax.tree.map(lambda new, old: old if _missing(new) else new, part, params, is_leaf=_missing)


def _like(part: Any, params: Any) -> Any:
    """`params` without the leaves that `part` lacks."""
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
    """The names of optax's functions that an optimizer is made of, found in closures; one that `_lookahead` made hides its own."""
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
