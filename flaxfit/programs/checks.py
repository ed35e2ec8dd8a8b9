"""The door: every input is checked before anything compiles, and each message says what was wrong, what was expected and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors as flax_errors

from flaxfit.arguments import unknown
from flaxfit.data.dataset import Dataset, warn_of_digits
from flaxfit.data.stream import Stream
from flaxfit.data.table import Table
from flaxfit.metrics import declared_of_batch
from flaxfit.programs.compiled import Programs
from flaxfit.programs.program import measures
from flaxfit.programs.step import train_step
from flaxfit.rng import key_shape
from flaxfit.state import TrainState
from flaxfit.task.labels import kind_of_loss
from flaxfit.task.task import Task
from flaxfit.task.traced import averages_a_single_row, bytes_of_a_row, gives_probabilities, widest

_TRACER_ERRORS = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, jax.errors.TracerIntegerConversionError)
_LAST = " in the last batch, of {rows} rows (a batch size that divides the rows leaves none)"
_NUMPY_ERRORS = (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)


def check_data(name: str, data: Any) -> None:
    """Checks that `data` is a Dataset that has examples, and that all numbers are finite."""
    if isinstance(data, Stream):
        raise TypeError(f"{name} must be in memory, got a Stream: take a Dataset from it, stream[:10_000].")
    if not isinstance(data, Dataset):
        how = f"give one of them, {name}=splits.train" if hasattr(data, "train") else "wrap the arrays as ff.Dataset(x, y)"
        if isinstance(data, Table):
            how = "encode it as the training rows were, table.dataset(train.encoding)"
        raise TypeError(f"{name} must be a flaxfit.Dataset, got {type(data).__name__}: {how}.")
    if len(data) == 0:
        raise ValueError(f"{name} has no rows: its arrays are {', '.join(f'{path} {leaf.shape}' for path, leaf in data.leaves())}.")
    for path, leaf in data.leaves():
        check_finite(f"{name}.{path}", leaf)
        warn_of_digits(f"{name}.{path}", leaf)


def check_finite(name: str, array: Any) -> None:
    """Checks that an array has neither NaN nor infinity, on the device where it is."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return
    arrays = jnp if isinstance(array, jax.Array) else np
    with np.errstate(all="ignore"):  # scikit-learn's way: where the sum is finite, so are all numbers, and a sum is several times as fast
        quick = arrays.isfinite(array.sum(dtype=jnp.promote_types(array.dtype, jnp.float32)))
    if not quick and not (finite := arrays.isfinite(array)).all():
        rows = np.unique(np.nonzero(~np.asarray(finite))[0])
        raise ValueError(
            f"{name} has NaN or infinity in {len(rows)} of {len(array)} rows, first in row {rows[0]}: remove these rows or fill the values."
        )


def check_alike(data: Dataset, validation: Dataset) -> None:
    """Checks that validation examples have the same shapes and types as training examples."""
    kinds = {"b": "boolean", "i": "integer", "u": "integer"}

    def described(part: Dataset) -> Any:
        x = jax.tree.map(lambda a: f"{kinds.get(a.dtype.kind, 'float')}{list(a.shape[1:])}", part.x)
        return {"x": x, "y": jax.tree.map(lambda a: list(a.shape[1:]), part.y)}

    if described(data) != described(validation):
        raise ValueError(f"validation rows differ from training rows: train has {described(data)}, validation {described(validation)}.")


def check_task(task: Any) -> None:
    """Checks that `task` is a Task."""
    if not isinstance(task, Task):
        raise TypeError(f"task must be a flaxfit.Task, got {type(task).__name__}.")


def abstract(tree: Any, rows: int) -> Any:
    """Shapes of so many rows like those of `tree`."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), tree)


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda a: ("rows", *a.shape[1:]), tree)).replace("'", "")


def _traced(blame: str, function: Callable[..., Any], *args: Any, trace: Callable[..., Any] = jax.eval_shape) -> Any:
    """The shapes that `function` gives, or what else `trace` finds; or a ValueError that says who is to blame."""
    try:
        return trace(function, *args)
    except flax_errors.InvalidRngError as error:
        why = "draws from a random stream that it is not given; Task(rngs=...) names those of training"
        raise ValueError(f"the model {why}: {error}") from error
    except Exception as error:
        raise ValueError(f"{blame}: {_cause(error, blame)}") from error


def _cause(error: Exception, blame: str) -> str:
    if not isinstance(error, _NUMPY_ERRORS):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return "`if` and `while` cannot ask for values inside a compiled function. Use jnp.where instead."
    whole = " A NumPy function of a whole set goes into Task(set_metrics=...)." if blame.startswith("the metric") else ""
    return f"NumPy, float() and the like cannot read values inside a compiled function. Use jax.numpy instead.{whole}"


def check_model(task: Task, x: Any, rows: int) -> TrainState:
    """Shapes of the fresh state, found by tracing a batch of so many rows.

    Raises:
      ValueError: preprocessing, the model or the optimizer refuses what it is given; there is nothing to train.
    """
    x, key, model = abstract(x, rows), key_shape(), task.network.name
    prepared = _traced(f"Task(preprocess=...) refuses x of shape {_shapes(x)}", task.prepared, x)
    params, collections = _traced(f"{model} refuses x of shape {_shapes(prepared)}", task.variables, key, x)
    if not jax.tree.leaves(params):
        raise ValueError(f"{model} has no parameters to train.")
    trained = _traced("Task(trainable=...) does not fit the parameters", task.trained, params)
    if not jax.tree.leaves(trained):
        raise ValueError("Task(trainable=...) leaves no parameter to train.")
    opt_state = _traced("the optimizer refuses the parameters", task.optimizer.init, trained)
    return TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, collections, opt_state)  # pyright: ignore[reportArgumentType]


class Outline(NamedTuple):
    """What a model shows when it is traced for a batch.

    Attributes:
      state: the shapes of the fresh state.
      widest: the bytes for each example of the widest array that the model computes in evaluation, or None if that was not traced.
      inputs: those of what it gets.
      ending: the "sigmoid" or "softmax" that the model ends in, or None.
    """

    state: TrainState
    widest: int | None
    inputs: int
    ending: str | None


def outlined(programs: Programs, numbers: Mapping[str, Any], x: Any, rows: int, evaluates: bool) -> Outline:
    """Traces the model for a batch of so many rows, once for a task: in evaluation only where it `evaluates`, or its loss takes logits.

    Raises:
      ValueError: as `check_model`; or the model refuses the batch in evaluation.
    """
    return programs.found(("outline", rows, evaluates), lambda n, x: _outline(programs.task(n), x, rows, evaluates), numbers, x)


def _outline(task: Task, x: Any, rows: int, evaluates: bool) -> Outline:
    state, x = check_model(task, x, rows), abstract(x, rows)
    prepared = jax.eval_shape(task.prepared, x)
    inputs = bytes_of_a_row(prepared)
    if not evaluates and kind_of_loss(task) is None:
        return Outline(state, None, inputs, None)

    def traced(function: Any, *args: Any) -> Any:
        return jax.make_jaxpr(function)(*args).jaxpr

    refused = f"{task.network.name} refuses x of shape {_shapes(x)}"
    jaxpr = _traced(refused, lambda s, x: task.apply(s.params, s.collections, x)[0], state, prepared, trace=traced)
    return Outline(state, widest(jaxpr, rows), inputs, gives_probabilities(jaxpr))


def check_inputs(task: Task, x: Any, rows: int) -> TrainState:
    """`check_model`, and that the model takes a batch of so many rows when it does not train."""
    state, x = check_model(task, x, rows), abstract(x, rows)
    refused = f"{task.network.name} refuses x of shape {_shapes(x)}"
    _traced(refused, lambda state, x: task.apply(state.params, state.collections, task.prepared(x))[0], state, x)
    return state


def outputs(programs: Programs, task: Task, numbers: Mapping[str, Any], x: Any, rows: int) -> Any:
    """The shapes of the outputs for so many rows, found by tracing."""

    def found(numbers: Any, x: Any) -> Any:
        task, x = programs.task(numbers), abstract(x, rows)
        state = check_model(task, x, rows)
        return jax.eval_shape(lambda state, x: task.apply(state.params, state.collections, task.prepared(x))[0], state, x)

    return programs.found(("outputs", rows), found, numbers, x)


def check_program(
    programs: Programs, task: Task, numbers: Mapping[str, Any], data: Dataset, training: Sequence[int], evaluation: Sequence[int]
) -> tuple[TrainState, Any, tuple[str, ...]]:
    """Traces steps of training and of evaluation without compiling them, of the batch sizes that will occur and no others.

    Args:
      programs: of the task, which keep what was found.
      task: the task for these numbers.
      numbers: its traced hyperparameters.
      data: rows, of which one suffices.
      training: the batch sizes of training, the usual one first.
      evaluation: those of evaluation; at least one of either.

    Returns:
      Shapes of the fresh state and of the logits in evaluation, and the names of `program.measures`.

    Raises:
      ValueError, TypeError: something refuses the rows; the loss or a metric is not one number a row; the penalty is no scalar; a
        collection changes its shape from step to step; the task needs the value of a traced number.
    """
    sizes = tuple(training), tuple(evaluation) or tuple(training[:1])
    outline = (*training, *evaluation)[0], bool(evaluation)
    try:
        found = outlined(programs, numbers, data[:1].x, *outline)
        return programs.found(("program", sizes), lambda n, rows: _check_program(programs.task(n), rows, *sizes, found), numbers, data[:1])
    except Exception as error:
        if not numbers:
            raise
        _check_program(task, data[:1], *sizes, _outline(task, data[:1].x, *outline))  # raises where the numbers are not to blame
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _TRACER_ERRORS):
            cause = cause.__cause__
        if cause is None:
            raise
        raise ValueError(
            f"make_task, or what it builds, needs the value of a traced hyperparameter ({', '.join(numbers)}), as `if` and float() do: "
            "compute with it instead (flaxfit.nn's dropout takes a traced rate), or compile it in, one program a value: "
            f"ff.static([...]). {str(cause).splitlines()[0]}"
        ) from error


def _check_program(
    task: Task, data: Dataset, training: tuple[int, ...], evaluation: tuple[int, ...], outline: Outline
) -> tuple[TrainState, Any, tuple[str, ...]]:
    state, key = outline.state, key_shape()
    if data.sample_weight is not None and declared_of_batch(task.loss) is not None:
        raise ValueError(
            f"the loss {task.loss_name} is computed from a whole batch, so that examples cannot have weights: remove sample_weight."
        )
    logits: Any = None
    for rows in training:
        _check_batch(task, state, abstract(data, rows), dict.fromkeys(task.rngs, key), "" if rows == training[0] else _LAST)
    for rows in evaluation:
        batch = abstract(data, rows)
        logits = _check_batch(task, state, batch, None, "" if rows == evaluation[0] else _LAST)
    _warn_of_probabilities(task, outline.ending)
    penalty = _traced("the penalty refuses the parameters", task.penalized, state.params)
    if getattr(penalty, "shape", None) != ():
        raise ValueError(f"the penalty must be one number for all parameters, got {penalty}.")
    if training:
        batch = abstract(data, training[0])
        step = (state, key, batch.x, batch.y, batch.sample_weight)
        after, _ = _traced("a training step fails", lambda *step: train_step(task, *step), *step)
        check_same("a training step", after, "the fresh state", state)
    _traced("Task(eval_params=...) fails", task.evaluated, state)
    return state, logits, tuple(jax.eval_shape(lambda state: measures(task, state), state))


def _warn_of_probabilities(task: Task, last: str | None) -> None:
    """Warns if the model ends in a sigmoid or softmax and the loss takes logits."""
    if last is not None and kind_of_loss(task) is not None:
        warnings.warn(
            f"{task.network.name} ends in a {last}, but the loss {task.loss_name} takes logits and applies the {last} itself. "
            f"Applied twice, it learns slowly: remove the {last} from the model, and apply jax.nn.{last} to what predict returns.",
            UserWarning,
            stacklevel=2,
        )


def check_last_step(task: Task, state: TrainState, data: Dataset, rows: int, batch_size: int) -> None:
    """Warns if batch norm normalizes a batch of a single example, so that its outputs do not depend on the example."""
    if (rows % batch_size or batch_size) != 1 or not jax.tree.leaves(state.collections):
        return
    rngs = dict.fromkeys(task.rngs, key_shape())
    function = jax.make_jaxpr(lambda s, x, r: task.apply(s.params, s.collections, task.prepared(x), r))
    if averages_a_single_row(function(state, abstract(data.x, 1), rngs).jaxpr):
        size = next((size for size in range(batch_size + 1, rows) if rows % size != 1), rows)
        which = "each batch" if batch_size == 1 else "the last batch of each epoch"
        warnings.warn(
            f"{which} has a single example ({rows} examples, batch_size={batch_size}), whose variance is 0: batch norm learns nothing "
            f"from it, and its running statistics become worse. Use another batch_size, such as {size}, or one example less.",
            UserWarning,
            stacklevel=4,
        )


def _check_batch(task: Task, state: TrainState, batch: Dataset, rngs: Any, where: str) -> Any:
    """The shapes of the logits of a batch, in training where there are `rngs`; raises what is wrong with what the task makes of it."""
    x, y, rows = batch.x, batch.y, len(batch)
    where = where.format(rows=rows)
    if task.augment is not None and rngs is not None:
        key, prepared = key_shape(), jax.eval_shape(task.prepared, x)
        augmented = _traced(f"Task(augment=...) must be (key, x, y) -> (x, y){where}", task.augment, key, prepared, y)
        if any(leaf.shape[:1] != (rows,) for leaf in jax.tree.leaves(augmented)):
            raise ValueError(f"Task(augment=...) must keep the number of rows, got {_shapes((prepared, y))} -> {augmented}.")
    refused = f"{task.network.name} refuses x of shape {_shapes(x)}{where}"
    logits, _ = _traced(refused, lambda s, x, r: task.apply(s.params, s.collections, task.prepared(x), r), state, x, rngs)
    for what, function in named_functions(task).items():
        failed = f"{what} fails on (logits {_shapes(logits)}, y {_shapes(y)}){where}"
        _check_rows(what, _traced(failed, function, logits, y), rows, logits, y)
    return logits


def named_functions(task: Task) -> dict[str, Callable[[Any, Any], Any]]:
    """The loss and the metrics of a task, by what messages call them."""
    return {f"the loss {task.loss_name}": task.row_loss, **{f"the metric {name!r}": each for name, each in task.row_metrics.items()}}


def _check_rows(what: str, result: Any, rows: int, logits: Any, y: Any) -> None:
    shape = getattr(result, "shape", None)
    if shape == ():
        whole = "; a metric of the whole set goes into Task(set_metrics=...)" if what.startswith("the metric") else ""
        raise ValueError(
            f"{what} returns one number for the whole batch; it must return one number for each example, shape (rows,): remove the mean "
            "(in Keras, reduction=None). "
            f"Declare a function that mixes examples, such as a contrastive loss, with ff.losses.of_batch(...){whole}."
        )
    if shape != (rows,):
        got = (
            type(result).__name__
            if shape is None
            else f"shape {tuple('rows' if size == rows else size for size in shape)}".replace("'", "")
        )
        hint = " Does it lack a return?" if result is None else broadcast_hint(logits, y)
        raise ValueError(f"{what} must return one number for each example, shape (rows,), got {got}.{hint}")


def broadcast_hint(logits: Any, y: Any) -> str:
    """How to make logits and targets of one shape, where one of them is (rows, 1) and the other (rows,)."""
    shapes = [getattr(tree, "shape", ())[1:] for tree in (logits, y)]
    for name, own, other in (("logits", *shapes), ("y", *reversed(shapes))):
        if own == (*other, 1):
            return f" Where logits {_shapes(logits)} and y {_shapes(y)} broadcast, every row against every other, take {name}[..., 0]."
    return ""


def check_same(what: str, new: Any, than: str, old: Any) -> None:
    """Checks that two states have the same paths, shapes and types."""

    def described(tree: Any) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for path, leaf in leaves}

    before, after = described(old), described(new)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        path = changed[0]
        raise ValueError(
            f"{what} does not fit {than}: {path} is {after.get(path, 'missing')}, expected {before.get(path, 'nothing')}"
            + (f" (and {len(changed) - 1} more)." if len(changed) > 1 else ".")
        )


def check_state(name: str, state: Any, shapes: TrainState, model: str = "the model") -> TrainState:
    """`state` as arrays in the containers of `shapes`, if it has their paths, shapes and types; `opt_state` may be None."""
    if not isinstance(state, TrainState):
        raise TypeError(f"{name} must be a flaxfit.TrainState, such as result.best or result.last, got {type(state).__name__}.")
    parts = {"params": state.params, "collections": state.collections}
    check_same(name, parts, model, {"params": shapes.params, "collections": shapes.collections})
    if state.opt_state is not None:
        try:
            check_same(name, {"opt_state": state.opt_state}, "the optimizer", {"opt_state": shapes.opt_state})
        except ValueError as error:
            cure = "result.best has none, and dataclasses.replace(state, opt_state=None) leaves it out"
            raise ValueError(f"{name} holds the state of another optimizer: {cure}. {error}") from error

    def like(tree: Any, shaped: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(shaped), [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)])

    opt_state = None if state.opt_state is None else like(state.opt_state, shapes.opt_state)
    step = jnp.asarray(state.step, jnp.int32)
    return TrainState(step, like(state.params, shapes.params), like(state.collections, shapes.collections), opt_state)


def check_monitor(monitor: str, logged: Sequence[str]) -> None:
    """Checks that the monitored metric will be logged."""
    if monitor not in logged:
        unvalidated = monitor.startswith("val_") and not any(name.startswith("val_") for name in logged)
        needs = " (a val_ metric needs fit(validation=...))" if unvalidated else ""
        raise ValueError(unknown("metric", monitor, logged, "to monitor" + needs))
