"""Sonar, 208 rows: how far a score can be trusted, from scoring the rows one trained on to repeated k-fold cross-validation.

Trains 60-24-10-1 by Adam on batches of 5, some 600 times. F1 scores the training rows themselves: 1.0. F2 holds out 30%: expect a test
accuracy of 0.82 on average, anything from 0.71 to 0.91 by the luck of the split. F3 chooses a net by validation rows and scores it once on
test rows. F4 cross-validates, with fresh weights in each fold and, to show the mistake, without. Two minutes on 2 cores, so runs have no
directories of their own: interrupted, the same command starts again, and ends with the same numbers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """Directory of original data files, searched before the network; by default what FLAXFIT_ORIGINALS names."""
    epochs: int = 100
    """Epochs of each run."""
    illusion_epochs: int = 400
    """Epochs of the runs that train on all rows (F1)."""
    splits: int = 20
    """Hold-out splits: split seeds 0, 1, ... decide which rows test."""
    seeds: int = 5
    """Runs on each split and fold: seeds 0, 1, ... decide weights and batches."""
    widths: tuple[int, ...] = (6, 24, 96)
    """Units of the first hidden layer of the nets that F3 chooses from."""
    l2: tuple[float, ...] = (0.0, 1e-3, 1e-2)
    """Their L2 weights."""
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """Shares of the rows that test, to see what the share does to the score."""
    folds: int = 5
    """Folds of the cross-validation."""
    repeats: int = 1
    """Cross-validations, each shuffled anew."""
    shuffle_seed: int = 0
    """Decides which row is in which fold."""
    larger: tuple[int, int] = (10, 10)
    """Folds and repeats of the larger cross-validation, of one run a fold."""
    run_dir: Path = Path("runs/sonar")
    """Where plots and the page go."""


TRAIN, TEST, SQUARED, BATCH = 1.0, 0.8413, 0.1371, 5  # the source's F2: accuracies, squared error; rows a step
LOSSES = ("binary cross-entropy", "squared error")
HELD = {"better": True, "worse": False, "undecided": None}
ABOUT = """Rocks and mines, 60-24-10-1 ReLU and a logit, Adam 0.001, batches of 5, features as they are. The loss is the binary
    cross-entropy; F2 also trains on the squared error of probabilities, on whose scale the source logs 0.1371. Scores are those of the last
    epoch. Splits and folds share rows: 95% intervals of scores over them are Nadeau and Bengio's corrected ones, unless a table says
    otherwise."""


def make_task(hp):
    import jax
    import optax

    import flaxfit as ff

    def squared_error(logits, y):
        return ff.losses.mse(jax.nn.sigmoid(logits), y)

    squares = hp.get("loss") == "squared error"
    metrics = {"accuracy": ff.metrics.binary_accuracy} | ({} if squares else {"squared_error": squared_error})
    loss, penalty = squared_error if squares else ff.losses.binary_crossentropy, ff.penalties.l2(hp.get("l2", 0.0))
    return ff.Task(ff.nn.MLP((hp.get("width", 24), 10), 1), loss, optax.adam(1e-3), metrics=metrics, penalty=penalty)


def main(config: Config) -> None:
    import flaxfit as ff

    try:
        data = ff.data.load("sonar", originals=config.originals).train
    except OSError as error:
        raise SystemExit(str(error)) from error
    with ff.Page("Sonar: hold-out and cross-validation", config.run_dir, ABOUT) as page:
        illusion(config, page, data)
        test = hold_out(config, page, data)
        choose(config, page, data)
        cross_validate(config, page, data, test)


def illusion(config: Config, page, data) -> None:
    import flaxfit as ff

    study = ff.fit_many(make_task, None, data, seeds=config.seeds, epochs=config.illusion_epochs, batch_size=BATCH, progress="F1")
    scores = study.evaluate(data, "last")["accuracy"]
    page.claim("F1: trained on all rows and scored on the same, the accuracy is 1", bool(scores.min() == 1), ff.statistics.interval(scores))


def hold_out(config: Config, page, data):
    """F2. Returns the test accuracies by split, means over seeds."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    import flaxfit as ff

    parts = [ff.data.split(data, test=0.3, seed=seed, one_row=1.0) for seed in range(config.splits)]
    train, test = ([getattr(part, name) for part in parts] for name in ("train", "test"))
    options: dict[str, Any] = {"seeds": config.seeds, "epochs": config.epochs, "batch_size": BATCH, "progress": "F2"}
    study = ff.fit_many(make_task, {"loss": LOSSES}, splits=parts, **options)
    fitted, unseen = study.evaluate(train, "last"), study.evaluate(test, "last")

    def by_split(scores):
        return scores.reshape(len(LOSSES), config.splits, config.seeds)

    how, rows = {"method": "corrected", "test_ratio": len(test[0]) / len(train[0])}, []
    shown = {"train accuracy": (fitted["accuracy"], TRAIN), "test accuracy": (unseen["accuracy"], TEST)}
    shown["test squared error"] = (unseen["squared_error"], SQUARED)
    for name, (scores, source) in shown.items():
        for loss, each in zip(LOSSES, by_split(scores), strict=True):
            place = ((each.round(4) < source).mean() + (each.round(4) <= source).mean()) / 2
            spread = [f"{each.mean(1).std(ddof=1):.3f}", f"{np.sqrt(each.var(1, ddof=1).mean()):.3f}" if config.seeds > 1 else None]
            interval = ff.statistics.interval(each.mean(1), **how)
            rows.append((name, loss, source, interval, *spread, f"{each.min():.3f} to {each.max():.3f}", f"{100 * place:.0f}"))
            claim = f"F2: a {name} of {source}, trained on the {loss}, is among the middle 95% of runs"
            page.claim(claim, bool(0.025 <= place <= 0.975), f"percentile {100 * place:.0f} of {each.size} runs, {rows[-1][6]}")
    columns = ("score", "trained on", "source", "mean", "sd, splits", "sd, seeds", "least to most", "percentile of the source")
    page.table(f"F2: 30% held out, {config.splits} splits, {config.seeds} runs on each", columns, rows)
    means = by_split(unseen["accuracy"]).mean(2)
    page.text(f"Which loss: {ff.statistics.compare(*means, larger_is_better=True, names=LOSSES, **how)}.")
    gap = ff.statistics.compare(means[0], by_split(fitted["accuracy"])[0].mean(1), larger_is_better=True, names=("test", "train"), **how)
    page.claim("F2: the training accuracy flatters", HELD[gap.verdict], str(gap))

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    ax = figure.subplots()
    each = by_split(unseen["accuracy"])[0]
    each = each[np.argsort(each.mean(1))]
    ax.plot(np.arange(1, config.splits + 1).repeat(config.seeds), each.ravel(), "o", color=ff.plots.PALETTE[0], alpha=0.4, label="a run")
    ax.plot(np.arange(1, config.splits + 1), each.mean(1), "_", color=ff.plots.PALETTE[0], markersize=14, label="the split's mean")
    ax.axhline(each.mean(), color=ff.plots.PALETTE[0], label="mean of all")
    ax.axhline(TEST, color=ff.plots.PALETTE[1], linestyle="--", label=f"source, {TEST}")
    ax.set(
        xlabel="split, in order of its mean",
        ylabel="test accuracy (share of the 30% held out)",
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    page.plot("hold_out", figure, "F2: one net, scored on one split after the other")
    return means[0]


def choose(config: Config, page, data) -> None:
    """F3: what is chosen, by which rows, and how much that flatters."""
    import numpy as np

    import flaxfit as ff

    parts = []
    for seed in range(config.splits):
        whole = ff.data.split(data, test=0.2, stratified=True, seed=seed, one_row=1.0)
        rest = ff.data.split(whole.train, validation=0.2, stratified=True, seed=seed, one_row=1.0)
        parts.append(ff.data.Splits(rest.train, rest.validation, whole.test))
    page.text(f"F3, the first split, audited:\n```\n{ff.data.leakage(parts[0])}\n```")
    grid = {"width": config.widths, "l2": config.l2}
    study = ff.fit_many(make_task, grid, splits=parts, epochs=config.epochs, batch_size=BATCH, progress="F3")

    def by_split(metric):
        return metric.reshape(len(study.settings), config.splits).T

    validation, loss = (by_split(study.scores(name, "last")) for name in ("val_accuracy", "val_binary_crossentropy"))
    best = np.lexsort((loss, -validation))[:, 0]  # of equal accuracies the smaller loss
    test = by_split(study.evaluate([part.test for part in parts], "last")["accuracy"])
    split = np.arange(config.splits)
    chosen, cheated = test[split, best], test.max(1)
    net = study.settings[best[0]]
    page.text(f"Its validation rows choose {net['width']} units and L2 {net['l2']:g}; scored once, its test accuracy is {chosen[0]:.3f}.")
    how = {"method": "corrected", "test_ratio": len(parts[0].test) / len(parts[0].train)}
    blind = validation[split, test.argmax(1)]
    rows = [("validation", *(ff.statistics.interval(s, **how) for s in (validation[split, best], chosen)))]
    rows.append(("test", *(ff.statistics.interval(s, **how) for s in (blind, cheated))))
    columns = ("chosen by the accuracy on", "its validation accuracy", "its test accuracy")
    page.table(f"F3: the best of {len(study.settings)} nets, {config.splits} splits", columns, rows)
    compare = functools.partial(ff.statistics.compare, chosen, larger_is_better=True)
    own = compare(validation[split, best], names=("the test score of what validation rows chose", "their own score of it"))
    page.claim("F3: rows that choose a net flatter it", HELD[own.verdict], f"random splits of these 208 rows: {own}")
    other = compare(cheated, names=("the test score of what validation rows chose", "that of what test rows chose"))
    page.claim("F3: a test set that chooses flatters", HELD[other.verdict], f"random splits of these 208 rows: {other}")


def cross_validate(config: Config, page, data, held_out) -> None:
    """F4: k-fold beside hold-out, and the mistake of weights that go on from fold to fold."""
    import numpy as np
    from matplotlib.figure import Figure

    import flaxfit as ff

    interval, compare, how = ff.statistics.interval, ff.statistics.compare, dict[str, Any](epochs=config.epochs, batch_size=BATCH)
    task, (many, times) = make_task({}), config.larger
    options = {"stratified": True, "shuffle_seed": config.shuffle_seed, "progress": "F4", **how}
    fresh = ff.cross_validate(task, data, folds=config.folds, repeats=config.repeats, seeds=config.seeds, **options)
    large = ff.cross_validate(task, data, folds=many, repeats=times, **options)
    rows = [("30% held out", interval(held_out, method="corrected", test_ratio=0.3 / 0.7), held_out.std(ddof=1))]
    for name, found in {f"{config.folds} folds, {config.repeats} times": fresh, f"{many} folds, {times} times": large}.items():
        row = found.table("accuracy").rows[0]
        rows.append((name, row.interval, row.scores.std(ddof=1)))
    page.table("F4: test accuracy, fresh weights in each fold", ("how", "mean (splits or folds)", "sd of these"), rows)

    carried = np.empty((len(fresh.folds), config.seeds))
    for seed in range(config.seeds):
        state = None
        for fold, (train, test) in enumerate(fresh.folds):
            result = ff.fit(task, data[train], validation=data[test], initial=state, seed=seed, **how)
            state, carried[fold, seed] = result.last, result.history["val_accuracy"][-1]
    pair = {"fresh weights": fresh.scores["accuracy"].reshape(carried.shape), "weights of the fold before": carried}
    folds = [(fold + 1, *(interval(scores[fold]) for scores in pair.values())) for fold in range(len(carried))]
    page.table(f"F4: each fold's test accuracy, {config.seeds} runs; Student's intervals over seeds", ("fold", *pair), folds)
    trap = compare(*(scores.mean(0) for scores in pair.values()), larger_is_better=True, names=[*pair])
    page.claim("F4: without fresh weights the score flatters: they have seen the fold's rows", HELD[trap.verdict], str(trap))

    parts = [ff.data.split(data, test=share, seed=seed, one_row=1.0) for share in config.shares for seed in range(config.splits)]
    study = ff.fit_many(make_task, splits=parts, **how, progress="F4, shares")
    shares = study.evaluate([part.test for part in parts], "last")["accuracy"].reshape(len(config.shares), -1)
    rows = [(f"{p:.0%}", interval(s), s.std(ddof=1), f"{s.min():.3f} to {s.max():.3f}") for p, s in zip(config.shares, shares, strict=True)]
    page.table(
        f"Hold-out of {config.splits} splits, one run each; Student's intervals",
        ("held out", "test accuracy", "sd, splits", "least to most"),
        rows,
    )
    names = [f"holding out {config.shares[i]:.0%}" for i in (-1, 0)]
    for claim, values in (
        ("so few rows that the share held out changes the mean score", shares),
        ("so few rows that it changes how far a split's score strays: use k-fold there", -np.abs(shares - np.median(shares, 1)[:, None])),
    ):
        ends = compare(values[-1], values[0], larger_is_better=True, names=names)
        page.claim(claim, None if ends.verdict == "undecided" else True, str(ends))

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    blue, orange, green = ff.plots.PALETTE[:3]
    percent = 100 * np.array(config.shares)
    left.plot(percent.repeat(config.splits), shares.ravel(), "o", color=blue, alpha=0.3, label="a split")
    left.plot(percent, shares.mean(1), "o-", color=blue, label="mean of splits")
    left.axhline(large.scores["accuracy"].mean(), color=green, linestyle="--", label=f"{many}-fold, {times} times")
    left.set(xlabel="rows held out (%)", ylabel="test accuracy (share of rows)", xticks=percent)
    for (name, scores), color, style in zip(pair.items(), (green, orange), ("o-", "s--"), strict=True):
        bars = [(interval(fold).high - interval(fold).low) / 2 for fold in scores]
        right.errorbar(range(1, len(scores) + 1), scores.mean(1), bars, fmt=style, capsize=3, color=color, label=name)
    right.set(xlabel="fold", xticks=range(1, len(carried) + 1, max(1, len(carried) // 10)))
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    page.plot("folds", figure, "Left: hold-out by its share. Right: folds with and without fresh weights, mean and 95% interval over seeds")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
