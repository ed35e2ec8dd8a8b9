"""Checkpoints of a run: saved by Orbax in the background, verified by a checksum of our own.

Orbax notices missing and truncated files, but hands out flipped bits as they are. A checkpoint is a directory called by its position;
it holds the arrays as a flat mapping from path to array, so that no class of ours or of optax's is part of the format. Arrays of the same
bytes are there once: at the end of an epoch a run's last finite weights are its current ones. "same" in the description names the others.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import logging
import math
import os
import shutil
import sys
import threading
import warnings
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

import jax
import numpy as np

from flaxfit.devices.sharding import host, place, raw
from flaxfit.state import RunState

FORMATS = (1, 2)
"""2: arrays of the same bytes are there once. Without such, 1 is written."""
_one_at_a_time = threading.Lock()  # Orbax mixes up what several threads save


class Checkpoints:
    """The checkpoints in a directory, of one run; a context manager, which waits for saves under way at its end.

    One process at a time: `RunDirectory.lock`.

    Args:
      directory: made by the first save.
      keep: how many of the newest to keep besides the best, 1 or more; None: all. Where the newest is the best, the one before it is
        kept too: there is always one to fall back to.
      mode: whether the monitored value is best when small or large.

    Raises:
      ValueError: `keep` below 1.

    Example:
      >>> import tempfile
      >>> state = {"w": jax.numpy.arange(3.0), "key": jax.random.key(0)}
      >>> with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
      ...     _ = checkpoints.save(10, state, np.array([[0.5]]), value=0.5)
      ...     restored, history, position = checkpoints.restore(jax.eval_shape(lambda: state))
      >>> restored["w"].tolist(), restored["key"] == state["key"], history.tolist(), position
      ([0.0, 1.0, 2.0], Array(True, dtype=bool), [[0.5]], 10)
    """

    def __init__(self, directory: str | Path, *, keep: int | None = 1, mode: Literal["min", "max"] = "min"):
        if keep is not None and keep < 1:
            raise ValueError(f"Checkpoints(keep=...) must be at least 1, or None for all, got {keep}.")
        self.directory, self._keep, self._sign = Path(directory).resolve(), keep, 1 if mode == "min" else -1
        self._saving: int | None = None
        self._values: dict[int, float | None] = {}
        self._importer: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def prepare(self) -> None:
        """Begins to import Orbax, on a thread that `close` waits for: else the first save takes that second."""
        self._importer = ThreadPoolExecutor(1)
        self._importer.submit(_orbax)  # a failure shows at the first save

    def save(self, position: int, state: RunState, history: np.ndarray, value: float, notes: Any = None, *, wait: bool = False) -> bool:
        """Begins to save; what is on the device has been copied when this returns, and may be given away.

        A save that fails costs a RuntimeWarning, at this call, the next or `close`, and nothing else: older checkpoints stay.

        Args:
          position: steps done in the whole run: the checkpoint's name.
          state: where the run stands.
          history: the metrics so far, float64, shape (epochs, columns).
          value: the monitored metric. Never best where it is not finite.
          wait: return when it is on disk; so in any thread but the main one.

        Returns:
          Whether a save began (with `wait`: was done); False also where this position is saved already.
        """
        if threading.current_thread() is threading.main_thread():
            return self._save(position, state, history, value, notes, wait)
        with _one_at_a_time:
            return self._save(position, state, history, value, notes, wait=True)

    def _save(self, position: int, state: RunState, history: np.ndarray, value: float, notes: Any, wait: bool) -> bool:
        self._settle()
        if self._path(position).exists():
            return False
        arrays = {name: np.array(host(leaf)) for name, leaf in _named(state).items()}
        same = _same(arrays)
        arrays = {name: array for name, array in arrays.items() if name not in same} | {"history": np.array(history, np.float64)}
        about: dict[str, Any] = {
            "format": 2 if same else 1,
            "position": position,
            "history": list(arrays["history"].shape),
            "value": float(value) if math.isfinite(value) else None,
            "leaves": {name: _described(leaf) for name, leaf in _named(state).items()},
            "crc32": _checksum(arrays),
            "notes": dict(notes or {}),
        } | ({"same": same} if same else {})
        try:
            args = _orbax().args
            run = args.StandardSave({name: array for name, array in arrays.items() if array.size})  # Orbax takes no empty ones
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            size, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(self.directory).free
            if free < size:
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: it needs up to {size:,} bytes, {free:,} are free")
            self._checkpointer.save(self._path(position), args=args.Composite(run=run, about=args.JsonSave(about | {"seal": _seal(about)})))
        except Exception as error:
            self._failed(position, error)
            return False
        self._saving, self._values[position] = position, about["value"]
        return self._settle() if wait else True

    def restore(self, like: RunState) -> tuple[RunState, np.ndarray, int] | None:
        """The newest whole checkpoint. Damaged newer ones are moved aside, to a directory beside this one, with a RuntimeWarning.

        Args:
          like: the state's structure, with `jax.ShapeDtypeStruct` or arrays as leaves; leaves are placed as theirs are.

        Returns:
          State, history and position; None where there is no checkpoint.

        Raises:
          ValueError: all are damaged; or one is of another format, or holds a state of other shapes. Nothing is moved then.
        """
        found = self.read(like)
        return found and (placed(found[0], like), *found[1:])

    def read(self, like: RunState) -> tuple[dict[str, np.ndarray], np.ndarray, int] | None:
        """As `restore`, with the state as `placed` takes it: by path, in memory."""
        self._settle()
        damaged: dict[int, str] = {}
        for position in reversed(self._positions()):
            path = self._path(position)
            try:
                about = self._about(position)
                if not (unlike := _unlike(about, like)):
                    arrays = self._arrays(position, about, like)
            except Exception as error:
                damaged[position] = _in_short(error)
                continue
            if unlike:
                raise ValueError(f"the checkpoint {path} is not of this run's state: {unlike}. Use the code and settings that saved it.")
            if damaged:
                moved = ", ".join(f"{self._path(bad)} ({why}; {self._moved_aside(bad)})" for bad, why in damaged.items())
                warnings.warn(f"damaged: {moved}. The run goes on from the older {path}.", RuntimeWarning, stacklevel=3)
            return arrays, arrays.pop("history"), position, about.get("notes", {})
        if damaged:
            reasons = "".join(f"\n  {position}: {why}" for position, why in damaged.items())
            raise ValueError(f"every checkpoint in {self.directory} is damaged; to start anew, move that directory away.{reasons}")
        return None

    def close(self) -> None:
        """Waits for saves under way."""
        try:
            self._settle()
        finally:
            if "_checkpointer" in vars(self):
                vars(self).pop("_checkpointer").close()
            if self._importer is not None:
                self._importer.shutdown()

    @functools.cached_property
    def _checkpointer(self) -> Any:
        ocp = _orbax()
        # Else threads wait many minutes for a directory that cannot be made.
        first = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        # Where there are several processes, this one saves and reads by itself.
        alone = ocp.options.MultiprocessingOptions(primary_host=jax.process_index(), active_processes={jax.process_index()})
        handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(alone))
        return ocp.AsyncCheckpointer(handler, async_options=first, multiprocessing_options=alone)

    def _path(self, position: int) -> Path:
        return self.directory / str(position)

    def _positions(self) -> list[int]:
        return sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdecimal())

    def _settle(self) -> bool:
        """Waits for the save under way, then deletes what is not to be kept; whether that save was done."""
        if self._saving is None:
            return True
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            position, self._saving = self._saving, None
            self._failed(position, error)
            return False
        self._saving = None
        self._prune()
        return True

    def _failed(self, position: int, error: Exception) -> None:
        self._sweep()
        newest = f"the newest is {self._path(self._positions()[-1])}" if self._positions() else "there is none yet"
        message = f"checkpoint {self._path(position)} was not saved ({_in_short(error)}); {newest}. Training goes on."
        warnings.warn(message, RuntimeWarning, stacklevel=3)

    def _sweep(self) -> None:
        """Deletes what failed and killed saves left."""
        for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)

    def _prune(self) -> None:
        if self._keep is None:
            return
        positions = self._positions()
        for position in positions:
            if position not in self._values:
                try:
                    self._values[position] = self._about(position)["value"]
                except Exception:  # damaged: not best
                    self._values[position] = None
        ranked = [(self._sign * value, position) for position in positions if (value := self._values[position]) is not None]
        best = min(ranked)[1] if ranked else None
        others = [position for position in positions if position != best]
        for position in others[: -self._keep]:
            shutil.rmtree(self._path(position), ignore_errors=True)

    def _about(self, position: int) -> dict[str, Any]:
        args = _orbax().args
        about = dict(self._checkpointer.restore(self._path(position), args=args.Composite(about=args.JsonRestore()))["about"])
        if about.pop("seal") != _seal(about):
            raise ValueError("the checksum of its description differs")
        return about

    def _arrays(self, position: int, about: Mapping[str, Any], like: RunState) -> dict[str, np.ndarray]:
        args, same, arrays = _orbax().args, about.get("same", {}), unfilled(like)
        kinds = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        for name, other in same.items():
            if other in same or name not in kinds or kinds[name] != kinds.get(other):
                raise ValueError(f"its description gives {name!r} the bytes of {other!r}, which cannot be")
            del arrays[name]
        arrays["history"] = np.empty(about["history"])
        run = args.StandardRestore({name: array for name, array in arrays.items() if array.size})
        arrays |= self._checkpointer.restore(self._path(position), args=args.Composite(run=run))["run"]
        if _checksum(arrays) != about["crc32"]:
            raise ValueError("the checksum of its arrays differs")
        arrays |= {name: arrays[other].copy() for name, other in same.items()}  # the device may keep an array's memory
        return arrays

    def _moved_aside(self, position: int) -> str:
        home = self.directory.with_name(f"{self.directory.name}-damaged")
        free = next(path for number in itertools.count(1) if not (path := home / f"{position}-{number}").exists())
        try:
            home.mkdir(exist_ok=True)
            self._path(position).rename(free)
        except OSError as error:
            return f"could not be moved aside: {error}"
        return f"moved to {free}"


_importing = threading.Lock()


def _orbax() -> Any:
    """Orbax's module, which takes a second to import; where another thread is at it, waits."""
    with _importing:
        return _imported()


@functools.cache
def _imported() -> Any:
    """The module, without the tracebacks it prints of failures that we warn of."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
    show = sys.unraisablehook

    def callback(unraisable: Any) -> None:
        # Where one array cannot be written or read, the others find Orbax's event loop closed.
        if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = callback
    return ocp


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unfilled(like: RunState) -> dict[str, np.ndarray]:
    """Arrays in memory for a state's, by path."""
    shapes = {name: jax.eval_shape(raw, leaf) for name, leaf in _named(like).items()}
    return {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}


def placed(arrays: Mapping[str, np.ndarray], like: RunState) -> RunState:
    """The state that `arrays` hold, each where `like` says."""
    return jax.tree.unflatten(jax.tree.structure(like), [place(arrays[name], leaf) for name, leaf in _named(like).items()])


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _unlike(about: Mapping[str, Any], like: RunState) -> str:
    """How a checkpoint differs from what is asked for; empty where it does not."""
    if about["format"] not in FORMATS:
        return f"format {about['format']}, and this flaxfit reads formats {' and '.join(map(str, FORMATS))}"
    saved, asked = about["leaves"], {name: _described(leaf) for name, leaf in _named(like).items()}
    names = [name for name in saved | asked if saved.get(name) != asked.get(name)]
    lines = [f"{name} is {saved.get(name, 'missing')} there and {asked.get(name, 'missing')} here" for name in names[:3]]
    return "; ".join([*lines, f"and {len(names) - 3} more"] if len(names) > 3 else lines)


def _same(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The name of each array that equals an earlier one, bit for bit -> the first such name."""
    first: dict[Any, str] = {}
    same: dict[str, str] = {}
    for name, array in arrays.items():
        other = first.setdefault((array.dtype, array.shape, _crc(array)), name)
        if other != name and np.array_equal(_bytes(array), _bytes(arrays[other])):
            same[name] = other
    return same


def _seal(about: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """Of all bytes, in the order of the names. Names, types and shapes are in the description, which has its own."""
    crc = 0
    for name in sorted(arrays):
        crc = _crc(arrays[name], crc)
    return crc


def _crc(array: np.ndarray, crc: int = 0) -> int:
    return zlib.crc32(_bytes(array).data, crc)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
