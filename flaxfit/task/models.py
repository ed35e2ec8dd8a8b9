"""Modules of any calling convention behind one interface: Linen and NNX, told in any word, or in none, whether they train."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Frozen = Callable[[str], bool]
"""A function that tells from the path of a module, such as `Block_0/BatchNorm_0`, whether its statistics are frozen."""
Variables = tuple[Any, Any]
"""The parameters, and all other collections by name."""

WORDS = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
"""The arguments that tell modules whether they train -> their value in training."""
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

    def module(self, params: Any, collections: Any, into: Any = None) -> Any:
        """Returns an NNX module with these variables: `into`, or the one that the task was given, or a new one.

        Raises:
          TypeError: this is not the network of an NNX module.
        """
        raise TypeError("write_back is for NNX modules; a Linen module has no weights: model.apply({'params': state.params}, ...).")


def is_module(value: Any) -> bool:
    """Whether a value is a Linen or NNX module."""
    nnx = sys.modules.get("flax.nnx")
    return isinstance(value, nn.Module) or (nnx is not None and isinstance(value, nnx.Module))


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
    if not linen_class:
        from flaxfit.task.nnx_models import NnxNetwork, nnx  # a quarter of a second, which users of Linen do not wait for

        if isinstance(model, nnx.Module) or callable(model):
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
        parameters = parameters_of(type(module))
        self._words, self.several = words_of(parameters), len(needed(parameters)) > 1
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
        args, named = arguments_of(parameters_of(type(self._module)), x)
        return args, named | {word: train is WORDS[word] for word in self._words}

    def _told(self, train: bool, frozen: Frozen | None) -> Any:
        """A context in which submodules are told whether they train, unless their parents tell them."""
        if self._words and frozen is None:
            return nullcontext()

        def tell(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            module = context.module
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            parameters = parameters_of(type(module))
            given = dict(zip(parameters, args, strict=False)) | kwargs
            if not self._words:
                within = isinstance(module.parent, nn.Sequential)
                for word in words_of(parameters):
                    asks = within or parameters[word].default in (None, inspect.Parameter.empty)
                    if asks and given.get(word, getattr(module, word, None)) is None:
                        given = given | {word: train is WORDS[word]}
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


def parameters_of(module: type) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a module's `__call__` without `self`."""
    _, *parameters = inspect.signature(module.__call__).parameters.items()
    return dict(parameters)


def words_of(parameters: Mapping[str, inspect.Parameter]) -> tuple[str, ...]:
    """Returns those of `WORDS` that are among the parameters."""
    return tuple(word for word in WORDS if word in parameters)


def needed(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Returns the names of the inputs that have no default."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, p in parameters.items() if p.default is p.empty and p.kind not in variadic and name not in (*WORDS, "rngs")]


def arguments_of(parameters: Mapping[str, inspect.Parameter], x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments for inputs `x`. A tuple or dict is spread if `__call__` has several arguments without defaults."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = needed(parameters)
    if len(names) > 1 and isinstance(x, dict) and set(names) <= x.keys() <= parameters.keys():
        return (), dict(x)
    if len(names) > 1 and isinstance(x, tuple) and all(parameters[name].kind in positional for name in names):
        return x, {}
    return (x,), {}
