"""Cross-validation as a population: each fold is a member with fresh weights."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

import jax
import numpy as np

from flaxfit.arguments import Mode, check_count, mode_of, unknown
from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import folds as rows_of_folds
from flaxfit.data.splits import hold_outs, split
from flaxfit.data.table import Table as Rows
from flaxfit.data.table import encoded
from flaxfit.history import History
from flaxfit.programs.checks import check_data
from flaxfit.programs.compiled import MakeTask
from flaxfit.programs.evaluate import predict_member
from flaxfit.programs.program import logged
from flaxfit.report.statistics import Comparison
from flaxfit.sections import Section, Shown
from flaxfit.sweep.collapsed import by_history
from flaxfit.sweep.executors import Executors
from flaxfit.sweep.fit_many import check_seeds, train_all
from flaxfit.sweep.grid import Grid, expand
from flaxfit.sweep.members import Trial, member_of
from flaxfit.sweep.scored import Scored, check_comparable, check_objective, looks
from flaxfit.sweep.strategies import Strategy
from flaxfit.sweep.study import Study
from flaxfit.sweep.tables import Comparisons, Table
from flaxfit.train.config import TrainConfig, TrainOptions, no_argument
from flaxfit.train.job import Split
from flaxfit.train.record import Resume


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation(Shown):
    """The result of a cross-validation. Its members are in the order of the grid, then of folds (repeat by repeat), then of seeds.

    Attributes:
      study: the population. `study.members[i].fold` is the fold of a member.
      scores: name -> the score of each member on the examples that its fold held out, shape (members,).
      folds: the indices of the training examples and of the held-out examples of each fold.
      in_time: whether folds are in the order of time, so that tables have no intervals.
      chosen: the setting that the inner folds of each fold chose, in a nested cross-validation; else None.
      at: the epoch whose weights were scored: "last", or "best" with early stopping.
      held_out: the held-out examples of each fold. Those of a table are encoded with what the fold learned.
    """

    study: Study
    scores: Mapping[str, np.ndarray]
    folds: Sequence[tuple[np.ndarray, np.ndarray]]
    at: Literal["best", "last"]
    data: Dataset | Rows
    held_out: Sequence[Dataset]
    in_time: bool = False
    chosen: Sequence[Mapping[str, Any]] | None = None

    @property
    def curves(self) -> dict[str, list[History]]:
        """The histories of the runs of each setting, by its name. `flaxfit.plots.study_curves` draws them."""
        return self.study.curves

    def per_fold(self, metric: str) -> np.ndarray:
        """Returns a metric by setting and fold, averaged over seeds, shape (settings, folds)."""
        settings = 1 if self.chosen else len(self.study.settings)
        return self.scores[metric].reshape(settings, len(self.folds), -1).mean(2)

    def best(self, metric: str | None = None, *, mode: Mode | None = None) -> Mapping[str, Any]:
        """Returns the setting with the best mean score on the held-out examples.

        That score is a little too good, because the same examples chose the setting: `inner=...` gives one that is not.

        Args:
          metric: one of `scores`; by default the data loss.
          mode: "min" or "max", for a metric whose mode is not known.

        Raises:
          ValueError: as `table`.
        """
        return self._scored(metric).rank(mode)[0]

    def to_pandas(self) -> Any:
        """Returns the members as a pandas data frame: hyperparameters, fold, seed, and each score on the held-out examples."""
        import pandas

        rows = [{**member.setting, "fold": member.fold, "seed": member.seed} for member in self.study.members]
        return pandas.DataFrame(rows).assign(**{name: np.asarray(values) for name, values in self.scores.items()})

    def table(self, metric: str | None = None, *, level: float = 0.95) -> Table:
        """Returns the mean, interval and standard deviation of each setting over folds.

        Intervals are corrected for the examples that the training sets of folds share (Nadeau and Bengio 2003).

        Args:
          metric: one of `scores`; by default the data loss.
          level: the level of the intervals.

        Raises:
          ValueError: the metric is unknown, or is the objective and settings with penalties differ.
        """
        return self._scored(metric).table(level)

    def compare(
        self,
        a: Mapping[str, Any],
        b: Mapping[str, Any],
        metric: str | None = None,
        *,
        level: float = 0.95,
        mode: Mode | None = None,
        margin: float | None = None,
    ) -> Comparison:
        """Tests whether setting `b` is better than setting `a` on the held-out examples, fold by fold.

        The test is corrected for the examples that the training sets of folds share (Nadeau and Bengio 2003).

        Args:
          a: the hyperparameters of one setting, as far as they are needed to identify it.
          b: those of the other setting.
          metric: one of `scores`; by default the data loss.
          level, mode, margin: as for `Study.compare`.

        Raises:
          ValueError: as `table` and `Study.compare`; the cross-validation is nested, so that it has no settings to compare.
        """
        return self._scored(metric).compare(a, b, level, mode, margin)

    def compare_all(
        self,
        baseline: Mapping[str, Any],
        metric: str | None = None,
        *,
        level: float = 0.95,
        mode: Mode | None = None,
        margin: float | None = None,
    ) -> Comparisons:
        """Compares all other settings with a baseline, corrected for their number. The arguments are those of `compare`."""
        return self._scored(metric).compare_all(baseline, level, mode, margin)

    def _scored(self, metric: str | None) -> Scored:
        members = self.study.members
        if self.chosen:  # each fold has a setting of its own
            members = [replace(member, setting={"nested": "chosen by inner folds"}) for member in members]
        if metric is None:
            check_comparable(members)
        name = metric or members[0].task.loss_name
        if name not in self.scores:
            raise ValueError(unknown("metric", name, self.scores, "among the scores"))
        check_objective(members, name)
        sizes = [member.split and member.split[:2] for member in members]
        results, notes = self.study.results, looks(members, self.study.directory)
        collapsed = np.array([by_history(m.task, r.history, m.targets) for m, r in zip(members, results, strict=True)])
        title = f"{name}, held out, {self.at} epoch"
        return Scored(members, results[0].history, title, name, self.scores[name], sizes, collapsed, notes, self.in_time)

    def out_of_fold(self, *, batch_size: int = 1024) -> Any:
        """Returns the outputs for each example by the members that were not trained on it, averaged over seeds.

        Their shape is (settings, repeats, rows, outputs).

        Raises:
          ValueError: the examples were held out at random, so that some may never have been held out.
        """
        if len(set(np.bincount(np.concatenate([test for _, test in self.folds]), minlength=len(self.data)))) > 1:
            raise ValueError("out_of_fold needs folds that cover each row once, but cross_validate(test=...) drew rows at random.")
        groups = 1 if self.chosen else len(self.study.settings)
        repeats = sum(len(test) for _, test in self.folds) // len(self.data)
        outputs = None
        for index, (m, r) in enumerate(zip(self.study.members, self.study.results, strict=True)):
            rows = self.folds[m.fold or 0][1]
            part = predict_member(m.programs, m.task, m.numbers, getattr(r, self.at), self.held_out[m.fold or 0].x, batch_size)
            if outputs is None:
                outputs = jax.tree.map(lambda a: np.zeros((groups, repeats, len(self.data), *a.shape[1:]), np.float64), part)
            each, seeds = len(self.study) // groups, len(self.study) // groups // len(self.folds)
            for whole, some in zip(jax.tree.leaves(outputs), jax.tree.leaves(part), strict=True):
                whole[index // each, (m.fold or 0) * repeats // len(self.folds), rows] += some / seeds
        return outputs

    def __repr__(self) -> str:
        return f"CrossValidation({len(self.study)} runs of {len(self.study.settings)} settings on {len(self.folds)} folds)"

    def __str__(self) -> str:
        return "\n".join(map(str, self._tables()))

    def sections(self) -> list[Section]:
        """Returns the table of each metric as a section of a report."""
        return [section for table in self._tables() for section in table.sections()]

    def _tables(self) -> list[Table]:
        return [self.table(metric) for metric in self.scores if metric not in ("loss", "penalty")]


def cross_validate(
    make_task: MakeTask,
    data: Dataset | Rows,
    grid: Grid | None = None,
    *,
    folds: int | None = None,
    test: float | None = None,
    stratified: bool = False,
    groups: Any = None,
    times: Any = None,
    repeats: int = 1,
    shuffle_seed: int | None = 0,
    seeds: int | Sequence[int] = 1,
    fitted: Callable[[Dataset], Mapping[str, Any]] | None = None,
    stopping_rows: float | None = None,
    inner: int | None = None,
    select: str | None = None,
    mode: Mode | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: Resume = "auto",
    progress: str | None = None,
    strategy: Strategy = "auto",
    workers: int | None = None,
    executor: Executors | None = None,
    **options: Unpack[TrainOptions],
) -> CrossValidation:
    """Trains each setting on all folds but one, with fresh weights each time, and scores it on the fold that is held out.

    The folds are those of scikit-learn. All folds are trained as one population. If the number of examples does not divide evenly, folds
    have two sizes, and two programs are compiled. The held-out examples also validate each epoch, for the learning curves.

    Args:
      make_task: a function of a mapping of hyperparameters that returns a Task; or a Task.
      data: all examples. The encoding of a table is learned in each fold from its training rows alone.
      grid: as for `flaxfit.fit_many`.
      folds: the number of folds; by default 5.
      test: hold out examples at random instead of in folds, `repeats` times (`flaxfit.data.hold_outs`): their number or their fraction.
      stratified: whether each class has about the same share in each fold.
      groups: the group of each example, such as a patient. All examples of a group are in one fold, as in `flaxfit.data.folds`.
      times: the time of each example. Each fold trains on examples that are older than those that it holds out, as in
        `flaxfit.data.folds`. Tables then have no intervals, because none is known for such folds. `shuffle_seed` is not used.
      repeats: how often to repeat this with other folds.
      shuffle_seed: the seed that decides which example is in which fold. None keeps the order of the data.
      seeds: the seeds of the training, as for `fit_many`.
      fitted: training examples of a fold -> what is fitted to them alone, such as `{"scaling": ff.data.standardize(train.x)}`. It is
        passed to `make_task` with the hyperparameters.
      stopping_rows: the fraction of the training examples of each fold that `early_stopping` monitors. The held-out examples must not be
        used for that, because they would choose the epoch at which they are scored.
      inner: the number of inner folds of a nested cross-validation (Stone 1974; Varma and Simon 2006, "Bias in error estimation when using
        cross-validation for model selection"). In each fold, the inner folds choose a setting, which is trained on all training examples
        of the fold and scored.
      select: the metric by which inner folds choose; by default the data loss.
      mode: "min" or "max", for a `select` whose mode is not known.
      run_dir, resume, progress, strategy, workers, executor: as for `fit_many`.
      options: the arguments of `flaxfit.TrainConfig`: `epochs`, `batch_size`, `early_stopping`, ...

    Raises:
      ValueError: both `folds` and `test` are given, or `test` without a seed; `early_stopping` without `stopping_rows`; `inner` without a
        grid; `select` is not a score. All of this is found before anything trains.
      ValueError, TypeError: as `fit_many`, `flaxfit.data.folds` and `flaxfit.data.hold_outs`.

    Example:
      >>> import flaxfit as ff, optax
      >>> data = ff.data.load("wine").train
      >>> def make_task(hp):
      ...     return ff.Task(
      ...         ff.nn.MLP((8,), 3),
      ...         ff.losses.categorical_crossentropy,
      ...         optax.adam(1e-2),
      ...         metrics={"accuracy": ff.metrics.categorical_accuracy},
      ...         preprocess=hp["scaling"],
      ...     )
      >>> def fitted(train):
      ...     return {"scaling": ff.data.standardize(train.x)}
      >>> scores = ff.cross_validate(make_task, data, stratified=True, fitted=fitted, epochs=20)
      >>> scores.per_fold("accuracy").shape, bool(scores.scores["accuracy"].mean() > 0.8)
      ((1, 5), True)
    """
    if not isinstance(data, Rows):
        check_data("data", data)
    settings, traced = expand(grid)
    if wrong := options.keys() - TrainOptions.__annotations__.keys():
        raise no_argument("cross_validate", wrong, [*inspect.signature(cross_validate).parameters, *TrainOptions.__annotations__])
    config = TrainConfig(**options)
    if config.validation_split is not None:
        raise ValueError("cross_validate validates on the rows that each fold holds out: leave out validation_split.")
    if (config.early_stopping is None) != (stopping_rows is None):
        raise ValueError("cross_validate takes early_stopping=... and stopping_rows=0.2 (a share of each fold's training rows) together.")
    at = "last" if stopping_rows is None else "best"
    listed, fold_seed = check_seeds(seeds), shuffle_seed if times is None else None
    groups, times = (None if values is None else np.asarray(values) for values in (groups, times))

    def of(values: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
        return None if values is None else values[rows]

    if test is None:
        outer = rows_of_folds(
            data, 5 if folds is None else folds, stratified=stratified, groups=groups, times=times, repeats=repeats, seed=fold_seed
        )
    elif times is not None:
        raise ValueError("cross_validate(test=...) draws rows at random, which times=... forbids: leave out one of the two.")
    elif folds is not None or shuffle_seed is None:
        raise ValueError(
            "cross_validate(test=...) draws rows at random instead of making folds: leave out folds=, and give a shuffle_seed."
        )
    else:
        outer = hold_outs(data, test, stratified=stratified, groups=groups, repeats=repeats, seed=shuffle_seed)

    def prepared(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[list[dict[str, Any]], list[Dataset]]:
        """What trials on each fold have in common (training rows, validation rows, what is fitted), and the rows that it holds out."""
        parts, tests = [], []
        for train, test in pairs:
            rows, validation = data[train], data[test]
            if stopping_rows is not None:
                seed = None if times is not None else shuffle_seed or 0
                kind: dict[str, Any] = {"stratified": stratified and groups is None, "groups": of(groups, train), "times": of(times, train)}
                kept = split(rows, validation=float(stopping_rows), seed=seed, one_row=1.0, **kind)
                rows, validation = kept.train, kept.validation
            rows, validation, held_out = encoded(rows, validation, data[test])
            sizes = Split(len(train), len(test), stopping_rows is None)
            parts.append({"train": rows, "validation": validation, "fitted": None if fitted is None else fitted(rows), "split": sizes})
            tests.append(held_out)
        return parts, tests

    def trained(trials: Sequence[Trial], name: str) -> Study:
        place = None if run_dir is None else os.path.join(run_dir, name)
        title = None if progress is None else f"{progress}, {name}"
        return train_all(make_task, trials, traced, config, None, title, place, resume, strategy, workers, executor)

    def every(parts: Sequence[dict[str, Any]]) -> list[Trial]:
        return [Trial(s, seed, fold=i, **part) for s in settings for i, part in enumerate(parts) for seed in listed]

    parts, tests = prepared(outer)
    if inner is None:
        study = trained(every(parts), "folds")
        return CrossValidation(study, study.evaluate(tests, at), outer, at, data, tests, times is not None)

    if len(settings) < 2:
        raise ValueError("cross_validate(inner=...) chooses among the settings of a grid: give one of two settings or more.")
    check_count("inner", inner, 2, "folds in each fold")
    pairs = []
    for train, _ in outer:
        rows = data[train]
        within = rows_of_folds(rows, inner, stratified=stratified, groups=of(groups, train), times=of(times, train), seed=fold_seed)
        pairs += [(train[a], train[b]) for a, b in within]
    inner_parts, inner_tests = prepared(pairs)
    trials = every(inner_parts)
    members = [member_of(make_task, trial, traced, config) for trial in trials[:: len(pairs) * len(listed)]]
    task = members[0].task
    if select is None:
        check_comparable(members)
    elif select not in logged(task):
        raise ValueError(f"cross_validate(select={select!r}): scored are {', '.join(logged(task))}.")
    metric = select or task.loss_name
    check_objective(members, metric)
    sign = 1 if mode_of(metric, task.modes, mode) == "min" else -1
    search = trained(trials, "inner")
    means = sign * search.evaluate(inner_tests, at)[metric].reshape(len(settings), len(outer), -1).mean(2)
    means[~np.isfinite(means)] = np.inf  # a setting whose score is no number never wins
    if np.isinf(means.min(0)).any():
        raise ValueError(f"in fold {int(np.isinf(means.min(0)).argmax())} no setting has a finite {metric}, so that none can be chosen.")
    chosen = [settings[index] for index in np.argmin(means, axis=0)]
    trials = [Trial(chosen[i], seed, fold=i, **part) for i, part in enumerate(parts) for seed in listed]
    study = trained(trials, "outer")
    return CrossValidation(study, study.evaluate(tests, at), outer, at, data, tests, times is not None, chosen)
