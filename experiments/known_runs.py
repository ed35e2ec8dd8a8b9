"""Training histories whose truth is known: labeled by hand, or of networks whose loss on fresh rows is known."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from simulated_curves import Curve

import flaxfit as ff

KINDS = ((100, False), (500, False), (2000, False), (500, True))  # of networks: rows to train, whether they tell two classes apart
ROWS = 700  # that validate a network
TRULY = 0.02  # a network overfits if its loss on fresh rows rises by more than this share of its lowest


@dataclass(frozen=True)
class Run:
    """A training history whose truth is known."""

    group: str
    training: Curve
    validation: Curve
    overfits: bool
    rows: int | None = None

    @functools.cached_property
    def verdict(self) -> str:
        """What `diagnose` says."""
        columns = {"loss": self.training, "mse": self.training, "val_loss": self.validation, "val_mse": self.validation}
        return ff.diagnose(ff.History(columns, validation_rows=self.rows)).verdict


def histories(originals: Path | None, every: int) -> Iterator[Run]:
    """Every so many of those labeled by hand, where the file is."""
    directory = originals or os.environ.get("FLAXFIT_ORIGINALS")
    if directory and not Path(directory).is_dir():
        raise FileNotFoundError(f"the directory of originals {directory} does not exist: check --originals or FLAXFIT_ORIGINALS.")
    path = Path(directory or "") / "histories" / "simulated.npz"
    if not directory or not path.is_file():
        return
    with np.load(path) as data:
        columns = [data[name][::every] for name in ("train_loss", "val_loss", "epochs", "overfit")]
    for training, validation, epochs, overfit in zip(*columns, strict=True):
        yield Run("labeled by hand", training[:epochs].astype(float), validation[:epochs].astype(float), bool(overfit))


def networks(kinds: Sequence[tuple[int, bool]], count: int, epochs: int, fresh_rows: int) -> Iterator[Run]:
    """So many networks of each kind and fix, which learn Friedman's function, or two classes."""
    import optax

    def task(classes: bool, penalty: float, dropout: float) -> ff.Task:
        loss = ff.losses.binary_crossentropy if classes else ff.losses.mse
        l2 = ff.penalties.l2(penalty) if penalty else None
        return ff.Task(ff.nn.MLP((64, 64), 1, dropout=dropout), loss, optax.adam(3e-3), penalty=l2)

    for rows, classes in kinds:
        group = f"{rows:,} rows of {'two classes' if classes else 'Friedman'}"
        for penalty, dropout in ((0.0, 0.0), (3e-3, 0.0), (0.0, 0.3)):
            for seed in range(count):
                train, validation, fresh = (friedman(seed, part, size, classes) for part, size in enumerate((rows, ROWS, fresh_rows)))
                one = task(classes, penalty, dropout)
                # What validates does not change the training: equal seeds, equal weights.
                seen, truth = (
                    ff.fit(one, train, validation=data, epochs=epochs, batch_size=rows // 10, seed=seed).history
                    for data in (validation, fresh)
                )
                name = seen.data_loss
                yield Run(group, seen[name], seen[f"val_{name}"], rises_truly(truth[f"val_{name}"]), ROWS)


def friedman(seed: int, part: int, rows: int, classes: bool) -> ff.Dataset:
    """Friedman's first function of ten features, and noise; or whether it is above its mean."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(rows, noise=1.0, random_state=10 * seed + part)
    y = (y > 14.4) if classes else (y - 14.4) / 4.9
    return ff.Dataset(x.astype(np.float32), y.astype(np.float32)[:, None])


def rises_truly(loss: Curve) -> bool:
    """By over 2%, from the lowest mean of a twentieth of the epochs to the last."""
    levels = np.convolve(loss, np.full(len(loss) // 20, 20 / len(loss)), "valid")
    return bool(levels[-1] > (1 + TRULY) * levels.min())


def replays(patience: Any, longest: int) -> Callable[[Run], int]:
    """A function that tells after how many epochs a patience stops a run: the stopper sees the curves that the run has logged."""
    import jax
    import jax.numpy as jnp

    stopping = ff.EarlyStopping("val_loss", patience=patience)

    def epoch(state: Any, values: Any) -> tuple[Any, Any]:
        state = stopping.update(state, values[0], values[1], values[2])
        return state, state.stopped

    @jax.jit
    def stops(validation: Any, training: Any) -> Any:
        return jax.lax.scan(epoch, stopping.init(), (validation, jnp.arange(1, longest + 1), training))[1]

    def end(run: Run) -> int:
        count = len(run.validation)
        padded = (np.pad(values, (0, longest - count), constant_values=np.nan) for values in (run.validation, run.training))
        found = np.flatnonzero(np.asarray(stops(*padded))[:count])
        return int(found[0]) + 1 if len(found) else count

    return end
