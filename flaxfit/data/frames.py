"""Data frames and series of pandas, Polars and Arrow, read through narwhals."""

from __future__ import annotations

import contextlib
import datetime
import numbers
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

Holds = Literal["number", "boolean", "datetime", "category", "text"]


@dataclass(frozen=True, eq=False)
class Cells:
    """One column of a table as its file or its frame has it, before anything is learned.

    Attributes:
      holds: what the column's type says. "text" may be anything that was written as text, numbers too.
      values: shape (rows,). Numbers, booleans (0 and 1) and times (seconds since 1970, UTC) are float64, with NaN where a value is
        missing; categories and text are objects: stripped strings, or None where a value is missing.
    """

    holds: Holds
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Cells:
        return Cells(self.holds, self.values[rows])


def native(x: Any) -> Any:
    """`x` as narwhals' data frame or series if it is one of some library's; else None.

    Raises:
      TypeError: a lazy frame, which has no rows yet.
    """
    if x is None or isinstance(x, np.ndarray | jax.Array | list | tuple | dict | str | bool | int | float | np.generic):
        return None
    import narwhals as nw

    found = nw.from_native(x, pass_through=True, allow_series=True)
    if isinstance(found, nw.LazyFrame):
        raise TypeError(f"a lazy frame, {type(x).__name__}, has no rows yet: call frame.collect() first.")
    return found if isinstance(found, nw.DataFrame | nw.Series) else None


def cells_of(frame: Any, name: str = "frame") -> dict[str, Cells]:
    """The columns of a data frame, by name.

    Args:
      frame: a data frame of pandas, Polars, Arrow or another library that narwhals knows; or a dict of columns.
      name: what to call it in errors.

    Raises:
      TypeError: it is no data frame, or a column holds lists, bytes or other objects.
      ValueError: two columns have the same name.
    """
    if isinstance(frame, dict):
        columns = [(key, _cells(str(key), values)) for key, values in frame.items()]
        if len({len(cells) for _, cells in columns}) > 1:
            lengths = ", ".join(f"{key}: {len(cells)}" for key, cells in columns)
            raise ValueError(f"the columns of {name} must have equally many rows, got {lengths}.")
    else:
        try:
            found = native(frame)
        except Exception as error:
            if "unique" not in str(error) and "duplicate" not in str(error).lower():
                raise
            raise ValueError(f"two columns of {name} have the same name: rename one of them.") from error
        if found is None or not hasattr(found, "columns"):
            raise TypeError(f"{name} must be a data frame of pandas, Polars or Arrow, got {type(frame).__name__}.")
        columns = [(str(series.name), _cells(str(series.name), series)) for series in found.iter_columns()]
    named = {str(key): cells for key, cells in columns}
    if len(named) < len(columns):
        raise ValueError(f"two columns of {name} have the same name: rename one of them.")
    return named


def array_of(found: Any, name: str) -> np.ndarray:
    """A narwhals frame as one array of its numbers, or a series as an array: numbers, or objects where it holds text.

    Args:
      found: what `native` returned.
      name: what to call it in errors.

    Raises:
      TypeError: a column of a frame is neither numbers nor booleans; the message names it.
    """
    if not hasattr(found, "columns"):
        cells = _cells(name, found)
        return _numbers(found, cells) if cells.holds in ("number", "boolean") else cells.values
    columns = {str(series.name): (series, _cells(str(series.name), series)) for series in found.iter_columns()}
    wrong = [f"{column!r} ({cells.holds})" for column, (_, cells) in columns.items() if cells.holds not in ("number", "boolean")]
    if wrong:
        raise TypeError(
            f"Dataset: {name} has columns that are not numeric: {', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}. "
            "ff.data.Table(frame, target) encodes text, categories and dates."
        )
    if not columns:
        raise TypeError(f"Dataset: {name} is a data frame without columns.")
    return np.column_stack([_numbers(series, cells) for series, cells in columns.values()])


def is_missing(value: Any) -> bool:
    """Whether a Python object stands for a missing value: None, NaN, or pandas' NA and NaT."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float | np.floating) and value != value)


def text_of(value: Any, column: str) -> str | None:
    """A single value as text, the same whatever type its column has: 1.0 is "1", a time is in ISO 8601.

    Raises:
      TypeError: it is not a single value.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        value = value.strip()
        return value[1:-1].strip() if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, np.generic):
        return text_of(value.item(), column)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, bytes | list | tuple | dict | set | np.ndarray) or hasattr(value, "__iter__"):
        raise TypeError(f"column {column!r} holds {type(value).__name__} values; a cell of a table is a single number, text or date.")
    return str(value)


def _cells(column: str, values: Any) -> Cells:
    import narwhals as nw

    series = values if isinstance(values, nw.Series) else native(values)
    if series is None:
        if isinstance(values, str | bytes) or not np.iterable(values) or getattr(values, "ndim", 1) != 1:
            raise ValueError(f"column {column!r} must be one value a row, got {type(values).__name__}.")
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufM":
            return _of_objects(column, list(values))
        if values.dtype.kind == "M":
            return Cells("datetime", _seconds(values))
        return Cells("boolean" if values.dtype.kind == "b" else "number", values.astype(np.float64))
    kind = series.dtype
    if kind.is_numeric():
        return Cells("number", _floats(series))
    if kind == nw.Boolean:
        return Cells("boolean", _floats(series))
    if isinstance(kind, nw.Datetime) or kind == nw.Date:
        return Cells("datetime", _floats(series.dt.timestamp("us")) / 1e6)
    if kind in (nw.Duration, nw.Time):
        listed = series.to_list()
        return Cells("number", np.array([np.nan if is_missing(v) else _length(v) for v in listed], np.float64))
    if kind in (nw.Categorical, nw.Enum):
        return Cells("category", _texts(column, series.to_list()))
    return _of_objects(column, series.to_list())


def _of_objects(column: str, listed: list[Any]) -> Cells:
    """Python objects as what all of them are; where they differ, as text."""
    present = [value for value in listed if not is_missing(value)]
    kinds: tuple[tuple[Holds, Any], ...] = (("boolean", bool | np.bool_), ("datetime", datetime.datetime), ("number", numbers.Real))
    for holds, kind in kinds:
        if present and all(isinstance(value, kind) for value in present):
            if holds == "datetime":
                return Cells(holds, np.array([np.nan if is_missing(v) else seconds_of(v) for v in listed], np.float64))
            with contextlib.suppress(OverflowError):  # integers beyond float64
                return Cells(holds, np.array([np.nan if is_missing(v) else float(v) for v in listed], np.float64))
    return Cells("text", _texts(column, listed))


def _texts(column: str, listed: list[Any]) -> np.ndarray:
    values = np.empty(len(listed), object)
    values[:] = [text_of(value, column) for value in listed]
    return values


def seconds_of(time: datetime.datetime) -> float:
    """Seconds since 1970; without a time zone it is taken as UTC."""
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _floats(series: Any) -> np.ndarray:
    """A numeric or boolean series as float64, NaN where it is null."""
    if series.null_count():
        return np.array([np.nan if is_missing(v) else v for v in series.to_list()], np.float64)
    return series.to_numpy().astype(np.float64)


def _numbers(series: Any, cells: Cells) -> np.ndarray:
    """A numeric series in its own type, float64 where values are missing."""
    return cells.values if series.null_count() else np.asarray(series.to_numpy(), series.to_numpy().dtype)


def _seconds(times: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the number that stands for NaT
        seconds = times.astype("datetime64[us]").astype(np.int64) / 1e6
    return np.where(np.isnat(times), np.nan, seconds)


def _length(value: Any) -> float:
    if isinstance(value, datetime.time):
        return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    return value.total_seconds() if hasattr(value, "total_seconds") else float(value / np.timedelta64(1, "us")) / 1e6
