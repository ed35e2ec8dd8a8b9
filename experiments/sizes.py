"""What the studies of the number of training rows have in common: a run of so many steps, the law of the error, tables, claims, panels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from claims import factor, within
from drawing import band
from matplotlib.ticker import LogFormatter
from pages import Page

import flaxfit as ff
from flaxfit.report.statistics import Interval, compare, interval

Trained = Callable[[int, int, str], Sequence[float]]
"""Returns what `measured` does of the run on so many rows, from a seed, with a remedy."""


def measured(task: ff.Task, train: ff.Dataset, test: ff.Dataset, steps: int, batch: int, seed: int, looks: int, run_dir: Path) -> list[Any]:
    """Trains for about so many steps, and returns test accuracy, test loss and gap after the last of them, and the onset in steps."""
    each = -(-len(train) // batch)
    epochs = max(1, round(steps / each))
    how: dict[str, Any] = {"epochs": epochs, "batch_size": batch, "validation_every": max(1, epochs // looks), "seed": seed}
    history = (result := ff.fit(task, train, validation=test, run_dir=run_dir, **how)).history
    loss = history.data_loss
    looked = np.flatnonzero(np.isfinite(history[f"val_{loss}"]))
    onset = (looked[history[f"val_{loss}"][looked].argmin()] + 1) * each
    ends = [ff.evaluate(task, result.last, part) for part in (test, train)]  # the last look may have been some epochs earlier
    return [ends[0]["accuracy"], ends[0][loss], ends[0][loss] - ends[1][loss], onset]


def law(sizes: Sequence[int], errors: np.ndarray) -> np.ndarray:
    """Returns a, b and c of error = a + b rows^-c."""
    from scipy.optimize import least_squares

    def off(p):
        return np.log(np.exp(p[0]) + np.exp(p[1]) * np.array(sizes, float) ** -np.exp(p[2])) - np.log(errors)

    a, b, c = np.exp(least_squares(off, [np.log(errors[-1] / 2), 0.0, np.log(0.5)]).x)
    return np.array([a, b, c])


def jackknife(statistic: Callable[[np.ndarray], float], runs: np.ndarray, **how: Any) -> Interval:
    """A statistic of the mean of runs, shape (sizes, runs), with the interval of its pseudo-values (Tukey 1958)."""
    count, whole = runs.shape[1], statistic(runs.mean(1))
    without = [statistic(np.delete(runs, place, 1).mean(1)) for place in range(count)] if count > 1 else [whole]
    return interval([count * whole - (count - 1) * each for each in without], **how)


def sweep(
    page: Page,
    name: str,
    sizes: Sequence[int],
    seeds: Sequence[int],
    trained: Trained,
    places: Sequence[int] | None = None,
    test_ratio: float | None = None,
    foretold: tuple[int, float] | None = None,
) -> None:
    """Trains on more and more rows, and adds a table, claims, the law and a figure of panels.

    Args:
      page: the study's.
      name: of the data set.
      sizes: the numbers of rows, rising.
      seeds: of the runs.
      trained: makes a run.
      places: which of the sizes claims compare with the next of them; by default all.
      test_ratio: test rows / training rows where the runs' test sets differ and share rows, for the correction of Nadeau and Bengio.
      foretold: up to how many rows the law knows, and how near it must come to the error of the most rows, relative to it.
    """
    ratio: dict[str, Any] = {} if test_ratio is None else {"method": "corrected", "test_ratio": test_ratio}
    runs = np.array([[trained(size, seed, "plain") for seed in seeds] for size in sizes]).transpose(2, 0, 1)  # measure, size, seed
    accuracy, _, gap, onset = runs
    rows = [(size, *(interval(each[i], **ratio) for each in runs)) for i, size in enumerate(sizes)]
    page.table(name, ("training rows", "test accuracy", "test loss", "gap", "onset, steps"), rows)

    kept = range(len(sizes)) if places is None else places
    each = "from the fewest to the most" if places and len(places) == 2 else "each step to more"

    def steps(values: np.ndarray, larger: bool, shown: Callable[[Any], str] = str) -> tuple[list[Any], str]:
        pairs = {sizes[b]: compare(values[a], values[b], larger_is_better=larger, **ratio) for a, b in pairwise(kept)}
        return [*pairs.values()], "; ".join(f"to {size:,}: {shown(pair.difference)}, p {pair.p_value:.2g}" for size, pair in pairs.items())

    page.claim("source", f"{name}: the test accuracy rises, {each} rows", *steps(accuracy, True))
    page.claim("source", f"{name}: the gap narrows, {each} rows", *steps(gap, False))
    page.claim("ours", f"{name}: the onset of overfitting is later, {each} rows", *steps(np.log(onset), True, factor))
    errors = 1 - accuracy.mean(1)
    a, b, c = law(sizes, errors)
    formula = f"{f'{a:.2g} + ' if a > errors[-1] / 100 else ''}{b:.2g} rows^-{c:.2f}"
    exponent = jackknife(lambda means: law(sizes, means)[2], 1 - accuracy, **ratio)
    page.text(f"{name}: test error = {formula}; the exponent is {exponent}.")
    figure, axes = ff.plots.panels(3, size=(11, 4))
    fine = np.geomspace(sizes[0], sizes[-1], 50)
    axes[0].plot(fine, a + b * fine**-c, "--", color="0.4", label=formula)
    if foretold:
        most, near = foretold
        known = [size for size in sizes if size <= most]

        def missed(means: np.ndarray) -> float:
            a, b, c = law(known, means[: len(known)])
            return means[-1] / (a + b * sizes[-1] ** -c)

        ratios = jackknife(missed, 1 - accuracy, **ratio)
        claim = f"{name}: a law fitted to at most {most:,} rows predicts the test error of {sizes[-1]:,} (within {100 * near:.0f}%)"
        page.claim("ours", claim, within(ratios, 1 - near, 1 + near), f"measured / predicted {ratios}")
    for ax, values, label in zip(axes, (1 - accuracy, gap, onset), ("test error", "gap (nats a row)", "onset (steps)"), strict=True):
        band(ax, sizes, values, "runs", 0, **ratio)
        ax.set(xscale="log", xlabel="training rows", ylabel=label, yscale="linear" if label[0] == "g" else "log")
        ax.set_xticks(sizes, [f"{size / 1000:g}k" if size >= 1000 else str(size) for size in sizes])
        ax.tick_params(axis="x", which="minor", labelbottom=False)
        ax.yaxis.set_major_formatter("{x:g}")
        if label == "test error":
            ax.yaxis.set_minor_formatter("{x:g}")
        if label[0] == "o":
            ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes[0].legend(frameon=False)
    page.plot(name, figure, f"{name}: means over seeds with 95% intervals, and the fitted law")


def remedies(
    page: Page,
    name: str,
    few: int,
    many: int,
    seeds: Sequence[int],
    trained: Trained,
    others: Mapping[str, Any],
    test_ratio: float | None = None,
) -> None:
    """Adds what more rows do beside what helps without them: `others`, the first of which is "plain", such as "L2 0.1" and "L2 0.01"."""
    ratio: dict[str, Any] = {} if test_ratio is None else {"method": "corrected", "test_ratio": test_ratio}
    found = {remedy: np.array([trained(few, seed, remedy) for seed in seeds]) for remedy in others}
    more, times = f"{many:,} rows, plain", {10: "ten", 7: "seven"}.get(many // few, many // few)
    found[more] = np.array([trained(many, seed, "plain") for seed in seeds])
    rows = [(how, *(interval(values, **ratio) for values in each[:, :3].T)) for how, each in found.items()]
    page.table(f"{name}: {few:,} rows, or {times} times as many", ("how", "test accuracy", "test loss", "gap"), rows)
    for kind in dict.fromkeys(remedy.rsplit(" ", 1)[0] for remedy in [*others][1:]):
        best = max((each for each in others if each.startswith(f"{kind} ")), key=lambda each: found[each][:, 0].mean())
        pair = compare(found[best][:, 0], found[more][:, 0], larger_is_better=True, names=(best, more), **ratio)
        claim = f"{name}: more data is the best remedy: {times} times the rows raise the test accuracy more than {kind} does"
        page.claim("source", claim, pair)
