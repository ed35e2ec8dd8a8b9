"""The scores of the settings of a study: their intervals, their comparisons, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flaxfit.overfitting.findings import Tried
from flaxfit.overfitting.fixes import BASELINE, SIMPLICITY, Fix
from flaxfit.overfitting.measures import Measure
from flaxfit.overfitting.problem import Problem
from flaxfit.overfitting.runs import Run
from flaxfit.report import statistics
from flaxfit.report.statistics import Comparison, Interval, compare, family, interval


@dataclass(eq=False)
class Scores:
    """The runs of each setting, and what their scores say."""

    problem: Problem  # the examples and their splits
    measure: Measure  # how members were scored
    margin: float | None  # the smallest difference that matters, or None
    runs: dict[str, list[Run]] = field(default_factory=dict)  # the name of a setting -> its runs

    def add(self, runs: Sequence[Run]) -> None:
        """Adds runs to those of their settings."""
        for run in runs:
            self.runs.setdefault(run.fix.name, []).append(run)

    def values(self, name: str) -> np.ndarray:
        """Returns the scores of a fix: one for each fold; in the order of time one for each seed and example, if there are such."""
        runs = self.runs[name]
        if self.problem.folds == 1 and all(run.rows is not None for run in runs):
            return np.array([run.rows for run in runs])
        return np.array([run.score for run in runs])

    def interval(self, values: np.ndarray) -> Interval:
        """Returns the mean of finite scores with its interval."""
        finite = values[np.isfinite(values.reshape(len(values), -1)).all(1)]
        if not len(finite):
            return Interval(math.nan, math.nan, math.nan, math.nan, 0)
        how = self.problem.how or {"method": "crossed" if finite.ndim == 2 else "t"}
        return interval(finite, bounds=self.measure.bounds, **how)

    def compared(self, first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> Comparison:
        """Returns the difference of two settings, the second minus the first."""
        how = self.problem.how or {"method": "paired"}
        larger = self.measure.larger_is_better
        return compare(first, second, larger_is_better=larger, names=names, margin=self.margin, bounds=self.measure.bounds, **how)

    def tried(self, fixes: Sequence[Fix]) -> list[Tried]:
        """Returns what each fix did. The baseline is the first."""
        values = {fix.name: self.values(fix.name) for fix in fixes}
        whole = [fix for fix in fixes[1:] if np.isfinite(values[fix.name]).all() and np.isfinite(values["baseline"]).all()]
        compared = family([self.compared(values["baseline"], values[fix.name], ("baseline", fix.name)) for fix in whole])
        found = dict(zip([fix.name for fix in whole], compared, strict=True))
        tried = []
        for fix in fixes:
            runs, comparison = self.runs[fix.name], found.get(fix.name)
            scores = np.array([run.score for run in runs])
            verdict = "-" if fix == BASELINE else "not finite" if comparison is None else self.judged(comparison)
            epochs, timed = float(np.mean([run.epochs for run in runs])), [run.seconds for run in runs if run.seconds]
            seconds = float(np.mean(timed)) if timed else math.nan  # what was loaded has taken no time
            tried.append(Tried(fix, scores, self.interval(values[fix.name]), comparison, verdict, epochs, seconds))
        return tried

    def judged(self, c: Comparison) -> str:
        """Returns the verdict on a comparison with the baseline."""
        bounds = abs(c.difference.low), abs(c.difference.high)
        if c.verdict == "equivalent" or (self.margin is not None and max(bounds) <= self.margin):
            return "no difference that matters"
        if c.verdict not in ("better", "worse"):
            return "undecided"
        verdict = "helps" if c.verdict == "better" else "harms"
        return verdict if self.margin is None or min(bounds) > self.margin else f"{verdict}, maybe less than the margin"

    def chosen(self, tried: Sequence[Tried]) -> tuple[Fix, Fix]:
        """Returns the fix with the best mean score, and the simplest one within one standard error of it."""
        sign = -1 if self.measure.larger_is_better else 1
        whole = [t for t in tried if np.isfinite(t.scores).all()] or list(tried[:1])
        best = min(whole, key=lambda t: sign * t.score.mean)
        of_kind = {t.fix.kind: t for t in sorted(whole, key=lambda t: -sign * t.score.mean)}  # the best strength comes last
        near = []
        for t in of_kind.values():
            behind = sign * (self.values(t.fix.name) - self.values(best.fix.name))
            how = self.problem.how or {"method": "crossed" if behind.ndim == 2 else "t"}
            error = interval(behind, 0.6827, **how) if len(behind) > 1 else None
            half = 0.0 if error is None or math.isnan(error.high) else (error.high - error.low) / 2
            if float(behind.mean()) <= half:
                near.append(t.fix)
        return best.fix, min(near or [best.fix], key=lambda fix: SIMPLICITY[fix.kind])

    def covers(self) -> str:
        """Returns what the intervals cover."""
        if self.problem.folds == 1:
            return statistics.SEEDS_AND_ROWS if self.values("baseline").ndim == 2 else statistics.SEEDS
        return "the choice of training and held-out examples, corrected for those that folds share"
