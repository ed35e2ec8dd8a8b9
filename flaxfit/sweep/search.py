"""Search for hyperparameters in rounds of populations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import Mode, check_count, needed
from flaxfit.data.dataset import Dataset
from flaxfit.programs.compiled import MakeTask
from flaxfit.sweep.fit_many import fit_many
from flaxfit.sweep.grid import Grid, name_of
from flaxfit.sweep.study import At, Study

Score = Callable[[Study], np.ndarray]
"""A function of a population that returns one score for each member."""


@dataclass(frozen=True, eq=False)
class Narrowing:
    """The result of `flaxfit.narrow`.

    Attributes:
      name: the hyperparameter.
      rounds: the populations, in order.
      interval: the interval of the best value after the last round.
      best: the value with the best mean score in the last round.
    """

    name: str
    rounds: Sequence[Study]
    interval: tuple[float, float]
    best: float

    def scores(self, metric: str | Score | None = None, at: At | None = None) -> list[tuple[int, float, np.ndarray]]:
        """Returns the round (from 1), the value, and the scores of its seeds, for each value that was tried."""
        return [
            (number, row.setting[self.name], row.scores)
            for number, study in enumerate(self.rounds, start=1)
            for row in study.table(_of(study, metric), at).rows
        ]


def narrow(
    make_task: MakeTask,
    name: str,
    interval: tuple[float, float],
    train: Dataset,
    *,
    rounds: int = 3,
    points: int = 5,
    metric: str | Score | None = None,
    at: At | None = None,
    mode: Mode | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: str | None = None,
    **options: Any,
) -> Narrowing:
    """Searches for the best value of a hyperparameter by narrowing its interval.

    Each round tries values that are evenly spaced in the interval. The next interval lies between the neighbors of the best value. The
    value is traced, so that all rounds use one compiled program. With a `run_dir`, no value is trained twice. Scores of a few seeds are
    noisy: if the values of a round differ by less than their intervals (`Narrowing.rounds[i].table()`), narrowing further follows chance.

    Args:
      make_task: a function of a mapping with `name` that returns a Task.
      name: the hyperparameter.
      interval: its lowest and highest value.
      train: the training examples.
      rounds: the number of rounds.
      points: the number of values in each round, 3 or more.
      metric: the metric whose mean over seeds is compared; by default as for `Study`. Or a function of a round's `Study` that returns one
        score for each member, such as the gap between two metrics.
      at: the epoch, "best" or "last".
      mode: "min" or "max", for a metric whose mode is not known, or a function.
      run_dir: a directory for the runs of all rounds. The same call resumes the search from it.
      progress: as for `fit_many`.
      options: `seeds`, `validation`, `epochs` and the other arguments of `flaxfit.fit_many`.

    Raises:
      ValueError: the interval is not one; a score of the best value is not finite. Other errors are those of `fit_many`.

    Example:
      >>> import flaxfit as ff, numpy as np, optax
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> def make_task(hp):
      ...     return ff.Task(ff.nn.MLP((8,), 1), ff.losses.mse, optax.adam(hp["rate"]))
      >>> found = ff.narrow(make_task, "rate", (1e-4, 1e-1), ff.Dataset(x, x[:, 0] ** 2), rounds=2, points=3, epochs=20)
      >>> len(found.rounds), 1e-4 <= found.interval[0] < found.best <= found.interval[1] <= 1e-1
      (2, True)
    """
    low, high = (float(end) for end in interval)
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"narrow(interval=...) must be (lowest, highest), two finite numbers, got {interval!r}.")
    check_count("rounds", rounds, 1, "rounds of populations")
    check_count("points", points, 3, "values in each round")
    studies, best = [], low
    for number in range(1, rounds + 1):
        values = [float(f"{value:.6g}") for value in np.linspace(low, high, points)]  # names of files are short
        grid: Grid = {name: values}
        title = None if progress is None else f"{progress}, round {number}"
        study = fit_many(make_task, grid, train, run_dir=run_dir, progress=title, **options)
        studies.append(study)
        best = study.rank(_of(study, metric), at, mode=mode)[0][name]
        part = study.select(**{name: best})
        if not np.isfinite(part.scores(_of(part, metric), at)).all():
            raise ValueError(f"narrow: in round {number} each value of {name} has a run whose score is not finite.")
        index = values.index(best)
        low, high = values[max(0, index - 1)], values[min(points - 1, index + 1)]
    return Narrowing(name, studies, (low, high), best)


def _of(study: Study, metric: str | Score | None) -> str | np.ndarray | None:
    return metric(study) if callable(metric) else metric


def optimize(
    study: Any,
    make_task: MakeTask,
    space: Callable[[Any], Mapping[str, Any]],
    train: Dataset,
    *,
    trials: int,
    batch: int = 8,
    epochs: int | Sequence[int] = 1,
    metric: str | None = None,
    mode: Mode | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: str | None = None,
    **options: Any,
) -> None:
    """Lets an Optuna study choose hyperparameters. Each batch of trials is trained as one population.

    It needs Optuna (`pip install flaxfit[optuna]`), whose storage, samplers and pruners can be used. With a storage and a `run_dir`, the
    same call resumes a search whose process was killed, with the trials that were running.

    Args:
      study: from `optuna.create_study(direction=..., storage=..., sampler=..., pruner=..., load_if_exists=True)`.
      make_task: a function of a mapping of hyperparameters that returns a Task.
      space: an Optuna trial -> the setting, as in `lambda trial: {"l2": trial.suggest_float("l2", 1e-6, 1e-2, log=True)}`. Floats are
        traced; other values are compiled in.
      train: the training examples.
      trials: the number of trials of the study at the end, including pruned ones.
      batch: the number of trials in each population.
      epochs: the number of epochs; or several increasing numbers. After each but the last, the pruner decides which trials are continued.
      metric: the metric whose mean over seeds is reported, at the best epoch so far; by default as for `Study`. A trial whose score is not
        finite has failed.
      mode: "min" or "max", for a metric whose mode is not known.
      run_dir: a directory for the runs.
      progress: as for `fit_many`.
      options: `seeds`, `validation`, `batch_size` and the other arguments of `flaxfit.fit_many`.

    Raises:
      ValueError: the epochs do not increase; the direction of the study is not that of the metric. Other errors are those of `fit_many`.
    """
    module = needed("optuna.trial", "optimize", "optuna")
    states = module.TrialState
    check_count("trials", trials, 1, "trials of the study")
    check_count("batch", batch, 1, "trials in each population")
    rungs = [check_count("epochs", rung, 1, "epochs") for rung in (epochs if isinstance(epochs, Sequence) else [epochs])]
    if sorted(set(rungs)) != rungs:
        raise ValueError(f"optimize(epochs=...) must increase, got {rungs}.")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch if run_dir is None else run_dir)
        # Left by a process that was killed; public, but for the trial's number in the storage.
        asked = [module.Trial(study, trial._trial_id) for trial in study.get_trials(states=[states.RUNNING])]
        over = [states.COMPLETE, states.PRUNED, states.FAIL]
        while asked or len(study.get_trials(states=over)) < trials:
            ended = len(study.get_trials(states=over))
            asked += [study.ask() for _ in range(min(batch - len(asked), trials - ended - len(asked)))]
            going = {trial.number: (trial, dict(space(trial))) for trial in asked}
            for rung in rungs:
                settings = list({name_of(setting): setting for _, setting in going.values()}.values())
                title = None if progress is None else f"{progress}, trials {min(going)} to {max(going)}, {rung} epochs"
                population = fit_many(make_task, settings, train, epochs=rung, run_dir=home, progress=title, **options)
                smaller = population.mode(metric, mode) == "min"
                if (study.direction.name == "MINIMIZE") != smaller:
                    way = study.direction.name.lower()
                    raise ValueError(f"the Optuna study must not {way} {metric or population.monitor}: create it with the other direction.")
                table = population.table(metric)
                means = {name_of(row.setting): np.nan if row.broken else row.interval.mean for row in table.rows}
                for number, (trial, setting) in list(going.items()):
                    score = means[name_of(setting)]
                    if not np.isfinite(score):
                        study.tell(trial, state=states.FAIL)
                        del going[number]
                        continue
                    trial.report(score, rung)
                    if rung == rungs[-1]:
                        study.tell(trial, score)
                    elif trial.should_prune():
                        study.tell(trial, state=states.PRUNED)
                        del going[number]
                if not going:
                    break
            asked = []
