"""The class of data sets in memory."""

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
    """Examples in memory: inputs, targets, and optionally a weight for each example. It is a pytree.

    Attributes:
      x: the inputs: an array, or a dict or tuple of arrays, each with one row for each example. Lists and data frames become arrays.
      y: the targets, in the same forms. Class labels are integers, shape (rows,).
      sample_weight: the weight of each example in the data loss, shape (rows,), or None if all count alike.
      features: the names of the columns of x, or None. This and the next two describe the examples and take no part in computations.
      classes: the names of the classes 0, 1, ... of y, or None.
      provenance: where the examples come from, or None for arrays of your own.

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

    def __post_init__(self) -> None:
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
            if not hasattr(self.sample_weight, "shape") or self.sample_weight.ndim != 1:
                raise ValueError("Dataset(sample_weight=...) must hold one number for each example, shape (rows,).")
            weight = np.asarray(self.sample_weight, np.float32)
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
        vars(data).update(zip(_ARRAYS, children, strict=True), features=None, classes=None, provenance=None)
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
        vars(part).update(features=self.features, classes=self.classes, provenance=provenance)
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


def arrays(tree: Any, name: str) -> Any:
    """Converts an array-like, or a dict or tuple of them, to arrays of the types that the device computes in.

    Args:
      tree: the values.
      name: what to call them in errors.

    Raises:
      ValueError, TypeError: as `Dataset`.
    """
    if isinstance(tree, dict):
        return {key: arrays(value, f"{name}[{key!r}]") for key, value in tree.items()}
    if isinstance(tree, tuple):
        parts = [arrays(value, f"{name}[{index}]") for index, value in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, Dataset):
        raise TypeError(f"{name} must be arrays, got a Dataset: pass data.x.")
    if tree is None:
        if name == "sample_weight":
            return None
        raise TypeError(f"Dataset: {name} is missing: pass an array.")
    array = tree if isinstance(tree, jax.Array) else np.asarray(tree)
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, np.number):
        how = ", as np.unique(y, return_inverse=True) does" if name == "y" and array.dtype.kind in "US" else ""
        raise TypeError(f"Dataset: {name} must hold numbers, got {array.dtype}: encode the values as numbers first{how}.")
    if array.ndim == 0:
        raise ValueError(f"Dataset: {name} must have one row for each example, got a single number.")
    if isinstance(array, jax.Array):
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
    with np.errstate(over="ignore"):  # The conversion is made once, here, and not at every use.
        narrow = array.astype(narrow_type)
    beyond = narrow != array if array.dtype.kind in "iu" else np.isinf(narrow) & np.isfinite(array)
    if beyond.any():
        raise ValueError(f"Dataset: {name} holds numbers that {narrow.dtype} cannot hold, first in row {np.nonzero(beyond)[0][0]}.")
    return narrow
