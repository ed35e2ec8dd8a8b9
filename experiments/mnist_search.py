"""Searches on MNIST for the dropout rate between 0.1 and 0.2: by the accuracy, and by the gap between training and test accuracy.

The search holds out 10,000 of the 60,000 training images. What it finds is trained again from fresh seeds and scored on the test images. It
takes 10 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import batch_norm_net
import numpy as np
from claims import within
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    seeds: int = 8
    """How many runs of each rate that was found; half as many of each rate in the search."""
    first_seed: int = 4_000
    """The first of the seeds of the search. Fresh seeds begin a hundred later."""
    epochs: int = 30
    """How many epochs to train each run of the search."""
    rounds: int = 2
    """How many rounds each search has. Each round halves the interval."""
    run_dir: Path = Path("runs/mnist_search")
    """The directory for runs, plots and the page of results."""


LOW, HIGH, MARGIN = 0.1, 0.2, 0.2  # rates, and points
ABOUT = """784-50-50-10 with ReLU, and batch norm and dropout after each hidden activation. Adam, batches of 100, Keras's defaults, 30
    epochs. Two searches halve the interval of dropout rates around the best of five, each from 4 seeds: by the accuracy on 10,000 held-out
    images, and by how near to zero the gap is: the training accuracy that Keras logs (the running mean, dropout on) less that accuracy. The
    rates found and both ends are trained again from 8 fresh seeds and scored once on the test images. A difference *does not matter* if it
    is less than 0.2 points, as much as the source makes of 0.9747 against 0.9727."""


def make_task(hp):
    return batch_norm_net.task(hp["dropout"])


def main(config: Config) -> None:
    splits = ff.data.load("mnist", validation=10_000, originals=config.originals)
    with Page("MNIST: a search for the dropout rate", config.run_dir, ABOUT) as page:
        search(config, page, splits)


def gap(study: ff.Study) -> np.ndarray:
    """Training accuracy, as logged, minus held-out accuracy, in points."""
    return 100 * (study.scores("accuracy", "last") - study.scores("val_accuracy", "last"))


def search(config: Config, page: Page, splits: ff.data.Splits) -> None:
    assert splits.test is not None
    seeds = range(config.first_seed, config.first_seed + max(1, config.seeds // 2))
    how: dict[str, Any] = {"validation": splits.validation, "epochs": config.epochs, "batch_size": 100}
    where: dict[str, Any] = {"run_dir": config.run_dir / f"search, from seed {config.first_seed}", "progress": "search"}
    judges: dict[str, dict[str, Any]] = {
        "accuracy": {"metric": "val_accuracy", "at": "last"},
        "gap": {"metric": lambda study: abs(gap(study)), "mode": "min"},
    }
    found = {
        judge: ff.narrow(make_task, "dropout", (LOW, HIGH), splits.train, rounds=config.rounds, seeds=seeds, **how, **where, **rule)
        for judge, rule in judges.items()
    }
    tried = {}
    for narrowing in found.values():
        for number, study in enumerate(narrowing.rounds, start=1):
            for setting in study.settings:
                tried.setdefault(setting["dropout"], (number, study.select(**setting)))
    rows = [(f"{rate:g}", interval(100 * part.scores("val_accuracy", "last")), interval(gap(part))) for rate, (_, part) in tried.items()]
    columns = ("dropout rate", "held-out accuracy, percent", "gap, points")
    page.table("Rates that were tried", columns, sorted(rows, key=lambda row: float(row[0])))
    by_accuracy, by_gap = (found[judge].best for judge in judges)
    page.text(f"Found: {by_accuracy:g} by the accuracy, {by_gap:g} by the gap.")

    rates, fresh = sorted({LOW, by_accuracy, by_gap, HIGH}), range(config.first_seed + 100, config.first_seed + 100 + config.seeds)
    where = {"run_dir": config.run_dir / f"fresh, from seed {fresh[0]}", "progress": "fresh seeds"}
    study = ff.fit_many(make_task, {"dropout": rates}, splits.train, seeds=fresh, **how, **where)
    test, train = (
        100 * each.reshape(len(rates), -1) for each in (study.evaluate(splits.test, "last")["accuracy"], study.scores("accuracy", "last"))
    )
    scores, gaps = dict(zip(rates, test, strict=True)), dict(zip(rates, train - test, strict=True))
    rows = [(f"{rate:g}", interval(scores[rate]), interval(gaps[rate])) for rate in rates]
    page.table("The rates found, and the ends: fresh seeds", ("dropout rate", "test accuracy, percent", "gap, points"), rows)

    ends = within(interval(gaps[LOW]), 0, np.inf), within(interval(gaps[HIGH]), -np.inf, 0)
    held = False if False in ends else None if None in ends else True
    statistic = f"gap at {LOW}: {interval(gaps[LOW])}, at {HIGH}: {interval(gaps[HIGH])}"
    page.claim("source", f"between {LOW} and {HIGH} the test accuracy reaches the training accuracy that is logged", held, statistic)

    def against(best: float, values: dict[float, np.ndarray], larger: bool, margin: float | None = None) -> tuple[list[Any], str]:
        pairs = {end: compare(values[end], values[best], larger_is_better=larger, margin=margin) for end in rates if end != best}
        return [*pairs.values()], "; ".join(
            f"minus {end:g}: {pair.difference}, p {pair.p_value if margin is None else pair.p_equivalent:.2g}"
            for end, pair in pairs.items()
        )

    size = {rate: abs(values) for rate, values in gaps.items()}
    page.claim("source", f"{by_gap:g}, found by the gap, has a smaller gap than the others", *against(by_gap, size, False))
    page.claim(
        "source", f"{by_accuracy:g}, found by the accuracy, has a higher test accuracy than the others", *against(by_accuracy, scores, True)
    )
    claim = f"the test accuracy with {by_gap:g} is that with each other of these rates, within {MARGIN:g} points"
    page.claim("ours", claim, *against(by_gap, scores, True, MARGIN), wanted="equivalent")

    figure, axes = ff.plots.panels(2)
    for rate, (number, part) in tried.items():
        for ax, score in zip(axes, (100 * part.scores("val_accuracy", "last"), gap(part)), strict=True):
            ax.plot([rate] * len(part), score, "o", color=ff.plots.PALETTE[number > 1], markersize=4, alpha=0.6)
            ax.plot(rate, score.mean(), "_", color="black", markersize=14)
    axes[0].set(xlabel="dropout rate", ylabel="held-out accuracy (percent)")
    axes[1].set(xlabel="dropout rate", ylabel="gap (points)")
    axes[1].axhline(0, color="0.5", linewidth=0.8)
    page.plot(
        "rates",
        figure,
        "A dot is a run, a dash the mean of a rate: rates of the first round (blue) and those that later rounds added (orange)",
    )


if __name__ == "__main__":
    script(main, Config, __doc__)
