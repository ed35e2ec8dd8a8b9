"""How often is a diagnosis wrong, and what does early stopping on it cost?

Judges curves whose truth is known. Simulated ones, with and without a rise, of 20 to 1,000 epochs. 419 training histories that were labeled
by hand (Li et al. 2024), where a directory of originals holds `histories/simulated.npz`. Networks that overfit if their loss on fresh rows
rises by over 2%. Prints tables: how often `diagnose` finds a rise where there is none and where there is one, how often the range of the
onset holds the true minimum and how wide it is, and what `EarlyStopping(patience="auto")` keeps and saves beside a patience of 5 to 80. It
needs no network connection and takes about 15 minutes on 2 cores, with `--quick` about one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from known_runs import KINDS, Run, histories, networks, replays
from options import WithOriginals
from simulated_curves import FAMILIES, Curve, Family

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


LENGTHS = (20, 50, 100, 200, 1000)
ROSE = ("overfitted", "possibly overfitted", "slightly overfitted")
PATIENCES = ("auto", 5, 10, 20, 40, 80)


def main(config: Config) -> None:
    if config.quick:
        config = replace(config, draws=3, nets=1, epochs=60, fresh=500, histories=40)
    labeled = list(histories(config.originals, config.histories))
    trained = networks(KINDS[:1] if config.quick else KINDS, config.nets, config.epochs, config.fresh)
    lengths = [f"{length:,}" for length in LENGTHS]
    show("No rise: how often one is found, by epochs", ["family", *lengths], false_alarms(config))
    show("A rise: found / onset's range holds the minimum / its median share of the run", ["family", *lengths], rises(config))
    columns = ["runs", "overfit", "overfitted", "precision", "recall", "F1", "the others that are slightly overfitted"]
    stopping = ["patience", "best epoch kept", "loss in excess", "share of epochs"]
    if not labeled:
        print("\nHistories: left out. Name a directory that has histories/simulated.npz in --originals or FLAXFIT_ORIGINALS.")
    for name, runs in (("Histories", labeled), ("Networks", trained)):
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


if __name__ == "__main__":
    script(main, Config, __doc__)
