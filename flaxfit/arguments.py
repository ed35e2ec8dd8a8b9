"""What arguments must be: counts; names, for which unknown ones get a suggestion. It stands below all other modules."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """The message for a name that is not there: what was asked for, the nearest name, all names.

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


def check_count(name: str, value: Any, least: int, unit: str) -> int:
    """`value` as an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer ({unit}), got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least} ({unit}), got {value}.")
    return int(value)
