"""The arguments of a run, once: `fit`, `fit_many`, `cross_validate` and the record in a run directory share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypedDict

from flaxfit.arguments import check_count
from flaxfit.train.plateau import Plateau
from flaxfit.train.stopping import EarlyStopping


@dataclass(frozen=True)
class TrainConfig:
    """How a run is trained: the arguments that `fit`, `fit_many` and `cross_validate` have in common.

    Attributes:
      epochs: how many epochs to train at most.
      batch_size: rows of a step. The last step of an epoch takes the rows that are left.
      early_stopping: when to stop sooner, or None.
      plateau: when to lower the learning rate, or None.
      class_weight: integer class -> factor on the training loss of its rows, as in Keras; or None.
      replacement: whether each batch is drawn with replacement.
      terminate_on_nan: whether to end at the first epoch with a loss or a weight that is not finite.
      validation_batch_size: rows of a step of validation; the scores depend on it by rounding only. None: as many as 4 MB hold of the
        model's widest layer, and at least 256. A run's record has the number. A task with a `flaxfit.losses.of_batch` has its own.

    Raises:
      ValueError, TypeError: an argument that cannot work.

    Example:
      >>> config = TrainConfig(epochs=10, early_stopping=EarlyStopping("val_loss", patience=3))
      >>> TrainConfig.from_record(config.record()) == config
      True
    """

    epochs: int = 1
    batch_size: int = 32
    early_stopping: EarlyStopping | None = None
    plateau: Plateau | None = None
    class_weight: Mapping[int, float] | None = None
    replacement: bool = False
    terminate_on_nan: bool = True
    validation_batch_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", check_count("epochs", self.epochs, 1, "epochs"))
        object.__setattr__(self, "batch_size", check_count("batch_size", self.batch_size, 1, "rows of a step"))
        if (size := self.validation_batch_size) is not None:
            object.__setattr__(self, "validation_batch_size", check_count("validation_batch_size", size, 1, "rows of a step"))
        if self.early_stopping is not None and not isinstance(self.early_stopping, EarlyStopping):
            raise TypeError(f'early_stopping must be ff.EarlyStopping("val_loss", patience=...), got {self.early_stopping!r}.')
        if self.plateau is not None and not isinstance(self.plateau, Plateau):
            raise TypeError(f'plateau must be ff.Plateau("val_loss", factor=..., patience=...), got {self.plateau!r}.')
        if self.class_weight is not None:
            if not isinstance(self.class_weight, Mapping):
                raise TypeError(f"class_weight maps integer classes to factors, as in {{0: 1.0, 1: 5.0}}, got {self.class_weight!r}.")
            object.__setattr__(self, "class_weight", dict(self.class_weight))

    def record(self) -> dict[str, Any]:
        """The configuration as plain values for JSON."""
        weights = self.class_weight
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "early_stopping": None if self.early_stopping is None else asdict(self.early_stopping),
            "plateau": None if self.plateau is None else asdict(self.plateau),
            "class_weight": None if weights is None else {str(label): float(factor) for label, factor in weights.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainConfig:
        """The configuration that `record` gave; what an older record lacks has its default."""
        values = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        for name, kind in (("early_stopping", EarlyStopping), ("plateau", Plateau)):
            if values.get(name) is not None:
                values[name] = kind(**values[name])
        if values.get("class_weight") is not None:
            values["class_weight"] = {int(label): factor for label, factor in values["class_weight"].items()}
        return cls(**values)


class TrainOptions(TypedDict, total=False):
    """The arguments of `TrainConfig` as keywords, for functions that hand them on."""

    epochs: int
    batch_size: int
    early_stopping: EarlyStopping | None
    plateau: Plateau | None
    class_weight: Mapping[int, float] | None
    replacement: bool
    terminate_on_nan: bool
    validation_batch_size: int | None


def check_seed(seed: Any) -> int:
    """`seed` as an integer that JAX takes as it is."""
    if check_count("seed", seed, 0, "below 2**32") >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}: JAX would take it modulo that.")
    return int(seed)
