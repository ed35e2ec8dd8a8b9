"""How much a network needs each column: its score when the values of the column are permuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxfit.data.dataset import Dataset
from flaxfit.data.encoding import Encoding
from flaxfit.overfitting.measures import Measure
from flaxfit.overfitting.runs import Run
from flaxfit.report.statistics import Interval, interval

_PERMUTATIONS = 5
_MOST = 60


@dataclass(frozen=True)
class Importance:
    """How much worse the score becomes when a column is permuted among the held-out examples (Breiman 2001, "Random forests").

    Attributes:
      column: the name of the column.
      loss: by how much the score becomes worse, with its interval over folds.
    """

    column: str
    loss: Interval

    @property
    def useless(self) -> bool:
        """Whether nothing shows that the network needs the column."""
        return not self.loss.low > 0


def importances(runs: Sequence[Run], measure: Measure, places: Mapping[str, np.ndarray], how: Mapping[str, Any]) -> list[Importance]:
    """Returns the importance of each column, the most important first.

    Args:
      runs: the members of one setting, one for each fold.
      measure: how they are scored.
      places: column -> the features that it became.
      how: arguments of `flaxfit.statistics.interval` for scores of folds.
    """
    if not places or len(places) > _MOST:
        return []
    sign = -1 if measure.larger_is_better else 1
    lost = np.zeros((len(places), len(runs)))
    for fold, run in enumerate(runs):
        held, random = run.part.held_out, np.random.default_rng(fold)
        x, y = np.asarray(held.x), np.asarray(held.y)
        for index, features in enumerate(places.values()):
            mixed = np.concatenate([x] * _PERMUTATIONS)
            orders = [random.permutation(len(x)) for _ in range(_PERMUTATIONS)]
            mixed[:, features] = np.concatenate([x[order][:, features] for order in orders])
            outputs = np.split(run.predict(mixed), _PERMUTATIONS)
            lost[index, fold] = sign * (np.mean([measure(each, y, held.sample_weight) for each in outputs]) - run.score)
    found = [Importance(column, interval(each, **how)) for column, each in zip(places, lost, strict=True)]
    return sorted(found, key=lambda each: -each.loss.mean)


def places_of(data: Dataset, encoding: Encoding | None) -> dict[str, np.ndarray]:
    """Returns which features each column became; nothing if the inputs are not columns."""
    if getattr(data.x, "ndim", 0) != 2:
        return {}
    if encoding is None:
        names = data.features or [f"x[:, {place}]" for place in range(data.x.shape[1])]
        return {name: np.array([place]) for place, name in enumerate(names)}
    places, start = {}, 0
    for column, how in encoding.columns.items():
        if count := len(how.names):
            places[column] = np.arange(start, start + count)
        start += count
    return places
