"""Checkpoints of a run, which Orbax writes in the background. Checksums find bits that have changed on the disk.

A checkpoint is a directory whose name is its position in steps. It holds the arrays of the state by path, so that no class of flaxfit or
optax is part of the format, and a description in JSON: shapes, the history, the monitored value, notes, and checksums, one of which is of
the description itself.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import shutil
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.devices.sharding import host, place, raw
from flaxfit.state import RunState

FORMATS = (1, 2, 3)
"""Formats that can be read. The last one is written. In format 2, "same" in the description names arrays that are stored elsewhere."""
Notes = Mapping[str, Any] | None
_one_at_a_time = threading.Lock()  # Orbax mixes up what several threads save at the same time.


class Checkpoints:
    """The checkpoints of one run in a directory. It is a context manager that waits at its end until everything is saved.

    Only one process at a time may use the directory, see `RunDirectory.lock`.

    Args:
      directory: the directory. The first save creates it.
      keep: how many of the newest checkpoints to keep, 1 or more, or None for all. The best one is kept as well, and always two of the
        newest, so that there is an older one if the newest is damaged.
      mode: "min" or "max", whether the monitored value is best when small or large.

    Raises:
      ValueError: `keep` is below 1.

    Example:
      >>> import tempfile
      >>> state = {"w": jax.numpy.arange(3.0), "key": jax.random.key(0)}
      >>> with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
      ...     _ = checkpoints.save(10, state, np.array([[0.5]]), value=0.5, notes={"patience": 3})
      ...     restored, history, position, notes = checkpoints.restore(jax.eval_shape(lambda: state))
      >>> restored["w"].tolist(), restored["key"] == state["key"], history.tolist(), position, notes
      ([0.0, 1.0, 2.0], Array(True, dtype=bool), [[0.5]], 10, {'patience': 3})
    """

    def __init__(self, directory: str | Path, *, keep: int | None = 1, mode: Literal["min", "max"] = "min"):
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1, or None to keep all checkpoints, got {keep}.")
        self.directory, self._keep, self._sign = Path(directory).resolve(), keep, 1 if mode == "min" else -1
        self._link: tempfile.TemporaryDirectory[str] | None = None
        self._saving: int | None = None
        self._importer: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def prepare(self) -> None:
        """Starts to import Orbax on a thread, because that takes a second."""
        self._importer = ThreadPoolExecutor(1)
        self._importer.submit(_orbax)  # If this fails, the first save fails, too.

    def save(self, position: int, state: RunState, history: np.ndarray, value: float, notes: Notes = None, *, wait: bool = False) -> bool:
        """Starts to save a checkpoint. The state has been copied when this returns, so its memory on the device may be donated.

        A save that fails causes a RuntimeWarning at this call, the next one, or `close`. The older checkpoints remain.

        Args:
          position: the number of steps since the start of the run, which names the checkpoint.
          state: the state of the run.
          history: the metrics so far, float64, shape (epochs, columns).
          value: the value of the monitored metric. A value that is not finite is never best.
          notes: what else to keep, as plain values for JSON.
          wait: whether to return only when the checkpoint is on disk. All threads but the main one always wait.

        Returns:
          Whether a save was started, or with `wait`, whether it succeeded. False also if this position is saved already.

        Raises:
          TypeError: JSON cannot hold the notes.
        """
        with _one_at_a_time:
            self._settle()
            if self._path(position).exists():
                return False
            arrays = {name: np.array(host(leaf)) for name, leaf in _named(state).items()} | {"history": np.array(history, np.float64)}
            about = {
                "format": FORMATS[-1],
                "position": position,
                "history": list(arrays["history"].shape),
                "value": float(value) if math.isfinite(value) else None,
                "leaves": {name: _described(leaf) for name, leaf in _named(state).items()},
                "crc32": _checksum(arrays),
                "notes": json.loads(json.dumps(notes or {})),  # as they will be when they are read
            }
            try:
                args = _orbax().args
                self.directory.mkdir(parents=True, exist_ok=True)
                self._sweep()
                size, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(self.directory).free
                if free < size:
                    raise OSError(f"No space left on the disk: it needs up to {size:,} bytes, but {free:,} are free")
                run = args.StandardSave({name: array for name, array in arrays.items() if array.size})  # Orbax takes no empty ones
                saved = args.Composite(run=run, about=args.JsonSave(about | {"seal": _seal(about)}))
                # Without `force`, Orbax skips positions before the newest. It keeps the metrics in memory, for `_is_best`.
                self._manager.save(position, args=saved, metrics={"value": about["value"]}, force=True)
            except Exception as error:
                return self._failed(position, error)
            self._saving = position
            return self._settle() if wait or threading.current_thread() is not threading.main_thread() else True

    def restore(self, like: RunState) -> tuple[RunState, np.ndarray, int, dict[str, Any]] | None:
        """Restores the newest checkpoint that is not damaged. Damaged ones are moved to another directory, with a RuntimeWarning.

        Args:
          like: the structure of the state, with `jax.ShapeDtypeStruct` or arrays as leaves. The restored leaves have their placement.

        Returns:
          The state, the history, the position and the notes, or None if there is no checkpoint.

        Raises:
          ValueError: all checkpoints are damaged, or the newest one has another format or a state of other shapes. Nothing is moved then.
        """
        found = self.read(like)
        return found and (placed(found[0], like), *found[1:])

    def read(self, like: RunState) -> tuple[dict[str, np.ndarray], np.ndarray, int, dict[str, Any]] | None:
        """Does what `restore` does, but returns the state as arrays in the memory of the host, by path."""
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
                raise ValueError(f"the checkpoint {path} does not fit this run: {unlike}. Use the code and the arguments that saved it.")
            if damaged:
                moved = ", ".join(f"{self._path(bad)} ({why}; {self._moved_aside(bad)})" for bad, why in damaged.items())
                warnings.warn(f"damaged checkpoints: {moved}. The run is resumed from the older {path}.", RuntimeWarning, stacklevel=3)
                self._forget()
            return arrays, arrays.pop("history"), position, about.get("notes", {})
        if damaged:
            reasons = "".join(f"\n  {position}: {why}" for position, why in damaged.items())
            raise ValueError(f"every checkpoint in {self.directory} is damaged: move that directory away to start anew.{reasons}")
        return None

    def close(self) -> None:
        """Waits until everything is saved."""
        self._settle()
        self._forget()
        if self._importer is not None:
            self._importer.shutdown()
        if self._link is not None:
            self._link.cleanup()
            self._link = None

    @functools.cached_property
    def _manager(self) -> Any:
        ocp, this = _orbax(), jax.process_index()
        policies, best = ocp.checkpoint_managers, SimpleNamespace(should_preserve=self._is_best)
        several = self._keep and policies.AnyPreservationPolicy([policies.LatestN(max(2, self._keep)), best])
        options = ocp.CheckpointManagerOptions(
            create=False,
            preservation_policy=several or policies.LatestN(),  # all
            lightweight_initialize=True,  # does not read files, one of which may be damaged
            # Otherwise threads wait for many minutes if a directory cannot be created.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            # If there are several processes, this one saves and reads alone.
            multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this}),
        )
        return ocp.CheckpointManager(self._plain_path(), options=options)

    def _plain_path(self) -> Path:
        """The directory by a path that Orbax can take: it globs in `[*?`, and TensorStore reads a backslash as a slash."""
        if not set("[*?\\") & set(str(self.directory)):
            return self.directory
        if self._link is None:
            self._link = tempfile.TemporaryDirectory(prefix="flaxfit-")
            (Path(self._link.name) / "checkpoints").symlink_to(self.directory, target_is_directory=True)
        return Path(self._link.name) / "checkpoints"

    def _is_best(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each checkpoint is the best. Orbax's `BestN` would read the values from a file that has no checksum."""
        values = [self._value(checkpoint) for checkpoint in checkpoints]
        best = values.index(min(values))
        return [index == best and value < math.inf for index, value in enumerate(values)]

    def _value(self, checkpoint: Any) -> float:
        """Returns the monitored value, signed so that smaller is better."""
        try:
            return self._sign * (checkpoint.metrics or self._about(checkpoint.step))["value"]
        except Exception:  # None, or a damaged description
            return math.inf

    def _forget(self) -> None:
        """Closes the manager of Orbax, whose list of checkpoints is wrong after a failure. The next one reads the directory again."""
        if manager := vars(self).pop("_manager", None):
            with suppress(Exception):  # It raises the error of the failed save again.
                manager.close()

    def _settle(self) -> bool:
        """Waits for the current save, and returns whether it succeeded."""
        position, self._saving = self._saving, None
        if position is not None:
            try:
                self._manager.wait_until_finished()
            except Exception as error:
                return self._failed(position, error)
        return True

    def _failed(self, position: int, error: Exception) -> bool:
        self._forget()
        self._sweep()
        if self._path(position).exists():  # Only the deletion of older ones has failed.
            return True
        newest = f"the newest one is {self._path(self._positions()[-1])}" if self._positions() else "there is none yet"
        message = f"checkpoint {self._path(position)} was not saved ({_in_short(error)}); {newest}. Training continues."
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return False

    def _sweep(self) -> None:
        """Deletes the remains of saves that failed or were killed. Orbax would do that later, on a thread."""
        for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)

    def _path(self, position: int) -> Path:
        return self.directory / str(position)

    def _positions(self) -> list[int]:
        return sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdecimal())

    def _about(self, position: int) -> dict[str, Any]:
        about = json.loads((self._path(position) / "about" / "metadata").read_bytes())
        if about.pop("seal") != _seal(about):
            raise ValueError("the checksum of its description is wrong")
        return about

    def _arrays(self, position: int, about: Mapping[str, Any], like: RunState) -> dict[str, np.ndarray]:
        args, same = _orbax().args, about.get("same", {})
        wanted = unfilled(like)
        arrays = {name: wanted[name] if name in wanted else _empty(described) for name, described in about["leaves"].items()}
        for name, other in same.items():
            if other in same or about["leaves"][name] != about["leaves"][other]:
                raise ValueError(f"its description gives {name!r} the bytes of {other!r}, which cannot be")
            del arrays[name]
        arrays["history"] = np.empty(about["history"])
        run = args.StandardRestore({name: array for name, array in arrays.items() if array.size})
        arrays |= self._manager.restore(position, args=args.Composite(run=run))["run"]
        if _checksum(arrays) != about["crc32"]:
            raise ValueError("the checksum of its arrays is wrong")
        arrays |= {name: arrays[other].copy() for name, other in same.items()}  # copies, because the device may use an array's memory
        return {name: arrays[name] for name in (*wanted, "history")}

    def _moved_aside(self, position: int) -> str:
        home = self.directory.with_name(f"{self.directory.name}-damaged")
        free = next(path for number in itertools.count(1) if not (path := home / f"{position}-{number}").exists())
        try:
            home.mkdir(exist_ok=True)
            self._path(position).rename(free)
        except OSError as error:
            return f"could not be moved aside: {error}"
        return f"moved to {free}"


@functools.cache
def _orbax() -> Any:
    """Imports Orbax, which takes a second, and silences the tracebacks that it prints for failures which are reported as warnings."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
    show = sys.unraisablehook
    # If one array cannot be written or read, the others find Orbax's event loop closed.
    sys.unraisablehook = lambda it: None if it.object is None and str(it.exc_value) == "Event loop is closed" else show(it)
    return ocp


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unfilled(like: RunState) -> dict[str, np.ndarray]:
    """Allocates arrays in the memory of the host for those of a state, by path."""
    shapes = {name: jax.eval_shape(raw, leaf) for name, leaf in _named(like).items()}
    return {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}


def placed(arrays: Mapping[str, np.ndarray], like: RunState) -> RunState:
    """Returns the state that `arrays` hold, each of them placed where `like` says."""
    return jax.tree.unflatten(jax.tree.structure(like), [place(arrays[name], leaf) for name, leaf in _named(like).items()])


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _empty(described: str) -> np.ndarray:
    """Allocates an array of a type and a shape that `_described` returned."""
    dtype, _, shape = described.partition("[")
    return np.empty(json.loads(f"[{shape}"), jnp.dtype(dtype))


def _unlike(about: Mapping[str, Any], like: RunState) -> str:
    """Returns how a checkpoint differs from the state that is asked for, or "" if it does not."""
    if about["format"] not in FORMATS:
        return f"its format is {about['format']}, and this version of flaxfit reads the formats {', '.join(map(str, FORMATS))}"
    saved, asked = about["leaves"], {name: _described(leaf) for name, leaf in _named(like).items()}
    # States of formats 1 and 2 also held the last finite weights.
    dropped = {name for name in saved if about["format"] < 3 and name.startswith(".finite") and name not in asked}
    names = [name for name in saved | asked if saved.get(name) != asked.get(name) and name not in dropped]
    lines = [f"{name} is {saved.get(name, 'missing')} in the checkpoint and {asked.get(name, 'missing')} here" for name in names[:3]]
    return "; ".join([*lines, f"and {len(names) - 3} more"] if len(names) > 3 else lines)


def _seal(about: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """Returns the checksum of all bytes, in the order of the names. The names, types and shapes are in the description."""
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data, crc)
    return crc


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
