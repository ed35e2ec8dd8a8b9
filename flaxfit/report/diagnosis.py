"""Is a run overfitted, and since when? How to read learning curves, as a test that noise does not fool.

The rules are those of the TensorFlow tutorial "Overfit and underfit": a small gap is normal; both curves moving the same way is fine;
validation stalling while training improves is close to overfitting; validation getting worse is overfitting. The eye gets "worse"
wrong: the best of T noisy epochs is a selected minimum, and any end lies above it. So the levels compared are means of windows of w
epochs, and the rise from the lowest window to the last, in units of its standard error, must pass a Student quantile shared out over
all windows that fit side by side (Bonferroni; those between share most of their noise with these): under "flat", the chance of a
false alarm is about alpha (1%) or less, however the best was picked.

The noise of a window mean comes from third differences of the window means, which no trend up to a parabola touches (the idea of von
Neumann 1941 and Rice 1984, who difference neighbors to estimate the noise around an unknown curve), by their median, so that the fall
of the first epochs does not count (1.4826 median |d| is a normal's standard deviation). The differences are taken at lag w and again at
twice that, and the larger wins: what neighboring windows share through autocorrelation cancels at the short lag and shows at the long
one. Simulated flat curves, autocorrelation 0.6 included, were called overfitted in 0 to 3.4% of runs, below 2% from 20 epochs on. A
rise below 1% of the level is called none: a curve without noise would otherwise be overfitted by its last digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from flaxfit.arguments import Mode, unknown
from flaxfit.history import History

_ALPHA = 0.01  # the chance of a false alarm
_FLOOR = 0.01  # a change below this share of the level is none
_FEW = 10  # epochs below which seeing no change says nothing


@dataclass(frozen=True)
class Diagnosis:
    """What the curves of a run say. Prints as one sentence. Levels are means of windows, so none is a single epoch's luck.

    Attributes:
      verdict: "overfitted", "close to overfitting", "still improving", "converged" (both flat: no overfitting; whether it learned,
        the level tells), "diverging" (both get worse, or are not finite at the end), or "too short to tell".
      metric: the training column; its twin is `val_` and this.
      epoch: where overfitting begins, from 1: validation's best epoch, or the one where it stalled if it is but close; else None.
      gap: how much worse validation is than training at that epoch, or at validation's best.
      final_gap: the same at the end.
      rise: how much worse validation is at the end than at its best.
      statistic: the rise in units of its standard error.
      critical: what the statistic must exceed to be more than noise.
      validation: validation's level at the epoch of `gap` and at the end.
      training: training's likewise.
    """

    verdict: str
    metric: str
    epoch: int | None = None
    gap: float = math.nan
    final_gap: float = math.nan
    rise: float = math.nan
    statistic: float = math.nan
    critical: float = math.nan
    validation: tuple[float, float] = (math.nan, math.nan)
    training: tuple[float, float] = (math.nan, math.nan)

    def __str__(self) -> str:
        def moved(start: float, end: float) -> str:
            if f"{start:.3g}" == f"{end:.3g}":
                return f"stayed at {end:.3g}"
            return f"{'rose' if end > start else 'fell' if end < start else 'went'} from {start:.3g} to {end:.3g}"

        val, validation, training = f"val_{self.metric}", moved(*self.validation), f"{self.metric} {moved(*self.training)}"
        gaps = f"the gap grew from {self.gap:.2g} to {self.final_gap:.2g}"
        ends = f"{val} is at {self.validation[1]:.3g}, {self.metric} at {self.training[1]:.3g}, the gap is {self.final_gap:.2g}"
        test = f"(z = {self.statistic:.3g}, critical {self.critical:.2g})"
        return {
            "overfitted": f"overfitted from epoch {self.epoch}: {val} {validation} {test} while {training}; {gaps}",
            "close to overfitting": f"close to overfitting from epoch {self.epoch}: {val} stalled at {self.validation[1]:.3g} while "
            f"{training}; {gaps}",
            "diverging": f"diverging: {val} {validation} and {training}",
            "too short to tell": "too short to tell: so few epochs show no change beyond their noise",
        }.get(self.verdict, f"{self.verdict}: {ends}")


def diagnose(history: History, metric: str | None = None, mode: Mode | None = None) -> Diagnosis:
    """Whether a run overfitted and since when, judged from its curves with allowance for their noise.

    Args:
      history: what the run logged.
      metric: the training column to judge, which needs a `val_` twin; by default the data loss, because the objective's penalty
        says nothing about overfitting.
      mode: "min" or "max", for a metric that does not say itself whether larger is better.

    Returns:
      A Diagnosis. Epochs that are not finite are left out, unless they are the last; so are those without validation.

    Raises:
      TypeError: not a History.
      KeyError: no such metric in the history.
      ValueError: no validation column, a metric that does not say whether larger is better, or a mode that is neither "min" nor "max".

    Example:
      >>> epochs = np.arange(100)
      >>> falling, rising = 0.4 * np.exp(-epochs / 20), 0.004 * np.maximum(epochs - 40, 0)
      >>> history = History({"loss": falling + 0.1, "mse": falling + 0.1, "val_loss": falling + rising, "val_mse": falling + rising + 0.2})
      >>> diagnosis = diagnose(history)
      >>> diagnosis.verdict, diagnosis.epoch
      ('overfitted', 41)
    """
    if not isinstance(history, History):
        raise TypeError(f"diagnose takes a History, such as result.history, got {type(history).__name__}")
    metric = (history.data_loss if metric is None else metric).removeprefix("val_")
    train, name = history[metric], f"val_{metric}"
    if name not in history:
        message = unknown("column", name, history, "in the history")
        raise ValueError(f"a diagnosis compares training with validation, so fit with validation=...: {message}")
    sign, finite = 1 if history.mode(metric, mode) == "min" else -1, np.isfinite(train) & np.isfinite(history[name])
    told = np.flatnonzero(history.validated | ~np.isfinite(train))
    ended, epochs = bool(len(told) and not finite[told[-1]]), history.epochs[finite]
    count = len(epochs)
    if count < 5:  # the fewest with two third differences
        if not ended:
            return Diagnosis("too short to tell", metric)
        return Diagnosis("diverging", metric, validation=(math.nan, float(history[name][-1])), training=(math.nan, float(train[-1])))

    # Everything below is a loss: smaller is better.
    window = max(1, min(count // 9, 1 + count // 20, 25))
    validation, training = sign * history[name][finite], sign * train[finite]
    levels, train_levels = (sliding_window_view(values, window).mean(1) for values in (validation, training))
    noise, train_noise, gap_noise = (_noise(values, window) for values in (levels, train_levels, levels - train_levels))
    critical = _quantile(_ALPHA * window / count, count / window)
    best, third = int(np.argmin(levels)), len(levels) * 2 // 3

    def beyond(change: Any, noise: float, level: float, critical: float = critical) -> Any:
        return change > max(critical * noise, _FLOOR * abs(level))

    rise = levels[-1] - levels[best]
    # Where the last third begins is not picked by its values, so one comparison needs no sharing out.
    improves = beyond(levels[third] - levels[-1], noise, levels[-1], _quantile(_ALPHA, count / window))
    # Validation stalls after the last window that is clearly above the end.
    above = np.flatnonzero(beyond(levels - levels[-1], noise, levels[-1]))
    stall = int(above[-1]) + 1 if len(above) else 0
    learns = beyond(train_levels[stall] - train_levels[-1], train_noise, train_levels[-1])
    parts = beyond(levels[-1] - train_levels[-1] - levels[stall] + train_levels[stall], gap_noise, levels[-1])

    start, epoch = best, None
    if ended:
        verdict = "diverging"
    elif beyond(rise, noise, levels[best]):
        # Overfitting goes on learning the training rows; a run that lost these too since validation's best is unstable instead.
        diverges = beyond(train_levels[-1] - train_levels[best], train_noise, train_levels[best])
        verdict = "diverging" if diverges else "overfitted"
        # The lowest window says that there is a bottom, medians of three say where in it: a mean drags a steep fall's end to the right.
        medians = np.median(sliding_window_view(np.pad(validation, 1, mode="edge"), 3), axis=1)
        epoch = None if diverges else best + int(np.argmin(medians[best : best + window]))
    elif improves:
        verdict = "still improving"
    elif count < _FEW:
        verdict = "too short to tell"
    elif learns and parts:
        verdict, start, epoch = "close to overfitting", stall, stall + window // 2
    else:
        verdict = "converged"
    ends = (history[name][-1], train[-1]) if ended else (sign * levels[-1], sign * train_levels[-1])
    final, train_final = map(float, ends)
    return Diagnosis(
        verdict,
        metric,
        epoch=None if epoch is None else int(epochs[epoch]),
        gap=float(levels[start] - train_levels[start]),
        final_gap=sign * (final - train_final),
        rise=sign * final - float(levels[best]),
        statistic=float(rise / noise) if noise else math.inf if rise else 0.0,
        critical=critical,
        validation=(float(sign * levels[start]), final),
        training=(float(sign * train_levels[start]), train_final),
    )


def verdicts(diagnoses: Iterable[Diagnosis]) -> str:
    """How often several runs got each verdict, with the median of the epochs where overfitting begins.

    Args:
      diagnoses: of the runs, such as `map(diagnose, histories)`.

    Example:
      >>> verdicts([Diagnosis("overfitted", "mse", 40), Diagnosis("converged", "mse"), Diagnosis("overfitted", "mse", 42)])
      'overfitted 2/3 from epoch 41, converged 1/3'
    """
    epochs: dict[str, list[int | None]] = {}
    for diagnosis in diagnoses:
        epochs.setdefault(diagnosis.verdict, []).append(diagnosis.epoch)
    runs = sum(map(len, epochs.values()))

    def since(found: list[int | None]) -> str:
        known = [epoch for epoch in found if epoch is not None]
        return f" from epoch {np.median(known):.0f}" if known else ""

    most = sorted(epochs.items(), key=lambda item: -len(item[1]))
    return ", ".join(f"{verdict} {len(found)}/{runs}{since(found)}" for verdict, found in most)


def _noise(levels: np.ndarray, window: int) -> float:
    """The standard error of the difference of two far windows."""

    def at(lag: int) -> float:
        lag = max(1, min(lag, len(levels) // 5))  # of few, most differences must miss the fall of the first epochs
        first, second, third, fourth = (levels[i * lag : len(levels) - (3 - i) * lag] for i in range(4))
        return 1.4826 * float(np.median(np.abs(fourth - 3 * third + 3 * second - first))) / math.sqrt(1 + 9 + 9 + 1)

    return math.sqrt(2) * max(at(window), at(max(2 * window, 3)))


def _quantile(alpha: float, blocks: float) -> float:
    """What a change over its standard error exceeds with chance `alpha`. Of the windows side by side, a cubic trend takes four."""
    from scipy.stats import t

    return float(t.isf(alpha, max(blocks - 4, 1)))
