"""IMDB reviews: the larger the net, the sooner it overfits; and overfitting shows in the size of the weights.

Trains nets on 25,000 reviews as multi-hot vectors of the most frequent words and tests them on 25,000: two sizes at a vocabulary of 100
words, of which the larger trains for 300 epochs, and three at 10,000. Expect accuracies of 0.70 to 0.72 and 0.88 to 0.89 at the best
epochs, and about 30 minutes for everything on 2 cores, 20 of them for "overfitting".
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
    """Runs of each net: seeds 0, 1, ... decide weights and batches."""
    long_seeds: int = 3
    """Runs of the net "overfitting", which take minutes."""
    epochs: int = 20
    """Epochs of each run."""
    long_epochs: int = 300
    """Epochs of the net "overfitting"."""
    vocabulary: int = 10_000
    """Words of the second half: so many of the most frequent ones are columns."""
    rows: int = 25_000
    """Reviews to train on, and to test on."""
    run_dir: Path = Path("runs/imdb_capacity")
    """Where runs, tables and plots go, 1 GB. The same command goes on where it stopped; seeds may be added."""


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

    about = f"""ReLU nets on {config.rows:,} reviews as multi-hot vectors, validated on as many test reviews as in the source; Adam, rate
        0.001, epsilon 1e-8, no regularization; at 100 words batches of 500, {config.epochs} epochs ("overfitting" {config.long_epochs}), at
        {config.vocabulary:,} batches of 512, {config.epochs} epochs; means over seeds with 95% intervals."""
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
            page.claim(f"{large} overfits sooner than {small}", sooner, text)
        for name, epoch in SOURCE.items():
            found = ff.statistics.interval(best[name])
            claim = f"{name} overfits from about epoch {epoch} (within 1 epoch)"
            page.claim(claim, within(found, epoch - 1, epoch + 1), f"best epoch {found}")
        for name, study in studies.items():
            before, after = (study.scores("kernel_l1", at) for at in ("best", "last"))
            larger = ff.statistics.compare(np.log(before), np.log(after), larger_is_better=True)
            text = f"sum of |w|, last epoch / best epoch: {ff.statistics.interval(after / before)}"
            page.claim(f"overfitting makes the weights of {name} larger", larger, text)


def row(name: str, study: ff.Study) -> list[object]:
    """A net in the table, see COLUMNS."""
    val, verdicts = f"val_{LOSS}", [ff.diagnose(result.history).verdict for result in study.results]
    scores = [study.scores("best_epoch", "last"), study.scores(val), study.scores(val, "last"), study.scores(LOSS, "last")]
    accuracies = [(r.history["val_accuracy"], (r.best_epoch or 0) - 1) for r in study.results]
    scores += [np.array([each[best] for each, best in accuracies]), study.scores("val_accuracy", "last")]
    best, *cells = map(ff.statistics.interval, scores)
    size, over = "-".join(map(str, HIDDEN[name])), f"{verdicts.count('overfitted')} of {len(verdicts)}"
    return [f"{name} {size}-1", best, SOURCE.get(name), *cells, over]


def relative(history):
    """The norms of the kernels divided by those after the first epoch, so that nets of all sizes fit into one picture."""
    names = {"kernel_l1": "sum of |w| / after epoch 1", "kernel_l2": "L2 norm / after epoch 1", "kernel_max": "largest |w| / after epoch 1"}
    return ff.History({name: history[column] / history[column][0] for column, name in names.items()})


if __name__ == "__main__":
    script(main, Config, __doc__)
