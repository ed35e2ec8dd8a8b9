"""Checks of arguments: counts, names, the modes of metrics, the order of the arguments of losses."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

_Class = TypeVar("_Class", bound=type)
Mode = Literal["min", "max"]
"""Whether a metric is best when small or large."""
_TARGETS = frozenset({"y_true", "target", "targets", "label", "labels", "labels_true", "ground_truth"})
_OUTPUTS = frozenset(
    {"y_pred", "y_hat", "yhat", "y_score", "y_prob", "y_proba", "pred", "preds", "prediction", "predictions", "logit", "logits", "output"}
    | {"outputs", "labels_pred"}
)


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """Returns the error message for an unknown name: the name, the most similar known name, and all known names.

    Example:
      >>> unknown("activation", "rellu", ["elu", "relu"])
      "no activation 'rellu'; did you mean 'relu'? There are: elu, relu"
      >>> unknown("metric", "auc", ["loss"], "to monitor")
      "no metric 'auc' to monitor. There are: loss"
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"no {kind} {name!r}{' ' + where if where else ''}{hint} There are: {', '.join(known) or 'none'}"


def absent(module: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> AttributeError:
    """Returns the error for a name that a module does not have: where it is to be found, if `elsewhere` says so, or a similar name.

    Example:
      >>> absent("flaxfit.callbacks", "ReduceLROnPlateau", [], {"ReduceLROnPlateau": "fit(plateau=ff.Plateau(...))"})
      AttributeError("flaxfit.callbacks has no 'ReduceLROnPlateau': use fit(plateau=ff.Plateau(...)).")
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f": use {elsewhere[name]}." if name in elsewhere else f"; did you mean {near[0]!r}?" if near else "."
    return AttributeError(f"{module} has no {name!r}{hint}", name=name, obj=None)  # no object, so that Python makes no second suggestion


def told_elsewhere(elsewhere: Mapping[str, str]) -> Callable[[_Class], _Class]:
    """A decorator of classes that tells of arguments that they do not have, such as those of Keras, what to use instead.

    Args:
      elsewhere: argument -> what to use.
    """

    def decorate(kind: _Class) -> _Class:
        made = kind.__init__

        @functools.wraps(made)
        def initialized(self: Any, *args: Any, **options: Any) -> None:
            for name in options.keys() & elsewhere.keys():
                raise TypeError(f"{kind.__name__} has no argument {name}: use {elsewhere[name]}.")
            made(self, *args, **options)

        kind.__init__ = initialized
        return kind

    return decorate


def unwrapped(function: Any) -> Any:
    """Returns the function inside a `functools.partial`, which may be nested."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


@dataclass(frozen=True)
class targets_first:
    """Turns a loss or metric of (targets, outputs), the order of Keras and scikit-learn, into one of (outputs, targets)."""

    function: Callable[..., Any]

    @property
    def __name__(self) -> str:
        return getattr(unwrapped(self.function), "__name__", "<lambda>")

    def __call__(self, outputs: Any, targets: Any, **options: Any) -> Any:
        """Calls the function with its arguments in its own order."""
        return self.function(targets, outputs, **options)


def in_order(function: Any, what: str = "a loss or metric") -> Any:
    """Returns a loss or metric as a function of (outputs, targets). It is wrapped if its parameter names show that targets come first.

    Targets come first if the first parameter is named `y_true`, `target` or `label`, or the second one `y_pred`, `y_hat`, `pred`,
    `logits` or `output`, or a plural of these. The name `y` decides nothing.

    Args:
      function: the function. Parameters that a `functools.partial` has set do not count.
      what: what to call the function in an error.

    Raises:
      ValueError: the two names contradict each other.

    Example:
      >>> in_order(lambda y_true, y_pred: (y_true, y_pred))("outputs", "targets")
      ('targets', 'outputs')
      >>> in_order(lambda logits, y: (logits, y))("outputs", "targets")
      ('outputs', 'targets')
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in, or not a function
        return function
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:2]
    said = set()
    for name, (first, second) in zip(names, ((_TARGETS, _OUTPUTS), (_OUTPUTS, _TARGETS)), strict=False):
        said |= {True} if name.lower() in first else {False} if name.lower() in second else set()
    if len(said) == 2:
        raise ValueError(
            f"the parameters ({', '.join(names)}) of {what} contradict each other. Rename them: (logits, y) if outputs come first, "
            "(y_true, y_pred) if targets come first."
        )
    return targets_first(function) if True in said else function


def check_count(name: str, value: Any, least: int, unit: str) -> int:
    """Returns `value` as an int, after checking that it is an integer and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer ({unit}), got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least} ({unit}), got {value}.")
    return int(value)


def mode_of(metric: str, modes: Mapping[str, Mode] | None, given: Mode | None = None) -> Mode:
    """Returns whether a logged metric is best when it is small ("min") or large ("max").

    Args:
      metric: a column of a history, with or without `val_`.
      modes: name without `val_` -> mode, such as `Task.modes`. The objective, `loss`, is always best when small.
      given: the `mode=` argument of the caller. It is checked, and takes precedence.

    Raises:
      ValueError: the mode is not known, or `given` is neither "min" nor "max".

    Example:
      >>> mode_of("val_accuracy", {"accuracy": "max"})
      'max'
    """
    if given not in (None, "min", "max"):
        raise ValueError(f'mode=... must be "min" or "max", got {given!r}.')
    found = given or {**(modes or {}), "loss": "min"}.get(metric.removeprefix("val_"))
    if found is None:
        raise ValueError(
            f'it is not known whether the metric {metric!r} is best when small or large: pass mode="min" or mode="max", or declare it '
            f'where the metric is defined, metrics={{"{metric.removeprefix("val_")}": ff.Metric(function, mode="max")}}.'
        )
    return found  # pyright: ignore[reportReturnType]


def needed(module: str, what: str, extra: str = "data") -> Any:
    """Imports a module of one of flaxfit's extras. If it is missing, the `ImportError` says what needs it and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {module}, which cannot be imported ({error}): pip install flaxfit[{extra}]") from error
