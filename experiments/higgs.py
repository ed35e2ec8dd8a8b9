"""The networks of the studies on HIGGS, and their runs, which the studies share: rows, tasks and one population for each network."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from options import WithOriginals
from pages import Page

import flaxfit as ff


@dataclass(frozen=True)
class HiggsConfig(WithOriginals):
    """Options."""

    rows: Literal["sample", "first"] = "sample"
    """Which rows: 10,000 training rows of the sample, in 20 steps an epoch, or 9,000 of the first 10,000 rows of HIGGS, in 18 steps."""
    seeds: int = 20
    """How many runs of Tiny, Small and Medium. A seed decides the initial weights, the batches and dropout."""
    large_seeds: int = 10
    """How many runs of each large network. All of them are trained from one seed before the next seed."""
    first_seed: int = 6_000
    """The first of the seeds. The others follow it."""
    epochs: int = 10_000
    """The largest number of epochs."""
    patience: int = 200
    """After how many epochs without improvement of val_binary_crossentropy a run stops."""
    dots: bool = False
    """Print a dot for each epoch instead of a progress bar, and a line of metrics every 100 epochs."""
    home: Path = Path("runs/higgs")
    """The directory for the runs, which the studies share, and for TensorBoard's logs (such as logs/sizes/Tiny/seed=6000)."""


SIZES = ("Tiny", "Small", "Medium", "Large")
# Places in the palette, which has seven colors: no two networks of one picture share one.
COLORS = {"Tiny": 0, "Small": 1, "Medium": 2, "Large": 3, "L2": 4, "dropout": 5, "combined": 6, "AdamW": 1, "batch norm": 2, "noise": 5}
GROUPS = {net: "sizes" if net in SIZES else "regularizers" if net in ("L2", "dropout", "combined") else "fixes" for net in COLORS}
LOSS = "binary_crossentropy"
BATCH = 500
STEPS = {"sample": 20, "first": 18}  # an epoch
# L2 in the loss adds 0.002 w to a gradient that Adam divides by its root mean square, in Large about 0.002, 0.0005 (three times) and 0.01
# by layer: it takes 1, 4 (three times) and 0.2 times the rate off a weight. AdamW has one number for all: about their geometric mean.
DECAY = 2.0
NOISE = 0.3  # standard deviation; that of the features is 0.8 on average
FILE = {"sample": "HIGGS_sample_15978.csv.gz", "first": "HIGGS_first10000_3sig.csv.gz"}
ROWS = {"sample": "10,000 rows of a sample of HIGGS", "first": "9,000 of the first 10,000 rows of HIGGS, at three digits"}
SETTING = """ELU networks, Adam with learning rate 0.001, epsilon 1e-7 and inverse time decay (half at epoch 1,000), batches of 500,
    at most 10,000 epochs. A run stops if its validation cross-entropy on 1,000 other rows has not improved for 200 epochs."""


def splits(config: HiggsConfig) -> ff.data.Splits:
    """The rows: 1,000 validate, the next ones train, and 4,978 of the sample, which chose nothing, test."""
    sample = ff.data.load("higgs", validation=1_000, train=10_000, test=4_978, originals=config.originals)
    if config.rows == "sample":
        return sample
    has_file = "note" in sample.train.record()  # else the original itself is there, and its first rows are the first rows
    options: dict[str, Any] = {"original": FILE["first"]} if has_file else {}
    first = ff.data.load("higgs", validation=1_000, train=9_000, originals=config.originals, **options)
    return ff.data.Splits(first.train, first.validation, sample.test)


def shared(data: ff.data.Splits) -> int:
    """How many test rows are also training rows: the sample is drawn from all of HIGGS. Rows are compared at three digits."""
    train, test = ({tuple(f"{value:.2e}" for value in row) for row in np.asarray(part.x)} for part in (data.train, data.test))
    return len(train & test)


def rate(config: HiggsConfig) -> Any:
    """The learning rate: half at epoch 1,000, a third at 2,000."""
    return ff.schedules.inverse_time_decay(1e-3, decay_steps=STEPS[config.rows] * 1000)


def make_task(config: HiggsConfig, net: str) -> ff.Task:
    import optax

    hidden = {"Tiny": (16,), "Small": (16, 16), "Medium": (64,) * 3}.get(net, (512,) * 4)
    l2 = {"L2": 1e-3, "combined": 1e-4}.get(net)
    hidden_kernels = [f"Dense_{layer}/kernel" for layer in range(len(hidden))]  # all but the last one, as in the source
    schedule, decay = rate(config), {"weight_decay": DECAY, "mask": ff.masks.kernels}
    return ff.Task(
        model=ff.nn.MLP(hidden, 1, activation="elu", dropout=0.5 * (net in ("dropout", "combined")), batch_norm=net == "batch norm"),
        loss=ff.losses.binary_crossentropy,
        metrics={"accuracy": ff.metrics.binary_accuracy},
        penalty=ff.penalties.l2(l2, hidden_kernels) if l2 else None,
        augment=ff.augmentation.gaussian_noise(NOISE) if net == "noise" else None,
        optimizer=optax.adamw(schedule, eps=1e-7, **decay) if net == "AdamW" else optax.adam(schedule, eps=1e-7),
        learning_rate=schedule,
    )


def trained(config: HiggsConfig, nets: Sequence[str], data: ff.data.Splits) -> dict[str, ff.Study]:
    """Trains what is not yet trained, the large networks seed by seed. What has ended is only read."""
    home, found = config.home / config.rows, {}

    def callbacks(member: ff.Member) -> list[ff.callbacks.Callback]:
        net = member.setting["net"]
        logs = ff.callbacks.TensorBoard(home / "logs" / GROUPS[net] / net / f"seed={member.seed}")
        return [logs, ff.callbacks.Dots()] if config.dots else [logs]

    def fit(net: str, count: int) -> None:
        seeds = range(config.first_seed, config.first_seed + count)
        found[net] = ff.fit_many(
            lambda hp: make_task(config, hp["net"]),
            [{"net": net}],
            data.train,
            validation=data.validation,
            epochs=config.epochs,
            batch_size=BATCH,
            early_stopping=ff.EarlyStopping(f"val_{LOSS}", patience=config.patience),
            seeds=seeds,
            callbacks=callbacks,
            progress=None if config.dots else f"{net}, seeds {seeds[0]} to {seeds[-1]}",
            run_dir=home / net.replace(" ", "_"),
        )

    for net in (net for net in nets if net in SIZES[:3]):
        fit(net, config.seeds)
    for count in range(1, config.large_seeds + 1):
        for net in (net for net in nets if net not in SIZES[:3]):
            fit(net, count)
    if (tiny := home / "logs" / "sizes" / "Tiny").is_dir():  # beside the regularized ones, as in the source
        shutil.copytree(tiny, home / "logs" / "regularizers" / "Tiny", dirs_exist_ok=True)
    return {net: found[net] for net in nets}


def together(runs: dict[str, ff.Study]) -> ff.Study:
    """All networks as one study, to compare them over the seeds that they share."""
    first, *others = runs.values()
    return sum(others, first)


def curves(page: Page, name: str, runs: dict[str, ff.Study], nets: Sequence[str]) -> None:
    """Adds the learning curves, smoothed and cut as in the source."""
    histories = {net: [result.history for result in runs[net].results] for net in nets}
    colors = {net: ff.plots.PALETTE[color] for net, color in COLORS.items()}
    figure = ff.plots.study_curves(histories, LOSS, log_x=True, ylim=(0.5, 0.7), smooth=10, colors=colors, title=f"HIGGS: {name}")
    caption = f"Learning curves, {name}: means over seeds, smoothed by a Gaussian with a standard deviation of 10 epochs"
    page.plot(name.replace(" ", "_"), figure, caption)


def table(page: Page, runs: dict[str, ff.Study], test: ff.Dataset) -> None:
    """Adds the table of networks: sizes, epochs, and the scores at both ends that a curve can be read at."""
    import jax

    columns = ("net", "weights", "runs", "best epoch", "test, best epoch", "validation, best epoch", "validation, end", "training, end")
    columns += ("test accuracy, best epoch",)

    rows: list[Sequence[Any]] = []
    for net, study in runs.items():
        validation = study.scores(f"val_{LOSS}"), study.scores(f"val_{LOSS}", "last")
        tested = study.evaluate(test, "best")
        scores = tested[LOSS], *validation, study.scores(LOSS, "last"), tested["accuracy"]
        weights = sum(leaf.size for leaf in jax.tree.leaves(study.results[0].last.params))
        best = f"{np.median(study.scores('best_epoch', 'last')):.0f}"
        rows.append((net, weights, len(study), best, *map(ff.statistics.interval, scores)))
    page.table("Binary cross-entropy; the best epoch is a median", columns, rows)
