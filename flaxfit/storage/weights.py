"""Arrays by name in the format safetensors, and files of weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from flaxfit.durable import write_file
from flaxfit.state import TrainState, by_path

_TYPES = {"BOOL": "bool", "BF16": "bfloat16", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"} | {
    f"{kind[0].upper()}{bits}": f"{kind}{bits}"
    for kind, sizes in {"float": (16, 32, 64), "int": (8, 16, 32, 64), "uint": (8, 16, 32, 64)}.items()
    for bits in sizes
}
"""Name of a type in safetensors -> its name in NumPy."""


def pack_arrays(arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Returns the content of a safetensors file.

    Args:
      arrays: arrays of any shape by name. Arrays of JAX are copied from the device.
      metadata: texts for the header of the file. The order of several texts is not fixed, so the bytes may differ from call to call.

    Raises:
      ValueError: an array has a type that safetensors cannot hold.

    Example:
      >>> arrays = unpack_arrays(pack_arrays({"a": np.ones(2), "b/c": np.int32(3)}))
      >>> {name: array.tolist() for name, array in sorted(arrays.items())}
      {'a': [1.0, 1.0], 'b/c': 3}
    """
    for name, array in arrays.items():
        if str(array.dtype) not in _TYPES.values():
            raise ValueError(f"the array {name} is {array.dtype}, which a safetensors file cannot hold: convert it to another type.")
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()}, dict(metadata) if metadata else None)


def unpack_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name.

    Args:
      content: the content of the file.

    Raises:
      safetensors.SafetensorError, KeyError, ValueError: it is not a safetensors file, or has a type that NumPy does not have.
    """
    entries = safetensors.deserialize(content)  # safetensors.numpy.load does not know bfloat16
    return {name: np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"]) for name, entry in entries}


def save_weights(path: str | os.PathLike[str], state: TrainState) -> None:
    """Writes the weights of a state to a file, at any time: after a run, or in a callback during one.

    The file has params and collections by path, such as `params/Dense_0/kernel`, in the format safetensors. It is written as a whole or not
    at all. `flaxfit.load_weights` and `Predictor.with_weights` read it. `flaxfit.callbacks.SaveWeights` writes such files by itself.

    Args:
      path: of the file, such as `weights.safetensors`. `flaxfit.load_weights` needs the extension `.safetensors`.
      state: `result.best`, `result.last`, or `progress.state.train` of a callback. Of a task that evaluates averaged weights, pass
        `task.evaluated(state)`.

    Raises:
      ValueError: a weight has a type that safetensors cannot hold.
      OSError: the file cannot be written.

    Example:
      >>> import flaxfit as ff, optax, tempfile
      >>> task = ff.Task(ff.nn.MLP((8,), 1), ff.losses.binary_crossentropy, optax.adam(1e-2))
      >>> result = ff.fit(task, ff.Dataset(np.eye(4), np.arange(4) % 2), epochs=2)
      >>> with tempfile.TemporaryDirectory() as home:
      ...     ff.save_weights(f"{home}/weights.safetensors", result.last)
      ...     weights = ff.load_weights(f"{home}/weights.safetensors")
      >>> bool((weights["params"]["Dense_0"]["kernel"] == result.last.params["Dense_0"]["kernel"]).all())
      True
    """
    content = pack_arrays(by_path({"params": state.params, "collections": state.collections}), {"step": str(int(state.step))})
    write_file(Path(path), content)
