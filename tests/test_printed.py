"""What is printed, as a list in `printed.txt`, so that a change of wording or layout is seen in review.

After a change: `python tests/test_printed.py`, and read the difference. The numbers are made up, so that they are the same everywhere.
"""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax

import flaxfit as ff
from flaxfit.data.splits import Splits
from flaxfit.overfitting.answer import OverfittingStudy
from flaxfit.overfitting.columns import Importance
from flaxfit.overfitting.findings import Rival, Signal, Tried
from flaxfit.overfitting.fixes import fixes_for
from flaxfit.overfitting.growth import growth
from flaxfit.overfitting.plan import Plan
from flaxfit.sweep.lr_range import RangeTest

SNAPSHOT = Path(__file__).with_name("printed.txt")
WIDTH = 80


def curve(rise=0.3, epochs=60):
    """A history whose validation loss has its minimum after a third of the run."""
    epoch = np.arange(1, epochs + 1)
    noise = 0.004 * np.sin(7.3 * epoch)
    validation = 0.4 + 0.4 * np.exp(-epoch / 6) + rise * np.clip(epoch / epochs - 1 / 3, 0, 1) + noise
    training = 0.1 + 0.7 * np.exp(-epoch / 8)
    columns = {"loss": training, "mse": training, "val_loss": validation, "val_mse": validation}
    return ff.History(columns, data_loss="mse", rows=500, validation_rows=400)


def populations():
    """A grid of two settings and six seeds, and a cross-validation, with scores that were not measured."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    data = ff.Dataset(x, x[:, 0])

    def make_task(hp):
        return ff.Task(ff.nn.MLP((4,), 1), ff.losses.mse, optax.sgd(hp["rate"]), {"mae": ff.metrics.mae})

    scores = 0.5 + 0.01 * rng.normal(size=(2, 6)) - np.array([[0.0], [0.02]])
    study = ff.fit_many(make_task, {"rate": [0.1, 0.01]}, data, seeds=6)
    folds = ff.cross_validate(make_task, data, grid={"rate": [0.1, 0.01]}, folds=5, repeats=2)
    return data, study, scores.ravel(), replace(folds, scores={"mse": np.resize(scores.ravel(), 20) + np.repeat([0.1, 0.0], 10)})


def overfitting_study():
    rng = np.random.default_rng(1)
    fixes, missing = fixes_for({"width", "l2", "dropout"}, 2)
    base = 0.6 + 0.05 * rng.normal(size=20)
    scores = [base, *(base - 0.02 * place + 0.01 * rng.normal(size=20) for place in range(1, len(fixes)))]
    how = {"method": "corrected", "test_ratio": 1 / 9}
    pairs = [
        ff.statistics.compare(base, each, names=("baseline", fix.name), **how) for fix, each in zip(fixes[1:], scores[1:], strict=True)
    ]
    verdicts = {"better": "helps", "worse": "harms"}
    means = [ff.statistics.interval(each, **how) for each in scores]
    tried = [Tried(fixes[0], base, means[0], None, "-", 40.0, 0.5)]
    for fix, each, mean, pair in zip(fixes[1:], scores[1:], means[1:], ff.statistics.family(pairs), strict=True):
        tried.append(Tried(fix, each, mean, pair, verdicts.get(pair.verdict, "undecided"), 40.0, 0.52))
    diagnosis = ff.diagnose([curve(0.3), curve(0.25), curve(0.35)])
    rival = Rival("a linear model", means[3], ff.statistics.compare(scores[3], scores[4], **how))
    test = {"log loss": ff.statistics.interval(base - 0.1), "accuracy": ff.statistics.share(160, 200)}
    task, sizes = ff.Task(ff.nn.MLP((4,), 1), ff.losses.binary_crossentropy, optax.sgd(0.1)), [200, 320, 500, 720]
    return OverfittingStudy(
        metric="log loss", larger_is_better=False, data="1,000 rows of people.csv: 800 for folds, 200 for testing",
        plan=Plan(40, 32, 10, 2, 2, 100.0), baseline="a network of 64-64 units, trained with Adam", diagnosis=diagnosis,
        verdicts="18 overfitted, 2 no change detected", curves={}, tried=tried, missing=missing, recommended=fixes[1], best=fixes[-1],
        test=test,        test_rows=200, rivals=[rival], signal=Signal(0.41, 0.69 + 0.01 * rng.normal(size=19), 0.05),
        growth=growth(sizes, 0.4 + 3 / np.repeat(np.array(sizes)[:, None], 5, 1) + 0.002 * rng.normal(size=(4, 5)), False, how),
        columns=[Importance("age", means[0]), Importance("city", ff.statistics.interval(rng.normal(size=10) * 0.01))],
        warnings=["rare classes are not in this example, but a warning that is long enough to need a second line is."],
        covers="the choice of training and held-out examples, corrected for those that folds share", margin=None, task=task,
        state=task.init(jax.random.key(0), np.zeros((1, 3), np.float32)), classes=("no", "yes"),
        test_outputs=np.zeros((1, 1)), test_targets=np.zeros(1), seconds=95.0,
    )  # fmt: skip


def printed():
    """Yields a title and the text of everything that prints more than a word."""
    data, study, scores, folds = populations()
    yield "History", repr(curve())
    yield "diagnose: overfitted", ff.diagnose(curve())
    yield "diagnose: slightly", ff.diagnose(curve(0.03))
    yield "diagnose: no rise", ff.diagnose(curve(0.0))
    yield "diagnose: several runs", ff.diagnose([curve(0.3), curve(0.25), curve(0.35)])
    yield "statistics.interval", ff.statistics.interval([0.61, 0.58, 0.60, 0.62, 0.59])
    yield "statistics.share", ff.statistics.share(38, 40)
    yield "Study.table", study.table(scores)
    yield "Study.compare", study.compare({"rate": 0.1}, {"rate": 0.01}, scores, mode="min")
    yield "Study.compare, with a margin", study.compare({"rate": 0.1}, {"rate": 0.01}, scores, mode="min", margin=0.005)
    yield "Study.compare_all", study.compare_all({"rate": 0.1}, scores, mode="min")
    yield "CrossValidation.table", folds.table("mse")
    yield "CrossValidation.compare", folds.compare({"rate": 0.1}, {"rate": 0.01}, "mse")
    yield "mcnemar", ff.statistics.mcnemar([1] * 60 + [0] * 40, [1] * 58 + [0] * 12 + [1] * 30)
    yield "Dataset", repr(data)
    splits = Splits(ff.Dataset(data.x[:40], np.arange(40) % 3), test=ff.Dataset(data.x[35:], np.arange(25) % 3))
    yield "Splits", repr(splits)
    yield "leakage", ff.data.leakage(splits)
    columns = {
        "id": [f"P{n:04d}" for n in range(100)], "age": [str(20 + n % 50) if n % 9 else "?" for n in range(100)],
        "city": [("Rome", "Oslo", "Paris")[n % 3] for n in range(100)], "when": [f"2024-01-{1 + n % 28:02d}" for n in range(100)],
        "same": ["x"] * 100, "sold": [("yes", "no")[n % 2] for n in range(100)],
    }  # fmt: skip
    yield "Table", ff.data.Table(columns, "sold")
    rates = np.geomspace(1e-4, 1, 50)
    yield "lr_range_test", RangeTest(rates, 1 - 0.5 * np.tanh(10 * rates) + 3 * rates**2)
    yield "OverfittingStudy", overfitting_study()


def listed():
    return "".join(f"### {title}\n{text}\n\n" for title, text in printed())


def test_what_is_printed_is_that_of_the_list():
    found = listed()
    assert found == SNAPSHOT.read_text(encoding="utf-8")
    # A sentence is wrapped by the terminal; a line of a table cannot be.
    wide = [line for line in found.splitlines() if len(line) > WIDTH and "  " in line.strip()]
    assert wide == []


if __name__ == "__main__":
    SNAPSHOT.write_text(listed(), encoding="utf-8")
