"""The history of a run: the metrics that each epoch logged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfit.arguments import Mode, mode_of, needed, unknown
from flaxfit.sections import Section, Shown

if TYPE_CHECKING:
    import pandas


class History(Shown, Mapping[str, np.ndarray]):
    """The logged metrics of a run, as a mapping from the name of a column to an array with one value for each epoch.

    `loss` and `val_loss` are the objective. The data loss is logged under the name of the loss function, and a metric under its own name;
    with validation, each is also there with the prefix `val_`. The column `best_epoch` is the best epoch as it was known at each epoch.

    Args:
      columns: name -> one number for each epoch. All columns have the same length.
      first_epoch: the number of the first epoch.
      data_loss: the name of the data loss. By default it is the first column after `loss` that `modes` does not call "max".
      rows: the number of training examples, or None if it is not known.
      validation_rows: the number of validation examples, or None.
      modes: metric name -> "min" or "max", whether the metric is best when small or large.
      validation_every: the run validated in the epochs that are multiples of this number. In the others the `val_` columns are NaN.

    Attributes:
      epochs: the number of each epoch, int array of shape (epochs,).
      best_epoch: the best epoch by the monitored metric, from 1, or None if there was none or it was not logged.
      rows: the number of training examples, or None if it is not known.
      validation_rows: the number of validation examples, or None.
      modes: metric name -> "min" or "max".
      validation_every: as it was given.

    Raises:
      ValueError: the columns have different lengths, or one of them is called `epoch`, which is the index.
      KeyError: there is no column of that name. The message names the nearest one.

    Example:
      >>> history = History({"loss": [0.7, 0.5], "mse": [0.6, 0.4], "val_loss": [0.8, 0.9], "val_mse": [0.7, 0.8]})
      >>> history["val_loss"].tolist(), history.epochs.tolist(), history.data_loss
      ([0.8, 0.9], [1, 2], 'mse')
      >>> history["val_los"]
      Traceback (most recent call last):
      ...
      KeyError: "no column 'val_los' in the history; did you mean 'val_loss'? There are: loss, mse, val_loss, val_mse"
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[float] | np.ndarray],
        first_epoch: int = 1,
        *,
        data_loss: str | None = None,
        rows: int | None = None,
        validation_rows: int | None = None,
        modes: Mapping[str, Mode] | None = None,
        validation_every: int = 1,
    ):
        self._columns = {name: np.asarray(values, float) for name, values in columns.items()}
        if "epoch" in self._columns:
            raise ValueError("a History numbers its epochs itself: leave out the column 'epoch', and pass first_epoch=... instead.")
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all columns of a History must have the same length, got {lengths}.")
        self.epochs = first_epoch + np.arange(next(iter(lengths.values()), 0))
        self.rows, self.validation_rows, self.validation_every = rows, validation_rows, validation_every
        self.modes: dict[str, Mode] = dict(modes or {})
        logged = self._columns.get("best_epoch")
        self.best_epoch = int(logged[-1]) or None if logged is not None and len(logged) else None
        names = [name for name in self if name != "loss" and not name.startswith("val_")] if "loss" in self else []
        self._data_loss = data_loss or next((name for name in names if self.modes.get(name) != "max"), None)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise KeyError(unknown("column", name, self._columns, "in the history"))
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same columns in the same order, the same epochs, and the same values to the last bit."""
        return (
            isinstance(other, History)
            and list(self) == list(other)
            and np.array_equal(self.epochs, other.epochs)
            and all(np.array_equal(self[name], other[name], equal_nan=True) for name in self)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"History({len(self.epochs)} epochs of {', '.join(self)})"

    def sections(self) -> list[Section]:
        """Returns the metrics of the first, the best and the last epoch as a section of a report."""
        if not len(self.epochs):
            return [Section("History", ["No epoch is finished yet."])]
        places = {"first": 0, "best": None if self.best_epoch is None else self.best_epoch - int(self.epochs[0]), "last": -1}
        shown = {f"{name} epoch ({self.epochs[place]})": self.row(place) for name, place in places.items() if place is not None}
        rows = [[name, *(f"{row[name]:.4g}" for row in shown.values())] for name in self if name != "best_epoch"]
        return [Section("History", [], ["metric", *shown], rows)]

    def mode(self, metric: str, given: Mode | None = None) -> Mode:
        """Returns whether a column is best when small or large. The objective and the data loss are best when small.

        Args:
          metric: the name of the column, with or without `val_`.
          given: a mode that the caller has been given. It takes precedence.

        Returns:
          "min" or "max".

        Raises:
          ValueError: the mode is not known, or `given` is neither "min" nor "max".

        Example:
          >>> History({"loss": [0.7], "mse": [0.6], "auc": [0.9]}, modes={"auc": "max"}).mode("val_auc")
          'max'
        """
        return mode_of(metric, self.modes if self._data_loss is None else {**self.modes, self._data_loss: "min"}, given)

    @property
    def data_loss(self) -> str:
        """The name of the data loss.

        Raises:
          ValueError: it was not given, and there is no column after `loss`.
        """
        if self._data_loss is None:
            raise ValueError(f"this history does not name the data loss: pass History(data_loss=...). It has: {', '.join(self)}")
        return self._data_loss

    @property
    def validated(self) -> np.ndarray:
        """Whether each epoch ended with a validation, booleans of shape (epochs,)."""
        return self.epochs % self.validation_every == 0

    def row(self, index: int) -> dict[str, float]:
        """Returns the metrics of one epoch as plain numbers. `index` counts from 0; -1 is the last epoch."""
        return {name: float(values[index]) for name, values in self._columns.items()}

    @classmethod
    def mean(cls, histories: Iterable[History]) -> History:
        """Returns the mean of several histories, epoch by epoch, up to the length of the shortest one and without `best_epoch`.

        Raises:
          ValueError: there are no histories, or they have different columns or first epochs.

        Example:
          >>> History.mean([History({"loss": [0.4, 0.2]}), History({"loss": [0.6, 0.3, 0.1]})])["loss"].tolist()
          [0.5, 0.25]
        """
        runs = list(histories)
        if not runs or any((*run, *run.epochs[:1]) != (*runs[0], *runs[0].epochs[:1]) for run in runs):
            raise ValueError(f"History.mean needs one or more histories with the same columns and the same first epoch, got {runs}.")
        length = min(len(run.epochs) for run in runs)
        columns = {name: np.mean([run[name][:length] for run in runs], axis=0) for name in runs[0] if name != "best_epoch"}
        first = runs[0]
        facts: dict[str, Any] = {name: getattr(first, name) for name in ("rows", "validation_rows", "modes", "validation_every")}
        return cls(columns, int(first.epochs[0]) if length else 1, data_loss=first._data_loss, **facts)

    def lines(self) -> Iterator[str]:
        """Yields one line of JSON for each epoch. NaN and infinities, which JSON does not have, become "nan", "inf" and "-inf"."""
        for index, epoch in enumerate(self.epochs):
            values = {name: value if math.isfinite(value) else str(value) for name, value in self.row(index).items()}
            yield json.dumps({"epoch": int(epoch), **values}, allow_nan=False)

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Writes the history to a file, one line of JSON for each epoch."""
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in self.lines())

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], **facts: Any) -> History:
        """Reads a file that `to_jsonl` wrote, or `metrics.jsonl` of a run's directory.

        Args:
          path: the file.
          facts: keyword arguments of `History` that the file does not have, such as `data_loss` and `rows`.

        Raises:
          ValueError: a line is not such JSON, or its epoch does not follow the epoch before. The message gives the number of the line.
        """
        rows: list[dict[str, Any]] = []
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = {name: float(value) for name, value in json.loads(line).items()}
                    if "epoch" not in row or (rows and (list(row) != list(rows[0]) or row["epoch"] != rows[-1]["epoch"] + 1)):
                        raise ValueError("it is not the next epoch, or it has other columns")
                except (ValueError, TypeError, AttributeError) as error:
                    raise ValueError(f"{os.fspath(path)}, line {number}: not a line of metrics ({error})") from error
                rows.append(row)
        columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else {}) if name != "epoch"}
        return cls(columns, int(rows[0]["epoch"]) if rows else 1, **facts)

    def to_pandas(self) -> pandas.DataFrame:
        """Returns a data frame with one row for each epoch, indexed by `epoch`. It needs pandas (`pip install flaxfit[data]`)."""
        pandas = needed("pandas", "History.to_pandas")
        return pandas.DataFrame(dict(self), index=pandas.Index(self.epochs, name="epoch"))
