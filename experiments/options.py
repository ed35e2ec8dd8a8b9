"""Command-line options that several studies share."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class WithOriginals:
    """The option of studies that read original data files."""

    originals: Path | None = None
    """A directory of original data files, which is searched before the network. By default FLAXFIT_ORIGINALS names it."""


@dataclass(frozen=True)
class WithSeeds:
    """The seeds of a study's runs."""

    seeds: int = 20
    """How many runs of each setting. A seed decides the initial weights, the batches and dropout."""
    first_seed: int = 1_000
    """The first of the seeds. The others follow it."""

    @property
    def every_seed(self) -> range:
        """The seeds, as `flaxfit.fit_many` takes them."""
        return range(self.first_seed, self.first_seed + self.seeds)


def if_installed(package: str) -> Any:
    """A package such as Keras, or None where it is not installed."""
    return importlib.import_module(package) if importlib.util.find_spec(package) else None
