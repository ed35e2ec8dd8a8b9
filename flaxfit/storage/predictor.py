"""Exported models, which are used without the code that made them. Nothing in a file is unpickled, imported or unpacked to disk."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from flaxfit.arguments import check_count
from flaxfit.data.dataset import Dataset, arrays, warn_of_digits
from flaxfit.data.encoding import Encoding
from flaxfit.data.frames import native
from flaxfit.data.scaling import Scaling
from flaxfit.data.stream import Stream
from flaxfit.data.table import Table
from flaxfit.sections import Plain, table
from flaxfit.state import by_path
from flaxfit.storage.directory import RunDirectory
from flaxfit.storage.weights import unpack_arrays

FORMAT = 1
PARTS = ("model.json", "weights.safetensors", "predict.stablehlo", "score.stablehlo")
SOWN = "sown_losses"  # of each row, among the metrics of a model that sows losses
COUNTED = "counted_examples"  # the share of each row's labels that count, among the metrics of a model that leaves some out
SUMS = "SHA256SUMS"  # as sha256sum writes and checks it

_CROSS_ENTROPIES = {
    "binary_crossentropy": "binary",
    "sigmoid_binary_cross_entropy": "binary",
    "categorical_crossentropy": "classes",
    "softmax_cross_entropy": "classes",
    "softmax_cross_entropy_with_integer_labels": "classes",
}
"""Losses of flaxfit and optax, and what their logits mean."""

# Numerical kernels and annotations for the compiler. Any other custom call could run Python code.
_CALLS = re.compile(
    r"Sharding|shape_assertion|(cu|hip)_threefry2x32_ffi|ApproxTopK|stablehlo\.dynamic_\w+|lapack_\w+|(cu|hip)(solver|blas)_\w+|Eigh|Qr"
    r"|ProductOfElementaryHouseholderReflectors|LuDecomposition"
)


def load(path: str | Path, member: str | None = None) -> Predictor:
    """Loads an exported model, which needs none of the code that made it.

    Load only files from people whose programs you would run. A model file holds compiled programs. What they call is checked, but the
    parser that reads them was not made for hostile files and may crash. `load_weights` reads the weights alone, which needs no trust.

    Args:
      path: the directory of a run, whose `export/` has the weights of the best epoch; a directory that `flaxfit.export` wrote; or a
        `.flaxfit` file that `flaxfit.pack` wrote.
      member: the name of a member, if `path` is the directory of a population. `Study.export` must have exported it.

    Returns:
      A `Predictor`.

    Raises:
      FileNotFoundError: there is no model.
      ValueError: a file is damaged, is not such a file, or has another format. The SHA-256 checksum of every file is verified, so are the
        names, kinds and sizes in a zip before anything is read from it, and that the programs only compute.

    Example:
      >>> load("runs/absent")
      Traceback (most recent call last):
      FileNotFoundError: there is no exported model in runs/absent: neither a .flaxfit file nor a model.json, there or in export/.
    """
    path = _place(path, member)
    if _only_weights(path):
        raise ValueError(f"{path} has weights and no model: load(run_dir).with_weights(file) puts them into the model of a run.")
    record, files = read(path)
    with _named(path):
        return Predictor(path.name, record, unpack_arrays(files[PARTS[1]]), *(_program(files[name]) for name in PARTS[2:]))


def load_weights(path: str | Path, member: str | None = None) -> dict[str, Any]:
    """Loads only the weights of an exported model. No program in the file is parsed, so the file needs no trust.

    Args:
      path: as for `load`, or a file that `flaxfit.callbacks.SaveWeights` wrote.
      member: as for `load`.

    Returns:
      "params" and "collections" -> nested dicts of NumPy arrays.

    Raises:
      FileNotFoundError, ValueError: as `load`.

    Example:
      >>> load_weights("runs/absent")
      Traceback (most recent call last):
      FileNotFoundError: there is no exported model in runs/absent: neither a .flaxfit file nor a model.json, there or in export/.
    """
    path = _place(path, member)
    content = path.read_bytes() if _only_weights(path) else read(path)[1][PARTS[1]]
    with _named(path):
        tensors = unpack_arrays(content)
        return {name: _nested(tensors, name) for name in ("params", "collections")}


class Predictor:
    """A trained model that needs none of the code that made it. `load` returns it.

    Attributes:
      about: what `flaxfit.export(about=...)` has recorded about the model.
      metadata: the content of `model.json`: versions, shapes, names, and where the training examples come from.
      features: the names of the columns of x, or None.
      classes: the names of the classes, or None.
      encoding: the `flaxfit.data.Encoding` that makes x from the raw rows of a table, if the model was trained on one, else None.
      scaling: the `flaxfit.data.Scaling` of the inputs, or None. The model applies it itself, so pass inputs that are not scaled.
      params: the weights, as nested dicts of NumPy arrays.
      collections: the other Linen collections by name, as nested dicts of NumPy arrays.
    """

    def __init__(
        self, name: str, metadata: dict[str, Any], tensors: dict[str, np.ndarray], predict: Callable[..., Any], score: Callable[..., Any]
    ):
        self._name, self._predict, self._score = name, predict, score
        self.metadata, self.about = metadata, metadata["about"]
        self.features, self.classes = (tuple(metadata[name]) if metadata[name] else None for name in ("features", "classes"))
        self._counted: Any = None
        if (ignored := metadata.get("ignore_label")) is not None:
            from flaxfit.positions import Counted  # with optax, which other models do without

            self._counted = Counted(ignored)
        self._hold(tensors)
        scaling = (metadata["preprocess"] or {}).get("scaling")
        self.scaling = Scaling(**{name: _filled(tree, tensors) for name, tree in scaling.items()}) if scaling else None
        self.encoding = Encoding.from_record(encoding) if (encoding := metadata.get("encoding")) else None
        # Tracing the programs for the shapes in model.json shows whether the parts belong together.
        rows = metadata["rows"] or 1
        x, y = ({path: jax.ShapeDtypeStruct((rows, *row["shape"]), row["dtype"]) for path, row in metadata[name].items()} for name in "xy")
        jax.eval_shape(predict, self._weights, x)
        jax.eval_shape(score, self._weights, x, y)

    def __repr__(self) -> str:
        rows = ", ".join(f"{_called('x', path)} {_rows(**row)}" for path, row in self.metadata["x"].items())
        scores = ", ".join([self.metadata["loss"], *self.metadata["metrics"]])
        weights = sum(array.size for array in jax.tree.leaves(self.params))
        return f"Predictor({self._name}: {rows}; {weights:,} weights; scores {scores})"

    def summary(self) -> str:
        """Returns a table of the weights, with what the model takes and computes, as plain text.

        It needs none of the code that made the model. `flaxfit.summary` lists layers and operations, and needs the task.

        Example:
          >>> import flaxfit as ff, optax, tempfile
          >>> task = ff.Task(ff.nn.MLP((8,), 1), ff.losses.binary_crossentropy, optax.adam(1e-2))
          >>> data = ff.Dataset(np.eye(4), np.arange(4) % 2)
          >>> with tempfile.TemporaryDirectory() as home:
          ...     print(load(ff.export(f"{home}/model", task, task.init(jax.random.key(0), data.x), data)).summary())
          Predictor(model: x (rows, 4) float32; 49 weights; scores binary_crossentropy)
           array                   shape    type      numbers
           ──────────────────────────────────────────────────
           params/Dense_0/bias     (8,)     float32         8
           params/Dense_0/kernel   (4, 8)   float32        32
           params/Dense_1/bias     (1,)     float32         1
           params/Dense_1/kernel   (8, 1)   float32         8
        """
        rows = [(path, str(a.shape), str(a.dtype), f"{a.size:,}") for path, a in sorted(self._weights.items())]
        return Plain(f"{self!r}\n{table(('array', 'shape', 'type', 'numbers'), rows, right=('numbers',))}")

    def _hold(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.params, self.collections = _nested(tensors, "params"), _nested(tensors, "collections")
        self._weights = jax.device_put(_without_scaling(tensors))

    def with_weights(self, file: str | Path) -> Predictor:
        """Returns the same model with other weights.

        Args:
          file: a file that `flaxfit.callbacks.SaveWeights` wrote, or `weights.safetensors` of another export.

        Raises:
          OSError: the file cannot be read.
          ValueError: the file is damaged, or its weights have other names or shapes.
        """
        with _named(Path(file)):
            tensors = _without_scaling(unpack_arrays(Path(file).read_bytes()))
            given, own = ({name: f"{a.dtype} {a.shape}" for name, a in arrays.items()} for arrays in (tensors, self._weights))
            if other := sorted(name for name in given | own if given.get(name) != own.get(name)):
                name = other[0]
                raise ValueError(f"{name} is {given.get(name, 'missing')} in the file, and {own.get(name, 'missing')} in the model")
        model = copy.copy(self)
        model._hold(tensors)
        return model

    def predict(self, x: Any, *, batch_size: int = 1024, classes: Sequence[Any] | None = None) -> Any:
        """Computes the outputs of the model, such as logits, or the predicted classes, as `flaxfit.predict` does.

        Args:
          x: the inputs, in the form that they had in training before any scaling: arrays with one row for each example; or, if the model
            was trained on a table, a data frame of raw rows with its columns in any order.
          batch_size: how many examples to compute at once, which limits the memory.
          classes: the names of the classes, such as `model.classes`, to get names instead of logits.

        Returns:
          NumPy arrays with one row for each example.

        Raises:
          ValueError, TypeError: the inputs are not like those in training, or are not finite; a frame lacks a column, which is named.
        """
        x = tuple(x) if isinstance(x, list) and len(self.metadata["x"]) > 1 else x
        x = arrays(x if self.encoding is None or native(x) is None else self.encoding(x), "x")
        outputs = self._rowwise(self._predict, batch_size, Dataset(x, np.zeros(len((*jax.tree.leaves(x), ())[0]))), "x")
        return outputs if classes is None else chosen(outputs, classes)

    @property
    def is_classifier(self) -> bool:
        """Whether the model was trained with a cross-entropy, so that its outputs are logits of classes."""
        return self.metadata["loss"] in _CROSS_ENTROPIES

    def probabilities(self, logits: Any) -> np.ndarray:
        """Returns the probabilities of the classes, shape (rows, ..., classes), for outputs of `predict`.

        Raises:
          TypeError: the loss of the model is not a cross-entropy that flaxfit knows.
        """
        if not self.is_classifier:
            raise TypeError(f"the outputs of a model trained with {self.metadata['loss']} are not logits of classes.")
        logits = np.asarray(logits, np.float64)
        if _CROSS_ENTROPIES[self.metadata["loss"]] == "classes":
            shifted = np.exp(logits - logits.max(-1, keepdims=True))
            return shifted / shifted.sum(-1, keepdims=True)
        logits = logits[..., 0] if logits.ndim > 1 and logits.shape[-1] == 1 else logits
        second = np.exp(-np.logaddexp(0, -logits))
        return np.stack([1 - second, second], -1)

    def predict_proba(self, x: Any, *, batch_size: int = 1024) -> np.ndarray:
        """Computes the probabilities of the classes, in the order of `classes`, shape (rows, ..., classes).

        Args:
          x, batch_size: as for `predict`.

        Raises:
          TypeError: the loss of the model is not a cross-entropy that flaxfit knows.
          ValueError, TypeError: as for `predict`.
        """
        return self.probabilities(self.predict(x, batch_size=batch_size))

    def evaluate(
        self,
        data: Dataset | Stream | Table,
        *,
        batch_size: int = 1024,
        metrics: Mapping[str, Callable[..., Any]] | None = None,
        interval: bool = False,
    ) -> dict[str, Any]:
        """Computes the loss and the metrics of the model over all examples, as `flaxfit.evaluate` does, up to rounding in float32.

        Args:
          data: the examples. A stream is read piece by piece. A `flaxfit.data.Table` is encoded as the training examples were.
          batch_size: how many examples to compute at once, which limits the memory.
          metrics: further metrics of the whole data set at once: name -> function (logits, y) -> number or array. All logits and targets
            are kept in memory for them, even of a stream.
          interval: whether to return 95% intervals over the examples, as `flaxfit.evaluate` does. The penalty and `metrics` remain numbers.

        Returns:
          `loss` (the objective), the data loss under its name, `penalty` if there is one, the metrics of the task, and `metrics`.

        Raises:
          ValueError, TypeError: the examples are not like those in training, or are not finite; a metric has a name that is in use;
            `interval` of a model in which some labels do not count.
        """
        if interval and self._counted:
            raise ValueError("evaluate(interval=True) needs a model in which all labels count: leave out the interval.")
        if isinstance(data, Table) and self.encoding is not None:
            data = data.dataset(self.encoding, self.classes)
        if not isinstance(data, Dataset | Stream):
            raise TypeError(f"data must be a flaxfit.Dataset, got {type(data).__name__}: wrap the arrays as ff.Dataset(x, y).")
        if None not in (self.classes, data.classes) and data.classes != self.classes:
            raise ValueError(
                f"the classes of the model are {', '.join(self.classes or ())}, those of data {', '.join(data.classes or ())}: "
                "number them in the same way, Dataset(x, y, classes=model.classes)."
            )
        size = check_count("batch_size", batch_size, 1, "examples")
        starts = range(0, len(data), size) if isinstance(data, Stream) else [0]
        parts, penalty = [], 0.0
        for first in starts:
            piece = data[first : first + size] if isinstance(data, Stream) else data
            try:
                losses, own, penalty = self._rowwise(self._score, size, piece, "x", "y")
            except ValueError as error:
                if first:
                    error.add_note(f"Rows are counted from row {first} of the stream.")
                raise
            outputs = (self.predict(piece.x, batch_size=size), jax.tree.map(np.asarray, piece.y)) if metrics else ()
            outputs = self._counted.kept(*outputs) if outputs and self._counted else outputs
            if piece.sample_weight is not None and piece.sample_weight.ndim > 1:
                raise ValueError(
                    "an exported model computes one loss for each example, so that it takes one weight for each, sample_weight of shape "
                    "(rows,): for weights of positions use ff.evaluate(task, state, data)."
                )
            parts.append((losses if piece.sample_weight is None else losses * piece.sample_weight, own, outputs))
        losses, own, outputs = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        counted = float(np.mean(own[COUNTED], dtype=float)) if COUNTED in own else 1.0
        loss = float(np.mean(losses, dtype=float)) / counted
        sown = float(np.mean(own[SOWN], dtype=float)) if SOWN in own else 0.0
        scores = {"loss": loss + float(penalty) + sown, self.metadata["loss"]: loss}
        scores |= {"penalty": float(penalty)} if self.metadata["penalty"] else {}
        scores |= {name: float(np.mean(own[name], dtype=float)) / counted for name in self.metadata["metrics"]}
        if interval:
            from flaxfit.report.statistics import of_rows

            rows = {
                "loss": losses + (scores["loss"] - loss),
                self.metadata["loss"]: losses,
                **{name: own[name] for name in self.metadata["metrics"]},
            }
            scores |= {name: of_rows(values) for name, values in rows.items()}
        taken = scores.keys() & (metrics or {}).keys()
        if taken:
            raise ValueError(f"evaluate(metrics=...) must not have the name {min(taken)!r}, which is in use: give the metric another name.")
        return scores | {name: metric(*outputs) for name, metric in (metrics or {}).items()}

    def _rowwise(self, program: Callable[..., Any], batch_size: int, data: Dataset, *names: str) -> Any:
        """Computes a program for all rows, batch by batch."""
        batch_size = check_count("batch_size", batch_size, 1, "examples")
        if not len(data):
            raise ValueError("the data set has no examples: pass one or more.")
        parts, rows = [self._checked(name, getattr(data, name)) for name in names], len(data)
        size = self.metadata["rows"] or min(batch_size, 1 << (rows - 1).bit_length())  # a power of two, so that few sizes are compiled
        outputs = []
        for first in range(0, rows, size):
            index = np.minimum(np.arange(first, first + size), rows - 1)  # repeats the last row if there are too few
            outputs.append(
                jax.device_get(program(self._weights, *(jax.device_put({path: a[index] for path, a in part.items()}) for part in parts)))
            )
        return jax.tree.map(lambda *o: np.concatenate(o)[:rows] if o[0].ndim else o[0], *outputs)

    def _checked(self, name: str, tree: Any) -> dict[str, np.ndarray]:
        """Returns the arrays of x or y by path, as the programs take them."""
        parts, expected = by_path(tree), self.metadata[name]
        if parts.keys() != expected.keys():
            given, taken = (", ".join(_called(name, path) for path in part) for part in (parts, expected))
            raise ValueError(f"the model takes the arrays {taken}, got {given}.")
        checked = {path: _fitting(_called(name, path), np.asarray(array), **expected[path]) for path, array in parts.items()}
        if name == "y" and self.classes and jnp.issubdtype(checked.get("", np.zeros(1)).dtype, np.integer):
            labels = checked[""] if self._counted is None else checked[""][checked[""] != self._counted.label]
            least, most = labels.min(initial=0), labels.max(initial=0)
            if least < 0 or most >= len(self.classes):
                raise ValueError(f"y must hold classes from 0 to {len(self.classes) - 1}, got labels from {least} to {most}.")
        return checked


def chosen(logits: Any, classes: Sequence[Any]) -> np.ndarray:
    """Returns the names of the predicted classes: that of the largest logit, or the second class if a single logit is above 0.

    Args:
      logits: shape (n,) or (n, 1) for two classes, (n, ..., classes) for more.
      classes: the names of the classes, in order.

    Raises:
      ValueError: the number of names is not that of the classes.
      TypeError: there are several outputs, or the names are not a sequence.

    Example:
      >>> chosen(np.array([[2.0], [-1.0]]), ("no", "yes")).tolist()
      ['yes', 'no']
    """
    if isinstance(logits, dict | tuple | list):
        raise TypeError("predict(classes=...) needs a model with one output.")
    if isinstance(classes, str):
        raise TypeError(f"predict(classes=...) must be the names of the classes, such as train.classes, got {classes!r}.")
    logits = np.asarray(logits)
    single = logits.ndim < 2 or logits.shape[-1] == 1
    if len(classes) != (count := 2 if single else logits.shape[-1]):
        raise ValueError(f"predict(classes=...) has {len(classes)} names, but outputs of shape {logits.shape} have {count} classes.")
    return np.asarray(classes)[(logits.reshape(len(logits)) > 0).astype(int) if single else logits.argmax(-1)]


def transfer(source: Predictor | str | Path | Mapping[str, Any], params: Any) -> tuple[Any, dict[str, str]]:
    """Copies the weights of one model to another, wherever their path and shape agree. A head of another shape keeps its fresh weights.

    Args:
      source: a `Predictor`, the path of a model for `load_weights`, or nested dicts of arrays, such as `Predictor.collections`.
      params: the fresh weights of the other model, or its collections, as nested dicts.

    Returns:
      `params` with the copied weights, and path -> the reason for each weight that was not copied.

    Raises:
      ValueError: no weight fits.

    Example:
      >>> fresh = {"body": {"kernel": jnp.zeros((4, 8))}, "head": {"kernel": jnp.zeros((8, 3))}}
      >>> params, left = transfer({"body": {"kernel": np.ones((4, 8))}, "head": {"kernel": np.ones((8, 1))}}, fresh)
      >>> left
      {'head/kernel': '(8, 1) in the source, (8, 3) here'}

      This trains the other model from there, with a new optimizer state. No weight is frozen; use `optax.masked` for that::

        state = task.init(jax.random.key(0), train.x[:1])
        params, left = transfer("runs/large", state.params)
        ff.fit(task, train, initial=dataclasses.replace(state, params=params, opt_state=None))
    """
    weights = load_weights(source)["params"] if isinstance(source, str | Path) else source
    given, left = by_path(weights.params if isinstance(weights, Predictor) else weights), {}

    def taken(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in given and np.shape(given[name]) == leaf.shape:
            return jnp.asarray(given[name], leaf.dtype)
        left[name] = f"{np.shape(given[name])} in the source, {leaf.shape} here" if name in given else "not in the source"
        return leaf

    new = jax.tree_util.tree_map_with_path(taken, params)
    if len(left) == len(jax.tree.leaves(params)):
        raise ValueError(f"no weight of the source fits: it has {', '.join(given)}, and the model has {', '.join(left)}.")
    return new, left


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads `model.json` and all files of an export, and verifies their checksums. It raises what `load` raises."""
    if (path / "export" / PARTS[0]).is_file():
        path /= "export"
    if not path.is_file() and not (path / PARTS[0]).exists():
        raise FileNotFoundError(f"there is no exported model in {path}: neither a .flaxfit file nor a model.json, there or in export/.")
    with _named(path):
        files = _unzipped(path) if path.is_file() else {name: (path / name).read_bytes() for name in (*PARTS, SUMS)}
        record = json.loads(files[PARTS[0]])
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}, but this version of flaxfit reads {FORMAT}: use the one that wrote it")
        sums = dict(line.split("  ")[::-1] for line in files[SUMS].decode().splitlines())
        for name in PARTS:
            if hashlib.sha256(files[name]).hexdigest() != sums[name]:
                raise ValueError(f"{name} has changed since it was written: its SHA-256 checksum is wrong")
    return record, files


def _place(path: str | Path, member: str | None) -> Path:
    if member is None:
        return Path(path)
    path = RunDirectory(path).member(member).path
    if not path.is_dir():
        raise FileNotFoundError(f"there is no exported model in {path}: write it with study.export({member!r}, data).")
    return path


def _only_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" and path.is_file()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns the errors of the parsers into one kind of error, which names the file."""
    try:
        yield
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{path} is damaged or not a model: {kind}{error}.") from error


def _unzipped(path: Path) -> dict[str, bytes]:
    """Reads the files of a zip after checking that they can only be those of a model: plain files with known names and true sizes."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for name, member in members.items():
            if name not in (*PARTS, SUMS):
                raise ValueError(f"it holds {name!r}, which is not part of a model")
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                raise ValueError(f"{name} is a link, not a file")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{name} is compressed, but flaxfit.pack does not compress, so that sizes can be trusted")
        if len(members) < len(archive.infolist()):
            raise ValueError("it holds a file twice")
        if sum(member.file_size for member in members.values()) > path.stat().st_size:
            raise ValueError("its files claim to be larger than the zip is")
        return {name: archive.read(member) for name, member in members.items()}


def _program(content: bytes) -> Callable[..., Any]:
    program = jax.export.deserialize(bytearray(content))
    check_calls(program)
    return jax.jit(program.call)


def check_calls(program: jax.export.Exported) -> None:
    """Checks that a program only computes. A custom call could reach anything registered in the process, even Python functions."""
    for call in re.finditer(r"custom_call\b(?: @([\w.]+))?", program.mlir_module()):
        if not _CALLS.fullmatch(call[1] or ""):
            raise ValueError(f"the program calls {call[1]!r}, which is not known to be only a computation")


def _without_scaling(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in tensors.items() if not name.startswith("scaling/")}


def _nested(tensors: Mapping[str, np.ndarray], root: str) -> dict[str, Any]:
    """Returns the arrays whose paths start with `root`, as nested dicts."""
    tree: dict[str, Any] = {}
    for *path, last, array in ((*name.split("/"), array) for name, array in tensors.items()):
        if path[0] == root:
            functools.reduce(lambda node, key: node.setdefault(key, {}), path[1:], tree)[last] = array
    return tree


def _filled(tree: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """Returns the arrays that a tree of JSON names, in dicts and tuples."""
    if isinstance(tree, dict):
        return {key: _filled(value, tensors) for key, value in tree.items()}
    return tensors[tree] if isinstance(tree, str) else tuple(_filled(value, tensors) for value in tree)


def _fitting(name: str, array: np.ndarray, shape: list[int], dtype: str) -> np.ndarray:
    """Converts an array to the type that the programs take."""
    if list(array.shape[1:]) != shape:
        single = f": for a single example, pass {name}[None]" if list(array.shape) == shape else ""
        raise ValueError(f"{name} of shape {array.shape} does not fit the model, which takes {_rows(shape, dtype)}{single}.")
    if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
        row = np.argwhere(~np.isfinite(array))[0][0]
        raise ValueError(f"{name} has NaN or infinity, first in row {row}: remove these rows or fill the values.")
    if name[0] == "x" and _kind(array.dtype) != _kind(dtype):
        raise TypeError(f"{name} is {array.dtype}, but the model takes {_rows(shape, dtype)}: pass the inputs as they were in training.")
    if array.dtype == dtype:
        return array
    warn_of_digits(name, array)
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
    changed = ~np.isfinite(cast) if jnp.issubdtype(cast.dtype, jnp.inexact) else cast != array
    if np.any(changed):
        row = np.argwhere(changed)[0][0]
        raise ValueError(f"{name} has values that {dtype} cannot hold, first in row {row}. The model takes {_rows(shape, dtype)}.")
    return cast


def _kind(dtype: Any) -> str:
    return {"b": "boolean", "i": "integer", "u": "integer"}.get(jnp.dtype(dtype).kind, "float")


def _called(name: str, path: str) -> str:
    return f"{name}/{path}" if path else name


def _rows(shape: list[int], dtype: str) -> str:
    return f"({', '.join(map(str, ['rows', *shape]))}) {dtype}"
