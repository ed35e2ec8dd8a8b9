"""Whether a loss or metric gives each row its own number: found before training, on real targets, by changing the other rows."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.arguments import unwrapped
from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Stream
from flaxfit.metrics import declared_of_batch
from flaxfit.positions import at_positions, positions
from flaxfit.programs.checks import broadcast_hint, named_functions
from flaxfit.programs.compiled import Programs
from flaxfit.task.task import Task

_FEW = 32  # rows: enough for a mixture to show
_NUMBERS = 2**22  # as many outputs at most, where a smaller batch will do


def check_rows_apart(
    programs: Programs, task: Task, numbers: Mapping[str, Any], data: Dataset | Stream, logits: Any, traced: int, sizes: tuple[int, ...]
) -> None:
    """Checks that what the loss and the metrics give for a row does not depend on the other rows. Done once a task and shapes.

    Those of `flaxfit.losses` and `flaxfit.metrics` are known to be of this kind.

    They are evaluated on a batch, and again with half of its rows changed: the other half must get what it got. Targets are real rows;
    outputs are random numbers, from 0 to 1 and then of both signs, since not every loss can be computed of the latter.

    Args:
      programs: of the task.
      task: the task for these numbers.
      numbers: its traced hyperparameters.
      data: the rows.
      logits: shapes of the model's outputs.
      traced: for how many rows they are.
      sizes: batch sizes that occur.

    Raises:
      ValueError: one of them mixes examples, and is not declared to.
    """
    functions = {what: f for what, f in named_functions(task).items() if declared_of_batch(f) is None and not _known(f)}
    enough = sorted(size for size in sizes if size >= _FEW)
    rows = enough[0] if enough else max(sizes)
    row = [(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(logits)]
    shapes = tuple(row), tuple((leaf.shape[1:], str(leaf.dtype)) for leaf in jax.tree.leaves(data[:1].y))
    if not functions or rows < 2 or any(jnp.issubdtype(dtype, jax.dtypes.extended) for _, dtype in row):
        return
    while rows > _FEW and rows * sum(int(np.prod(shape)) for shape, _ in row) > _NUMBERS:
        rows //= 2

    def evaluate(numbers: Any, logits: Any, y: Any) -> list[Any]:
        values = named_functions(programs.task(numbers))
        return [values[what](logits, y) for what in functions]

    def check() -> None:
        rng, targets = np.random.default_rng(0), _targets(data, rows)
        quickly = {"compiler_options": {"xla_backend_optimization_level": 0}}  # it runs a few times

        def values(logits: Any, y: Any) -> list[np.ndarray]:
            with jax.debug_nans(False), jax.debug_infs(False):  # the numbers are not the model's
                arguments = jax.device_put((numbers, logits, y))
                found = jax.device_get(programs.compiled(("rows", shapes), evaluate, *arguments, **quickly)(*arguments))
            return [np.asarray(value, np.float64) for value in found]

        def drawn(draw: Any) -> Any:
            def one(leaf: Any) -> np.ndarray:
                by_row = leaf.shape[:1] == (traced,)  # or something that all rows share, such as a temperature
                values = draw((rows, *leaf.shape[1:])) if by_row else np.full(leaf.shape, 0.5)
                return (values if jnp.issubdtype(leaf.dtype, jnp.inexact) else values > 0.5).astype(leaf.dtype)

            return jax.tree.map(one, logits)

        def mixed(kept: np.ndarray, batch: Any, other: Any) -> Any:
            def some(a: np.ndarray, b: np.ndarray) -> np.ndarray:
                return np.where(kept.reshape(-1, *[1] * (a.ndim - 1)), a, b) if a.shape[:1] == (rows,) else a

            return jax.tree.map(some, batch, other)

        half = rng.permutation(rows) < rows // 2
        for draw in (functools.partial(rng.uniform, 0.05, 0.95), functools.partial(rng.normal, 0.0, 2.0)) * 2:
            batch, other = (drawn(draw), targets), (drawn(draw), jax.tree.map(lambda a: a[::-1], targets))
            first = values(*batch)
            for kept in (half, ~half, rng.permutation(half), rng.permutation(~half)):
                for what, one, two in zip(functions, first, values(*mixed(kept, batch, other)), strict=True):
                    scale = np.abs(one[np.isfinite(one)]).max(initial=0.0)
                    if not np.allclose(one[kept], two[kept], rtol=1e-5, atol=1e-6 * scale, equal_nan=True):
                        name = getattr(unwrapped(functions[what]), "__name__", "...")
                        raise ValueError(
                            f"{what} mixes examples: its value for one example depends on the others in the batch."
                            f"{broadcast_hint(logits, targets) or ' Compute the value of each example from its own outputs and targets.'}\n"
                            f"If that is intended, as in a contrastive loss, declare it: ff.losses.of_batch({name})."
                        )

    programs.kept(("rows", shapes), check)


def _known(function: Any) -> bool:
    function = unwrapped(function)
    return isinstance(function, types.FunctionType) and function.__module__ in ("flaxfit.losses", "flaxfit.metrics")


def check_positions(task: Task, name: str, data: Dataset | Stream, logits: Any) -> None:
    """Checks that there are labels that count, and that what a loss or metric gives for a row is the mean of its numbers for positions.

    It matters only where positions have weights, or labels that do not count.

    Raises:
      ValueError: no label counts; a row's number is no mean over its positions; weights or labels are not one for each position of the
        outputs.
    """
    weight = data[:1].sample_weight
    functions = {} if task.counted is None else {f"the metric {name!r}": metric for name, metric in task.metrics.items()}
    if task.counted is None and (weight is None or weight.ndim == 1):
        return
    what = "sample_weight of more than one axis" if task.counted is None else "Task(ignore_label=...)"
    rng, y = np.random.default_rng(0), _targets(data, min(len(data), _FEW))
    if any(len(jax.tree.leaves(tree)) != 1 or isinstance(tree, dict | tuple) for tree in (logits, y)):
        raise ValueError(f"{what} needs a model with one output and an array of targets.")
    outputs = jnp.asarray(rng.uniform(0.05, 0.95, (len(y), *logits.shape[1:])), logits.dtype)
    shape = positions(outputs, y) if task.counted is not None else (len(y), *np.shape(weight)[1:])
    if any(array.shape[: len(shape)] != shape for array in (outputs, y)):
        expected, *got = (str(("rows", *each[1:])).replace("'", "") for each in (shape, outputs.shape, y.shape))
        raise ValueError(
            f"{name}.sample_weight of shape {expected} has a number for each position, so that outputs and targets must begin with that "
            f"shape: they are {' and '.join(got)}."
        )
    if task.counted is not None and isinstance(data, Dataset) and (np.asarray(data.y) == task.counted.label).all():
        raise ValueError(f"{name}.y has no label that counts: all are {task.counted.label:g}, Task(ignore_label=...).")
    if len(shape) == 1:
        return
    y = y if task.counted is None else np.where(y == task.counted.label, 0, y).astype(y.dtype)
    for called, function in ({f"the loss {task.loss_name}": task.loss} | functions).items():
        try:
            each = np.asarray(at_positions(function, outputs, jnp.asarray(y), shape)).reshape(len(y), -1).mean(1)
        except Exception as error:
            raise ValueError(f"{what}: {called} cannot be computed at single positions of shape {shape[1:]}: {error}") from error
        if not np.allclose(each, function(outputs, jnp.asarray(y)), rtol=1e-4, atol=1e-6):
            raise ValueError(f"{what}: what {called} gives for a row is not the mean over its positions of shape {shape[1:]}.")


def _targets(data: Dataset | Stream, rows: int) -> Any:
    """The targets of so many rows, as different as they come: with only one class among them a mixture might not show."""
    places = np.linspace(0, len(data) - 1, rows).astype(int)
    if isinstance(data, Dataset):
        some = np.linspace(0, len(data) - 1, min(len(data), 4096)).astype(int)
        values = np.asarray(jax.tree.leaves(data[some].y)[0])
        order = np.argsort(values.reshape(len(some), -1)[:, 0], kind="stable")
        places = some[order[np.linspace(0, len(some) - 1, rows).astype(int)]]
    return jax.tree.map(np.asarray, data[places].y)
