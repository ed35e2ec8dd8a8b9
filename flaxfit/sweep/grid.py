"""The settings of a population, and which of their hyperparameters are compiled in."""

from __future__ import annotations

import functools
import itertools
import math
import numbers
import types
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxfit.train.record import plain

Grid = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]
"""A mapping of names to values, of which all combinations are trained; or a list of settings."""


class static(tuple):
    """A list of values of a hyperparameter that are compiled in, so that each value makes a program of its own.

    Lists that hold a floating-point number are traced unless they are marked with `static`; all other lists are compiled in anyway. Mark a
    hyperparameter if `make_task` must know its value: to branch on it, to make a shape of it, or for an argument of optax that must be a
    Python number, such as the decay steps of a cosine schedule.

    Example:
      >>> expand({"width": [16, 64], "momentum": static([0.0, 0.9])})[0]
      [{'width': 16, 'momentum': 0.0}, {'width': 16, 'momentum': 0.9}, {'width': 64, 'momentum': 0.0}, {'width': 64, 'momentum': 0.9}]
    """

    __slots__ = ()


def expand(grid: Grid | None) -> tuple[list[dict[str, Any]], set[str]]:
    """Returns the settings of a grid in order, with the last name changing fastest, and the names of the traced hyperparameters.

    Raises:
      ValueError: a list is empty; a number is not finite; a setting occurs twice; settings have different names.
      TypeError: the values of a hyperparameter are not a list, or mix numbers with other values.

    Example:
      >>> expand({"l2": [0.0, 1e-4], "layers": [1, 2]})[1]
      {'l2'}
    """
    if grid is None:
        return [{}], set()
    if isinstance(grid, Mapping):
        values = {name: _values(name, given) for name, given in grid.items()}
        settings = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
        fixed = {name for name, given in grid.items() if isinstance(given, static)}
    elif isinstance(grid, Sequence) and not isinstance(grid, str) and all(isinstance(setting, Mapping) for setting in grid):
        if not grid:
            raise ValueError("the grid is empty: list at least one setting.")
        names = list(grid[0])
        for setting in grid:
            if set(setting) != set(names):
                raise ValueError(f"all settings of a grid must have the same names, got {sorted(names)} and {sorted(setting)}.")
        values = {name: _values(name, [setting[name] for setting in grid]) for name in names}
        settings = [dict(zip(values, setting, strict=True)) for setting in zip(*values.values(), strict=True)] if names else [{}]
        fixed = set()
    else:
        raise TypeError(
            f'a grid must be a mapping of names to lists of values, such as {{"l2": [0.0, 1e-4]}}, or a list of settings, got {grid!r}.'
        )
    if len({name_of(setting) for setting in settings}) < len(settings):
        raise ValueError("the grid has the same setting twice: remove one of them.")
    return settings, {name for name, given in values.items() if name not in fixed and _traced(name, given)}


def name_of(setting: Mapping[str, Any]) -> str:
    """Returns a short name for a setting, which is the same in every process and has only characters that file systems accept.

    A function or class is named by its own name. A function that is defined inside another one, such as a lambda, has a checksum of its
    code in the name.

    Example:
      >>> name_of({"l2": 0.001, "hidden": (64, 64), "norm": False, "kind": dict})
      'l2=0.001,hidden=64-64,norm=False,kind=dict'
    """
    return ",".join(f"{name}={''.join(c if c.isalnum() or c in '-+._' else '_' for c in _text(value))}" for name, value in setting.items())


def _text(value: Any) -> str:
    """Returns a value as text without memory addresses."""
    if isinstance(value, tuple | list):
        return "-".join(map(_text, value))
    if isinstance(value, functools.partial):
        return "-".join([_text(value.func), *map(_text, value.args), *(f"{name}={_text(v)}" for name, v in value.keywords.items())])
    if not callable(value) or not hasattr(value, "__qualname__"):
        return plain(str(value))
    name, code = value.__qualname__.rpartition("<locals>.")[2], getattr(value, "__code__", None)
    return name if "<" not in value.__qualname__ or code is None else f"{name.strip('<>')}-{zlib.crc32(_content(value, code)):08x}"


def _content(function: Any, code: types.CodeType) -> bytes:
    """Returns the code of a function without line numbers, and the values that it refers to, as bytes."""
    inner = [_content(None, constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    plain_constants = [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held = [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None), *cells]
    return b"|".join([code.co_code, plain(repr((code.co_names, code.co_varnames, plain_constants, held))).encode(), *inner])


def _values(name: str, given: Any) -> list[Any]:
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"the values of {name!r} in the grid must be a list, got {given!r}: put the value into brackets.")
    if not given:
        raise ValueError(f"the list of values of {name!r} in the grid is empty.")
    values = [value.item() if isinstance(value, np.generic) else value for value in given]
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the values of {name!r} in the grid must be finite, got {value!r}.")
    return values


def _traced(name: str, values: Sequence[Any]) -> bool:
    if not any(isinstance(value, float) for value in values):
        return False
    odd = [value for value in values if isinstance(value, bool) or not isinstance(value, numbers.Real)]
    if odd:
        raise TypeError(f"the values of {name!r} in the grid mix numbers with {odd[0]!r}: mark them with ff.static([...]).")
    return True
