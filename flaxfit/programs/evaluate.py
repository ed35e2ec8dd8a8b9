"""Scores and outputs of a trained state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.arguments import check_count
from flaxfit.data.dataset import Dataset, arrays
from flaxfit.data.stream import Feed, Stream
from flaxfit.devices.sharding import gather
from flaxfit.metrics import auc
from flaxfit.programs import program
from flaxfit.programs.checks import abstract, check_data, check_inputs, check_program, check_state, check_task
from flaxfit.programs.compiled import Programs, programs_of
from flaxfit.programs.rows import check_positions, check_rows_apart
from flaxfit.programs.set_metrics import compiled, on_host
from flaxfit.programs.step import row_losses
from flaxfit.report import statistics
from flaxfit.sections import Plain
from flaxfit.state import TrainState
from flaxfit.storage.predictor import chosen
from flaxfit.task.labels import check_labels
from flaxfit.task.task import Task


def evaluate(
    task: Task,
    state: TrainState,
    data: Dataset | Stream,
    *,
    batch_size: int = 1024,
    metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], Any]] | None = None,
    interval: bool = False,
) -> dict[str, Any]:
    """Computes the loss and the metrics of a trained state over all examples.

    Args:
      task: the task that was trained.
      state: `result.best`, `result.last`, or another state of this task.
      data: the examples. A stream is read piece by piece.
      batch_size: how many examples to compute at once. It bounds the memory, and changes scores by rounding only. A task with a
        `flaxfit.losses.of_batch` uses that batch size.
      metrics: more metrics, which are computed from the whole set: name -> (logits, y) -> number or array, such as `flaxfit.metrics.auc`
        or a function of `sklearn.metrics`. All logits and targets are then in memory, also those of a stream.
      interval: whether to return 95% intervals (`flaxfit.statistics.Interval`): Student's over examples, Wilson's for proportions such as
        accuracies, DeLong's for `flaxfit.metrics.auc`. They cover the choice of these examples, but neither seeds nor the choice of the
        training examples. Other `metrics` and the penalty remain numbers. It needs a Dataset.

    Returns:
      `loss` (the objective), the data loss under its name, `penalty` if there is one, the metrics and set metrics of the task, and
      `metrics`.

    Raises:
      ValueError: as `fit`; the state is of another model.
      TypeError: as `fit`; `interval` with a stream.

    Example:
      >>> import flaxfit as ff, optax
      >>> data = ff.Dataset(np.linspace(-1, 1, 64)[:, None], np.arange(64) // 32)
      >>> metrics = {"accuracy": ff.metrics.binary_accuracy}
      >>> task = ff.Task(ff.nn.MLP((8,), 1), ff.losses.binary_crossentropy, optax.adam(1e-2), metrics=metrics)
      >>> scores = ff.evaluate(task, ff.fit(task, data, epochs=200).best, data, interval=True)
      >>> print(scores["accuracy"])
      1.000 [0.943, 1.000] (64)
    """
    check_task(task)
    programs = programs_of(task)
    scores = evaluate_member(programs, task, {}, state, data, batch_size, metrics)
    if not interval:
        return scores
    if not isinstance(data, Dataset):
        raise TypeError(f"evaluate(interval=True) needs a Dataset, got {type(data).__name__}.")
    rows = score_rows(programs, task, {}, state, data, batch_size)
    scores |= {name: statistics.of_rows(values) for name, values in rows.items()}
    for name, metric in (metrics or {}).items():
        if metric is auc and np.isfinite(scores[name]):
            logits = predict_member(programs, task, {}, state, data.x, batch_size)
            logits, y = (logits, data.y) if task.counted is None else task.counted.kept(logits, data.y)
            scores[name] = statistics.auc_interval(y, logits)
    return scores


def score_rows(
    programs: Programs, task: Task, numbers: Mapping[str, Any], state: TrainState, data: Dataset, batch_size: int = 1024
) -> dict[str, np.ndarray]:
    """The scores of each row, whose means `evaluate_member` gives: name -> shape (rows,); a row's weight is a factor on its loss.

    Rows whose label does not count are left out.

    Raises:
      ValueError: a loss or metric that gives other than one number a row; rows of which different shares count.
    """
    if task.eval_batch_size is not None:
        raise ValueError("a loss or metric of the task is computed from whole batches, so that there is no interval for it.")
    logits = predict_member(programs, task, numbers, state, data.x, batch_size)
    functions: dict[str, Any] = {name: lambda logits, y, _, metric=metric: metric(logits, y) for name, metric in task.row_metrics.items()}
    functions = {task.loss_name: functools.partial(row_losses, task), **functions}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for first in range(0, len(data), batch_size):
        place = slice(first, first + batch_size)
        some = jax.tree.map(lambda a, place=place: jnp.asarray(a[place]), (logits, data.y, data.sample_weight))
        for name, function in functions.items():
            parts[name].append(np.asarray(function(*some), np.float64))
    rows = {name: np.concatenate(values) if values[0].ndim else np.zeros(0) for name, values in parts.items()}
    for name, values in rows.items():
        if values.shape != (len(data),):
            raise ValueError(f"{name} does not return a number for each example, which an interval needs.")
    if task.counted is not None:
        shares = np.asarray(task.counted.shares(logits, np.asarray(data.y)), np.float64)
        if len(set(shares[shares > 0])) > 1:
            raise ValueError("rows have different numbers of labels that count, so that they count differently: leave out the interval.")
        rows = {name: values[shares > 0] / shares[shares > 0] for name, values in rows.items()}
    return {"loss": rows[task.loss_name] + float(task.penalized(task.evaluated(state).params)), **rows}


def evaluate_member(
    programs: Programs,
    task: Task,
    numbers: Mapping[str, Any],
    state: TrainState,
    data: Dataset | Stream,
    batch_size: int = 1024,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
) -> dict[str, Any]:
    """`evaluate` for `task`, which is the one for these numbers, by a program that all tasks of `programs` share."""
    first = data[:1] if isinstance(data, Stream) else data
    check_data("data", first)
    batch_size = check_count("batch_size", batch_size, 1, "rows a step")
    if not isinstance(metrics or {}, Mapping):
        raise TypeError('evaluate(metrics=...) must map names to functions of the whole set, such as {"auc": ff.metrics.auc}.')
    for name in metrics or ():
        if name in (*program.logged(task), *task.set_metrics):
            raise ValueError(f"evaluate(metrics=...) must not have the name {name!r}, which is in use: give the metric another name.")
    batch_size = task.eval_batch_size or batch_size
    sizes = program.batch_sizes(len(data), batch_size)
    shapes, logits, _ = check_program(programs, task, numbers, first, (), sizes)
    check_rows_apart(programs, task, numbers, data, logits, sizes[-1], sizes)
    check_positions(task, "data", data, logits)

    def checked(rows: Dataset) -> Dataset:
        check_labels(task, "data", rows, logits)
        return rows

    task_of = programs.task

    def scores_of(numbers: Mapping[str, Any], state: TrainState, rows: Dataset) -> dict[str, Any]:
        return program.evaluate(task_of(numbers), state, rows, batch_size)

    whole_set = {**task.set_metrics}
    for name, metric in (metrics or {}).items():
        whole_set[name] = task.of_set(metric, f"evaluate(metrics=...), {name!r},")
    numbers, state = jax.device_put((numbers, _evaluated(task, state, shapes, checked(first).x)))
    scores: dict[str, Any] = dict.fromkeys(program.logged(task), 0.0)
    outputs, total = [], 0.0
    with ExitStack() as stack:
        streamed = isinstance(data, Stream)
        pieces = stack.enter_context(Feed(data, min(batch_size, len(data)), 1, checked, "data")).pieces() if streamed else [data]
        for piece in pieces:
            rows = jax.device_put(piece)
            arguments = (numbers, state, rows)
            values = jax.device_get(programs.compiled(("evaluate", batch_size), scores_of, *arguments)(*arguments))
            count = len(piece) if task.counted is None else float(task.counted.shares(abstract(logits, len(piece)), piece.y).sum())
            scores, total = {name: score + float(values[name]) * count for name, score in scores.items()}, total + count
            if whole_set:
                outputs.append((predict_member(programs, task, numbers, state, piece.x, batch_size), jax.tree.map(np.asarray, piece.y)))
    scores = {name: score / total for name, score in scores.items()}
    if whole_set:
        logits, y = jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
        host = on_host(programs, task, numbers, logits, y, len(data))
        for name, metric in whole_set.items():
            try:
                if name in task.set_metrics and name not in host:
                    scores[name] = float(compiled(programs, name)(*jax.device_put((numbers, logits, y))))
                    continue
                value = metric(logits, y)
            except Exception as error:
                error.add_note(f"in evaluate(metrics=...), the metric {name!r}")
                raise
            scores[name] = (np.asarray(value) if value.ndim else value.item()) if isinstance(value, jax.Array) else value
    return scores


def predict(task: Task, state: TrainState, x: Any, *, batch_size: int = 1024, classes: Sequence[Any] | None = None) -> Any:
    """Returns the outputs of a model, such as logits, or the classes that it predicts. The model is in evaluation mode.

    Args:
      task: the task that was trained.
      state: `result.best`, `result.last`, or another state of this task.
      x: inputs as in training: arrays with leading axis (rows,). A list holds inputs if the model's call takes several, else examples.
      batch_size: how many examples to compute at once.
      classes: the names of the classes, such as `train.classes`, to return names instead of logits: the class of the largest logit, or the
        second class if a single logit is above 0.

    Returns:
      NumPy arrays with leading axis (rows,). With `classes` an array of names, of shape (rows,) or with one for each position.

    Raises:
      ValueError, TypeError: the model does not take these inputs, or they are not finite; the state is of another model; the number of
        classes is not that of the model.

    Example:
      >>> import flaxfit as ff, optax
      >>> train = ff.Dataset([[-2.0], [-1.0], [1.0], [2.0]], ["no", "no", "yes", "yes"])
      >>> task = ff.Task(ff.nn.MLP((), 1), ff.losses.binary_crossentropy, optax.sgd(1.0))
      >>> result = ff.fit(task, train, epochs=20)
      >>> ff.predict(task, result.best, train.x, classes=train.classes).tolist()
      ['no', 'no', 'yes', 'yes']
    """
    check_task(task)
    outputs = predict_member(programs_of(task), task, {}, state, x, batch_size)
    return outputs if classes is None else chosen(outputs, classes)


def predict_member(programs: Programs, task: Task, numbers: Mapping[str, Any], state: TrainState, x: Any, batch_size: int = 1024) -> Any:
    """`predict` for `task`, which is the one for these numbers, by a program that all tasks of `programs` share."""
    x = arrays(tuple(x) if task.network.several and isinstance(x, list) else x, "x")
    rows = Dataset(x, np.zeros(len((*jax.tree.leaves(x), ())[0]), np.int8))
    check_data("predict", rows)
    batch_size = check_count("batch_size", batch_size, 1, "rows a step")
    task_of = programs.task
    size = min(batch_size, 1 << (len(rows) - 1).bit_length())  # few sizes, few programs
    shapes = programs.found(("model", size), lambda numbers, x: check_inputs(task_of(numbers), x, size), numbers, rows[:1].x)
    numbers, state = jax.device_put((numbers, _evaluated(task, state, shapes, x)))

    def outputs(numbers: Mapping[str, Any], state: TrainState, x: Any) -> Any:
        task = task_of(numbers)
        return task.apply(state.params, state.collections, task.prepared(x))[0]

    parts = []
    for first in range(0, len(rows), size):
        index = np.minimum(np.arange(first, first + size), len(rows) - 1)  # the last row again, where there are too few
        part = jax.device_put(rows[index].x)
        parts.append(jax.device_get(programs.compiled("predict", outputs, numbers, state, part)(numbers, state, part)))
    return jax.tree.map(lambda *outputs: np.concatenate(outputs)[: len(rows)], *parts)


def summary(task: Task, x: Any) -> str:
    """Returns a table of the layers of a model, as plain text: parameters, output shapes, floating-point operations of a call.

    Args:
      task: the task of the model. Its `preprocess` is applied to `x`.
      x: inputs of a few examples, such as `x[:1]`.

    Example:
      >>> import flaxfit as ff, optax
      >>> task = Task(ff.nn.MLP((16,), 1), ff.losses.binary_crossentropy, optax.adam(1e-3))
      >>> "Total Parameters: 481" in summary(task, np.ones((1, 28)))
      True
    """
    rngs = {name: jax.random.key(0) for name in ("params", *task.rngs)}
    console = {"force_terminal": False, "no_color": True, "width": 140}
    with _on_cpu():
        return Plain(task.network.tabulate(rngs, task.prepared(arrays(x, "x")), compute_flops=True, console_kwargs=console).strip("\n"))


def _on_cpu() -> Any:
    """Compiles for a CPU where there is one, because XLA does not count the operations of programs for GPUs."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return nullcontext()


def _evaluated(task: Task, state: Any, shapes: TrainState, x: Any) -> TrainState:
    """The checked state as evaluation sees it; an optimizer state matters only where averaged weights are in it."""
    if isinstance(state, TrainState) and not task.averages(shapes):
        state = replace(state, opt_state=None)
    rows = str(jax.tree.map(lambda a: ("rows", *a.shape[1:]), x)).replace("'", "")
    return task.evaluated(check_state("state", gather(state), shapes, f"the model on x of shape {rows}"))
