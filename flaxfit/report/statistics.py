"""Scores with error bars: confidence intervals of means, comparisons of two settings, and of many.

Which formula is right depends on what varied. Runs from several seeds on the same rows are independent ("t", "paired", "unpaired").
Scores of cross-validation and of repeated hold-out are not, because their training sets share rows ("corrected"). On one set of held-out
rows, seeds and rows are crossed: each seed scores every row ("crossed"). `Study` and `CrossValidation` know which of these they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.report.sections import Section, Shown

Bounds = tuple[float, float]
"""The least and the largest value that a metric can have."""
_Errors = tuple[tuple[float, float], ...]
"""(standard error, degrees of freedom) of a mean. Of several the one that gives the widest interval counts."""
_Width = Callable[[int | None], _Errors]
"""A number of runs (None: as many as there are) -> the errors of their mean."""
_UNBOUNDED = (-math.inf, math.inf)
_MOST_RUNS = 10**6
_RESOLUTION = 2.5e-7  # of the largest value: what rounding to float32, in which scores are computed, makes of equal differences


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval. It prints short enough for a table.

    Attributes:
      mean: the mean of the values. It has their unit, as do the next three.
      low: the lower bound; NaN where there are too few values, or where all are equal, which tells nothing about their spread.
      high: the upper bound, likewise.
      sd: the standard deviation of the values (divisor count - 1); NaN for a single value. For "crossed" it is that of the seeds' means.
      count: the number of values; for "corrected" of splits, for "crossed" of seeds.
      level: the share of such intervals that contain the true mean.
      method: "t", "bootstrap", "corrected", "crossed" or "wilson"; "none" where no interval is known, and the bounds are NaN.
    """

    mean: float
    low: float
    high: float
    sd: float
    count: int
    level: float = 0.95
    method: str = "t"

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        if math.isnan(half):
            if self.method == "none":
                return f"{self.mean:.4g} (no interval)"
            why = f"no interval from {self.count}" if self.count < 2 else f"no interval from {self.count} equal values"
            return f"{self.mean:.4g} ({why})"
        if not half:
            return f"{self.mean:.4g} ± 0 ({self.count})"
        places = max(0, 1 - math.floor(math.log10(half)))
        if places > 12 or abs(self.mean) + half > 1e12:  # not written out
            return f"{self.mean:.4g} ± {half:.2g} ({self.count})"
        symmetric = abs(self.high + self.low - 2 * self.mean) < 1e-6 * half
        spread = f"± {half:.{places}f}" if symmetric else f"[{self.low:.{places}f}, {self.high:.{places}f}]"
        return f"{self.mean:.{places}f} {spread} ({self.count})"


def interval(
    values: Any,
    level: float = 0.95,
    method: Literal["t", "bootstrap", "corrected", "crossed"] = "t",
    *,
    seed: int = 0,
    test_ratio: float | None = None,
    bounds: Bounds = _UNBOUNDED,
) -> Interval:
    """The mean of the scores of several runs, with its confidence interval.

    "t" is Student's interval, mean ± t sd / sqrt(n), for independent runs such as seeds.

    "bootstrap" draws 9,999 resamples and assumes no normal distribution (BCa: Efron 1987, "Better bootstrap confidence intervals"). It
    is too narrow for few values. In simulations, its 95% intervals contained the true mean in 82% of cases with 5 values, 90% with 10 or
    20, and 92% with 40.

    "corrected" is for the scores of cross-validation. These are not independent, because their training sets overlap: they vary less
    among themselves than their mean does from one data set to the next, and a plain interval over folds that are repeated often enough
    shrinks to nothing around a wrong value. Nadeau and Bengio (2003, "Inference for the generalization error") put
    sd² (1/n + test_ratio) in place of sd² / n; Bouckaert and Frank (2004, "Evaluating the replicability of significance tests") use
    that for repeated k-fold. Scores of several seeds on one split are averaged first, since they share its rows. In simulations of two
    equal settings, tests at 5% erred in 1 to 5% of 5 folds x 5 seeds, and in 5% (least squares) to 7% (nearest neighbor) of 20 hold-outs,
    where the correction falls short for learners that a few rows change; taken for independent, these scores err in 45 to 57%.

    "crossed" is for seeds that score the same held-out rows, where a seed's luck and the rows' luck both count. The variance of the mean
    is that of the seeds' means over the seeds, plus that of the rows' means over the rows, less the interaction that both contain
    (two-way analysis of variance), with the degrees of freedom of Satterthwaite (1946). The interval is never narrower than the seeds'
    or the rows' own. It does not cover which rows were trained on. A single seed gives the interval over rows alone.

    Args:
      values: one score for each run, shape (runs,); for "corrected" also (splits, seeds), for "crossed" (seeds, rows).
      level: the level of confidence, between 0 and 1.
      method: "t", "bootstrap", "corrected" or "crossed".
      seed: the seed of the resamples.
      test_ratio: test rows / training rows of a fold, which is 1 / (k - 1) for k folds; for "corrected" only.
      bounds: the least and the largest value that the metric can have, which the interval does not leave: (0, 1) for an accuracy.

    Returns:
      An Interval. Its bounds are NaN for a single value, and for values that are all equal.

    Raises:
      ValueError: there are no values, some are not finite or out of bounds, the method is unknown, or the level or the ratio is out of
        range.

    Example:
      >>> print(interval([0.61, 0.58, 0.60, 0.62, 0.59]))
      0.600 ± 0.020 (5)
      >>> print(interval([0.61, 0.58, 0.60, 0.62, 0.59], method="corrected", test_ratio=1 / 4))
      0.600 ± 0.029 (5)
      >>> print(interval([[0.3, 0.6, 0.9], [0.4, 0.7, 0.7]], method="crossed"))  # 2 seeds, 3 rows
      0.60 ± 0.57 (2)
      >>> print(interval([0.61]))
      0.61 (no interval from 1)
    """
    _check(level, method, ("t", "bootstrap", "corrected", "crossed"), test_ratio)
    values = _numbers("values", values, method, {"corrected": (1, 2), "crossed": (2,)}.get(method, (1,)))
    if values.min() < bounds[0] or values.max() > bounds[1]:
        raise ValueError(f"values run from {values.min():g} to {values.max():g}, beyond the metric's bounds {bounds}.")
    scale = _scale(values)
    values = values / scale
    each = values.mean(1) if values.ndim == 2 else values
    mean, sd = _moments(each)
    if method == "bootstrap" and sd > 0:
        from scipy.stats import bootstrap

        drawn = bootstrap((values,), np.mean, confidence_level=level, method="BCa", rng=np.random.default_rng(seed))
        low, high = map(float, drawn.confidence_interval)
    else:
        half = _half((_crossed(values) if method == "crossed" else _paired(each, test_ratio))(None), level)
        low, high = mean - half, mean + half
    low, high = (float(np.clip(bound * scale, *bounds)) for bound in (low, high))
    return Interval(mean * scale, low, high, sd * scale, len(each), level, method)


def share(count: int, total: int, level: float = 0.95) -> Interval:
    """A share of independent cases, such as the accuracy of one model on the rows of a test set, with Wilson's interval (1927).

    Args:
      count: cases that count.
      total: all cases, 1 or more.
      level: the level of confidence, between 0 and 1.

    Raises:
      ValueError: a count below 0 or above the total.

    Example:
      >>> print(share(0, 20))
      0.000 [0.000, 0.161] (20)
    """
    from scipy.stats import binomtest

    bounds = binomtest(int(count), int(total)).proportion_ci(level, "wilson")
    mean = count / total
    sd = math.sqrt(mean * (1 - mean) * total / (total - 1)) if total > 1 else math.nan
    return Interval(mean, float(bounds.low), float(bounds.high), sd, int(total), level, "wilson")


@dataclass(frozen=True)
class Comparison(Shown):
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
    _errors: _Errors = ()
    _bounds: Bounds = _UNBOUNDED
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

    def sections(self) -> list[Section]:
        """Returns the sentence as a section of a report."""
        return [Section("", [f"{self}."])]


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
    bounds: Bounds = _UNBOUNDED,
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
    _check(level, method, ("paired", "unpaired", "corrected"), test_ratio)
    a, b = (_numbers(f"values of {name}", values, method, (1, 2)) for name, values in zip(names, (a, b), strict=True))
    if margin is not None and not 0 < margin < math.inf:
        raise ValueError(f"margin is the smallest difference that matters, above 0, got {margin!r}.")
    paired, crossed = method != "unpaired", method != "corrected" and a.ndim == b.ndim == 2
    if (paired and a.shape != b.shape) or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"pairs need equally many values of common seeds, got {a.shape} of {first} and {b.shape} of {second}: "
            'leave out what only one of them has, or compare(method="unpaired").'
        )
    scale = max(_scale(a), _scale(b))
    a, b = a / scale, b / scale
    each_a, each_b = (values.mean(1) if values.ndim == 2 else values for values in (a, b))
    differences = each_b - each_a if paired else each_b - each_a[:, None]
    differences[np.abs(differences) < _RESOLUTION] = 0.0
    mean, sd = _moments(differences.ravel())
    if not paired:
        sd = math.sqrt((_moments(each_a)[1] ** 2 + _moments(each_b)[1] ** 2) / 2)
    if crossed:
        width = _crossed(*([b - a] if paired else [a, b]))
    elif paired:
        width = _paired(differences, test_ratio)
    else:
        width = _welch(a, b)
    errors, half = width(None), _half(width(None), level)

    sign, edge = 1 if larger_is_better else -1, math.nan if margin is None else margin / scale
    # Where all differences are equal, a t-test would call any of them certain.
    equal = 2.0 ** -len(differences) if paired and len(differences) > 1 and not errors else math.nan
    p = float(np.minimum(1.0, 2 * _tail(abs(mean), errors, equal))) if mean or errors else 1.0 if min(a.size, b.size) > 1 else math.nan
    correlation = ranks = math.nan
    if paired and len(each_a) > 2 and min(np.ptp(each_a), np.ptp(each_b)) > _RESOLUTION:
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
        p_not_better=_tail(edge - sign * mean, errors, equal),
        p_not_worse=_tail(edge + sign * mean, errors, equal),
        needed=math.nan if margin is None or not errors else _needed(width, edge, level),
        _needed=None if margin is None or not errors else functools.partial(_needed, width, edge),
        _errors=tuple((error * scale, df) for error, df in errors),
        _bounds=(bounds[0] - bounds[1], bounds[1] - bounds[0]),
    )
    return _agreeing(comparison)


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
            half = _half(c._errors, each)
            found = replace(found, low=found.mean - half, high=found.mean + half)
        not_better, not_worse = (min(1.0, p * count) if p == p else p for p in (c.p_not_better, c.p_not_worse))
        return _agreeing(
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


def mcnemar(a: Any, b: Any, *, level: float = 0.95, names: Sequence[str] = ("a", "b")) -> Comparison:
    """Compares the accuracies of two single models on the same rows, by the rows on which only one of them is right.

    McNemar's test (1947), exact: under no difference, each such row is as likely to be the one's as the other's. It covers which rows
    were held out; not what other seeds or training rows would have given, for which `Study.compare(..., data=...)` is.

    Args:
      a: whether the first model is right, shape (rows,).
      b: whether the second is, on the same rows.
      level: the level of confidence, between 0 and 1.
      names: the names of a and b, for the sentence.

    Returns:
      A Comparison of accuracies; the interval is Student's of the rows' differences.

    Raises:
      ValueError: other than one 0 or 1 a row, or unequal numbers of rows.

    Example:
      >>> a, b = [1] * 60 + [0] * 40, [1] * 58 + [0] * 12 + [1] * 30
      >>> mcnemar(a, b).verdict
      'better'
    """
    from scipy.stats import binomtest

    a, b = (_numbers(f"values of {name}", values, "t") for name, values in zip(names, (a, b), strict=True))
    if a.shape != b.shape or not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise ValueError(f"mcnemar needs whether each model is right, 0 or 1, for the same rows, got {len(a)} and {len(b)} values.")
    found = compare(a, b, level=level, larger_is_better=True, names=names, bounds=(0, 1))
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    p = float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return _agreeing(replace(found, p_value=p, rank_p_value=math.nan, covers=ROWS))


def delong(y: Any, a: Any, b: Any, *, level: float = 0.95, names: Sequence[str] = ("a", "b")) -> Comparison:
    """Compares the areas under the ROC curves of two single models on the same rows.

    DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver operating characteristic
    curves", by the ranks of Sun and Xu (2014). What it covers is as in `mcnemar`.

    Args:
      y: 0 or 1, shape (rows,).
      a: the first model's logits, or probabilities, of label 1, shape (rows,) or (rows, 1).
      b: the second's.
      level: the level of confidence, between 0 and 1.
      names: the names of a and b, for the sentence.

    Returns:
      A Comparison of areas.

    Raises:
      ValueError: labels other than 0 and 1, all of one kind, or logits of other rows.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> y = np.arange(200) % 2
      >>> print(delong(y, y + rng.normal(0, 4, 200), y + rng.normal(0, 1, 200)).verdict)
      better
    """
    from scipy.stats import norm

    areas, (ones, zeros) = _placements(y, [a, b])
    apart = [np.diff(part, axis=0)[0] for part in (ones, zeros)]
    error = _placement_error(apart)
    mean = float(np.round(areas[1] - areas[0], 13))
    half = float(norm.isf((1 - level) / 2)) * error
    errors = ((error, math.inf),) if error else ()
    p = 2 * _tail(abs(mean), errors) if errors else 1.0 if not mean else math.nan
    count = sum(map(len, apart))
    found = Interval(mean, mean - half, mean + half, error * math.sqrt(count), count, level, "delong")
    first, second = names
    return _agreeing(
        Comparison(
            found, math.nan, p, math.nan, math.nan, True, (first, second), covers=ROWS, _errors=errors, _bounds=(-1.0, 1.0)
        )
    )  # fmt: skip


def auc_interval(y: Any, logits: Any, level: float = 0.95) -> Interval:
    """The area under one model's ROC curve with DeLong's interval over rows; arguments as in `delong`.

    Example:
      >>> print(auc_interval([0, 0, 1, 1, 0, 1], [0.1, 0.4, 0.35, 0.8, 0.2, 0.7]))
      0.89 [0.58, 1.00] (6)
    """
    from scipy.stats import norm

    areas, parts = _placements(y, [logits])
    error, count = _placement_error([part[0] for part in parts]), sum(part.shape[1] for part in parts)
    mean, half = float(areas[0]), float(norm.isf((1 - level) / 2)) * error
    if not error:
        half = math.nan
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), error * math.sqrt(count), count, level, "delong")


ROWS = "which rows were held out; not seeds, nor which rows were trained on"
SEEDS = "seeds; not which rows were held out"
SEEDS_AND_ROWS = "seeds and which rows were held out; not which rows were trained on"


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-99 else "below 1e-99"


def _placements(y: Any, scores: Sequence[Any]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The areas, and of each row of label 1 (of 0) the share of the others that it lies above (below): (models, rows of the label)."""
    from scipy.stats import rankdata

    y = np.ravel(np.asarray(y))
    logits = (
        np.stack([np.ravel(np.asarray(score, float)) for score in scores]) if len({np.size(s) for s in scores}) == 1 else np.zeros((1, 0))
    )
    if logits.shape[1] != y.size or not np.isfinite(logits).all():
        raise ValueError(f"DeLong's areas need one finite logit for each example and model, for {y.size} labels.")
    if not np.isin(y, (0, 1)).all() or y.min() == y.max():
        raise ValueError("DeLong's areas need labels 0 and 1, and rows of both.")
    one, zero = logits[:, y == 1], logits[:, y == 0]
    ranks = rankdata(np.concatenate([one, zero], 1), axis=1)
    m, n = one.shape[1], zero.shape[1]
    ones = (ranks[:, :m] - rankdata(one, axis=1)) / n
    zeros = 1 - (ranks[:, m:] - rankdata(zero, axis=1)) / m
    return ones.mean(1), (ones, zeros)


def _placement_error(parts: Sequence[np.ndarray]) -> float:
    return math.sqrt(sum(part.var(ddof=1) / len(part) if len(part) > 1 else math.nan for part in parts))


def _numbers(name: str, values: Any, method: str, axes: Sequence[int] = (1,)) -> np.ndarray:
    numbers = np.asarray(values, float)
    if numbers.ndim not in axes or not numbers.size:
        whole = "(splits,) or (splits, seeds)" if method == "corrected" else "(runs,) or (runs, rows)" if len(axes) > 1 else "(runs,)"
        expected = f"one number a {'split' if method == 'corrected' else 'run'}, shape {whole}" if 1 in axes else "of shape (seeds, rows)"
        raise ValueError(f"{name} must be {expected}, got shape {numbers.shape}.")
    wrong = int(np.count_nonzero(~np.isfinite(numbers)))
    if wrong:
        raise ValueError(f"{wrong} of {numbers.size} {name} are NaN or infinite: leave out runs that diverged, and say how many did.")
    return numbers


def _check(level: float, method: str, methods: Sequence[str], test_ratio: float | None) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}.")
    if method not in methods:
        raise ValueError(unknown("method", method, methods))
    if (test_ratio is None) == (method == "corrected"):
        raise ValueError('method="corrected" needs test_ratio=, test rows / training rows of a fold; no other method takes it.')
    if test_ratio is not None and not 0 < test_ratio < math.inf:
        raise ValueError(f"test_ratio, test rows / training rows, must be more than 0, got {test_ratio!r}.")


def _scale(values: np.ndarray) -> float:
    """A power of two that brings the values to at most 1, so that no square overflows and no bit is lost."""
    most = float(np.abs(values).max())
    return 2.0 ** min(math.frexp(most)[1], 1023) if most else 2.0**-1000


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of numbers of at most 1; none of values that are equal but for rounding, which is no spread."""
    mean = float(values.mean())
    if len(values) == 1 or np.ptp(values) <= _RESOLUTION:
        return mean, 0.0 if len(values) > 1 else math.nan
    return 0.0 if abs(mean) < 1e-13 else mean, float(values.std(ddof=1))


def _paired(values: np.ndarray, test_ratio: float | None = None) -> _Width:
    """Of the mean of independent values, or of splits that share rows."""
    _, sd = _moments(values)
    return lambda runs: _error(sd**2, (runs or len(values)), test_ratio or 0.0)


def _welch(a: np.ndarray, b: np.ndarray) -> _Width:
    (_, sd_a), (_, sd_b) = _moments(a), _moments(b)
    if min(len(a), len(b)) < 2:
        return lambda _: ()
    return lambda runs: _sum(_error(sd_a**2, runs or len(a)), _error(sd_b**2, runs or len(b)))


def _crossed(*arms: np.ndarray) -> _Width:
    """Of the mean of values of shape (seeds, rows), or of the difference of two arms of unlike seeds and the same rows."""
    rows = arms[0].shape[1]
    each_row = arms[-1].mean(0) - (arms[0].mean(0) if len(arms) == 2 else 0.0)
    by_row = float(each_row.var(ddof=1)) / rows if rows > 1 else 0.0
    if any(len(arm) < 2 for arm in arms) or rows < 2:
        return lambda _: _error(by_row * rows, rows) if rows > 1 else ()
    seeds = [float(arm.mean(1).var(ddof=1)) for arm in arms]
    residuals = [arm - arm.mean(1, keepdims=True) - arm.mean(0) + arm.mean() for arm in arms]
    # The part of a seed's mean, and of a row's, that is the interaction of both.
    shared = [float((part**2).sum()) / ((len(part) - 1) * (rows - 1) * rows) for part in residuals]

    def width(runs: int | None) -> _Errors:
        by_seed = _sum(*(_error(part, runs or len(arm)) for part, arm in zip(seeds, arms, strict=True)))
        interaction = sum(part / (runs or len(arm)) for part, arm in zip(shared, arms, strict=True))
        now = sum(part / len(arm) for part, arm in zip(shared, arms, strict=True))
        rowwise = max(0.0, by_row - now) + interaction if runs else by_row
        square, df = (by_seed[0][0] ** 2, by_seed[0][1]) if by_seed else (0.0, 1.0)
        both = max(square + rowwise - interaction, square, rowwise)
        if not both > 1e-30:
            return ()
        return ((math.sqrt(both), both**2 / (square**2 / df + rowwise**2 / (rows - 1))), *by_seed)

    return width


def _error(variance: float, count: int, test_ratio: float = 0.0) -> _Errors:
    """Of the mean of `count` values; none where they do not vary, or are too few to tell."""
    return ((math.sqrt(variance * (1 / count + test_ratio)), count - 1.0),) if variance > 0 and count > 1 else ()


def _sum(*parts: _Errors) -> _Errors:
    """Of the sum of independent means (Welch 1947)."""
    each = [part[0] for part in parts if part]
    total = sum(error**2 for error, _ in each)
    return ((math.sqrt(total), total**2 / sum(error**4 / df for error, df in each)),) if total > 0 else ()


def _half(errors: _Errors, level: float) -> float:
    """Half the width of the interval; NaN where nothing is known of the spread."""
    from scipy.stats import t

    return max((float(t.isf((1 - level) / 2, df)) * error for error, df in errors), default=math.nan)


def _tail(distance: float, errors: _Errors, equal: float = math.nan) -> float:
    """The one-sided p-value of a distance from what is tested; `equal` where all differences are the same."""
    from scipy.stats import t

    if math.isnan(distance) or (not errors and math.isnan(equal)):
        return math.nan
    if not errors:
        return equal if distance > 0 else 1.0
    return max(float(t.sf(distance / error, df)) for error, df in errors)


def _needed(width: _Width, margin: float, level: float) -> float:
    """How many runs give an interval as narrow as the margin."""
    low, high = 2, _MOST_RUNS
    if _half(width(high), level) > margin:
        return math.inf
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _half(width(middle), level) <= margin else (middle + 1, high)
    return float(low)


def _agreeing(c: Comparison) -> Comparison:
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
