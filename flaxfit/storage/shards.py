"""Arrays that several processes save together. Orbax writes the parts that each of them has, and TensorStore reads any part."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfit.devices.distributed import Team


def checksums(arrays: Mapping[str, Any], team: Team) -> dict[str, dict[str, Any]]:
    """Returns for each array, none of them empty, the shape of its parts and their checksums in the order of their places.

    Args:
      arrays: arrays that are spread over the processes, or NumPy arrays that all of them have. The processes pass the same names.
      team: the processes, all of which call this.
    """
    shapes, sums = {}, {}
    for name in sorted(arrays):
        array = arrays[name]
        spread = isinstance(array, jax.Array)
        shapes[name] = array.sharding.shard_shape(array.shape) if spread else array.shape
        own = np.zeros([size // part for size, part in zip(array.shape, shapes[name], strict=True)], np.uint32)
        if spread:
            for shard in array.addressable_shards:
                if shard.replica_id == 0:
                    place = (where.start or 0 for where in shard.index)
                    own[tuple(start // part for start, part in zip(place, shapes[name], strict=True))] = checksum(shard.data)
        elif team.leads:
            own[...] = checksum(array)
        sums[name] = own.reshape(-1)
    each = team.gather(np.concatenate([*sums.values()])).sum(axis=0)  # All but the owner of a part have 0 there.
    ends = np.cumsum([len(own) for own in sums.values()])[:-1]
    together = zip(shapes, np.split(each, ends), strict=True)
    return {name: {"shape": list(shapes[name]), "crc32": crcs.tolist()} for name, crcs in together}


def check(arrays: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]], team: Team) -> None:
    """Checks this process's share of the parts.

    Args:
      arrays: NumPy arrays, or what `opened` returned.
      parts: what `checksums` returned.
      team: the processes that share the work.

    Raises:
      ValueError: a checksum is wrong, or there are none of a part.
    """
    if {name for name, array in arrays.items() if array.size} != parts.keys():
        raise ValueError("there are no checksums of some arrays")
    numbered = 0
    for name, about in parts.items():
        for place, crc in zip(_places(arrays[name].shape, about["shape"]), about["crc32"], strict=True):
            numbered += 1
            if numbered % team.size == team.index and checksum(arrays[name][place]) != crc:
                raise ValueError(f"the checksum of {name} is wrong")


def opened(directory: Path, names: Iterable[str]) -> dict[str, Any]:
    """Opens arrays that Orbax has saved. A slice of one is read from the disk where NumPy asks for its numbers.

    Args:
      directory: the directory that Orbax has written.
      names: the names of the arrays.
    """
    import tensorstore

    files = {"driver": "file", "path": f"{directory}/"}
    specs = {name: {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": files, "path": f"{name}/"}} for name in names}
    opening = {name: tensorstore.open(spec, open=True, read=True) for name, spec in specs.items()}
    return {name: future.result() for name, future in opening.items()}


def checksum(array: Any, start: int = 0) -> int:
    """Returns the checksum of the bytes of an array, continued from that of others."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, start)


def _places(shape: tuple[int, ...], part: Iterable[int]) -> Iterator[tuple[slice, ...]]:
    part = tuple(part)
    if any(size % length for size, length in zip(shape, part, strict=True)):
        raise ValueError(f"an array of shape {shape} cannot have parts of shape {part}")
    for place in np.ndindex(*(size // length for size, length in zip(shape, part, strict=True))):
        yield tuple(slice(index * length, (index + 1) * length) for index, length in zip(place, part, strict=True))
