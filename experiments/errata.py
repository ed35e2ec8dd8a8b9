"""Shows what the notes say of overfitting that is not so, each by runs of a few seconds on small samples of digits.

It takes a minute on 2 cores. If Keras is installed, its numbers stand beside ours. Film reviews are downloaded when first needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from drawing import band
from options import WithOriginals, WithSeeds, if_installed
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    run_dir: Path = Path("runs/errata")
    """The directory for plots and the page of results."""


RATE, WEIGHT, ROWS, LOSS = 0.2, 0.005, 300, "categorical_crossentropy"  # dropout rate, L2 weight, training rows
ABOUT = f"""Statements of the notes that are not so. Each is taken at its word and tested by short runs: a 64-64-10 network with ReLU on
    {ROWS} of scikit-learn's digits in batches of 30, tested on the others; for `accuracy` the same network with one logit that tells odd
    digits from even ones. Data losses are cross-entropies. One more is an oversight that needs no run: a script uses `NUM_WORDS`
    without a line that defines it, so that Python ends it with a `NameError`; the notebook of 2019 has 10,000."""


def main(config: Config) -> None:
    digits = ff.data.load("digits", train=ROWS, test=1_797 - ROWS)
    reviews = ff.data.load("imdb", vocabulary=2_000, originals=config.originals).train
    how: dict[str, Any] = {"seeds": config.every_seed, "epochs": 30, "batch_size": 30}
    with Page("Errata: what the notes say that is not so", config.run_dir, ABOUT) as page:
        figure, axes = ff.plots.panels(3, size=(11, 4))
        dropout(page, digits, how, axes[0])
        penalty(page, digits, how, axes[1])
        decay(page, digits, how, axes[2])
        accuracy(page, digits, how)
        words(page, reviews)
        for ax in axes[1:]:
            ax.legend(frameon=False)
        page.plot("errata", figure, "Left: a dot is a run. Middle: means of runs with 95% intervals. Right: a dot is a weight")


def task(model: Any, optimizer: Any = None, loss: str = LOSS, **options: Any) -> ff.Task:
    import optax

    return ff.Task(model, getattr(ff.losses, loss), optimizer or optax.adam(1e-2), preprocess=ff.data.rescale(16), **options)


def same(differences: Any, name: str) -> tuple[bool, str]:
    least, most = (f"{end(differences):.3g}" for end in (np.min, np.max))
    return bool(np.abs(differences).max() < 1e-6), f"{name}: {least}" + ("" if least == most else f" to {most}")


def dropout(page: Page, digits: ff.data.Splits, how: dict[str, Any], ax: Any) -> None:
    import flax.linen as nn
    import jax

    class Classic(nn.Module):  # drops while training, scales by a factor at test time
        factor: float

        @nn.compact
        def __call__(self, x, *, train):
            h = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
            return nn.Dense(10)(h * (jax.random.bernoulli(self.make_rng("dropout"), 1 - RATE, h.shape) if train else self.factor))

    tasks = {name: task(Classic(factor)) for name, factor in (("kept share", 1 - RATE), ("dropped share", RATE), ("none", 1.0))}
    runs = ff.fit_many(tasks["none"], None, digits.train, **how).results
    scores = {name: np.array([ff.evaluate(each, run.last, digits.test)[LOSS] for run in runs]) for name, each in tasks.items()}
    claim = "at test time dropout scales by the dropped share: the test cross-entropy is lower than with the kept share"
    better = ff.statistics.compare(*[*scores.values()][:2])
    found = ", ".join(f"{name}: {ff.statistics.interval(score)}" for name, score in scores.items())
    page.claim("source", claim, better, f"p {better.p_value:.2g}; {found}")
    ax.plot(np.repeat([*tasks], len(runs)), np.concatenate([*scores.values()]), "o", alpha=0.4, color=ff.plots.PALETTE[0])
    ax.set(xlabel="factor at test time", ylabel="test cross-entropy (nats a row)")


def penalty(page: Page, digits: ff.data.Splits, how: dict[str, Any], ax: Any) -> None:
    net = task(ff.nn.MLP((64,), 10), penalty=ff.penalties.l2(WEIGHT))
    runs = ff.fit_many(net, None, digits.train, validation=digits.test, **how).results
    loss, val_loss, val_data = (np.array([run.history[name] for run in runs]).T for name in ("loss", "val_loss", f"val_{LOSS}"))
    page.claim("source", "a penalty is added while training only: `val_loss` is the data loss", *same(val_loss - val_data, "difference"))
    test = ff.statistics.compare(loss[-1], val_loss[-1], names=("the training loss", "the test loss"))
    page.claim("source", "with a penalty the training loss is larger than the test loss", test)
    if keras := if_installed("keras"):
        hidden = keras.layers.Dense(64, "relu", kernel_regularizer=keras.regularizers.L2(WEIGHT))
        model = keras.Sequential([keras.layers.Flatten(), hidden, keras.layers.Dense(10)])
        data, logged = (kind.SparseCategoricalCrossentropy(from_logits=True) for kind in (keras.losses, keras.metrics))
        model.compile("adam", data, metrics=[logged])
        found = model.evaluate(digits.test.x / 16, digits.test.y, verbose=0)
        page.claim("source", "the same in Keras: the loss of `evaluate` is the data loss", *same(found[0] - found[1], "difference"))
    for color, (name, runs) in enumerate({"val_loss": val_loss, "its data loss": val_data, "training loss": loss}.items()):
        band(ax, range(1, len(loss) + 1), runs, name, color)
    ax.set(xlabel="epoch", ylabel="loss (nats a row)")


def decay(page: Page, digits: ff.data.Splits, how: dict[str, Any], ax: Any) -> None:
    import optax

    def make_task(hp):
        adam, l2 = hp["optimizer"] == "Adam", hp["how"] == "L2"
        shrunk = optax.add_decayed_weights(0.0 if l2 else 2 * WEIGHT, ff.masks.kernels)  # the gradient of WEIGHT * w^2
        steps = optax.scale_by_adam() if adam else optax.identity(), shrunk, optax.scale_by_learning_rate(1e-2 if adam else 0.1)
        return task(ff.nn.MLP((64,), 10), optax.chain(*steps), penalty=ff.penalties.l2(WEIGHT) if l2 else None)

    for color, name in enumerate(("Adam", "SGD")):
        study = ff.fit_many(make_task, [{"optimizer": name, "how": kind} for kind in ("L2", "decay")], digits.train, **how)
        l2, decayed = np.reshape([run.last.params["Dense_0"]["kernel"] for run in study.results], (2, len(how["seeds"]), -1))
        apart = np.linalg.norm(decayed - l2, axis=1) / np.linalg.norm(l2, axis=1)
        norms = (ff.statistics.interval(np.linalg.norm(each, axis=1)) for each in (l2, decayed))
        statistic = f"they differ by {apart.max():.2g} of their norm at most: {next(norms)} with L2, {next(norms)} with decay"
        claim = f"weight decay is the same as L2, under {name}: in each run the hidden weights differ by less than 0.1%"
        page.claim("source", claim, bool(apart.max() < 1e-3), statistic)
        ax.plot(l2[0], decayed[0], "o", markersize=3, alpha=0.4, color=ff.plots.PALETTE[color], label=name)
    ax.set(xlabel=f"a weight with L2 {WEIGHT} (first seed)", ylabel="the same weight with decay")


def accuracy(page: Page, digits: ff.data.Splits, how: dict[str, Any]) -> None:
    train, odd = ff.Dataset(digits.train.x, digits.train.y % 2), digits.test.y % 2
    net = task(ff.nn.MLP((64,), 1), loss="binary_crossentropy")
    logits = np.stack(ff.fit_many(net, None, train, **how).predict(digits.test.x, "last"))[..., 0]
    at = {f"logit > {threshold:g}": ((logits > threshold) == odd).mean(1) for threshold in (0, 0.5)}
    if keras := if_installed("keras"):
        at["Keras's binary_accuracy"] = np.array([np.mean(keras.metrics.binary_accuracy(odd, row)) for row in logits])
    said, statistic = same(at["logit > 0.5"] - at["logit > 0"], "of a run, at 0.5 minus at 0")
    statistic = "; ".join([*(f"{name}: {ff.statistics.interval(shares)}" for name, shares in at.items()), statistic])
    page.claim("source", "`accuracy` on logits, at 0.5, is the share of right classes", said, statistic)


def words(page: Page, reviews: ff.Dataset) -> None:
    columns = np.zeros((len(reviews), 100), bool)  # Keras's: 0 padding, 1 start, 2 out of vocabulary, 3 unused, then the word of rank 1
    columns[:, 4:], columns[:, 1], columns[:, 2] = reviews.x[:, :96], True, reviews.x[:, 96:].any(1)
    others = columns[:, :4].mean(0)
    statistic = f"96 are words; the means of the other columns are {', '.join(map('{:g}'.format, others))}"
    page.claim("source", "the 100 columns of a review are 100 words", bool(np.all(others % 1)), statistic)


if __name__ == "__main__":
    script(main, Config, __doc__)
