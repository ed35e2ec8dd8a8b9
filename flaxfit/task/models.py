"""Modules of any calling convention behind one interface: Linen and NNX, told in any word, or in none, whether they train."""

from __future__ import annotations

import inspect
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

Frozen = Callable[[str], bool]
"""A function that tells from the path of a module, such as `Block_0/BatchNorm_0`, whether its statistics are frozen."""
Variables = tuple[Any, Any]
"""The parameters, and all other collections by name."""

_WORDS = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
"""The arguments that tell modules whether they train -> their value in training."""
_LOSSES = nnx.variablelib.variable_type_from_name("losses", allow_register=True)
_NOTED = ("losses", "intermediates")  # `sow` fills these collections; they are not part of a state


class Network(ABC):
    """What a task needs of a model.

    Attributes:
      name: what errors call it.
      stored: the variables that training starts from, where the model has some of its own.
      several: whether the module's call takes several inputs, so that a list holds inputs rather than examples.
    """

    name: str
    stored: Variables | None = None
    several: bool = False

    @abstractmethod
    def init(self, rngs: Mapping[str, Any], x: Any) -> Variables:
        """Returns fresh variables for inputs like `x`."""

    @abstractmethod
    def apply(
        self, params: Any, collections: Any, x: Any, rngs: Mapping[str, Any] | None, frozen: Frozen | None = None
    ) -> tuple[Any, Any, Any]:
        """Returns the outputs, the updated collections, and the losses that the module sowed. With `rngs`, the module trains."""

    @abstractmethod
    def tabulate(self, rngs: Mapping[str, Any], x: Any, **options: Any) -> str:
        """Returns a table of the layers."""


def network(model: Any) -> Network:
    """Returns the network of a Linen module, an NNX module, or a function or class that takes `rngs` and makes an NNX module.

    Raises:
      TypeError: the model is none of these.
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, nn.Module):
        return LinenNetwork(model)
    linen_class: bool = isinstance(model, type) and issubclass(model, nn.Module)
    if isinstance(model, nnx.Module) or (callable(model) and not linen_class):
        return NnxNetwork(model)  # pyright: ignore[reportArgumentType]
    hint = "pass MyModel(...), not the class" if linen_class else "wrap other functions in a module"
    raise TypeError(
        f"Task(model=...) must be a Linen or NNX module, or a function of rngs that makes an NNX module, got {type(model).__name__}: "
        f"{hint}."
    )


class LinenNetwork(Network):
    """A Linen module. If it has no argument that says whether it trains, those of its submodules that have one are told directly.

    Args:
      module: the module.
    """

    def __init__(self, module: nn.Module):
        self._module, self.name = module, type(module).__name__
        parameters = _parameters(type(module))
        self._words, self.several = _words(parameters), len(_needed(parameters)) > 1
        if not self._words and not isinstance(module, nn.Sequential) and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            self._words = ("train",)  # it may pass it on

    def __repr__(self) -> str:
        return repr(self._module)

    def init(self, rngs: Mapping[str, Any], x: Any) -> Variables:
        """See `Network.init`."""
        args, words = self._arguments(x, False)
        with self._told(False, None):
            variables: Any = self._module.init(dict(rngs), *args, **words)
        return variables.get("params", {}), {name: tree for name, tree in variables.items() if name not in ("params", *_NOTED)}

    def apply(
        self, params: Any, collections: Any, x: Any, rngs: Mapping[str, Any] | None, frozen: Frozen | None = None
    ) -> tuple[Any, Any, Any]:
        """See `Network.apply`."""
        train = rngs is not None
        args, words = self._arguments(x, train)
        mutable = [*(collections if train else ()), "losses"]
        with self._told(train, frozen):
            variables = {"params": params, **collections}
            result: Any = self._module.apply(variables, *args, **words, rngs=dict(rngs or {}), mutable=mutable)
        outputs, changed = result
        sown = changed.pop("losses", ())
        return outputs, changed if train else collections, sown

    def tabulate(self, rngs: Mapping[str, Any], x: Any, **options: Any) -> str:
        """See `Network.tabulate`."""
        args, words = self._arguments(x, False)
        with self._told(False, None):
            return self._module.tabulate(dict(rngs), *args, **words, **options)

    def _arguments(self, x: Any, train: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, named = _inputs(_parameters(type(self._module)), x)
        return args, named | {word: train is _WORDS[word] for word in self._words}

    def _told(self, train: bool, frozen: Frozen | None) -> Any:
        """A context in which submodules are told whether they train, unless their parents tell them."""
        if self._words and frozen is None:
            return nullcontext()

        def tell(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            module = context.module
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            parameters = _parameters(type(module))
            given = dict(zip(parameters, args, strict=False)) | kwargs
            if not self._words:
                within = isinstance(module.parent, nn.Sequential)
                for word in _words(parameters):
                    asks = within or parameters[word].default in (None, inspect.Parameter.empty)
                    if asks and given.get(word, getattr(module, word, None)) is None:
                        given = given | {word: train is _WORDS[word]}
            word, own = "use_running_average", None
            if train and frozen is not None and word in parameters and frozen("/".join(module.path)):
                own = getattr(module, word, None)
                given = given | {word: True} if own is None else given
            args = [given.pop(name) for name, _ in zip(parameters, args, strict=False)] + list(args[len(parameters) :])
            if own is None:
                return call(*args, **given)
            object.__setattr__(module, word, True)  # a clone would be another part of the model
            try:
                return call(*args, **given)
            finally:
                object.__setattr__(module, word, own)

        return nn.intercept_methods(tell)


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
        self._parameters = _parameters(type(module))
        self._words, self.several = _words(self._parameters), len(_needed(self._parameters)) > 1
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
        args, named = _inputs(self._parameters, x)
        named |= {word: train is _WORDS[word] for word in self._words}
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
        args, named = _inputs(self._parameters, x)
        named |= {word: not _WORDS[word] for word in self._words}
        return nnx.tabulate(nnx.clone(module), *args, **named, **options)

    def module(self, params: Any, collections: Any, into: nnx.Module | None = None) -> nnx.Module:
        """Returns a module with these variables, in evaluation mode: a new one, or `into` after replacing its variables."""
        values = self._values(params, collections)
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


def auxiliary(sown: Any, rows: int) -> jax.Array | None:
    """Returns the sum of the losses that a module sowed, shape (rows,), or None if it sowed none.

    Raises:
      ValueError: a loss is neither one number nor one number for each example.
    """
    leaves = jax.tree.leaves(sown)
    for leaf in leaves:
        if jnp.shape(leaf) not in ((), (rows,)):
            raise ValueError(f'the "losses" that a model sows must be one number, or one for each example, got shape {jnp.shape(leaf)}.')
    return sum(jnp.broadcast_to(leaf, (rows,)).astype(jnp.float32) for leaf in leaves) if leaves else None  # pyright: ignore


def _parameters(module: type) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a module's `__call__` without `self`."""
    _, *parameters = inspect.signature(module.__call__).parameters.items()
    return dict(parameters)


def _words(parameters: Mapping[str, inspect.Parameter]) -> tuple[str, ...]:
    return tuple(word for word in _WORDS if word in parameters)


def _needed(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Returns the names of the inputs that have no default."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, p in parameters.items() if p.default is p.empty and p.kind not in variadic and name not in (*_WORDS, "rngs")]


def _inputs(parameters: Mapping[str, inspect.Parameter], x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments for inputs `x`. A tuple or dict is spread if `__call__` has several arguments without defaults."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = _needed(parameters)
    if len(needed) > 1 and isinstance(x, dict) and set(needed) <= x.keys() <= parameters.keys():
        return (), dict(x)
    if len(needed) > 1 and isinstance(x, tuple) and all(parameters[name].kind in positional for name in needed):
        return x, {}
    return (x,), {}


def _collection(variable: Any) -> str:
    return nnx.variablelib.variable_name_from_type(type(variable), allow_register=True)


def _name(path: Any) -> str:
    return "/".join(map(str, path))
