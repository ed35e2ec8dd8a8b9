"""HIGGS: how capacity and regularisation decide about over-fitting (after TensorFlow's tutorial "Overfit and underfit").

Trains four sizes of a net and three regularised versions of the largest on 10,000 rows, validates on 1,000, stops when the
validation cross-entropy has not improved for --patience epochs. Expect validation accuracies of 0.66 to 0.70, the two larger plain nets
over-fitted, and about 25 minutes for everything on 2 cores, of which the sizes take 3. The rows are fetched when they are first needed,
3 MB of the data set's 2.6 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """Directory of original data files, searched before the network; by default what FLAXFIT_ORIGINALS names."""
    study: Literal["sizes", "regularizers", "both"] = "both"
    """Which half to run."""
    epochs: int = 10_000
    """At most so many epochs."""
    patience: int = 200
    """Epochs without improvement of val_binary_crossentropy before a run stops."""
    seed: int = 0
    """Decides weights, batches and dropout."""
    out: Path = Path("runs/overfit_and_underfit")
    """Where metrics, TensorBoard logs and plots go."""
    dots: bool = False
    """Print a dot an epoch and a full line every 100, as the tutorial does, instead of progress."""


SIZES = {"Tiny": (16,), "Small": (16, 16), "Medium": (64,) * 3, "Large": (512,) * 4}
REGULARIZERS = {"Large, L2": (1e-3, 0.0), "Large, dropout": (0.0, 0.5), "Large, combined": (1e-4, 0.5)}
BATCH, TRAIN, VALIDATION = 500, 10_000, 1_000
STEPS = TRAIN // BATCH


def main(config: Config) -> None:
    import optax
    from rich.console import Console
    from rich.table import Table

    import flaxfit as ff

    try:
        splits = ff.data.load("higgs", validation=VALIDATION, train=TRAIN, originals=config.originals)
    except OSError as error:
        raise SystemExit(str(error)) from error
    train, validation = splits.train, splits.validation
    rate = ff.schedules.inverse_time_decay(1e-3, decay_steps=STEPS * 1000)

    def task(hidden: tuple[int, ...], penalty: float = 0.0, dropout: float = 0.0) -> ff.Task:
        return ff.Task(
            model=ff.nn.MLP(hidden, 1, activation="elu", dropout=dropout),
            loss=ff.losses.binary_crossentropy,
            metrics={"accuracy": ff.metrics.binary_accuracy},
            penalty=ff.penalties.l2(penalty) if penalty else None,
            optimizer=optax.adam(rate),
            learning_rate=rate,
        )

    tasks = {f"sizes/{name}": task(hidden) for name, hidden in SIZES.items() if config.study != "regularizers"}
    if config.study != "sizes":
        tasks |= {f"sizes/{name}": task(SIZES[name]) for name in ("Tiny", "Large")}
        tasks |= {f"regularizers/{name}": task(SIZES["Large"], *how) for name, how in REGULARIZERS.items()}
    results, verdicts = {}, {}
    stopping = ff.EarlyStopping("val_binary_crossentropy", patience=config.patience)
    for name, each in tasks.items():
        print(ff.summary(each, train.x[:1]))
        hooks = [
            ff.hooks.Dots() if config.dots else ff.hooks.Progress(name),
            ff.hooks.TensorBoard(config.out / "logs" / name),
            ff.hooks.Metrics(config.out / f"{name}.jsonl"),
        ]
        options = {"epochs": config.epochs, "batch_size": BATCH, "early_stopping": stopping, "seed": config.seed, "hooks": hooks}
        results[name.split("/")[1]] = result = ff.fit(each, train, validation=validation, **options)
        verdicts[name.split("/")[1]] = ff.diagnose(result.history)

    table = Table(title=f"HIGGS, {len(train)} rows to train, seed {config.seed}: validation binary cross-entropy")
    for column in ("net", "epochs", "best epoch", "best", "last", "training, last", "accuracy, best epoch", "ms an epoch", "verdict"):
        table.add_column(column)
    for name, result in results.items():
        history, verdict = result.history, verdicts[name]
        loss, best = history["val_binary_crossentropy"], (result.best_epoch or 1) - 1
        scores = (loss[best], loss[-1], history["binary_crossentropy"][-1], history["val_accuracy"][best])
        since = f" from epoch {verdict.epoch}" if verdict.epoch else ""
        cells = (*(f"{score:.4f}" for score in scores), f"{result.timing.epoch * 1e3:.2f}", verdict.verdict + since)
        table.add_row(name, str(len(loss)), str(result.best_epoch), *cells)
    Console(width=150).print(table)
    for name, verdict in verdicts.items():
        print(f"{name}: {verdict}")
    ranked = sorted(results, key=lambda name: results[name].history["val_binary_crossentropy"].min())
    print("Best first:", ", ".join(f"{name} {results[name].history['val_binary_crossentropy'].min():.4f}" for name in ranked))

    colors = dict(zip([*SIZES, *REGULARIZERS], ff.plots.PALETTE, strict=True))
    curves = {"smooth": 10, "log_x": True, "ylim": (0.5, 0.7), "colors": colors}
    halves = {"sizes": [*SIZES], "regularizers": ["Tiny", "Large", *REGULARIZERS]}
    for half, names in halves.items():
        histories = {name: results[name].history for name in names if name in results}
        if config.study in (half, "both"):
            ff.plots.learning_curves(histories, **curves, title=f"HIGGS: {half}").savefig(config.out / f"{half}.png")
            ff.plots.weight_norms(histories, colors=colors).savefig(config.out / f"{half}_norms.png")
    longest = max(len(result.history.epochs) for result in results.values())
    ff.plots.schedule(rate, STEPS, longest).savefig(config.out / "schedule.png")
    print(f"Plots, metrics and TensorBoard logs: {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
