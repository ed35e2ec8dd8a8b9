"""Shows on generated examples, whose truth is known, what causes overfitting and what causes underfitting.

Sweeps the share of wrong labels, the share of outliers, the scatter of the features, the number of epochs, the units of the network and the
weight of an L2 penalty, one at a time. Works offline, and takes 5 minutes on 2 cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from drawing import band
from options import WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import Comparison, compare, interval


@dataclass(frozen=True)
class Config(WithSeeds):
    """Options."""

    seeds: int = 40
    """How many runs of each setting. A seed decides the examples, the initial weights and the batches."""
    first_seed: int = 8_100
    epochs: int = 300
    """How many epochs to train each run."""
    fresh: int = 4_000
    """How many test examples."""
    run_dir: Path = Path("runs/causes")
    """The directory for plots and the page of results."""


ROWS, FEATURES, WRONG, UNITS, MODERATE = 300, 10, 0.1, 32, {"units": 16, "L2": 1e-2, "epochs": 30}
DATA = {"wrong labels": (0.0, 0.1, 0.2, 0.3, 0.4), "outliers": (0.0, 0.05, 0.1, 0.2), "scatter": (0.0, 0.5, 1.0, 2.0)}
WIDTHS, WEIGHTS, EPOCHS = (1, 4, 16, 64, 256), (0.0, 1e-4, 1e-3, 1e-2, 1e-1), (3, 30, 100, 300)
TEXTS = {"wrong labels": "share of wrong training labels", "outliers": "share of outliers", "scatter": "sd of the features' scatter"}
TEXTS |= {"units": "hidden units", "L2": "L2 weight"}
ABOUT = f"""{ROWS} training examples have {FEATURES} normal features, of which four decide the class: whether 2 a b + c - d is above 0. A
    network with {UNITS} hidden units is trained by Adam with learning rate 0.003 in batches of 30. Where it is not swept, the share of
    wrong training labels is {WRONG}. An outlier is a training example whose features are multiplied by 10 and whose label is drawn at
    random. Scatter is noise that is added to the features after the class is decided, of training and of test examples. Test labels are
    right. Each seed draws its own examples. *Overfitting* is how much the test loss, the cross-entropy, rises from its best epoch to the
    last one, and the *gap* is test loss minus training loss at the last epoch. A claim of "the more" holds if each step does."""


def examples(rng: np.random.Generator, rows: int, cause: str = "", level: float = 0.0, train: bool = True) -> ff.Dataset:
    x = rng.normal(size=(rows, FEATURES))
    y = (2 * x[:, 0] * x[:, 1] + x[:, 2] - x[:, 3] > 0).astype(np.int32)
    scattered, order, coin = rng.normal(size=x.shape), rng.permutation(rows), rng.integers(0, 2, rows)
    if cause == "scatter":
        x += level * scattered
    if train:
        wrong = order[: round((level if cause == "wrong labels" else WRONG) * rows)]
        out = order[len(order) - round(level * rows) :] if cause == "outliers" else order[:0]  # none of the wrong ones
        y[wrong] = 1 - y[wrong]
        x[out], y[out] = 10 * x[out], coin[out]
    return ff.Dataset(x, y)


def make_task(hp):
    import optax

    model = ff.nn.MLP((hp.get("width", UNITS),), 1)
    return ff.Task(model, ff.losses.binary_crossentropy, optax.adam(3e-3), penalty=ff.penalties.l2(hp.get("l2", 0.0)))


def main(config: Config) -> None:
    with Page("Causes of overfitting and of underfitting", config.run_dir, ABOUT) as page:
        report(page, trained(config), config)


def trained(config: Config) -> dict[tuple[str, float], np.ndarray]:
    curves: dict[tuple[str, float], list[Any]] = {}  # the training and test losses of a run, shape (2, epochs)
    for seed in config.every_seed:

        def part(cause: str = "", level: float = 0.0, seed: int = seed) -> ff.data.Splits:
            test = examples(np.random.default_rng([seed, 1]), config.fresh, cause, level, train=False)
            return ff.data.Splits(examples(np.random.default_rng([seed, 0]), ROWS, cause, level), test)

        levels = [(cause, level) for cause, sweep in DATA.items() for level in sweep]
        how: dict[str, Any] = {"seeds": [seed], "epochs": config.epochs, "batch_size": 30}
        studies = [
            ff.fit_many(make_task, None, splits=[part(*each) for each in levels], **how),
            ff.fit_many(make_task, {"width": WIDTHS}, splits=[part()], **how),
            ff.fit_many(make_task, {"l2": [*WEIGHTS]}, splits=[part()], **how),
        ]
        names = [*levels, *(("units", width) for width in WIDTHS), *(("L2", weight) for weight in WEIGHTS)]
        for name, result in zip(names, (result for study in studies for result in study.results), strict=True):
            curves.setdefault(name, []).append([result.history[f"{part}binary_crossentropy"] for part in ("", "val_")])
    return {name: np.array(runs) for name, runs in curves.items()}


def report(page: Page, curves: dict[tuple[str, float], np.ndarray], config: Config) -> None:
    sweeps: dict[str, dict[float, np.ndarray]] = {}  # cause -> level -> training loss, test loss and overfitting, shape (3, runs)
    for (cause, level), runs in curves.items():
        train, test = runs[:, 0, -1], runs[:, 1]
        sweeps.setdefault(cause, {})[level] = np.array([train, test[:, -1], test[:, -1] - test.min(1)])
    runs = curves["wrong labels", WRONG]
    sweeps["epochs"] = {
        e: np.array([runs[:, 0, e - 1], runs[:, 1, e - 1], runs[:, 1, e - 1] - runs[:, 1, :e].min(1)]) for e in EPOCHS if e <= config.epochs
    }
    for cause, sweep in sweeps.items():
        rows = [(level, *map(interval, (*found, found[1] - found[0], found[1] - found[2]))) for level, found in sweep.items()]
        page.table(TEXTS.get(cause, cause), (cause, "training loss", "test loss", "overfitting", "gap", "test loss, best epoch"), rows)

    def steps(cause: str, measure: Any) -> tuple[list[Comparison], str]:
        levels = list(sweeps[cause].items())[cause == "epochs" :]  # the first number of epochs is for underfitting
        pairs = {b[0]: compare(measure(a[1]), measure(b[1])) for a, b in pairwise(levels)}
        return [*pairs.values()], "; ".join(f"to {level:g}: {pair.difference}, p {pair.p_value:.2g}" for level, pair in pairs.items())

    for cause in (*DATA, "units", "epochs"):
        page.claim("source", f"{cause}: the more, the more overfitting", *steps(cause, lambda found: found[2]), wanted="worse")
        page.claim("source", f"{cause}: the more, the wider the gap", *steps(cause, lambda found: found[1] - found[0]), wanted="worse")
        if cause in DATA:
            claim = f"{cause}: the more, the higher the test loss at the best epoch"
            page.claim("ours", claim, *steps(cause, lambda found: found[1] - found[2]), wanted="worse")
    less = compare(sweeps["L2"][0.0][2], sweeps["L2"][MODERATE["L2"]][2], names=("no penalty", f"L2 {MODERATE['L2']:g}"))
    page.claim("source", "a penalty lessens overfitting", less)
    for cause, worst, words in (
        ("units", 1, "too simple a network"),
        ("L2", 0.1, "too much penalty"),
        ("epochs", 3, "too brief a training"),
    ):
        a, b = sweeps[cause][MODERATE[cause]], sweeps[cause][worst]
        pairs = [compare(a[0], b[0]), compare(a[1] - a[2], b[1] - b[2])]
        text = f"{worst:g} against {MODERATE[cause]:g}: training loss higher by {pairs[0].difference}, test loss by {pairs[1].difference}"
        page.claim("source", f"{words} underfits: training loss, and test loss at the best epoch, are higher", pairs, text, wanted="worse")

    for name, shown in (("data", [*sweeps.items()][:3]), ("training", [*sweeps.items()][3:])):
        figure, axes = ff.plots.panels(3, size=(11, 4), sharey=True)
        for ax, (cause, sweep) in zip(axes, shown, strict=True):
            train, test, above = np.array([*sweep.values()]).transpose(1, 0, 2)
            drawn = {"training, last epoch": train, "test, last epoch": test, "test, best epoch": test - above}
            for color, (label, values) in enumerate(drawn.items()):
                band(ax, range(len(sweep)), values, label, color)
            ax.set(xlabel=TEXTS.get(cause, cause), xticks=range(len(sweep)), xticklabels=[f"{level:g}" for level in sweep])
        axes[0].set(ylabel="cross-entropy (nats a row)")
        axes[0].legend(frameon=False)
        page.plot(name, figure, f"Causes in the {name}: means over seeds with 95% intervals. Levels are drawn at equal distances")


if __name__ == "__main__":
    script(main, Config, __doc__)
