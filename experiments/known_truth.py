"""Is the answer of `flaxfit study` right? Tables whose truth is known, studied as a user would, and judged on fresh examples.

In half of the tables the default network is large for the noise of the labels, so that it overfits and fixes help. The others have four
times the rows, a linear truth and a network of four units, so that no fix helps by more than 0.005 nats, which is the margin of their
studies. For each table, the truth is what each setting reaches on 20,000 fresh examples, averaged over training sets of the size that the
folds have.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """The options of this study."""

    tables: int = 20
    """How many tables. In those with odd numbers no fix helps."""
    rows: int = 1500
    """The rows of each table in which fixes help. The others have four times as many."""
    fresh: int = 20_000
    """The fresh examples that tell the truth."""
    training_sets: int = 4
    """The training sets that the truth is averaged over."""
    budget: str = "2m"
    """The time for each study."""
    first: int = 0
    """The number of the first table."""


MARGIN = 0.005
"""The smallest difference of log losses that matters, in tables in which no fix helps."""


def make_columns(rows: int, seed: int, fixable: bool) -> dict[str, np.ndarray]:
    """Returns a table: an identifier, text and numbers with missing values, columns that mean nothing, and yes/no labels."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=(rows, 9))
    cities = np.array(["Athens", "Berlin", "Cairo", "Delhi", "Essen"])
    city = random.integers(0, 5, rows)
    age = np.clip(45 + 15 * normal[:, 0], 18, 90).round()
    income = np.exp(10 + 0.5 * normal[:, 1])
    logit = 0.9 * normal[:, 0] - 0.8 * normal[:, 1] + 0.5 * (city - 2)
    logit += 0.7 * normal[:, 2] * normal[:, 3] if fixable else 0.7 * normal[:, 2]
    sold = random.random(rows) < 1 / (1 + np.exp(-logit))
    columns = {
        "customer_id": np.arange(1, rows + 1) + 1000 * (seed % 7),
        "age": age.astype(object),
        "income": np.where(random.random(rows) < 0.05, np.nan, income),
        "city": cities[city].astype(object),
        "balance": normal[:, 2],
        "visits": normal[:, 3],
        **{f"noise {index}": normal[:, 4 + index] for index in range(5)},
        "sold": np.where(sold, "yes", "no").astype(object),
    }
    columns["city"][random.random(rows) < 0.05] = None
    return columns


def network(fixable: bool) -> ff.Network:
    return ff.Network() if fixable else ff.Network(hidden=(4,))


def truth(config: Config, seed: int, fixable: bool, train_rows: int, strengths: int, epochs: int) -> dict[str, float]:
    """Returns the log loss of each setting on fresh examples, averaged over training sets."""
    from flaxfit.overfitting.fixes import fixes_for
    from flaxfit.overfitting.measures import measure_for
    from flaxfit.overfitting.problem import Problem
    from flaxfit.overfitting.runs import Cell, Trainer

    sets, size = config.training_sets, train_rows
    columns = make_columns(sets * size + config.fresh, 10_000 + seed, fixable)
    table = ff.data.Table(columns, "sold", kinds={"customer_id": "drop"})
    fresh = np.arange(sets * size, len(table))
    problem = Problem(table, np.arange(sets * size), fresh, sets, None, None, seed)
    make = network(fixable).task_maker(problem.pooled())
    names = {"width", "l1", "l2", "weight_decay", "dropout", "batch_norm"}
    fixes, _ = fixes_for(names, strengths)
    task = make({**dict.fromkeys(names, 0.0), "width": 1.0, "batch_norm": False})
    trainer = Trainer(problem, make, names, measure_for(task, None), epochs, 32)
    cells = [Cell(index, np.arange(index * size, (index + 1) * size), fresh) for index in range(sets)]
    runs = trainer.train("truth", fixes, cells)
    return {fix.name: float(np.mean([run.score for run in runs if run.fix == fix])) for fix in fixes}


def judged(config: Config, number: int) -> dict[str, Any]:
    """Returns what a study said of one table, and whether it was right."""
    fixable = number % 2 == 0
    rows, margin = (config.rows, 0.0) if fixable else (4 * config.rows, MARGIN)
    table = ff.data.Table(make_columns(rows, number, fixable), "sold")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "study"
        study = ff.overfitting_study(network(fixable), table, budget=config.budget, margin=margin or None, run_dir=home)
        model = ff.load(home)
        fresh = ff.data.Table(make_columns(config.fresh, 20_000 + number, fixable), "sold", kinds={"customer_id": "drop"})
        reached = float(model.evaluate(fresh)["binary_crossentropy"])
    folds = study.plan.folds
    known = truth(config, number, fixable, round(0.8 * rows * (folds - 1) / folds), study.plan.strengths, study.plan.epochs)
    row, interval = study.row(study.recommended), next(iter(study.test.values()))
    error = row.score.sd * np.sqrt(1 / len(row.scores) + 1 / (folds - 1))  # Nadeau and Bengio (2003)
    wrong = [t.fix.name for t in study.helpful if known[t.fix.name] >= known["baseline"] - margin]
    helps = [name for name, value in known.items() if value < known["baseline"] - MARGIN]
    return {
        "table": number,
        "fixes help": fixable,
        "settings": len(study.tried),
        "repeats": study.plan.repeats,
        "seconds": study.seconds,
        "recommended": study.recommended.name,
        "best in truth": min(known, key=lambda name: known[name]),
        "regret": known[study.recommended.name] - min(known.values()),
        "standard error": float(error),
        "shown to help": len(study.helpful),
        "helps in truth": len(helps),
        "wrongly": wrong,
        "covered": bool(interval.low <= reached <= interval.high),
        "needed columns": [c.column for c in study.columns if not c.useless],
    }


def main(config: Config) -> None:
    """Judges the studies of all tables, and prints the counts."""
    results = []
    for number in range(config.first, config.first + config.tables):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(found := judged(config, number))
        print({name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}, flush=True)
    for words, right in (
        ("The recommendation is within one standard error of the best setting", lambda r: r["regret"] <= r["standard error"]),
        ("Tables with a fix wrongly shown to help", lambda r: bool(r["wrongly"])),
        ("The test interval covers what the recommended network reaches on fresh examples", lambda r: r["covered"]),
        ("Studies within two minutes", lambda r: r["seconds"] <= 120),
    ):
        print(f"{words}: {sum(map(right, results))} of {len(results)}.")


if __name__ == "__main__":
    script(main, Config, __doc__)
