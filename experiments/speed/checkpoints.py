"""What checkpoints cost: HIGGS, 4 x 512, with a run directory and checkpoints every ten seconds, every second, and with none, in turn.

Two clocks, both from the first step on, after compilation: "training" runs to the end of the last chunk, with all saves but the last;
"whole" runs until `fit` returns, with the fixed cost of an end too: the last save and the export for `flaxfit.load`. Orbax is imported
before, once: a process's first run with checkpoints does that beside training. Ratios are of the runs of one turn; given is their
median, with a 95% bootstrap interval over the turns.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """A directory of original data files, which is searched before the network. By default FLAXFIT_ORIGINALS names it."""
    epochs: int = 100
    """How many epochs to train each run; they take some 35 seconds on 2 cores."""
    repeats: int = 5
    """How many runs of each kind, which take turns."""


def main(config: Config) -> None:
    import numpy as np
    import optax

    import flaxfit as ff

    class Clock(ff.callbacks.Callback):
        """When training began and when its last chunk ended: as the first callback, it is called before the last save."""

        began = ended = 0.0

        def on_train_begin(self, run: ff.callbacks.Run) -> None:
            self.began = time.perf_counter()

        def on_chunk_end(self, progress: ff.callbacks.Progress) -> None:
            self.ended = time.perf_counter()

    splits = ff.data.load("higgs", validation=1_000, train=10_000, originals=config.originals)
    task = ff.Task(ff.nn.MLP((512,) * 4, 1, activation="elu"), ff.losses.binary_crossentropy, optax.adam(1e-3))

    def seconds(every: float | None, epochs: int) -> tuple[float, float, float]:
        """Seconds of training and of the whole run, megabytes on disk."""
        with tempfile.TemporaryDirectory() as home:
            clock, directory = Clock(), None if every is None else Path(home) / "run"
            callbacks = [clock] if every is None else [clock, ff.callbacks.Checkpoint(every_seconds=every)]
            how = {"validation": splits.validation, "epochs": epochs, "batch_size": 500, "callbacks": callbacks, "run_dir": directory}
            ff.fit(task, splits.train, **how)
            end = time.perf_counter()
            size = sum(file.stat().st_size for file in Path(home).rglob("*") if file.is_file()) / 2**20
            return clock.ended - clock.began, end - clock.began, size

    kinds = {"none": None, "every 10 s": 10.0, "every second": 1.0}
    for every in (None, 1.0):
        seconds(every, 2)  # compiles, imports Orbax
    measured = {name: np.empty((config.repeats, 3)) for name in kinds}
    for repeat in range(config.repeats):
        for name, every in kinds.items():
            measured[name][repeat] = seconds(every, config.epochs)
    chosen = np.random.default_rng(0).integers(0, config.repeats, (10_000, config.repeats))
    for name, values in measured.items():
        print(f"{name}: {np.median(values[:, 2]):.0f} MB on disk")
        for column, clock in enumerate(("training", "whole")):
            ratios = values[:, column] / measured["none"][:, column]
            low, high = np.quantile(np.median(ratios[chosen], axis=1), (0.025, 0.975))
            typical = np.median(values[:, column])
            print(f"  {clock}: median {typical:.2f} s, ratio to none {np.median(ratios):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    script(main, Config, __doc__)
