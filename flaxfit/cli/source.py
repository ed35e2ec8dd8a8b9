"""Examples from a file or a data set, as the options of a command name them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from flaxfit import data as flaxfit_data
from flaxfit.arguments import unknown
from flaxfit.cli.options import Net, Source
from flaxfit.data import Dataset, Splits, Table, parsing
from flaxfit.data.encoding import KINDS, Kind
from flaxfit.data.frames import Cells
from flaxfit.storage.directory import without_secrets

FILES = (".csv", ".tsv", ".txt", ".data", ".gz", ".parquet", ".npz")


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a command."""

    name: str  # a short name for them
    data: Table | Dataset | Splits  # the examples: a table of a file, or arrays
    groups: np.ndarray | None = None  # the group of each example, or None
    times: np.ndarray | None = None  # the time of each example, or None


def is_file(data: str) -> bool:
    """Whether DATA is meant as a file."""
    return Path(data).is_file() or data.endswith(FILES) or "/" in data


def examples(options: Source) -> Examples:
    """Reads the examples of a command.

    Raises:
      ValueError: there is no such column, kind or data set; a target is missing, or is not needed.
      FileNotFoundError: there is no such file.
    """
    path = Path(options.data)
    if not is_file(options.data):
        if options.data not in flaxfit_data.names():
            raise ValueError(f"there is no file {options.data}, and {unknown('data set', options.data, flaxfit_data.names())}")
        _no_columns(options, "a data set with a name")
        return Examples(options.data, flaxfit_data.load(options.data, originals=options.originals))
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    if path.suffix == ".npz":
        _no_columns(options, "an NPZ file")
        return Examples(path.stem, flaxfit_data.read_npz(path))
    if options.target is None:
        names = list(_columns(flaxfit_data.read_frame(path, rows=1000)))
        raise ValueError(f"name the column to predict: --target COLUMN. {path} has: {', '.join(names)}.")
    return _table(options, path)


def _table(options: Source, path: Path) -> Examples:
    named = options.target or ""
    target: str | int = int(named) if named.lstrip("-").isdigit() else named
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Table: the column .* tells")  # a study says it, and what it does
        plain = flaxfit_data.read_table(path, target)
        columns = {name: number_or_name(plain, name) for name in filter(None, (options.group, options.time, options.weight))}
        kinds: dict[str, Kind] = {number_or_name(plain, name): "drop" for name in options.ignore}
        for given in options.type:
            name, separator, kind = given.rpartition("=")
            if not separator or kind not in KINDS:
                raise ValueError(f"--type takes COLUMN=KIND with one of the kinds {', '.join(KINDS)}, got {given!r}.")
            name = plain.target if name == str(options.target) else number_or_name(plain, name)
            kinds[name] = cast(Kind, kind)
        kinds |= dict.fromkeys(columns.values(), "drop")
        weight = None if options.weight is None else _numbers(plain.cells[columns[options.weight]], options.weight)
        table = plain if not kinds else flaxfit_data.read_table(path, target, kinds=kinds)  # the target may be of another kind
    if weight is not None:
        table = table.weighted(weight / weight.mean())
    groups = None if options.group is None else _values(plain.cells[columns[options.group]], options.group)
    times = None if options.time is None else _times(plain.cells[columns[options.time]], options.time)
    return Examples(path.name.split(".")[0], table, groups, times)


def number_or_name(table: Table, name: str) -> str:
    """The name of a column that is given by its name, or by its number in a file without a header.

    Raises:
      ValueError: there is no such column.
    """
    for candidate in (name, f"column {name}"):
        if candidate in table.cells:
            return candidate
    if name == table.target:
        raise ValueError(f"the column {name!r} is the target.")
    raise ValueError(unknown("column", name, table.cells))


def _columns(frame: Any) -> list[str]:
    return list(frame) if isinstance(frame, dict) else list(frame.column_names)


def _no_columns(options: Source, what: str) -> None:
    for name in ("target", "group", "time", "weight", "ignore", "type"):
        if getattr(options, name):
            raise ValueError(f"--{name} names a column of a file, but {options.data} is {what}: leave it out.")


def _values(cells: Cells, name: str) -> np.ndarray:
    values = parsing.levels(cells)
    if (missing := sum(value is None for value in values)) > 0:
        raise ValueError(f"--group {name}: {missing} rows have no value.")
    return values.astype(str)


def _numbers(cells: Cells, name: str) -> np.ndarray:
    taken, notation = parsing.meaning(cells)
    values = parsing.numbers(cells, notation) if taken == "number" else np.full(len(cells), np.nan)
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ValueError(f"--weight {name}: weights must be numbers of 0 or more in every row, and not all 0.")
    return values


def _times(cells: Cells, name: str) -> np.ndarray:
    taken, notation = parsing.meaning(cells)
    values = parsing.moments(cells, notation) if taken == "datetime" else parsing.numbers(cells, notation)
    if not np.isfinite(values).all():
        raise ValueError(f"--time {name}: times must be numbers or dates, in every row.")
    return values


def task_of(net: Net) -> Any:
    """What is to be trained: the user's function, or a Network.

    Raises:
      ValueError: the option is not MODULE:FUNCTION, or there is no such module or function.
    """
    from flaxfit.overfitting import Network

    if net.task is None:
        return Network(tuple(net.hidden), learning_rate=net.learning_rate)
    place, separator, name = net.task.rpartition(":")
    if not separator or not place or not name:
        raise ValueError(f"--task takes MODULE:FUNCTION or FILE.py:FUNCTION, got {net.task!r}.")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise FileNotFoundError(f"there is no file {place}.")
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[Path(place).stem] = module
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, "")
        module = importlib.import_module(place)
    if not hasattr(module, name):
        raise ValueError(f"--task: {unknown('function', name, [n for n in vars(module) if not n.startswith('_')], f'in {place}')}")
    return getattr(module, name)


def directory_for(name: str) -> Path:
    """The default run directory of a command: `runs/NAME`, or if that is of another command `runs/NAME-2` and so on."""
    number = 1
    while True:
        place = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not place.exists():
            return place
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            config = json.loads((place / "config.json").read_text())
            if config["environment"]["command"] == without_secrets(sys.orig_argv):
                return place
        number += 1
