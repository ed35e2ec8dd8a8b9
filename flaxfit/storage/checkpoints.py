"""Checkpoints of a run. Orbax writes them in the background and deletes old ones; a checksum of our own finds flipped bits.

A checkpoint is a directory named after its position. It holds the arrays of the state by path, so that no class of flaxfit or optax is
part of the format, and a description in JSON: shapes, history, the monitored value, notes, and checksums, the last of them of itself.
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
"""Formats that can be read; the last is written. In format 2, "same" in the description names arrays that are stored under another name."""
Notes = Mapping[str, Any] | None
_one_at_a_time = threading.Lock()  # Orbax mixes up what several threads save


class Checkpoints:
    """The checkpoints of one run in a directory; a context manager, which waits for saves under way at its end.

    Only one process at a time may use the directory: see `RunDirectory.lock`.

    Args:
      directory: made by the first save.
      keep: how many of the newest checkpoints to keep, 1 or more; None keeps all. The best one is kept besides, and never fewer than two
        of the newest, so that there is always one to fall back to.
      mode: whether the monitored value is best when small or large.

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
            raise ValueError(f"Checkpoints(keep=...) must be at least 1, or None for all, got {keep}.")
        self.directory, self._keep, self._sign = Path(directory).resolve(), keep, 1 if mode == "min" else -1
        self._link: tempfile.TemporaryDirectory[str] | None = None
        self._saving: int | None = None
        self._importer: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def prepare(self) -> None:
        """Begins to import Orbax, which takes a second, on a thread that `close` waits for."""
        self._importer = ThreadPoolExecutor(1)
        self._importer.submit(_orbax)  # a failure shows at the first save

    def save(self, position: int, state: RunState, history: np.ndarray, value: float, notes: Notes = None, *, wait: bool = False) -> bool:
        """Begins to save. What is on the device has been copied when this returns, so that its memory may be donated.

        A save that fails costs a RuntimeWarning, at this call, the next one, or `close`, and nothing else: older checkpoints stay.

        Args:
          position: steps done in the whole run: the checkpoint's name.
          state: where the run stands.
          history: the metrics so far, float64, shape (epochs, columns).
          value: the monitored metric. A value that is not finite is never best.
          notes: more to keep, as plain values for JSON.
          wait: return when the checkpoint is on disk. Any thread but the main one always waits.

        Returns:
          Whether a save began, or with `wait` was done. False also where this position is saved already.

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
                "notes": json.loads(json.dumps(notes or {})),  # as they will be read
            }
            try:
                args = _orbax().args
                self.directory.mkdir(parents=True, exist_ok=True)
                self._sweep()
                size, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(self.directory).free
                if free < size:
                    raise OSError(f"No space left on the disk: it needs up to {size:,} bytes, {free:,} are free")
                run = args.StandardSave({name: array for name, array in arrays.items() if array.size})  # Orbax takes no empty ones
                saved = args.Composite(run=run, about=args.JsonSave(about | {"seal": _seal(about)}))
                # Without `force`, Orbax skips positions before the newest. It keeps the metrics in memory, for `_is_best`.
                self._manager.save(position, args=saved, metrics={"value": about["value"]}, force=True)
            except Exception as error:
                return self._failed(position, error)
            self._saving = position
            return self._settle() if wait or threading.current_thread() is not threading.main_thread() else True

    def restore(self, like: RunState) -> tuple[RunState, np.ndarray, int, dict[str, Any]] | None:
        """Restores the newest whole checkpoint. Damaged newer ones are moved to a directory beside this one, with a RuntimeWarning.

        Args:
          like: the state's structure, with `jax.ShapeDtypeStruct` or arrays as leaves; leaves are placed as theirs are.

        Returns:
          State, history, position and notes; None where there is no checkpoint.

        Raises:
          ValueError: all are damaged; or one is of another format, or holds a state of other shapes. Nothing is moved then.
        """
        found = self.read(like)
        return found and (placed(found[0], like), *found[1:])

    def read(self, like: RunState) -> tuple[dict[str, np.ndarray], np.ndarray, int, dict[str, Any]] | None:
        """Does as `restore`, with the state as `placed` takes it: arrays in memory by path."""
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
                self._forget()
            return arrays, arrays.pop("history"), position, about.get("notes", {})
        if damaged:
            reasons = "".join(f"\n  {position}: {why}" for position, why in damaged.items())
            raise ValueError(f"every checkpoint in {self.directory} is damaged; to start anew, move that directory away.{reasons}")
        return None

    def close(self) -> None:
        """Waits for saves under way."""
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
            lightweight_initialize=True,  # reads no files: one may be damaged
            # Otherwise threads wait many minutes for a directory that cannot be made.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            # Where there are several processes, this one saves and reads by itself.
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
        """Whether to keep each checkpoint. Orbax's `BestN` reads values from a file that no checksum protects and that old formats lack."""
        values = [self._value(checkpoint) for checkpoint in checkpoints]
        best = values.index(min(values))
        return [index == best and value < math.inf for index, value in enumerate(values)]

    def _value(self, checkpoint: Any) -> float:
        """The monitored value, smaller is better."""
        try:
            return self._sign * (checkpoint.metrics or self._about(checkpoint.step))["value"]
        except Exception:  # None, or a damaged description
            return math.inf

    def _forget(self) -> None:
        """Closes Orbax's manager, whose list of what is on disk is wrong after a failure. The next one looks anew."""
        if manager := vars(self).pop("_manager", None):
            with suppress(Exception):  # of the failed save, again
                manager.close()

    def _settle(self) -> bool:
        """Waits for the save under way; returns whether it was done."""
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
        if self._path(position).exists():  # only the deletion of older ones failed
            return True
        newest = f"the newest is {self._path(self._positions()[-1])}" if self._positions() else "there is none yet"
        message = f"checkpoint {self._path(position)} was not saved ({_in_short(error)}); {newest}. Training goes on."
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return False

    def _sweep(self) -> None:
        """Deletes what failed and killed saves left. Orbax would when it makes a manager, and then some time later, on a thread."""
        for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)

    def _path(self, position: int) -> Path:
        return self.directory / str(position)

    def _positions(self) -> list[int]:
        return sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdecimal())

    def _about(self, position: int) -> dict[str, Any]:
        about = json.loads((self._path(position) / "about" / "metadata").read_bytes())
        if about.pop("seal") != _seal(about):
            raise ValueError("the checksum of its description differs")
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
            raise ValueError("the checksum of its arrays differs")
        arrays |= {name: arrays[other].copy() for name, other in same.items()}  # the device may keep an array's memory
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
    """Orbax's module, which takes a second to import, without the tracebacks it prints of failures that we warn of."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
    show = sys.unraisablehook
    # Where one array cannot be written or read, the others find Orbax's event loop closed.
    sys.unraisablehook = lambda it: None if it.object is None and str(it.exc_value) == "Event loop is closed" else show(it)
    return ocp


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unfilled(like: RunState) -> dict[str, np.ndarray]:
    """Returns arrays in memory for those of a state, by path."""
    shapes = {name: jax.eval_shape(raw, leaf) for name, leaf in _named(like).items()}
    return {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}


def placed(arrays: Mapping[str, np.ndarray], like: RunState) -> RunState:
    """Returns the state that `arrays` hold, each of them placed where `like` says."""
    return jax.tree.unflatten(jax.tree.structure(like), [place(arrays[name], leaf) for name, leaf in _named(like).items()])


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _empty(described: str) -> np.ndarray:
    """An array in memory of a shape as `_described` writes it."""
    dtype, _, shape = described.partition("[")
    return np.empty(json.loads(f"[{shape}"), jnp.dtype(dtype))


def _unlike(about: Mapping[str, Any], like: RunState) -> str:
    """How a checkpoint differs from what is asked for; empty where it does not."""
    if about["format"] not in FORMATS:
        return f"format {about['format']}, and this flaxfit reads formats {' and '.join(map(str, FORMATS))}"
    saved, asked = about["leaves"], {name: _described(leaf) for name, leaf in _named(like).items()}
    # States of formats 1 and 2 held the last weights that were finite.
    dropped = {name for name in saved if about["format"] < 3 and name.startswith(".finite") and name not in asked}
    names = [name for name in saved | asked if saved.get(name) != asked.get(name) and name not in dropped]
    lines = [f"{name} is {saved.get(name, 'missing')} there and {asked.get(name, 'missing')} here" for name in names[:3]]
    return "; ".join([*lines, f"and {len(names) - 3} more"] if len(names) > 3 else lines)


def _seal(about: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """The checksum of all bytes, in the order of the names. Names, types, and shapes are in the description, which has its own."""
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data, crc)
    return crc


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
