"""Shows what L1 and L2 penalties do to linear regression, and what the degree of a polynomial does to its fit of a noisy sine.

The first part follows the ten weights of scikit-learn's diabetes data as the penalty grows, on several halves of the data, beside
scikit-learn's own Lasso and Ridge. Expect differences below 0.00001, weights that L1 sets to exactly zero and L2 only shrinks, and test
errors that a moderate penalty hardly changes. The second part fits polynomials of degree 1 to 15 to 20 points of a noisy sine. Expect
that the training error falls with every degree, and that the test error falls from 0.31 to 0.11 at degree 3 and then rises to 0.6. Both
are trained by full-batch gradient descent until they have converged, the first with momentum. It needs no network connection and takes
about a minute on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    seeds: int = 20
    """How many random halves of the diabetes data, and how many draws of the noise on the sine, with the seeds 0, 1, ..."""
    epochs: int = 1_000
    """How many epochs of one step to train on the diabetes data. With less than half of the default, weights below 0.01 do not converge."""
    weights: int = 13
    """How many weights of each penalty, evenly spaced from 0.001 to 10 on a logarithmic scale."""
    degree: int = 15
    """The largest degree of the polynomials, from 2 to 18."""
    points: int = 20
    """How many evenly spaced points the polynomials are fitted to."""
    noise: float = 0.3
    """The standard deviation of the noise on the sine, whose amplitude is 1."""
    run_dir: Path = Path("runs/shrinkage")
    """The directory for runs, plots and the page of results."""


PENALTIES = ("L1", "L2")
MOMENTUM = 0.9
POLYNOMIAL_EPOCHS = 50  # each halves the distance to the least squares
ABOUT = """Diabetes: 442 patients. The ten features and the target are standardized by the training half, and the other half is for
    testing. The objective is the mean squared error + weight * sum |w| (L1, by proximal steps) or + weight * sum w² (L2), which is that
    of scikit-learn's Lasso(weight / 2) and Ridge(weight * rows). Sine: one period. The features are polynomials that are orthogonal on
    the points, so that gradient descent converges in a few steps. Means are geometric, because the errors of high degrees are skewed.
    Intervals are Student's 95% intervals over random halves, or over draws of the noise."""


def main(config: Config) -> None:
    if config.weights < 2 or not 2 <= config.degree < min(19, config.points):
        raise SystemExit("--weights is 2 or more, --degree from 2 to 18 and less than --points.")
    with Page("Shrinkage and polynomial degree", config.run_dir, ABOUT) as page:
        paths(config, page)
        degrees(config, page)


def paths(config: Config, page: Page) -> None:
    import optax
    from sklearn.linear_model import Lasso, Ridge

    data, parts = ff.data.load("diabetes").train, []
    names = data.features or ()
    for seed in range(config.seeds):
        half = ff.data.split(data, test=0.5, seed=seed, one_row=1.0)
        x, y = ff.data.standardize(half.train.x), ff.data.standardize(half.train.y)
        train, test = (ff.Dataset(x(rows.x), y(rows.y)) for rows in (half.train, half.test))
        parts.append(ff.data.Splits(train, test=test))

    def make_task(hp):
        l1, weight = hp["penalty"] == "L1", hp["weight"]
        rate = 1 / (10 + 2 * weight)  # below 1.36 / curvature, Nesterov's limit at 0.9: 2 * (largest eigenvalue, about 4, + weight)
        optimizer = optax.sgd(rate, momentum=MOMENTUM, nesterov=True)
        if l1:  # what momentum makes of a constant gradient is 1 / (1 - MOMENTUM) times as much
            optimizer = optax.chain(optimizer, ff.proximal.l1(weight, rate / (1 - MOMENTUM)))
        return ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optimizer, penalty=None if l1 else ff.penalties.l2(weight))

    weights = np.logspace(-3, 1, config.weights).tolist()
    options: dict[str, Any] = {"epochs": config.epochs, "batch_size": len(parts[0].train), "run_dir": config.run_dir / "paths"}
    study = ff.fit_many(make_task, {"penalty": PENALTIES, "weight": weights}, splits=parts, progress="paths", **options)
    kernels = [result.last.params["Dense_0"]["kernel"][:, 0] for result in study.results]
    shape = (len(PENALTIES), config.weights, config.seeds)
    found = np.reshape(kernels, (*shape, -1))  # penalty, weight, half, feature
    tested = study.evaluate([part.test for part in parts], "last")["mse"].reshape(shape)

    def oracle(member):
        train, weight = parts[member.fold].train, member.setting["weight"]
        exact = {"tol": 1e-10, "max_iter": 100_000}
        model = Lasso(weight / 2, **exact) if member.setting["penalty"] == "L1" else Ridge(weight * len(train))
        return model.fit(train.x.astype(np.float64), train.y).coef_

    theirs = np.reshape([oracle(member) for member in study.members], found.shape)
    off, zeros = np.abs(found - theirs).max((1, 2, 3)), (found == 0).sum(-1)
    agree = ((found == 0) == (theirs == 0)).mean()
    statistic = f"largest difference of a standardized weight: L1 {off[0]:.1e}, L2 {off[1]:.1e}; zero or not as there: {agree:.2%}"
    page.claim("source", "gradient descent finds scikit-learn's Lasso and Ridge", bool(off.max() < 1e-4), statistic)
    rows = []
    for i, weight in enumerate(weights):
        parts_of = [(zeros[p, i], np.linalg.norm(found[p, i], axis=-1), tested[p, i]) for p in range(2)]
        rows.append((float(weight), *(ff.statistics.interval(values) for values in (*parts_of[0], *parts_of[1]))))
    columns = ("weight", *(f"{p}: {what}" for p in PENALTIES for what in ("zero weights", "norm of weights", "test mse")))
    page.table(f"Diabetes, {len(names)} weights, {config.seeds} halves", columns, rows)
    shown = [f"{ff.statistics.interval(zeros[0, i])} of 10 at weight {weights[i]:.2g}" for i in (config.weights // 2, -1)]
    page.claim("source", "L1 sets weights to exactly zero", bool((zeros[0].max(0) > 0).all()), "zeros: " + ", ".join(shown))
    rise = np.diff(np.linalg.norm(found[1], axis=-1), axis=0).max()
    statistic = (
        f"{int(zeros[1].sum())} zeros among {found[1].size} weights; from one penalty to the next the norm changes by {rise:.1e} at most"
    )
    page.claim("source", "L2 shrinks weights, and sets none to zero", bool(rise < 0 and not zeros[1].any()), statistic)

    figure, (left, right) = ff.plots.panels(2, sharey=True)
    for ax, name, ours, its in zip((left, right), PENALTIES, found, theirs, strict=True):
        for feature, label in enumerate(names):
            color = ff.plots.PALETTE[feature % len(ff.plots.PALETTE)]
            style = "-" if feature < len(ff.plots.PALETTE) else "--"
            ax.plot(weights, ours[:, 0, feature], style, color=color, label=label)
            ax.plot(weights, its[:, 0, feature], "o", color=color, markersize=4, markerfacecolor="none")
        ax.set(xscale="log", xlabel=f"{name} weight", title={"L1": "L1 (Lasso)", "L2": "L2 (Ridge)"}[name])
    left.set_ylabel("weight of a standardized feature (target's sd)")
    right.plot([], [], "o", color="0.3", markersize=4, markerfacecolor="none", label="scikit-learn")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    page.plot("paths", figure, "Weights of the ten features along the penalty's, first half; rings: scikit-learn")


def degrees(config: Config, page: Page) -> None:
    import jax.numpy as jnp
    import optax

    def powers(x):
        return np.polynomial.legendre.legvander(2 * x - 1, config.degree)

    place, between = np.linspace(0, 1, config.points), np.linspace(0, 1, 201)
    scale = np.linalg.inv(np.linalg.qr(powers(place))[1]) * np.sqrt(config.points)
    seen, unseen = ((powers(x) @ scale)[:, 1:] for x in (place, between))  # the constant one is the bias
    parts = []
    for seed in range(config.seeds):
        rng = np.random.default_rng(seed)
        y, other = (np.sin(2 * np.pi * x) + config.noise * rng.normal(size=len(x)) for x in (place, between))
        parts.append(ff.data.Splits(ff.Dataset(seen, y), test=ff.Dataset(unseen, other)))

    def make_task(hp):
        def lower(x):
            return jnp.where(jnp.arange(config.degree) < hp["degree"], x, 0)

        return ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optax.sgd(0.25), preprocess=lower)

    every = np.arange(1.0, config.degree + 1).tolist()
    where = f"degrees to {config.degree}, {config.points} points, noise {config.noise:g}"
    options: dict[str, Any] = {"epochs": POLYNOMIAL_EPOCHS, "batch_size": config.points, "run_dir": config.run_dir / where}
    study = ff.fit_many(make_task, {"degree": every}, splits=parts, progress="degrees", **options)
    errors = {}
    for name in ("train", "test"):
        scores = study.evaluate([getattr(part, name) for part in parts], "last")["mse"]
        errors[name] = scores.reshape(len(every), config.seeds)
    curves = np.reshape(study.predict(unseen), (len(every), config.seeds, -1))
    exact = np.stack([[np.polynomial.Legendre.fit(place, part.train.y, int(d), [0, 1])(between) for part in parts] for d in every])
    off = np.abs(curves - exact).max()
    page.claim(
        "source", "gradient descent has converged to the least squares", bool(off < 1e-3), f"largest difference of a fitted curve {off:.1e}"
    )
    logs = {name: np.log10(each) for name, each in errors.items()}
    intervals = {name: [ff.statistics.interval(e) for e in each] for name, each in logs.items()}

    def shown(log):
        return f"{10**log.mean:.3f} [{10**log.low:.3f}, {10**log.high:.3f}]"

    rows = [(int(d), *(shown(intervals[name][i]) for name in errors)) for i, d in enumerate(every)]
    page.table(f"{config.points} points of a noisy sine, {config.seeds} draws", ("degree", "train mse", "test mse"), rows)
    page.text(f"The noise's own mean squared error is {config.noise**2:.2g}.")
    best = int(logs["test"].mean(1).argmin())
    names = [f"degree {int(every[i])}" for i in (0, best, -1)]
    under = ff.statistics.compare(logs["test"][0], logs["test"][best], names=names[:2])
    page.claim("source", "too low a degree underfits", under, f"log10 of the test mse: {under}")
    over = ff.statistics.compare(logs["test"][-1], logs["test"][best], names=names[:0:-1])
    page.claim("source", "too high a degree overfits: a higher test error", over, f"log10 of the test mse: {over}")
    falls = np.diff(errors["train"], axis=0).max()
    page.claim(
        "source", "while the training error falls with each degree", bool(falls <= 1e-6), f"largest rise of all draws {max(falls, 0):.1e}"
    )

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
    caption = "Left: polynomials fitted to one draw of the noise. Right: errors, geometric mean over the draws with its 95% interval"
    page.plot("degrees", figure, caption)


if __name__ == "__main__":
    script(main, Config, __doc__)
