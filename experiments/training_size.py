"""Shows what more training examples do to the score, to the gap and to the onset of overfitting, on sonar and on MNIST.

Each run takes as many steps whatever the number of examples. MNIST is trained on 300 to 60,000 images and on sets of 1,000 with dropout and
L2, sonar on 20 to 160 rows. It takes 9 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from options import WithOriginals, WithSeeds
from pages import Page
from sizes import measured, remedies, sweep

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 8_000
    """The first of the seeds. The others follow it."""
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


FEW = 1_000
REMEDIES: dict[str, dict[str, Any]] = {"plain": {}} | {f"dropout {rate}": {"dropout": rate} for rate in (0.2, 0.5, 0.8)}
REMEDIES |= {f"L2 {weight:g}": {"l2": weight} for weight in (1e-5, 1e-4, 1e-3)} | {f"translation {n}": {"shift": n} for n in (1, 2, 3)}
BATCH = {"MNIST": 100, "sonar": 5}
ABOUT = """MNIST: 784-50-10 with ReLU, Adam with learning rate 0.001, batches of 100, 6,000 steps, tested on its 10,000 test images. Sonar:
    the 60-24-10-1 network, batches of 5, 3,000 steps, tested on 48 rows that never train. Each seed draws the training examples; its larger
    sets hold its smaller ones. The gap is test loss minus training loss, both after the last step. The onset of overfitting is the step
    with the least test loss, which is looked at 60 times at most. Intervals of sonar are the corrected ones of Nadeau and Bengio, because
    its splits share rows. The law is error = a + b rows^-c, fitted to logarithms of the mean test errors. Remedies have three strengths
    (translation of the images: pixels); claims are about that with the highest mean test accuracy, which favors the remedy."""


def make_task(name: str, dropout: float = 0.0, l2: float = 0.0, shift: int = 0) -> ff.Task:
    import optax

    penalty = ff.penalties.l2(l2) if l2 else None
    adam = optax.adam(1e-3, eps=1e-7)
    if name == "sonar":
        metrics = {"accuracy": ff.metrics.binary_accuracy}
        return ff.Task(ff.nn.MLP((24, 10), 1), ff.losses.binary_crossentropy, adam, metrics=metrics)
    how: dict[str, Any] = {"metrics": {"accuracy": ff.metrics.categorical_accuracy}, "preprocess": ff.data.rescale(), "penalty": penalty}
    how["augment"] = ff.augmentation.random_translation(shift / 28, shift / 28) if shift else None
    return ff.Task(ff.nn.MLP((50,), 10, dropout=dropout), ff.losses.categorical_crossentropy, adam, **how)


def main(config: Config) -> None:
    sets = {name: ff.data.load(name.lower(), originals=config.originals) for name in ("MNIST", "sonar")}
    with Page("Training-set size", config.run_dir, ABOUT) as page:
        for name, data in sets.items():
            steps = config.steps // (1 if name == "MNIST" else 2)

            def trained(rows: int, seed: int, remedy: str, name=name, data=data, steps=steps) -> list[Any]:
                order = np.random.default_rng(seed).permutation(len(data.train))
                train, test = data.train[order[:rows]], data.test or data.train[order[-48:]]
                where = config.run_dir / f"{name}, {config.steps} steps" / f"{remedy}, {rows} rows, seed {seed}"
                return measured(make_task(name, **REMEDIES[remedy]), train, test, steps, BATCH[name], seed, 60, where)

            if name == "sonar":
                seeds = range(config.first_seed, config.first_seed + 4 * config.seeds)
                sweep(page, name, config.sonar, seeds, trained, (0, len(config.sonar) - 1), 48 / 160)
            else:
                sweep(page, name, config.mnist, config.every_seed, trained, foretold=(10_000, 0.2))
                remedies(page, name, FEW, 10 * FEW, config.every_seed, trained, REMEDIES)


if __name__ == "__main__":
    script(main, Config, __doc__)
