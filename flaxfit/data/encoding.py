"""How the columns of a table become numbers: learned on training rows, kept as plain values."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.data import parsing
from flaxfit.data.frames import Cells, cells_of
from flaxfit.sections import Section, Shown, printed

Kind = Literal["number", "boolean", "datetime", "category", "embedding", "drop"]
"""What a column may be taken for."""

KINDS = get_args(Kind)
MAX_LEVELS = 64  # how many levels of a category have a column of their own; the others share one
FEW = 20  # with fewer rows nothing is called an identifier, and no level rare
FARTHEST = 1e4  # numbers further than so many standard deviations from the mean are taken as so many
_PERIODS = {"day": 86400.0, "week": 7 * 86400.0, "year": 365.2425 * 86400.0}
_ID = re.compile(r"(?i)(^|[_ .-])(id|uuid|guid|index|row_?(nr|no|num|number)?)$|[a-z](Id|ID)$|^unnamed: 0$|^$")


@dataclass(frozen=True)
class _Flagged:
    """A column of one feature, unless it is constant, with a flag where a value is missing, if any is."""

    fill: float
    constant: bool
    flag: bool

    @property
    def names(self) -> list[str]:
        """What is appended to the column's name, for each feature."""
        return [*([] if self.constant else [""]), *([" is missing"] if self.flag else [])]

    def _features(self, values: np.ndarray, missing: np.ndarray) -> np.ndarray:
        return np.column_stack([*([] if self.constant else [values]), *([missing] if self.flag else [])])

    def _gaps(self, fill: str) -> str:
        return f", missing values -> {fill} and a flag" if self.flag else ""


@dataclass(frozen=True)
class Number(_Flagged):
    """A column of numbers: the median where one is missing, standardized, and a flag of what was missing."""

    kind: ClassVar[str] = "number"
    mean: float
    scale: float
    notation: str | None = None

    def encode(self, cells: Cells) -> np.ndarray:
        """Features of shape (rows, features)."""
        values = parsing.numbers(cells, self.notation)
        missing = np.isnan(values)
        return self._features(_scaled(np.where(missing, self.fill, values), self.mean, self.scale), missing)

    def __str__(self) -> str:
        text = f" (written like {self.notation})" if self.notation else ""
        how = "constant" if self.constant else f"standardized, mean {self.mean:.6g}, deviation {self.scale:.6g}{text}"
        return how + self._gaps(f"{self.fill:.6g}")


@dataclass(frozen=True)
class Boolean(_Flagged):
    """A column of yes and no: 1 and 0, the more frequent one where it is missing, and a flag of what was missing."""

    kind: ClassVar[str] = "boolean"

    def encode(self, cells: Cells) -> np.ndarray:
        """Features of shape (rows, features)."""
        values = parsing.truths(cells)
        missing = np.isnan(values)
        return self._features(np.where(missing, self.fill, values), missing)

    def __str__(self) -> str:
        return ("constant" if self.constant else "yes -> 1, no -> 0") + self._gaps(f"{self.fill:g}")


@dataclass(frozen=True)
class Datetime:
    """A column of times: the time standardized, its place in each period that the training rows span, a flag of what was missing."""

    kind: ClassVar[str] = "datetime"
    time: Number
    periods: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """What is appended to the column's name, for each feature."""
        return [*self.time.names, *(f" {period} {wave}" for period in self.periods for wave in ("sin", "cos"))]

    def encode(self, cells: Cells) -> np.ndarray:
        """Features of shape (rows, features)."""
        seconds = parsing.moments(cells, self.time.notation)
        filled = np.where(np.isnan(seconds), self.time.fill, seconds)
        angles = [2 * np.pi * (filled % _PERIODS[period]) / _PERIODS[period] for period in self.periods]
        return np.column_stack([self.time.encode(Cells("number", seconds)), *(wave(a) for a in angles for wave in (np.sin, np.cos))])

    def __str__(self) -> str:
        form = f"{self.time.notation} -> " if self.time.notation else ""
        waves = f", sine and cosine of the time in the {', '.join(self.periods)}" if self.periods else ""
        return f"{form}seconds since 1970, standardized{waves}{self.time._gaps('the median')}"


@dataclass(frozen=True)
class Category:
    """A column of levels, one-hot, or as numbers for an embedding: 0 for rare and unseen levels, 1 for missing values, then the levels."""

    kind: ClassVar[str] = "category"
    levels: tuple[str, ...]
    rare: int
    missing: bool
    embedded: bool = False

    @property
    def names(self) -> list[str]:
        """What is appended to the column's name, for each feature."""
        if self.embedded:
            return [""]
        return [*(f"={level}" for level in self.levels), *([" is rare"] if self.rare else []), *([" is missing"] if self.missing else [])]

    @property
    def size(self) -> int:
        """How many numbers an embedding needs."""
        return len(self.levels) + 2

    def encode(self, cells: Cells) -> np.ndarray:
        """Features of shape (rows, features)."""
        places = {level: place for place, level in enumerate(self.levels, 2)}
        codes = np.array([1 if level is None else places.get(level, 0) for level in parsing.levels(cells)], np.int32)
        if self.embedded:
            return codes[:, None]
        shown = [*range(2, self.size), *([0] if self.rare else []), *([1] if self.missing else [])]
        return codes[:, None] == np.array(shown, np.int32)

    def __str__(self) -> str:
        some = ", ".join(self.levels[:6]) + (", ..." if len(self.levels) > 6 else "")
        rare = f", one for {self.rare} rare {'category' if self.rare == 1 else 'categories'}" if self.rare else ""
        how = f"numbers below {self.size}, for an embedding" if self.embedded else "one-hot"
        return f"{how}: {some}{rare}" + (", one for missing values" if self.missing else "")


@dataclass(frozen=True)
class Dropped:
    """A column that is left out."""

    kind: ClassVar[str] = "drop"
    reason: str
    names: ClassVar[list[str]] = []

    def encode(self, cells: Cells) -> np.ndarray:
        """Features of shape (rows, 0)."""
        return np.zeros((len(cells), 0))

    def __str__(self) -> str:
        return f"left out: {self.reason}"


Column = Number | Boolean | Datetime | Category | Dropped
_COLUMNS: dict[str, Any] = {kind.kind: kind for kind in (Number, Boolean, Datetime, Category, Dropped)}


@dataclass(frozen=True)
class Encoding(Shown):
    """What was learned from the training rows of a table, and makes numbers of any rows with these columns. Its text is a table.

    Attributes:
      columns: the table's columns by name, and what is done to each.

    Example:
      >>> import flaxfit as ff
      >>> train = {"age": [20.0, None, 40.0], "city": ["Rome", "Oslo", "Rome"]}
      >>> encoding = learn(cells_of(train))
      >>> encoding.features
      ('age', 'age is missing', 'city=Oslo', 'city=Rome')
      >>> encoding({"city": ["Paris", None], "age": [40.0, None]})
      array([[1.2247449, 0.       , 0.       , 0.       ],
             [0.       , 1.       , 0.       , 0.       ]], dtype=float32)
      >>> Encoding.from_record(encoding.record()) == encoding
      True
    """

    columns: Mapping[str, Column]

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the encoded columns, without those that are for embeddings."""
        return tuple(column + name for column, how in self.columns.items() if not _embedded(how) for name in how.names)

    @property
    def embeddings(self) -> dict[str, int]:
        """Columns for embeddings, in the order of `x["levels"]` -> how many numbers each may be, `num_embeddings` of `flax.linen.Embed`."""
        return {column: how.size for column, how in self.columns.items() if isinstance(how, Category) and how.embedded}

    def __call__(self, frame: Any) -> Any:
        """Encodes rows. They may have levels and gaps that the training rows did not have, and columns in another order.

        Args:
          frame: a data frame or dict of columns. Columns that the encoding does not know, or leaves out, need not be there.

        Returns:
          A float32 array of shape (rows, features). With columns for embeddings, a dict: "levels", an int32 array of shape
          (rows, columns), and "numbers", the array of the others, if there are any.

        Raises:
          ValueError: a column is missing; the message names it.
          TypeError: `frame` is no data frame.
        """
        return self.encode(cells_of(frame))

    def encode(self, cells: Mapping[str, Cells]) -> Any:
        """As `__call__`, of columns that have been read."""
        needed = [column for column, how in self.columns.items() if not isinstance(how, Dropped)]
        if absent := [column for column in needed if column not in cells]:
            raise ValueError(
                f"the frame has no column {', '.join(map(repr, absent))}, which the encoding needs. It has: {', '.join(cells) or 'none'}."
            )
        rows = len(cells[needed[0]])
        blocks = {column: self.columns[column].encode(cells[column]) for column in needed}
        numbers = [block for column, block in blocks.items() if not _embedded(self.columns[column])]
        levels = [block for column, block in blocks.items() if _embedded(self.columns[column])]
        matrix = np.column_stack(numbers).astype(np.float32) if numbers else np.zeros((rows, 0), np.float32)
        if not levels:
            return matrix
        return {"levels": np.column_stack(levels)} | ({"numbers": matrix} if numbers else {})

    def refitted(self, cells: Mapping[str, Cells], sample_weight: np.ndarray | None = None) -> Encoding:
        """Returns the same features with the medians, means and deviations of other rows, such as the training rows of a fold.

        Args:
          cells: the rows, column by column.
          sample_weight: how much each row counts, shape (rows,).
        """
        return Encoding({column: _refitted(how, cells.get(column), sample_weight) for column, how in self.columns.items()})

    def record(self) -> dict[str, Any]:
        """The encoding as plain values for JSON, which keeps every bit of its numbers."""
        return {column: {"kind": how.kind, **asdict(how)} for column, how in self.columns.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Encoding:
        """The encoding that `record` told of.

        Raises:
          ValueError, TypeError, KeyError: the record is not one.
        """
        return cls({str(column): _column_of(dict(how)) for column, how in record.items()})

    def __str__(self) -> str:
        from rich.table import Table

        section = self.sections()[0]
        table = Table(*section.columns)
        for row in section.rows:
            table.add_row(*row)
        return printed(table)

    def sections(self) -> list[Section]:
        """Returns what is done to each column as a section of a report."""
        rows = []
        for column, how in self.columns.items():
            kind = "embedding" if _embedded(how) else how.kind
            rows.append([column, "" if isinstance(how, Dropped) else kind, str(how), str(len(how.names) or "")])
        return [Section("Columns", [], ["column", "taken as", "what is done", "features"], rows)]


def learn(
    cells: Mapping[str, Cells],
    kinds: Mapping[str, Kind] | None = None,
    *,
    sample_weight: np.ndarray | None = None,
    decimal_comma: bool = False,
) -> Encoding:
    """Learns an encoding from training rows. Numbers and categories are scikit-learn's `StandardScaler` and `OneHotEncoder` in effect.

    Args:
      cells: the training rows, column by column.
      kinds: what some columns are to be taken for, instead of what their values suggest.
      sample_weight: how much each row counts for means and deviations, shape (rows,).
      decimal_comma: whether numbers are rather written 1,5 than 1.5.

    Raises:
      ValueError: there are no rows, or all columns would be left out; an unknown column or kind in `kinds`.
    """
    kinds = check_kinds(kinds or {}, cells)
    if sample_weight is not None and not np.sum(sample_weight) > 0:
        sample_weight = None
    if not len(next(iter(cells.values()), ())):
        raise ValueError("a table needs rows and columns to learn an encoding from.")
    found = {column: _learned(column, c, kinds.get(column), sample_weight, decimal_comma) for column, c in cells.items()}
    if all(isinstance(how, Dropped) for how in found.values()):
        reasons = "; ".join(f"{column}: {how}" for column, how in list(found.items())[:5])
        raise ValueError(f"no column of the table is left to learn from ({reasons}): kinds={{...}} keeps a column.")
    return Encoding(found)


def check_kinds(kinds: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Kind]:
    """`kinds` with columns that there are and kinds that there are."""
    for column, kind in kinds.items():
        if str(column) not in columns:
            raise ValueError(f"kinds=...: {unknown('column', str(column), columns)}")
        if kind not in KINDS:
            raise ValueError(f"kinds={{{column!r}: ...}}: {unknown('kind', str(kind), KINDS)}")
    return {str(column): kind for column, kind in kinds.items()}


def _learned(column: str, cells: Cells, kind: Kind | None, weight: np.ndarray | None, decimal_comma: bool) -> Column:
    if kind == "drop":
        return Dropped("as asked for")
    taken, written = parsing.meaning(cells, decimal_comma)
    chosen, asked = kind or taken, kind is not None
    if chosen in ("category", "embedding"):
        made = _category(cells, asked, chosen == "embedding")
    else:
        made = _MAKERS[chosen](cells, written if chosen == taken else _written(cells, chosen, decimal_comma), weight)
    if isinstance(made, Number) and not asked and _is_id(column, parsing.numbers(cells, written)):
        return Dropped("an identifier, a different whole number in each row")
    if isinstance(made, Dropped):
        if asked and chosen != taken and (texts := [level for level in parsing.levels(cells) if level is not None]):
            raise ValueError(
                f"the column {column!r} is to be a {chosen}, but none of its values is one, such as {texts[0]!r}: choose another type."
            )
        return made
    if not made.names or (isinstance(made, Category) and len(made.names) < 2 and not made.embedded):
        return Dropped("constant")
    return made


def _refitted(how: Column, cells: Cells | None, weight: np.ndarray | None) -> Column:
    if isinstance(how, Datetime) and cells is not None:
        seconds = Cells("number", parsing.moments(cells, how.time.notation))
        time = cast(Number, _refitted(replace(how.time, notation=None), seconds, weight))
        return replace(how, time=replace(time, notation=how.time.notation))
    if isinstance(how, Number) and cells is not None:
        found = _number(cells, how.notation, weight)
        return replace(how, fill=found.fill, mean=found.mean, scale=found.scale) if isinstance(found, Number) else how
    if isinstance(how, Boolean) and cells is not None:
        found = _boolean(cells, None, weight)
        return replace(how, fill=found.fill) if isinstance(found, Boolean) else how
    return how


def _written(cells: Cells, kind: str, decimal_comma: bool) -> str | None:
    """How most of a column's numbers or dates are written, where they are to be taken as such though few are."""
    if cells.holds != "text" or kind == "boolean":
        return None
    if kind == "datetime":
        return max(parsing.FORMATS, key=lambda form: int((~np.isnan(parsing.moments(cells, form))).sum()))
    notations = parsing.notations(*parsing.different(cells), decimal_comma)
    return max(notations, key=lambda notation: int((~np.isnan(parsing.numbers(cells, notation))).sum()))


def _number(cells: Cells, notation: str | None, weight: np.ndarray | None) -> Column:
    values = parsing.numbers(cells, notation)
    missing = np.isnan(values)
    if missing.all():
        return Dropped("no values")
    from sklearn.preprocessing import StandardScaler

    fill = float(np.median(values[~missing]))
    filled = np.where(missing, fill, values)
    constant = bool((values[~missing] == fill).all())
    scaler: Any = StandardScaler().fit(filled[:, None], sample_weight=weight)
    written = None if notation == parsing.NOTATIONS[0] else notation
    return Number(fill, constant, bool(missing.any()), float(scaler.mean_[0]), float(scaler.scale_[0]), written)


def _boolean(cells: Cells, _: str | None, weight: np.ndarray | None) -> Column:
    values = parsing.truths(cells)
    missing = np.isnan(values)
    if missing.all():
        return Dropped("no values")
    present = values[~missing]
    return Boolean(float(present.mean() > 0.5), bool((present == present[0]).all()), bool(missing.any()))


def _datetime(cells: Cells, form: str | None, weight: np.ndarray | None) -> Column:
    seconds = parsing.moments(cells, form)
    time = _number(Cells("number", seconds), None, weight)
    if not isinstance(time, Number):
        return time
    present = seconds[~np.isnan(seconds)]
    spanned = [name for name, length in _PERIODS.items() if np.ptp(present) >= length and len(np.unique(present % length)) > 1]
    return Datetime(replace(time, notation=form), tuple(spanned))


def _category(cells: Cells, asked: bool, embedded: bool) -> Column:
    values = parsing.levels(cells)
    counts = Counter(values.tolist())
    missing = counts.pop(None, 0) > 0
    if not counts:
        return Dropped("no values")
    least = 1 if len(values) < FEW else max(2, math.ceil(len(values) / 200))
    kept = [level for level, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_LEVELS] if count >= least]
    if not asked and 2 * sum(counts[level] for level in kept) < counts.total():
        return Dropped("identifiers or free text, hardly any value twice")
    return Category(tuple(sorted(kept, key=parsing.by_value)), len(counts) - len(kept), missing, embedded)


_MAKERS: dict[str, Any] = {"number": _number, "boolean": _boolean, "datetime": _datetime}


def _is_id(column: str, values: np.ndarray) -> bool:
    """Whether each row has a whole number of its own, as a row's or a customer's number is."""
    if len(values) < FEW or np.isnan(values).any() or (values % 1 != 0).any() or len(np.unique(values)) < len(values):
        return False
    return _ID.search(column) is not None or len(values) >= 0.5 * (np.ptp(values) + 1)


def _scaled(values: np.ndarray, mean: float, scale: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.clip((values - mean) / scale, -FARTHEST, FARTHEST)


def _embedded(how: Column) -> bool:
    return isinstance(how, Category) and how.embedded


def _column_of(record: dict[str, Any]) -> Column:
    kind = record.pop("kind")
    if kind not in _COLUMNS:
        raise ValueError(unknown("kind", str(kind), _COLUMNS))
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
    if kind == "datetime":
        values["time"] = Number(**values["time"])
    return _COLUMNS[kind](**values)
