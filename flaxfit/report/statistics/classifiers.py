"""Tests of two single classifiers on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flaxfit.report.statistics.comparisons import ROWS, Comparison, agreeing, compare
from flaxfit.report.statistics.errors import as_numbers, tail
from flaxfit.report.statistics.intervals import Interval


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

    a, b = (as_numbers(f"values of {name}", values, "t") for name, values in zip(names, (a, b), strict=True))
    if a.shape != b.shape or not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise ValueError(f"mcnemar needs whether each model is right, 0 or 1, for the same rows, got {len(a)} and {len(b)} values.")
    found = compare(a, b, level=level, larger_is_better=True, names=names, bounds=(0, 1))
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    p = float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return agreeing(replace(found, p_value=p, rank_p_value=math.nan, covers=ROWS))


def delong(y: Any, a: Any, b: Any, *, level: float = 0.95, names: Sequence[str] = ("a", "b")) -> Comparison:
    """Compares the areas under the ROC curves of two single models on the same rows.

    DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver operating characteristic
    curves", by the ranks of Sun and Xu (2014). What it covers is as in `mcnemar`.

    Args:
      y: 0 or 1, shape (rows,).
      a: the first model's logits, or probabilities, of label 1, shape (rows,) or (rows, 1).
      b: the second's.
      level, names: as for `mcnemar`.

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
    p = 2 * tail(abs(mean), errors) if errors else 1.0 if not mean else math.nan
    count = sum(map(len, apart))
    found = Interval(mean, mean - half, mean + half, error * math.sqrt(count), count, level, "delong")
    first, second = names
    facts: Any = {"covers": ROWS, "_errors": errors, "_bounds": (-1.0, 1.0)}
    return agreeing(Comparison(found, math.nan, p, math.nan, math.nan, True, (first, second), **facts))


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


def _placements(y: Any, scores: Sequence[Any]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The areas, and of each row of label 1 (of 0) the share of the others that it lies above (below): (models, rows of the label)."""
    from scipy.stats import rankdata

    y = np.ravel(np.asarray(y))
    columns = [np.ravel(np.asarray(score, float)) for score in scores]
    if any(column.size != y.size or not np.isfinite(column).all() for column in columns):
        raise ValueError(f"DeLong's areas need one finite logit for each example and model, for {y.size} labels.")
    if not np.isin(y, (0, 1)).all() or y.min() == y.max():
        raise ValueError("DeLong's areas need labels 0 and 1, and rows of both.")
    logits = np.stack(columns)
    one, zero = logits[:, y == 1], logits[:, y == 0]
    ranks = rankdata(np.concatenate([one, zero], 1), axis=1)
    m, n = one.shape[1], zero.shape[1]
    ones = (ranks[:, :m] - rankdata(one, axis=1)) / n
    zeros = 1 - (ranks[:, m:] - rankdata(zero, axis=1)) / m
    return ones.mean(1), (ones, zeros)


def _placement_error(parts: Sequence[np.ndarray]) -> float:
    return math.sqrt(sum(part.var(ddof=1) / len(part) if len(part) > 1 else math.nan for part in parts))
