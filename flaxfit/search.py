"""Search of hyperparameters by rounds of populations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import check_count
from flaxfit.data.dataset import Dataset
from flaxfit.grid import Grid
from flaxfit.population import MakeTask, fit_many
from flaxfit.study import At, Study


@dataclass(frozen=True, eq=False)
class Narrowing:
    """What `narrow` found.

    Attributes:
      name: the hyperparameter.
      rounds: the populations, in order.
      interval: where the best value lies, after the last round.
      best: the value with the best mean score in the last round.
    """

    name: str
    rounds: Sequence[Study]
    interval: tuple[float, float]
    best: float

    def scores(self, metric: str | None = None, at: At = "best") -> list[tuple[int, float, np.ndarray]]:
        """Round (from 1), value and its seeds' scores, for each value that was tried."""
        return [
            (number, row.setting[self.name], row.scores)
            for number, study in enumerate(self.rounds, start=1)
            for row in study.table(metric, at).rows
        ]


def narrow(
    make_task: MakeTask,
    name: str,
    interval: tuple[float, float],
    train: Dataset,
    *,
    rounds: int = 3,
    points: int = 5,
    metric: str | None = None,
    at: At = "best",
    run_dir: str | os.PathLike[str] | None = None,
    progress: str | None = None,
    **options: Any,
) -> Narrowing:
    """Narrows the interval of a number: tries values evenly over it, goes on between the neighbours of the best, round by round.

    The value is traced, so that all rounds are one program. Scores of a few seeds are noisy: where the values of a round do not differ
    by more than their intervals (`Narrowing.rounds[i].table()`), narrowing further follows chance.

    Args:
      make_task: a mapping with `name` -> Task.
      name: the hyperparameter.
      interval: its lowest and highest value.
      train: the training rows.
      rounds: how often.
      points: values a round, 3 or more.
      metric: what is best, by mean over seeds; by default what is monitored.
      at: where in a run.
      run_dir: a directory for the rounds; the same call goes on where it stopped.
      progress: as for `fit_many`.
      options: `seeds`, `validation`, `epochs` and all else that `flaxfit.fit_many` takes.

    Raises:
      ValueError, TypeError: an interval that is none; and what `fit_many` raises.

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
        raise ValueError(f"narrow(interval=...) is (lowest, highest) of finite numbers, got {interval!r}.")
    check_count("rounds", rounds, 1, "rounds of populations")
    check_count("points", points, 3, "values a round")
    studies, best = [], low
    for number in range(1, rounds + 1):
        values = [float(f"{value:.6g}") for value in np.linspace(low, high, points)]  # names of files are short
        grid: Grid = {name: values}
        place = None if run_dir is None else Path(run_dir) / f"round-{number}"
        title = None if progress is None else f"{progress}, round {number}"
        study = fit_many(make_task, grid, train, run_dir=place, progress=title, **options)
        studies.append(study)
        best = study.rank(metric, at)[0][name]
        index = values.index(best)
        low, high = values[max(0, index - 1)], values[min(points - 1, index + 1)]
    return Narrowing(name, studies, (low, high), best)
