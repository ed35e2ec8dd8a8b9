"""How often is a diagnosis wrong, and what does early stopping on it cost?

Judges curves whose truth is known. Simulated ones, with and without a rise, of 20 to 1,000 epochs. 419 training histories that were labeled
by hand (Li et al. 2024), where a directory of originals holds `histories/simulated.npz`. Networks that overfit if their loss on fresh rows
rises by over 2%. Prints tables: how often `diagnose` finds a rise where there is none and where there is one, how often the range of the
onset holds the true minimum and how wide it is, and what `EarlyStopping(patience="auto")` keeps and saves beside a patience of 5 to 80. It
needs no network connection and takes about 15 minutes on 2 cores, with `--quick` about one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from options import WithOriginals

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals):
    """Options."""

    draws: int = 200
    """How many simulated curves of each family and length."""
    nets: int = 4
    """How many networks of each kind. The seeds 0, 1, ... decide the rows, the initial weights and the batches."""
    epochs: int = 400
    """How many epochs to train each of them."""
    fresh: int = 2000
    """How many fresh rows tell whether a network overfits."""
    histories: int = 1
    """Every how many of the labeled histories to judge."""
    seed: int = 0
    """The seed of the simulation."""
    quick: bool = False
    """A short version: 3 curves of each family, a network with each fix on 100 rows for 60 epochs, every fortieth history."""


Curve = np.ndarray

LENGTHS = (20, 50, 100, 200, 1000)
ROSE = ("overfitted", "possibly overfitted", "slightly overfitted")
PATIENCES = ("auto", 5, 10, 20, 40, 80)
KINDS = ((100, False), (500, False), (2000, False), (500, True))  # of networks: rows to train, whether they tell two classes apart
ROWS = 700  # that validate a network
TRULY = 0.02  # a network overfits if its loss on fresh rows rises by more than this share of its lowest


def main(config: Config) -> None:
    if config.quick:
        config = replace(config, draws=3, nets=1, epochs=60, fresh=500, histories=40)
    labeled = list(histories(config))
    lengths = [f"{length:,}" for length in LENGTHS]
    show("No rise: how often one is found, by epochs", ["family", *lengths], false_alarms(config))
    show("A rise: found / onset's range holds the minimum / its median share of the run", ["family", *lengths], rises(config))
    columns = ["runs", "overfit", "overfitted", "precision", "recall", "F1", "the others that are slightly overfitted"]
    stopping = ["patience", "best epoch kept", "loss in excess", "share of epochs"]
    if not labeled:
        print("\nHistories: left out. Name a directory that has histories/simulated.npz in --originals or FLAXFIT_ORIGINALS.")
    for name, runs in (("Histories", labeled), ("Networks", networks(config))):
        if not (runs := list(runs)):
            continue
        show(f"{name}: verdicts", ["group", *columns], verdicts(runs))
        for overfit, which in ((True, "that overfit"), (False, "that do not")):
            if some := [run for run in runs if run.overfits == overfit]:
                show(f"{name} {which}, {len(some)}: early stopping", stopping, stopped(some))


def show(title: str, columns: Sequence[str], rows: Any) -> None:
    """Prints a table in Markdown."""
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=MARKDOWN)
    for row in rows:
        table.add_row(*row)
    print(f"\n{title}")
    Console(width=200).print(table)


# Simulated curves. The unit is the standard deviation of white noise.


@dataclass(frozen=True)
class Family:
    """Simulated validation curves of one kind."""

    curve: Callable[[Curve], Any]
    """The time of each epoch, from 0 to 1 -> the loss without its noise."""
    correlation: float = 0.0
    """Between the noise of neighboring epochs, which is AR(1)."""
    spread: Callable[[Curve], Any] | float = 1.0
    """The standard deviation of the noise, or what gives it for each time."""
    change: Callable[[Curve, np.random.Generator], Curve] = lambda values, rng: values
    """What happens to the curve with its noise."""
    rows: int | None = None
    """It is an accuracy, from 0 down to -1, on so many rows."""

    def draw(self, rng: np.random.Generator, length: int) -> Curve:
        """One curve."""
        t = np.linspace(0, 1, length)
        spread = self.spread(t) if callable(self.spread) else self.spread
        return self.change(self.curve(t) + spread * noise(rng, length, self.correlation), rng)

    def lowest(self, length: int) -> Curve:
        """The epochs at which the curve without its noise is lowest, to a fiftieth of its rise; none where it does not rise."""
        levels = self.curve(np.linspace(0, 1, length)) + np.zeros(length)
        rise = levels[-1] - levels.min()
        return 1 + np.flatnonzero(levels <= levels.min() + rise / 50) if rise > 0 else np.array([])


def noise(rng: np.random.Generator, count: int, correlation: float = 0.0) -> Curve:
    """AR(1) of unit variance."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([1], [1, -correlation], rng.standard_normal(count + 200)))[200:] * (1 - correlation**2) ** 0.5


def flat(t: Curve) -> Curve:
    return 0 * t


def fall(t: Curve) -> Curve:
    """Most of it in the first tenth."""
    return 10 * np.exp(-20 * t)


def after(t: Curve, start: float) -> Curve:
    """From 0 at a time to 1 at the end."""
    return np.maximum(t - start, 0) / (1 - start)


def growing(t: Curve) -> Curve:
    """A standard deviation."""
    return 0.3 + 1.4 * t


def drop(at: float, rise: float) -> Family:
    """The learning rate falls: the loss by 10 with it, and the noise to 0.3. From then on the loss rises by so many times 0.3."""
    return Family(lambda t: np.where(t < at, 10, 0.3 * rise * after(t, at)), spread=lambda t: np.where(t < at, 1, 0.3))


def impatient(values: Curve, rng: np.random.Generator) -> Curve:
    """Ended by a patience of a tenth of the epochs, so that it ends above its lowest."""
    patience = len(values) // 10
    best = np.flatnonzero(values == np.minimum.accumulate(values))
    late = np.flatnonzero(np.diff(best, append=len(values)) > patience)
    return values[: best[late[0]] + patience + 1] if len(late) else values


def right(rows: int) -> Family:
    """The accuracy on some rows, whose margins wander from epoch to epoch."""

    def change(values: Curve, rng: np.random.Generator) -> Curve:
        margins = 1 + rng.standard_normal((rows, 1)) + np.stack([noise(rng, len(values), 0.9) for _ in range(rows)])
        return -(margins > 0).mean(0)

    return Family(flat, change=change, rows=rows)


FAMILIES = {
    "white noise": Family(flat),
    "AR(1) noise, 0.5": Family(flat, 0.5),
    "AR(1) noise, 0.9": Family(flat, 0.9),
    "noise that grows, from 0.3 to 1.7": Family(flat, spread=growing),
    "Student's t with 2 degrees": Family(flat, change=lambda values, rng: rng.standard_t(2, len(values))),
    "rounded AR(1) noise, 0.5": Family(flat, 0.5, change=lambda values, rng: np.round(values)),
    "falls, then flat": Family(fall, 0.3),
    "falls as a power": Family(lambda t: 30 * (5 + 100 * t) ** -0.3, 0.3),
    "rate drops at 0.5, then flat": drop(0.5, 0),
    "four warm restarts": Family(lambda t: 5 * np.exp(-5 * t) + 2 * (1 - 3.999 * t % 1), spread=0.3),
    "double descent": Family(lambda t: np.interp(t, [0, 0.15, 0.4, 1], [10, 0, 5, -3]), spread=0.3),
    "a wild last epoch": Family(fall, 0.3, change=lambda values, rng: np.append(values[:-1], 20)),
    "ended by a patience of a tenth": Family(fall, 0.3, change=impatient),
    "accuracy of 42 rows": right(42),
    "accuracy of 100 rows": right(100),
    "2 sd over the last half": Family(lambda t: 2 * after(t, 0.5)),
    "the same, AR(1) 0.3": Family(lambda t: 2 * after(t, 0.5), 0.3),
    "4 sd from 0.4 on, after a fall": Family(lambda t: fall(t) + 4 * after(t, 0.4), 0.3),
    "broad minimum, 4 sd": Family(lambda t: 20 * np.exp(-8 * t) + 9.4 * t, 0.3),
    "30 sd from 0.1 on, after a fall": Family(lambda t: 100 * np.maximum(0.1 - t, 0) + 30 * after(t, 0.1), 0.3),
    "5 sd from 0.5 on, noise that grows": Family(lambda t: fall(t) + 5 * after(t, 0.5), spread=growing),
    "rate drops at 0.5, then 16 sd": drop(0.5, 16),
    "rate drops at 0.8, then 16 sd": drop(0.8, 16),
    "accuracy from 0.995 to 0.987": Family(lambda t: 0.03 * fall(t) + 0.008 * after(t, 0.4) - 0.995, spread=5e-4, rows=10_000),
}


def diagnoses(family: Family, length: int, config: Config) -> list[ff.Diagnosis]:
    """Those of the simulated curves of a family, beside a training curve that improves."""
    rng, sign, found = np.random.default_rng([config.seed, length]), -1 if family.rows else 1, []
    for _ in range(config.draws):
        validation = sign * family.draw(rng, length)
        training = sign * np.geomspace(10, 1, len(validation))
        columns = {"loss": training, "score": training, "val_loss": validation, "val_score": validation}
        found.append(ff.diagnose(ff.History(columns, validation_rows=family.rows), "score", mode="max" if family.rows else "min"))
    return found


def false_alarms(config: Config) -> Iterator[list[str]]:
    """A row a family that does not rise."""
    for name, family in FAMILIES.items():
        if not len(family.lowest(100)):
            shares = (np.mean([one.verdict in ROSE for one in diagnoses(family, length, config)]) for length in LENGTHS)
            yield [name, *(f"{share:.1%}" for share in shares)]


def rises(config: Config) -> Iterator[list[str]]:
    """A row a family that rises."""
    for name, family in FAMILIES.items():
        if len(family.lowest(100)):
            yield [name, *(rise(diagnoses(family, length, config), family.lowest(length), length) for length in LENGTHS)]


def rise(found: list[ff.Diagnosis], lowest: Curve, length: int) -> str:
    """How many found it, how many ranges of the onset hold a lowest epoch, and how wide they are."""
    onsets = np.array([one.onset for one in found if one.verdict in ROSE]).reshape(-1, 2)
    if len(onsets) < len(found) / 10:
        return f"{len(onsets) / len(found):.0%}"
    held = (lowest[0] <= onsets[:, 1]) & (onsets[:, 0] <= lowest[-1])
    return f"{len(onsets) / len(found):.0%} / {held.mean():.0%} / {np.median(np.diff(onsets) + 1) / length:.2f}"


# Curves of training.


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


def histories(config: Config) -> Iterator[Run]:
    """Those labeled by hand, where the file is."""
    directory = config.originals or os.environ.get("FLAXFIT_ORIGINALS")
    if directory and not Path(directory).is_dir():
        raise FileNotFoundError(f"the directory of originals {directory} does not exist: check --originals or FLAXFIT_ORIGINALS.")
    path = Path(directory or "") / "histories" / "simulated.npz"
    if not directory or not path.is_file():
        return
    with np.load(path) as data:
        columns = [data[name][:: config.histories] for name in ("train_loss", "val_loss", "epochs", "overfit")]
    for training, validation, epochs, overfit in zip(*columns, strict=True):
        yield Run("labeled by hand", training[:epochs].astype(float), validation[:epochs].astype(float), bool(overfit))


def networks(config: Config) -> Iterator[Run]:
    """Networks that learn Friedman's function from 100, 500 or 2,000 rows, or two classes from 500."""
    import optax

    def task(classes: bool, penalty: float, dropout: float) -> ff.Task:
        loss = ff.losses.binary_crossentropy if classes else ff.losses.mse
        l2 = ff.penalties.l2(penalty) if penalty else None
        return ff.Task(ff.nn.MLP((64, 64), 1, dropout=dropout), loss, optax.adam(3e-3), penalty=l2)

    for rows, classes in KINDS[:1] if config.quick else KINDS:
        group = f"{rows:,} rows of {'two classes' if classes else 'Friedman'}"
        for penalty, dropout in ((0.0, 0.0), (3e-3, 0.0), (0.0, 0.3)):
            for seed in range(config.nets):
                train, validation, fresh = (friedman(seed, part, count, classes) for part, count in enumerate((rows, ROWS, config.fresh)))
                one = task(classes, penalty, dropout)
                # What validates does not change the training: equal seeds, equal weights.
                seen, truth = (
                    ff.fit(one, train, validation=data, epochs=config.epochs, batch_size=rows // 10, seed=seed).history
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


def verdicts(runs: list[Run]) -> Iterator[list[str]]:
    """A row a group of runs, and one for all."""
    groups = list(dict.fromkeys(run.group for run in runs))
    for group in [*groups, "all"] if len(groups) > 1 else groups:
        some = [run for run in runs if group in (run.group, "all")]
        truth = np.array([run.overfits for run in some])
        called = np.array([run.verdict in ROSE[:2] for run in some])
        slightly = np.array([run.verdict == ROSE[2] for run in some])
        right = (truth & called).sum()
        ratios = [(right, called.sum()), (right, truth.sum()), (2 * right, called.sum() + truth.sum()), (slightly.sum(), (~called).sum())]
        yield [group, *map(str, (len(some), truth.sum(), called.sum())), *(f"{a / b:.2f}" if b else "" for a, b in ratios)]


def stopped(runs: list[Run]) -> Iterator[list[str]]:
    """A row a patience."""
    longest = max(len(run.validation) for run in runs)
    for patience in PATIENCES:
        ends = replays(patience, longest)
        kept, excess, share = [], [], []
        for run in runs:
            end, values = ends(run), run.validation
            excess.append(values[:end].min() / values.min() - 1)
            kept.append(excess[-1] <= 1e-4)
            share.append(end / len(values))
        yield [str(patience), f"{np.mean(kept):.1%}", f"{np.mean(excess):.2%}", f"{np.mean(share):.0%}"]


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


if __name__ == "__main__":
    script(main, Config, __doc__)
