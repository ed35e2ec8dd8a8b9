"""Shows on sonar, which has 208 examples, what choosing a network does to its score, and what k-fold cross-validation costs and gains.

Chooses one of nine networks by its validation score and scores it once on test rows. Sets k-fold beside hold-outs: how far scores stray,
what the share held out does to them, and the time. It takes 2 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from drawing import band
from options import WithOriginals, WithSeeds
from pages import Page
from sonar import make_task

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 7_800
    """The first of the seeds. The others follow it."""
    seeds: int = 40
    """How many splits of each kind. A seed decides which rows are held out, the initial weights and the batches."""
    epochs: int = 100
    """How many epochs to train each run."""
    widths: tuple[int, ...] = (6, 24, 96)
    """The units in the first hidden layer of the networks that F3 chooses from."""
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """The shares of the examples for testing, to see how the share changes the score."""
    folds: tuple[int, ...] = (5, 10)
    """The numbers of folds."""
    run_dir: Path = Path("runs/cross_validation")
    """The directory for runs, plots and the page of results."""


ABOUT = """The 60-24-10-1 network of the [sonar study](sonar.md), trained on the squared error. Model selection holds out 20% of the rows
    for the test, and 20% of the others to choose one of nine networks by their accuracy (of equal ones the smaller loss). Cross-validation
    trains a network with fresh weights in each fold. Intervals and tests of model selection are the corrected ones of Nadeau and Bengio
    (2003), because splits share rows. Others are Student's, and hold for random splits of these 208 rows."""


def main(config: Config) -> None:
    data = ff.data.load("sonar", originals=config.originals).train
    how: dict[str, Any] = {"epochs": config.epochs, "batch_size": 5, "seeds": [config.first_seed]}
    with Page("Sonar: model selection and cross-validation", config.run_dir, ABOUT) as page:
        choose(config, page, data, how)
        figure, axes = ff.plots.panels(2, sharey=True)
        hold_outs = shares(config, page, data, how, axes[0])
        k_fold(config, page, data, how, hold_outs, axes[1])
        page.plot("scores", figure, "Left: hold-outs (dots) and their mean with its 95% interval. Right: means over folds, sorted")
        cost(config, page, data, how)


def choose(config: Config, page: Page, data: ff.Dataset, how: dict[str, Any]) -> None:
    """F3: model selection, and by how much the score of the selected model is too good."""
    parts = []
    for seed in config.every_seed:
        whole = ff.data.split(data, test=0.2, stratified=True, seed=seed, one_row=1.0)
        rest = ff.data.split(whole.train, validation=0.2, stratified=True, seed=seed, one_row=1.0)
        parts.append(ff.data.Splits(rest.train, rest.validation, whole.test))
    page.text(f"The first split for model selection, audited:\n```\n{ff.data.leakage(parts[0])}\n```")
    where = {"run_dir": config.run_dir / f"F3, from seed {config.first_seed}", "progress": "F3"}
    study = ff.fit_many(make_task, {"width": config.widths, "l2": [0.0, 1e-3, 1e-2]}, splits=parts, **how, **where)
    scores = study.scores("val_accuracy", "last"), study.scores("val_squared_error", "last")
    scores = *scores, study.evaluate([part.test for part in parts], "last")["accuracy"]
    validation, loss, test = (each.reshape(len(study.settings), config.seeds).T for each in scores)
    best, split = np.lexsort((loss, -validation))[:, 0], np.arange(config.seeds)
    cheat = test.argmax(1)
    by = {"validation": (validation[split, best], test[split, best]), "test": (validation[split, cheat], test[split, cheat])}
    corrected: dict[str, Any] = {"method": "corrected", "test_ratio": len(parts[0].test) / len(parts[0].train)}
    rows = [(name, *(interval(each, **corrected) for each in pair)) for name, pair in by.items()]
    columns = ("chosen by the accuracy on", "its validation accuracy", "its test accuracy")
    page.table(f"Model selection: the best of {len(study.settings)} networks", columns, rows)
    names = "test accuracy", "validation accuracy of the chosen network"
    pair = compare(by["validation"][1], by["validation"][0], larger_is_better=True, names=names, **corrected)
    page.claim("source", "the rows that choose a network give it a higher accuracy than test rows do", pair)
    pair = compare(test.mean(1), test[split, best], larger_is_better=True, names=("the mean of all", "the chosen one"), **corrected)
    page.claim("ours", "the chosen network has a higher test accuracy than the mean of all nine", pair)


def shares(config: Config, page: Page, data: ff.Dataset, how: dict[str, Any], ax: Any) -> np.ndarray:
    """F4: hold-outs of several shares. Returns the accuracies of 30% held out, or of the share that is nearest."""
    drawn = []
    for share in config.shares:
        where = {"run_dir": config.run_dir / f"{share:g} held out, from seed {config.first_seed}", "progress": f"{share:g} held out"}
        runs = ff.cross_validate(make_task({}), data, test=share, repeats=config.seeds, shuffle_seed=config.first_seed, **how, **where)
        drawn.append(runs.scores["accuracy"])
    drawn = np.array(drawn)
    rows = [
        (f"{share:.0%}", interval(s), s.std(ddof=1), f"{s.min():.3f} to {s.max():.3f}")
        for share, s in zip(config.shares, drawn, strict=True)
    ]
    columns = ("held out", "test accuracy", "sd", "least to most")
    page.table("Hold-outs: a run of each split", columns, rows)
    names = [f"{config.shares[place]:.0%} held out" for place in (-1, 0)]
    more = compare(drawn[-1], drawn[0], larger_is_better=True, names=names)
    page.claim("source", "the share held out changes the score: fewer training rows score less", more)
    strays = np.abs(drawn - np.median(drawn, 1)[:, None])
    further = compare(strays[-1], strays[0], larger_is_better=True, names=names, method="unpaired")
    page.claim("source", "the share held out changes how far from their median scores stray: fewer test rows, further", further)
    percent = 100 * np.array(config.shares)
    ax.plot(percent.repeat(config.seeds), drawn.ravel(), "o", color=ff.plots.PALETTE[0], alpha=0.3)
    band(ax, percent, drawn, "mean", 0)
    ax.set(xlabel="rows held out (%)", ylabel="test accuracy (share of rows)", xticks=percent)
    return drawn[np.abs(np.array(config.shares) - 0.3).argmin()]


def k_fold(config: Config, page: Page, data: ff.Dataset, how: dict[str, Any], hold_outs: np.ndarray, ax: Any) -> None:
    means = []
    for folds in config.folds:
        name = f"{folds} folds"
        where = {"run_dir": config.run_dir / f"{name}, from seed {config.first_seed}", "progress": name}
        options: dict[str, Any] = {"folds": folds, "stratified": True, "repeats": config.seeds, "shuffle_seed": config.first_seed}
        runs = ff.cross_validate(make_task({}), data, **options, **where, **how)
        means.append(runs.scores["accuracy"].reshape(config.seeds, folds).mean(1))
        strays = [np.abs(each - np.median(each)) for each in (hold_outs, means[-1])]
        nearer = compare(*strays, method="unpaired")
        statistic = f"distance from the median: hold-outs {interval(strays[0])}, {name} {interval(strays[1])}, p {nearer.p_value:.2g}"
        page.claim("source", f"use k-fold where rows are few: the mean of {name} strays less than a hold-out of 30%", nearer, statistic)
    rows = [(f"{folds} folds", interval(each), each.std(ddof=1)) for folds, each in zip(config.folds, means, strict=True)]
    page.table("Stratified k-fold", ("how", "mean of the folds", "sd of the means"), rows)
    for place, each in enumerate(means):
        ax.plot(np.linspace(-0.3, 0.3, len(each)) + place, np.sort(each), "o", color=ff.plots.PALETTE[1], alpha=0.4)
    ax.set(xticks=range(len(means)), xticklabels=[f"{folds} folds" for folds in config.folds])


def cost(config: Config, page: Page, data: ff.Dataset, how: dict[str, Any]) -> None:
    """Seconds on one core, compiled before: each program is run once before it is timed."""
    for folds in config.folds:
        k_folds = functools.partial(ff.cross_validate, make_task({}), data, folds=folds, workers=1, **how)
        train = data[k_folds().folds[0][0]]
        single = functools.partial(ff.fit_many, make_task({}), None, train, workers=1, **how)
        single()
        ratio = interval([k_folds().study.seconds / single().seconds for _ in range(10)])
        claim = f"k-fold costs k times the training: {folds} folds take {folds} times the seconds of one (within 20%)"
        page.claim("source", claim, within(ratio, 0.8 * folds, 1.2 * folds), f"{ratio} times")


if __name__ == "__main__":
    script(main, Config, __doc__)
