"""Hyperparameters of a population: their settings, and which of them are compiled in."""

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
"""Name -> values, of which all combinations are meant; or the settings themselves."""


class static(tuple):
    """Values of a hyperparameter that are compiled in: one program each. Of themselves are lists without a floating-point number.

    Needed where `make_task` must know the value: to branch on it, for optax's arguments that are Python numbers (a cosine's decay
    steps), for shapes.

    Example:
      >>> expand({"width": [16, 64], "momentum": static([0.0, 0.9])})[0]
      [{'width': 16, 'momentum': 0.0}, {'width': 16, 'momentum': 0.9}, {'width': 64, 'momentum': 0.0}, {'width': 64, 'momentum': 0.9}]
    """

    __slots__ = ()


def expand(grid: Grid | None) -> tuple[list[dict[str, Any]], set[str]]:
    """The settings of a grid in order, the last name changing fastest, and the names of those that are traced.

    Raises:
      ValueError, TypeError: values that are no list, none at all, a number that is not finite, a setting that comes twice, settings of
        unequal names, numbers among other things.

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
            raise ValueError("the grid holds no settings.")
        names = list(grid[0])
        for setting in grid:
            if set(setting) != set(names):
                raise ValueError(f"all settings of a grid must have the same names, got {sorted(names)} and {sorted(setting)}.")
        values = {name: _values(name, [setting[name] for setting in grid]) for name in names}
        settings = [dict(zip(values, setting, strict=True)) for setting in zip(*values.values(), strict=True)] if names else [{}]
        fixed = set()
    else:
        raise TypeError(f'a grid maps names to lists of values, as in {{"l2": [0.0, 1e-4]}}, or lists the settings; got {grid!r}.')
    if len({name_of(setting) for setting in settings}) < len(settings):
        raise ValueError("the grid holds a setting twice.")
    return settings, {name for name, given in values.items() if name not in fixed and _traced(name, given)}


def name_of(setting: Mapping[str, Any]) -> str:
    """A short name of a setting, without any character that file systems refuse, and the same in every process.

    A function or class has its own name, and one that is defined inside a function, such as a lambda, a checksum of its code besides.

    Example:
      >>> name_of({"l2": 0.001, "hidden": (64, 64), "norm": False, "kind": dict})
      'l2=0.001,hidden=64-64,norm=False,kind=dict'
    """
    return ",".join(f"{name}={''.join(c if c.isalnum() or c in '-+._' else '_' for c in _text(value))}" for name, value in setting.items())


def _text(value: Any) -> str:
    """A value as text without memory addresses."""
    if isinstance(value, tuple | list):
        return "-".join(map(_text, value))
    if isinstance(value, functools.partial):
        return "-".join([_text(value.func), *map(_text, value.args), *(f"{name}={_text(v)}" for name, v in value.keywords.items())])
    if not callable(value) or not hasattr(value, "__qualname__"):
        return plain(str(value))
    name, code = value.__qualname__.rpartition("<locals>.")[2], getattr(value, "__code__", None)
    return name if "<" not in value.__qualname__ or code is None else f"{name.strip('<>')}-{zlib.crc32(_content(value, code)):08x}"


def _content(function: Any, code: types.CodeType) -> bytes:
    """What a function does, as bytes: its code, without line numbers, and the values that it holds."""
    inner = [_content(None, constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    plain_constants = [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held = [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None), *cells]
    return b"|".join([code.co_code, plain(repr((code.co_names, code.co_varnames, plain_constants, held))).encode(), *inner])


def _values(name: str, given: Any) -> list[Any]:
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"the grid's {name!r} must be a list of values, got {given!r}: put it in brackets.")
    if not given:
        raise ValueError(f"the grid's {name!r} holds no values.")
    values = [value.item() if isinstance(value, np.generic) else value for value in given]
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the grid's {name!r} holds {value!r}: hyperparameters are finite numbers.")
    return values


def _traced(name: str, values: Sequence[Any]) -> bool:
    if not any(isinstance(value, float) for value in values):
        return False
    odd = [value for value in values if isinstance(value, bool) or not isinstance(value, numbers.Real)]
    if odd:
        raise TypeError(f"the grid's {name!r} mixes numbers with {odd[0]!r}: make it ff.static([...]), one program a value.")
    return True
