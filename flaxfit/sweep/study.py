"""The results of a population: means with intervals, comparisons over common seeds, ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxfit.arguments import Mode, unknown
from flaxfit.data.dataset import Dataset
from flaxfit.history import History
from flaxfit.programs.evaluate import evaluate_member, predict_member, score_rows
from flaxfit.programs.export import export
from flaxfit.report.statistics import Comparison
from flaxfit.sections import Section, Shown
from flaxfit.storage.directory import RunDirectory
from flaxfit.sweep.collapsed import by_history, by_rows
from flaxfit.sweep.grid import name_of
from flaxfit.sweep.scored import Scored, check_comparable, check_objective, chosen, looks, settings_of
from flaxfit.sweep.tables import Comparisons, Table
from flaxfit.train.job import Member
from flaxfit.train.result import Result

At = Literal["best", "last"]


@dataclass(frozen=True, eq=False)
class Study(Shown):
    """A trained population. Its members are in the order of the grid, then of folds, then of seeds.

    The methods take a `metric`: a column of the histories, such as `val_accuracy`, or an array with one score for each member, such as
    `evaluate(test)["accuracy"]`. With `data=` it is the name of the data loss or of a metric of the task, and the members are scored on
    these examples. The default is the monitored metric, or the data loss if the objective was monitored.

    A column is read `at` the "best" or at the "last" epoch. For a validation column, the best epoch is that of the column itself, and for
    other columns that of the monitored metric. The weights for `data=`, `evaluate` and `predict` are those of the monitored metric's best
    epoch. The default is "best", except in a cross-validation, where held-out examples must not choose the epoch: there it is "last".

    Intervals and comparisons depend on how the members were made. Seeds on one data set are independent runs. Scores on splits that share
    examples are averaged over seeds and corrected (Nadeau and Bengio 2003). With `data=` the variance is that of seeds and of examples
    (see `flaxfit.statistics.interval`). Tables say what their intervals cover.

    Attributes:
      members: the members.
      results: the result of each member, as `fit` would have returned it.
      monitor: the monitored metric.
      seconds: the wall time of training, including compilation.
      directory: the directory of the population, or None.
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

    def sections(self) -> list[Section]:
        """Returns the table of the default metric as a section of a report."""
        try:
            (table,) = self.table().sections()
        except ValueError as error:  # settings that cannot be compared by it
            return [Section("Study", [f"{self!r}.", f"There is no table: {error}"])]
        return [replace(table, paragraphs=[f"{self!r}.", *table.paragraphs])]

    def __add__(self, other: Study) -> Study:
        """Returns the members of two populations that were trained separately. Folds with the same number must have the same examples.

        Raises:
          ValueError: they monitor different metrics, have different hyperparameters, or have a member in common.
        """
        names = {member.name for member in self.members} & {member.name for member in other.members}
        kinds = [sorted({name for member in study.members for name in member.setting}) for study in (self, other)]
        facts = {
            f"they monitor {self.monitor} and {other.monitor}": self._objective() != other._objective(),
            f"both have {min(names, default='')}": bool(names),
            f"their hyperparameters are {kinds[0]} and {kinds[1]}": kinds[0] != kinds[1],
        }
        if wrong := [fact for fact, there in facts.items() if there]:
            raise ValueError(f"these studies cannot be joined: {wrong[0]}.")
        return Study([*self.members, *other.members], [*self.results, *other.results], self.monitor, self.seconds + other.seconds)

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """The different settings, in order."""
        return settings_of(self.members)

    @property
    def curves(self) -> dict[str, list[History]]:
        """The histories of the runs of each setting, by its name. `flaxfit.plots.study_curves` draws them."""
        curves: dict[str, list[History]] = {}
        for member, result in zip(self.members, self.results, strict=True):
            curves.setdefault(name_of(member.setting) or "all runs", []).append(result.history)
        return curves

    def scores(self, metric: str | np.ndarray | None = None, at: At | None = None) -> np.ndarray:
        """Returns one score for each member, shape (members,).

        Raises:
          KeyError: there is no such column.
          ValueError: `at` is unknown, or the array has another length.
        """
        if metric is None or isinstance(metric, str):
            name, at = metric or self._default(), self._at(at)
            return np.array([float(result.history[name][_index(result, name, at)]) for result in self.results])
        scores = np.asarray(metric, float)
        if scores.shape != (len(self),):
            raise ValueError(f"scores must have one number for each member, shape ({len(self)},), got {scores.shape}.")
        return scores

    def select(self, **setting: Any) -> Study:
        """Returns the members whose hyperparameters have these values.

        Raises:
          ValueError: there are no such members.
        """
        return self._part(chosen(self.members, setting))

    def table(
        self,
        metric: str | np.ndarray | None = None,
        at: At | None = None,
        *,
        data: Dataset | Sequence[Dataset] | None = None,
        level: float = 0.95,
    ) -> Table:
        """Returns the mean, interval and standard deviation of each setting, over its seeds or splits with a finite score.

        Runs that are no better than a constant prediction (the class frequencies, or the mean) beyond the noise of the held-out examples
        are listed, with their share and with the mean without them, because a mean over all runs hides them.

        Args:
          metric: the metric to show.
          at: the epoch, "best" or "last".
          data: examples to score the members on, so that intervals cover seeds and examples; or a list with one data set for each fold.
          level: the level of the intervals.

        Raises:
          KeyError: there is no such column.
          ValueError: the metric is the objective, and settings with penalties differ; or no metric is named, and the settings have
            different losses or class weights.
        """
        return self._scored(metric, at, data).table(level)

    def compare(
        self,
        a: Mapping[str, Any],
        b: Mapping[str, Any],
        metric: str | np.ndarray | None = None,
        at: At | None = None,
        *,
        data: Dataset | Sequence[Dataset] | None = None,
        level: float = 0.95,
        mode: Mode | None = None,
        margin: float | None = None,
    ) -> Comparison:
        """Tests whether setting `b` is better than setting `a`.

        Runs with the same seed (and fold) are compared in pairs. Settings without a common seed are compared with Welch's test.

        Args:
          a: the hyperparameters of one setting, as far as they are needed to identify it.
          b: those of the other setting.
          metric: the metric to compare.
          at: the epoch, "best" or "last".
          data: as for `table`.
          level: the level of the interval.
          mode: "min" or "max", for an array of scores or a metric whose mode is not known.
          margin: the smallest difference that matters, chosen beforehand. With a margin, settings can be found equivalent.

        Raises:
          ValueError: there is no such setting or no common split; a score is not finite; the mode is not known. Other errors are those of
            `table`.
        """
        pair = np.unique([i for setting in (a, b) for i in chosen(self.members, setting)])
        values = metric if metric is None or isinstance(metric, str) else self.scores(metric)[pair]
        return self._part(pair)._scored(values, at, data).compare(a, b, level, mode, margin)

    def compare_all(
        self,
        baseline: Mapping[str, Any],
        metric: str | np.ndarray | None = None,
        at: At | None = None,
        *,
        data: Dataset | Sequence[Dataset] | None = None,
        level: float = 0.95,
        mode: Mode | None = None,
        margin: float | None = None,
    ) -> Comparisons:
        """Compares all other settings with a baseline, corrected for their number (see `flaxfit.statistics.family`).

        Args:
          baseline: the hyperparameters of the baseline, as far as they are needed to identify it.
          metric, at, data, level, mode, margin: as for `compare`.

        Raises:
          ValueError: as `compare`; a score of the baseline is not finite; there is no other setting.
        """
        return self._scored(metric, at, data).compare_all(baseline, level, mode, margin)

    def rank(
        self,
        metric: str | np.ndarray | None = None,
        at: At | None = None,
        *,
        data: Dataset | Sequence[Dataset] | None = None,
        mode: Mode | None = None,
    ) -> list[Mapping[str, Any]]:
        """Returns the settings by their mean, the best first. Settings with a score that is not finite come last.

        The arguments are those of `compare`.
        """
        return self._scored(metric, at, data).rank(mode)

    def evaluate(
        self,
        data: Dataset | Sequence[Dataset],
        at: At | None = None,
        *,
        batch_size: int = 1024,
        metrics: Mapping[str, Callable[..., Any]] | None = None,
    ) -> dict[str, np.ndarray]:
        """Evaluates each member with `flaxfit.evaluate`, by programs that they share.

        Args:
          data: the examples; or a list with one data set for each fold.
          at: the epoch of the weights, "best" or "last".
          batch_size, metrics: as for `evaluate`.

        Returns:
          name -> the scores, shape (members,).

        Raises:
          ValueError: the list has another length than there are folds. Other errors are those of `evaluate`.
        """
        scores = [
            evaluate_member(m.programs, m.task, m.numbers, getattr(r, self._at(at)), rows, batch_size, metrics)
            for m, r, rows in zip(self.members, self.results, self._rows_of(data), strict=True)
        ]
        common = [name for name in scores[0] if all(name in score for score in scores)]  # a setting may be another loss
        return {name: np.array([score[name] for score in scores]) for name in common}

    def export(self, member: str | Mapping[str, Any], data: Dataset, directory: str | os.PathLike[str] | None = None) -> Path:
        """Writes the best model of a member for `flaxfit.load`.

        Args:
          member: the name of the member, such as `l2=0.001,seed=3`; or a setting, of which the member with the best monitored score is
            taken.
          data: examples as in training. Only their shapes and names are stored.
          directory: where to write it; by default where `flaxfit.load(run_dir, member=...)` looks for it.

        Returns:
          The directory of the export.

        Raises:
          ValueError: there is no such member; or no directory is given and the population has none.
        """
        names = [m.name for m in self.members]
        if not isinstance(member, str):
            part, sign = self.select(**member), -1 if self.mode(self.monitor) == "max" else 1
            member = part.members[int(np.nanargmin(sign * part.scores(self.monitor, "best")))].name
        if member not in names:
            raise ValueError(unknown("member", member, names))
        if directory is None:
            if self.directory is None:
                raise ValueError("this population has no directory: pass one, export(member, data, directory).")
            directory = self.directory.member(member).export
        m, result = self.members[names.index(member)], self.results[names.index(member)]
        about = {"best_epoch": result.best_epoch, "epochs": len(result.history.epochs), "stop_reason": result.stop_reason}
        return export(Path(directory), m.task, result.best, data[:1], about={**about, "member": member})

    def predict(self, x: Any, at: At | None = None, *, batch_size: int = 1024) -> list[Any]:
        """Returns the outputs of each member, as `flaxfit.predict` does."""
        pairs, at = zip(self.members, self.results, strict=True), self._at(at)
        return [predict_member(m.programs, m.task, m.numbers, getattr(r, at), x, batch_size) for m, r in pairs]

    def to_pandas(self) -> Any:
        """Returns the members as a pandas data frame: hyperparameters, fold, seed, epochs, best epoch, and what the last epoch logged."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    **member.setting,
                    "fold": member.fold,
                    "seed": member.seed,
                    "epochs": len(result.history.epochs),
                    "best_epoch": result.best_epoch,
                    "stop_reason": result.stop_reason,
                    **{name: value for name, value in result.history.row(-1).items() if name != "best_epoch"},
                }
                for member, result in zip(self.members, self.results, strict=True)
            ]
        )

    def mode(self, metric: str | np.ndarray | None = None, given: Mode | None = None) -> Mode:
        """Returns whether a metric is best when it is small ("min") or large ("max").

        Args:
          metric: the metric.
          given: the `mode=` argument of the caller, which takes precedence. An array of scores needs it.

        Raises:
          ValueError: the mode is not known, or `given` is neither "min" nor "max".
        """
        return self.results[0].history.mode(metric if isinstance(metric, str) else self._default(), given)

    def _default(self) -> str:
        """What was monitored, or the data loss in place of the objective."""
        loss = self.results[0].history.data_loss
        if self.monitor.removeprefix("val_") not in ("loss", loss):
            return self.monitor
        check_comparable(self.members)
        return ("val_" if self.monitor.startswith("val_") else "") + loss

    def _objective(self) -> str:
        """What was monitored, by the same name for the data losses of all tasks."""
        of_loss = self.results and self.monitor.removeprefix("val_") == self.results[0].history.data_loss
        return self.monitor.removesuffix(self.results[0].history.data_loss) + "loss" if of_loss else self.monitor

    def _part(self, places: Iterable[int]) -> Study:
        """Some of the members."""
        places = list(places)
        return replace(self, members=[self.members[i] for i in places], results=[self.results[i] for i in places])

    def _at(self, at: At | None) -> At:
        if at not in (None, "best", "last"):
            raise ValueError(unknown("place in a run", str(at), ("best", "last")))
        held_out_validates = any(m.split is not None and m.split.validates for m in self.members)
        return at or ("last" if held_out_validates else "best")

    def _rows_of(self, data: Dataset | Sequence[Dataset]) -> list[Dataset]:
        """The rows for each member."""
        if isinstance(data, Sequence) and {m.fold for m in self.members} != {*range(len(data))}:
            folds = sorted({str(m.fold) for m in self.members})
            raise ValueError(f"evaluate takes one Dataset, or one for each fold: got {len(data)} for the folds {', '.join(folds)}.")
        return [data[m.fold or 0] if isinstance(data, Sequence) else data for m in self.members]

    def _scored(self, metric: str | np.ndarray | None, at: At | None, data: Dataset | Sequence[Dataset] | None) -> Scored:
        """The scores that are asked for, and the design that they come from."""
        name = self._default() if metric is None else metric if isinstance(metric, str) else ""
        if data is not None:
            if not name:
                raise ValueError('data=... needs the name of a metric, such as "accuracy", not an array of scores.')
            name = name.removeprefix("val_")
        check_objective(self.members, name)
        at, notes = self._at(at), looks(self.members, self.directory)
        title, collapsed = f"{name}, {at} epoch" if name else "scores", np.zeros(len(self), bool)
        sizes: list[Any] = [m.split and m.split[:2] for m in self.members]
        if data is not None:
            title = f"{name} of the rows given, {at} epoch"
            values, collapsed = self._on_rows(name, at, data)
        else:
            values = self.scores(name or metric, at)
        if data is None and name.startswith("val_"):
            collapsed = np.array([by_history(m.task, r.history, m.targets) for m, r in zip(self.members, self.results, strict=True)])
            sizes = [(r.history.rows, r.history.validation_rows) for r in self.results]
            if at == "best":
                notes = ("The best epoch of each run was chosen on the rows that it is scored on.", *notes)
        return Scored(self.members, self.results[0].history, title, name, values, sizes, collapsed, notes)

    def _on_rows(self, name: str, at: At, data: Dataset | Sequence[Dataset]) -> tuple[np.ndarray, np.ndarray]:
        """Scores on rows, shape (members, rows), or (members,) where folds have their own; and which runs collapsed."""
        rows = self._rows_of(data)
        scores = [
            score_rows(m.programs, m.task, m.numbers, getattr(r, at), own)
            for m, r, own in zip(self.members, self.results, rows, strict=True)
        ]
        for each in scores:
            if name not in each:
                raise ValueError(unknown("metric", name, each, "that gives a number for each row"))
        collapsed = np.array([by_rows(m.task, each, own.y) for m, each, own in zip(self.members, scores, rows, strict=True)])
        values = [each[name] for each in scores]
        if any(m.fold is not None for m in self.members):
            return np.array([each.mean() for each in values]), collapsed
        return np.stack(values), collapsed


def _index(result: Result, name: str, at: At) -> int:
    """The epoch's place in the history."""
    history = result.history
    if at == "best" and name.startswith("val_") and np.isfinite(history[name]).any():
        with contextlib.suppress(ValueError):  # a metric that does not say whether larger is better
            return int(np.nanargmin(history[name]) if history.mode(name) == "min" else np.nanargmax(history[name]))
    if name.startswith("val_") and history.validated.any() and (at == "last" or result.best_epoch is None):
        return int(np.flatnonzero(history.validated)[-1])
    return -1 if at == "last" or result.best_epoch is None else result.best_epoch - 1
