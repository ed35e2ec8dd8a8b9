"""The class of data sets in memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.data.encoding import Encoding
from flaxfit.data.frames import array_of, native
from flaxfit.data.provenance import Provenance

_ARRAYS = ("x", "y", "sample_weight")


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Examples in memory: inputs, targets, and optionally a weight for each example. It is a pytree.

    Attributes:
      x: the inputs: an array, or a dict or tuple of arrays, each with one row for each example. A list of arrays that each have a row
        for every example becomes a tuple. Other lists become arrays, and so do data frames of pandas, Polars and Arrow whose columns are
        numbers and booleans. `flaxfit.data.Table` encodes all others.
      y: the targets, in the same forms. Class labels are whole numbers, shape (rows,), (rows, 1), or one at each position of an example, or
        one-hot. Text and categorical columns are numbered in the order of `classes`, by default in that of the sorted names;
        `predict(classes=data.classes)` gives the names back.
      sample_weight: the weight of each example in the data loss, shape (rows,); or of each position of an example, such as (rows, time
        steps) for outputs (rows, time steps, ...); or None if all count alike.
      features: the names of the columns of x, or None. This and what follows describe the examples and take no part in computations.
      classes: the names of the classes 0, 1, ... of y, or None.
      provenance: where the examples come from, or None for arrays of your own.
      encoding: how x was made from the columns of a table, or None.

    Raises:
      ValueError: the arrays have different numbers of rows; a weight is negative or not finite; the number of names is wrong.
      TypeError: values are not numbers.

    Example:
      >>> data = Dataset([[0.0], [1.0], [2.0]], [0, 1, 1])
      >>> len(data), data[1:].y.tolist()
      (3, [1, 1])
    """

    x: Any
    y: Any
    sample_weight: Any = None
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    provenance: Provenance | None = None
    encoding: Encoding | None = None

    def __post_init__(self) -> None:
        if self.features is None and hasattr(frame := native(self.x), "columns"):
            object.__setattr__(self, "features", tuple(map(str, frame.columns)))
        if (coded := _coded(self.y, self.classes)) is not None:
            object.__setattr__(self, "y", coded[0])
            object.__setattr__(self, "classes", coded[1])
        x, y = self.x, self.y
        object.__setattr__(self, "x", several(x, y))
        object.__setattr__(self, "y", several(y, self.x))
        for name in _ARRAYS:
            object.__setattr__(self, name, arrays(getattr(self, name), name))
        if not jax.tree.leaves(self.x):
            raise TypeError(f"Dataset(x=...) must hold an array, got {self.x!r}.")
        lengths = {path: leaf.shape[0] for path, leaf in self.leaves()}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{path}: {rows}" for path, rows in lengths.items())
            raise ValueError(f"all arrays of a Dataset must have the same number of rows, got {listed}.")
        for name in ("features", "classes"):
            if (names := getattr(self, name)) is not None:
                if isinstance(names, str):
                    raise TypeError(f"Dataset({name}=...) must be a list of names, got {names!r}.")
                object.__setattr__(self, name, tuple(map(str, names)))
        columns = self.x.shape[-1] if getattr(self.x, "ndim", 0) == 2 else None
        if self.features is not None and columns not in (None, len(self.features)):
            raise ValueError(f"Dataset(features=...) has {len(self.features)} names for {columns} columns.")
        if self.sample_weight is not None:
            if not hasattr(self.sample_weight, "shape"):
                raise ValueError("Dataset(sample_weight=...) must hold one number for each example, shape (rows,).")
            weight = np.asarray(self.sample_weight, np.float32)
            weight = weight[:, 0] if weight.shape[1:] == (1,) else weight
            if not np.all(weight >= 0) or np.any(np.isinf(weight)):
                raise ValueError("Dataset(sample_weight=...) must be finite and not negative.")
            object.__setattr__(self, "sample_weight", weight)

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        """For JAX. The descriptions are left out, so that other names do not cause another compilation."""
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _ARRAYS], None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Dataset:
        """For JAX. Nothing is checked, because the leaves may be anything."""
        data = object.__new__(cls)
        vars(data).update(zip(_ARRAYS, children, strict=True), features=None, classes=None, provenance=None, encoding=None)
        return data

    def __len__(self) -> int:
        return jax.tree.leaves(self.x)[0].shape[0]

    def __getitem__(self, rows: slice | np.ndarray | jax.Array) -> Dataset:
        """Returns the examples of a slice, an index array or a boolean mask.

        Raises:
          TypeError: the index is a single number, which would drop the first axis.
        """
        if isinstance(rows, int | np.integer):
            raise TypeError(f"a Dataset is indexed by slices and index arrays: use data[{rows}:{rows + 1}] for the example {rows}.")
        part = jax.tree.map(lambda array: array[rows], self)
        provenance = None if self.provenance is None else self.provenance[rows]
        vars(part).update(features=self.features, classes=self.classes, provenance=provenance, encoding=self.encoding)
        return part

    def __repr__(self) -> str:
        arrays = ", ".join(f"{path}: {leaf.dtype}{list(leaf.shape[1:]) or ''}" for path, leaf in self.leaves())
        return f"Dataset({len(self)} rows, {arrays})"

    def record(self) -> dict[str, Any]:
        """Returns where the examples come from and how many there are, as plain values for JSON."""
        return {"count": len(self)} | ({"source": "arrays"} if self.provenance is None else self.provenance.record())

    def leaves(self) -> list[tuple[str, Any]]:
        """Returns each array with its path, such as `x['age']`."""
        return [(jax.tree_util.keystr(path).removeprefix("."), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(self)]


def several(tree: Any, other: Any) -> Any:
    """Returns a list of arrays as a tuple if each has as many rows as `other`; another list, such as one of rows, as it is."""
    if not isinstance(tree, list) or not tree or any(not np.shape(part) or isinstance(part, list) for part in tree):
        return tree
    rows = {len(leaf) for leaf in jax.tree.leaves(other, is_leaf=lambda leaf: isinstance(leaf, list)) if np.ndim(leaf)}
    return tuple(tree) if {len(part) for part in tree} == rows != {len(tree)} else tree


def arrays(tree: Any, name: str, narrow: bool = True) -> Any:
    """Converts an array-like, or a dict or tuple of them, to arrays of the types that the device computes in.

    Columns of float64 whose offset is too large for float32 stay as they are.

    Args:
      tree: the values.
      name: what to call them in errors.
      narrow: whether to convert; if not, NumPy arrays keep their type, such as float64.

    Raises:
      ValueError, TypeError: as `Dataset`.
    """
    if isinstance(tree, dict):
        return {key: arrays(value, f"{name}[{key!r}]", narrow) for key, value in tree.items()}
    if isinstance(tree, tuple):
        parts = [arrays(value, f"{name}[{index}]", narrow) for index, value in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, Dataset):
        raise TypeError(f"{name} must be arrays, got a Dataset: pass data.x.")
    if tree is None:
        if name == "sample_weight":
            return None
        raise TypeError(f"Dataset: {name} is missing: pass an array.")
    if isinstance(tree, np.ma.MaskedArray):
        raise TypeError(f"Dataset: {name} is a masked array, whose mask would be lost: fill it with {name}.filled(value).")
    if hasattr(tree, "toarray") and hasattr(tree, "nnz"):
        raise TypeError(f"Dataset: {name} is a sparse matrix: pass a dense array, {name}.toarray().")
    found = native(tree)
    array = tree if isinstance(tree, jax.Array) else np.asarray(tree) if found is None else array_of(found, name)
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, np.number):
        raise TypeError(f"Dataset: {name} must hold numbers, got {array.dtype}: encode the values first, as ff.data.Table does.")
    if array.ndim == 0:
        raise ValueError(f"Dataset: {name} must have one row for each example, got a single number.")
    if isinstance(array, jax.Array) or not narrow:
        return array
    narrow_type = jax.dtypes.canonicalize_dtype(array.dtype)
    if narrow_type == array.dtype:
        return array
    if isinstance(tree, np.memmap):
        warnings.warn(
            f"Dataset: the memory-mapped {name} is {array.dtype} and is read into memory as {narrow_type}: save it as that instead.",
            UserWarning,
            stacklevel=4,
        )
    with np.errstate(over="ignore"):  # the conversion is made once, here, and not at every use
        narrowed = array.astype(narrow_type)
    beyond = narrowed != array if array.dtype.kind in "iu" else np.isinf(narrowed) & np.isfinite(array)
    if beyond.any():
        raise ValueError(f"Dataset: {name} holds numbers that {narrowed.dtype} cannot hold, first in row {np.nonzero(beyond)[0][0]}.")
    # Where rounding merges most values of a column, they keep their digits until they are scaled, or moved to the device.
    return array if _merged(array, narrowed) is not None else narrowed


def warn_of_digits(name: str, array: Any) -> None:
    """Warns of the first column of an array of rows in which most values are the same in the type that the device computes in."""
    if not isinstance(array, np.ndarray) or (narrow := jax.dtypes.canonicalize_dtype(array.dtype)) == array.dtype:
        return
    if (column := _merged(array, array.astype(narrow))) is not None:
        where, before, after = column
        at = f"{name}[:, {where}]" if array.ndim == 2 else name
        warnings.warn(
            f"{at} has {before} different values, of which {after} are left as {narrow}: its offset is too large. "
            "Standardize it first, as ff.data.standardize(x)(x) does in float64.",
            UserWarning,
            stacklevel=5,
        )


def _coded(y: Any, classes: tuple[str, ...] | None) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Labels that are text, or of a categorical type, as numbers, with the names of the classes; None for other targets."""
    if isinstance(y, list) and y and isinstance(y[0], str | list):
        y = _text(y)
    if (found := native(y)) is not None:
        columns = list(found.iter_columns()) if hasattr(found, "columns") else [found]
        y = array_of(columns[0], "y") if len(columns) == 1 else None
    if not isinstance(y, np.ndarray) or isinstance(y, np.ma.MaskedArray) or y.dtype.kind not in "OUT" or y.ndim < 1 or not y.size:
        return None
    labels = y.ravel()
    if not all(isinstance(label, str) for label in labels):
        missing = [row for row, label in enumerate(labels) if not isinstance(label, str)]
        first = missing[0] // (y.size // len(y))
        raise TypeError(f"Dataset: y is text, but not in {len(missing)} of {y.size} labels, first in row {first} ({labels[missing[0]]!r}).")
    names = tuple(map(str, np.unique(labels.astype(str)))) if classes is None else tuple(map(str, classes))
    places = {name: place for place, name in enumerate(names)}
    if unknown := sorted({str(label) for label in labels if label not in places}):
        raise ValueError(f"Dataset: y has the class {unknown[0]!r}, which Dataset(classes=...) does not name: {', '.join(names)}.")
    return np.array([places[label] for label in labels], np.int32).reshape(y.shape), names


def _text(y: list[Any]) -> Any:
    """Nested lists of text as an array of it; others as they are."""
    found = np.array(y, object)
    return found if all(isinstance(label, str) for label in found.ravel()) else y


def _merged(wide: np.ndarray, narrow: np.ndarray) -> tuple[int, int, int] | None:
    """The first column of which rounding merges most of the different values: its number, how many there were, how many are left."""
    if wide.dtype != np.float64 or wide.ndim > 2:
        return None
    columns = wide.reshape(len(wide), -1) if wide.size else wide.reshape(0, 0)
    if not columns.size:
        return None
    low, high = columns.min(0), columns.max(0)
    step = np.spacing(np.maximum(abs(low), abs(high)).astype(narrow.dtype)).astype(np.float64)
    for column in np.flatnonzero((high > low) & ((high - low) < step * len(wide))):  # the others have room for all rows
        before, after = (len(np.unique(a.reshape(len(a), -1)[:, column])) for a in (wide, narrow))
        if 2 * after < before:
            return int(column), before, after
    return None
