"""Stops runs on MNIST by patience, and when the test accuracy reaches the training accuracy (the gap rule): when, and at what cost.

It takes 3 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from mnist_early_stopping import NETS, STOP, STOPPED, make_task
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    seeds: int = 16
    """How many runs. A seed decides the initial weights, the batches and dropout."""
    first_seed: int = 7_450
    """The first of the seeds. The others follow it."""
    epochs: int = 30
    """How many epochs to train each run at most."""
    patience: int = 4
    """After how many epochs without improvement of val_accuracy a run ends."""
    run_dir: Path = Path("runs/stopping_rules")
    """The directory for runs, plots and the page of results."""


MARGIN = 0.2  # points
ABOUT = """The network of [MNIST: batch norm, dropout and early stopping](mnist_early_stopping.md) with dropout 0.1, from other seeds. As in
    the source, the test images decide when to stop. Patience is 4 epochs. The gap rule is: stop when the test accuracy reaches or passes
    the training accuracy. It has three readings. Keras logs the running mean over the epoch, with dropout on. After the epoch, the training
    accuracy can be evaluated without dropout, here on 10,000 training images. And since the logged one begins below the test accuracy, one
    may wait until it has passed that. A rule costs *little* if it loses less than 0.2 points, as much as the source makes of 0.9747 against
    0.9727."""


def stop_at_gap(rows: ff.Dataset) -> ff.callbacks.Callback:
    """The gap rule, with the training accuracy evaluated after each epoch."""

    class StopAtGap(ff.callbacks.Callback):
        every_epochs = 1

        def on_chunk_end(self, progress: ff.callbacks.Progress) -> None:
            """Stops the run where the rule says so."""
            if not progress.ended:
                training = ff.evaluate(progress.run.task, progress.state.train, rows)["accuracy"]
                if progress.history["val_accuracy"][-1] >= training:
                    progress.stop()

    return StopAtGap()


def main(config: Config) -> None:
    splits = ff.data.load("mnist", originals=config.originals)
    how: dict[str, Any] = {"validation": splits.test, "seeds": config.every_seed, "epochs": config.epochs, "batch_size": 100}
    with Page("MNIST: when to stop", config.run_dir, ABOUT) as page:
        studies = []
        for name, callbacks in (("whole", None), ("gap rule", lambda member: [stop_at_gap(splits.train[:10_000])])):
            where: dict[str, Any] = {"run_dir": config.run_dir / f"{name}, from seed {config.first_seed}", "progress": name}
            studies.append(ff.fit_many(make_task, [{"net": STOPPED}], splits.train, callbacks=callbacks, **where, **how))
        whole, gap = studies
        logged, test = (np.array([result.history[name] for result in whole.results]) for name in ("accuracy", "val_accuracy"))
        ends = {
            "none": np.full(len(test), test.shape[1]),
            "patience": np.array([patient(curve, config.patience) for curve in test]),
            "gap rule, logged": first(test >= logged),
            "gap rule, evaluated": np.array([len(result.history.epochs) for result in gap.results]),
            "logged passes test": first(logged > test),
        }
        report(page, ends, {rule: 100 * np.take_along_axis(test, at[:, None] - 1, 1)[:, 0] for rule, at in ends.items()}, gap, test)


def patient(curve: np.ndarray, patience: int) -> int:
    """The epoch after which early stopping ends a run with this curve."""
    stopping = ff.EarlyStopping("val_accuracy", patience=patience, mode="max")
    state = stopping.init()
    for epoch, value in enumerate(curve, start=1):
        state = stopping.update(state, value, epoch)
        if state.stopped:
            return epoch
    return len(curve)


def first(fires: np.ndarray) -> np.ndarray:
    """The first epoch in which a rule fires, or the last one, of each run."""
    return np.where(fires.any(1), fires.argmax(1) + 1, fires.shape[1])


def report(page: Page, ends: dict[str, np.ndarray], scores: dict[str, np.ndarray], gap: ff.Study, test: np.ndarray) -> None:
    rows = [(rule, interval(ends[rule].astype(float)), interval(scores[rule])) for rule in ends]
    page.table("Rules that end a run", ("rule", "after epoch", "test accuracy there, percent"), rows)
    same = all(
        np.array_equal(result.history["val_accuracy"], curve[: len(result.history.epochs)])
        for result, curve in zip(gap.results, test, strict=True)
    )
    page.claim(
        "ours", "a callback that evaluates and stops changes no epoch before", same, "test accuracies of all epochs compared bit by bit"
    )
    patience, logged = (interval(ends[rule].astype(float)) for rule in ("patience", "gap rule, logged"))
    page.claim("ours", "patience ends runs after two thirds of the epochs at most, 20", within(patience, 1, 20), patience)
    began = ends["gap rule, logged"]
    held = True if began.min() > 1 else False if began.max() == 1 else None
    page.claim("source", "the gap rule, on what Keras logs, lets a run train for more than one epoch", held, f"ends after {logged}")
    early = ends["gap rule, evaluated"] < test.shape[1]
    held = True if early.all() else None if early.any() else False
    claim = "the gap rule, on accuracies that are evaluated after the epoch, ends each run before its last epoch"
    page.claim("source", claim, held, f"{early.sum()} of {len(early)} runs")
    for rule, other in (("patience", "none"), ("logged passes test", "patience")):
        pair = compare(scores[rule], scores[other], larger_is_better=True, names=(rule, other), margin=MARGIN)
        page.claim("ours" if "passes" in rule else "source", f"{rule}: costs little against {other}", pair, wanted="not better")
    figure, (ax,) = ff.plots.panels()
    for place, (rule, marker) in enumerate(zip(ends, "os^Dv", strict=True)):  # beside each other, where several end a run in one epoch
        ax.plot(ends[rule] + 0.2 * (place - 2), scores[rule], marker, color=ff.plots.PALETTE[place], alpha=0.7, label=rule)
    ax.plot(STOP, 100 * NETS[STOPPED][3], "kx", markersize=9, label="source, patience")
    ax.set(xlabel="epoch after which the run ends", ylabel="test accuracy there (percent)")
    ax.legend(frameon=False)
    page.plot(
        "rules",
        figure,
        "Where each rule ends the runs, and their test accuracy there. Markers are moved sideways a little, so that none hides another",
    )


if __name__ == "__main__":
    script(main, Config, __doc__)
