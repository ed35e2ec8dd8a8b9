"""An exported model, read and used without the code that made it. Nothing in a file is unpickled, imported or unpacked to disk."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from flaxfit.arguments import check_count
from flaxfit.data.dataset import Dataset, arrays
from flaxfit.data.encoding import Encoding
from flaxfit.data.frames import native
from flaxfit.data.scaling import Scaling
from flaxfit.data.stream import Stream
from flaxfit.storage.weights import by_path, unpack_arrays

FORMAT = 1
PARTS = ("model.json", "weights.safetensors", "predict.stablehlo", "score.stablehlo")
SUMS = "SHA256SUMS"  # as sha256sum writes and checks it

# Numerical kernels and notes for the compiler. Any other call from a program may be one into Python.
_CALLS = re.compile(
    r"Sharding|shape_assertion|(cu|hip)_threefry2x32_ffi|ApproxTopK|stablehlo\.dynamic_\w+|lapack_\w+|(cu|hip)(solver|blas)_\w+|Eigh|Qr"
    r"|ProductOfElementaryHouseholderReflectors|LuDecomposition"
)


def load(path: str | Path, member: str | None = None) -> Predictor:
    """Loads a model from what `flaxfit.train.export` wrote.

    Args:
      path: a run's directory (its `export/`, the best epoch's weights), an export's own, or a `.flaxfit` file.
      member: of a population's directory, the name of the member to load, which `Study.export` has written.

    Raises:
      FileNotFoundError: there is no model.
      ValueError: a file is damaged, not what it says it is, or of a newer format. Checked are the SHA-256 of every file, the names, kinds
        and sizes in a zip before anything is read from it, and that the programs call nothing outside themselves.

    Example:
      >>> load("runs/absent")
      Traceback (most recent call last):
      FileNotFoundError: there is no exported model in runs/absent: neither a .flaxfit file nor a model.json, there or in export/.
    """
    path = Path(path)
    if member is not None:
        path = path / "members" / member
        if not path.is_dir():
            raise FileNotFoundError(f"there is no exported model in {path}: study.export({member!r}, data) writes it.")
    record, files = read(path)
    with _named(path):
        return Predictor(path.name, record, unpack_arrays(files[PARTS[1]]), *(_program(files[name]) for name in PARTS[2:]))


class Predictor:
    """A trained model that needs none of the code that made it; `load` returns it.

    Attributes:
      about: what the exporter said about the model.
      metadata: all of `model.json`: versions, shapes, names, where the training rows are from.
      features: names of x's columns, or None.
      classes: names of the classes, or None.
      encoding: what makes x of a table's raw rows, a `flaxfit.data.Encoding`, where the model was trained on one; or None.
      scaling: the fitted normalization, a `flaxfit.data.Scaling`, where the model has one. It is applied already: give raw rows.
      params: the weights, nested dicts of NumPy arrays.
      collections: likewise every other Linen collection, by name.
    """

    def __init__(
        self, name: str, metadata: dict[str, Any], tensors: dict[str, np.ndarray], predict: Callable[..., Any], score: Callable[..., Any]
    ):
        self._name, self._predict, self._score = name, predict, score
        self.metadata, self.about = metadata, metadata["about"]
        self.features, self.classes = (tuple(metadata[name]) if metadata[name] else None for name in ("features", "classes"))
        self._hold(tensors)
        scaling = (metadata["preprocess"] or {}).get("scaling")
        self.scaling = Scaling(**{name: _filled(tree, tensors) for name, tree in scaling.items()}) if scaling else None
        self.encoding = Encoding.from_record(encoding) if (encoding := metadata.get("encoding")) else None
        # That the parts belong together shows when the programs are traced for what model.json says of the rows.
        rows = metadata["rows"] or 1
        x, y = ({path: jax.ShapeDtypeStruct((rows, *row["shape"]), row["dtype"]) for path, row in metadata[name].items()} for name in "xy")
        jax.eval_shape(predict, self._weights, x)
        jax.eval_shape(score, self._weights, x, y)

    def __repr__(self) -> str:
        rows = ", ".join(f"{_called('x', path)} {_rows(**row)}" for path, row in self.metadata["x"].items())
        scores = ", ".join([self.metadata["loss"], *self.metadata["metrics"]])
        weights = sum(array.size for array in jax.tree.leaves(self.params))
        return f"Predictor({self._name}: {rows}; {weights:,} weights; scores {scores}; about {self.about})"

    def _hold(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.params, self.collections = _nested(tensors, "params"), _nested(tensors, "collections")
        self._weights = jax.device_put(_without_scaling(tensors))

    def with_weights(self, file: str | Path) -> Predictor:
        """Returns the same model with other weights.

        Args:
          file: safetensors that `flaxfit.callbacks.Checkpoint(weights=...)` wrote, or an export's `weights.safetensors`.

        Raises:
          OSError: it cannot be read.
          ValueError: it is not sound, or holds other weights than the model has.
        """
        with _named(Path(file)):
            tensors = _without_scaling(unpack_arrays(Path(file).read_bytes()))
            given, own = ({name: f"{a.dtype} {a.shape}" for name, a in arrays.items()} for arrays in (tensors, self._weights))
            if other := sorted(name for name in given | own if given.get(name) != own.get(name)):
                name = other[0]
                raise ValueError(f"{name} is {given.get(name, 'not there')}, in the model {own.get(name, 'not there')}")
        model = copy.copy(self)
        model._hold(tensors)
        return model

    def predict(self, x: Any, *, batch_size: int = 1024) -> Any:
        """Computes the model's outputs (logits) for rows, as `flaxfit.predict` does.

        Args:
          x: raw rows as in training, before normalization: arrays with leading axis (rows,); or, where the model was trained on a
            table, a data frame of such rows, with its columns in any order.
          batch_size: rows a step, for memory.

        Returns:
          NumPy arrays with leading axis (rows,).

        Raises:
          ValueError, TypeError: rows unlike those of training, or not finite; a frame without a column, which the message names.
        """
        x = arrays(x if self.encoding is None or native(x) is None else self.encoding(x), "x")
        return self._rowwise(self._predict, batch_size, Dataset(x, np.zeros(len((*jax.tree.leaves(x), ())[0]))), "x")

    def evaluate(
        self, data: Dataset | Stream, *, batch_size: int = 1024, metrics: Mapping[str, Callable[..., Any]] | None = None
    ) -> dict[str, Any]:
        """Scores the model, exactly over all rows: what `flaxfit.evaluate` gives, to float32's rounding.

        Args:
          data: the rows to score; those of a stream a step at a time.
          batch_size: rows a step, for memory.
          metrics: more metrics, of the whole set at once: name -> (logits, y) -> number or array. Logits and targets are in memory for
            them, of a stream too.

        Returns:
          `loss` (the objective), the data loss under its name, `penalty` where there is one, the task's metrics, and `metrics`.

        Raises:
          ValueError, TypeError: rows unlike those of training, or not finite; a metric under a name that is scored already.
        """
        if not isinstance(data, Dataset | Stream):
            raise TypeError(f"data must be a flaxfit.Dataset, got {type(data).__name__}: wrap the arrays as ff.Dataset(x, y).")
        size = check_count("batch_size", batch_size, 1, "rows a step")
        starts = range(0, len(data), size) if isinstance(data, Stream) else [0]
        parts, penalty = [], 0.0
        for first in starts:
            piece = data[first : first + size] if isinstance(data, Stream) else data
            try:
                losses, own, penalty = self._rowwise(self._score, size, piece, "x", "y")
            except ValueError as error:
                if first:
                    error.add_note(f"rows are counted from the stream's row {first}")
                raise
            outputs = (self.predict(piece.x, batch_size=size), jax.tree.map(np.asarray, piece.y)) if metrics else ()
            parts.append((losses if piece.sample_weight is None else losses * piece.sample_weight, own, outputs))
        losses, own, outputs = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        loss = float(np.mean(losses, dtype=float))
        scores = {"loss": loss + float(penalty), self.metadata["loss"]: loss}
        scores |= {"penalty": float(penalty)} if self.metadata["penalty"] else {}
        scores |= {name: float(np.mean(own[name], dtype=float)) for name in self.metadata["metrics"]}
        taken = scores.keys() & (metrics or {}).keys()
        if taken:
            raise ValueError(
                f"evaluate(metrics=...) may not hold {min(taken)!r}: that name is scored already; call the metric something else."
            )
        return scores | {name: metric(*outputs) for name, metric in (metrics or {}).items()}

    def _rowwise(self, program: Callable[..., Any], batch_size: int, data: Dataset, *names: str) -> Any:
        """What a program gives for all rows, batch by batch."""
        batch_size = check_count("batch_size", batch_size, 1, "rows a step")
        if not len(data):
            raise ValueError("there are no rows.")
        parts, rows = [self._checked(name, getattr(data, name)) for name in names], len(data)
        size = self.metadata["rows"] or min(batch_size, 1 << (rows - 1).bit_length())  # few sizes, few programs
        outputs = []
        for first in range(0, rows, size):
            index = np.minimum(np.arange(first, first + size), rows - 1)  # the last row again, where there are too few
            outputs.append(jax.device_get(program(self._weights, *({path: a[index] for path, a in part.items()} for part in parts))))
        return jax.tree.map(lambda *o: np.concatenate(o)[:rows] if o[0].ndim else o[0], *outputs)

    def _checked(self, name: str, tree: Any) -> dict[str, np.ndarray]:
        """The arrays of x or y by path, as the programs take them."""
        parts, expected = by_path(tree), self.metadata[name]
        if parts.keys() != expected.keys():
            given, taken = (", ".join(_called(name, path) for path in part) for part in (parts, expected))
            raise ValueError(f"the arrays are {given}; the model takes {taken}.")
        checked = {path: _fitting(_called(name, path), np.asarray(array), **expected[path]) for path, array in parts.items()}
        if name == "y" and self.classes and jnp.issubdtype(checked.get("", np.zeros(1)).dtype, np.integer):
            least, most = checked[""].min(), checked[""].max()
            if least < 0 or most >= len(self.classes):
                raise ValueError(f"y has labels from {least} to {most}; the model knows the classes 0 to {len(self.classes) - 1}.")
        return checked


def transfer(source: Predictor | str | Path | Mapping[str, Any], params: Any) -> tuple[Any, dict[str, str]]:
    """Takes the weights of one model for another where path and shape agree. A changed head keeps its fresh weights.

    Args:
      source: a Predictor, the path of one, or nested dicts of arrays; of `Predictor.collections`, to take those.
      params: fresh weights, nested dicts; or collections.

    Returns:
      `params` with what was taken, and why the others were not, by path.

    Raises:
      ValueError: nothing fits.

    Example:
      >>> fresh = {"body": {"kernel": jnp.zeros((4, 8))}, "head": {"kernel": jnp.zeros((8, 3))}}
      >>> params, left = transfer({"body": {"kernel": np.ones((4, 8))}, "head": {"kernel": np.ones((8, 1))}}, fresh)
      >>> left
      {'head/kernel': '(8, 1) in the source, (8, 3) here'}

      To train on from there, with a new optimizer state and step 0 (nothing is frozen; `optax.masked` does that):

      state = task.init(jax.random.key(0), train.x[:1])
      params, left = transfer("runs/large", state.params)
      ff.fit(task, train, initial=replace(state, params=params, opt_state=None))
    """
    model = load(source) if isinstance(source, str | Path) else source
    given, left = by_path(model.params if isinstance(model, Predictor) else model), {}

    def taken(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in given and np.shape(given[name]) == leaf.shape:
            return jnp.asarray(given[name], leaf.dtype)
        left[name] = f"{np.shape(given[name])} in the source, {leaf.shape} here" if name in given else "not in the source"
        return leaf

    new = jax.tree_util.tree_map_with_path(taken, params)
    if len(left) == len(jax.tree.leaves(params)):
        raise ValueError(f"no weight of the source fits: it has {', '.join(given)}; here are {', '.join(left)}.")
    return new, left


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The parsed `model.json` of an export, and all its files, checked against their sums. Raises what `load` does."""
    if (path / "export" / PARTS[0]).is_file():
        path /= "export"
    if not path.is_file() and not (path / PARTS[0]).exists():
        raise FileNotFoundError(f"there is no exported model in {path}: neither a .flaxfit file nor a model.json, there or in export/.")
    with _named(path):
        files = _unzipped(path) if path.is_file() else {name: (path / name).read_bytes() for name in (*PARTS, SUMS)}
        record = json.loads(files[PARTS[0]])
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}, and this version of flaxfit reads {FORMAT}: use the one that wrote it")
        sums = dict(line.split("  ")[::-1] for line in files[SUMS].decode().splitlines())
        for name in PARTS:
            if hashlib.sha256(files[name]).hexdigest() != sums[name]:
                raise ValueError(f"{name} is not as it was written: its SHA-256 differs")
    return record, files


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever the parsers raise on content that they did not expect, as one kind of error that names the file."""
    try:
        yield
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{path} is not a sound model: {kind}{error}.") from error


def _unzipped(path: Path) -> dict[str, bytes]:
    """The members of a zip that can be nothing else than a model's: plain files of known names, as large as they say."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for name, member in members.items():
            if name not in (*PARTS, SUMS):
                raise ValueError(f"it holds {name!r}, which is no part of a model")
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                raise ValueError(f"{name} is a link, not a file")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{name} is compressed, which `pack` does not, so that sizes can be trusted")
        if len(members) < len(archive.infolist()):
            raise ValueError("it holds a file twice")
        if sum(member.file_size for member in members.values()) > path.stat().st_size:
            raise ValueError("its members are said to be larger than the file is")
        return {name: archive.read(member) for name, member in members.items()}


def _program(content: bytes) -> Callable[..., Any]:
    program = jax.export.deserialize(bytearray(content))
    check_calls(program)
    return jax.jit(program.call)


def check_calls(program: jax.export.Exported) -> None:
    """That a program only computes: a custom call can reach whatever is registered in the process, Python functions too."""
    for call in re.finditer(r"custom_call\b(?: @([\w.]+))?", program.mlir_module()):
        if not _CALLS.fullmatch(call[1] or ""):
            raise ValueError(f"the program calls {call[1]!r}, which is not known to be a computation")


def _without_scaling(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in tensors.items() if not name.startswith("scaling/")}


def _nested(tensors: Mapping[str, np.ndarray], root: str) -> dict[str, Any]:
    """The arrays whose paths start with `root`, as nested dicts."""
    tree: dict[str, Any] = {}
    for *path, last, array in ((*name.split("/"), array) for name, array in tensors.items()):
        if path[0] == root:
            functools.reduce(lambda node, key: node.setdefault(key, {}), path[1:], tree)[last] = array
    return tree


def _filled(tree: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """The arrays that a tree of JSON names, in dicts and tuples."""
    if isinstance(tree, dict):
        return {key: _filled(value, tensors) for key, value in tree.items()}
    return tensors[tree] if isinstance(tree, str) else tuple(_filled(value, tensors) for value in tree)


def _fitting(name: str, array: np.ndarray, shape: list[int], dtype: str) -> np.ndarray:
    """An array of rows in the type that the programs take."""
    if list(array.shape[1:]) != shape:
        single = f"; a single row is {name}[None]" if list(array.shape) == shape else ""
        raise ValueError(f"{name} of shape {array.shape} does not fit the model, which takes {_rows(shape, dtype)}{single}.")
    if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
        row = np.argwhere(~np.isfinite(array))[0][0]
        raise ValueError(f"{name} has NaN or infinity, first in row {row}: remove these rows or fill the values.")
    if name[0] == "x" and _kind(array.dtype) != _kind(dtype):
        raise TypeError(f"{name} is {array.dtype}, the model takes {_rows(shape, dtype)}: give rows as they were in training.")
    if array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
    changed = ~np.isfinite(cast) if jnp.issubdtype(cast.dtype, jnp.inexact) else cast != array
    if np.any(changed):
        row = np.argwhere(changed)[0][0]
        raise ValueError(f"{name} has values that {dtype} cannot hold, first in row {row}; the model takes {_rows(shape, dtype)}.")
    return cast


def _kind(dtype: Any) -> str:
    return {"b": "boolean", "i": "integer", "u": "integer"}.get(jnp.dtype(dtype).kind, "float")


def _called(name: str, path: str) -> str:
    return f"{name}/{path}" if path else name


def _rows(shape: list[int], dtype: str) -> str:
    return f"({', '.join(map(str, ['rows', *shape]))}) {dtype}"
