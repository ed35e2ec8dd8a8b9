"""Shows on 300 images of MNIST what dropout rates from 0 to 0.9 do, in one layer and in all layers, in a small and in a large network.

The networks are 784-(25 x 6)-10 and 784-(100 x 6)-10, trained by Adam for 600 steps. It takes 4 minutes on 2 cores. The same command
resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from drawing import band
from few_images import BATCH, ROWS, by_adam, deep
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import Comparison, compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 8_300
    """The first of the seeds. The others follow it."""
    epochs: int = 200
    """How many epochs of 3 steps to train each run."""
    test: int = 10_000
    """How many of the 10,000 test images to use."""
    run_dir: Path = Path("runs/mnist_dropout")
    """The directory for runs, plots and the page of results."""


RATES, WIDTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9), {"small": 25, "large": 100}
USUAL = {"one layer": 0.5, "all layers": 0.2}
"""Where dropout is -> the rate that the notes use there."""
FALL, MARGIN = 5.0, 1.0
ABOUT = """784-(width x 6)-10 networks with ReLU and He initialization, 25 units wide (small) or 100 (large), trained on the first 300
    images of MNIST by Adam with learning rate 0.001 for 600 steps of 100 images drawn with replacement, and tested on its 10,000 test
    images, with dropout off. Dropout (inverted) is in one layer, before the last dense layer, or after all six hidden layers. Its usual
    rates are the notes' own: 0.5 in one layer, 0.2 in all. The SGD of the source stops before networks with dropout have learned their
    rows, so that it would show under-training in place of dropout. A rate *breaks* a run if its test accuracy is over 5 points below that
    of its seed without dropout; runs of one network differ by about 1 point, which is the margin, too."""


def make_task(hp):
    return by_adam(deep(hp["width"], hp["rate"], hp["places"]))


def main(config: Config) -> None:
    splits = ff.data.load("mnist", originals=config.originals, test=config.test)
    train, test = splits.train[:ROWS], splits.test
    how: dict[str, Any] = {"seeds": config.every_seed, "epochs": config.epochs, "batch_size": BATCH, "replacement": True}
    found = {}  # (net, places) -> accuracies in percent, shape (train and test, rates, seeds)
    with Page("Dropout from 0 to 0.9, MNIST from 300 images", config.run_dir, ABOUT) as page:
        for net, width in WIDTHS.items():
            none, *rates = RATES
            grid = [{"width": width, "places": "one layer", "rate": none}]
            grid += [{"width": width, "places": places, "rate": rate} for places in USUAL for rate in rates]
            study = ff.fit_many(make_task, grid, train, run_dir=config.run_dir / net, progress=net, **how)
            scores = 100 * np.array([study.evaluate(rows, "last")["accuracy"] for rows in (train, test)])
            plain, one, all_ = np.split(scores.reshape(2, len(grid), -1), (1, len(RATES)), axis=1)
            for places, each in zip(USUAL, (one, all_), strict=True):  # without dropout there are no places
                found[net, places] = np.concatenate([plain, each], axis=1)
        tables(page, found)
        usual_rates(page, found)
        too_much(page, found)


def text(pair: Comparison, p: float | None = None) -> str:
    return f"{pair.difference} points, p {pair.p_value if p is None else p:.2g}"


def tables(page: Page, found: dict[tuple[str, str], np.ndarray]) -> None:
    names = [f"{net}, {places}" for net, places in found]
    rows = [(rate, *(interval(scores[1, place]) for scores in found.values())) for place, rate in enumerate(RATES)]
    page.table("Test accuracy, %", ("rate", *names), rows)
    figure, axes = ff.plots.panels(2, size=(10, 4.2), sharey=True)
    for ax, places in zip(axes, USUAL, strict=True):
        for color, net in enumerate(WIDTHS):
            for part, style in enumerate(("--", "-")):
                band(ax, RATES, found[net, places][part], f"{net} net, {('train', 'test')[part]}", color, style)
        ax.set(xlabel="dropout rate", title=f"dropout in {places}", ylim=(60, 101))
    axes[0].set_ylabel("accuracy (%)")
    axes[0].legend(frameon=False, loc="lower left")
    page.plot(
        "rates",
        figure,
        "Training accuracy (dashed) and test accuracy by the dropout rate: means of the runs with 95% intervals, those above 60%",
    )
    rows = [(rate, *(interval(scores[0, place]) for scores in found.values())) for place, rate in enumerate(RATES)]
    page.table("Training accuracy, %", ("rate", *names), rows)


def usual_rates(page: Page, found: dict[tuple[str, str], np.ndarray]) -> None:
    """Whether dropout helps, where, and whether it permits a larger network."""
    test = {key: scores[1] for key, scores in found.items()}
    usual = {(net, places): test[net, places][RATES.index(USUAL[places])] for net, places in found}
    for (net, places), scores in usual.items():
        pair = compare(test[net, places][0], scores, larger_is_better=True)
        page.claim("source", f"{net} net: dropout {USUAL[places]} in {places} raises the test accuracy", pair, text(pair))
    small, large = (test[net, "one layer"][0] for net in WIDTHS)
    pair = compare(small, large, larger_is_better=True)
    page.claim("ours", "without dropout the large net is worse than the small one", pair, text(pair), wanted="worse")
    for places, rate in USUAL.items():
        pair = compare(usual["small", places], usual["large", places], larger_is_better=True)
        page.claim("source", f"dropout {rate} in {places} permits a larger net: the large one is better", pair, text(pair))
        pair = compare(usual["small", places] - small, usual["large", places] - large, larger_is_better=True)
        claim = f"it is dropout that permits it: {rate} in {places} gains more in the large net than in the small one"
        page.claim("source", claim, pair, text(pair))
    for net in WIDTHS:
        pair = compare(usual[net, "one layer"], usual[net, "all layers"], larger_is_better=True, margin=MARGIN)
        claim = f"{net} net: one layer, before the last, is enough: dropout in all layers is not better by 1 point"
        page.claim("source", claim, pair, text(pair, pair.p_not_better), wanted="not better")


def too_much(page: Page, found: dict[tuple[str, str], np.ndarray]) -> None:
    for (net, places), scores in found.items():
        pairs = [compare(part[0], part[-1], larger_is_better=True) for part in scores]
        claim = f"{net} net: too much dropout ({RATES[-1]} in {places}) lowers both training and test accuracy"
        page.claim(
            "source", claim, pairs, "; ".join(f"{part} {text(pair)}" for part, pair in zip(("train", "test"), pairs, strict=True)), "worse"
        )
    for places in USUAL:
        small, large = (borne(found[net, places][1]) for net in WIDTHS)
        pair = compare(small, large, larger_is_better=True)
        statistic = f"highest rate before one breaks the run: small {interval(small)}, large {interval(large)}, p {pair.p_value:.2g}"
        page.claim("ours", f"a larger net bears more dropout in {places}", pair, statistic)


def borne(scores: np.ndarray) -> np.ndarray:
    """Returns the highest rate of each run before the first that breaks it, from test accuracies of shape (rates, runs)."""
    fallen = scores < scores[0] - FALL
    return np.array(RATES)[np.where(fallen.any(0), fallen.argmax(0), len(RATES)) - 1]


if __name__ == "__main__":
    script(main, Config, __doc__)
