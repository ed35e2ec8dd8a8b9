"""Trains on 300 images of MNIST, which a deep network memorizes, and tries weight decay, dropout and ensembles against that.

It follows "Deep learning from scratch". The network 784-(100 x 6)-10 is trained by plain SGD for 201 epochs of 3 steps: plain, with
weight decay, with dropout, and with L1, L-infinity, max-norm and shifted images, which the source only names. After that, plain networks
are averaged in ensembles of five, and dropout is compared with an ensemble. Expect an accuracy of 100% on the training images and 76% on
the test images for the plain network from about epoch 100 on, and about 5 minutes for everything on 2 cores.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from options import WithOriginals
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals):
    """Options."""

    seeds: int = 5
    """How many runs of each network, with the seeds 0, 1, ... A seed decides the initial weights, the batches and dropout."""
    ensembles: int = 5
    """How many ensembles of five plain networks. No network is in two of them, so each needs five runs of the plain network."""
    epochs: int = 201
    """How many epochs of 3 steps to train each run."""
    thinned: int = 50
    """How many random dropout masks are averaged."""
    test: int = 10_000
    """How many of the 10,000 test images to use. Evaluating them after each epoch takes most of the time."""
    run_dir: Path = Path("runs/mnist_few_samples")
    """The directory for runs, tables and plots. The same command resumes what was stopped, also with more seeds."""


TRAIN, BATCH, RATE, DROPOUT, MEMBERS = 300, 100, 0.01, 0.2, 5


def main(config: Config) -> None:
    import jax

    splits = ff.data.load("mnist", originals=config.originals, test=config.test)
    train, test = splits.train[:TRAIN], splits.test
    variants = variants_by_name()
    plain, decay, dropout, *others, classic = variants
    colors = dict(zip(variants, ff.plots.PALETTE, strict=False))
    options = {"epochs": config.epochs, "batch_size": BATCH, "replacement": True}
    grid, interval = [{"net": name} for name in variants], ff.statistics.interval
    about = f"""784-(100 x 6)-10 networks with He initialization, trained on the first {TRAIN} images of MNIST by SGD (learning rate
        {RATE}, batches of {BATCH} drawn with replacement, {config.epochs} epochs of {TRAIN // BATCH} steps) and tested on
        {len(test):,}. Numbers are means over seeds with 95% intervals. As in the source, both accuracies are computed after each epoch,
        with dropout off. Images are shifted by up to 2 pixels."""
    with Page("MNIST from 300 images", config.run_dir, about) as page:
        tested = ff.fit_many(
            make_task, grid, train, validation=test, seeds=config.seeds, run_dir=config.run_dir, progress="nets", **options
        )
        where = config.run_dir / "scored_on_training_rows"  # the same runs again, for their training accuracy after each epoch
        learned = ff.fit_many(make_task, grid, train, validation=train, seeds=config.seeds, run_dir=where, progress="again", **options)

        nets = np.array([member.setting["net"] for member in tested.members])
        curves = [100 * np.array([result.history["val_accuracy"] for result in study.results]) for study in (learned, tested)]
        fitted, scored = (curve[:, -1] for curve in curves)
        full = np.array([next(iter(np.flatnonzero(curve == 100) + 1.0), np.nan) for curve in curves[0]])
        scores = (fitted, scored, fitted - scored, tested.scores("kernel_l1", "last"))
        intervals = [[row.interval for row in tested.table(each).rows] for each in scores]
        changes = [tested.compare({"net": plain}, {"net": name}, scored, mode="max").difference for name in variants]
        reached = [row.interval for row in tested.table(full).rows]
        rows = zip(variants, *intervals, [None, *changes[1:]], [epoch if epoch.count else "never" for epoch in reached], strict=True)
        columns = ("net", "train, %", "test, %", "gap, points", "sum of |w|", "test against plain, points", "first epoch at 100%")
        page.table("After the last epoch", columns, rows)
        page.text("A narrower gap alone is no better net: see test against plain. In brackets: runs.")

        missed, gap = int(np.isnan(full[nets == plain]).sum()), interval((fitted - scored)[nets == plain])
        claim, near = "the plain net reaches 100% of the training rows after about epoch 100 (within 25)", within(reached[0], 75, 125)
        text = f"{missed} runs did not reach it" if missed else f"first epoch {reached[0]}"
        page.claim("source", claim, False if missed else near, text)
        page.claim("source", "a wide gap to test is left (over 10 points)", within(gap, 10, np.inf), f"gap {gap} points")
        for name in (decay, dropout, *others, classic):
            narrower = tested.compare({"net": plain}, {"net": name}, fitted - scored, mode="min")
            page.claim("source", f"with {name} the gap narrows", narrower, f"gap {narrower.difference} points, p {narrower.p_value:.2g}")
        for name in (decay, dropout):
            most = interval(curves[0].max(1)[nets == name])
            page.claim("source", f"with {name} train stays under 100%", within(most, -np.inf, 99.999), f"a run's highest {most} %")
        first = {name: list(nets).index(name) for name in variants}
        accuracies = {n: ff.History({"accuracy": curves[0][i] / 100, "val_accuracy": curves[1][i] / 100}) for n, i in first.items()}
        for file, names in (("accuracy", (plain, decay, dropout)), ("accuracy_others", (*others, plain))):
            title = f"MNIST, {TRAIN} rows to train: accuracy of the runs with seed 0"
            figure = ff.plots.learning_curves({n: accuracies[n] for n in names}, "accuracy", ylim=(0, 1.02), colors=colors, title=title)
            page.plot(file, figure, "Accuracy on the training rows and on the test rows (dashed) after each epoch, dropout off, seed 0")
        norms = {name: tested.results[first[name]].history for name in (*others, dropout, decay, plain)}
        figure = ff.plots.weight_norms(norms, colors=colors, title=f"MNIST, {TRAIN} rows to train: size of the weights, seed 0")
        page.plot("norms", figure, "Norms of the kernels, seed 0")

        where = {"run_dir": config.run_dir, "progress": "plain nets"}
        many = ff.fit_many(make_task, [{"net": plain}], train, validation=test, seeds=MEMBERS * config.ensembles, **where, **options)
        pairs = [(member.task, result.last) for member, result in zip(many.members, many.results, strict=True)]
        alone, rows, gains = 100 * many.scores("val_accuracy", "last"), [], []
        for start in range(0, len(pairs), MEMBERS):
            group, together = alone[start : start + MEMBERS], ff.ensemble(pairs[start : start + MEMBERS])
            score = 100 * ff.evaluate(together.task, together.state, test)["accuracy"]
            gains.append(score - group.mean())
            cells = (f"{value:.2f}" for value in (group.mean(), group.max(), score, gains[-1]))
            rows.append((f"{start} to {start + MEMBERS - 1}", *cells))
        columns = ("seeds", "members' mean test accuracy, %", "best member, %", "ensemble, %", "gain over the mean, points")
        page.table("Ensembles of five plain nets, mean of probabilities", columns, rows)
        gain = interval(gains)
        page.claim("source", "an ensemble of five nets gains some percent (1 to 10 points)", within(gain, 1, 10), f"gain {gain} points")

        runs = tested.select(net=dropout)
        task, rows = runs.members[0].task, []

        @jax.jit
        def thinned(params, x, keys):
            """The probabilities of nets with a mask drawn, shape (draws, rows, classes)."""
            return jax.lax.map(lambda key: jax.nn.softmax(task.apply(params, {}, task.prepared(x), {"dropout": key})[0]), keys)

        for member, result in zip(runs.members, runs.results, strict=True):
            draws = thinned(result.last.params, test.x, jax.random.split(jax.random.key(member.seed), config.thinned))
            off = ff.predict(task, result.last, test.x)
            rows.append([100 * float(np.mean(p.argmax(-1) == test.y)) for p in (draws[0], draws.mean(0), off)])
        single, mean, off = map(np.array, zip(*rows, strict=True))
        names = ("one thinned net", f"mean of {config.thinned} thinned nets", "dropout off")
        cells = [(name, interval(scores)) for name, scores in zip(names, (single, mean, off), strict=True)]
        page.table(f"Nets trained with {dropout}", ("test with", "test, %"), cells)
        one, all_ = (ff.statistics.compare(rival, off, larger_is_better=True) for rival in (single, mean))
        text = f"off less one {one.difference} points, p {one.p_value:.2g}; off less the mean of {config.thinned} {all_.difference} points"
        page.claim("source", "dropout is an implicit ensemble: with it off the net scores as many thinned nets do, not as one", one, text)


def variants_by_name() -> dict[str, dict[str, Any]]:
    return {
        "plain": {},
        "weight decay 0.1": {"penalty": ff.penalties.l2(0.1 / 2)},  # 0.1 / 2 * sum w^2
        f"dropout {DROPOUT}": {"dropout": DROPOUT},
        "L1 0.005": {"penalty": ff.penalties.l1(0.005)},
        "L-infinity 1": {"penalty": ff.penalties.linf(1.0)},
        "max-norm 1.2": {"constraint": ff.constraints.max_norm(1.2)},  # units start at norms around 1.4
        "shifted images": {"augment": ff.augmentation.random_translation(2 / 28, 2 / 28)},
        f"classic dropout {DROPOUT}": {"classic": True},
    }


def make_task(hp) -> ff.Task:
    import optax

    how = dict(variants_by_name()[hp["net"]])
    net = ff.nn.MLP((100,) * 6, 10, dropout=how.pop("dropout", 0.0), initializer="he_normal")
    return ff.Task(
        model=classic_dropout() if how.pop("classic", False) else net,
        loss=ff.losses.categorical_crossentropy,
        metrics={"accuracy": ff.metrics.categorical_accuracy},
        optimizer=optax.sgd(RATE),
        preprocess=ff.data.rescale(255),
        **how,
    )


@functools.cache
def classic_dropout():
    """The network of the source. Its dropout scales activations down in evaluation; inverted dropout scales them up in training instead."""
    import flax.linen as nn
    import jax

    class Classic(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x, keep = x.reshape(len(x), -1), 1 - DROPOUT
            for _ in range(6):
                x = nn.relu(nn.Dense(100, kernel_init=nn.initializers.he_normal())(x))
                x = x * (jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape) if train else keep)
            return nn.Dense(10, kernel_init=nn.initializers.he_normal())(x)

    return Classic()


if __name__ == "__main__":
    script(main, Config, __doc__)
