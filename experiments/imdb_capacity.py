"""Shows on film reviews that the larger a network, the sooner it overfits, and that overfitting is visible in the size of the weights.

Trains networks on 25,000 IMDB reviews as multi-hot vectors of the most frequent words, and tests them on 25,000 others: two sizes with a
vocabulary of 100 words, of which the larger is trained for 300 epochs, and three sizes with 10,000 words. Expect accuracies of 0.70 to
0.72 and of 0.88 to 0.89 at the best epochs, and about 30 minutes for everything on 2 cores, 20 of them for the network "overfitting".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """How many runs of each network, with the seeds 0, 1, ... A seed decides the initial weights and the batches."""
    long_seeds: int = 3
    """How many runs of the network "overfitting", each of which takes minutes."""
    epochs: int = 20
    """How many epochs to train each run."""
    long_epochs: int = 300
    """How many epochs to train the network "overfitting"."""
    vocabulary: int = 10_000
    """How many of the most frequent words are columns, in the second half of the study."""
    rows: int = 25_000
    """How many reviews to train on, and how many to test on."""
    run_dir: Path = Path("runs/imdb_capacity")
    """The directory for runs, tables and plots, which takes 1 GB. The same command resumes what was stopped, also with more seeds."""


HIDDEN = {"basic": (256, 128), "overfitting": (1024, 512, 512, 512), "smaller": (4, 4), "baseline": (16, 16), "bigger": (512, 512)}
COLORS = {"basic": 3, "overfitting": 1, "smaller": 2, "baseline": 0, "bigger": 4}  # baseline is the plain net of imdb_regularizers
SOURCE = {"smaller": 6, "baseline": 4}  # the epoch from about which the source sees it overfit
LOSS = "binary_crossentropy"
COLUMNS = ("net", "best epoch", "source", "test loss, best", "last", "training, last", "test accuracy, best", "last", "overfitted")


def main(config: Config) -> None:
    import optax

    colors = {net: ff.plots.PALETTE[color] for net, color in COLORS.items()}
    parts = ((100, 500, ("basic", "overfitting")), (config.vocabulary, 512, ("smaller", "baseline", "bigger")))
    rows = {"train": config.rows, "test": config.rows, "originals": config.originals}
    data = {words: ff.data.load("imdb", vocabulary=words, **rows) for words, _, _ in parts}

    def make_task(hp) -> ff.Task:
        return ff.Task(
            model=ff.nn.MLP(HIDDEN[hp["net"]], 1),
            loss=ff.losses.binary_crossentropy,
            metrics={"accuracy": ff.metrics.binary_accuracy},
            optimizer=optax.adam(1e-3),
        )

    def fit(name: str, words: int, batch_size: int) -> ff.Study:
        seeds, epochs = (config.long_seeds, config.long_epochs) if name == "overfitting" else (config.seeds, config.epochs)
        how = {"seeds": seeds, "epochs": epochs, "batch_size": batch_size, "progress": f"{name}, {words} words"}
        splits, where = data[words], config.run_dir / f"vocabulary_{words}"
        return ff.fit_many(make_task, [{"net": name}], splits.train, validation=splits.test, run_dir=where, **how)

    about = f"""ReLU networks on {config.rows:,} reviews as multi-hot vectors, validated on as many test reviews, as in the source. Adam
        with learning rate 0.001 and epsilon 1e-8, without regularization. With 100 words: batches of 500 and {config.epochs} epochs
        ("overfitting": {config.long_epochs}). With {config.vocabulary:,} words: batches of 512 and {config.epochs} epochs. Numbers are
        means over seeds with 95% intervals."""
    with Page("IMDB: capacity", config.run_dir, about) as page:
        studies: dict[str, ff.Study] = {}
        for words, batch_size, names in parts:
            new = {name: fit(name, words, batch_size) for name in names}
            studies |= new
            page.table(f"Vocabulary {words:,}: binary cross-entropy at the best and the last epoch", COLUMNS, map(row, new, new.values()))
            histories = {name: study.results[0].history for name, study in new.items()}
            look = {"colors": colors, "log_x": "overfitting" in names}
            figure = ff.plots.learning_curves(histories, ylim=(0, 1.2), title=f"IMDB, {words:,} words, seed 0", **look)
            page.plot(f"loss_{names[0]}", figure, f"Binary cross-entropy on training and test (dashed) reviews, {words:,} words")
            norms = {name: relative(history) for name, history in histories.items()}
            figure = ff.plots.weight_norms(norms, list(next(iter(norms.values()))), **look)
            figure.suptitle(f"IMDB, {words:,} words, seed 0")
            page.plot(f"norms_{names[0]}", figure, f"Size of the kernels, of that after epoch 1, {words:,} words, seed 0")
        page.text(
            "The best epoch is that of the least cross-entropy on the test reviews, which flatters it: from then on a net overfits. "
            "Overfitted: runs whose test loss gets worse beyond noise while the training loss gets better. In brackets: runs."
        )

        best = {name: study.scores("best_epoch", "last") for name, study in studies.items()}
        for large, small in (("overfitting", "basic"), ("baseline", "smaller"), ("bigger", "baseline")):
            pairs = min(len(best[large]), len(best[small]))
            sooner = ff.statistics.compare(best[small][:pairs], best[large][:pairs])
            text = f"best epoch less {small}'s: {sooner.difference}, p {sooner.p_value:.2g}"
            page.claim("source", f"{large} overfits sooner than {small}", sooner, text)
        for name, epoch in SOURCE.items():
            found = ff.statistics.interval(best[name])
            claim = f"{name} overfits from about epoch {epoch} (within 1 epoch)"
            page.claim("source", claim, within(found, epoch - 1, epoch + 1), f"best epoch {found}")
        for name, study in studies.items():
            before, after = (study.scores("kernel_l1", at) for at in ("best", "last"))
            larger = ff.statistics.compare(np.log(before), np.log(after), larger_is_better=True)
            text = f"sum of |w|, last epoch / best epoch: {ff.statistics.interval(after / before)}"
            page.claim("source", f"overfitting makes the weights of {name} larger", larger, text)


def row(name: str, study: ff.Study) -> list[object]:
    """Returns the row of a network in the table, see COLUMNS."""
    val, verdicts = f"val_{LOSS}", [ff.diagnose(result.history).verdict for result in study.results]
    scores = [study.scores("best_epoch", "last"), study.scores(val), study.scores(val, "last"), study.scores(LOSS, "last")]
    accuracies = [(r.history["val_accuracy"], (r.best_epoch or 0) - 1) for r in study.results]
    scores += [np.array([each[best] for each, best in accuracies]), study.scores("val_accuracy", "last")]
    best, *cells = map(ff.statistics.interval, scores)
    size, over = "-".join(map(str, HIDDEN[name])), f"{verdicts.count('overfitted')} of {len(verdicts)}"
    return [f"{name} {size}-1", best, SOURCE.get(name), *cells, over]


def relative(history):
    """Divides the norms of the kernels by those after the first epoch, so that networks of all sizes fit into one figure."""
    names = {"kernel_l1": "sum of |w| / after epoch 1", "kernel_l2": "L2 norm / after epoch 1", "kernel_max": "largest |w| / after epoch 1"}
    return ff.History({name: history[column] / history[column][0] for column, name in names.items()})


if __name__ == "__main__":
    script(main, Config, __doc__)
