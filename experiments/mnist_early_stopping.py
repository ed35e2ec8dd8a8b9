"""Trains on MNIST with batch norm, dropout, L2 and early stopping, after a Korean course note, and sets its numbers beside 16 runs each.

The network is trained for 30 epochs, or until the test accuracy has not improved for 4. It takes 6 minutes on 2 cores. The same command
resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import batch_norm_net
import numpy as np
from claims import single
from drawing import band
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    seeds: int = 16
    """How many runs of each network. A seed decides the initial weights, the batches and dropout."""
    first_seed: int = 7_400
    """The first of the seeds. The others follow it."""
    epochs: int = 30
    """How many epochs to train each run at most."""
    patience: int = 4
    """After how many epochs without improvement of val_accuracy the run with early stopping ends."""
    run_dir: Path = Path("runs/mnist_early_stopping")
    """The directory for runs, the model that was stopped early, plots and the page of results."""


# Net -> dropout rate, L2 weight, the source's training and test accuracy.
NETS = {
    "BN, dropout 0.2": (0.2, 0.0, 0.9729, 0.9738),
    "BN, dropout 0.1": (0.1, 0.0, 0.9835, 0.9747),
    "BN, dropout 0.1, stopped": (0.1, 0.0, 0.9766, 0.9742),
    "BN only": (0.0, 0.0, 0.9954, 0.9727),
    "BN, L2 0.01": (0.0, 0.01, 0.9666, 0.9577),
}
D2, D1, STOPPED, PLAIN, L2 = NETS
STOP = 15  # the epoch at which the source's run was stopped
ORDER = ((PLAIN, D1), (PLAIN, D2), (D2, D1), (STOPPED, D1), (L2, PLAIN))  # of the source's test accuracies: the second is the higher
WIDEST, NUMBERS = 0.5, 11  # points; how many numbers of the source are judged
ABOUT = """784-50-50-10 with ReLU, and batch norm and dropout after each hidden activation. Adam, batches of 100, Keras's defaults. As in
    the source, the test images are used for validation, scores are those of the last epoch, and the training accuracy is Keras's: the
    running mean over the epoch, with dropout on. A number of the source is *within the range of a further run* if it lies where one further
    run is likely to be: all eleven do with 95% where the source is right. A range that is wider than ± 0.5 points, or ± 7.5 epochs (a
    quarter of 30), could hardly fail: a number inside is then undecided."""


def make_task(hp):
    return batch_norm_net.task(*NETS[hp["net"]][:2])


def main(config: Config) -> None:
    splits = ff.data.load("mnist", originals=config.originals)
    assert splits.test is not None

    def trained(name: str, nets: list[str], **options: Any) -> ff.Study:
        how: dict[str, Any] = {"validation": splits.test, "seeds": config.every_seed, "epochs": config.epochs, "batch_size": 100}
        where = config.run_dir / f"{name}, from seed {config.first_seed}"
        return ff.fit_many(make_task, [{"net": net} for net in nets], splits.train, run_dir=where, progress=name, **how, **options)

    with Page("MNIST: batch norm, dropout and early stopping", config.run_dir, ABOUT) as page:
        whole = trained("whole", [name for name in NETS if name != STOPPED])
        stopped = trained("stopped", [STOPPED], early_stopping=ff.EarlyStopping("val_accuracy", patience=config.patience))
        parts = {name: stopped if name == STOPPED else whole.select(net=name) for name in NETS}
        table(page, parts, {name: 100 * part.evaluate(splits.train, "last")["accuracy"] for name, part in parts.items()})
        ended(config, page, splits, stopped)


def last(part: ff.Study, metric: str = "val_accuracy") -> np.ndarray:
    return 100 * part.scores(metric, "last")


def judged(runs: np.ndarray, percent: float) -> tuple[bool | None, str]:
    return single(runs, percent, WIDEST, NUMBERS, 0.01)


def table(page: Page, parts: dict[str, ff.Study], evaluated: dict[str, np.ndarray]) -> None:
    running, test = ({name: last(part, metric) for name, part in parts.items()} for metric in ("accuracy", "val_accuracy"))
    rows = []
    for name, (_, _, its_train, its_test) in NETS.items():
        means = [interval(each[name]) for each in (running, evaluated, test)]
        rows.append((name, f"{100 * its_train:.2f}", *means[:2], f"{100 * its_test:.2f}", means[2]))
        found = {"train": judged(running[name], 100 * its_train), "test": judged(test[name], 100 * its_test)}
        both = [verdict for verdict, _ in found.values()]
        numbers = f"{100 * its_train:.2f}% (train) and {100 * its_test:.2f}% (test)"
        claim = f"{name}: the source's {numbers} are within the range of a further run"
        held = False if False in both else None if None in both else True
        page.claim("source", claim, held, "; ".join(f"{part}: {words}" for part, (_, words) in found.items()))
    columns = ("net", "train, source", "train, running mean", "train, evaluated", "test, source", "test")
    page.table("Accuracy after the last epoch, percent", columns, rows)
    far = [np.mean([abs(kind[name] - 100 * NETS[name][2]) for name in NETS], axis=0) for kind in (evaluated, running)]
    pair = compare(*far, names=("evaluated after the epoch", "running means"))
    page.claim("source", "the source's training accuracies are running means with dropout on: these are nearer to them", pair)
    for a, b in ORDER:
        pair = compare(test[a], test[b], larger_is_better=True, names=(f"`{a}`", f"`{b}`"))
        page.claim("source", f"{b} has a higher test accuracy than {a}: {100 * NETS[b][3]:.2f}% against {100 * NETS[a][3]:.2f}%", pair)
    pairs = {name: compare(evaluated[PLAIN] - test[PLAIN], evaluated[name] - test[name]) for name in (D1, D2, L2)}
    statistic = "; ".join(f"{name}: {pair.difference}, p {pair.p_value:.2g}" for name, pair in pairs.items())
    page.claim("source", f"dropout and L2 narrow the gap (evaluated training minus test) of {PLAIN}", [*pairs.values()], statistic)

    figure, axes = ff.plots.panels(2, size=(10, 4.2))
    for ax, metric, place in zip(axes, ("accuracy", "val_accuracy"), (2, 3), strict=True):
        for color, (name, part) in enumerate(parts.items()):
            if name != STOPPED:
                curves = 100 * np.transpose([result.history[metric] for result in part.results])
                band(ax, range(1, len(curves) + 1), curves, name, color)
                ax.plot(len(curves), 100 * NETS[name][place], "x", color=ff.plots.PALETTE[color])
        ax.plot(STOP, 100 * NETS[STOPPED][place], "x", color=ff.plots.PALETTE[[*NETS].index(D1)])
        ax.set(xlabel="epoch", ylabel=f"{'test' if 'val' in metric else 'training'} accuracy (percent)")
    axes[0].set_ylim(94, 100)
    axes[1].set_ylim(95.5, 98.2)
    axes[0].plot([], [], "kx", label="the source's run")
    axes[0].legend(frameon=False)
    caption = "Training (running means, dropout on) and test: means with 95% intervals. The cross at epoch 15 is the stopped run"
    page.plot("curves", figure, caption)


def ended(config: Config, page: Page, splits: ff.data.Splits, stopped: ff.Study) -> None:
    """When the runs were stopped; and one of them is saved to a file."""
    assert splits.test is not None
    ends, best = np.array([(len(result.history.epochs), result.best_epoch) for result in stopped.results], float).T
    page.claim("source", f"{STOPPED}: the end after epoch {STOP} is within the range of a further run", *single(ends, STOP, 7.5, NUMBERS))
    page.text(
        f"Stopped runs end after epoch {interval(ends)}; their best epoch is {interval(best)}, with a test accuracy of "
        f"{interval(100 * stopped.scores('val_accuracy', 'best'))}, which flatters: the test images chose it. The source's is that of the "
        "last epoch, as Keras leaves it without `restore_best_weights`."
    )
    state, about = stopped.results[0].last, {"epoch": int(ends[0]), "net": STOPPED}
    ff.export(config.run_dir / "stopped_model", stopped.members[0].task, state, splits.train, about=about)
    file = ff.pack(config.run_dir / "stopped_model", config.run_dir / "stopped_model.flaxfit")
    before, after = last(stopped)[0], 100 * ff.load(file).evaluate(splits.test)["accuracy"]
    statistic = f"{before:.2f}% before, {after:.2f}% after"
    page.claim("source", "the stopped model, saved to a file and restored, scores the same", bool(abs(before - after) < 5e-3), statistic)


if __name__ == "__main__":
    script(main, Config, __doc__)
