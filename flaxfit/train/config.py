"""The arguments of a run, once: `fit`, `fit_many`, `cross_validate` and the record in a run directory share them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypedDict

from flaxfit.arguments import check_count, unknown
from flaxfit.programs.plateau import Plateau
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.task.labels import ClassWeight


@dataclass(frozen=True)
class TrainConfig:
    """How a run is trained: the arguments that `fit`, `fit_many` and `cross_validate` have in common.

    Attributes:
      epochs: the number of epochs to train at most.
      batch_size: the number of examples of a step. The last step of an epoch takes the examples that are left.
      early_stopping: when to stop before that, or None.
      plateau: when to lower the learning rate, or None.
      class_weight: class -> factor on the training loss of its examples, as in Keras. A class is given by its number or by its name in
        `Dataset.classes`. "balanced" makes the factors n / (classes * n of the class), as in scikit-learn, from the n training examples.
      replacement: whether each batch is drawn with replacement.
      shuffle: whether each epoch takes the examples in a new order. If not, they are taken in the order of the data, as in Keras.
      validation_split: the fraction of the training examples that is held out for validation, as in Keras: the last ones of the data,
        before any shuffling. Use `flaxfit.data.split` for data that are sorted, for instance by class. None holds out nothing.
      validation_every: validate only at the end of each epoch whose number is a multiple of this, as with Keras's `validation_freq`. In the
        other epochs the `val_` columns are NaN, and early stopping and plateaus on such a column wait: their patience counts validations.
      terminate_on_nan: whether to end at the first epoch in which a loss or a weight is not finite.
      validation_batch_size: the number of examples of a validation step. It changes scores by rounding only. By default as many as fit into
        4 MB of the widest layer of the model, at least 256; the record of the run has the number. A task with a `flaxfit.losses.of_batch`
        uses that batch size.

    Raises:
      ValueError: an argument is out of range, or contradicts another one.
      TypeError: an argument has the wrong type.

    Example:
      >>> config = TrainConfig(epochs=10, early_stopping=EarlyStopping("val_loss", patience=3))
      >>> TrainConfig.from_record(config.record()) == config
      True
    """

    epochs: int = 1
    batch_size: int = 32
    early_stopping: EarlyStopping | None = None
    plateau: Plateau | None = None
    class_weight: ClassWeight | None = None
    replacement: bool = False
    terminate_on_nan: bool = True
    shuffle: bool = True
    validation_split: float | None = None
    validation_every: int = 1
    validation_batch_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", check_count("epochs", self.epochs, 1, "epochs"))
        object.__setattr__(self, "batch_size", check_count("batch_size", self.batch_size, 1, "examples of a step"))
        object.__setattr__(self, "validation_every", check_count("validation_every", self.validation_every, 1, "epochs"))
        if self.validation_every > self.epochs:
            raise ValueError(
                f"validation_every={self.validation_every} is more than epochs={self.epochs}, so that there would be no validation."
            )
        if self.validation_split is not None and not 0 < self.validation_split < 1:
            raise ValueError(f"validation_split must be a fraction between 0 and 1, or None, got {self.validation_split!r}.")
        if self.replacement and not self.shuffle:
            raise ValueError("shuffle=False takes examples in order, but replacement=True draws them at random: choose one.")
        if (size := self.validation_batch_size) is not None:
            object.__setattr__(self, "validation_batch_size", check_count("validation_batch_size", size, 1, "examples of a step"))
        if self.early_stopping is not None and not isinstance(self.early_stopping, EarlyStopping):
            raise TypeError(f'early_stopping must be ff.EarlyStopping("val_loss", patience=...), got {self.early_stopping!r}.')
        if self.plateau is not None and not isinstance(self.plateau, Plateau):
            raise TypeError(f'plateau must be ff.Plateau("val_loss", factor=..., patience=...), got {self.plateau!r}.')
        if self.class_weight is not None:
            if not isinstance(self.class_weight, Mapping) and self.class_weight != "balanced":
                raise TypeError(
                    f'class_weight must map classes to factors, such as {{0: 1.0, 1: 5.0}}, or be "balanced", got {self.class_weight!r}.'
                )
            if isinstance(self.class_weight, Mapping):
                object.__setattr__(self, "class_weight", dict(self.class_weight))

    def record(self) -> dict[str, Any]:
        """Returns the configuration as plain values for JSON."""
        weights = self.class_weight
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "early_stopping": None if self.early_stopping is None else asdict(self.early_stopping),
            "plateau": None if self.plateau is None else asdict(self.plateau),
            "class_weight": {_key(label): float(factor) for label, factor in weights.items()} if isinstance(weights, Mapping) else weights,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainConfig:
        """Returns the configuration of a record. Arguments that an older record does not have get their defaults."""
        values = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        for name, kind in (("early_stopping", EarlyStopping), ("plateau", Plateau)):
            if values.get(name) is not None:
                values[name] = kind(**values[name])
        if isinstance(values.get("class_weight"), Mapping):
            values["class_weight"] = {ast.literal_eval(label): factor for label, factor in values["class_weight"].items()}
        return cls(**values)


class TrainOptions(TypedDict, total=False):
    """The arguments of `TrainConfig` as keywords, for functions that pass them on."""

    epochs: int
    batch_size: int
    early_stopping: EarlyStopping | None
    plateau: Plateau | None
    class_weight: ClassWeight | None
    replacement: bool
    terminate_on_nan: bool
    shuffle: bool
    validation_split: float | None
    validation_every: int
    validation_batch_size: int | None


_KERAS = {
    "validation_data": "validation=ff.Dataset(x, y)",
    "validation_freq": "validation_every=...",
    "sample_weight": "ff.Dataset(x, y, sample_weight=...)",
    "verbose": "callbacks=[ff.callbacks.ProgressBar()]",
    "lr": "the learning rate of the optimizer, as in Task(optimizer=optax.adam(1e-3))",
    "learning_rate": "the learning rate of the optimizer, as in Task(optimizer=optax.adam(1e-3))",
    "metrics": "Task(metrics={...})",
}


def no_argument(function: str, names: Iterable[str], known: Iterable[str]) -> TypeError:
    """Returns the error for arguments that a function does not have: what Keras's are here, or a similar name.

    Example:
      >>> no_argument("fit", ["validation_data"], ["validation"])
      TypeError('fit has no argument validation_data: use validation=ff.Dataset(x, y).')
      >>> no_argument("fit", ["epoch"], ["epochs"])
      TypeError("no argument 'epoch' of fit; did you mean 'epochs'? There are: epochs")
    """
    name = min(names)
    if name in _KERAS:
        return TypeError(f"{function} has no argument {name}: use {_KERAS[name]}.")
    return TypeError(unknown("argument", name, [each for each in known if each != "others"], f"of {function}"))


def _key(label: Any) -> str:
    """Returns a class as text that `ast.literal_eval` reads: 3, or 'yes' in quotes."""
    return repr(label) if isinstance(label, str) else str(int(label))


def check_seed(seed: Any) -> int:
    """Returns `seed` as an int, after checking that JAX takes it without reducing it."""
    if check_count("seed", seed, 0, "below 2**32") >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}.")
    return int(seed)
