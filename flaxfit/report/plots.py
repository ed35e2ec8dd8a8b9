"""Pictures of runs: learning curves, schedules, weight norms, scores. They return Figures and never touch pyplot: no global state.

The n-th run of a mapping has the n-th color in every picture, and no two have the same. The first seven are Okabe and Ito's (2008), told
apart with any color vision, without their yellow, which vanishes on white.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.ndimage import gaussian_filter1d

from flaxfit.arguments import unknown
from flaxfit.history import History
from flaxfit.report.bands import band, limits
from flaxfit.report.colors import PALETTE, distinct
from flaxfit.report.diagnosis import diagnose
from flaxfit.report.statistics import interval

_LINE: dict[str, Any] = {"linewidth": 1.6}
_VALIDATION: dict[str, Any] = {**_LINE, "linestyle": (0, (3.5, 1.5))}
_BEST: dict[str, Any] = {"marker": "o", "markersize": 7, "markeredgewidth": 0.8, "markeredgecolor": "white", "linestyle": "none"}
_ONSET: dict[str, Any] = {**_BEST, "marker": "v", "markersize": 9}
_BAND: dict[str, Any] = {"linewidth": 8, "alpha": 0.2, "solid_capstyle": "butt"}
_END: dict[str, Any] = {"marker": "|", "markersize": 13, "markeredgewidth": 1.8, "linestyle": "none"}
_ENTRIES = 18  # lines of a legend beside the axes
_LABELS = {
    "loss": "objective (data loss + penalty)",
    "binary_crossentropy": "binary cross-entropy (nats a row)",
    "categorical_crossentropy": "categorical cross-entropy (nats a row)",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "accuracy": "accuracy (share of rows)",
    "kernel_l1": "L1 norm of the kernels",
    "kernel_l2": "L2 norm of the kernels",
    "kernel_max": "largest |w| in the kernels",
}


def learning_curves(
    histories: Mapping[str, History] | Any,
    metric: str | None = None,
    *,
    smooth: float = 0.0,
    log_x: bool = False,
    log_y: bool = False,
    ylim: tuple[float, float] | None = None,
    colors: Mapping[str, str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Training (solid) and validation (dashed) against the epoch, one color a run, with the best epoch and the end marked.

    Args:
      histories: run name -> History; or one History or Result.
      metric: the training column; its `val_` twin is drawn where there is one. By default the data loss of the first history.
      smooth: standard deviation in epochs of a Gaussian that smooths the curves; epochs that are not finite are left out of it.
      log_x: a logarithmic epoch axis, for runs of very different lengths.
      log_y: a logarithmic axis of the metric.
      ylim: lower and upper limit of the metric. By default a spike or a diverged run is cut off where it would flatten all else.
      colors: run name -> color, so that a run looks the same in several pictures; that of its place where it has none.
      ax: where to draw; by default a new Figure.
      title: above the axes.

    Returns:
      The Figure; `savefig` writes it.

    Raises:
      KeyError: a history without the metric.
      ValueError: no histories, or a `smooth` or `ylim` that is none.

    Example:
      >>> history = History({"loss": [0.7, 0.5], "mse": [0.7, 0.5], "val_loss": [0.8, 0.9], "val_mse": [0.8, 0.9]})
      >>> learning_curves({"Tiny": history}, smooth=1).axes[0].get_ylabel()
      'mean squared error'
    """
    histories = _named(histories)
    first = next(iter(histories.values()))
    metric = (first.data_loss if metric is None else metric).removeprefix("val_")
    ax = panels(size=(9, 5))[1][0] if ax is None else _styled(ax)
    styles: dict[str, dict[str, Any]] = {"training": _LINE}  # what the gray part of the legend explains: only what is there

    def draw(x: np.ndarray, y: np.ndarray, color: str, style: dict[str, Any], meaning: str) -> None:
        if np.isfinite(y).any():
            ax.plot(x, y, color=color, **style)
            styles[meaning] = style

    for color, (run, history) in _colored(histories, colors):
        epochs, values = history.epochs, _smoothed(_column(history, metric, run), smooth)
        ax.plot(epochs, values, color=color, label=run, **_LINE)
        if f"val_{metric}" in history:
            values = _smoothed(history[f"val_{metric}"], smooth)
            draw(epochs[history.validated], values[history.validated], color, _VALIDATION, "validation")
        best, last = epochs == history.best_epoch, np.flatnonzero(np.isfinite(values))[-1:]
        draw(epochs[best], values[best], color, _BEST, "best epoch")
        draw(epochs[last], values[last], color, _END, "end of training")
    _scaled(ax, log_x, log_y, ylim)
    ax.set(xlabel="epoch", ylabel=_LABELS.get(metric, metric.replace("_", " ")), title=title or "")
    _legend(ax, styles)
    return cast(Figure, ax.get_figure(root=True))


def study_curves(
    study: Any,
    metric: str | None = None,
    *,
    log_x: bool = False,
    log_y: bool = False,
    ylim: tuple[float, float] | None = None,
    smooth: float = 0.0,
    colors: Mapping[str, str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Draws the mean curves of each setting of a study, with a band over its runs and the epoch from which on it overfits.

    Training is solid, validation is dashed, and each setting has a color of its own. The band reaches from 10% to 90% of the runs. It
    ends where fewer than half of them are left. The epoch is that of `flaxfit.diagnose` for all runs of the setting together.

    Args:
      study: a `Study`, a `CrossValidation` or an `OverfittingStudy`; or a mapping from the name of a setting to the histories of its runs.
      metric: the training column; its `val_` twin is drawn where there is one. By default the data loss of the first run.
      log_x, log_y, ylim, smooth, colors, ax, title: as for `learning_curves`, with the names of settings in place of those of runs.

    Returns:
      The Figure.

    Raises:
      KeyError: a run without the metric.
      ValueError: there are no runs, `smooth` is negative or not finite, or `ylim` is not two numbers in order.

    Example:
      >>> runs = [History({"loss": [0.7, 0.5], "mse": [0.7, 0.5], "val_mse": [0.8, level]}) for level in (0.5, 0.75)]
      >>> figure = study_curves({"plain": runs, "dropout": runs[:1]})
      >>> figure.axes[0].get_lines()[1].get_ydata().tolist()
      [0.8, 0.625]
    """
    settings: Mapping[str, Sequence[History]] = getattr(study, "curves", study)
    if not isinstance(settings, Mapping) or isinstance(settings, History):
        raise TypeError(f"study_curves takes a study, or a mapping from settings to lists of histories, got {type(study).__name__}.")
    first = next(iter(_named({f"{name}, run {index}": run for name, runs in settings.items() for index, run in enumerate(runs)}).values()))
    metric = (first.data_loss if metric is None else metric).removeprefix("val_")
    ax = panels(size=(9 + 2.6 * (len(settings) // _ENTRIES), 5))[1][0] if ax is None else _styled(ax)
    counts = {len(runs) for runs in settings.values()}
    faint = {"linewidth": 0.8, "alpha": 0.6} if len(settings) > len(PALETTE) else {}
    styles: dict[str, dict[str, Any]] = {"training": {**_LINE, **faint}}
    band_of = f"10% to 90% of {counts.copy().pop()} runs" if len(counts) == 1 else "10% to 90% of the runs"
    for color, (name, runs) in _colored(settings, colors):
        for run in runs:
            _column(run, metric, name)
        label = name if len(counts) == 1 else f"{name} ({len(runs)} run{'s' * (len(runs) > 1)})"
        for column, style in ((metric, styles["training"]), (f"val_{metric}", _VALIDATION)):
            if not all(column in run for run in runs):
                continue
            epochs, *curves = band(runs, column)
            mean, low, high = (_smoothed(curve, smooth) for curve in curves)
            ax.plot(epochs, mean, color=color, label=label if column == metric else None, **style)
            if len(runs) > 1:
                ax.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
                styles[band_of] = _BAND
            if column == metric:
                continue
            styles["validation"] = _VALIDATION
            onset = epochs == _onset(runs, metric)
            if onset.any():
                ax.plot(epochs[onset], mean[onset], color=color, **_ONSET)
                styles["overfits from here on"] = _ONSET
    _scaled(ax, log_x, log_y, ylim)
    ax.set(xlabel="epoch", ylabel=_LABELS.get(metric, metric.replace("_", " ")), title=title or "")
    _legend(ax, {name: styles[name] for name in ("training", "validation", band_of, "overfits from here on") if name in styles})
    return cast(Figure, ax.get_figure(root=True))


def schedule(learning_rate: float | Callable[[Any], Any], steps_per_epoch: int, epochs: int, ax: Axes | None = None) -> Figure:
    """A learning rate against the epoch.

    Args:
      learning_rate: a number, or a callable of the step (from 0), such as optax's schedules.
      steps_per_epoch: steps an epoch.
      epochs: how far to draw.
      ax: where to draw; by default a new Figure.

    Returns:
      The Figure.

    Raises:
      ValueError: counts below 1.

    Example:
      >>> figure = schedule(lambda step: 0.001 / (1 + step / 20_000), steps_per_epoch=20, epochs=10_000)
      >>> figure.axes[0].get_lines()[0].get_ydata()[0].item()
      0.001
    """
    if not (steps_per_epoch >= 1 and epochs >= 1):
        raise ValueError(f"steps_per_epoch and epochs count from 1, got {steps_per_epoch!r} and {epochs!r}")
    ax = panels(size=(9, 5))[1][0] if ax is None else _styled(ax)
    steps = np.unique(np.linspace(0, steps_per_epoch * epochs, 1001).astype(int))
    rates = [float(learning_rate(step)) if callable(learning_rate) else float(learning_rate) for step in steps]
    ax.plot(steps / steps_per_epoch, rates, color=distinct(len(ax.get_lines()) + 1)[-1], **_LINE)
    ax.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    return cast(Figure, ax.get_figure(root=True))


def weight_norms(
    histories: Mapping[str, History] | Any,
    columns: Sequence[str] = ("kernel_l1", "kernel_l2", "kernel_max"),
    *,
    log_x: bool = False,
    log_y: bool = False,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """The size of the weights against the epoch, a panel a norm, a color a run: overfitted nets tend to have large ones.

    Args:
      histories: run name -> History; or one History or Result.
      columns: what to draw, a panel each.
      log_x, log_y, colors, title: as for `learning_curves`.

    Returns:
      The Figure.

    Raises:
      KeyError: a history without one of the columns.
      ValueError: no histories, or no columns.

    Example:
      >>> history = History({"kernel_l1": [2.0, 3.0], "kernel_l2": [1.0, 2.0], "kernel_max": [0.5, 0.6]})
      >>> [ax.get_ylabel() for ax in weight_norms({"Tiny": history}).axes]
      ['L1 norm of the kernels', 'L2 norm of the kernels', 'largest |w| in the kernels']
    """
    histories = _named(histories)
    if not columns:
        raise ValueError("no columns to draw: give weight_norms at least one")
    figure, axes = panels(len(columns), (1 + 3 * len(columns), 3.6))
    for column, ax in zip(columns, axes, strict=True):
        for color, (run, history) in _colored(histories, colors):
            ax.plot(history.epochs, _column(history, column, run), color=color, label=run, **_LINE)
        _scaled(ax, log_x, log_y)
        ax.set(xlabel="epoch", ylabel=_LABELS.get(column, column.replace("_", " ")))
        if not log_y:
            ax.set_ylim(bottom=0)
    lines, names = figure.axes[0].get_legend_handles_labels()
    ncols = max(1, 40 * len(columns) // (8 + max(map(len, names))))  # a panel is about 40 letters wide, a line's sample 8
    figure.legend(lines, names, loc="outside lower center", ncols=ncols, frameon=False)
    figure.suptitle(title or "")
    return figure


def scores(
    groups: Mapping[str, Any],
    label: str,
    *,
    reference: Mapping[str, float] | None = None,
    colors: Mapping[str, str] | None = None,
    level: float = 0.95,
    title: str | None = None,
) -> Figure:
    """A line a setting: each run's score as a dot, their mean with its interval, and a published score beside them.

    Args:
      groups: setting -> one score a run, shape (runs,), drawn from the top.
      label: of the scores, with their unit.
      reference: setting -> another's score, drawn as an open diamond where there is one.
      colors: setting -> color, as in `learning_curves`.
      level: of the intervals (Student's, see `flaxfit.statistics.interval`).
      title: above the axes.

    Returns:
      The Figure.

    Raises:
      ValueError: no groups, or scores of which there is no mean.

    Example:
      >>> figure = scores({"plain": [0.61, 0.58, 0.60], "dropout": [0.66, 0.64, 0.65]}, "accuracy (share of rows)")
      >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
      ['plain', 'dropout']
    """
    if not groups:
        raise ValueError("groups=... must map names of settings to their scores, at least one.")
    figure, (ax,) = panels(1, (9, 1.3 + 0.45 * len(groups)))
    for row, (color, (name, values)) in enumerate(_colored(groups, colors)):
        mean = interval(values, level)
        ax.plot(values, [row + 0.2] * mean.count, "o", color=color, alpha=0.55, markersize=5, markeredgewidth=0)
        if mean.count > 1:
            ax.plot([mean.low, mean.high], [row, row], color=color, linewidth=2.5, solid_capstyle="butt")
        ax.plot([mean.mean], [row], "o", color=color, markersize=8)
        if reference and name in reference:
            ax.plot([reference[name]], [row], "D", color="0.1", markerfacecolor="none", markersize=9, markeredgewidth=1.3)
    ax.set(xlabel=label, title=title or "", yticks=range(len(groups)), ylim=(len(groups) - 0.5, -0.5))
    ax.set_yticklabels(list(groups))
    marks: dict[str, dict[str, Any]] = {
        "a run": {"marker": "o", "markersize": 5, "alpha": 0.55, "linestyle": "none"},
        f"mean, {level:.0%} interval": {"marker": "o", "markersize": 8, "linewidth": 2.5},
    }
    if reference:
        marks["source"] = {"marker": "D", "markersize": 9, "markerfacecolor": "none", "color": "0.1", "linestyle": "none"}
    _legend(ax, marks)
    return figure


def panels(columns: int = 1, size: tuple[float, float] = (8, 4.2), **subplots: Any) -> tuple[Figure, list[Axes]]:
    """Axes side by side for pictures of one's own, in the style of those here: a faint grid, no frame.

    Args:
      columns: how many.
      size: of the Figure, width and height in inches.
      **subplots: for matplotlib's `Figure.subplots`, such as `sharey`.

    Example:
      >>> figure, (left, right) = panels(2, sharey=True)
      >>> figure.get_size_inches().tolist()
      [8.0, 4.2]
    """
    figure = _Picture(figsize=size, dpi=100, layout="constrained")
    return figure, [_styled(ax) for ax in figure.subplots(1, columns, squeeze=False, **subplots)[0]]


def lr_range(test: Any, *, ax: Axes | None = None, title: str | None = None) -> Figure:
    """Draws the loss of a learning rate range test against the rate, with the smoothed loss and the suggested rate.

    Args:
      test: the result of `flaxfit.lr_range_test`.
      ax: the axes to draw into; by default those of a new Figure.
      title: the title of the axes; by default the text of the result.

    Returns:
      The Figure.

    Example:
      >>> import flaxfit as ff
      >>> rates = np.geomspace(1e-4, 10, 30)
      >>> test = ff.RangeTest(rates, 1 / (1 + 10 * rates) + 0.1 * rates**2)
      >>> lr_range(test).axes[0].get_xscale()
      'log'
    """
    ax = panels(size=(7, 4))[1][0] if ax is None else _styled(ax)
    ax.plot(test.rates, test.losses, color="0.7", linewidth=0.8, label="each step")
    ax.plot(test.rates, test.smoothed, color=PALETTE[0], label="smoothed")
    if np.isfinite(test.suggestion):
        ax.axvline(test.suggestion, color=PALETTE[1], linestyle="--", label=f"suggested, {test.suggestion:.2g}")
    shown = test.smoothed[np.isfinite(test.smoothed)]
    if len(shown):  # the divergence at the end would hide the rest
        low, high = shown.min(), max(shown[0], np.median(shown))
        ax.set_ylim(low - 0.1 * (high - low) - 1e-9, high + 0.5 * (high - low) + 1e-9)
    ax.set_xscale("log")
    ax.set(xlabel="learning rate", ylabel="loss", title=str(test) if title is None else title)
    ax.legend(frameon=False)
    return cast(Figure, ax.get_figure(root=True))


class _Picture(Figure):
    """A figure that a notebook shows, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        self.savefig(made := BytesIO(), format="png")
        return made.getvalue()


def _named(histories: Any) -> Mapping[str, History]:
    """The histories by the names of their runs, and a single one as that of "run"."""
    if isinstance(alone := getattr(histories, "history", histories), History):
        return {"run": alone}
    if not isinstance(histories, Mapping) or not histories:
        raise ValueError(f'histories=... must map names of runs to histories, at least one: {{"Tiny": result.history}}, got {histories!r}')
    for run, history in histories.items():
        if not isinstance(history, History):
            raise TypeError(f"histories[{run!r}] must be a History, such as result.history, got {type(history).__name__}")
    return histories


def _colored(groups: Mapping[str, Any], colors: Mapping[str, str] | None) -> list[tuple[str, tuple[str, Any]]]:
    """Each group with a color of its own: the one that it is given, or that of its place, or a spare one if another was given that."""
    given = {name: color for name, color in (colors or {}).items() if name in groups}
    taken = {to_hex(color) for color in given.values()}
    own = distinct(len(groups) + len(taken))
    spare = iter([color for color in own[len(groups) :] if to_hex(color) not in taken])
    free = [color if to_hex(color) not in taken else None for color in own]
    return [(given.get(item[0]) or color or next(spare), item) for item, color in zip(groups.items(), free, strict=False)]


def _onset(runs: Sequence[History], metric: str) -> int | None:
    """The epoch from which on the runs overfit, if they do."""
    with suppress(ValueError):  # a metric of which it is not known whether it is best when small
        return diagnose(runs, metric).epoch
    return None


def _column(history: History, name: str, run: str) -> np.ndarray:
    if name not in history:
        raise KeyError(unknown("column", name, history, f"in the history of {run!r}"))
    return history[name]


def _smoothed(values: np.ndarray, std: float) -> np.ndarray:
    """A Gaussian mean over the finite values; where there is none, a gap stays a gap."""
    if not 0 <= std < np.inf:
        raise ValueError(f"smooth=... must be a standard deviation in epochs, 0 or more, got {std!r}")
    if not std or not len(values):
        return values
    finite = np.isfinite(values)
    weights = gaussian_filter1d(finite.astype(float), std, mode="nearest")
    sums = gaussian_filter1d(np.where(finite, values, 0.0), std, mode="nearest")
    return np.where(finite, sums / np.where(finite, weights, 1.0), np.nan)


def _styled(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    return ax


def _legend(ax: Axes, styles: Mapping[str, dict[str, Any]]) -> None:
    """Names the runs, and what is drawn how. It stands beside the axes: inside, whatever the corner, some run's curve is under it."""
    lines, names = ax.get_legend_handles_labels()
    lines += [Line2D([], [], **{"color": "0.35", **style}) for style in styles.values()]
    columns = 1 + len(names) // _ENTRIES
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    legend = ax.legend(lines, [*names, *styles], **place, frameon=False, ncols=columns)
    for line in legend.get_lines()[: len(names)]:
        line.set(alpha=1, linewidth=_LINE["linewidth"])


def _scaled(ax: Axes, log_x: bool, log_y: bool, ylim: tuple[float, float] | None = None) -> None:
    """Scales the axes to what is drawn, and says of curves outside that they are."""
    if ylim is not None and (len(ylim) != 2 or not ylim[0] < ylim[1]):
        raise ValueError(f"ylim=... must be (lower, upper), got {ylim!r}")
    if log_x:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    else:
        ax.locator_params(axis="x", integer=True)  # epochs are whole
    if log_y:
        ax.set_yscale("log")
    curves = [line for line in ax.get_lines() if line.get_marker() == "None"]
    drawn = [(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)) for line in curves]
    low, high = ylim or limits(drawn, log_x, log_y) or ax.get_ylim()
    ax.set_ylim(low, high)
    for line, (_, y) in zip(curves, drawn, strict=True):
        if np.isfinite(y).any() and not ((y >= low) & (y <= high)).any() and not str(line.get_label()).startswith("_"):
            line.set_label(f"{line.get_label()}, off the scale")
