"""A trained model as plain files that need none of the code which made it: StableHLO programs, safetensors and JSON."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import flaxfit
from flaxfit.data.dataset import Dataset
from flaxfit.data.scaling import Scaling
from flaxfit.durable import write_directory, write_file
from flaxfit.programs.checks import check_program, check_state, check_task
from flaxfit.programs.compiled import programs_of
from flaxfit.state import TrainState
from flaxfit.storage.predictor import COUNTED, FORMAT, PARTS, SOWN, SUMS, check_calls, read
from flaxfit.storage.weights import by_path, pack_arrays, unpack_arrays
from flaxfit.task.task import Task

PLATFORMS = ("cpu", "cuda", "tpu")
FIXED_ROWS = 128
"""Rows a call of a model that needs to know how many there are."""


def export(directory: str | Path, task: Task, state: TrainState, data: Dataset, *, about: Mapping[str, Any] | None = None) -> Path:
    """Writes a model for `flaxfit.load`: evaluation weights, and programs for prediction, loss and metrics on CPU, CUDA and TPU.

    Programs take any number of rows. If the model cannot, because it needs the number while it is traced, they take 128 at a time, and
    `flaxfit.load` fills the last batch up. JAX promises to read programs for six months; the weights are plain safetensors, for good.

    Args:
      directory: made; an export that is there already is replaced as a whole.
      task: what was trained; its `preprocess` becomes part of the programs.
      state: `result.best`, or any state of this task.
      data: rows as in training: their shapes, types, names, provenance and encoding are kept, not their numbers.
      about: what else a reader should know, as plain values: epoch, monitor, run configuration.

    Returns:
      The directory, which holds `model.json`, `weights.safetensors`, `predict.stablehlo`, `score.stablehlo` and `SHA256SUMS`.

    Raises:
      ValueError, TypeError: a state of another model, a model that cannot be exported, an `about` that JSON cannot hold.
      FileExistsError: the directory holds something else.

    Example:
      >>> import flaxfit as ff, optax, tempfile
      >>> from flaxfit.storage.predictor import load
      >>> data = ff.Dataset(np.eye(4), np.arange(4) % 2)
      >>> task = ff.Task(model=ff.nn.MLP((8,), 1), loss=ff.losses.binary_crossentropy, optimizer=optax.adam(1e-2))
      >>> result = ff.fit(task, data, epochs=2)
      >>> with tempfile.TemporaryDirectory() as runs:
      ...     model = load(export(f"{runs}/export", task, result.best, data, about={"epoch": result.best_epoch}))
      >>> model.predict(np.eye(4)).shape, model.about
      ((4, 1), {'epoch': 2})
    """
    check_task(task)
    if not isinstance(data, Dataset):
        raise TypeError(f"data must be a flaxfit.Dataset, got {type(data).__name__}.")
    shapes, _, _ = check_program(programs_of(task), task, {}, data, (), (FIXED_ROWS,))
    if isinstance(state, TrainState) and not task.averages(shapes):
        state = replace(state, opt_state=None)  # it may be another optimizer's
    state = task.evaluated(check_state("state", state, shapes))
    variables = {"params": state.params, "collections": state.collections}
    tensors = by_path(variables)
    if any("/" in str(key) for path, _ in jax.tree_util.tree_leaves_with_path(variables) for key in path):
        raise ValueError(f"a model with a / inside the name of a part cannot be exported: {', '.join(tensors)}.")
    rows, programs = _programs(task, variables, data)
    record = {
        "format": FORMAT,
        "flaxfit": flaxfit.__version__,
        "jax": jax.__version__,
        "rows": rows,
        **{
            name: {
                path: {"shape": a.shape[1:], "dtype": str(jax.dtypes.canonicalize_dtype(a.dtype))}
                for path, a in by_path(getattr(data, name)).items()
            }
            for name in "xy"
        },
        "loss": task.loss_name,
        "metrics": list(task.metrics),
        "penalty": task.penalty is not None,
        "ignore_label": task.ignore_label,
        "step": int(state.step),
        "features": data.features,
        "classes": data.classes,
        "data": data.record(),
        "encoding": None if data.encoding is None else data.encoding.record(),
        "preprocess": _described(task.preprocess, tensors),
        "about": dict(about or {}),
    }
    try:
        text = json.dumps(record, indent=1)
    except (TypeError, ValueError) as error:
        raise TypeError(f"export(about=...) must hold plain values for JSON: {error}.") from error
    contents = (text.encode(), pack_arrays(tensors, {PARTS[0]: text}), *programs)  # two facts would come in any order
    _write(Path(directory), dict(zip(PARTS, contents, strict=True)))
    return Path(directory)


def check_replaceable(directory: Path) -> None:
    """Checks that nothing would be lost if an export were written in place of a directory.

    Raises:
      FileExistsError: the directory has other files, or is a file.
    """
    if directory.exists() and not (directory.is_dir() and {file.name for file in directory.iterdir()} <= {*PARTS, SUMS}):
        raise FileExistsError(f"{directory} has files that are not part of an export and would be lost: use an empty directory.")


def holds(directory: Path, task: Task, state: TrainState, about: Mapping[str, Any]) -> bool:
    """Returns whether an undamaged export of this state, with the same `about`, is in a directory."""
    try:
        record, files = read(directory)
        tensors = unpack_arrays(files[PARTS[1]])
    except (OSError, ValueError):
        return False
    state = task.evaluated(state)
    weights = by_path({"params": state.params, "collections": state.collections})
    same = all(name in tensors and np.array_equal(tensors[name], weight, equal_nan=True) for name, weight in weights.items())
    return same and record["about"] == json.loads(json.dumps(dict(about)))


def pack(directory: str | Path, file: str | Path) -> Path:
    """The same model as a single file, `model.flaxfit`: a zip, uncompressed (weights hardly shrink, and no size in it can lie).

    Args:
      directory: what `export` wrote.
      file: replaced if it is there.

    Returns:
      The file.

    Raises:
      ValueError: the export is incomplete or damaged.
    """
    files, packed = read(Path(directory))[1], io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of no date: packed again, it is the same file
    write_file(Path(file), packed.getvalue())
    return Path(file)


def _programs(task: Task, variables: Any, data: Dataset) -> tuple[int | None, list[bytes]]:
    """Rows a call, None for any number, and the programs: (weights, x) -> logits; (weights, x, y) -> (losses, metrics, penalty)."""

    def predict(weights: Any, x: Any) -> Any:
        model = _like(variables, weights)
        return task.apply(model["params"], model["collections"], task.prepared(_like(data.x, x)))[0]

    def score(weights: Any, x: Any, y: Any) -> Any:
        model, x, y = _like(variables, weights), task.prepared(_like(data.x, x)), _like(data.y, y)
        logits, _, sown = task.forward(model["params"], model["collections"], x)
        metrics = {name: metric(logits, y).astype(jnp.float32) for name, metric in task.row_metrics.items()}
        metrics |= {} if sown is None else {SOWN: sown}
        metrics |= {} if task.counted is None else {COUNTED: task.counted.shares(logits, y)}
        return task.row_loss(logits, y), metrics, task.penalized(model["params"])

    def serialized(function: Callable[..., Any], rows: Any, *names: str) -> bytes:
        def abstract(array: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype)

        weights = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), by_path(variables))
        batch = [jax.tree.map(abstract, by_path(getattr(data, name))) for name in names]
        paths = jax.config.values["jax_hlo_source_file_canonicalization_regex"]
        jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*")  # a model does not tell where its code lay
        try:
            program = jax.export.export(jax.jit(function), platforms=PLATFORMS)(weights, *batch)
        finally:
            jax.config.update("jax_hlo_source_file_canonicalization_regex", paths)
        check_calls(program)
        return bytes(program.serialize())

    failure = None
    for rows in (None, FIXED_ROWS):
        size = _any_rows() if rows is None else rows
        try:
            return rows, [serialized(predict, size, "x"), serialized(score, size, "x", "y")]
        except Exception as error:
            failure = error
    raise ValueError(f"{task.network.name} cannot be exported to {', '.join(PLATFORMS)}: {type(failure).__name__}: {failure}") from failure


@functools.cache
def _any_rows() -> Any:
    """A number of rows that is not known yet. It is one for all exports, because JAX keeps what it traced for each."""
    return jax.export.symbolic_shape("rows")[0]


def _like(tree: Any, named: Mapping[str, Any]) -> Any:
    """The arrays of `by_path` in the containers of `tree`."""
    return jax.tree.unflatten(jax.tree.structure(tree), [named[name] for name in by_path(tree)])


def _described(preprocess: Any, tensors: dict[str, Any]) -> Any:
    """A scaling as its containers with the names of its arrays, which go to `tensors`; another function by its name."""
    if not isinstance(preprocess, Scaling):
        return None if preprocess is None else {"function": getattr(preprocess, "__qualname__", repr(preprocess))}

    def named(tree: Any, name: str) -> Any:
        if isinstance(tree, dict):
            return {key: named(value, f"{name}/{key}") for key, value in tree.items()}
        if isinstance(tree, tuple):
            return [named(value, f"{name}/{index}") for index, value in enumerate(tree)]
        tensors[name] = np.asarray(tree, order="C")
        return name

    return {"scaling": {name: named(getattr(preprocess, name), f"scaling/{name}") for name in ("offset", "divisor")}}


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    """The files and their sums as a directory, all or nothing."""
    check_replaceable(directory := directory.absolute())
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    write_directory(directory, {**files, SUMS: sums.encode()})
