"""How long data sets take to load and how much memory, the first time and the second, each in a process of its own.

The second time arrays come from the cache, memory-mapped. Peak memory is the process's, with JAX and all; "before" is what it
had before loading.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """A directory of original data files, which is searched before the network. By default FLAXFIT_ORIGINALS names it."""
    names: tuple[str, ...] = ("mnist", "fashion_mnist", "imdb", "higgs", "sonar", "digits")
    """Which data sets to load."""
    repeats: int = 3
    """How often each is prepared and loaded. The table shows medians."""


MEASURED = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
import flaxfit as ff, jax
ff.data.load, ff.Dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
splits = ff.data.load(sys.argv[1], originals=sys.argv[2] or None)
seconds = time.perf_counter() - start
print(json.dumps([seconds, before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, repr(splits)]))
"""


def main(config: Config) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Loading, medians of {config.repeats}")
    for column in ("set", "first, s", "second, s", "before, MB", "peak first, MB", "peak second, MB", "on disk, MB"):
        table.add_column(column)
    for name in config.names:
        runs, size = [], 0
        for _ in range(config.repeats):
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, "-c", MEASURED, name, str(config.originals or "")]
                environment = os.environ | {"FLAXFIT_CACHE": cache}
                done = [subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True) for _ in range(2)]
                runs.append([json.loads(each.stdout)[:3] for each in done])
                size = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
        (first, before, peak), (second, _, peak_again) = np.median(runs, axis=0)
        table.add_row(name, f"{first:.2f}", f"{second:.3f}", *(f"{each:.0f}" for each in (before, peak, peak_again, size / 2**20)))
    Console(width=120).print(table)


if __name__ == "__main__":
    script(main, Config, __doc__)
