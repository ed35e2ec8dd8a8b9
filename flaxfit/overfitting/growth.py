"""Would more data help? Scores for growing training sets, a fitted law, and what twice the examples would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxfit.report.statistics import Interval, interval

_EXPONENTS = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, eq=False)
class Growth:
    """Scores by the number of training examples, with the law `floor + factor * examples ** -exponent`.

    Attributes:
      sizes: the numbers of training examples.
      scores: the mean score of each size, with its interval over folds.
      law: the floor and the factor, fitted to the means.
      exponent: the exponent that fits all folds best, among 0.25, 0.5, 1 and 2.
      doubled: how much twice the largest size would improve the score, with its interval over folds.
    """

    sizes: Sequence[int]
    scores: Sequence[Interval]
    law: tuple[float, float]
    exponent: float
    doubled: Interval

    @property
    def helps(self) -> bool:
        """Whether more examples are shown to help."""
        return bool(self.doubled.low > 0)

    def sentence(self, metric: str) -> str:
        """What more examples would do."""
        law = f"If the trend goes on, twice the examples would improve the {metric} by {self.doubled.short}"
        return f"More data would help. {law}." if self.helps else f"More data are not shown to help. {law}, which may be nothing."

    def record(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        scores, doubled = [score.record() for score in self.scores], self.doubled.record()
        return {"sizes": list(self.sizes), "scores": scores, "exponent": self.exponent, "doubled": doubled, "helps": self.helps}


def growth(sizes: Sequence[int], scores: np.ndarray, larger_is_better: bool, how: Mapping[str, Any]) -> Growth:
    """Fits the law to scores by least squares, fold by fold with a common exponent.

    Args:
      sizes: the numbers of training examples, ascending.
      scores: the score of each size and fold, shape (sizes, folds).
      larger_is_better: whether larger scores are better.
      how: arguments of `flaxfit.statistics.interval` for scores of folds.

    Example:
      >>> sizes, noise = [100, 200, 400, 800], np.array([[-3, 1, 2], [2, -3, 1], [1, 2, -3], [0, 1, -1]]) / 1000
      >>> found = growth(sizes, 0.3 + 2 / np.array(sizes)[:, None] ** 0.5 + noise, False, {"method": "corrected", "test_ratio": 1 / 2})
      >>> found.exponent, round(found.doubled.mean, 3), found.helps
      (0.5, 0.021, True)
    """
    n = np.asarray(sizes, float)
    fits = {}
    for exponent in _EXPONENTS:
        design = np.column_stack([np.ones(len(n)), n**-exponent])
        solved, *_ = np.linalg.lstsq(design, scores, rcond=None)
        fits[exponent] = float(((design @ solved - scores) ** 2).sum()), solved
    exponent = min(fits, key=lambda each: fits[each][0])
    sign = -1 if larger_is_better else 1
    gains = sign * fits[exponent][1][1] * (n[-1] ** -exponent - (2 * n[-1]) ** -exponent)

    floor, factor = fits[exponent][1].mean(1)
    return Growth(list(sizes), [interval(row, **how) for row in scores], (float(floor), float(factor)), exponent, interval(gains, **how))
