"""Shows what L1 and L2 penalties do to linear regression, and where Lasso is better than Ridge.

The first part follows the ten weights of scikit-learn's diabetes data along the penalty, beside scikit-learn's Lasso and Ridge. The second
generates data in which few or all of 40 features matter, chooses each penalty's weight on validation examples, and compares exact risks.
It works offline and takes 3 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from drawing import band
from options import WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithSeeds):
    """Options."""

    epochs: int = 1_000
    """How many epochs of one step to train. With less than half of the default, weights below 0.01 do not converge."""
    weights: int = 13
    """How many weights of each penalty, evenly spaced from 0.001 to 10 on a logarithmic scale."""
    run_dir: Path = Path("runs/shrinkage")
    """The directory for runs, plots and the page of results."""


PENALTIES, MOMENTUM, ROWS, FEATURES, MATTER = ("L1", "L2"), 0.9, 60, 40, (1, 2, 4, 10, 20, 40)
ABOUT = f"""The objective is the mean squared error + weight * sum |w| (L1, by proximal steps) or + weight * sum w² (L2), which is that of
    scikit-learn's Lasso(weight / 2) and Ridge(weight * rows). Diabetes: 442 patients; the ten features and the target are standardized by
    a random half, and the other half is for testing. Generated: {ROWS} training and as many validation examples with {FEATURES}
    independent normal features, of which some matter, all of these alike; the signal's variance is 4, the noise's 1. The risk is the
    exact expected squared error of the fitted weights, less the noise."""


def make_task(hp):
    import optax

    l1, weight = hp["penalty"] == "L1", hp["weight"]
    rate = 1 / (10 + 2 * weight)  # below 1.36 / curvature, Nesterov's limit at 0.9: 2 * (largest eigenvalue, about 4, + weight)
    optimizer = optax.sgd(rate, momentum=MOMENTUM, nesterov=True)
    if l1:  # what momentum makes of a constant gradient is 1 / (1 - MOMENTUM) times as much
        optimizer = optax.chain(optimizer, ff.proximal.l1(weight, rate / (1 - MOMENTUM)))
    return ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optimizer, penalty=None if l1 else ff.penalties.l2(weight))


def main(config: Config) -> None:
    with Page("Shrinkage: Lasso and Ridge", config.run_dir, ABOUT) as page:
        paths(config, page)
        truths(config, page)


def fitted(config: Config, parts: list[ff.data.Splits], name: str) -> tuple[list[float], np.ndarray, ff.Study]:
    """Returns the weights of the penalties, the fitted kernels by penalty, weight and part, and the study."""
    weights = np.logspace(-3, 1, config.weights).tolist()
    how: dict[str, Any] = {"epochs": config.epochs, "batch_size": len(parts[0].train), "seeds": [config.first_seed], "splits": parts}
    where = {"run_dir": config.run_dir / f"{name}, from seed {config.first_seed}", "progress": name}
    study = ff.fit_many(make_task, {"penalty": PENALTIES, "weight": weights}, **how, **where)
    kernels = [result.last.params["Dense_0"]["kernel"][:, 0] for result in study.results]
    return weights, np.reshape(kernels, (len(PENALTIES), config.weights, len(parts), -1)), study


def paths(config: Config, page: Page) -> None:
    from sklearn.linear_model import Lasso, Ridge

    data, parts = ff.data.load("diabetes").train, []
    names = data.features or ()
    for seed in config.every_seed:
        half = ff.data.split(data, test=0.5, seed=seed, one_row=1.0)
        x, y = ff.data.standardize(half.train.x), ff.data.standardize(half.train.y)
        train, test = (ff.Dataset(x(rows.x), y(rows.y)) for rows in (half.train, half.test))
        parts.append(ff.data.Splits(train, test=test))
    weights, found, study = fitted(config, parts, "diabetes")
    tested = study.evaluate([part.test for part in parts], "last")["mse"].reshape(found.shape[:3])

    def oracle(member):
        train, weight = parts[member.fold].train, member.setting["weight"]
        lasso = member.setting["penalty"] == "L1"
        model = Lasso(weight / 2, tol=1e-10, max_iter=100_000) if lasso else Ridge(weight * len(train))
        return model.fit(train.x.astype(np.float64), train.y).coef_

    theirs = np.reshape([oracle(member) for member in study.members], found.shape)
    off, zeros = np.abs(found - theirs).max((1, 2, 3)), (found == 0).sum(-1)
    statistic = f"largest difference of a standardized weight: L1 {off[0]:.1e}, L2 {off[1]:.1e}"
    page.claim("ours", "gradient descent finds scikit-learn's Lasso and Ridge", bool(off.max() < 1e-4), statistic)
    norms = np.linalg.norm(found, axis=-1)
    columns = ("weight", "L1: zero weights", "L1: norm", "L1: test mse", "L2: norm", "L2: test mse")
    measures = (zeros[0], norms[0], tested[0], norms[1], tested[1])
    rows = [(weight, *(interval(measure[i]) for measure in measures)) for i, weight in enumerate(weights)]
    page.table(f"Diabetes, {len(names)} weights, random halves", columns, rows)
    middle = interval(zeros[0, config.weights // 2])  # at weight 0.1
    page.claim("source", "L1 sets weights to exactly zero: one or more of ten at weight 0.1", within(middle, 1, 10), middle)
    rise, none = np.diff(norms[1], axis=0).max(), int(zeros[1].sum())
    statistic = f"{none} zeros among {found[1].size} weights; the norm changes by {rise:.1e} at most"
    page.claim("source", "L2 shrinks weights, and sets none to zero", bool(rise < 0 and not none), statistic)
    figure, axes = ff.plots.panels(2, sharey=True)
    for ax, name, ours, its in zip(axes, PENALTIES, found, theirs, strict=True):
        for feature, label in enumerate(names):
            color, style = ff.plots.PALETTE[feature % len(ff.plots.PALETTE)], "-" if feature < len(ff.plots.PALETTE) else "--"
            ax.plot(weights, ours[:, 0, feature], style, color=color, label=label)
            ax.plot(weights, its[:, 0, feature], "o", color=color, markersize=4, markerfacecolor="none")
        ax.set(xscale="log", xlabel=f"{name} weight", ylabel="weight of a standardized feature" if name == "L1" else None)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    page.plot("paths", figure, "The ten features' weights against the penalty's weight, on the first random half; rings: scikit-learn")


def truths(config: Config, page: Page) -> None:
    parts, true = [], []
    for matter in MATTER:
        for seed in config.every_seed:
            rng = np.random.default_rng(seed)
            x, w = rng.normal(size=(2 * ROWS, FEATURES)), 2 / np.sqrt(matter) * rng.choice([-1, 1], FEATURES)
            w[rng.permutation(FEATURES)[matter:]] = 0
            parts.append(ff.data.split(ff.Dataset(x, x @ w + rng.normal(size=len(x))), validation=ROWS, one_row=1.0))
            true.append(w)
    _, found, study = fitted(config, parts, f"generated, {ROWS} rows")
    best = study.scores("val_mse", "last").reshape(found.shape[:3]).argmin(1)
    chosen = np.take_along_axis(found, best[:, None, :, None], 1)[:, 0]  # penalty, part, feature
    risk = ((chosen - np.array(true)) ** 2).sum(-1).reshape(2, len(MATTER), config.seeds)
    zero = (chosen[0] == 0).reshape(len(MATTER), config.seeds, FEATURES)
    nothing = np.reshape(true, zero.shape) == 0
    kept = (zero & nothing).sum(-1), (~zero & ~nothing).sum(-1)  # draw by draw
    rows = [(matter, *(interval(each[i]) for each in (*risk, *kept))) for i, matter in enumerate(MATTER)]
    columns = ("features that matter", "risk, Lasso", "risk, Ridge", "Lasso: others at zero", "Lasso: relevant ones kept")
    page.table(f"Generated, {ROWS} rows", columns, rows)
    for matter, words, (a, b) in ((4, "few features matter, Lasso", (1, 0)), (40, "all features matter alike, Ridge", (0, 1))):
        at = MATTER.index(matter)
        pair = compare(risk[a, at], risk[b, at], names=[("Lasso", "Ridge")[each] for each in (a, b)])
        page.claim("source", f"where {words} has the lower risk ({matter} of {FEATURES})", pair)
    share = interval(kept[0][2] / (FEATURES - MATTER[2]))
    page.claim("source", "Lasso selects: with 4 of 40, over half of the others get weight zero", within(share, 0.5, 1), share)
    figure, (ax,) = ff.plots.panels()
    for color, (name, risks) in enumerate(zip(("Lasso", "Ridge"), risk, strict=True)):
        band(ax, MATTER, risks, name, color)
    ax.set(xscale="log", xticks=MATTER, xticklabels=MATTER, xlabel=f"features that matter, of {FEATURES}", ylabel="risk")
    ax.legend(frameon=False)
    page.plot("truths", figure, "Risk with the penalty's weight chosen on validation examples: mean and 95% interval over draws")


if __name__ == "__main__":
    script(main, Config, __doc__)
