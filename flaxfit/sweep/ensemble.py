"""Ensembles: several trained models as one, for prediction, evaluation and export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from flaxfit.arguments import unknown
from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Stream
from flaxfit.programs.checks import check_task
from flaxfit.programs.compiled import Programs, programs_of
from flaxfit.programs.evaluate import evaluate, evaluate_member
from flaxfit.state import TrainState
from flaxfit.task.labels import kind_of_loss
from flaxfit.task.models import Network, Variables
from flaxfit.task.task import Task

Average = Literal["probabilities", "logits"]


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble:
    """Several trained models as one, as `flaxfit.ensemble` returns it.

    Attributes:
      task: the task for `flaxfit.evaluate`, `predict` and `export`. It has no penalty, so that its objective is its data loss, and cannot
        be trained.
      state: the evaluation states of the members, under `member_0`, `member_1`, ...
      members: the task and the evaluation state of each member.
      average: "probabilities" or "logits".
      programs: the compiled programs that each member uses, and their traced numbers.
    """

    task: Task
    state: TrainState
    members: tuple[tuple[Task, TrainState], ...]
    average: Average
    programs: tuple[tuple[Programs, Mapping[str, Any]], ...]

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"Ensemble({len(self)} members, mean of {self.average}, scores {', '.join([self.task.loss_name, *self.task.metrics])})"

    def diversity(self, data: Dataset | Stream, *, batch_size: int = 1024) -> dict[str, float]:
        """Computes what averaging gains, and how much the members differ.

        Args:
          data: the examples.
          batch_size: how many examples to compute at once.

        Returns:
          `members`: the mean of the data losses of the members. `ensemble`: the data loss of the ensemble. `ambiguity`: the first minus the
          second. By Jensen's inequality it is not negative if the loss is convex in what is averaged, as cross-entropy (in probabilities
          and in logits) and squared error are. For squared error it is the mean squared distance of the members from their mean (Krogh and
          Vedelsby 1995, "Neural network ensembles, cross validation, and active learning"). `members_NAME` and `ensemble_NAME`: the same
          for each metric. For classifiers also `disagreement`: the fraction of examples and pairs of members whose predicted classes
          differ (Kuncheva and Whitaker 2003, "Measures of diversity in classifier ensembles"), which is NaN for a single member. Sample
          weights count in losses only.

        Raises:
          ValueError, TypeError: as `flaxfit.evaluate`.
        """
        kind, predicted = kind_of_loss(self.task), "predicted classes"
        metrics = None if kind is None else {predicted: lambda logits, y: logits > 0 if kind == "binary" else logits.argmax(-1)}
        members = [
            evaluate_member(own, task, numbers, state, data, batch_size, metrics)
            for (own, numbers), (task, state) in zip(self.programs, self.members, strict=True)
        ]
        own = evaluate(self.task, self.state, data, batch_size=batch_size)
        means = {name: float(np.mean([scores[name] for scores in members])) for name in (self.task.loss_name, *self.task.metrics)}
        loss, score = means.pop(self.task.loss_name), own[self.task.loss_name]
        found = {"members": loss, "ensemble": score, "ambiguity": loss - score}
        for name, mean in means.items():
            found |= {f"members_{name}": mean, f"ensemble_{name}": own[name]}
        if kind is not None:
            found["disagreement"] = _disagreement(np.stack([scores[predicted] for scores in members]))
        return found


def ensemble(members: Any, *, average: Average | None = None) -> Ensemble:
    """Averages trained models. The result has a task and a state like those of a single model.

    The mean of probabilities is returned as logits, log(p / (1 - p)) for a binary loss and log(p) for classes, so that losses and metrics
    work as for a single model. Its cross-entropy is at most the mean of the members'. The mean of logits corresponds to the normalized
    geometric mean of the probabilities.

    Args:
      members: pairs (task, state), such as `(task, result.best)`; or a `Study`, whose best states are used. Models and their `preprocess`
        may differ. The loss and the metrics are those of the first member.
      average: "probabilities", for the cross-entropies of flaxfit and optax only, because it is known what their outputs mean; or "logits",
        the mean of the outputs as they are. The default is "probabilities" where that is possible, else "logits".

    Returns:
      An Ensemble.

    Raises:
      TypeError: members are not pairs of Task and TrainState.
      ValueError: there are no members; they have different losses or metrics; the average is not possible. Outputs of different shapes are
        found by `flaxfit.evaluate`, `predict` and `export`.

    Example:
      >>> import flaxfit as ff
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> data = ff.Dataset(x, x[:, 0] ** 2)
      >>> task = ff.Task(model=ff.nn.MLP((8,), 1), loss=ff.losses.mse, optimizer=optax.adam(1e-2))
      >>> both = ensemble([(task, ff.fit(task, data, epochs=5, seed=seed).best) for seed in (0, 1)])
      >>> both
      Ensemble(2 members, mean of logits, scores mse)
      >>> both.diversity(data)["ambiguity"] > 0
      True
      >>> ff.predict(both.task, both.state, x).shape
      (64, 1)
    """
    programs = None
    if hasattr(members, "members") and hasattr(members, "results"):
        programs = [(member.programs, member.numbers) for member in members.members]
        members = [(member.task, result.best) for member, result in zip(members.members, members.results, strict=True)]
    if not hasattr(members, "__iter__"):
        raise TypeError(f"members must be pairs (task, state), such as [(task, result.best)], got {type(members).__name__}.")
    pairs = [_member(index, member) for index, member in enumerate(members)]
    if not pairs:
        raise ValueError("an ensemble needs at least one member: pairs (task, state), such as (task, result.best).")
    tasks, states = [task for task, _ in pairs], [state for _, state in pairs]
    first = tasks[0]
    for index, task in enumerate(tasks):
        for what, got, expected in (
            ("the loss", task.loss_name, first.loss_name),
            ("metrics", sorted(task.metrics), sorted(first.metrics)),
        ):
            if got != expected:
                raise ValueError(f"members must share {what}: member 0 has {expected}, member {index} {got}.")
    kind = kind_of_loss(first)
    average = average or ("logits" if kind is None else "probabilities")
    if average not in ("probabilities", "logits"):
        raise ValueError(unknown("average", average, ("probabilities", "logits")))
    if average == "probabilities" and kind is None:
        raise ValueError(
            f'average="probabilities" needs a cross-entropy of flaxfit or optax, which tells what logits mean; the loss is '
            f'{first.loss_name}: use average="logits", the mean of the outputs as they are.'
        )
    shared = first.preprocess if all(task.preprocess is first.preprocess for task in tasks) else None  # an export then knows it
    parts = tuple(tasks if shared is None else (replace(task, preprocess=None) for task in tasks))
    task = Task(
        Mean(parts, kind if average == "probabilities" else None),
        first.loss,
        optax.identity(),
        first.metrics,
        preprocess=shared,
        ignore_label=first.ignore_label,
        rngs=tuple(dict.fromkeys(name for task in tasks for name in task.rngs)),
    )
    params, collections = _joined((state.params, state.collections) for state in states)
    programs = tuple(programs or ((programs_of(task), {}) for task in tasks))
    step = jnp.asarray(max(int(state.step) for state in states), jnp.int32)
    return Ensemble(task, TrainState(step, params, collections, None), tuple(pairs), average, programs)


class Mean(Network):
    """The mean of networks. Its parameters and collections are those of its members, under `member_0`, `member_1`, ...

    Args:
      tasks: the members'. Each has its own preprocessing.
      kind: what logits mean, where probabilities are averaged; else None.
    """

    name = "Ensemble"

    def __init__(self, tasks: Sequence[Task], kind: Literal["binary", "classes"] | None):
        self.tasks, self.kind = tasks, kind
        self.several = tasks[0].network.several

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind}, {[task.network for task in self.tasks]})"

    def init(self, rngs: Mapping[str, Any], x: Any) -> Variables:
        """See `Network.init`."""
        return _joined(task.network.init(rngs, task.prepared(x)) for task in self.tasks)

    def apply(self, params: Any, collections: Any, x: Any, rngs: Any, frozen: Any = None) -> tuple[Any, Any, Any]:
        """See `Network.apply`."""
        outputs = []
        for index, task in enumerate(self.tasks):
            member = f"member_{index}"
            own = {name: parts[member] for name, parts in collections.items() if member in parts}
            outputs.append(task.network.apply(params[member], own, task.prepared(x), None)[0])
        shapes = [jax.tree.map(lambda a: ("rows", *a.shape[1:]), output) for output in outputs]
        for index, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise ValueError(f"members must share the shape of their outputs: member 0 gives {shapes[0]}, member {index} {shape}.")
        return jax.tree.map(self._mean, *outputs), collections, ()

    def tabulate(self, rngs: Mapping[str, Any], x: Any, **options: Any) -> str:
        """See `Network.tabulate`."""
        return "\n".join(task.network.tabulate(rngs, task.prepared(x), **options) for task in self.tasks)

    def _mean(self, *outputs: Array) -> Array:
        logits = jnp.stack([a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in outputs])
        if self.kind is None:
            return logits.mean(0)
        if self.kind == "binary":
            return jax.nn.logsumexp(jax.nn.log_sigmoid(logits), 0) - jax.nn.logsumexp(jax.nn.log_sigmoid(-logits), 0)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), 0) - jnp.log(len(outputs))


def _joined(members: Iterable[tuple[Any, Mapping[str, Any]]]) -> Variables:
    """The parameters and collections of members as those of one model."""
    params: dict[str, Any] = {}
    collections: dict[str, Any] = {}
    for index, (own, others) in enumerate(members):
        params[f"member_{index}"] = own
        for name, part in others.items():
            collections.setdefault(name, {})[f"member_{index}"] = part
    return params, collections


def _member(index: int, member: Any) -> tuple[Task, TrainState]:
    if not isinstance(member, tuple | list) or len(member) != 2 or not isinstance(member[1], TrainState):
        kinds = ", ".join(type(part).__name__ for part in member) if isinstance(member, tuple | list) else type(member).__name__
        raise TypeError(f"members must be pairs (task, state), such as [(task, result.best)]; member {index} is {kinds}.")
    task, state = member
    check_task(task)
    return task, task.evaluated(state)


def _disagreement(predicted: np.ndarray) -> float:
    """Of predicted classes, shape (members, rows, ...): the share of pairs that differ, counted by class, not by pair."""
    count = len(predicted)
    if count < 2:
        return float("nan")
    alike = 0.0
    for label in np.unique(predicted):
        chosen = (predicted == label).sum(0)
        alike += float((chosen * (chosen - 1)).mean())
    return 1 - alike / (count * (count - 1))
