"""Shows on MNIST how much a network depends on the scale of its initial weights, with and without batch norm, and sets batch norm beside
dropout, L1 and L2.

The initial kernels of a 784-50-50-10 network are multiplied by 0.0001 to 10. It takes a minute on 2 cores. The same command resumes what
was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from drawing import band
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 7_500
    """The first of the seeds. The others follow it."""
    seeds: int = 20
    """How many runs of each setting. A seed decides the initial weights, the batches and dropout."""
    epochs: int = 5
    """How many epochs to train each run."""
    rows: int = 10_000
    """How many of MNIST's images to train on."""
    scales: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
    """What the initial kernels are multiplied by."""
    run_dir: Path = Path("runs/initial_scale")
    """The directory for runs, plots and the page of results."""


NORM, NONE = "batch norm", "no batch norm"
RIVALS = {"plain": {}, NORM: {"norm": True}, "dropout 0.2": {"dropout": 0.2}, "L1 0.0001": {"l1": 1e-4}, "L2 0.001": {"l2": 1e-3}}
MARGIN, RIVAL = 0.02, 0.01
ABOUT = """784-50-50-10 with ReLU, and batch norm (Keras's defaults) before both activations or none; Adam with learning rate 0.001, in
    batches of 100. The initial kernels are Glorot's, multiplied by a scale over five decades. Scores are test accuracies after the last
    epoch on MNIST's 10,000 test images. The rivals are trained on a tenth of the images, for ten times the epochs; their gap is test loss
    minus training loss, after the last epoch."""


def make_task(hp):
    import optax
    from flax.linen.initializers import glorot_uniform

    scale = hp.get("scale", 1.0)

    def initial(key, shape, dtype):
        return scale * glorot_uniform()(key, shape, dtype)

    model = ff.nn.MLP((50, 50), 10, batch_norm=hp.get("norm", False), dropout=hp.get("dropout", 0.0), initializer=initial)
    penalty = ff.penalties.elastic_net(hp.get("l1", 0.0), hp.get("l2", 0.0))
    metrics, adam = {"accuracy": ff.metrics.categorical_accuracy}, optax.adam(1e-3, eps=1e-7)
    return ff.Task(model, ff.losses.categorical_crossentropy, adam, metrics=metrics, penalty=penalty, preprocess=ff.data.rescale())


def main(config: Config) -> None:
    data = ff.data.load("mnist", train=config.rows, originals=config.originals)
    how: dict[str, Any] = {"seeds": config.every_seed, "batch_size": 100}
    with Page("Batch norm against the initial scale, and against its rivals", config.run_dir, ABOUT) as page:
        scales(config, page, data, how)
        rivals(config, page, data, how)


def scales(config: Config, page: Page, data: ff.data.Splits, how: dict[str, Any]) -> None:
    grid = {"norm": [False, True], "scale": list(config.scales)}
    where = config.run_dir / f"scales, {config.rows} rows, {config.epochs} epochs"
    study = ff.fit_many(make_task, grid, data.train, epochs=config.epochs, run_dir=where, progress="scales", **how)
    accuracy = study.evaluate(data.test, "last")["accuracy"].reshape(2, len(config.scales), config.seeds)
    rows = [(scale, *(interval(accuracy[i, place]) for i in range(2))) for place, scale in enumerate(config.scales)]
    page.table(f"Test accuracy after {config.epochs} epochs", ("scale", NONE, NORM), rows)
    one = config.scales.index(1.0)
    for place, scale in enumerate(config.scales):
        if place != one:
            pair = compare(accuracy[0, place], accuracy[1, place], larger_is_better=True, names=(NONE, NORM))
            page.claim("source", f"batch norm is better where the initial weights are {scale:g} times as large", pair)
            names = f"scale {scale:g}", "scale 1"
            pair = compare(accuracy[1, place], accuracy[1, one], larger_is_better=True, names=names, margin=MARGIN)
            page.claim("source", f"with batch norm, {scale:g} times costs less than {MARGIN} of accuracy", pair, wanted="not better")
    spread = [np.ptp(each, 0) for each in accuracy]  # from the best to the worst scale, run by run
    pair = compare(*spread, names=(NONE, NORM))
    page.claim("source", "batch norm makes the accuracy depend less on the initial scale (best to worst scale)", pair)
    figure, (ax,) = ff.plots.panels()
    for color, (name, each) in enumerate(zip((NONE, NORM), accuracy, strict=True)):
        band(ax, config.scales, each, name, color)
    ax.set(xscale="log", xlabel="initial kernels, in multiples of Glorot's", ylabel="test accuracy")
    ax.legend(frameon=False)
    page.plot("scales", figure, "Test accuracy by the scale of the initial weights: mean and 95% interval over seeds")


def rivals(config: Config, page: Page, data: ff.data.Splits, how: dict[str, Any]) -> None:
    few, found = data.train[np.arange(config.rows // 10)], {}
    for name, setting in RIVALS.items():
        where = {"run_dir": config.run_dir / f"{name}, {len(few)} rows, {10 * config.epochs} epochs", "progress": name}
        study = ff.fit_many(make_task, [setting], few, epochs=10 * config.epochs, **how, **where)
        test, train = (study.evaluate(part, "last") for part in (data.test, few))
        loss = test["categorical_crossentropy"]
        found[name] = test["accuracy"], loss, loss - train["categorical_crossentropy"]
    rows = [(name, *map(interval, each)) for name, each in found.items()]
    page.table(f"{len(few):,} images, {10 * config.epochs} epochs", ("net", "test accuracy", "test loss", "gap"), rows)
    for name in [*RIVALS][1:]:
        narrower = compare(found["plain"][2], found[name][2], names=("plain", name))
        page.claim("source", f"{name} narrows the gap between training and test loss", narrower)
    for name in [*RIVALS][2:]:
        pair = compare(found[NORM][0], found[name][0], larger_is_better=True, names=(NORM, name), margin=RIVAL)
        claim = f"batch norm can be used instead of {name}, whose test accuracy is not higher by {RIVAL} or more"
        page.claim("source", claim, pair, wanted="not better")


if __name__ == "__main__":
    script(main, Config, __doc__)
