"""What is drawn of many curves: their mean and a band, and the limits of an axis that shows what happens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxfit.history import History


def band(histories: Sequence[History], column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the epochs, and at each of them the mean of several runs and the band from 10% to 90% of them.

    Runs that are not finite at an epoch are left out there. An epoch that fewer than half of the runs have reached is left out, because
    the runs that stopped early are not like those that went on.

    Example:
      >>> runs = [History({"loss": [2.0, 1.0, 0.5]}), History({"loss": [4.0, 3.0]}), History({"loss": [3.0, 2.0]})]
      >>> epochs, mean, low, high = band(runs, "loss")
      >>> epochs.tolist(), mean.tolist()
      ([1, 2], [3.0, 2.0])
    """
    first = min((int(history.epochs[0]) for history in histories if len(history.epochs)), default=1)
    last = max((int(history.epochs[-1]) for history in histories if len(history.epochs)), default=0)
    values = np.full((len(histories), max(0, last - first + 1)), np.nan)
    for row, history in zip(values, histories, strict=True):
        row[history.epochs - first] = np.where(np.isfinite(history[column]), history[column], np.nan)
    known = 2 * np.isfinite(values).sum(0) >= max(1, len(values))
    values = np.sort(values[:, known], 0)  # NaN comes last; np.nanquantile would take a second for each thousand epochs
    counts = np.isfinite(values).sum(0)

    def quantile(share: float) -> np.ndarray:
        place = share * (counts - 1)
        below, above = (np.take_along_axis(values, each.astype(int)[None], 0)[0] for each in (np.floor(place), np.ceil(place)))
        return below + (place % 1) * (above - below)

    return np.arange(first, last + 1)[known], np.nanmean(values, 0), quantile(0.1), quantile(0.9)


def limits(curves: Sequence[tuple[np.ndarray, np.ndarray]], log_x: bool = False, log_y: bool = False) -> tuple[float, float] | None:
    """Returns limits for the axis of several curves, in which a spike or a diverged run does not flatten all else.

    A curve's own range is from its 10% to its 90% quantile. Left out are curves whose range is further from where curves usually start
    and end than five times the height of that (on a logarithmic axis: twice, or two decades), and values that are further from the
    ranges of the other curves than five times their height. On linear axes, the first 20th of the epochs does not count, because all
    curves fall there, and by much.

    Args:
      curves: the epochs and the values of each curve, shape (epochs,) each.
      log_x: whether the axis of epochs is logarithmic.
      log_y: whether the axis of values is.

    Returns:
      The lower and the upper limit, with a margin; or None if no value can be drawn.

    Example:
      >>> epochs = np.arange(1, 101)
      >>> falling = np.exp(-epochs / 20)
      >>> low, high = limits([(epochs, falling), (epochs, falling + 0.1), (epochs, np.where(epochs > 60, 1e6, falling))])
      >>> round(high, 2)
      0.88
    """
    shown, starts = [], []
    for epochs, values in curves:
        fine = np.isfinite(values) & ((values > 0) | (not log_y))
        late = fine & (epochs > (0 if log_x or log_y or not len(epochs) else epochs[-1] // 20))
        if late.any():
            shown.append(np.log10(values[late]) if log_y else values[late])
            starts.append(np.log10(values[fine][0]) if log_y else values[fine][0])
    if not shown:
        return None
    lows, highs = np.array([np.quantile(each, (0.1, 0.9)) for each in shown]).T
    bottom = np.quantile(np.minimum(lows, starts), 0.25, method="inverted_cdf")
    top = np.quantile(np.maximum(highs, starts), 0.5, method="inverted_cdf")
    far = 2 * max(top - bottom, 1.0) if log_y else 5 * max(top - bottom, abs(top))
    usual = (lows >= bottom - far) & (highs <= top + far)
    low, high = lows[usual].min(), highs[usual].max()
    values = np.concatenate([each for each, kept in zip(shown, usual, strict=True) if kept])
    far = 5 * (high - low) or np.inf
    inside = values[(values >= low - far) & (values <= high + far)]
    low, high = inside.min(), inside.max()
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = float(low - margin), float(high + margin)
    return (10**low, 10**high) if log_y else (low, high)
