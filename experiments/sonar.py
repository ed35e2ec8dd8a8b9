"""Shows on sonar, which has 208 examples, how far a score can be trusted, from the training score to repeated k-fold cross-validation.

Trains a 60-24-10-1 network by Adam in batches of 5, some 600 times. F1 evaluates on the training examples themselves: expect an accuracy
of 1.0. F2 holds out 30%: expect a test accuracy of 0.82 on average, and anything from 0.71 to 0.91 depending on the split. F3 selects a
network by its validation score and evaluates it once on test examples. F4 cross-validates with fresh weights on each fold and, to show
the mistake, with the same weights on all. It takes a minute and a half on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import held
from options import WithOriginals
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals):
    """Options."""

    epochs: int = 100
    """How many epochs to train each run."""
    illusion_epochs: int = 400
    """How many epochs to train the runs on all examples (F1)."""
    splits: int = 20
    """How many hold-out splits. Their seeds 0, 1, ... decide which examples are for testing."""
    seeds: int = 5
    """How many runs on each split and fold, with the seeds 0, 1, ... A seed decides the initial weights and the batches."""
    widths: tuple[int, ...] = (6, 24, 96)
    """The units in the first hidden layer of the networks that F3 chooses from."""
    l2: tuple[float, ...] = (0.0, 1e-3, 1e-2)
    """The L2 weights of the networks that F3 chooses from."""
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """The shares of the examples for testing, to see how the share changes the score."""
    folds: int = 5
    """How many folds the cross-validation has."""
    repeats: int = 1
    """How often the cross-validation is repeated, shuffled anew each time."""
    shuffle_seed: int = 0
    """The seed that decides which example is in which fold."""
    larger: tuple[int, int] = (10, 10)
    """The folds and repeats of the larger cross-validation, with one run on each fold."""
    run_dir: Path = Path("runs/sonar")
    """The directory for runs, plots and the page of results."""


TRAIN, TEST, SQUARED, BATCH = 1.0, 0.8413, 0.1371, 5  # the source's F2: accuracies, squared error; rows a step
LOSSES = ("binary cross-entropy", "squared error")
ABOUT = """Rocks and mines: a 60-24-10-1 network with ReLU and one logit, Adam with learning rate 0.001, batches of 5, features as they
    are. The loss is the binary cross-entropy; F2 also trains on the squared error of probabilities, the scale on which the source logs
    0.1371. Scores are those of the last epoch. Splits and folds share examples, so 95% intervals of scores over them are the corrected
    ones of Nadeau and Bengio, unless a table says otherwise."""


def make_task(hp):
    import jax
    import optax

    def squared_error(logits, y):
        return ff.losses.mse(jax.nn.sigmoid(logits), y)

    squares = hp.get("loss") == "squared error"
    metrics = {"accuracy": ff.metrics.binary_accuracy} | ({} if squares else {"squared_error": squared_error})
    loss, penalty = squared_error if squares else ff.losses.binary_crossentropy, ff.penalties.l2(hp.get("l2", 0.0))
    return ff.Task(ff.nn.MLP((hp.get("width", 24), 10), 1), loss, optax.adam(1e-3), metrics=metrics, penalty=penalty)


def main(config: Config) -> None:
    data = ff.data.load("sonar", originals=config.originals).train
    with Page("Sonar: hold-out and cross-validation", config.run_dir, ABOUT) as page:
        illusion(config, page, data)
        held_out = hold_out(config, page, data)
        choose(config, page, data)
        cross_validate(config, page, data, held_out)


def options(config: Config, name: str) -> dict[str, Any]:
    return {"epochs": config.epochs, "batch_size": BATCH, "run_dir": config.run_dir / name, "progress": name}


def illusion(config: Config, page: Page, data: ff.Dataset) -> None:
    for epochs in (config.epochs, config.illusion_epochs):
        how: dict[str, Any] = options(config, f"F1, {epochs} epochs") | {"epochs": epochs}
        scores = ff.fit_many(make_task, None, data, seeds=config.seeds, **how).evaluate(data, "last")["accuracy"]
        claim = f"F1: trained for {epochs} epochs on all rows and scored on the same, the accuracy is 1"
        page.claim("source", claim, bool(scores.min() == 1), ff.statistics.interval(scores))


def hold_out(config: Config, page: Page, data: ff.Dataset) -> ff.CrossValidation:
    """F2: hold-out splits."""
    how: dict[str, Any] = {"repeats": config.splits, "seeds": config.seeds, **options(config, "F2")}
    runs = ff.cross_validate(make_task, data, {"loss": LOSSES}, test=0.3, **how)
    fitted = runs.study.evaluate([data[train] for train, _ in runs.folds], "last")["accuracy"]
    how = {"method": "corrected", "test_ratio": len(runs.folds[0][1]) / len(runs.folds[0][0])}
    shown = {"train accuracy": (fitted, TRAIN), "test accuracy": (runs.scores["accuracy"], TEST)}
    shown["test squared error"] = (runs.scores["squared_error"], SQUARED)
    by_split = {name: scores.reshape(len(LOSSES), config.splits, config.seeds) for name, (scores, _) in shown.items()}
    rows = []
    for name, (_, source) in shown.items():
        for loss, each in zip(LOSSES, by_split[name], strict=True):
            place = 100 * ((each.round(4) < source).mean() + (each.round(4) <= source).mean()) / 2
            spread = [f"{each.mean(1).std(ddof=1):.3f}", f"{np.sqrt(each.var(1, ddof=1).mean()):.3f}" if config.seeds > 1 else None]
            extent = f"{each.min():.3f} to {each.max():.3f}"
            rows.append((name, loss, source, ff.statistics.interval(each.mean(1), **how), *spread, extent, f"{place:.0f}"))
            claim = f"F2: a {name} of {source}, trained on the {loss}, is among the middle 95% of runs"
            same = int((each.round(4) == source).sum())
            page.claim(
                "source", claim, bool(2.5 <= place <= 97.5), f"percentile {place:.0f} of {each.size} runs, {extent}; {same} are at {source}"
            )
    columns = ("score", "trained on", "source", "mean", "sd, splits", "sd, seeds", "least to most", "percentile of the source")
    page.table(f"F2: 30% held out, {config.splits} splits, {config.seeds} runs on each", columns, rows)
    means, compare = by_split["test accuracy"].mean(2), functools.partial(ff.statistics.compare, larger_is_better=True, **how)
    entropy, squares = ({"loss": loss} for loss in LOSSES)
    page.text(f"Which loss: {runs.compare(entropy, squares, 'accuracy')}.")
    page.claim(
        "source", "F2: the training accuracy flatters", compare(means[0], by_split["train accuracy"][0].mean(1), names=("test", "train"))
    )

    figure, (ax,) = ff.plots.panels()
    each, place, color = by_split["test accuracy"][0], np.arange(1, config.splits + 1), ff.plots.PALETTE[0]
    each = each[np.argsort(each.mean(1))]
    ax.plot(place.repeat(config.seeds), each.ravel(), "o", color=color, alpha=0.4, label="a run")
    ax.plot(place, each.mean(1), "_", color=color, markersize=14, label="the split's mean")
    ax.axhline(each.mean(), color=color, label="mean of all")
    ax.axhline(TEST, color=ff.plots.PALETTE[1], linestyle="--", label=f"source, {TEST}")
    ax.set(xlabel="split, in order of its mean", ylabel="test accuracy (share of the 30% held out)")
    ax.locator_params(axis="x", integer=True)
    ax.legend(frameon=False, loc="lower right")
    page.plot("hold_out", figure, "F2: one net, scored on one split after the other")
    return runs


def choose(config: Config, page: Page, data: ff.Dataset) -> None:
    """F3: model selection, and by how much the score of the selected model is too good."""
    parts = []
    for seed in range(config.splits):
        whole = ff.data.split(data, test=0.2, stratified=True, seed=seed, one_row=1.0)
        rest = ff.data.split(whole.train, validation=0.2, stratified=True, seed=seed, one_row=1.0)
        parts.append(ff.data.Splits(rest.train, rest.validation, whole.test))
    page.text(f"F3, the first split, audited:\n```\n{ff.data.leakage(parts[0])}\n```")
    study = ff.fit_many(make_task, {"width": config.widths, "l2": config.l2}, splits=parts, **options(config, "F3"))
    scores = study.scores("val_accuracy", "last"), study.scores("val_binary_crossentropy", "last")
    scores = *scores, study.evaluate([part.test for part in parts], "last")["accuracy"]
    validation, loss, test = (each.reshape(len(study.settings), config.splits).T for each in scores)
    best, split = np.lexsort((loss, -validation))[:, 0], np.arange(config.splits)  # of equal accuracies the smaller loss
    chosen, cheated = test[split, best], test.max(1)
    net = study.settings[best[0]]
    page.text(f"Its validation rows choose {net['width']} units and L2 {net['l2']:g}; scored once, its test accuracy is {chosen[0]:.3f}.")
    by = {"validation": (validation[split, best], chosen), "test": (validation[split, test.argmax(1)], cheated)}
    how = {"method": "corrected", "test_ratio": len(parts[0].test) / len(parts[0].train)}
    rows = [(name, *(ff.statistics.interval(scores, **how) for scores in pair)) for name, pair in by.items()]
    columns = ("chosen by the accuracy on", "its validation accuracy", "its test accuracy")
    page.table(f"F3: the best of {len(study.settings)} nets, {config.splits} splits", columns, rows)
    names = "the test score of what validation rows chose", "their own score of it"
    own = ff.statistics.compare(chosen, validation[split, best], larger_is_better=True, names=names)
    page.claim("source", "F3: rows that choose a net flatter it", own, f"random splits of these 208 rows: {own}")
    more = ff.statistics.interval(cheated - chosen)
    page.text(f"So do test rows that choose: they score what they chose {more} higher than what validation rows chose, by construction.")


def cross_validate(config: Config, page: Page, data: ff.Dataset, held_out: ff.CrossValidation) -> None:
    """F4: k-fold cross-validation beside hold-out, and the mistake of training the same weights from fold to fold."""
    interval, compare = ff.statistics.interval, functools.partial(ff.statistics.compare, larger_is_better=True)
    task, (many, times) = make_task({}), config.larger
    place = options(config, f"F4, shuffled by {config.shuffle_seed}, {config.folds} folds")
    folds = functools.partial(ff.cross_validate, task, data, stratified=True, shuffle_seed=config.shuffle_seed)
    fresh = folds(folds=config.folds, repeats=config.repeats, seeds=config.seeds, **place)
    large = folds(folds=many, repeats=times, **options(config, f"F4, shuffled by {config.shuffle_seed}, {many} folds for one run each"))
    runs = f"means of {config.seeds} runs"
    named = {f"30% held out, {runs}": held_out, f"{config.folds} folds, {config.repeats} times, {runs}": fresh}
    named[f"{many} folds, {times} times, a run each"] = large
    rows = [(name, row.interval, row.interval.sd) for name, found in named.items() for row in found.table("accuracy").rows[:1]]
    page.table("F4: test accuracy, fresh weights in each fold", ("how", "mean (splits or folds)", "sd of these"), rows)

    carried = np.empty((len(fresh.folds), config.seeds))
    for seed in range(config.seeds):
        state = None
        for fold, (train, test) in enumerate(fresh.folds):
            how = {"initial": state, "epochs": config.epochs, "batch_size": BATCH, "seed": seed}
            where = place["run_dir"] / "carried" / f"fold={fold},seed={seed}"
            result = ff.fit(task, data[train], validation=data[test], run_dir=where, **how)
            state, carried[fold, seed] = result.last, result.history["val_accuracy"][-1]
    pair = {"fresh weights": fresh.scores["accuracy"].reshape(carried.shape), "weights of the fold before": carried}
    rows = [(fold + 1, *(interval(scores[fold]) for scores in pair.values())) for fold in range(len(carried))]
    page.table(f"F4: each fold's test accuracy, {config.seeds} runs; Student's intervals over seeds", ("fold", *pair), rows)
    trap = compare(*(scores.mean(0) for scores in pair.values()), names=[*pair])
    page.claim("source", "F4: without fresh weights the score flatters: they have seen the fold's rows", trap)

    draws = [ff.cross_validate(task, data, test=p, repeats=config.splits, **options(config, f"F4, {p:g} held out")) for p in config.shares]
    shares = np.array([runs.scores["accuracy"] for runs in draws])
    rows = [
        (f"{100 * p:g}%", interval(s), s.std(ddof=1), f"{s.min():.3f} to {s.max():.3f}") for p, s in zip(config.shares, shares, strict=True)
    ]
    title = f"Hold-out of {config.splits} splits, one run each; Student's intervals"
    page.table(title, ("held out", "test accuracy", "sd, splits", "least to most"), rows)
    for claim, values in (
        ("so few rows that the share held out changes the mean score", shares),
        ("so few rows that it changes how far a split's score strays: use k-fold there", -np.abs(shares - np.median(shares, 1)[:, None])),
    ):
        ends = compare(values[-1], values[0], names=[f"holding out {100 * config.shares[i]:g}%" for i in (-1, 0)])
        page.claim("source", claim, None if held(ends) is None else True, ends)

    figure, (left, right) = ff.plots.panels(2, sharey=True)
    blue, orange, green, pink = ff.plots.PALETTE[:4]
    percent = 100 * np.array(config.shares)
    left.plot(percent.repeat(config.splits), shares.ravel(), "o", color=blue, alpha=0.3, label="a split")
    left.plot(percent, shares.mean(1), "o-", color=blue, label="mean of splits")
    left.axhline(large.scores["accuracy"].mean(), color=pink, linestyle="--", label=f"{many}-fold, {times} times")
    left.set(xlabel="rows held out (%)", ylabel="test accuracy (share of rows)", xticks=percent)
    for (name, scores), color, style in zip(pair.items(), (green, orange), ("o-", "s--"), strict=True):
        bars = [(interval(fold).high - interval(fold).low) / 2 for fold in scores]
        right.errorbar(range(1, len(scores) + 1), scores.mean(1), bars, fmt=style, capsize=3, color=color, label=name)
    right.set(xlabel="fold", xticks=range(1, len(carried) + 1, max(1, len(carried) // 10)))
    for ax in (left, right):
        ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    page.plot("folds", figure, "Left: hold-out by its share. Right: folds with and without fresh weights, mean and 95% interval over seeds")


if __name__ == "__main__":
    script(main, Config, __doc__)
