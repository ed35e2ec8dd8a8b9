"""MNIST from 300 images: a deep net learns them by heart; weight decay, dropout and ensembles against it ("Deep learning from scratch").

Trains 784-(100 x 6)-10 with plain SGD for 201 epochs of 3 steps: plain, with weight decay, with dropout, and with L1, L-infinity and
max-norm, which the source only names. Then averages plain nets five by five, and shows dropout to be an ensemble of a kind. Expect 100%
of the training rows and 76% of the test rows for the plain net from about epoch 100 on, and about 3 minutes for everything on 2 cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    seeds: int = 5
    """Runs of each net: seeds 0, 1, ... decide weights, batches and dropout."""
    ensembles: int = 5
    """Ensembles of five plain nets, no net in two of them; they need five runs of the plain net each."""
    epochs: int = 201
    """Epochs of each run, of 3 steps each."""
    thinned: int = 50
    """Draws of dropout's mask that are averaged."""
    test: int = 10_000
    """Test rows, the first of 10,000. Scoring them after each epoch is most of the time."""
    run_dir: Path = Path("runs/mnist_few_samples")
    """Where runs, tables and plots go. The same command goes on where it stopped; seeds may be added."""
    originals: Path | None = None
    """Directory of original data files, searched before the network; by default what FLAXFIT_ORIGINALS names."""


TRAIN, BATCH, RATE, DROPOUT, MEMBERS = 300, 100, 0.01, 0.2, 5


def main(config: Config) -> None:
    import jax
    import optax

    splits = ff.data.load("mnist", originals=config.originals, test=config.test)
    train, test = splits.train[:TRAIN], splits.test
    interval, compare = ff.statistics.interval, ff.statistics.compare
    variants = {
        "plain": {},
        "weight decay 0.1": {"penalty": ff.penalties.l2(0.1 / 2)},  # 0.1 / 2 * sum w^2
        f"dropout {DROPOUT}": {"dropout": DROPOUT},
        "L1 0.005": {"penalty": ff.penalties.l1(0.005)},
        "L-infinity 1": {"penalty": ff.penalties.linf(1.0)},
        "max-norm 1.2": {"constraint": ff.constraints.max_norm(1.2)},  # units start at norms around 1.4
    }
    plain, decay, dropout, *others = variants
    colors = dict(zip(variants, ff.plots.PALETTE, strict=False))

    def make_task(hp) -> ff.Task:
        how = variants[hp["net"]]
        return ff.Task(
            model=ff.nn.MLP((100,) * 6, 10, dropout=how.get("dropout", 0.0), initializer="he_normal"),
            loss=ff.losses.categorical_crossentropy,
            metrics={"accuracy": ff.metrics.categorical_accuracy},
            optimizer=optax.sgd(RATE),
            preprocess=ff.data.rescale(255),
            penalty=how.get("penalty"),
            constraint=how.get("constraint"),
        )

    options = {"validation": test, "epochs": config.epochs, "batch_size": BATCH, "replacement": True, "run_dir": config.run_dir}
    about = f"""Nets 784-(100 x 6)-10 trained on the first {TRAIN} images of MNIST by SGD (rate {RATE}, batches of {BATCH} drawn with
        replacement, {config.epochs} epochs of {TRAIN // BATCH} steps), tested on {len(test):,}; means over seeds with 95% intervals."""
    with ff.Page("MNIST from 300 images", config.run_dir, about) as page:
        study = ff.fit_many(make_task, [{"net": name} for name in variants], train, seeds=config.seeds, progress="nets", **options)
        many = ff.fit_many(make_task, [{"net": plain}], train, seeds=MEMBERS * config.ensembles, progress="plain nets", **options)

        nets = np.array([member.setting["net"] for member in study.members])
        learnt, tested = 100 * study.evaluate(train, "last")["accuracy"], 100 * study.scores("val_accuracy", "last")
        full = np.array([next(iter(np.flatnonzero(result.history["accuracy"] == 1) + 1), np.nan) for result in study.results])
        scores = (learnt, tested, learnt - tested, study.scores("kernel_l1", "last"))
        intervals = [[row.interval for row in study.table(each).rows] for each in scores]
        changes = [study.compare({"net": plain}, {"net": name}, tested, larger_is_better=True).difference for name in variants]
        reached = [row.interval for row in study.table(full).rows]
        rows = zip(variants, *intervals, [None, *changes[1:]], [epoch if epoch.count else "never" for epoch in reached], strict=True)
        columns = ("net", "train, %", "test, %", "gap, points", "sum of |w|", "test against plain, points", "first epoch at 100%")
        page.table("After the last epoch", columns, rows)
        page.text(
            "Train is the accuracy on all 300 rows after training, dropout off, as in the source. The first epoch at 100% is by the "
            "running mean while training, over the 300 rows drawn in the epoch, dropout on. A narrower gap alone is no better net: see "
            "test against plain. In brackets: runs."
        )

        missed, gap = int(np.isnan(full[nets == plain]).sum()), interval((learnt - tested)[nets == plain])
        late, claim = reached[0], "the plain net reaches 100% of the training rows after about epoch 100 (within 25 epochs)"
        held = False if missed else late.within(75, 125)
        page.claim(claim, held, f"{missed} runs did not reach it" if missed else f"first epoch {late}")
        page.claim("a wide gap to test is left (over 10 points)", gap.within(10, np.inf), f"gap {gap} points")
        for name in (decay, dropout):
            narrower = study.compare({"net": plain}, {"net": name}, learnt - tested, larger_is_better=False)
            page.claim(f"with {name} the gap narrows", narrower.held, f"gap {narrower.difference} points, p {narrower.p_value:.2g}")
            rate = interval(learnt[nets == name])
            page.claim(f"with {name} train stays under 100%", rate.within(-np.inf, 99.999), f"train {rate} %")
        histories = {name: study.select(net=name).results[0].history for name in variants}
        for file, names in (("accuracy", (plain, decay, dropout)), ("accuracy_others", (plain, *others))):
            title = f"MNIST, {TRAIN} rows to train: accuracy of the runs with seed 0"
            figure = ff.plots.learning_curves({n: histories[n] for n in names}, "accuracy", ylim=(0, 1.02), colors=colors, title=title)
            page.plot(file, figure, "Accuracy while training (running mean, dropout on) and on the test rows (dashed), seed 0")
        page.plot("norms", ff.plots.weight_norms(histories, colors=colors), "Norms of the kernels, seed 0")

        pairs = [(member.task, result.last) for member, result in zip(many.members, many.results, strict=True)]
        alone, rows, gains = 100 * many.scores("val_accuracy", "last"), [], []
        for first in range(0, len(pairs), MEMBERS):
            group, together = alone[first : first + MEMBERS], ff.ensemble(pairs[first : first + MEMBERS])
            score = 100 * ff.evaluate(together.task, together.state, test)["accuracy"]
            gains.append(score - group.mean())
            cells = (f"{value:.2f}" for value in (group.mean(), group.max(), score, gains[-1]))
            rows.append((f"{first} to {first + MEMBERS - 1}", *cells))
        page.table(
            "Ensembles of five plain nets, mean of probabilities",
            ("seeds", "members' mean test accuracy, %", "best member, %", "ensemble, %", "gain over the mean, points"),
            rows,
        )
        gain = interval(gains)
        page.claim("an ensemble of five nets gains some percent (1 to 10 points)", gain.within(1, 10), f"gain {gain} points")

        runs = study.select(net=dropout)
        task, rows, differences = runs.members[0].task, [], []

        @jax.jit
        def thinned(params, x, keys):
            """The probabilities of nets with a mask drawn, shape (draws, rows, classes)."""
            return jax.lax.map(lambda key: jax.nn.softmax(task.apply(params, {}, task.prepared(x), {"dropout": key})[0]), keys)

        for member, result in zip(runs.members, runs.results, strict=True):
            draws = thinned(result.last.params, test.x, jax.random.split(jax.random.key(member.seed), config.thinned))
            off = ff.predict(task, result.last, test.x)
            rows.append([100 * float(np.mean(p.argmax(-1) == test.y)) for p in (draws[0], draws.mean(0), off)])
            differences.append(abs(classic(result.last.params, test.x) - off).max() / abs(off).max())
        single, mean, off = map(np.array, zip(*rows, strict=True))
        names = ("one thinned net", f"mean of {config.thinned} thinned nets", "dropout off")
        cells = [(name, interval(scores)) for name, scores in zip(names, (single, mean, off), strict=True)]
        page.table(f"Nets trained with dropout {DROPOUT}", ("test with", "test, %"), cells)
        one, all_ = compare(single, off, larger_is_better=True), compare(mean, off, larger_is_better=True)
        text = f"off less one {one.difference} points, p {one.p_value:.2g}; off less the mean of {config.thinned} {all_.difference} points"
        page.claim("dropout is an implicit ensemble: with it off the net scores as many thinned nets do, not as one", one.held, text)
        page.claim(
            "the classic form of dropout (activations scaled at test time) and the inverted one (at training time) predict the same",
            max(differences) < 1e-4,
            f"largest difference {max(differences):.1e} of the largest logit",
        )


def classic(params, x):
    """Logits by dropout's classic form: trained on unscaled activations its later kernels are larger, so tests scale activations down."""
    x, keep = x.reshape(len(x), -1).astype(np.float32) / 255, 1 - DROPOUT
    for index in range(len(params)):
        layer = params[f"Dense_{index}"]
        kernel = np.asarray(layer["kernel"]) / (keep if index else 1)
        x = x @ kernel + np.asarray(layer["bias"])
        x = x if index == len(params) - 1 else keep * np.maximum(x, 0)
    return x


if __name__ == "__main__":
    script(main, Config, __doc__)
