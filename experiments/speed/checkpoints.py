"""What checkpoints cost: HIGGS, 4 x 512, with a run directory and checkpoints every ten seconds, every second, and with none, in turn."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """Directory of original data files, searched before the network; by default what FLAXFIT_ORIGINALS names."""
    epochs: int = 100
    """Epochs a run, some 35 seconds on 2 cores."""
    repeats: int = 5
    """Runs of each kind, in turn."""


def main(config: Config) -> None:
    import numpy as np
    import optax

    import flaxfit as ff

    try:
        splits = ff.data.load("higgs", validation=1_000, train=10_000, originals=config.originals)
    except OSError as error:
        raise SystemExit(str(error)) from error
    task = ff.Task(ff.nn.MLP((512,) * 4, 1, activation="elu"), ff.losses.binary_crossentropy, optax.adam(1e-3))

    def seconds(every: float | None) -> tuple[float, float]:
        """Wall time after compilation, and megabytes on disk."""
        with tempfile.TemporaryDirectory() as home:
            directory = None if every is None else Path(home) / "run"
            hooks = [] if every is None else [ff.hooks.Checkpoint(every_seconds=every)]
            began = time.perf_counter()
            how = {"validation": splits.validation, "epochs": config.epochs, "batch_size": 500, "hooks": hooks, "run_dir": directory}
            result = ff.fit(task, splits.train, **how)
            size = sum(file.stat().st_size for file in Path(home).rglob("*") if file.is_file()) / 2**20
            return time.perf_counter() - began - result.timing.compile, size

    kinds = {"none": None, "every 10 s": 10.0, "every second": 1.0}
    for every in (None, 1.0):
        seconds(every)  # compiles, imports Orbax
    timings: dict[str, list[float]] = {name: [] for name in kinds}
    sizes: dict[str, float] = {}
    for _ in range(config.repeats):
        for name, every in kinds.items():
            taken, sizes[name] = seconds(every)
            timings[name].append(taken)
    for name, taken in timings.items():
        ratios = np.divide(taken, timings["none"])
        print(
            f"{name}: median {np.median(taken):.1f} s, ratio to none {np.median(ratios):.3f} "
            f"({ratios.min():.3f} to {ratios.max():.3f}), {sizes[name]:.0f} MB on disk"
        )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
