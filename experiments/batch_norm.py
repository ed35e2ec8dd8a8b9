"""Trains networks on 28 x 28 images with and without batch norm, after a Korean course note on its effect on learning speed and accuracy.

The networks are 784-128-128-10, trained by Adam with learning rate 0.001 in batches of 64 for 20 epochs, on Fashion-MNIST and on MNIST.
10,000 of the 60,000 training images validate; the test images are evaluated once, after the last epoch. The source reports neither
numbers nor its batch size and epochs. Expect test accuracies of 0.87 to 0.89 and of 0.973 to 0.98, and about 6 minutes on 2 cores. The
same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    data: tuple[Literal["fashion_mnist", "mnist"], ...] = ("fashion_mnist", "mnist")
    """Which data sets to train on."""
    first_seed: int = 7_300
    """The first of the seeds. The others follow it."""
    epochs: int = 20
    """How many epochs to train each run."""
    batch_size: int = 64
    """How many examples a batch has."""
    run_dir: Path = Path("runs/batch_norm")
    """The directory for runs, plots and the page of results."""


NAMES = {"fashion_mnist": ("Fashion-MNIST", 0.87), "mnist": ("MNIST", 0.97)}
"""Data set -> its name in print, and a validation accuracy that both nets reach in the first epochs."""
PLAIN, NORMED = "no batch norm", "batch norm"
ABOUT = """Dense 128, ReLU, dense 128, dense 10, and the same network with batch norm (Keras's defaults) after each of the first two
    dense layers. It is trained by Adam with learning rate 0.001 on pixels / 255, in batches of 64 for 20 epochs by default, which is
    our choice. 50,000 examples train, 10,000 validate, and the test examples are evaluated once, after the last epoch. Numbers are
    means over seeds with 95% intervals; comparisons are paired by seed. The source shows the networks without numbers, so the claims
    are what it means to show."""


def main(config: Config) -> None:
    import flax.linen as nn
    import optax

    class Net(nn.Module):
        """As the source has it: no activation between the last two dense layers."""

        batch_norm: bool

        @nn.compact
        def __call__(self, x, *, train):
            x = x.reshape(len(x), -1)
            for activation in (nn.relu, lambda x: x):
                x = nn.Dense(128, kernel_init=nn.initializers.glorot_uniform())(x)
                if self.batch_norm:
                    x = nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3)(x)
                x = activation(x)
            return nn.Dense(10, kernel_init=nn.initializers.glorot_uniform())(x)

    def make_task(hp):
        return ff.Task(
            model=Net(hp["net"] == NORMED),
            loss=ff.losses.categorical_crossentropy,
            metrics={"accuracy": ff.metrics.categorical_accuracy},
            optimizer=optax.adam(1e-3, eps=1e-7),
            preprocess=ff.data.rescale(),
        )

    sets = {name: ff.data.load(name, validation=10_000, originals=config.originals) for name in config.data}
    options = {"seeds": config.every_seed, "epochs": config.epochs, "batch_size": config.batch_size}
    grid = [{"net": PLAIN}, {"net": NORMED}]
    with Page("Images with and without batch norm", config.run_dir, ABOUT) as page:
        for name, splits in sets.items():
            where = {"run_dir": config.run_dir / f"{name}, {config.epochs} epochs, from seed {config.first_seed}", "progress": name}
            report(page, name, splits, ff.fit_many(make_task, grid, splits.train, validation=splits.validation, **options, **where))


def report(page, name: str, splits, study) -> None:
    title, level = NAMES[name]
    epochs = len(study.results[0].history.epochs)
    reached = [result.history["val_accuracy"] >= level for result in study.results]
    test = 100 * study.evaluate(splits.test, "last")["accuracy"]
    measures = {  # name -> one number a run, whether larger is better
        "training accuracy in epoch 1 (running mean), percent": (100 * np.array([r.history["accuracy"][0] for r in study.results]), True),
        "validation accuracy after epoch 1, percent": (100 * np.array([r.history["val_accuracy"][0] for r in study.results]), True),
        f"epochs until validation accuracy {level}": (np.array([np.append(each, True).argmax() + 1.0 for each in reached]), False),
        "validation cross-entropy, best epoch": (study.scores("val_categorical_crossentropy"), False),
        "best epoch by validation cross-entropy": (np.array([float(r.best_epoch or epochs) for r in study.results]), False),
        "test accuracy after the last epoch, percent": (test, True),
        "training (evaluated) minus test accuracy, points": (100 * study.evaluate(splits.train, "last")["accuracy"] - test, False),
    }
    rows, pairs = [], {}
    for measure, (values, larger) in measures.items():
        pairs[measure] = study.compare({"net": PLAIN}, {"net": NORMED}, values, mode="max" if larger else "min")
        rows.append((measure, *(row.interval for row in study.table(values).rows), pairs[measure].difference))
    page.table(title, ("measure", PLAIN, NORMED, "difference"), rows)
    missed = sum(not each.any() for each in reached)
    if missed:
        page.text(f"{missed} of {len(study)} runs did not reach {level}; they count as {epochs + 1} epochs.")
    fitted, first, until, _, _, final, gap = pairs.values()
    page.claim("source", f"{title}: batch norm fits the training rows better in the first epoch", fitted)
    page.claim("source", f"{title}: batch norm is ahead on validation rows after one epoch", first)
    page.claim("source", f"{title}: batch norm reaches a validation accuracy of {level} in fewer epochs", until)
    page.claim("source", f"{title}: batch norm raises the test accuracy", final)
    page.claim("source", f"{title}: batch norm narrows the gap between training and test accuracy", gap)

    curves = {net: [result.history for result in study.select(net=net).results] for net in (PLAIN, NORMED)}
    figure, axes = ff.plots.panels(2, size=(11, 4.2))
    for metric, ax in zip(("accuracy", "categorical_crossentropy"), axes, strict=True):
        ff.plots.study_curves(curves, metric, ax=ax)
    axes[0].legend().remove()  # the same as on the right
    page.plot(f"{name}_curves", figure, f"{title}, training (running means) and validation: means with 10% to 90% of the runs")
    scores = {row.setting["net"]: row.scores for row in study.table(test).rows}
    page.plot(f"{name}_test", ff.plots.scores(scores, "test accuracy (percent)", title=title), f"{title}: test accuracy of each seed")


if __name__ == "__main__":
    script(main, Config, __doc__)
