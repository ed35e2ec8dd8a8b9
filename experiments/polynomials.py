"""Shows what the degree of a polynomial does to its fit of a noisy sine: the picture of underfitting and overfitting.

Polynomials of degree 1 to 15 are fitted to 20 points by full-batch gradient descent until it has converged. Expect that the training error
falls with every degree, and that the test error falls from 0.31 to 0.11 at degree 3 and then rises to 0.6. It needs no network connection
and takes half a minute on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import words
from options import WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithSeeds):
    """Options."""

    first_seed: int = 2_000
    """The first of the seeds. The others follow it."""
    degree: int = 15
    """The largest degree of the polynomials, from 4 to 18."""
    points: int = 20
    """How many evenly spaced points the polynomials are fitted to."""
    noise: float = 0.3
    """The standard deviation of the noise on the sine, whose amplitude is 1."""
    run_dir: Path = Path("runs/polynomials")
    """The directory for runs, plots and the page of results."""


EPOCHS = 50  # each halves the distance to the least squares
ABOUT = """One period of a sine. The features are polynomials that are orthogonal on the points, so that gradient descent converges in a few
    steps. Means are geometric, because the errors of high degrees are skewed. Intervals are Student's 95% intervals over draws of the
    noise."""


def main(config: Config) -> None:
    if not 4 <= config.degree < min(19, config.points):
        raise SystemExit("--degree is from 4 to 18 and less than --points.")
    with Page("Polynomial degree: underfitting and overfitting", config.run_dir, ABOUT) as page:
        report(config, page)


def report(config: Config, page: Page) -> None:
    import jax.numpy as jnp
    import optax

    def powers(x):
        return np.polynomial.legendre.legvander(2 * x - 1, config.degree)

    place, between = np.linspace(0, 1, config.points), np.linspace(0, 1, 201)
    scale = np.linalg.inv(np.linalg.qr(powers(place))[1]) * np.sqrt(config.points)
    seen, unseen = ((powers(x) @ scale)[:, 1:] for x in (place, between))  # the constant one is the bias
    parts = []
    for seed in config.every_seed:
        rng = np.random.default_rng(seed)
        y, other = (np.sin(2 * np.pi * x) + config.noise * rng.normal(size=len(x)) for x in (place, between))
        parts.append(ff.data.Splits(ff.Dataset(seen, y), test=ff.Dataset(unseen, other)))

    def make_task(hp):
        def lower(x):
            return jnp.where(jnp.arange(config.degree) < hp["degree"], x, 0)

        return ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optax.sgd(0.25), preprocess=lower)

    every = np.arange(1.0, config.degree + 1).tolist()
    where = f"degrees to {config.degree}, {config.points} points, noise {config.noise:g}, from seed {config.first_seed}"
    options: dict[str, Any] = {"epochs": EPOCHS, "batch_size": config.points, "run_dir": config.run_dir / where}
    study = ff.fit_many(make_task, {"degree": every}, splits=parts, progress="degrees", **options)
    errors = {}
    for name in ("train", "test"):
        scores = study.evaluate([getattr(part, name) for part in parts], "last")["mse"]
        errors[name] = scores.reshape(len(every), config.seeds)
    curves = np.reshape(study.predict(unseen), (len(every), config.seeds, -1))
    exact = np.stack([[np.polynomial.Legendre.fit(place, part.train.y, int(d), [0, 1])(between) for part in parts] for d in every])
    off = np.abs(curves - exact).max()
    page.text(f"Gradient descent has converged: its curves are within {off:.1g} of the least squares.")
    logs = {name: np.log10(each) for name, each in errors.items()}
    intervals = {name: [ff.statistics.interval(e) for e in each] for name, each in logs.items()}

    def shown(log):
        return f"{10**log.mean:.3f} [{10**log.low:.3f}, {10**log.high:.3f}]"

    rows = [(int(d), *(shown(intervals[name][i]) for name in errors)) for i, d in enumerate(every)]
    page.table(f"{config.points} points of a noisy sine, {config.seeds} draws", ("degree", "train mse", "test mse"), rows)
    page.text(f"The noise's own mean squared error is {config.noise**2:.2g}.")
    best = 2  # degree 3, which had the least test error in earlier draws
    names = [f"degree {int(every[i])}" for i in (0, best, -1)]
    under = ff.statistics.compare(logs["test"][0], logs["test"][best], names=names[:2])
    page.claim("source", "too low a degree underfits", under, f"log10 of the test mse: {words(under)}")
    over = ff.statistics.compare(logs["test"][-1], logs["test"][best], names=names[:0:-1])
    page.claim("source", "too high a degree overfits: a higher test error", over, f"log10 of the test mse: {words(over)}")
    falls = np.diff(errors["train"], axis=0).max()
    statistic = f"largest rise {falls:.1e}" if falls > 0 else "it rose in none"
    page.claim("source", "with each degree the training error falls, in each draw", bool(falls <= 1e-6), statistic)

    figure, (left, right) = ff.plots.panels(2)
    blue, orange, green = ff.plots.PALETTE[:3]
    left.plot(between, np.sin(2 * np.pi * between), color="0.6", linewidth=1, label="sine")
    left.plot(place, parts[0].train.y, "o", color="black", markersize=4, label="points")
    for index, color, style in zip((0, best, -1), (orange, green, blue), (":", "-", "--"), strict=True):
        left.plot(between, curves[index, 0], style, color=color, label=f"degree {int(every[index])}")
    left.set(xlabel="x (periods)", ylabel="y", ylim=(-2, 2))
    left.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1)
    for name, color, style in (("train", blue, "--"), ("test", orange, "-")):
        right.plot(every, [10**i.mean for i in intervals[name]], style, color=color, label=name)
        low, high = ([10 ** getattr(i, end) for i in intervals[name]] for end in ("low", "high"))
        right.fill_between(every, low, high, color=color, alpha=0.2)
    right.axhline(config.noise**2, color="0.6", linewidth=1, label="noise")
    right.set(yscale="log", xlabel="degree of the polynomial", ylabel="mean squared error, unit of y squared")
    right.locator_params(axis="x", integer=True)
    right.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    caption = (
        "Left: polynomials fitted to one draw of the noise; the highest degree leaves the panel at both ends. Right: errors, geometric"
    )
    page.plot("degrees", figure, f"{caption} mean over the draws with its 95% interval")


if __name__ == "__main__":
    script(main, Config, __doc__)
