"""Trains a network on MNIST by each pair of an optimizer and an activation.

It takes 3 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import batch_norm_net
import numpy as np
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    seeds: int = 8
    """How many runs of each pair. A seed decides the initial weights, the batches and dropout."""
    first_seed: int = 4_000
    """The first of the seeds. The others follow it."""
    epochs: int = 5
    """How many epochs to train each run."""
    run_dir: Path = Path("runs/optimizer_pairs")
    """The directory for runs and the page of results."""


OPTIMIZERS, ACTIVATIONS = ("SGD", "RMSprop", "Adam"), ("relu", "tanh", "sigmoid")
ABOUT = """784-50-50-10 with batch norm and dropout 0.1 after each hidden activation, in batches of 100, for 5 epochs on 60,000 images,
    scored on the 10,000 test images. Optimizers have Keras's defaults: SGD without momentum at 0.01, RMSprop and Adam at 0.001. The source
    loops over such pairs; which ones, and what it found, is not in it."""


def make_task(hp):
    import optax

    optimizers = {
        "SGD": optax.sgd(1e-2),
        "RMSprop": optax.rmsprop(1e-3, decay=0.9, eps=1e-7, eps_in_sqrt=False),
        "Adam": optax.adam(1e-3, eps=1e-7),
    }
    return batch_norm_net.task(0.1, activation=hp["activation"], optimizer=optimizers[hp["optimizer"]])


def main(config: Config) -> None:
    splits = ff.data.load("mnist", originals=config.originals)
    assert splits.test is not None
    with Page("MNIST: pairs of optimizer and activation", config.run_dir, ABOUT) as page:
        places = [*product(OPTIMIZERS, ACTIVATIONS)]
        grid = [{"optimizer": optimizer, "activation": activation} for optimizer, activation in places]
        where = config.run_dir / f"{config.epochs} epochs, from seed {config.first_seed}"
        how = {"seeds": config.every_seed, "epochs": config.epochs, "batch_size": 100, "progress": "pairs"}
        scores = 100 * ff.fit_many(make_task, grid, splits.train, run_dir=where, **how).evaluate(splits.test, "last")["accuracy"]
        test = dict(zip(places, scores.reshape(len(places), -1), strict=True))
        rows = [(optimizer, *(interval(test[optimizer, activation]) for activation in ACTIVATIONS)) for optimizer in OPTIMIZERS]
        page.table(f"Test accuracy after {config.epochs} epochs, percent", ("optimizer", *ACTIVATIONS), rows)

        source = "Adam", "relu"
        against = {pair: compare(test[pair], test[source], larger_is_better=True) for pair in places if pair != source}
        rival = min(against, key=lambda pair: against[pair].difference.mean)
        better = sum(each.verdict == "better" for each in against.values())
        statistic = f"shown better than {better} of {len(against)}; minus {' with '.join(rival)}: {against[rival].difference} points"
        page.claim("ours", "Adam with ReLU, the pair of the source's other runs, is better than each other", [*against.values()], statistic)
        table = scores.reshape(len(OPTIMIZERS), len(ACTIVATIONS), -1)
        spans = [np.ptp(table.mean(axis), axis=0) for axis in (0, 1)]  # of activations, of optimizers: best minus worst mean
        pair = compare(*spans, larger_is_better=True, names=("activations", "optimizers"))
        page.claim(
            "ours", "the choice of optimizer matters more than that of activation: its best mean is further from its worst one", pair
        )


if __name__ == "__main__":
    script(main, Config, __doc__)
