"""Weights alone, as safetensors files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flaxfit.state import TrainState
from flaxfit.storage.predictor import by_path


def save_weights(path: Path, state: TrainState) -> None:
    """Writes params and collections under their paths, such as `params/Dense_0/kernel`; all or nothing."""
    from safetensors.numpy import save

    named = by_path({"params": state.params, "collections": state.collections})
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_bytes(save({name: np.asarray(leaf, order="C") for name, leaf in named.items()}, {"step": str(int(state.step))}))
    scratch.replace(path)


def pack_arrays(arrays, metadata=None):
    import safetensors

    return safetensors.serialize(
        {n: {"dtype": str(a.dtype), "shape": a.shape, "data": np.ascontiguousarray(a).tobytes()} for n, a in arrays.items()}, metadata
    )


def unpack_arrays(content):
    import safetensors

    from flaxfit.storage.predictor import TYPES

    return {
        name: np.frombuffer(entry["data"], TYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in safetensors.deserialize(content)
    }
