"""What a study finds out: about each fix, each simple model, and the signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flaxfit.overfitting.fixes import Fix
from flaxfit.report.statistics import Comparison, Interval


@dataclass(frozen=True, eq=False)
class Tried:
    """A fix and what it did.

    Attributes:
      fix: what was tried.
      scores: its score on each fold (or from each seed), shape (folds,). NaN for a run that was not finite.
      score: their mean with its interval.
      comparison: the difference from the baseline, corrected for the number of fixes; None for the baseline, and for a fix with runs that
        were not finite.
      verdict: "helps" or "harms", with a margin also followed by ", maybe less than the margin"; "no difference that matters", "undecided",
        "not finite", or "-" for the baseline.
      epochs: the mean number of epochs.
      seconds: the mean time of a run; NaN if all runs were loaded from an earlier call.
    """

    fix: Fix
    scores: np.ndarray
    score: Interval
    comparison: Comparison | None
    verdict: str
    epochs: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Rival:
    """A simple model beside the recommended network.

    Attributes:
      name: what it is.
      score: its mean score over the folds, with its interval.
      comparison: the difference of the network from it, corrected for the number of simple models.
    """

    name: str
    score: Interval
    comparison: Comparison

    @property
    def as_good(self) -> bool:
        """Whether the network is not shown to be better."""
        return self.comparison.verdict != "better"


@dataclass(frozen=True, eq=False)
class Signal:
    """Whether anything can be learned from the inputs: the score with the true targets against scores with permuted ones.

    Attributes:
      score: the mean score over the folds with the true targets.
      permuted: the same with permuted targets, shape (permutations,).
      p_value: the share of permutations that score as well, counting the true targets as one of them.
    """

    score: float
    permuted: np.ndarray
    p_value: float
