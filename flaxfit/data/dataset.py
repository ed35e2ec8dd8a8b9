"""Rows to train on or to evaluate."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.data.provenance import Provenance

_ARRAYS = ("x", "y", "sample_weight")


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Inputs, targets and weights of the same rows; a pytree, so that the compiled programs take it as it is.

    Attributes:
      x: inputs: an array, or a dict or tuple of arrays, each with leading axis (rows,). Lists and data frames become arrays; a list of
        arrays that have all rows each becomes a tuple.
      y: targets, likewise; class labels are integers, shape (rows,).
      sample_weight: how much each row's data loss counts, shape (rows,), or None for all alike.
      features: names of x's columns, or None. Like what follows it describes the rows and takes no part in computing.
      classes: names of the classes 0, 1, ... of y, or None.
      provenance: where the rows come from, or None for arrays of one's own.

    Raises:
      ValueError: no rows, leading axes of unequal length, a weight that is negative.
      TypeError: values that are no numbers.

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

    def __post_init__(self) -> None:
        x, y = (getattr(self, name) for name in ("x", "y"))
        object.__setattr__(self, "x", _several(x, y))
        object.__setattr__(self, "y", _several(y, self.x))
        for name in _ARRAYS:
            object.__setattr__(self, name, arrays(getattr(self, name), name))
        if not jax.tree.leaves(self.x):
            raise TypeError(f"Dataset: x holds no arrays: {self.x!r}.")
        lengths = {path: leaf.shape[0] for path, leaf in self.leaves()}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{path}: {rows}" for path, rows in lengths.items())
            raise ValueError(f"all arrays of a Dataset must have equally many rows, got {listed}.")
        for name in ("features", "classes"):
            if (names := getattr(self, name)) is not None:
                if isinstance(names, str):
                    raise TypeError(f"Dataset({name}=...) must be a sequence of names, got {names!r}.")
                object.__setattr__(self, name, tuple(map(str, names)))
        columns = self.x.shape[-1] if getattr(self.x, "ndim", 0) == 2 else None
        if self.features is not None and columns not in (None, len(self.features)):
            raise ValueError(f"Dataset(features=...) has {len(self.features)} names for {columns} columns.")
        if self.sample_weight is not None:
            if not hasattr(self.sample_weight, "shape") or self.sample_weight.ndim != 1:
                raise ValueError("Dataset(sample_weight=...) must be one number a row, shape (rows,).")
            weight = np.asarray(self.sample_weight, np.float32)
            if not np.all(weight >= 0) or np.any(np.isinf(weight)):
                raise ValueError("Dataset(sample_weight=...) must be finite and not negative.")
            object.__setattr__(self, "sample_weight", weight)

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        """For JAX. The descriptions stay behind: a program must not be compiled anew because rows have another name."""
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _ARRAYS], None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Dataset:
        """For JAX: unchecked, since the leaves may be anything."""
        data = object.__new__(cls)
        vars(data).update(zip(_ARRAYS, children, strict=True), features=None, classes=None, provenance=None)
        return data

    def __len__(self) -> int:
        return jax.tree.leaves(self.x)[0].shape[0]

    def __getitem__(self, rows: slice | np.ndarray | jax.Array) -> Dataset:
        """The rows of a slice, an index array or a boolean mask.

        Raises:
          TypeError: a single number, which would drop the axis of rows.
        """
        if isinstance(rows, int | np.integer):
            raise TypeError(f"a Dataset is indexed by slices and arrays of rows: data[{rows}:{rows + 1}] is the row {rows}.")
        part = jax.tree.map(lambda array: array[rows], self)
        provenance = None if self.provenance is None else self.provenance[rows]
        vars(part).update(features=self.features, classes=self.classes, provenance=provenance)
        return part

    def __repr__(self) -> str:
        arrays = ", ".join(f"{path}: {leaf.dtype}{list(leaf.shape[1:]) or ''}" for path, leaf in self.leaves())
        return f"Dataset({len(self)} rows, {arrays})"

    def record(self) -> dict[str, Any]:
        """Where the rows come from and how many there are, as plain values for JSON."""
        return {"count": len(self)} | ({"source": "arrays"} if self.provenance is None else self.provenance.record())

    def leaves(self) -> list[tuple[str, Any]]:
        """Each array with its path, such as `x['age']`."""
        return [(jax.tree_util.keystr(path).removeprefix("."), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(self)]


def _several(tree: Any, other: Any) -> Any:
    """A list of arrays as a tuple of them if each has all rows, as `other` shows; else, such as a list of rows, as it is."""
    if not isinstance(tree, list) or not tree or any(not np.shape(part) or isinstance(part, list) for part in tree):
        return tree
    rows = {len(leaf) for leaf in jax.tree.leaves(other, is_leaf=lambda leaf: isinstance(leaf, list)) if np.ndim(leaf)}
    return tuple(tree) if {len(part) for part in tree} == rows != {len(tree)} else tree


def arrays(tree: Any, name: str) -> Any:
    """A dict, tuple or array-like of rows as arrays of what the device computes in, called `name` in errors.

    Raises:
      ValueError, TypeError: what `Dataset` raises.
    """
    if isinstance(tree, dict):
        return {key: arrays(value, f"{name}[{key!r}]") for key, value in tree.items()}
    if isinstance(tree, tuple):
        parts = [arrays(value, f"{name}[{index}]") for index, value in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, Dataset):
        raise TypeError(f"{name} is a Dataset; give its arrays: data.x.")
    if tree is None:
        if name == "sample_weight":
            return None
        raise TypeError(f"Dataset: {name} is missing: give an array.")
    array = tree if isinstance(tree, jax.Array) else np.asarray(tree)
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, np.number):
        how = ", as np.unique(y, return_inverse=True) does" if name == "y" and array.dtype.kind in "US" else ""
        raise TypeError(f"Dataset: {name} holds {array.dtype} values; encode them as numbers first{how}.")
    if array.ndim == 0:
        raise ValueError(f"Dataset: {name} is a single number; its first axis must be the rows.")
    if isinstance(array, jax.Array):
        return array
    narrow_type = jax.dtypes.canonicalize_dtype(array.dtype)
    if narrow_type == array.dtype:
        return array
    if isinstance(tree, np.memmap):
        warnings.warn(
            f"Dataset: {name}, mapped {array.dtype}, is read into memory as {narrow_type}: save it so.", UserWarning, stacklevel=4
        )
    with np.errstate(over="ignore"):  # the conversion is made once, here, and not at every use
        narrow = array.astype(narrow_type)
    beyond = narrow != array if array.dtype.kind in "iu" else np.isinf(narrow) & np.isfinite(array)
    if beyond.any():
        raise ValueError(f"Dataset: {name} holds numbers beyond {narrow.dtype}, first in row {np.nonzero(beyond)[0][0]}.")
    return narrow
