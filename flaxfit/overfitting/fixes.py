"""What a study tries: the default network for some data, and the fixes that a task can express."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optax

from flaxfit import losses, metrics
from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import class_labels
from flaxfit.nn import CNN, MLP
from flaxfit.regularize import augmentation, masks, penalties
from flaxfit.train.task import Task

NEUTRAL: dict[str, Any] = {
    "width": 1.0,
    "l1": 0.0,
    "l2": 0.0,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "batch_norm": False,
    "augmentation": 0.0,
}
"""The hyperparameters of fixes, with the values at which they change nothing."""
TRACED = {"l1", "l2", "weight_decay", "dropout"}
_CHANNELS = (16, 32)


@dataclass(frozen=True)
class Fix:
    """One setting that a study compares with the baseline.

    Attributes:
      kind: what it is, such as "L2 penalty".
      strength: how strong it is, as text; empty if there is only one strength.
      setting: the hyperparameters that differ from the baseline's.
      stops: whether it stops early.
    """

    kind: str
    strength: str
    setting: Mapping[str, Any]
    stops: bool = False

    @property
    def name(self) -> str:
        """The kind and the strength."""
        return f"{self.kind} {self.strength}".strip()


BASELINE = Fix("baseline", "", {})
# Kinds in the order of their simplicity, which decides between fixes that are equally good; strengths from the weakest on.
_KINDS: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...] = (
    ("smaller network", ({"width": 0.25}, {"width": 0.0625})),
    ("baseline", ({},)),
    ("early stopping", ({},)),
    ("weight decay", ({"weight_decay": 0.01}, {"weight_decay": 0.1}, {"weight_decay": 1.0})),
    ("L2 penalty", ({"l2": 1e-4}, {"l2": 1e-3}, {"l2": 1e-2})),
    ("L1 penalty", ({"l1": 1e-4}, {"l1": 1e-3}, {"l1": 5e-3})),
    ("dropout", ({"dropout": 0.2}, {"dropout": 0.35}, {"dropout": 0.5})),
    ("L2 with dropout", ({"l2": 1e-4, "dropout": 0.2}, {"l2": 1e-3, "dropout": 0.35}, {"l2": 1e-2, "dropout": 0.5})),
    ("batch norm", ({"batch_norm": True},)),
    ("augmentation", ({"augmentation": 0.05}, {"augmentation": 0.1}, {"augmentation": 0.2})),
    ("larger network", ({"width": 2.0},)),
)
SIMPLICITY = {kind: place for place, (kind, _) in enumerate(_KINDS)}
_HOW = {
    "width": "multiply the numbers of units by hp['width']",
    "weight_decay": "pass hp['weight_decay'] to optax.adamw",
    "dropout": "pass hp['dropout'] to ff.nn.Dropout",
    "batch_norm": "add batch norm if hp['batch_norm']",
    "augmentation": "pass hp['augmentation'] to a function of ff.augmentation, in Task(augment=...)",
}


def fixes_for(names: set[str], strengths: int) -> tuple[list[Fix], dict[str, str]]:
    """Returns the baseline and the fixes that can be expressed, and how the others would become possible.

    Args:
      names: the hyperparameters that can be set.
      strengths: how many strengths of each fix to try, 1 to 3.

    Returns:
      The fixes, the baseline first; and kind -> what to change so that it can be tried.
    """
    fixes, missing = [BASELINE], {}
    for kind, settings in _KINDS:
        if kind == "baseline":
            continue
        if absent := [name for name in settings[0] if name not in names]:
            missing[kind] = f"{_HOW[absent[0]]} in make_task(hp)"
            continue
        chosen = settings if strengths >= len(settings) else settings[len(settings) // 2 :][:1] if strengths == 1 else settings[-2:]
        fixes += [Fix(kind, _strength(setting), setting, kind == "early stopping") for setting in chosen]
    return fixes, missing


def _strength(setting: Mapping[str, Any]) -> str:
    if "width" in setting:
        width = setting["width"]
        return f"({width:g}x width)" if width > 1 else f"(1/{1 / width:g} width)"
    return ", ".join(f"{value:g}" for value in setting.values() if not isinstance(value, bool))


@dataclass(frozen=True)
class Network:
    """The network that a study makes for the data if it is given none: dense layers, or convolutions and dense layers for images.

    Features are standardized with the training examples of each fold. The optimizer is Adam.

    Attributes:
      hidden: the number of units of each hidden dense layer.
      activation: the activation of hidden layers, as for `flaxfit.nn.MLP`.
      learning_rate: the learning rate of Adam.
    """

    hidden: Sequence[int] = (64, 64)
    activation: str = "relu"
    learning_rate: float = 1e-3

    def task_maker(self, data: Dataset) -> Callable[[Mapping[str, Any]], Task]:
        """Returns a function of hyperparameters that returns the task for such data."""
        x, labels = data.x, class_labels(data)
        if isinstance(x, dict | tuple) or isinstance(data.y, dict | tuple) or (labels is None and data.y.ndim > 1):
            raise TypeError("a study makes networks for one array of inputs and one target for each example: pass make_task for others.")
        images = x.ndim in (3, 4) and min(x.shape[1:3]) >= 2 ** len(_CHANNELS)
        classes = 0 if labels is None else len(data.classes or ()) or int(labels.max()) + 1
        outputs = 1 if classes <= 2 else classes
        loss: Any = losses.mse if not classes else losses.binary_crossentropy if outputs == 1 else losses.categorical_crossentropy
        accuracy = metrics.binary_accuracy if outputs == 1 else metrics.categorical_accuracy

        def make_task(hp: Mapping[str, Any]) -> Task:
            def wide(units: Sequence[int]) -> tuple[int, ...]:
                return tuple(max(1, round(count * hp["width"])) for count in units)

            options: dict[str, Any] = {"activation": self.activation, "dropout": hp["dropout"], "batch_norm": hp["batch_norm"]}
            model = CNN(wide(_CHANNELS), wide(self.hidden), outputs, **options) if images else MLP(wide(self.hidden), outputs, **options)
            shift = hp.get("augmentation")
            return Task(
                model,
                loss,
                optax.adamw(self.learning_rate, weight_decay=hp["weight_decay"], mask=lambda params: masks.resolve(None, params)),
                {"accuracy": accuracy} if classes else {},
                penalty=penalties.elastic_net(hp["l1"], hp["l2"]),
                augment=augmentation.random_translation(shift, shift) if shift else None,
                preprocess=hp.get("scaling"),
                learning_rate=self.learning_rate,
            )

        return make_task


def names_for(data: Dataset) -> set[str]:
    """Returns the hyperparameters of the networks that `Network` makes for some data."""
    images = getattr(data.x, "ndim", 0) in (3, 4)
    return {name for name in NEUTRAL if images or name != "augmentation"}


def of_task(task: Task) -> Callable[[Mapping[str, Any]], Task]:
    """Returns a function of the hyperparameters `l1` and `l2`, whose penalty is added to that of a task."""

    def make_task(hp: Mapping[str, Any]) -> Task:
        added = penalties.elastic_net(hp["l1"], hp["l2"])
        own = task.penalty
        return replace(task, penalty=added if own is None else lambda params: own(params) + added(params))

    return make_task


class Asked(dict):
    """The neutral hyperparameters, which remembers which of them a user's function asked for."""

    def __init__(self, extra: Mapping[str, Any]):
        super().__init__({**NEUTRAL, **extra})
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value, as for a dict."""
        self.names.update({name} & {*NEUTRAL, "scaling"})
        return super().get(name, default)

    def keys(self) -> Any:
        """All names, which counts as asking for all."""
        self.names.update(super().keys())
        return super().keys()
