"""Shows what more training rows do where no number of them is enough: to reviews (IMDB) and to collisions of particles (HIGGS).

IMDB is trained on 500 to 25,000 reviews, HIGGS on 500 to 14,000 rows. Each run takes as many steps whatever the number of rows; each set is
also trained on few rows with dropout and L2. It takes 16 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import reviews
from options import WithOriginals, WithSeeds
from pages import Page
from sizes import measured, remedies, sweep

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    seeds: int = 8
    """How many runs on each number of reviews. A seed decides which rows train, too."""
    higgs_seeds: int = 20
    """How many runs on each number of HIGGS's rows."""
    first_seed: int = 7_200
    """The first of the seeds. The others follow it."""
    steps: int = 600
    """How many steps to train on reviews."""
    higgs_steps: int = 1_800
    """How many steps to train on HIGGS's rows."""
    imdb: tuple[int, ...] = (500, 1_000, 2_500, 5_000, 10_000, 25_000)
    """The numbers of training reviews."""
    higgs: tuple[int, ...] = (500, 1_000, 2_000, 4_000, 8_000, 14_000)
    """The numbers of training rows of HIGGS."""
    rows: int = 25_000
    """From how many reviews those that train are drawn, and how many test."""
    higgs_rows: int = 15_978
    """How many rows of HIGGS to use. Those beyond the most that train are the test set."""
    vocabulary: int = 10_000
    """How many columns the reviews have."""
    run_dir: Path = Path("runs/training_size_hard")
    """The directory for runs, plots and the page of results."""


REMEDIES: dict[str, dict[str, Any]] = {"plain": {}} | {f"dropout {rate}": {"dropout": rate} for rate in (0.2, 0.5, 0.8)}
REMEDIES |= {f"L2 {weight:g}": {"l2": weight} for weight in (1e-4, 1e-3, 1e-2)}
ABOUT = """As many steps whatever the number of rows, by Adam with learning rate 0.001 and epsilon 1e-7. IMDB: 600 steps of the 16-16-1
    network with ReLU on multi-hot vectors ("10,000 words" in Keras's layout), batches of 512, tested on the 25,000 test reviews. HIGGS:
    1,800 steps of 64-64-64-1 with ELU (*Medium*), batches of 500, on the sample of 15,978 rows: each seed draws 14,000 that may train and
    tests on the other 1,978. Because these splits share rows, intervals of HIGGS are the corrected ones of Nadeau and Bengio, and its
    claims compare 500, 2,000 and 14,000 rows. Dropout is after each hidden layer, L2 on all kernels. Each seed draws the training rows; its
    larger sets hold its smaller ones. The gap is test loss minus training loss, both after the last step. The onset of overfitting is the
    step with the least test loss, which is looked at every 8 to 49 steps; where it is near the last, it would come later in longer runs.
    The law is error = a + b rows^-c, fitted to logarithms of the mean test errors; it has to predict within 10%, because errors that fall
    as slowly as rows^-0.1 would be 12 to 15% off if no fall were predicted. Remedies have three strengths; claims are about that with the
    highest mean test accuracy, which favors the remedy."""


def main(config: Config) -> None:
    sets = {"IMDB": reviews.load(config, config.vocabulary)}
    sets["HIGGS"] = ff.data.load("higgs", rows=config.higgs_rows, originals=config.originals)
    with Page("Training-set size: reviews and collisions", config.run_dir, ABOUT) as page:
        for name, data in sets.items():
            study(config, page, name, data)


@functools.cache
def make_task(name: str, remedy: str) -> ff.Task:
    how = REMEDIES[remedy]
    hidden, activation = ((16, 16), "relu") if name == "IMDB" else ((64, 64, 64), "elu")
    penalty = ff.penalties.l2(how["l2"]) if "l2" in how else None
    return reviews.make_task(ff.nn.MLP(hidden, 1, activation=activation, dropout=how.get("dropout", 0.0)), penalty=penalty)


def study(config: Config, page: Page, name: str, data: ff.data.Splits) -> None:
    imdb, pool = name == "IMDB", data.train
    sizes, batch, steps, looks = (config.imdb, 512, config.steps, 40) if imdb else (config.higgs, 500, config.higgs_steps, 120)
    most = sizes[-1]

    def trained(rows: int, seed: int, remedy: str) -> list[Any]:
        order = np.random.default_rng(seed).permutation(len(pool))
        where = config.run_dir / f"{name}, {steps} steps" / f"{remedy}, {rows} rows, seed {seed}"
        return measured(make_task(name, remedy), pool[order[:rows]], data.test or pool[order[most:]], steps, batch, seed, looks, where)

    seeds = range(config.first_seed, config.first_seed + (config.seeds if imdb else config.higgs_seeds))
    places = None if imdb else (0, 2, len(sizes) - 1)  # HIGGS's scores are noisy: claims take steps of several times the rows
    ratio = None if imdb else len(pool) / most - 1
    sweep(page, name, sizes, seeds, trained, places, ratio, (sizes[-3], 0.1))
    remedies(page, name, sizes[2], most, seeds, trained, REMEDIES, ratio)


if __name__ == "__main__":
    script(main, Config, __doc__)
