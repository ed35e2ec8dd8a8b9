"""Checkpoints of a run, which Orbax writes on a thread. Checksums find bits that have changed on the disk.

A checkpoint is a directory whose name is its position in steps. It gets this name when it is complete: read back, compared with what was
to be saved, and on the disk. Only then are older ones deleted. It holds the arrays of the state by path, so that no class of flaxfit or
optax is part of the format, and a description in JSON: shapes, the history, the monitored value, notes, and checksums, one of which is of
the description itself.

If the state is spread over several processes, each of them writes and reads its own parts, in a directory that all of them see. Training
waits for that, because all of them must agree that everything is written. Any number of processes can read the checkpoints of any other.
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
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.devices.distributed import ALONE, Team
from flaxfit.devices.sharding import host, place, raw
from flaxfit.durable import clean, make_directory, scratch, sync, sync_tree
from flaxfit.state import RunState
from flaxfit.storage import shards
from flaxfit.storage.directory import checksum_of_rows, seal

FORMATS = (1, 2, 3, 4)
"""Formats that can be read. One process writes 3, several together write 4, which has checksums of each array's parts in "parts".
In format 2, "same" in the description names arrays that are stored elsewhere."""
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
      run: the identity of the run, or None for a run that was started before runs had one.
      team: the processes that the state is spread over, all of which call the same methods in the same order. By default this one alone.

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

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int | None = 1,
        mode: Literal["min", "max"] = "min",
        run: str | None = None,
        team: Team = ALONE,
    ):
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1, or None to keep all checkpoints, got {keep}.")
        self.directory, self._keep, self._sign, self._run = Path(directory).resolve(), keep, 1 if mode == "min" else -1, run
        self._team = team
        self._link: tempfile.TemporaryDirectory[str] | None = None
        self._saving: tuple[int, Future[None]] | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoints")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def prepare(self) -> None:
        """Starts to import Orbax on a thread, because that takes a second."""
        self._thread.submit(_orbax)  # If this fails, the first save fails, too.

    def save(self, position: int, state: RunState, history: np.ndarray, value: float, notes: Notes = None, *, wait: bool = False) -> bool:
        """Starts to save a checkpoint. The state has been copied when this returns, so its memory on the device may be donated.

        A save that fails causes a RuntimeWarning at this call, the next one, or `close`. The older checkpoints remain.

        Args:
          position: the number of steps since the start of the run, which names the checkpoint.
          state: the state of the run.
          history: the metrics so far, float64, shape (epochs, columns).
          value: the value of the monitored metric. A value that is not finite is never best.
          notes: what else to keep, as plain values for JSON.
          wait: whether to return only when the checkpoint is on disk.

        Returns:
          Whether a save was started, or with `wait`, whether it succeeded. False also if this position is saved already.

        Raises:
          TypeError: JSON cannot hold the notes.
        """
        self._settle()
        if self._team.gather(self._path(position).exists())[0]:
            return False
        alone, leaves = self._team.size == 1, _named(state)
        arrays: dict[str, Any] = {name: np.array(host(leaf)) if alone else raw(leaf) for name, leaf in leaves.items()}
        arrays["history"] = np.array(history, np.float64)
        filled = {name: array for name, array in arrays.items() if array.size}  # Orbax takes no empty ones
        about = {
            "format": 3 if alone else 4,
            "run": self._run,
            "position": position,
            "history": list(arrays["history"].shape),
            "rows": checksum_of_rows(arrays["history"]),
            "value": float(value) if math.isfinite(value) else None,
            "leaves": {name: _described(leaf) for name, leaf in leaves.items()},
            **({"crc32": _checksum(arrays)} if alone else {"parts": shards.checksums(filled, self._team)}),
            "notes": json.loads(json.dumps(notes or {})),  # as they will be when they are read
        }
        if alone:
            self._saving = position, self._thread.submit(self._write, position, filled, about)
            return self._settle() if wait else True
        try:
            self._write(position, filled, about)
        except jax.errors.JaxRuntimeError:  # another process was lost
            raise
        except Exception as error:
            if self._team.leads:
                self._warn(position, error)
            return False
        return True

    def restore(self, like: RunState) -> tuple[RunState, np.ndarray, int, dict[str, Any]] | None:
        """Restores the newest checkpoint that is not damaged. Damaged ones are moved to another directory, with a RuntimeWarning.

        Args:
          like: the structure of the state, with `jax.ShapeDtypeStruct` or arrays as leaves. The restored leaves have their placement.

        Returns:
          The state, the history, the position and the notes, or None if there is no checkpoint.

        Raises:
          ValueError: all checkpoints are damaged, or the newest one belongs to another run, or has another format or a state of other
            shapes. Nothing is moved then.
        """
        found = self.read(like)
        return found and (placed(found[0], like), *found[1:])

    def read(self, like: RunState) -> tuple[dict[str, Any], np.ndarray, int, dict[str, Any]] | None:
        """Does what `restore` does, but returns the state as arrays by path: in the memory of the host, or of several processes on disk."""
        self._settle()
        damaged: dict[int, str] = {}
        positions = np.array(self._positions(), int)
        positions = self._team.from_first(np.resize(positions, self._team.gather(len(positions))[0]))
        for position in reversed(positions.tolist()):
            path, unlike, failure, about, arrays = self._path(position), "", None, {}, {}
            try:
                about = self._about(path)
                if not (unlike := self._foreign(about) or _unlike(about, like)):
                    arrays = self._arrays(path, about, like)
            except Exception as error:
                failure = error
            failed = np.flatnonzero(self._team.gather(failure is not None))
            if len(failed):
                damaged[position] = f"process {failed[0]} cannot read it" if failure is None else _in_short(failure)
                continue
            if unlike:
                raise ValueError(f"the checkpoint {path} does not fit this run: {unlike}. Use the code and the arguments that saved it.")
            if damaged and self._team.leads:
                moved = ", ".join(f"{self._path(bad)} ({why}; {self._moved_aside(bad)})" for bad, why in damaged.items())
                warnings.warn(f"damaged checkpoints: {moved}. The run is resumed from the older {path}.", RuntimeWarning, stacklevel=3)
            return arrays, arrays.pop("history"), position, about.get("notes", {})
        if damaged:
            reasons = "".join(f"\n  {position}: {why}" for position, why in damaged.items())
            raise ValueError(f"every checkpoint in {self.directory} is damaged: move that directory away to start anew.{reasons}")
        return None

    def owner(self) -> tuple[str | None] | None:
        """Returns the identity of the run that saved the newest readable checkpoint, as a tuple of one; or None if there is none."""
        for position in reversed(self._positions()):
            with suppress(Exception):
                return (self._about(self._path(position)).get("run"),)
        return None

    def saved(self) -> bool:
        """Returns whether there is a checkpoint, readable or not."""
        return bool(self._positions())

    def close(self) -> None:
        """Waits until everything is saved."""
        self._settle()
        self._thread.shutdown()
        if self._link is not None:
            self._link.cleanup()
            self._link = None

    def _foreign(self, about: Mapping[str, Any]) -> str:
        return "" if about.get("run") == self._run else "it belongs to another run"

    def _write(self, position: int, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Writes a checkpoint and, when it is safe, deletes older ones."""
        args, team = _orbax().args, self._team
        with ExitStack() as stack:
            name = ""
            with team.together():
                if team.leads:
                    make_directory(self.directory)
                    self._sweep()
                    size, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(self.directory).free
                    if free < size:
                        raise OSError(f"No space left on the disk: it needs up to {size:,} bytes, but {free:,} are free")
                    name = stack.enter_context(scratch(self.directory)).name
            name = bytes(team.from_first(np.frombuffer(name.ljust(32).encode(), np.uint8))).decode().strip()
            new = self.directory / name / str(position)
            saved = args.Composite(run=args.StandardSave(dict(arrays)), about=args.JsonSave({**about, "seal": seal(about)}))
            with team.together(), _one_at_a_time, _as_failure():
                _checkpointer(team).save(self._plain(new), args=saved)
                if team.size == 1:
                    self._stored(new, self._about(new), {name: np.empty_like(array) for name, array in arrays.items()})
                else:
                    _check(shards.opened(self._plain(new) / "run", arrays), self._about(new), team)
                if (own := new if team.leads else new / "run" / f"ocdbt.process_{team.index}").exists():
                    sync_tree(own)
            with team.together():
                if team.leads:
                    new.rename(self._path(position))
                    sync(self.directory)
        if team.leads:
            with suppress(OSError):  # The next save tries again.
                self._delete()

    def _delete(self) -> None:
        """Deletes the checkpoints that are not to be kept."""
        positions = self._positions()
        if self._keep is None:
            return
        values = [self._value(position) for position in positions]
        best = positions[values.index(min(values))]
        kept = {*positions[-max(2, self._keep) :], *([best] if min(values) < math.inf else [])}
        with scratch(self.directory) as place:
            for position in positions:
                if position not in kept:
                    self._path(position).rename(place / str(position))

    def _value(self, position: int) -> float:
        """Returns the monitored value, signed so that smaller is better; infinity if it is not finite, or its description is damaged."""
        with suppress(Exception):
            if (value := self._about(self._path(position))["value"]) is not None:
                return self._sign * value
        return math.inf

    def _plain(self, path: Path) -> Path:
        """Returns a path that Orbax can take: it globs in `[*?`, and TensorStore reads a backslash as a slash."""
        if not set("[*?\\") & set(str(self.directory)):
            return path
        if self._link is None:
            self._link = tempfile.TemporaryDirectory(prefix="flaxfit-")
            (Path(self._link.name) / "checkpoints").symlink_to(self.directory, target_is_directory=True)
        return Path(self._link.name) / "checkpoints" / path.relative_to(self.directory)

    def _settle(self) -> bool:
        """Waits for the current save, and returns whether it succeeded."""
        if self._saving is None:
            return True
        (position, done), self._saving = self._saving, None
        try:
            done.result()
        except Exception as error:
            self._warn(position, error)
            return False
        return True

    def _warn(self, position: int, error: Exception) -> None:
        newest = f"the newest one is {self._path(self._positions()[-1])}" if self._positions() else "there is none yet"
        message = f"checkpoint {self._path(position)} was not saved ({_in_short(error)}); {newest}. Training continues."
        warnings.warn(message, RuntimeWarning, stacklevel=4)

    def _sweep(self) -> None:
        """Deletes what killed processes left, also of versions that let Orbax name it."""
        clean(self.directory, 0)
        for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)

    def _path(self, position: int) -> Path:
        return self.directory / str(position)

    def _positions(self) -> list[int]:
        return sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdecimal())

    def _about(self, path: Path) -> dict[str, Any]:
        about = json.loads((path / "about" / "metadata").read_bytes())
        if about.pop("seal") != seal(about):
            raise ValueError("the checksum of its description is wrong")
        return about

    def _arrays(self, path: Path, about: Mapping[str, Any], like: RunState) -> dict[str, Any]:
        same, wanted = about.get("same", {}), unfilled(like)
        arrays = {name: wanted[name] if name in wanted else _empty(described) for name, described in about["leaves"].items()}
        for name, other in same.items():
            if other in same or about["leaves"][name] != about["leaves"][other]:
                raise ValueError(f"its description gives {name!r} the bytes of {other!r}, which cannot be")
            del arrays[name]
        arrays |= {"history": np.empty(about["history"])}
        if self._team.size == 1:
            arrays = self._stored(path, about, arrays)
            arrays |= {name: arrays[other].copy() for name, other in same.items()}  # copies, because the device may use an array's memory
        else:
            arrays |= shards.opened(self._plain(path) / "run", [name for name, array in arrays.items() if array.size])
            _check(arrays, about, self._team)
            arrays |= {name: arrays[other] for name, other in same.items()} | {"history": np.array(arrays["history"])}
        return {name: arrays[name] for name in (*wanted, "history")}

    def _stored(self, path: Path, about: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Reads the arrays of a checkpoint into those given, and compares their checksum."""
        args = _orbax().args
        run = args.StandardRestore({name: array for name, array in arrays.items() if array.size})
        arrays |= _checkpointer().restore(self._plain(path), args=args.Composite(run=run))["run"]
        _check(arrays, about, ALONE)
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


@functools.cache
def _orbax() -> Any:
    """Imports Orbax, which takes a second, and silences the tracebacks that it prints for failures which are reported as warnings."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
    show = sys.unraisablehook
    # If one array cannot be written or read, the others find Orbax's event loop closed.
    sys.unraisablehook = lambda it: None if it.object is None and str(it.exc_value) == "Event loop is closed" else show(it)
    return ocp


@functools.cache
def _checkpointer(team: Team = ALONE) -> Any:
    """What writes and reads a checkpoint: the processes of a team together, or this one alone even if there are others."""
    ocp, this = _orbax(), jax.process_index()
    first, all_of_them = (this, {this}) if team.size == 1 else (0, set(range(team.size)))
    who = ocp.options.MultiprocessingOptions(primary_host=first, active_processes=all_of_them)
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=who))
    return ocp.Checkpointer(handler, multiprocessing_options=who)


@contextmanager
def _as_failure() -> Iterator[None]:
    """Tells an error of Orbax, which has waited for a process that could not write, from one that says that a process is lost."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise OSError(str(error)) from error


def _check(arrays: Mapping[str, Any], about: Mapping[str, Any], team: Team) -> None:
    """Compares the checksums of a checkpoint. The processes of a team share that work, if its arrays were saved in parts."""
    if "parts" in about:
        shards.check(arrays, about["parts"], team)
    elif team.leads and _checksum(arrays) != about["crc32"]:
        raise ValueError("the checksum of its arrays is wrong")


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unfilled(like: RunState) -> dict[str, np.ndarray]:
    """Allocates arrays in the memory of the host for those of a state, by path."""
    shapes = {name: jax.eval_shape(raw, leaf) for name, leaf in _named(like).items()}
    return {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}


def placed(arrays: Mapping[str, Any], like: RunState) -> RunState:
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


def _checksum(arrays: Mapping[str, Any]) -> int:
    """Returns the checksum of all bytes, in the order of the names. The names, types and shapes are in the description."""
    return functools.reduce(lambda crc, name: shards.checksum(arrays[name], crc), sorted(arrays), 0)


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
