"""What travels between processes: members as plain arrays, and objects whose arrays are read where they lie."""

from __future__ import annotations

import hashlib
import json
import mmap
import pickle
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.storage.store import Saved
from flaxfit.storage.weights import pack_arrays, unpack_arrays

_ALIGNED = 64  # arrays begin at multiples of this number of bytes, as compiled programs like them to


def pack_member(name: str, saved: Saved, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns a member and its state as bytes, with a checksum. Nothing in them is executed when they are read.

    Args:
      name: its name.
      saved: the member.
      arrays: its state by path.

    Example:
      >>> from flaxfit.history import History
      >>> content = pack_member("seed=0", Saved({}, 10, True, History({"loss": [0.5]}), {}), {"w": np.ones(2)})
      >>> name, saved, arrays = unpack_member(content)
      >>> name, saved.position, saved.history["loss"].tolist(), arrays["w"].tolist()
      ('seed=0', 10, [0.5], [1.0, 1.0])
    """
    about, rows = saved.packed()
    about = json.dumps({"name": name, "record": dict(saved.record), **about}).encode()
    content = pack_arrays({**arrays, "": rows, " ": np.frombuffer(about, np.uint8)})
    return zlib.crc32(content).to_bytes(4, "little") + content


def unpack_member(content: bytes) -> tuple[str, Saved, dict[str, np.ndarray]]:
    """Returns the name, the member and the state of what `pack_member` returned.

    Raises:
      ValueError: it is damaged.
    """
    if zlib.crc32(content[4:]) != int.from_bytes(content[:4], "little"):
        raise ValueError("the checksum of a saved member is wrong")
    arrays = unpack_arrays(content[4:])
    rows, about = arrays.pop(""), json.loads(arrays.pop(" ").tobytes())
    return about["name"], Saved.unpacked(about["record"], about, rows), arrays


def write_object(value: Any, directory: Path) -> str:
    """Writes an object into a file that is named after its content, and returns the name. cloudpickle takes functions of scripts, too.

    The arrays in it are written as they lie in memory, so that `read_object` can map them into the memory of several processes.

    Raises:
      TypeError, pickle.PicklingError, ...: the object cannot be pickled.
    """
    digest, path = hashlib.sha256(), directory / "new"
    with path.open("wb") as file:
        for part in _pieces(value):
            digest.update(part)
            file.write(part)
    path.replace(directory / digest.hexdigest())
    return digest.hexdigest()


def read_object(source: Path | bytes, digest: str) -> Any:
    """Returns an object that `write_object` wrote.

    Args:
      source: the file, or its content.
      digest: its name, which comes from the process that wrote it. It is compared before anything is unpickled.

    Raises:
      ValueError: the content is another.
      OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        content = memoryview(source)
    else:
        with source.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"what was sent to this worker is damaged: its checksum is not {digest}.")
    count = int.from_bytes(content[:8], "little")
    at, parts = _padded(8 * (count + 1)), []
    for size in np.frombuffer(content, "<u8", count, 8).tolist():
        parts.append(content[at : at + size])
        at = _padded(at + size)
    return pickle.loads(parts[0], buffers=parts[1:])


def _pieces(value: Any) -> Iterator[Any]:
    """The content of an object's file: how many parts there are, their sizes, and the parts, each padded."""
    import cloudpickle

    buffers: list[pickle.PickleBuffer] = []
    parts = [memoryview(cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)), *(buffer.raw() for buffer in buffers)]
    sizes = np.array([len(parts), *(part.nbytes for part in parts)], "<u8").tobytes()
    for part in (memoryview(sizes), *parts):
        yield part
        yield bytes(_padded(part.nbytes) - part.nbytes)


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
