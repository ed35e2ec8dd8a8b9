"""Scores of the members of a population, and how they are averaged, paired and corrected, given how the members were made."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flaxfit.arguments import Mode, unknown
from flaxfit.history import History
from flaxfit.report.statistics import ROWS, SEEDS, SEEDS_AND_ROWS, Bounds, Comparison, Interval, compare, family, interval
from flaxfit.storage.directory import RunDirectory
from flaxfit.sweep.grid import name_of
from flaxfit.sweep.tables import Comparisons, Row, Table
from flaxfit.train.job import Member

_IN_TIME = (
    "in the order of time, each fold trains on more rows than the one before and shares them with it, while the correction for shared rows "
    "(Nadeau and Bengio 2003) needs splits that might as well have come in another order"
)


@dataclass(frozen=True, eq=False)
class Scored:
    """One score a member, or one a member and held-out row."""

    members: Sequence[Member]  # of the population
    history: History  # of one of them, which knows the modes of metrics
    title: str  # what was scored, and where
    name: str  # of the metric, or empty for scores without a name
    values: np.ndarray  # shape (members,) or (members, rows)
    # of each member the rows learned from and held out; None where it is not of a split, or nothing is held out
    sizes: Sequence[tuple[int, int] | None]
    collapsed: np.ndarray  # which members were no better than a constant prediction, shape (members,)
    notes: tuple[str, ...] = ()  # what else a table of them has to say
    in_time: bool = False  # whether members are of folds in the order of time, for whose mean no interval is known

    @functools.cached_property
    def settings(self) -> list[Mapping[str, Any]]:
        """The different settings, in order."""
        return settings_of(self.members)

    @property
    def split(self) -> bool:
        """Whether members are of splits."""
        return any(member.fold is not None for member in self.members)

    @property
    def ratio(self) -> float | None:
        """Rows held out / rows learned from, where members are of splits that share rows."""
        known = [size for size in self.sizes if size is not None]
        return sum(held for _, held in known) / sum(learned for learned, _ in known) if self.split and known else None

    @property
    def covers(self) -> str:
        """What intervals cover, and what not."""
        if self.in_time:
            return ""
        seeds = max(Counter((name_of(m.setting), m.fold) for m in self.members).values())
        if not self.split:
            return SEEDS if self.values.ndim == 1 else SEEDS_AND_ROWS if seeds > 1 else ROWS
        averaged = f"scores are means of {seeds} seeds" if seeds > 1 else "not seeds"
        if self.ratio is None:
            return f"splits, as if they shared no rows; {averaged}"
        return f"which rows were trained on and held out, corrected for shared rows; {averaged}"

    @property
    def bounds(self) -> Bounds:
        """The least and the largest value of the metric, as far as known."""
        task, name = self.members[0].task, self.name.removeprefix("val_")
        known = getattr(task.loss if name == task.loss_name else task.metrics.get(name), "__name__", "")
        if known in ("binary_accuracy", "categorical_accuracy") or known.startswith("top_"):
            return 0.0, 1.0
        return (0.0, math.inf) if known in ("mse", "mae", "binary_crossentropy", "categorical_crossentropy") else (-math.inf, math.inf)

    def larger_is_better(self, mode: Mode | None) -> bool:
        """Whether larger scores are better.

        Raises:
          ValueError: neither the metric nor `mode` says it.
        """
        if mode is None and not self.name:
            raise ValueError('it is not known whether these scores are best when small or large: pass mode="min" or mode="max".')
        return self.history.mode(self.name, mode) == "max"

    def table(self, level: float) -> Table:
        """See `Study.table`."""

        def row(setting: Mapping[str, Any]) -> Row:
            own = chosen(self.members, setting)
            scores, fallen = self._grouped(own), own[self.collapsed[own]]
            shown = scores if scores.ndim == 1 else scores.mean(1)
            without = self._interval(self._grouped(np.setdiff1d(own, fallen)), level) if len(fallen) else None
            names = tuple(self.members[i].name for i in fallen)
            return Row(setting, shown, self._interval(scores, level), len(own), int((~self._finite[own]).sum()), names, without)

        notes = (f"No interval is given: {_IN_TIME}.", *self.notes) if self.in_time else self.notes
        return Table(self.title, [row(setting) for setting in self.settings], self.covers, notes)

    def rank(self, mode: Mode | None) -> list[Mapping[str, Any]]:
        """See `Study.rank`."""
        sign, rows = -1 if self.larger_is_better(mode) else 1, self.table(0.95).rows
        order = sorted(range(len(rows)), key=lambda i: (rows[i].broken > 0, sign * rows[i].interval.mean))
        return [rows[index].setting for index in order]

    def compare(self, a: Mapping[str, Any], b: Mapping[str, Any], level: float, mode: Mode | None, margin: float | None) -> Comparison:
        """See `Study.compare`."""
        if self.in_time:
            raise ValueError(f"no test is known for these scores: {_IN_TIME}. per_fold(metric) has them.")
        sides = [self.only(a), self.only(b)]
        cells = [{(self.members[i].fold, self.members[i].seed): i for i in side} for side in sides]
        common = [cell for cell in cells[0] if cell in cells[1]]
        folds = [fold for fold in dict.fromkeys(fold for fold, _ in cells[0]) if fold in {fold for fold, _ in cells[1]}]
        method = "paired"
        if self.split:
            if not folds:
                raise ValueError("the two settings have no common split.")

            def means(side: Mapping[Any, int]) -> list[float]:
                """Of each split, over the common seeds, or where there are none over all of the setting."""
                some = [[c for c in common if c[0] == fold] or [c for c in side if c[0] == fold] for fold in folds]
                return [float(np.mean([self.values[side[cell]] for cell in each])) for each in some]

            x, y = means(cells[0]), means(cells[1])
            method = "paired" if self.ratio is None else "corrected"
        elif common:
            x, y = ([self.values[side[cell]] for cell in common] for side in cells)
        else:
            x, y = (self.values[side] for side in sides)
            method = "unpaired"
        options: dict[str, Any] = {"level": level, "method": method, "test_ratio": self.ratio, "margin": margin, "bounds": self.bounds}
        found = compare(x, y, larger_is_better=self.larger_is_better(mode), names=(name_of(a), name_of(b)), **options)
        return replace(found, covers=self.covers)

    def compare_all(self, baseline: Mapping[str, Any], level: float, mode: Mode | None, margin: float | None) -> Comparisons:
        """See `Study.compare_all`."""
        own = self.only(baseline)
        others = [setting for setting in self.settings if setting != self.members[own[0]].setting]
        if not others or not self._finite[own].all():
            why = f"{int((~self._finite[own]).sum())} of its scores are not finite" if others else "there is no other setting"
            raise ValueError(f"nothing can be compared with {name_of(baseline)}: {why}.")
        broken = {name_of(setting): int((~self._finite[chosen(self.members, setting)]).sum()) for setting in others}
        compared = [self.compare(baseline, setting, level, mode, margin) for setting in others if not broken[name_of(setting)]]
        broken = {name: count for name, count in broken.items() if count}
        return Comparisons(self.title, name_of(baseline), family(compared), broken, self.covers, self.notes)

    def only(self, setting: Mapping[str, Any]) -> np.ndarray:
        """The members of what must be one setting.

        Raises:
          ValueError: hyperparameters that are not there, or pick more than one setting.
        """
        found = chosen(self.members, setting)
        if len({name_of(self.members[i].setting) for i in found}) > 1:
            raise ValueError(f"{name_of(setting)} picks more than one setting: name all hyperparameters that differ.")
        return found

    @functools.cached_property
    def _finite(self) -> np.ndarray:
        """Of which members the scores are finite."""
        return np.array([bool(np.isfinite(value).all()) for value in self.values])

    def _grouped(self, chosen: np.ndarray) -> np.ndarray:
        """The finite values of some members, a split's averaged over its seeds."""
        finite = [i for i in chosen if self._finite[i]]
        if not self.split:
            return self.values[finite]
        folds = dict.fromkeys(self.members[i].fold for i in finite)
        return np.array([np.mean([self.values[i] for i in finite if self.members[i].fold == fold]) for fold in folds])

    def _interval(self, values: np.ndarray, level: float) -> Interval:
        if not len(values):
            return Interval(math.nan, math.nan, math.nan, math.nan, 0, level)
        if self.in_time:
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            return Interval(float(np.mean(values)), math.nan, math.nan, sd, len(values), level, "none")
        method = "crossed" if values.ndim == 2 else "t" if self.ratio is None else "corrected"
        return interval(values, level, method, test_ratio=self.ratio, bounds=self.bounds)


def settings_of(members: Sequence[Member]) -> list[Mapping[str, Any]]:
    """The different settings of members, in order."""
    return list({name_of(member.setting): member.setting for member in members}.values())


def chosen(members: Sequence[Member], setting: Mapping[str, Any]) -> np.ndarray:
    """Which members have these hyperparameters.

    Raises:
      ValueError: a hyperparameter is not there, or no member has these.
    """
    for name in setting:
        if name not in members[0].setting:
            raise ValueError(unknown("hyperparameter", name, members[0].setting, "in the grid"))
    found = [i for i, m in enumerate(members) if all(m.setting[name] == value for name, value in setting.items())]
    if not found:
        raise ValueError(f"no member has {name_of(setting)}: the settings are {[dict(s) for s in settings_of(members)]}.")
    return np.array(found)


def looks(members: Sequence[Member], directory: RunDirectory | None) -> tuple[str, ...]:
    """A note if a population was looked at before it grew; its directory remembers with how many runs of a setting it is looked at."""
    if directory is None or not directory.path.is_dir():
        return ()
    path, runs, before = directory.path / "looks.json", max(Counter(name_of(m.setting) for m in members).values()), []
    with contextlib.suppress(OSError, ValueError):  # there is none, or it cannot be read or written
        before = json.loads(path.read_text())
    if runs not in before:
        with contextlib.suppress(OSError):
            path.write_text(json.dumps(sorted([*before, runs])))
    if not (earlier := ", ".join(str(look) for look in before if look < runs)):
        return ()
    return (f"Looked at before, with {earlier} runs of a setting: verdicts err more often than their level says.",)


def check_objective(members: Sequence[Member], name: str) -> None:
    """Checks that a metric is comparable between settings, which the objective is not, because it includes each setting's penalty.

    Raises:
      ValueError: it does not.
    """
    if name.removeprefix("val_") != "loss" or not any(member.task.penalty for member in members):
        return
    if len({name_of(member.setting) for member in members}) > 1:
        raise ValueError(
            f"{name} includes the penalty of each setting, which says nothing about what it learned: compare the data loss "
            f"({members[0].task.loss_name}, the default) or a metric."
        )


def check_comparable(members: Sequence[Member]) -> None:
    """Checks that members have the same data loss.

    Raises:
      ValueError: they differ, or their classes are weighted differently.
    """
    kinds = {"losses": [_loss_of(m.task.loss) for m in members], "class weights": [str(m.class_weight) for m in members]}
    for what, found in kinds.items():
        if len(different := list(dict.fromkeys(found))) > 1:
            raise ValueError(
                f"these runs have different {what} ({different[0]} and {different[1]}): name the metric to compare, metric=..., such as "
                "an accuracy."
            )


def _loss_of(function: Any) -> str:
    """Which loss it is, with its arguments as far as they are plain."""
    keywords: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        keywords, function = {**function.keywords, **keywords}, function.func
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    given = [f"{name}={value}" for name, value in keywords.items()] + [str(cell) for cell in cells if isinstance(cell, int | float | str)]
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name}({', '.join(given)})" if given else name
