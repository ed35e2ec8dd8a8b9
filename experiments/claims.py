"""Whether a source's claim held, by statistics of runs: True, False, or None where it is undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from flaxfit.report.statistics import Comparison, Interval, interval

Wanted = Literal["better", "worse", "not better", "equivalent"]
"""What a claim says of a comparison's second setting; the last two need its margin."""


def held(comparisons: Comparison | Sequence[Comparison], wanted: Wanted = "better") -> bool | None:
    """Whether a claim about comparisons held: True where all went as wanted, False where one went the other way, else None.

    That all went as wanted needs no correction for their number; that one of them went the other way does, and gets Bonferroni's.

    Args:
      comparisons: one, or several.
      wanted: what each one says if the claim is true.

    Raises:
      ValueError: no comparison, or a claim of equivalence about one without a margin.

    Example:
      >>> from flaxfit.report.statistics import compare
      >>> clear, noisy = compare([3.0, 4.0, 5.0], [1.0, 2.1, 3.0]), compare([3.0, 4.0], [3.1, 3.8])
      >>> held(clear), held(clear, "worse"), held([clear, noisy])
      (True, False, None)
    """
    return decided(comparisons, wanted)[0]


def decided(comparisons: Comparison | Sequence[Comparison], wanted: Wanted = "better") -> tuple[bool | None, float]:
    """What `held` says, and its p-value: of "A and B" the larger one."""
    comparisons = [comparisons] if isinstance(comparisons, Comparison) else comparisons
    if not comparisons:
        raise ValueError("a claim needs at least one comparison.")
    if wanted in ("not better", "equivalent") and any(c.margin is None for c in comparisons):
        raise ValueError(f"a claim of {wanted!r} needs a margin, stated beforehand: compare(..., margin=...).")
    level, other = comparisons[0].difference.level, {"better": "worse", "worse": "better"}.get(wanted)

    def against(c: Comparison) -> float:
        """The p-value of the opposite: with a margin, that the difference is beyond it."""
        if other is not None:
            return c.p_value if c.verdict == other else 1.0
        beyond = 1 - max(c.p_not_better, 0.0 if wanted == "not better" else c.p_not_worse)
        return 1.0 if math.isnan(beyond) else beyond

    least = min(map(against, comparisons)) * len(comparisons)
    if least < 1 - level:
        return False, least

    def p_value(c: Comparison) -> float:
        if wanted in ("better", "worse"):
            return c.p_value if c.verdict == wanted else max(c.p_value, 1 - level)
        return c.p_not_better if wanted == "not better" else c.p_equivalent

    largest = max(map(p_value, comparisons))
    return (True if largest < 1 - level else None), largest


def holds(found: Interval, value: float) -> bool | None:
    """Whether a value lies in an interval: None where there is none.

    Example:
      >>> holds(prediction([0.61, 0.58, 0.60, 0.62, 0.59]), 0.63)
      True
    """
    return None if math.isnan(found.low) else found.low <= value <= found.high


def within(found: Interval, low: float, high: float) -> bool | None:
    """Whether the true mean lies from `low` to `high`, both included: None where its interval reaches over one, or there is none.

    Example:
      >>> found = interval([0.61, 0.58, 0.60, 0.62, 0.59])  # 0.58 to 0.62
      >>> within(found, 0.5, 0.7), within(found, 0.6, 0.7), within(found, 0.7, 1.0)
      (True, None, False)
    """
    if found.high < low or found.low > high:
        return False
    return (low <= found.low and found.high <= high) or None


def prediction(values: Any, level: float = 0.95) -> Interval:
    """Where one further run is likely to be, mean ± t sd sqrt(1 + 1/n) of normal values: for a published score of one run.

    Args:
      values: one score a run, shape (runs,).
      level: the share of such intervals that hold a further run's score, between 0 and 1.

    Example:
      >>> print(prediction([0.61, 0.58, 0.60, 0.62, 0.59]))
      0.600 ± 0.048 (5)
    """
    mean = interval(values, level)
    half = (mean.high - mean.low) / 2 * math.sqrt(mean.count + 1)
    return replace(mean, low=mean.mean - half, high=mean.mean + half)
