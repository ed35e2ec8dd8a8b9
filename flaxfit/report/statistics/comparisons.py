"""Comparisons of two settings over several runs, and of many settings with a baseline."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from flaxfit.report.statistics.errors import (
    RESOLUTION,
    UNBOUNDED,
    Bounds,
    Errors,
    as_numbers,
    check_options,
    crossed_width,
    half_width,
    moments,
    paired_width,
    runs_needed,
    scale_of,
    tail,
    welch_width,
)
from flaxfit.report.statistics.intervals import Interval
from flaxfit.sections import Sentence

ROWS = "which rows were held out; not seeds, nor which rows were trained on"
SEEDS = "seeds; not which rows were held out"
SEEDS_AND_ROWS = "seeds and which rows were held out; not which rows were trained on"


@dataclass(frozen=True)
class Comparison(Sentence):
    """Whether setting b is better than setting a. It prints as one sentence.

    Attributes:
      difference: the mean of b - a with its interval. Its `sd` is that of the differences; for unpaired runs it is the root of the mean
        of both variances.
      effect: Cohen's d, `difference.mean / difference.sd`; for pairs this is d_z. With few pairs it is too large, by a share of about
        3 / (4 pairs - 5) (Hedges 1981). NaN where the differences do not vary.
      p_value: the two-sided p-value of no difference. Where all differences of pairs are equal, it is that of the sign test: n equal
        differences do not show that there is no spread.
      rank_p_value: the two-sided p-value of the rank test, which outliers do not upset: Wilcoxon's signed-rank test for pairs, Mann and
        Whitney's U for unpaired runs. It is exact for few values, and NaN where there are so few that it cannot be below 0.05, such as
        5 pairs, and for "corrected" and "crossed", because rank tests need independent values.
      share: the share of pairs in which b is better, where a tie counts as half; for unpaired runs, of all pairs of an a and a b.
      larger_is_better: whether the larger of two scores is the better one.
      names: the names of a and b.
      correlation: of the two scores of a pair. It is shown, and decides nothing: to choose between pairs and Welch's test by it makes
        more false verdicts.
      margin: the difference that would matter, if one was stated.
      p_not_better: the one-sided p-value of "b is better by the margin or more"; small: b does not beat a by that much.
      p_not_worse: the same of "worse".
      needed: how many runs (splits, for "corrected") give an interval as narrow as the margin; infinite where no number does.
      covers: what the interval covers, and what not.
      family: the number of comparisons that p-values and intervals are corrected for.
    """

    difference: Interval
    effect: float
    p_value: float
    rank_p_value: float
    share: float
    larger_is_better: bool
    names: tuple[str, str]
    correlation: float = math.nan
    margin: float | None = None
    p_not_better: float = math.nan
    p_not_worse: float = math.nan
    needed: float = math.nan
    covers: str = ""
    family: int = 1
    _errors: Errors = ()
    _bounds: Bounds = UNBOUNDED
    _needed: Callable[[float], float] | None = field(default=None, compare=False, repr=False)

    @property
    def p_equivalent(self) -> float:
        """The p-value of two one-sided tests (Schuirmann 1987): small where the difference lies within the margin on both sides."""
        return max(self.p_not_better, self.p_not_worse)

    @property
    def verdict(self) -> Literal["better", "worse", "equivalent", "undecided"]:
        """What b is compared with a: "equivalent" needs a margin and its tests; no difference found is "undecided"."""
        if self.p_value < 1 - self.difference.level:
            return "better" if (self.difference.mean > 0) == self.larger_is_better else "worse"
        return "equivalent" if self.p_equivalent < 1 - self.difference.level else "undecided"

    def __str__(self) -> str:
        a, b = self.names
        text = {
            "undecided": f"whether {b} is better than {a} is undecided",
            "equivalent": f"{b} equals {a} within ± {self.margin:g}" if self.margin else "",
        }.get(self.verdict, f"{b} is {self.verdict} than {a}")
        text += f": difference {self.difference}"
        if not math.isnan(self.p_value):
            text += f", p {_p(self.p_value)}"
            if self.family > 1:
                text += f" (of {self.family}, Holm)"
            ranks, correlation = f"by ranks {_p(self.rank_p_value)}", f"r {self.correlation:+.2f}"
            text += "".join(
                f", {part}"
                for part, number in (
                    (ranks, self.rank_p_value),
                    (f"effect {self.effect:.2g}", self.effect),
                    (correlation, self.correlation),
                )
                if not math.isnan(number)
            )
            text += f", better in {self.share:.0%} of pairs"
        if self.margin is not None and self.verdict == "undecided" and self.needed > self.difference.count:
            unit = "splits" if self.difference.method == "corrected" else "runs"
            text += f"; for ± {self.margin:g} it takes " + (f"{self.needed:.0f} {unit}" if math.isfinite(self.needed) else "more rows")
        return f"{text}; covers {self.covers}" if self.covers else text


def compare(
    a: Any,
    b: Any,
    *,
    level: float = 0.95,
    larger_is_better: bool = False,
    names: Sequence[str] = ("a", "b"),
    method: Literal["paired", "unpaired", "corrected"] = "paired",
    test_ratio: float | None = None,
    margin: float | None = None,
    bounds: Bounds = UNBOUNDED,
) -> Comparison:
    """Compares two settings, best over common seeds: what the seed decides cancels in each difference, so fewer runs show more.

    Args:
      a: one score for each run of the first setting, shape (runs,), or one for each held-out row that a run scores, shape (runs, rows);
        for "corrected" one for each split, shape (splits,) or (splits, seeds).
      b: the scores of the second setting; for pairs, of the same seeds or splits in the same order. Rows are always the same.
      level: the level of confidence, between 0 and 1.
      larger_is_better: True for accuracies, False for losses.
      names: the names of a and b, for the sentence.
      method: "paired" is the paired t-test. "unpaired" is Welch's test (1947), for runs without common seeds. With scores of rows, both
        add the rows' variance ("crossed" in `interval`). "corrected" is paired over the splits of cross-validation, with the variance of
        Nadeau and Bengio (see `interval`).
      test_ratio: test rows / training rows of a fold, for "corrected" only.
      margin: the smallest difference that matters, in the scores' unit, stated before looking at them. With it, the verdict can be
        "equivalent", and one that is undecided says how many runs would give an interval as narrow.
      bounds: the least and the largest value that the metric can have.

    Returns:
      A Comparison. Its numbers are NaN and its verdict is "undecided" where there are fewer than 2 values. The effect size is from Cohen
      (1988), "Statistical power analysis for the behavioral sciences"; the rank tests are Wilcoxon's (1945) and Mann and Whitney's (1947).

    Raises:
      ValueError: as in `interval`, there are pairs but the numbers of values differ, or a margin that is not above 0.

    Example:
      >>> print(compare([0.52, 0.55, 0.51, 0.56], [0.47, 0.51, 0.45, 0.51], names=("plain", "dropout")))
      dropout is better than plain: difference -0.050 ± 0.013 (4), p 0.0012, effect -6.1, r +0.98, better in 100% of pairs
      >>> compare([0.52, 0.55, 0.51, 0.56], [0.521, 0.549, 0.511, 0.559], margin=0.01).verdict
      'equivalent'
    """
    first, second = names
    check_options(level, method, ("paired", "unpaired", "corrected"), test_ratio)
    a, b = (as_numbers(f"values of {name}", values, method, (1, 2)) for name, values in zip(names, (a, b), strict=True))
    if margin is not None and not 0 < margin < math.inf:
        raise ValueError(f"margin is the smallest difference that matters, above 0, got {margin!r}.")
    paired, crossed = method != "unpaired", method != "corrected" and a.ndim == b.ndim == 2
    if (paired and a.shape != b.shape) or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"pairs need equally many values of common seeds, got {a.shape} of {first} and {b.shape} of {second}: "
            'leave out what only one of them has, or compare(method="unpaired").'
        )
    scale = max(scale_of(a), scale_of(b))
    a, b = a / scale, b / scale
    each_a, each_b = (values.mean(1) if values.ndim == 2 else values for values in (a, b))
    differences = each_b - each_a if paired else each_b - each_a[:, None]
    differences[np.abs(differences) < RESOLUTION] = 0.0
    mean, sd = moments(differences.ravel())
    if not paired:
        sd = math.sqrt((moments(each_a)[1] ** 2 + moments(each_b)[1] ** 2) / 2)
    if crossed:
        width = crossed_width(*([b - a] if paired else [a, b]))
    elif paired:
        width = paired_width(differences, test_ratio)
    else:
        width = welch_width(a, b)
    errors, half = width(None), half_width(width(None), level)

    sign, edge = 1 if larger_is_better else -1, math.nan if margin is None else margin / scale
    # Where all differences are equal, a t-test would call any of them certain.
    equal = 2.0 ** -len(differences) if paired and len(differences) > 1 and not errors else math.nan
    p = float(np.minimum(1.0, 2 * tail(abs(mean), errors, equal))) if mean or errors else 1.0 if min(a.size, b.size) > 1 else math.nan
    correlation = ranks = math.nan
    if paired and len(each_a) > 2 and min(np.ptp(each_a), np.ptp(each_b)) > RESOLUTION:
        correlation = float(np.corrcoef(each_a, each_b)[0, 1])
    if not crossed and method != "corrected":
        ranks = _rank_test(np.round(differences, 6), np.round(a, 6), np.round(b, 6))  # ties are ties but for rounding
    kind = "crossed" if crossed else "corrected" if method == "corrected" else "t"
    count = len(differences) if paired else len(a) + len(b)
    comparison = Comparison(
        Interval(mean * scale, (mean - half) * scale, (mean + half) * scale, sd * scale, count, level, kind),
        effect=mean / sd if sd else math.nan,
        p_value=p,
        rank_p_value=ranks,
        share=math.nan if math.isnan(p) else float((1 + np.sign(sign * differences)).mean() / 2),
        larger_is_better=larger_is_better,
        names=(first, second),
        correlation=correlation,
        margin=margin,
        p_not_better=tail(edge - sign * mean, errors, equal),
        p_not_worse=tail(edge + sign * mean, errors, equal),
        needed=math.nan if margin is None or not errors else runs_needed(width, edge, level),
        _needed=None if margin is None or not errors else functools.partial(runs_needed, width, edge),
        _errors=tuple((error * scale, df) for error, df in errors),
        _bounds=(bounds[0] - bounds[1], bounds[1] - bounds[0]),
    )
    return agreeing(comparison)


def family(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons as one family, such as all settings against a baseline: their p-values and intervals hold all at once.

    The verdicts are Holm's (1979), "A simple sequentially rejective multiple test procedure": the chance that any of them is wrong is
    at most 1 - level. Intervals are Bonferroni's, which hold together with at least the level. Where Holm decides and Bonferroni's
    interval would not, the interval ends at zero, so that the two never contradict each other.

    Args:
      comparisons: as `compare` returned them, all of one level. Those without a p-value count as members.

    Returns:
      As many, in the same order. Rank tests are left out.

    Raises:
      ValueError: unequal levels, or members of a family already.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> plain, *others = rng.normal([0, 0.1, 1.5], 1, (8, 3)).T
      >>> [round(c.p_value, 3) for c in family([compare(plain, other) for other in others])]
      [0.759, 0.013]
    """
    count = len(comparisons)
    if len({c.difference.level for c in comparisons}) > 1 or any(c.family > 1 for c in comparisons):
        raise ValueError("a family needs comparisons of one level, none of them corrected already.")
    if count < 2:
        return list(comparisons)
    order = sorted(range(count), key=lambda i: (math.isnan(comparisons[i].p_value), comparisons[i].p_value))
    adjusted, largest = {}, 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, comparisons[index].p_value * (count - place)))
        adjusted[index] = math.nan if math.isnan(comparisons[index].p_value) else largest

    def member(index: int, c: Comparison) -> Comparison:
        found, each = c.difference, 1 - (1 - c.difference.level) / count
        if c._errors:
            half = half_width(c._errors, each)
            found = replace(found, low=found.mean - half, high=found.mean + half)
        not_better, not_worse = (min(1.0, p * count) if p == p else p for p in (c.p_not_better, c.p_not_worse))
        return agreeing(
            replace(
                c,
                difference=found,
                p_value=adjusted[index],
                rank_p_value=math.nan,
                p_not_better=not_better,
                p_not_worse=not_worse,
                needed=math.nan if c._needed is None else c._needed(each),
                family=count,
            )
        )

    return [member(index, c) for index, c in enumerate(comparisons)]


def agreeing(c: Comparison) -> Comparison:
    """The interval within the metric's bounds, and on the side of zero that the p-value says: an exact test's interval may be another's."""
    found = c.difference
    low, high = max(found.low, c._bounds[0]) if found.low == found.low else found.low, min(found.high, c._bounds[1])
    if c.p_value < 1 - found.level:
        low, high = (max(low, 0.0), high) if found.mean > 0 else (low, min(high, 0.0))
    elif c.p_value >= 1 - found.level:
        low, high = min(low, 0.0), max(high, 0.0)
    if math.isnan(found.low):
        low = high = math.nan
    return replace(c, difference=replace(found, low=low, high=high))


def _rank_test(differences: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import mannwhitneyu, wilcoxon

    pairs = differences.ndim == 1
    least = 2.0 ** (1 - len(differences)) if pairs else 2 / math.comb(len(a) + len(b), len(a))
    if least >= 0.05:
        return math.nan
    if not differences.any():
        return 1.0
    found: Any = wilcoxon(differences) if pairs else mannwhitneyu(a, b)
    return float(found.pvalue)


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-99 else "below 1e-99"
