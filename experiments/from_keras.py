"""Three scripts for Keras and the same in flaxfit: do they end with the same losses?

The scripts are those of docs/guides/from_keras.md. Each is run from several seeds in both, on the same data and with the same
distributions of initial weights. Seeds mean different numbers in both, so that losses are compared by their means. It works offline, needs
Keras (`pip install keras`) and takes 20 minutes on 2 busy cores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flaxfit.cli import script

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "from_keras.md"
NAMES = ("CSV file", "convolutional", "cross-validation")


@dataclass(frozen=True)
class Config:
    """Options."""

    seeds: int = 20
    """How many runs of each script, with the seeds 0, 1, ..."""


def scripts() -> tuple[str, list[tuple[str, str]]]:
    """Returns the code that makes the files, and the pairs of scripts for Keras and for flaxfit."""
    blocks = re.compile(r"^```(?:python|\{code-block\} python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    first, *codes = blocks.findall(PAGE.read_text(encoding="utf-8").partition("## Three scripts")[2])
    return first, list(zip(codes[::2], codes[1::2], strict=True))


def scores(code: str, seed: int) -> dict[str, float]:
    """Runs a script in an empty directory beside the files, with another seed, and returns its `scores`."""
    import os
    import shutil
    import tempfile

    home = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        for file in home.glob("*.csv"):
            shutil.copy(file, place)
        os.chdir(place)
        try:
            namespace: dict = {"__name__": "__main__"}
            for old, new in (("set_random_seed(0)", f"set_random_seed({seed})"), (" seed=0", f" seed={seed}"), ("[0]", f"[{seed}]")):
                code = code.replace(old, new)
            exec(compile(code, "script", "exec"), namespace)
        finally:
            os.chdir(home)
    return {name: float(value) for name, value in namespace["scores"].items()}


def main(config: Config) -> None:
    import os
    import tempfile

    import numpy as np
    from rich.console import Console
    from rich.table import Table
    from scipy import stats

    os.environ.setdefault("KERAS_BACKEND", "jax")
    table = Table("script", "metric", "Keras", "flaxfit", "flaxfit - Keras, 95% interval", title="Mean ± sd")
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        first, pairs = scripts()
        exec(first, {})
        for name, pair in zip(NAMES, pairs, strict=True):
            runs = [[scores(code, seed) for seed in range(config.seeds)] for code in pair]
            for metric in (each for each in runs[0][0] if each in runs[1][0]):
                keras, ours = (np.array([run[metric] for run in each]) for each in runs)
                interval = stats.ttest_ind(ours, keras, equal_var=False).confidence_interval()
                both = [f"{values.mean():.4f} ± {values.std(ddof=1):.4f}" for values in (keras, ours)]
                difference = f"{ours.mean() - keras.mean():+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
                table.add_row(name, metric, *both, difference)
        os.chdir(PAGE.parent)  # so that the directory can be deleted
    Console(width=120).print(table)


if __name__ == "__main__":
    script(main, Config, __doc__)
