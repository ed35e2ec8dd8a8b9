"""NNX modules as networks. Their variables become plain dicts."""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfit.task.models import WORDS, Frozen, Network, Variables, arguments_of, needed, parameters_of, words_of

_LOSSES = nnx.variablelib.variable_type_from_name("losses", allow_register=True)


class NnxNetwork(Network):
    """An NNX module, or a function that makes one. Its variables become plain dicts, and each call gets new random streams.

    Args:
      model: the module, from whose present weights training starts; or a function of rngs that makes a module with fresh weights.
    """

    name: str

    def __init__(self, model: nnx.Module | Callable[..., nnx.Module]):
        self._factory = None if isinstance(model, nnx.Module) else model
        module = model if isinstance(model, nnx.Module) else nnx.eval_shape(lambda: self._made({"params": jax.random.key(0)}))
        self._module, self.name = module, type(module).__name__
        self._graph, state = nnx.split(module)
        self._variables = {path: v for path, v in nnx.to_flat_state(state) if not isinstance(v, nnx.Intermediate | _LOSSES)}
        self._shapes = {path: jax.eval_shape(lambda v=v: v.get_value()) for path, v in self._variables.items()}
        self._parameters = parameters_of(type(module))
        self._words, self.several = words_of(self._parameters), len(needed(self._parameters)) > 1
        self.stored = self._plain(self._variables) if self._factory is None else None

    def __repr__(self) -> str:
        abstract = self._merged(self._shapes)
        return re.sub(r"\x1b\[[0-9;]*m", "", repr(abstract))

    def init(self, rngs: Mapping[str, Any], x: Any) -> Variables:
        """Returns fresh variables, or the present ones if the model is a module."""
        if self.stored is not None:
            return self.stored
        return self._plain(dict(nnx.to_flat_state(nnx.state(self._made(rngs)))))

    def apply(
        self, params: Any, collections: Any, x: Any, rngs: Mapping[str, Any] | None, frozen: Frozen | None = None
    ) -> tuple[Any, Any, Any]:
        """See `Network.apply`."""
        train = rngs is not None
        values = self._values(params, collections) | self._random(rngs or {"": jax.random.key(0)})
        module = self._merged(values)
        module.train() if train else module.eval()
        for path, part in nnx.iter_modules(module):
            if train and frozen is not None and hasattr(part, "use_running_average") and frozen("/".join(map(str, path))):
                part.use_running_average = True  # pyright: ignore[reportAttributeAccessIssue]
        args, named = arguments_of(self._parameters, x)
        named |= {word: train is WORDS[word] for word in self._words}
        if "rngs" in self._parameters:
            named["rngs"] = nnx.Rngs(default=next(iter(rngs.values())), **rngs) if rngs else None
        outputs, sown, _ = nnx.capture(module, _LOSSES, nnx.Intermediate)(*args, **named)
        after = dict(nnx.to_flat_state(nnx.state(module)))
        if not rngs and any(isinstance(v, nnx.RngCount) and v.get_value() is not values[path] for path, v in after.items()):
            why = "Task(rngs=()) gives it nothing to draw from" if train else "in evaluation mode outputs must not be random"
            raise ValueError(f"{self.name} draws random numbers, but {why}.")
        return outputs, self._plain(after)[1] if train else collections, nnx.to_pure_dict(sown)

    def tabulate(self, rngs: Mapping[str, Any], x: Any, **options: Any) -> str:
        """See `Network.tabulate`."""
        module = self._module if self._factory is None else self._made(rngs)
        args, named = arguments_of(self._parameters, x)
        named |= {word: not WORDS[word] for word in self._words}
        return nnx.tabulate(nnx.clone(module), *args, **named, **options)

    def module(self, params: Any, collections: Any, into: nnx.Module | None = None) -> nnx.Module:
        """See `Network.module`. It is in evaluation mode."""
        values = self._values(params, collections)
        into = self._module if into is None and self._factory is None else into
        if into is None:
            module = self._merged(values | self._random({"": jax.random.key(0)}))
        else:
            module, own = into, dict(nnx.to_flat_state(nnx.state(into)))
            if other := [path for path in values if path not in own or jnp.shape(own[path].get_value()) != jnp.shape(values[path])]:
                raise ValueError(f"the weights do not fit {type(into).__name__}: {_name(other[0])} is missing there or has another shape.")
            nnx.update(into, nnx.from_flat_state([(path, own[path].copy(value=value)) for path, value in values.items()]))
        module.eval()
        return module

    def _made(self, rngs: Mapping[str, Any]) -> nnx.Module:
        assert self._factory is not None
        streams = nnx.Rngs(default=rngs["params"], **rngs)
        named = "rngs" in inspect.signature(self._factory).parameters
        module = self._factory(rngs=streams) if named else self._factory(streams)
        if not isinstance(module, nnx.Module):
            raise TypeError(
                f"Task(model=...) is a function, which must take rngs and return an NNX module, but it returns {type(module).__name__}."
            )
        return module

    def _merged(self, values: Mapping[Any, Any]) -> Any:
        return nnx.merge(self._graph, nnx.from_flat_state([(path, v.copy(value=values[path])) for path, v in self._variables.items()]))

    def _random(self, rngs: Mapping[str, Any]) -> dict[Any, Any]:
        """Returns keys and counts for the random streams: the key of the stream's name or else the first one, folded in with its path."""
        values: dict[Any, Any] = {}
        for path, variable in self._variables.items():
            if isinstance(variable, nnx.RngKey):
                key = rngs.get(variable.get_metadata().get("tag", ""), next(iter(rngs.values())))
                keys = jax.random.fold_in(key, zlib.crc32(_name(path).encode()))
                shape = self._shapes[path].shape
                values[path] = jax.random.split(keys, shape) if shape else keys
            elif isinstance(variable, nnx.RngCount):
                values[path] = jnp.zeros(self._shapes[path].shape, jnp.uint32)
        return values

    def _plain(self, variables: Mapping[Any, Any]) -> Variables:
        """Returns the values of variables as dicts: the parameters, and the others by collection."""
        params: dict[str, Any] = {}
        collections: dict[str, Any] = {}
        for path, kind in self._variables.items():
            if not isinstance(kind, nnx.RngState):
                tree = params if isinstance(kind, nnx.Param) else collections.setdefault(_collection(kind), {})
                *parents, last = map(str, path)
                for parent in parents:
                    tree = tree.setdefault(parent, {})
                tree[last] = variables[path].get_value()
        return params, collections

    def _values(self, params: Any, collections: Any) -> dict[Any, Any]:
        """Returns values by path; the inverse of `_plain`."""
        values = {}
        for path, kind in self._variables.items():
            if not isinstance(kind, nnx.RngState):
                tree = params if isinstance(kind, nnx.Param) else collections[_collection(kind)]
                for part in map(str, path):
                    tree = tree[part]
                values[path] = tree
        return values


def _collection(variable: Any) -> str:
    return nnx.variablelib.variable_name_from_type(type(variable), allow_register=True)


def _name(path: Any) -> str:
    return "/".join(map(str, path))
