"""Unknown names get a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
