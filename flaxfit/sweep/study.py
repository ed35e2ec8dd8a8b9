"""What a population gave, and what can be said of it: means with intervals, comparisons over common seeds, ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxfit.arguments import Mode, unknown
from flaxfit.data.dataset import Dataset
from flaxfit.report.statistics import Comparison, Interval, compare, interval
from flaxfit.storage.directory import RunDirectory
from flaxfit.sweep.grid import name_of
from flaxfit.train.evaluate import evaluate_member, predict_member
from flaxfit.train.export import export
from flaxfit.train.job import Member
from flaxfit.train.result import Result

At = Literal["best", "last"]


@dataclass(frozen=True)
class Row:
    """One setting in a `Table`: its scores, and the interval of those that are finite."""

    setting: Mapping[str, Any]
    scores: np.ndarray
    interval: Interval


@dataclass(frozen=True)
class Table:
    """Scores by setting; its text is a table of mean, standard deviation and interval."""

    metric: str
    rows: Sequence[Row]

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table as RichTable

        level = f"{self.rows[0].interval.level:.0%} interval"
        table = RichTable(title=self.metric)
        for column in (*(self.rows[0].setting or {"": ""}), "runs", "mean", "standard deviation", level):
            table.add_column(column)
        for row in self.rows:
            i = row.interval
            bounds = "-" if i.count < 2 else f"{i.low:.4f} to {i.high:.4f}"
            sd = "-" if i.count < 2 else f"{i.sd:.4f}"
            broken = len(row.scores) - i.count
            runs = f"{i.count}, {broken} not finite" if broken else str(i.count)
            table.add_row(*(str(value) for value in (row.setting or {"": ""}).values()), runs, f"{i.mean:.4f}", sd, bounds)
        console = Console(width=140, no_color=True, force_terminal=False)
        with console.capture() as text:
            console.print(table)
        return text.get().rstrip()


@dataclass(frozen=True, eq=False)
class Study:
    """A population that has been trained. Members are in the order of the grid, then of folds, then of seeds.

    Wherever a metric is asked for, it is a column of the histories, such as `val_accuracy` (None: what was monitored), read `at` the
    epoch that is best by the monitor, or the last; or an array of scores, one a member, such as `evaluate(test)["accuracy"]`.

    Attributes:
      members: who they were.
      results: what `fit` would have returned for each.
      monitor: the monitored metric.
      seconds: wall time of training, compilation included.
      directory: the population's directory, or None.
    """

    members: Sequence[Member]
    results: Sequence[Result]
    monitor: str
    seconds: float
    directory: RunDirectory | None = None

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"Study({len(self)} runs of {len(self.settings)} settings in {self.seconds:.3g} s)"

    def __add__(self, other: Study) -> Study:
        """The members of both, of populations that were trained apart. Where they have folds, those of a number must be the same rows.

        Raises:
          ValueError: they monitor different metrics, have other hyperparameters, or a member in common.
        """
        names = {member.name for member in self.members} & {member.name for member in other.members}
        kinds = [sorted({name for member in study.members for name in member.setting}) for study in (self, other)]
        facts = {
            f"they monitor {self.monitor} and {other.monitor}": self.monitor != other.monitor,
            f"both have {min(names, default='')}": bool(names),
            f"their hyperparameters are {kinds[0]} and {kinds[1]}": kinds[0] != kinds[1],
        }
        if wrong := [fact for fact, there in facts.items() if there]:
            raise ValueError(f"these studies cannot be joined: {wrong[0]}.")
        return Study([*self.members, *other.members], [*self.results, *other.results], self.monitor, self.seconds + other.seconds)

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """The different settings, in order."""
        return list({name_of(member.setting): member.setting for member in self.members}.values())

    def scores(self, metric: str | np.ndarray | None = None, at: At = "best") -> np.ndarray:
        """One score a member, shape (members,).

        Raises:
          KeyError, ValueError: an unknown column or place, an array of another length.
        """
        if metric is None or isinstance(metric, str):
            name = metric or self.monitor
            return np.array([float(result.history[name][_index(result, at)]) for result in self.results])
        scores = np.asarray(metric, float)
        if scores.shape != (len(self),):
            raise ValueError(f"scores must be one number a member, shape ({len(self)},), got {scores.shape}.")
        return scores

    def select(self, **setting: Any) -> Study:
        """The members whose hyperparameters have these values.

        Raises:
          ValueError: there are none.
        """
        for name in setting:
            if name not in self.members[0].setting:
                raise ValueError(unknown("hyperparameter", name, self.members[0].setting, "in the grid"))
        chosen = self._chosen(setting)
        if not len(chosen):
            values = [dict(s) for s in self.settings]
            raise ValueError(f"no member has {name_of(setting)}: the settings are {values}.")
        return Study([self.members[i] for i in chosen], [self.results[i] for i in chosen], self.monitor, self.seconds, self.directory)

    def table(
        self,
        metric: str | np.ndarray | None = None,
        at: At = "best",
        *,
        level: float = 0.95,
        method: Literal["t", "bootstrap"] = "t",
    ) -> Table:
        """Mean, standard deviation and interval of each setting, over its seeds (and folds) whose score is finite."""
        scores = self.scores(metric, at)

        def row(setting: Mapping[str, Any]) -> Row:
            group = scores[self._chosen(setting)]
            finite = group[np.isfinite(group)]
            none = Interval(np.nan, np.nan, np.nan, np.nan, 0, level, method)
            return Row(setting, group, interval(finite, level, method) if len(finite) else none)

        rows = [row(setting) for setting in self.settings]
        return Table(f"{metric or self.monitor} at the {at} epoch" if metric is None or isinstance(metric, str) else "scores", rows)

    def compare(
        self,
        a: Mapping[str, Any],
        b: Mapping[str, Any],
        metric: str | np.ndarray | None = None,
        at: At = "best",
        *,
        level: float = 0.95,
        mode: Mode | None = None,
    ) -> Comparison:
        """Whether setting `b` is better than `a`: differences over common seeds (and folds), of which chance is shared.

        Args:
          a: hyperparameters that pick one setting.
          b: likewise.
          metric: what to compare.
          at: where.
          level: of the interval.
          mode: "min" or "max", for an array of scores and for a metric that does not say it itself.

        Raises:
          ValueError: a setting that is not there, no common seeds, or a metric that does not say its mode.
        """
        scores = self.scores(metric, at)
        larger_is_better = self.mode(metric, mode) == "max"
        sides = []
        for setting in (a, b):
            self.select(**setting)
            sides.append({(self.members[i].seed, self.members[i].fold): scores[i] for i in self._chosen(setting)})
            if len(sides[-1]) < len(self._chosen(setting)):
                raise ValueError(f"{name_of(setting)} picks more than one setting: name all hyperparameters that differ.")
        common = [key for key in sides[0] if key in sides[1]]
        if not common:
            raise ValueError("the two settings have no common seed.")
        x, y = (np.array([side[key] for key in common]) for side in sides)
        return compare(x, y, level=level, larger_is_better=larger_is_better, names=(name_of(a), name_of(b)))

    def rank(self, metric: str | np.ndarray | None = None, at: At = "best", *, mode: Mode | None = None) -> list[Mapping[str, Any]]:
        """The settings, best mean first; one with a score that is not finite last. `mode` as in `compare`."""
        sign, rows = 1 if self.mode(metric, mode) == "min" else -1, self.scores(metric, at)
        means = {index: sign * rows[self._chosen(setting)].mean() for index, setting in enumerate(self.settings)}
        return [self.settings[index] for index in sorted(means, key=lambda i: means[i] if np.isfinite(means[i]) else np.inf)]

    def evaluate(
        self,
        data: Dataset | Sequence[Dataset],
        at: At = "best",
        *,
        batch_size: int = 1024,
        metrics: Mapping[str, Callable[..., Any]] | None = None,
    ) -> dict[str, np.ndarray]:
        """`flaxfit.evaluate` for each member, by programs that they share: name -> shape (members,).

        Args:
          data: the rows to score; or a list of them, of which a member scores those at its fold.
          at: where in a run its weights are taken.
          batch_size, metrics: as for `evaluate`.

        Raises:
          ValueError: a list that is not as long as there are folds; and what `evaluate` raises.
        """
        if isinstance(data, Sequence) and {m.fold for m in self.members} != {*range(len(data))}:
            folds = sorted({str(m.fold) for m in self.members})
            raise ValueError(f"evaluate takes one Dataset, or one for each fold: got {len(data)} for the folds {', '.join(folds)}.")
        own = [data[m.fold or 0] if isinstance(data, Sequence) else data for m in self.members]
        scores = [
            evaluate_member(m.programs, m.task, m.numbers, getattr(r, at), rows, batch_size, metrics)
            for m, r, rows in zip(self.members, self.results, own, strict=True)
        ]
        common = [name for name in scores[0] if all(name in score for score in scores)]  # a setting may be another loss
        return {name: np.array([score[name] for score in scores]) for name in common}

    def export(self, member: str, data: Dataset, directory: str | os.PathLike[str] | None = None) -> Path:
        """Writes a member's best model for `flaxfit.load`.

        Args:
          member: its name, such as `l2=0.001,seed=3`.
          data: rows as in training; their shapes and names are kept, not their numbers.
          directory: where to; by default where `flaxfit.load(run_dir, member=...)` looks for it.

        Returns:
          The directory of the export.

        Raises:
          ValueError: there is no such member, or neither a directory nor one of the population.
        """
        names = [m.name for m in self.members]
        if member not in names:
            raise ValueError(unknown("member", member, names))
        if directory is None:
            if self.directory is None:
                raise ValueError("this population has no directory: give export(member, data, directory).")
            directory = self.directory.member(member).export
        m, result = self.members[names.index(member)], self.results[names.index(member)]
        about = {"best_epoch": result.best_epoch, "epochs": len(result.history.epochs), "stop_reason": result.stop_reason}
        return export(Path(directory), m.task, result.best, data[:1], about={**about, "member": member})

    def predict(self, x: Any, at: At = "best", *, batch_size: int = 1024) -> list[Any]:
        """`flaxfit.predict` for each member."""
        pairs = zip(self.members, self.results, strict=True)
        return [predict_member(m.programs, m.task, m.numbers, getattr(r, at), x, batch_size) for m, r in pairs]

    def mode(self, metric: str | np.ndarray | None = None, given: Mode | None = None) -> Mode:
        """Whether a metric is best when small or large.

        Args:
          metric: as everywhere here.
          given: the caller's own `mode=` argument, which wins. An array of scores needs it.

        Raises:
          ValueError: the metric does not say, or `given` is neither "min" nor "max".
        """
        if given is None and not (metric is None or isinstance(metric, str)):
            raise ValueError('an array of scores does not say whether larger is better: give mode="min" or mode="max".')
        return self.results[0].history.mode(metric if isinstance(metric, str) else self.monitor, given)

    def _chosen(self, setting: Mapping[str, Any]) -> np.ndarray:
        return np.array([i for i, m in enumerate(self.members) if all(m.setting[name] == value for name, value in setting.items())], int)


def _index(result: Result, at: At) -> int:
    if at not in ("best", "last"):
        raise ValueError(unknown("place in a run", str(at), ("best", "last")))
    return -1 if at == "last" or result.best_epoch is None else result.best_epoch - 1
