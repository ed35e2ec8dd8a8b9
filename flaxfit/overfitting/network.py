"""The network that is made for some data if a user gives none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import numpy as np
import optax

from flaxfit import losses, metrics
from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import class_labels
from flaxfit.nn import CNN, MLP
from flaxfit.overfitting.fixes import NEUTRAL, Asked, of_task
from flaxfit.overfitting.problem import Problem, scaling_of
from flaxfit.programs.compiled import MakeTask
from flaxfit.regularize import augmentation, masks, penalties
from flaxfit.task.task import Task

_CHANNELS = (16, 32)


class Rescaled(nn.Module):
    """A network for regression: the outputs of another one, in the unit of the targets."""

    model: nn.Module
    center: float  # the mean of the targets
    unit: float  # their standard deviation

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        """Returns the outputs of the network, in the unit of the targets."""
        return self.model(x, train=train) * self.unit + self.center


class standardized_mse:
    """The squared error divided by the variance of the targets, so that learning rates and penalties mean the same whatever their unit."""

    __name__ = "standardized_mse"

    def __init__(self, unit: float):
        self.unit = unit  # the standard deviation of the targets

    def __call__(self, logits: Any, y: Any) -> Any:
        """Returns the error of each example, shape (rows,)."""
        return losses.mse(logits, y) / self.unit**2


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

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"the learning rate must be above 0, got {self.learning_rate:g}.")

    def task_maker(self, data: Dataset) -> Callable[[Mapping[str, Any]], Task]:
        """Returns a function of the hyperparameters of fixes that returns the task for such data.

        Args:
          data: examples with encoded inputs, whose targets tell the classes, or the mean and the deviation of numbers.

        Raises:
          TypeError: there are several inputs or targets.
          ValueError: all targets are equal.
        """
        x, labels = data.x, class_labels(data)
        if isinstance(x, dict | tuple) or isinstance(data.y, dict | tuple) or (labels is None and data.y.ndim > 1):
            raise TypeError("a study makes networks for one array of inputs and one target for each example: pass make_task for others.")
        images, outputs, center, unit = is_images(x), 1, 0.0, 1.0
        if labels is None:
            center, unit = float(np.mean(data.y, dtype=float)), float(np.std(data.y, dtype=float))
            if not unit > 0:
                raise ValueError("all targets are equal, so that there is nothing to learn.")
            loss, scores = standardized_mse(unit), {}
        elif (classes := len(data.classes or ()) or int(labels.max()) + 1) <= 2:
            loss, scores = losses.binary_crossentropy, {"accuracy": metrics.binary_accuracy}
        else:
            outputs, loss, scores = classes, losses.categorical_crossentropy, {"accuracy": metrics.categorical_accuracy}

        def make_task(hp: Mapping[str, Any]) -> Task:
            def wide(units: Sequence[int]) -> tuple[int, ...]:
                return tuple(max(1, round(count * hp["width"])) for count in units)

            options: dict[str, Any] = {"activation": self.activation, "dropout": hp["dropout"], "batch_norm": hp["batch_norm"]}
            model = CNN(wide(_CHANNELS), wide(self.hidden), outputs, **options) if images else MLP(wide(self.hidden), outputs, **options)
            model = model if labels is not None else Rescaled(model, center, unit)
            shift = hp.get("augmentation")
            return Task(
                model,
                loss,
                optax.adamw(self.learning_rate, weight_decay=hp["weight_decay"], mask=lambda params: masks.resolve(None, params)),
                scores,
                penalty=penalties.elastic_net(hp["l1"], hp["l2"]),
                augment=augmentation.random_translation(shift, shift) if shift else None,
                preprocess=hp.get("scaling"),
                learning_rate=self.learning_rate,
            )

        return make_task


def is_images(x: Any) -> bool:
    """Whether inputs are images that can be halved as often as the convolutions need."""
    return getattr(x, "ndim", 0) in (3, 4) and min(x.shape[1:3]) >= 2 ** len(_CHANNELS)


def names_for(data: Dataset) -> set[str]:
    """Returns the hyperparameters of the networks that `Network` makes for some data."""
    return {name for name in NEUTRAL if is_images(data.x) or name != "augmentation"}


def studied(make_task: Any, problem: Problem) -> tuple[MakeTask, set[str], str]:
    """Returns what makes the tasks of a study, the hyperparameters that it takes, and a description of the baseline.

    Raises:
      TypeError: it is none of what `overfitting_study` takes.
    """
    sample = problem.pooled()
    if make_task is None or isinstance(make_task, Network):
        network = make_task or Network()
        layers = " and ".join(map(str, network.hidden)) if len(network.hidden) < 3 else ", ".join(map(str, network.hidden))
        kind = "two convolutions and " if is_images(sample.x) else ""
        baseline = f"{kind}hidden layers of {layers} units, Adam with a learning rate of {network.learning_rate:g}, no regularization"
        problem.scaled = problem.encoding is None
        return network.task_maker(sample), names_for(sample), baseline
    if isinstance(make_task, Task):
        return of_task(make_task), {"l1", "l2"}, f"the given task, {make_task.network.name} with {make_task.loss_name}"
    if not callable(make_task):
        raise TypeError(f"overfitting_study needs a function that returns a Task, a Task, or None, got {type(make_task).__name__}.")
    asked = Asked({"scaling": scaling_of(sample.x)})
    task = make_task(asked)
    if not isinstance(task, Task):
        raise TypeError(f"make_task must return a flaxfit.Task, got {type(task).__name__}.")
    problem.scaled = "scaling" in asked.names
    return cast(MakeTask, make_task), asked.names - {"scaling"}, f"the given task, {task.network.name} with {task.loss_name}"
