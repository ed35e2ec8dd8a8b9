"""The figures of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxfit.report.bands import band, limits
from flaxfit.report.colors import PALETTE
from flaxfit.report.plots import panels
from flaxfit.report.statistics import Interval

if TYPE_CHECKING:
    from flaxfit.overfitting.answer import OverfittingStudy

COLORS = {"helps": PALETTE[2], "harms": PALETTE[1]}


def figures(study: OverfittingStudy) -> dict[str, Figure]:
    """Returns the figures of a study by name."""
    made = {"fixes": _fixes(study), "curves": _curves(study)}
    if study.growth is not None:
        made["data"] = _growth(study)
    if study.columns:
        made["columns"] = _columns(study)
    return made


def _intervals(rows: Sequence[tuple[str, Interval, str]], label: str, title: str) -> tuple[Figure, Axes]:
    """Intervals with their names and colors, one below the other, with a line at 0."""
    figure, (ax,) = panels(1, (8, 1.2 + 0.3 * len(rows)))
    for place, (_, interval, color) in enumerate(rows):
        if np.isfinite(interval.low):
            ax.plot([interval.low, interval.high], [place, place], color=color, linewidth=2.5, solid_capstyle="butt")
        ax.plot([interval.mean], [place], "o", color=color, markersize=6)
    ax.axvline(0.0, color="0.2", linewidth=1)
    ax.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5), xlabel=label)
    ax.set_yticklabels([name for name, *_ in rows])
    ax.set_title(title, fontsize=10)
    return figure, ax


def _fixes(study: OverfittingStudy) -> Figure:
    """The difference of each fix from the baseline."""
    compared = [(t, t.comparison.difference) for t in study.tried if t.comparison is not None]
    better = "right" if study.larger_is_better else "left"
    figure, ax = _intervals(
        [(t.fix.name, difference, COLORS.get(t.verdict, "0.45")) for t, difference in compared],
        f"{study.metric}: difference from the baseline, 95% for all fixes together",
        f"Better to the {better}. Green: shown to help. Orange: to harm. Bold: recommended.",
    )
    if study.margin is not None:
        ax.axvspan(-study.margin, study.margin, color="0.9", zorder=0)
    for text, (tried, _) in zip(ax.get_yticklabels(), compared, strict=True):
        text.set_fontweight("bold" if tried.fix == study.recommended else "normal")
    return figure


def _curves(study: OverfittingStudy) -> Figure:
    """Training and validation loss of the baseline and of the recommended setting."""
    names = list(dict.fromkeys(["baseline", study.recommended.name, study.best.name]))[:2]
    figure, axes = panels(len(names), (5 * len(names), 4), sharey=True)
    loss, drawn = study.curves["baseline"][0].data_loss, []
    for ax, name in zip(axes, names, strict=True):
        for column, color, label in ((loss, PALETTE[0], "training"), (f"val_{loss}", PALETTE[1], "validation")):
            epochs, mean, low, high = band(study.curves[name], column)
            ax.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
            ax.plot(epochs, mean, color=color, label=label)
            drawn.append((epochs, mean))
        if name == "baseline" and study.diagnosis.epoch is not None:
            ax.axvline(study.diagnosis.epoch, color="0.3", linestyle="--", linewidth=1, label="overfits from here on")
        ax.set(title=f"{name} (mean of the runs, 10% to 90%)", xlabel="epoch")
        ax.title.set_fontsize(10)
        ax.legend(frameon=False)
    axes[0].set_ylabel(loss.replace("_", " "))
    axes[0].set_ylim(limits(drawn))
    return figure


def _growth(study: OverfittingStudy) -> Figure:
    """The score against the number of training examples."""
    growth = study.growth
    assert growth is not None
    figure, (ax,) = panels(1, (6, 4))
    means = np.array([score.mean for score in growth.scores])
    errors = np.array([[score.mean - score.low, score.high - score.mean] for score in growth.scores]).T
    ax.errorbar(growth.sizes, means, errors, fmt="o", color=PALETTE[0], label="mean over folds, 95%")
    n = np.geomspace(growth.sizes[0], 2 * growth.sizes[-1], 100)
    floor, factor = growth.law
    ax.plot(
        n,
        floor + factor * n**-growth.exponent,
        color=PALETTE[1],
        linestyle="--",
        label=f"fitted: {floor:.3g} + {factor:.3g} / n^{growth.exponent:g}",
    )
    ax.set_xscale("log")
    ax.set_xticks([*growth.sizes, 2 * growth.sizes[-1]])
    ax.get_xaxis().set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set(xlabel="training examples", ylabel=study.metric, title=f"Would more data help? {study.recommended.name}")
    ax.legend(frameon=False)
    return figure


def _columns(study: OverfittingStudy) -> Figure:
    """How much worse the score becomes without each column."""
    rows = [(each.column, each.loss, "0.6" if each.useless else PALETTE[0]) for each in study.columns[:25]]
    return _intervals(rows, f"{study.metric}: worse by, if the column is permuted", "Gray: not shown to be needed")[0]
