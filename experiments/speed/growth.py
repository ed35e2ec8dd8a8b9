"""Whether a process grows: its memory and the time of a fit, over many fits of one task, of tasks made anew, or of other numbers of rows.

Each fit trains a network of 16 units for one epoch. A task keeps its compiled programs, so that only a number of rows that it has not
seen compiles anything, and so does a task made anew. Memory is what the system counts as resident, after a garbage collection.
"""

from __future__ import annotations

import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    vary: Literal["nothing", "directory", "task", "rows"] = "nothing"
    """What differs from fit to fit: nothing, the run directory, the task, which is made anew, or the number of rows."""
    fits: int = 10_000
    """How many fits to make."""
    lines: int = 10
    """How many lines the table has."""


def main(config: Config) -> None:
    import numpy as np
    import optax

    import flaxfit as ff

    def make() -> ff.Task:
        return ff.Task(ff.nn.MLP((16,), 1), ff.losses.binary_crossentropy, optax.adam(1e-3))

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200 + config.fits, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    task, began = make(), time.perf_counter()
    print("| fits | resident memory, MB | a fit since the last line, ms |\n|---|---|---|")
    each = max(1, config.fits // config.lines)
    with tempfile.TemporaryDirectory() as home:
        for number in range(1, config.fits + 1):
            rows = 200 + number * (config.vary == "rows")
            run_dir = Path(home) / str(number) if config.vary == "directory" else None
            ff.fit(make() if config.vary == "task" else task, ff.Dataset(x[:rows], y[:rows]), epochs=1, seed=number, run_dir=run_dir)
            if number == 1 or number % each == 0:
                seconds = (time.perf_counter() - began) / (1 if number == 1 else each - (number == each))
                gc.collect()
                status = Path("/proc/self/status").read_text().splitlines()
                memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 2**10
                print(f"| {number:,} | {memory:,.0f} | {1e3 * seconds:,.1f} |", flush=True)
                began = time.perf_counter()


if __name__ == "__main__":
    script(main, Config, __doc__)
