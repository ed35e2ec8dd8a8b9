"""Is a run overfitted, and since when? How to read learning curves, as a test that noise does not fool.

The rules are those of the TensorFlow tutorial "Overfit and underfit": a small gap is normal; both curves moving the same way is fine;
validation getting worse while training improves is overfitting. The eye gets "worse" wrong, because the best of many noisy epochs is a
selected minimum, and any end lies above it. `flaxfit.curves` has the test, and `experiments/diagnosis.py` measures how often it is wrong.

Two questions are asked of a rise. Is it beyond noise: of the epochs and, where the rows that validate are few, of the rows? And is it
large: more than 5% of the earlier improvement? A rise of 1% that 10,000 epochs prove beyond doubt costs little.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from flaxfit.arguments import Mode, unknown
from flaxfit.curves import blocks, bottom, change, errors, large, lowest_and_last, rise, tamed
from flaxfit.history import History
from flaxfit.sections import Sentence

_FLOOR = 0.01  # a change below this share of the gain counts as none
_WIDE = 0.05  # a gap over this share of it is wide
_CERTAIN = 3.0  # standard errors: for a comparison of windows that were fixed beforehand
_SHORT = 10  # epochs below which seeing no change says nothing
_FEW_ROWS = 100  # with fewer validation examples, their number is named and "overfitted" is not said


@dataclass(frozen=True)
class Diagnosis(Sentence):
    """The diagnosis of a run, or of several runs of one setting. It prints as one sentence. Levels are means of several epochs.

    The verdict is one of those below. A rise is "beyond noise" if at most about 2% of flat curves show one as large (5% for fewer than
    100 epochs whose noise has a correlation of 0.9 between neighbors). The "gain" is the improvement of validation from its first epoch,
    or from `baseline`, to its best.

    - "overfitted": validation ends worse than at its best, beyond noise and by more than 5% of the gain.
    - "possibly overfitted": the same with fewer than 100 validation examples, so that other examples might give another verdict.
    - "slightly overfitted": validation rises beyond noise, but by at most 5% of the gain.
    - "memorized": validation does not rise, but ends worse than training by more than 5% of the gain. Training improved by more than this
      gap while validation did not.
    - "still improving": validation improves in the last half of the run, beyond noise. If it was better before, it would be as good again
      within as many epochs as the run had.
    - "diverging": training becomes worse as well, or a curve is not finite at the end.
    - "no change detected": none of these. The curves of one run do not show whether it underfits; compare it with a larger model.
    - "too short to tell": the same with fewer than ten epochs.

    Attributes:
      verdict: the verdict.
      metric: the training column. The validation column is `val_` and this name.
      epoch: the epoch in which overfitting begins, from 1, which is the best epoch of validation; None for other verdicts.
      onset: the first and the last epoch in which it may begin, given the noise.
      gap: how much worse validation is than training at the best epoch of validation.
      final_gap: the same at the end.
      rise: how much worse validation is at the end than at its best.
      share: the rise divided by the gain.
      statistic: the rise divided by the largest rise that noise explains. It is beyond noise if this is more than 1.
      validation: the level of validation at its best and at the end.
      training: the level of training at the same epochs.
      rows: the number of validation examples, if it is known.
      agree: the number of runs that have this verdict individually.
      runs: the number of runs.
    """

    verdict: str
    metric: str
    epoch: int | None = None
    onset: tuple[int, int] | None = None
    gap: float = math.nan
    final_gap: float = math.nan
    rise: float = math.nan
    share: float = math.nan
    statistic: float = math.nan
    validation: tuple[float, float] = (math.nan, math.nan)
    training: tuple[float, float] = (math.nan, math.nan)
    rows: int | None = None
    agree: int = 1
    runs: int = 1

    def __str__(self) -> str:
        def moved(start: float, end: float) -> str:
            if f"{start:.3g}" == f"{end:.3g}":
                return f"stayed at {end:.3g}"
            return f"{'rose' if end > start else 'fell' if end < start else 'went'} from {start:.3g} to {end:.3g}"

        name, val = self.metric, f"val_{self.metric}"
        level = f"{val} is at {self.validation[1]:.3g}, {name} at {self.training[1]:.3g}, the gap is {self.final_gap:.2g}"
        if self.epoch is not None:
            first, last = self.onset or (self.epoch, self.epoch)
            share = f"{self.share:.2g} times" if self.share >= 1 else f"{100 * self.share:.2g}% of"
            text = (
                f"{self.verdict} from epoch {self.epoch} ({first} to {last}): {val} {moved(*self.validation)} "
                f"({share} the earlier improvement, {self.statistic:.2g} times what noise explains) while {name} {moved(*self.training)}; "
                f"the gap grew from {self.gap:.2g} to {self.final_gap:.2g}"
            )
        elif self.verdict == "diverging":
            text = f"diverging: {val} {moved(*self.validation)} and {name} {moved(*self.training)}"
        elif self.verdict == "too short to tell":
            text = "too short to tell: no change beyond noise in so few epochs"
        else:
            text = f"{self.verdict}: {level}"
        rows = f"; on these {self.rows} rows" if self.rows is not None and self.rows < _FEW_ROWS else ""
        runs = f"; {self.agree} of {self.runs} runs say so individually" if self.runs > 1 else ""
        return text + rows + runs


def diagnose(runs: Any, metric: str | None = None, mode: Mode | None = None, *, baseline: float | None = None) -> Diagnosis:
    """Tells whether a run overfits, and from which epoch on, from its learning curves and their noise.

    Several runs of one setting get one verdict: that of their mean curve, which is less noisy than each of them. Runs that stopped at
    different epochs get the verdict that most of them have.

    Args:
      runs: a History, a Result, or several of either that differ in their seeds: a list, or a Study of one setting.
      metric: the training column, for which there must also be a `val_` column; by default the data loss, because the penalty in the
        objective says nothing about overfitting.
      mode: "min" or "max", for a metric whose mode is not known.
      baseline: the metric of the best constant prediction for the validation examples. The gain is then measured from it
        instead of from the first epoch. Pass it if the first epoch is so long that the model has learned most in it.

    Returns:
      A Diagnosis. Epochs without validation are left out, and so are those that are not finite, unless they are the last.

    Raises:
      TypeError: `runs` is none of these.
      KeyError: the history does not have the metric.
      ValueError: there is no validation column; the mode of the metric is not known; `mode` is neither "min" nor "max"; there are no runs,
        or runs of several settings.

    Example:
      >>> epochs = np.arange(100)
      >>> falling, rising = 0.4 * np.exp(-epochs / 20), 0.004 * np.maximum(epochs - 40, 0)
      >>> history = History({"loss": falling + 0.1, "mse": falling + 0.1, "val_loss": falling + rising, "val_mse": falling + rising + 0.2})
      >>> diagnosis = diagnose(history)
      >>> diagnosis.verdict, diagnosis.epoch, diagnosis.onset
      ('overfitted', 41, (33, 48))
    """
    histories = _histories(runs)
    if histories is None:
        return _judge(_history(runs), metric, mode, baseline)
    each = [_judge(history, metric, mode, baseline) for history in histories]
    most = Counter(one.verdict for one in each).most_common(1)[0][0]
    together = next(one for one in each if one.verdict == most)
    if len({len(history.epochs) for history in histories}) == 1:
        together = _judge(History.mean(histories), metric, mode, baseline, each[0].rows)
    return replace(together, runs=len(each), agree=sum(one.verdict == together.verdict for one in each))


def verdicts(diagnoses: Iterable[Diagnosis]) -> str:
    """How often several runs got each verdict, with the median of the epochs where overfitting begins.

    Args:
      diagnoses: of the runs, such as `map(diagnose, histories)`.

    Example:
      >>> verdicts([Diagnosis("overfitted", "mse", 40), Diagnosis("no change detected", "mse"), Diagnosis("overfitted", "mse", 42)])
      'overfitted 2/3 from epoch 41, no change detected 1/3'
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


def _histories(runs: Any) -> list[History] | None:
    """The histories of several runs; None of one run."""
    if isinstance(runs, History) or isinstance(getattr(runs, "history", None), History):
        return None
    settings = getattr(runs, "settings", ())
    if len(settings) > 1:
        raise ValueError(
            f"diagnose takes the runs of one setting, but this study has {len(settings)}: diagnose(study.select(...)) each of them."
        )
    if not isinstance(each := getattr(runs, "results", runs), Iterable) or isinstance(each, str | dict):
        _history(each)
    if not (found := [_history(run) for run in cast(Iterable[Any], each)]):
        raise ValueError("diagnose needs at least one run, got none.")
    return found


def _history(run: Any) -> History:
    history = getattr(run, "history", run)
    if not isinstance(history, History):
        raise TypeError(f"diagnose takes a History, a Result, or several of one setting, such as a Study, got {type(run).__name__}")
    return history


def _judge(history: History, metric: str | None, mode: Mode | None, baseline: float | None, rows: int | None = None) -> Diagnosis:
    """The diagnosis of one run, or of a mean of runs."""
    metric = (history.data_loss if metric is None else metric).removeprefix("val_")
    train, name = history[metric], f"val_{metric}"
    if name not in history:
        message = unknown("column", name, history, "in the history")
        raise ValueError(f"a diagnosis compares training with validation, so fit with validation=...: {message}")
    sign, finite = 1 if history.mode(metric, mode) == "min" else -1, np.isfinite(train) & np.isfinite(history[name])
    told = np.flatnonzero(history.validated | ~np.isfinite(train))
    ended, epochs = bool(len(told) and not finite[told[-1]]), history.epochs[finite]
    values = history[name][finite]
    rows = rows or history.validation_rows or _rows_of_shares(values)
    last = (float(history[name][told[-1]]), float(train[told[-1]])) if len(told) else (math.nan, math.nan)
    if len(epochs) < 5:
        verdict = "diverging" if ended else "too short to tell"
        return Diagnosis(verdict, metric, validation=(math.nan, last[0]), training=(math.nan, last[1]), rows=rows)

    # Everything below is a loss, smaller is better, and no number is so large that a square overflows.
    scale = max(np.abs(values).max(), np.abs(train[finite]).max()) or 1.0
    validation, training = sign * (values / scale), sign * (train[finite] / scale)
    (levels, size), (train_levels, _) = blocks(validation), blocks(training)
    count, skipped = len(levels), len(validation) - len(levels) * size
    statistic, _, _, wider = map(float, rise(levels, count))
    levels, train_levels = tamed(levels), tamed(train_levels)
    lowest, at, end = map(float, lowest_and_last(levels, count))
    at, sixteenth, quarter = int(at), max(1, count // 16), max(1, count // 4)
    train_best, train_end = float(train_levels[at : at + sixteenth].mean()), float(train_levels[-sixteenth:].mean())
    gain = (float(validation[0]) if baseline is None else sign * baseline / scale) - lowest
    train_gain = float(training[0] - training.min()) if baseline is None else 0.0  # a baseline is not at the start of training
    rose, gap, final_gap = end - lowest, lowest - train_best, end - train_end

    def noticed(difference: float) -> bool:
        return difference > max(_FLOOR * gain, 1e-6 * float(np.ptp(validation)))

    # A score to be maximized between 0 and 1 is a share of the rows or, as AUC, no surer than one.
    shares = bool((sign < 0 or _rows_of_shares(values)) and values.min() >= 0 and values.max() <= 1)
    worse = statistic > 1 and noticed(rose) and (not shares or _beyond_rows(rows, sign * scale * np.array([lowest, end])))
    late = float(levels[count - 2 * quarter : count - quarter].mean() - levels[-quarter:].mean())
    falls = change(-levels, quarter, count - 2 * quarter) > _CERTAIN and noticed(late)
    spread = float(np.hypot(*errors(levels - train_levels, sixteenth)[[at, -1]]))

    epoch = onset = None
    if ended:
        verdict = "diverging"
    elif worse and not (falls and count * late >= quarter * rose):
        # Overfitting goes on learning the training rows; a run that lost these too since validation's best is unstable instead.
        lost = change(train_levels, sixteenth, at)
        verdict = "overfitted" if large(rose, gain, train_gain) else "slightly overfitted"
        if verdict == "overfitted" and rows is not None and rows < _FEW_ROWS:
            verdict = "possibly overfitted"
        if lost > _CERTAIN and train_end - train_best > 0.1 * rose:
            verdict = "diverging"
        else:
            first, final = bottom(levels, wider)
            # The lowest window says that there is a bottom, medians of three say where in it: a mean drags a steep fall's end to the right.
            place = skipped + at * size
            medians = np.median(sliding_window_view(np.pad(validation, 1, mode="edge"), 3), axis=1)[place : place + sixteenth * size]
            epoch = int(epochs[place + int(np.argmin(medians))])
            onset = min(epoch, int(epochs[skipped + first * size])), max(epoch, int(epochs[skipped + (final + 1) * size - 1]))
    elif falls:
        verdict = "still improving"
    elif len(epochs) < _SHORT:
        verdict = "too short to tell"
    elif final_gap > max(_WIDE * gain, 3 * spread) and training[0] - train_end > final_gap:
        verdict = "memorized"
    else:
        verdict = "no change detected"

    def unit(*values: float) -> Any:
        return tuple(scale * value for value in values)

    gap, final_gap, rose_by = unit(gap, final_gap, rose)
    return Diagnosis(
        verdict,
        metric,
        epoch,
        onset,
        gap=gap,
        final_gap=sign * (last[0] - last[1]) if ended else final_gap,
        rise=sign * last[0] - scale * lowest if ended else rose_by,
        share=rose / gain if gain > 0 else math.inf if rose > 0 else 0.0,
        statistic=max(statistic, 0.0),
        validation=(sign * scale * lowest, last[0] if ended else sign * scale * end),
        training=(sign * scale * train_best, last[1] if ended else sign * scale * train_end),
        rows=rows,
    )


def _rows_of_shares(values: np.ndarray) -> int | None:
    """How many rows a score is a share of, such as an accuracy in steps of 1/42; None where it is no such score."""
    steps = np.unique(np.round(values, 7))
    if len(steps) < 2 or steps[0] < 0 or steps[-1] > 1:
        return None
    rows = round(1 / np.diff(steps).min())
    return rows if rows <= 1000 and np.abs(steps * rows - np.round(steps * rows)).max() < 1e-3 else None


def _beyond_rows(rows: int | None, shares: np.ndarray) -> bool:
    """Whether the difference of two shares of as many rows is more than chance among rows, one-sided at 2.5%.

    The shares count as of different rows. They are of the same, so that the true level is lower; how much, only the predictions tell.
    """
    return rows is None or abs(shares[1] - shares[0]) > 1.96 * math.sqrt((shares * (1 - shares)).sum() / rows)
