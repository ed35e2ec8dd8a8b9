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

    That all went as wanted needs no correction for their number; that one of them went the other way does, and gets Bonferroni's. Against a
    claim with a margin speaks only a difference beyond the margin: one that is found, but lies within it, is what the claim says.

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
    level, opposite = comparisons[0].difference.level, {"better": "worse", "worse": "better"}

    def p_against(c: Comparison) -> float:
        if wanted in ("better", "worse"):
            return c.p_value if c.verdict == opposite[wanted] else 1.0
        beyond = 2 * (1 - (c.p_not_better if wanted == "not better" else c.p_equivalent))
        return 1.0 if math.isnan(beyond) else max(beyond, c.p_value)

    least = min(map(p_against, comparisons)) * len(comparisons)
    if least < 1 - level:
        return False, least

    def p_value(c: Comparison) -> float:
        if wanted in ("better", "worse"):
            return c.p_value if c.verdict == wanted else max(c.p_value, 1 - level)
        return c.p_not_better if wanted == "not better" else c.p_equivalent

    largest = max(map(p_value, comparisons))
    return (True if largest < 1 - level else None), largest


def words(comparison: Comparison, wanted: Wanted = "better") -> str:
    """A comparison in a few words: the difference, and the p-value of the claim.

    Example:
      >>> from flaxfit.report.statistics import compare
      >>> words(compare([3.0, 4.0, 5.0], [1.0, 2.1, 3.0], names=("net=plain", "net=L2")))
      'L2 minus plain: -1.97 ± 0.14 (3), p 0.00029'
    """
    c, (a, b) = comparison, comparison.names
    if (key := a.partition("=")[0] + "=") in a and b.startswith(key):
        a, b = a.removeprefix(key), b.removeprefix(key)
    margin = "" if c.margin is None else f", margin {c.margin:g}"
    p = c.p_value if wanted in ("better", "worse") else decided(c, wanted)[1]
    text = f"{b} minus {a}: {c.difference}{margin}, p {p:.2g}"
    if c.margin is not None and c.verdict == "undecided" and math.isfinite(c.needed) and c.needed > c.difference.count:
        text += f"; for ± {c.margin:g} it takes {c.needed:.0f} {'splits' if c.difference.method == 'corrected' else 'runs'}"
    return text


def most(runs: Sequence[tuple[int, int]]) -> tuple[bool | None, float]:
    """Whether in each of several settings more than half of the runs do what a claim says, by binomial tests, and the p-value.

    As in `decided`, that all do needs no correction for their number, and that one does not gets Bonferroni's. The tests are one-sided, at
    5%: five runs of a setting show it only if all of them do so, and never that most do not, where there are other settings.

    Args:
      runs: for each setting how many runs do so, and of how many.

    Example:
      >>> most([(19, 20), (5, 5)]), most([(19, 20), (2, 20)])[0], most([(19, 20), (4, 5)])[0]
      ((True, 0.03125), False, None)
    """
    from scipy.stats import binomtest

    against = min(binomtest(few, of, alternative="less").pvalue for few, of in runs) * len(runs)
    if against < 0.05:
        return False, float(against)
    for_all = max(binomtest(many, of, alternative="greater").pvalue for many, of in runs)
    return (True if for_all < 0.05 else None), float(for_all)


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


def single(values: Any, value: float, widest: float, numbers: int = 1, digit: float = 0.0) -> tuple[bool | None, str]:
    """Whether a published score of one run lies within the range of a further run, and in words.

    Args:
      values: one score a run, shape (runs,).
      value: the published score.
      widest: half the width, stated beforehand, beyond which a range that holds the score could hardly have failed: undecided.
      numbers: how many scores of the source a page judges like this; each range is for 1 - 0.05 / numbers (Bonferroni).
      digit: what the last digit of the published score is worth.

    Example:
      >>> single([0.61, 0.58, 0.60, 0.62, 0.59], 0.63, widest=0.1)
      (True, '0.63, a further run 0.600 ± 0.048')
      >>> single([0.61, 0.58, 0.60, 0.62, 0.59], 0.63, widest=0.01)
      (None, '0.63, a further run 0.600 ± 0.048, which is too wide to fail')
    """
    found = prediction(values, 1 - 0.05 / numbers)
    inside = holds(replace(found, low=found.low - digit / 2, high=found.high + digit / 2), value)
    wide = bool(inside) and found.high - found.mean > widest
    return None if wide else inside, f"{value:g}, a further run {found.short}{', which is too wide to fail' if wide else ''}"


def factor(difference: Interval) -> str:
    """A difference of natural logarithms as a factor.

    Example:
      >>> factor(interval([math.log(each) for each in (1.4, 1.5, 1.7)]))
      'x 1.53 [1.20, 1.95]'
    """
    mean, low, high = (math.exp(each) for each in (difference.mean, difference.low, difference.high))
    return f"x {mean:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")
