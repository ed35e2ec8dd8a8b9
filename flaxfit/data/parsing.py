"""What the text of a table's column means: numbers in several notations, yes and no, dates; what stands for a missing value."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import cast

import numpy as np

from flaxfit.data.frames import Cells, seconds_of, text_of

MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null", "none", "<na>", "nat"})
"""Lower-case words that stand for a missing value."""

ENOUGH = 0.95  # the share of a text column's values that must be numbers, or dates, for the column to be taken as such

NOTATIONS = ("1234.5", "1,234.5", "1234,5", "1.234,5", "1 234.5", "1 234,5", "1'234.5")
"""Notations of numbers: the decimal sign, and what groups thousands. A unit may follow, as in "1,234.5 kg"."""

_NOTATION = re.compile(r"(1(\D?)234([.,])5) ?(.*)")
# A unit is one word, which begins with a letter. Without a space before it, one letter is rather a part of a code, as in 12A.
_UNIT = re.compile(r"[+-]?\d[\d.,' \u00a0]*?(?:\s+([^\W\d_]\S*)|([^\W\d_][^\s\d]+))|([A-Z]{3})\s*[+-]?\d[\d.,' \u00a0]*")

_NO_NUMBERS = MISSING | {"-", "--", ".", "..", "*"}
_TRUTH = ({"true": 1.0, "false": 0.0}, {"yes": 1.0, "no": 0.0}, {"y": 1.0, "n": 0.0}, {"t": 1.0, "f": 0.0})
_TIMES = ("", " %H:%M", " %H:%M:%S")
_DATES = ("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y")
FORMATS = ("ISO 8601", *(date + time for date in _DATES for time in _TIMES))  # formats of dates, in the order in which they are tried


def is_code(text: str) -> bool:
    """Whether digits are a code and no number: they begin with 0, as in a zip code."""
    return re.fullmatch(r"0\d+", text) is not None


def number(text: str, notation: str) -> float:
    """A number that is written in one of `NOTATIONS`, NaN for other text. Signs of currencies and percent are passed over, and the unit is.

    Example:
      >>> number("$1,234.50", "1,234.5"), number("3,5 kg", "1234,5 kg"), number("3", "1234,5 kg"), number("3 g", "1234,5 kg")
      (1234.5, 3.5, 3.0, nan)
    """
    _, group, decimal, unit = cast(re.Match[str], _NOTATION.fullmatch(notation)).groups()
    if unit:
        text = text.strip().removesuffix(unit).removeprefix(unit)
    text = text.strip("$€£¥% \u00a0").replace("\u2212", "-").replace("\u00a0", " ").replace("\u202f", " ")
    if group and group in text:
        if not re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}({re.escape(group)}\d{{3}})+({re.escape(decimal)}\d*)?", text):
            return np.nan
        text = text.replace(group, "")
    if decimal == "," and "," in text:
        if "." in text:
            return np.nan
        text = text.replace(",", ".")
    try:
        return np.nan if "_" in text else float(text)
    except ValueError:
        return np.nan


def by_value(text: str) -> tuple[float, str]:
    """The key that sorts texts: numbers by their value, before other text."""
    value = number(text, NOTATIONS[0])
    return (value if np.isfinite(value) else np.inf, text)


def truth(text: str) -> float:
    """1 for yes, true, y and t, 0 for their opposites, in any case; NaN for other text."""
    lower = text.lower()
    return next((words[lower] for words in _TRUTH if lower in words), np.nan)


def moment(text: str, form: str) -> float:
    """A date and time in one of `FORMATS` as seconds since 1970; NaN for other text. Without a time zone it is taken as UTC."""
    try:
        if form == "ISO 8601":
            found = datetime.fromisoformat(text) if re.match(r"\d{4}-\d\d-\d\d", text) else None
        else:
            found = datetime.strptime(text, form)
    except ValueError:
        return np.nan
    return np.nan if found is None else seconds_of(found)


def different(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different texts of a column, without those that stand for a missing value, and how often there is each."""
    return np.unique([v for v in cells.values if v is not None and v.lower() not in _NO_NUMBERS], return_counts=True)


def meaning(cells: Cells, decimal_comma: bool = False) -> tuple[str, str | None]:
    """What a column holds: "number", "boolean", "datetime" or "category"; of numbers and dates in text, also how they are written.

    Args:
      cells: the rows that decide.
      decimal_comma: whether 1,234 is rather a number between 1 and 2.
    """
    if cells.holds != "text":
        return cells.holds, None
    values, counts = different(cells)
    words = {str(value).lower() for value in values}
    if words and any(words <= pair.keys() for pair in _TRUTH):
        return "boolean", None
    if not any(is_code(value) for value in values):
        for notation in notations(values, counts, decimal_comma):
            if _share(values, counts, lambda v, n=notation: number(v, n)) >= ENOUGH:
                return "number", notation
        for form in FORMATS:
            if _share(values, counts, lambda v, f=form: moment(v, f)) >= ENOUGH:
                return "datetime", form
    return "category", None


def notations(values: np.ndarray, counts: np.ndarray, decimal_comma: bool = False) -> list[str]:
    """Returns the notations in which the numbers of a column may be written, in the order in which they are tried.

    Args:
      values: the different texts of the column.
      counts: how often there is each of them.
      decimal_comma: whether 1,234 is rather a number between 1 and 2.

    Example:
      >>> notations(np.array(["7.00 EUR", "8.50 EUR"]), np.array([1, 1]))[:2]
      ['1234.5 EUR', '1,234.5 EUR']
    """
    units: Counter[str] = Counter()
    for value, count in zip(values, counts, strict=True):
        if match := _UNIT.fullmatch(value.strip()):
            units[next(filter(None, match.groups()))] += int(count)
    unit, share = units.most_common(1)[0] if units else ("", 0)
    unit = f" {unit}" if share >= ENOUGH * counts.sum() else ""
    first = ("1234.5", "1234,5", "1.234,5") if decimal_comma else ()
    return [notation + unit for notation in dict.fromkeys((*first, *NOTATIONS))]


def numbers(cells: Cells, notation: str | None) -> np.ndarray:
    """A column as float64, NaN where a value is missing, no number, or beyond float32."""
    values = cells.values if cells.values.dtype != object else _each(cells.values, lambda v: number(v, notation or NOTATIONS[0]))
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(values) <= np.finfo(np.float32).max, values, np.nan)


def truths(cells: Cells) -> np.ndarray:
    """A column as 0, 1, and NaN where a value is missing or neither."""
    values = cells.values if cells.values.dtype != object else _each(cells.values, lambda v: float(v) if v in "01" and v else truth(v))
    return np.where((values == 0) | (values == 1), values, np.nan)


def moments(cells: Cells, form: str | None) -> np.ndarray:
    """A column as seconds since 1970, NaN where a value is missing or no date."""
    return cells.values if cells.values.dtype != object else _each(cells.values, lambda v: moment(v, form or FORMATS[0]))


def levels(cells: Cells) -> np.ndarray:
    """A column as objects: text, or None where a value is missing."""
    if cells.holds == "boolean":
        values: Iterable[str | None] = [None if v != v else str(bool(v)) for v in cells.values]
    elif cells.holds == "datetime":
        values = [None if v != v else datetime.fromtimestamp(v, UTC).replace(tzinfo=None).isoformat() for v in cells.values]
    elif cells.holds == "number":
        values = [text_of(v, "") for v in cells.values.tolist()]
    else:
        values = [None if v is None or v.lower() in MISSING else v for v in cells.values]
    found = np.empty(len(cells), object)
    found[:] = list(values)
    return found


def _share(values: np.ndarray, counts: np.ndarray, parse: Callable[[str], float]) -> float:
    if not len(values):
        return 0.0
    return float(counts[[not np.isnan(parse(value)) for value in values]].sum() / counts.sum())


def _each(values: np.ndarray, parse: Callable[[str], float]) -> np.ndarray:
    """`parse` of each text, once for each different one."""
    known: dict[str | None, float] = {None: np.nan}
    for value in values:
        if value not in known:
            known[value] = parse(value)
    return np.array([known[value] for value in values], np.float64)
