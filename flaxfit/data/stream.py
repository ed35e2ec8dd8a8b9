"""Streams: examples that are read while the device computes, for data sets larger than memory."""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flaxfit.arguments import unknown
from flaxfit.data import order
from flaxfit.data.dataset import Dataset
from flaxfit.data.provenance import Provenance

CHUNK_BYTES = 64 * 2**20
"""The size of a chunk is at most about this, but at least one batch. Memory holds the chunk in training and two that are read ahead."""
CHUNK_ROWS = 2**20
CHUNK_ELEMENTS = 2**16
"""The most elements of a chunk if they are read one by one, which is slow: training begins when the first chunk has been read."""
AHEAD = 2
TASK_BYTES = 2**18
THREADS = min(16, 2 * (os.cpu_count() or 1))

_round_keys = jax.jit(order.round_keys, static_argnums=2)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _drawn(key: Array, steps: Array, batch: int, rows: int) -> Array:
    # One step after the other, because some of JAX's generators give other numbers if all are drawn at once.
    return jax.lax.map(lambda step: order.drawn(key, step, batch, rows), steps).ravel()


class Stream:
    """A data set larger than memory, whose examples are read while the device computes.

    `flaxfit.fit` trains from it as from a `Dataset`, with the same losses to the last bit, and `flaxfit.evaluate` scores it.

    Args:
      source: a `Dataset` of memory-mapped arrays, which is fastest. Or anything with a length that returns the element of a number: a data
        source of TensorFlow Datasets, a `grain.MapDataset`, or a sequence. Several threads read it at the same time, with `__getitems__`
        if it has that method.
      x: how to get the inputs from an element: a key of a dict, an index of a tuple, or a function of the element. By default it is the
        first entry of a tuple, or what the supervised keys of TensorFlow Datasets say.
      y: how to get the targets from an element, in the same forms. By default it is the second entry of a tuple.
      sample_weight: how to get the weight of an example from an element, in the same forms, or None.
      features: the names of the columns of x, as in `Dataset`.
      classes: the names of the classes, as in `Dataset`.
      provenance: where the examples come from, as in `Dataset`.

    Raises:
      TypeError, ValueError: the source has no random access or no elements, an element has no such key, or the first element does not hold
        numbers.

    Example:
      >>> import numpy as np
      >>> stream = Stream([{"image": np.full(3, row), "label": row % 2} for row in range(10)], x="image", y="label")
      >>> len(stream), stream[:4].y.tolist()
      (10, [0, 1, 0, 1])
    """

    by_element: bool

    def __init__(
        self,
        source: Any,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        features: tuple[str, ...] | None = None,
        classes: tuple[str, ...] | None = None,
        provenance: Provenance | None = None,
    ):
        if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
            raise TypeError(
                f"Stream needs a source with random access (__len__ and __getitem__), got {type(source).__name__}: pass a data source of "
                "TensorFlow Datasets, a grain.MapDataset (before to_iter_dataset), or a sequence."
            )
        if not 0 < len(source) < 2**31:
            raise ValueError(f"Stream needs a source of 1 to 2**31 - 1 elements that does not repeat, got {len(source)} elements.")
        if isinstance(x, np.ndarray):
            raise TypeError("Stream takes one source, got two arrays: use Stream(ff.Dataset(x, y)).")
        self._source, self.by_element = source, not isinstance(source, Dataset)
        self.features, self.classes, self.provenance = features, classes, provenance
        if isinstance(source, Dataset):
            self._arrays = jax.tree.map(np.asarray, source)
            self._maps = [(array, *place) for array in jax.tree.leaves(self._arrays) if (place := _mapped(array))]
            self.features, self.classes = features or source.features, classes or source.classes
            self.provenance = provenance or source.provenance
        else:
            self._picks = _picks(source, x, y, sample_weight)
        self[:1]  # Raises if the first element does not hold numbers.

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, rows: slice | np.ndarray) -> Dataset:
        """Reads the examples of a slice or an index array into memory.

        Raises:
          TypeError: the index is a single number.
          IndexError: there are no such examples.
        """
        if isinstance(rows, int | np.integer):
            raise TypeError(f"a Stream is indexed by slices and index arrays: use stream[{rows}:{rows + 1}] for the example {rows}.")
        numbers = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        if numbers.dtype.kind not in "iu" or not numbers.size or numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"a Stream of {len(self)} examples has the indices 0 to {len(self) - 1}, got {rows!r}.")
        provenance = None if self.provenance is None else self.provenance[rows]
        return replace(self.read(numbers), features=self.features, classes=self.classes, provenance=provenance)

    def __repr__(self) -> str:
        return f"Stream({type(self._source).__name__}, {len(self)} rows)"

    def record(self) -> dict[str, Any]:
        """Returns where the examples come from and how many there are, as plain values for JSON."""
        return {"count": len(self)} | ({"source": type(self._source).__name__} if self.provenance is None else self.provenance.record())

    def read(self, rows: np.ndarray) -> Dataset:
        """Reads the examples of an index array, without descriptions and checks."""
        if not self.by_element:
            part = jax.tree.map(lambda array: np.take(array, rows, axis=0), self._arrays)
            for array, memory, offset in self._maps:
                # Otherwise all pages that were read would count as memory of this process until others need it.
                first = offset + int(rows.min()) * array.strides[0]
                last = offset + (int(rows.max()) + 1) * array.strides[0]
                memory.madvise(mmap.MADV_DONTNEED, first - first % mmap.PAGESIZE, last - first + first % mmap.PAGESIZE)
            return part
        numbers = rows.tolist()
        many = getattr(self._source, "__getitems__", None)
        elements = [self._source[number] for number in numbers] if many is None else many(numbers)
        return Dataset(*(pick and _stacked([pick(element) for element in elements]) for pick in self._picks))


def _picks(source: Any, *keys: Any) -> list[Callable[[Any], Any] | None]:
    """Returns functions that take x, y and the weight from an element."""
    element = source[0]
    known = element if isinstance(element, dict) else range(len(element)) if isinstance(element, tuple | list) else ()
    supervised = getattr(getattr(source, "dataset_info", None), "supervised_keys", None)
    defaults = (0, 1) if isinstance(known, range) else supervised or (None, None)
    picks = []
    for name, key, default in zip(("x", "y", "sample_weight"), keys, (*defaults[:2], None), strict=True):
        key = default if key is None else key
        if key is None and name != "sample_weight":
            has = f"with keys {', '.join(map(repr, known))}" if known else type(element).__name__
            raise TypeError(
                f"Stream({name}=...) must say where to find {name} in an element ({has}): pass a key or a function of the element."
            )
        if key is not None and not callable(key) and key not in known:
            raise ValueError(f"Stream({name}={key!r}): {unknown('key', str(key), map(str, known), 'in an element')}")
        picks.append(key if key is None or callable(key) else itemgetter(key))
    return picks


def _stacked(values: list[Any]) -> Any:
    try:
        return jax.tree.map(lambda *parts: np.stack(parts), *values, is_leaf=lambda value: isinstance(value, list))
    except ValueError as error:
        raise ValueError(f"Stream: all elements must have the shape of the first one: pad or crop them. ({error})") from error


def _mapped(array: np.ndarray) -> tuple[mmap.mmap, int] | None:
    """Returns the memory map of an array and the position in it, or None if its pages cannot be given back to the system."""
    base = array
    while isinstance(base, np.ndarray) and getattr(base, "mode", "") != "c":  # in mode "c", changes are kept in memory only
        base = base.base
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED") or not array.flags.c_contiguous:
        return None
    return base, array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data


def _room(rows: int, like: np.ndarray) -> np.ndarray:
    """Allocates memory for rows. It is aligned, so that JAX uses it on a CPU instead of a copy, which would take as long as reading."""
    size = rows * like[:1].nbytes
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(like.dtype).reshape(rows, *like.shape[1:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chunk:
    """The examples of consecutive steps of one epoch, in the order of training. It is padded at the end with rows that are never used."""

    rows: Dataset
    first: Array  # of the steps, counted in the epoch: int32 scalar
    total: int = field(metadata={"static": True})  # the rows of an epoch

    def __len__(self) -> int:
        return self.total


class Feed:
    """Reads the chunks of a run ahead, on threads. It is a context manager that ends the threads.

    Args:
      stream: the examples.
      batch_size: the number of examples in a step.
      epochs: the number of epochs to read.
      prepare: a function that is applied to the examples, on the threads.
      name: what to call the stream in errors.
      key: the root key of the run, which decides the order of the examples. Without it they come in the order of the source.
      replacement: whether each batch is drawn with replacement.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        epochs: int,
        prepare: Callable[[Dataset], Dataset],
        name: str,
        key: Array | None = None,
        replacement: bool = False,
    ):
        self._stream, self._batch_size, self._prepare, self._name = stream, batch_size, prepare, name
        self._key, self._replacement = key, replacement
        self.steps = -(-len(stream) // batch_size)
        self._like = prepare(stream[:1])
        self._row_bytes = max(1, sum(leaf.nbytes for leaf in jax.tree.leaves(self._like)))
        rows = min(CHUNK_BYTES // self._row_bytes, CHUNK_ELEMENTS if stream.by_element else CHUNK_ROWS)
        most = max(1, rows // batch_size)
        chunks = -(-self.steps // most)  # an epoch
        self._length = -(-self.steps // chunks)  # steps a chunk, so that all are about full
        self._chunks, self._last = chunks, epochs * chunks
        self._settings = jax.config.jax_enable_x64, jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        self._ahead, self._readers = ThreadPoolExecutor(1, "chunks"), ThreadPoolExecutor(THREADS, "examples")
        self._reading: dict[int, Future[Chunk]] = {}

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exc: object) -> None:
        self._ahead.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)
        self._ahead.shutdown()

    def at(self, position: int, until: int) -> tuple[Chunk, int]:
        """Returns the chunk that has step `position` of the run, on the device, and `until` or the end of the chunk if that is sooner.

        Raises:
          ValueError: an example is not finite, or is not like the first one.
        """
        epoch, step = divmod(position, self.steps)
        number = epoch * self._chunks + step // self._length
        for passed in [n for n in self._reading if n < number]:
            self._reading.pop(passed).cancel()
        for n in range(number, min(number + 1 + AHEAD, self._last)):
            if n not in self._reading:
                self._reading[n] = self._ahead.submit(self._as_caller, self._read, *self._plan(n))
        end = epoch * self.steps + min((step // self._length + 1) * self._length, self.steps)
        return self._reading[number].result(), min(until, end)

    def pieces(self) -> Iterator[Dataset]:
        """Yields all examples of an epoch, piece by piece."""
        position = 0
        while position < self.steps:
            chunk, end = self.at(position, self.steps)
            rows = min(end * self._batch_size, len(chunk)) - position * self._batch_size
            yield jax.tree.map(lambda array, rows=rows: array[:rows], chunk.rows)
            position = end

    def _plan(self, number: int) -> tuple[int, list[Any], Array | None]:
        """Returns the first step of a chunk and what decides its row numbers, computed on the device before it is busy with a chunk."""
        epoch, part = divmod(number, self._chunks)
        total, size, first = len(self._stream), self._batch_size, part * self._length
        stop = min(first + self._length, self.steps)
        if self._replacement:
            steps = np.arange(first, stop, dtype=np.int32) + epoch * self.steps
            last = min(size, total - (stop - 1) * size)
            return first, [_drawn(self._key, steps[:-1], size, total), _drawn(self._key, steps[-1:], last, total)], None
        keys = None if self._key is None else _round_keys(self._key, epoch, total)
        return first, [np.arange(first * size, min(stop * size, total))], keys

    def _as_caller(self, function: Callable[..., Any], *args: Any) -> Any:
        with jax.enable_x64(self._settings[0]), jax.default_device(self._settings[1]):  # JAX keeps these settings for each thread
            return function(*args)

    def _read(self, first: int, positions: list[Any], keys: Array | None) -> Chunk:
        rows = np.concatenate(positions)
        if keys is not None:
            rows = np.asarray(order.shuffled(rows, np.asarray(keys), len(self._stream)))
        places = np.argsort(rows)  # in the order of the source, in which a disk is fastest and each page is read once
        chunk = jax.tree.map(functools.partial(_room, self._length * self._batch_size), self._like)
        size = max(1, min(TASK_BYTES // self._row_bytes, len(rows) // THREADS))
        parts = [places[start : start + size] for start in range(0, len(rows), size)]
        list(self._readers.map(functools.partial(self._as_caller, self._fill, chunk, rows), parts))
        return jax.device_put(Chunk(chunk, np.int32(first), len(self._stream)))  # pyright: ignore[reportArgumentType]

    def _fill(self, chunk: Dataset, rows: np.ndarray, places: np.ndarray) -> None:
        numbers = rows[places]
        part = self._prepare(self._stream.read(numbers))
        for (path, into), (_, values) in zip(chunk.leaves(), part.leaves(), strict=True):
            if values.shape[1:] != into.shape[1:] or not np.can_cast(values.dtype, into.dtype, "same_kind"):
                found, expected = (f"{array.dtype}{list(array.shape[1:])}" for array in (values, into))
                raise ValueError(f"all examples of {self._name} must be alike: {path} is {found}, but {expected} in the first one.")
            if jnp.issubdtype(values.dtype, jnp.inexact) and not (finite := np.isfinite(values)).all():
                row = numbers[np.nonzero(~finite)[0][0]]
                raise ValueError(f"example {row} of {self._name} has NaN or infinity in {path}: remove the example or fill the value.")
            into[places] = values
