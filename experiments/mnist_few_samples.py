"""Trains on 300 images of MNIST, which a deep network memorizes, and tries weight decay, dropout and norms against that.

It follows "Deep learning from scratch": the network 784-(100 x 6)-10, trained by plain SGD for 601 updates. Beside the source's weight
decay and dropout it tries what the source only names: L1, L-infinity, max-norm and shifted images. It takes 3 minutes on 2 cores. The
same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from drawing import band
from few_images import BATCH, ROWS, by_sgd, deep
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import Comparison, compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 8_200
    """The first of the seeds. The others follow it."""
    epochs: int = 201
    """How many epochs of 3 steps to train each run."""
    test: int = 10_000
    """How many of the 10,000 test images to use."""
    run_dir: Path = Path("runs/mnist_few_samples")
    """The directory for runs, plots and the page of results."""


TEST_EVERY = 10  # epochs: the test images take most of the time
PLAIN, DECAY, CLASSIC, INVERTED, L1 = "plain", "weight decay 0.1", "classic dropout 0.2", "inverted dropout 0.2", "L1 0.005"
LINF, MAX_NORM, SHIFTED = "L-infinity 1", "max-norm 1.2", "shifted images"
SOURCES: tuple[str, ...] = (PLAIN, DECAY, CLASSIC)
NETS: tuple[str, ...] = (*SOURCES, INVERTED, L1, LINF, MAX_NORM, SHIFTED)
ABOUT = """784-(100 x 6)-10 networks with ReLU and He initialization, trained on the first 300 images of MNIST by SGD (learning rate 0.01,
    batches of 100 drawn with replacement) and tested on its 10,000 test images. As in the source, there are 601 updates and 201 records,
    numbered from 0, with dropout off: the first one after the first update, the others after every third. (flaxfit records at the end of an
    epoch of 3 steps, so the first two steps have a learning rate of 0.) The test images are scored every tenth time, and at the end. The
    source's dropout is the classic form, after each hidden layer. Images are shifted by up to 2 pixels. Numbers are means over seeds with
    95% intervals; the gap is the training accuracy less the test accuracy. "About epoch 100" is what a plot tells that has a mark every 50
    epochs: 75 to 125."""


def make_task(hp):
    options: dict[str, dict[str, Any]] = {
        DECAY: {"penalty": ff.penalties.l2(0.1 / 2)},  # 0.1 / 2 * sum w^2
        L1: {"penalty": ff.penalties.l1(0.005)},
        LINF: {"penalty": ff.penalties.linf(1.0)},
        MAX_NORM: {"constraint": ff.constraints.max_norm(1.2)},  # units start at norms around 1.4
        SHIFTED: {"augment": ff.augmentation.random_translation(2 / 28, 2 / 28)},
    }
    rate = 0.2 if hp["net"] in (CLASSIC, INVERTED) else 0.0
    return by_sgd(deep(rate=rate, classic=hp["net"] == CLASSIC), **options.get(hp["net"], {}))


def main(config: Config) -> None:
    splits = ff.data.load("mnist", originals=config.originals, test=config.test)
    train, test, every = splits.train[:ROWS], splits.test, min(TEST_EVERY, config.epochs)
    how: dict[str, Any] = {"seeds": config.every_seed, "epochs": config.epochs, "batch_size": BATCH, "replacement": True}
    with Page("MNIST from 300 images", config.run_dir, ABOUT) as page:
        curves = {}
        for name, rows, nets, often in (("test", test, SOURCES, every), ("train", train, NETS, 1)):  # a run records one set: train twice
            where = {"run_dir": config.run_dir / f"recorded on {name}", "progress": name}
            grid = [{"net": net} for net in nets]
            study = ff.fit_many(make_task, grid, train, validation=rows, validation_every=often, **where, **how)
            recorded = 100 * np.array([result.history["val_accuracy"] for result in study.results])
            curves[name] = dict(zip(nets, recorded.reshape(len(nets), config.seeds, -1), strict=True))
        scores = {name: 100 * study.evaluate(rows, "last")["accuracy"] for name, rows in (("train", train), ("test", test))}
        final = {name: dict(zip(NETS, each.reshape(len(NETS), -1), strict=True)) for name, each in scores.items()}
        report(page, curves["train"], final)
        remedies(page, final)
        draw(page, curves, final, every)


def report(page: Page, curves: dict[str, np.ndarray], final: dict[str, dict[str, np.ndarray]]) -> None:
    """The table, and what the source shows."""
    rows, train, test = [], final["train"], final["test"]
    for name in NETS:
        measured = (train[name], test[name], train[name] - test[name])
        change = None if name == PLAIN else interval(test[name] - test[PLAIN]).short
        full = f"{(curves[name].max(1) == 100).sum()} of {len(curves[name])}"
        rows.append((name, *(interval(each) for each in measured), change, full))
    columns = ("net", "train, %", "test, %", "gap, points", "test against plain, points", "runs that reach 100%")
    page.table("After 601 updates", columns, rows)

    first = np.array([next(iter(np.flatnonzero(run == 100) * 1.0), np.nan) for run in curves[PLAIN]])
    missed, claim = int(np.isnan(first).sum()), "the plain net reaches 100% of the training rows after about epoch 100 (75 to 125)"
    text = f"{missed} runs did not reach it" if missed else f"first epoch {interval(first)}, {first.min():.0f} to {first.max():.0f}"
    page.claim("source", claim, False if missed else within(interval(first), 75, 125), text)
    wide = interval(train[PLAIN] - test[PLAIN])
    page.claim("source", "a wide gap to test is left (over 10 points)", within(wide, 10, np.inf), f"gap {wide} points")
    left = interval(train[DECAY] - test[DECAY])
    claim = "weight decay alone does not suffice for so deep a net: with it a gap of over 10 points is left"
    page.claim("source", claim, within(left, 10, np.inf), f"gap {left} points")
    for name in (DECAY, CLASSIC, INVERTED):
        most = curves[name].max(1)
        text = f"a run's highest {interval(most)} %, {most.max():.1f} % at most"
        page.claim("source", f"with {name} the training accuracy stays under 100%, in every run", bool(most.max() < 100), text)


def remedies(page: Page, final: dict[str, dict[str, np.ndarray]]) -> None:
    """What each remedy does to the gap, and to the test accuracy."""
    train, test = final["train"], final["test"]

    def text(pair: Comparison) -> str:
        return f"{pair.difference} points, p {pair.p_value:.2g}"

    for name in NETS[1:]:
        pair = compare(train[PLAIN] - test[PLAIN], train[name] - test[name])
        page.claim("source", f"with {name} the gap narrows", pair, text(pair))
    for name in NETS[1:]:
        pair = compare(test[PLAIN], test[name], larger_is_better=True)
        page.claim("ours", f"with {name} the test accuracy rises", pair, text(pair))
    pair = compare(train[CLASSIC], train[INVERTED], larger_is_better=True)
    page.claim("ours", "classic dropout learns slower than inverted dropout: its training accuracy is lower", pair, text(pair))


def draw(page: Page, curves: dict[str, dict[str, np.ndarray]], final: dict[str, dict[str, np.ndarray]], every: int) -> None:
    figure, axes = ff.plots.panels(3, size=(11, 4), sharey=True)
    for ax, name in zip(axes, SOURCES, strict=True):
        for color, part in enumerate(("train", "test")):
            epochs = np.arange(curves[part][name].shape[1])[every - 1 :: every]
            band(ax, epochs, curves[part][name].T[epochs], part, color)
        ax.set(title=name, xlabel="epoch", ylim=(0, 102))
    axes[0].set_ylabel("accuracy (%)")
    axes[0].legend(frameon=False, loc="lower right")
    page.plot("accuracy", figure, "The source's three networks: accuracy by epoch, mean of the runs with its 95% interval")
    figure, (ax,) = ff.plots.panels()
    for color, part in enumerate(("train", "test")):
        found = [interval(final[part][name]) for name in NETS]
        means, halves = [each.mean for each in found], [(each.high - each.low) / 2 for each in found]
        ax.errorbar(means, range(len(NETS)), xerr=halves, fmt="o", color=ff.plots.PALETTE[color], label=part)
    ax.set(yticks=range(len(NETS)), yticklabels=NETS, xlabel="accuracy after 601 updates (%)")
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="lower left")
    page.plot("remedies", figure, "What each remedy leaves of the training and of the test accuracy: means with 95% intervals")


if __name__ == "__main__":
    script(main, Config, __doc__)
