"""Shows on sonar, which has 208 examples, what a score on few examples is worth: the illusion, one split, and a small change.

F1 scores the training examples themselves. F2 trains on the source's own split, from 40 seeds, and sets all four of its numbers beside the
runs; then on 40 other splits. It takes a minute on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import single, within
from drawing import band
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 7_600
    """The first of the seeds. The others follow it."""
    seeds: int = 40
    """How many runs of each setting, and how many splits beside the source's. A seed decides the initial weights and the batches."""
    epochs: int = 100
    """How many epochs to train each run."""
    run_dir: Path = Path("runs/sonar")
    """The directory for runs, plots and the page of results."""


LOSSES = ("squared error", "binary cross-entropy")
SOURCE = {"train accuracy": 1.0, "test accuracy": 0.8413, "test squared error": 0.1371, "train squared error": 0.0154}
WIDEST = {"accuracy": 0.08, "error": 0.06}  # half of what lies between the source's scores of training and of test rows
ROW = 1 / 63  # what one test row moves the accuracy by
ABOUT = """Rocks and mines: a 60-24-10-1 network with ReLU and one logit, Adam with learning rate 0.001 and epsilon 1e-7, batches of 5,
    features as they are, scores after the last epoch. The loss is the squared error of the probability, as in the source, or the binary
    cross-entropy. The source's split is scikit-learn's `train_test_split(test_size=0.3, random_state=0)` of the rows in their order: 145
    train, 63 test. Its number is *within the range of a further run* if it lies where one further run is likely to be: all four do with 95%
    where the source is right. A range wider than ± 0.08 of an accuracy or ± 0.06 of an error could hardly fail, and is undecided."""


def make_task(hp):
    import jax
    import optax

    def squared_error(logits, y):
        return ff.losses.mse(jax.nn.sigmoid(logits), y)

    squares = hp.get("loss", LOSSES[0]) == LOSSES[0]
    metrics = {"accuracy": ff.metrics.binary_accuracy} | ({} if squares else {"squared_error": squared_error})
    loss, penalty = squared_error if squares else ff.losses.binary_crossentropy, ff.penalties.l2(hp.get("l2", 0.0))
    return ff.Task(
        ff.nn.MLP((hp.get("width", 24), 10), 1), loss, optax.adam(hp.get("rate", 1e-3), eps=1e-7), metrics=metrics, penalty=penalty
    )


def main(config: Config) -> None:
    data = ff.data.load("sonar", originals=config.originals).train
    with Page("Sonar: what a score on few examples is worth", config.run_dir, ABOUT) as page:
        illusion(config, page, data)
        exact = source_split(config, page, data)
        small_changes(config, page, exact)


def options(config: Config, name: str) -> dict[str, Any]:
    how: dict[str, Any] = {"seeds": config.every_seed, "epochs": config.epochs, "batch_size": 5}
    return {**how, "run_dir": config.run_dir / f"{name}, from seed {config.first_seed}", "progress": name}


def illusion(config: Config, page: Page, data: ff.Dataset) -> None:
    how: dict[str, Any] = options(config, "F1") | {"epochs": 200}
    scores = ff.fit_many(make_task, {"loss": LOSSES}, data, **how).evaluate(data, "last")["accuracy"].reshape(2, -1)
    for loss, found in zip(LOSSES, scores, strict=True):
        claim = f"trained on all rows by the {loss} for 200 epochs, a run has an accuracy of 1 on the same rows (most runs do)"
        statistic = f"{(found == 1).sum()} of {len(found)} runs; {interval(found)}, {found.min():.4f} at least"
        page.claim("source", claim, within(ff.statistics.share(int((found == 1).sum()), len(found)), 0.5, 1), statistic)


def source_split(config: Config, page: Page, data: ff.Dataset) -> ff.data.Splits:
    """F2. Returns the source's split."""
    from sklearn.model_selection import train_test_split

    train, test = map(np.asarray, train_test_split(np.arange(len(data)), test_size=0.3, random_state=0))
    exact = ff.data.Splits(data[train], test=data[test])
    study = ff.fit_many(make_task, {"loss": LOSSES}, exact.train, validation=exact.test, **options(config, "F2"))
    found = {name: study.evaluate(part, "last") for name, part in (("train", exact.train), ("test", exact.test))}
    scores = {name: found[name.split()[0]]["_".join(name.split()[1:])].reshape(2, -1) for name in SOURCE}
    rows = [(name, f"{value:.4f}", *map(interval, scores[name])) for name, value in SOURCE.items()]
    page.table("The source's split", ("score", "source", *(f"trained on the {loss}" for loss in LOSSES)), rows)
    for name, value in SOURCE.items():
        held = single(scores[name][0], value, WIDEST[name.split()[-1]], len(SOURCE), 1e-4)
        page.claim("source", f"the source's split: a {name} of {value:.4f} is within the range of a further run", *held)
    mean, low, high = interval(scores["test accuracy"][0]), SOURCE["test accuracy"] - 0.02, SOURCE["test accuracy"] + 0.02
    page.claim("ours", "the source's run was not lucky: the mean test accuracy is within 0.02 of its own", within(mean, low, high), mean)
    pair = compare(*scores["test accuracy"][::-1], larger_is_better=True, names=LOSSES[::-1], margin=0.02)
    page.claim("ours", "which loss is used makes no difference to the test accuracy (within 0.02)", pair, wanted="equivalent")
    pair = compare(scores["test accuracy"][0], scores["train accuracy"][0], larger_is_better=True, names=("test", "train"))
    page.claim("source", "the training accuracy is higher than the test accuracy", pair)

    parts = [ff.data.split(data, test=len(test), seed=seed, one_row=1.0) for seed in config.every_seed]
    how: dict[str, Any] = options(config, "F2, other splits") | {"seeds": [config.first_seed]}
    many = ff.fit_many(make_task, {"loss": LOSSES[:1]}, splits=parts, **how).evaluate([part.test for part in parts], "last")["accuracy"]
    one = scores["test accuracy"][0]
    page.text(f"Other splits, one run each: test accuracy {interval(many)} (Student's), {many.min():.4f} to {many.max():.4f}.")
    strays = [np.abs(values - np.median(values)) for values in (one, many)]
    further = compare(*strays, larger_is_better=True, method="unpaired")
    statistic = f"mean distance from the median: splits {interval(strays[1])}, seeds {interval(strays[0])}, p {further.p_value:.2g}"
    page.claim("ours", "which rows are held out moves the test accuracy more than the seed does", further, statistic)

    figure, (left, right) = ff.plots.panels(2)
    for color, name in enumerate(("accuracy", "val_accuracy")):
        curves = np.array([result.history[name] for result in study.results[: config.seeds]]).T
        band(left, range(1, len(curves) + 1), curves, {"accuracy": "train", "val_accuracy": "test"}[name], color)
    left.axhline(SOURCE["test accuracy"], color="0.5", linestyle="--", label="source, 0.8413")
    left.set(xlabel="epoch", ylabel="accuracy (share of rows)")
    left.legend(frameon=False)
    for color, values in enumerate((one, many)):
        right.plot(np.linspace(-0.3, 0.3, len(values)) + color, np.sort(values), "o", color=ff.plots.PALETTE[color], alpha=0.5)
    right.axhline(SOURCE["test accuracy"], color="0.5", linestyle="--")
    right.set(xticks=(0, 1), xticklabels=("seeds, the source's split", "other splits"), ylabel="test accuracy (share of rows)")
    page.plot("split", figure, "Left: the source's split, mean of the runs with its 95% interval. Right: a dot is a run, sorted by score")
    return exact


def small_changes(config: Config, page: Page, exact: ff.data.Splits) -> None:
    grid, more = [{"rate": 1e-3, "l2": 0.0}, {"rate": 1.05e-3, "l2": 0.0}, {"rate": 1e-3, "l2": 1e-4}], 5
    how: dict[str, Any] = options(config, "changes") | {"epochs": config.epochs + more}
    study = ff.fit_many(make_task, grid, exact.train, validation=exact.test, **how)
    curves = np.reshape([result.history["val_accuracy"] for result in study.results], (3, config.seeds, -1))
    plain, rate, l2 = curves[..., -1 - more]
    changed = {"a learning rate of 0.00105": rate, "an L2 of 0.0001": l2, f"{more} more epochs": curves[0, :, -1]}
    for name, scores in changed.items():
        moved = interval(np.abs(scores - plain))
        claim = f"{name} moves the test accuracy of a run by more than one test row, {ROW:.3f}"
        page.claim("source", claim, within(moved, ROW, np.inf), f"by {moved}")
        pair = compare(plain, scores, larger_is_better=True, names=("no change", name), margin=0.02)
        page.claim("ours", f"{name} changes the mean test accuracy by less than 0.02", pair, wanted="equivalent")


if __name__ == "__main__":
    script(main, Config, __doc__)
