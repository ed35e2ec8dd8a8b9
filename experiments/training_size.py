"""Shows what more training examples do to the score, to the gap and to the onset of overfitting, on sonar and on MNIST.

Each run takes as many steps whatever the number of examples. MNIST is trained on 300 to 60,000 images and on sets of 1,000 with dropout and
L2, sonar on 20 to 160 rows. It takes 10 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from drawing import band
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    seeds: int = 8
    """How many runs on each number of MNIST's images; four times as many on sonar. A seed decides which examples train, too."""
    steps: int = 6_000
    """How many steps to train on MNIST; half as many on sonar."""
    mnist: tuple[int, ...] = (300, 1_000, 3_000, 10_000, 30_000, 60_000)
    """The numbers of training images."""
    sonar: tuple[int, ...] = (20, 40, 80, 160)
    """The numbers of training rows."""
    run_dir: Path = Path("runs/training_size")
    """The directory for runs, plots and the page of results."""


FEW, REMEDIES = 1_000, {"plain": {}, "dropout 0.5": {"dropout": 0.5}, "L2 0.0001": {"l2": 1e-4}}
BATCH = {"MNIST": 100, "sonar": 5}
ABOUT = """MNIST: 784-50-10 with ReLU, Adam with learning rate 0.001, batches of 100, 6,000 steps, tested on its 10,000 test images. Sonar:
    the 60-24-10-1 network, batches of 5, 3,000 steps, tested on 48 rows that never train. Each seed draws the training examples; its
    larger sets hold its smaller ones. The gap is test loss minus training loss, both after the last step. The onset of overfitting is
    the step with the least test loss, which is looked at 60 times at most. Intervals of sonar are the corrected ones of Nadeau and Bengio,
    because its splits share rows. The law is error = a + b rows^-c, fitted to logarithms of the mean test errors."""


def make_task(name: str, dropout: float = 0.0, l2: float = 0.0) -> ff.Task:
    import optax

    penalty = ff.penalties.l2(l2) if l2 else None
    adam = optax.adam(1e-3, eps=1e-7)
    if name == "sonar":
        metrics = {"accuracy": ff.metrics.binary_accuracy}
        return ff.Task(ff.nn.MLP((24, 10), 1), ff.losses.binary_crossentropy, adam, metrics=metrics)
    metrics, model, scale = {"accuracy": ff.metrics.categorical_accuracy}, ff.nn.MLP((50,), 10, dropout=dropout), ff.data.rescale()
    return ff.Task(model, ff.losses.categorical_crossentropy, adam, metrics=metrics, penalty=penalty, preprocess=scale)


def trained(config: Config, name: str, data: ff.data.Splits, rows: int, seed: int, remedy: str = "plain") -> list[Any]:
    """Returns test accuracy, test loss, gap and onset of one run."""
    task, loss = make_task(name, **REMEDIES[remedy]), f"{'binary' if name == 'sonar' else 'categorical'}_crossentropy"
    order = np.random.default_rng(seed).permutation(len(data.train))
    train, test = data.train[order[:rows]], data.test or data.train[order[-48:]]
    each = -(-rows // BATCH[name])
    epochs = max(1, round((config.steps if name == "MNIST" else config.steps // 2) / each))
    how: dict[str, Any] = {"epochs": epochs, "batch_size": BATCH[name], "validation_every": max(1, epochs // 60), "seed": seed}
    where = config.run_dir / f"{name}, {config.steps} steps" / f"{remedy}, {rows} rows, seed {seed}"
    history = (result := ff.fit(task, train, validation=test, run_dir=where, **how)).history
    looked = np.flatnonzero(np.isfinite(history[f"val_{loss}"]))
    val_loss = history[f"val_{loss}"][looked]
    gap = val_loss[-1] - ff.evaluate(task, result.last, train)[loss]
    return [history["val_accuracy"][looked[-1]], val_loss[-1], gap, (looked[val_loss.argmin()] + 1) * each]


def main(config: Config) -> None:
    sets = {name: ff.data.load(name.lower(), originals=config.originals) for name in ("MNIST", "sonar")}
    with Page("Training-set size", config.run_dir, ABOUT) as page:
        figures = [ff.plots.panels(3, size=(11, 4)) for _ in sets]
        for (name, data), (figure, axes) in zip(sets.items(), figures, strict=True):
            sizes = config.mnist if name == "MNIST" else config.sonar
            seeds = config.every_seed if name == "MNIST" else range(config.first_seed, config.first_seed + 4 * config.seeds)
            runs = np.array([[trained(config, name, data, rows, seed) for seed in seeds] for rows in sizes])  # size, seed, measure
            report(page, name, sizes, runs.transpose(2, 0, 1), axes)
            page.plot(name, figure, f"{name}: means over seeds with 95% intervals (Student's), and the fitted law")
        remedies(config, page, sets["MNIST"])


def law(sizes: tuple[int, ...], errors: np.ndarray) -> np.ndarray:
    """Returns a, b and c of error = a + b rows^-c."""
    from scipy.optimize import least_squares

    def off(p):
        return np.log(np.exp(p[0]) + np.exp(p[1]) * np.array(sizes, float) ** -np.exp(p[2])) - np.log(errors)

    a, b, c = np.exp(least_squares(off, [np.log(errors[-1] / 2), 0.0, np.log(0.5)]).x)
    return np.array([a, b, c])


def report(page: Page, name: str, sizes: tuple[int, ...], runs: np.ndarray, axes: Any) -> None:
    ratio: dict[str, Any] = {"method": "corrected", "test_ratio": 48 / 160} if name == "sonar" else {}
    accuracy, _, gap, onset = runs
    rows = [(size, *(interval(each[i], **ratio) for each in runs)) for i, size in enumerate(sizes)]
    page.table(name, ("training rows", "test accuracy", "test loss", "gap", "onset, steps"), rows)

    places, each = ([0, -1], "from the fewest to the most") if ratio else (range(len(sizes)), "each step to more")

    def steps(values: np.ndarray, larger: bool) -> tuple[list[Any], str]:
        pairs = {sizes[b]: compare(values[a], values[b], larger_is_better=larger, **ratio) for a, b in pairwise(places)}
        return [*pairs.values()], "; ".join(f"to {size}: {pair.difference}, p {pair.p_value:.2g}" for size, pair in pairs.items())

    page.claim("source", f"{name}: the test accuracy rises, {each} rows", *steps(accuracy, True))
    page.claim("source", f"{name}: the gap narrows, {each} rows", *steps(gap, False))
    page.claim("ours", f"{name}: the onset of overfitting is later, {each} rows", *steps(np.log(onset), True))
    errors = 1 - accuracy.mean(1)
    a, b, c = law(sizes, errors)
    formula = f"{f'{a:.2g} + ' if a > errors[-1] / 100 else ''}{b:.2g} rows^-{c:.2f}"
    page.text(f"{name}: test error = {formula}")
    fine = np.geomspace(sizes[0], sizes[-1], 50)
    axes[0].plot(fine, a + b * fine**-c, "--", color="0.4", label=formula)
    if name == "MNIST":
        known = [size for size in sizes if size <= 10_000]
        a, b, c = law(tuple(known), errors[: len(known)])
        ratios = interval((1 - accuracy[-1]) / (a + b * sizes[-1] ** -c))
        claim = f"a law fitted to at most 10,000 rows predicts the test error of {sizes[-1]:,} (within 20%)"
        page.claim("ours", claim, within(ratios, 0.8, 1.2), f"measured / predicted {ratios}")
    for ax, values, label in zip(axes, (1 - accuracy, gap, onset), ("test error", "gap (nats a row)", "onset (steps)"), strict=True):
        band(ax, sizes, values, "runs", 0)
        ax.set(xscale="log", xlabel="training rows", ylabel=label, yscale="linear" if label[0] == "g" else "log")
        ax.set_xticks(sizes, [f"{size // 1000}k" if size >= 1000 else str(size) for size in sizes])
        ax.tick_params(axis="x", which="minor", labelbottom=False)
    axes[0].legend(frameon=False)


def remedies(config: Config, page: Page, data: ff.data.Splits) -> None:
    """Ten times the rows against what helps without them."""
    found = {name: np.array([trained(config, "MNIST", data, FEW, seed, name) for seed in config.every_seed]) for name in REMEDIES}
    more = f"{10 * FEW:,} rows, plain"
    found[more] = np.array([trained(config, "MNIST", data, 10 * FEW, seed) for seed in config.every_seed])
    rows = [(name, *(interval(values) for values in each[:, :3].T)) for name, each in found.items()]
    page.table(f"MNIST: {FEW:,} rows, or ten times as many", ("how", "test accuracy", "test loss", "gap"), rows)
    for name in [*REMEDIES][1:]:
        pair = compare(found[name][:, 0], found[more][:, 0], larger_is_better=True, names=(name, more))
        page.claim("source", f"more data is the best remedy: ten times the rows raise the test accuracy more than {name}", pair)


if __name__ == "__main__":
    script(main, Config, __doc__)
