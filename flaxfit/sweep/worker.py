"""What a worker of an executor does: it trains a batch of members, saves them now and then, and returns them."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import socket
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfit.callbacks import Callback
from flaxfit.callbacks.base import check_callbacks
from flaxfit.data.dataset import Dataset
from flaxfit.durable import warned, write_file
from flaxfit.programs.compiled import MakeTask
from flaxfit.signals import Signals
from flaxfit.storage.directory import RunDirectory, versions
from flaxfit.storage.parcels import pack_member, read_object, unpack_member
from flaxfit.storage.store import Saved
from flaxfit.sweep.members import Entry, Trial, member_of
from flaxfit.sweep.strategies import Way, in_threads, side_by_side
from flaxfit.train.config import TrainConfig
from flaxfit.train.job import Job, Member, Split
from flaxfit.train.result import Timing
from flaxfit.train.validate import validate

STOP = "stop"  # the file that tells workers to end after their chunk
SEND_SECONDS = 600.0
"""How long a worker trains at most before it sends its members back, if it cannot save them in a directory that both sides see."""
KEEP_BYTES = 2**31  # so many bytes of rows a worker keeps for its next batches
SETTINGS = (
    "jax_enable_x64",
    "jax_default_dtype_bits",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_random_seed_offset",
)
"""The settings of JAX that change what is computed. Workers take them over."""


def _process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


@dataclass(frozen=True, eq=False)
class Recipe:
    """What all members of a population have in common."""

    make_task: MakeTask  # this and the next three as for `train_all`
    traced: set[str]
    config: TrainConfig
    callbacks: Callable[[Member], Sequence[Callback]] | None
    settings: Mapping[str, Any] = field(default_factory=lambda: {name: jax.config.values.get(name) for name in SETTINGS})
    process: tuple[str, int] = field(default_factory=_process)  # the host and the process that calls


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of some members."""

    train: Dataset  # this and the next two as for `Trial`
    validation: Dataset | None
    fitted: Mapping[str, Any] | None
    jobs: dict[Any, Job] = field(default_factory=dict)  # what was checked of them, by program and training


@dataclass(frozen=True)
class Asked:
    """A member that a worker is to train."""

    setting: Mapping[str, Any]  # this and the next three as for `Trial`
    seed: int
    fold: int | None
    split: Split | None
    name: str
    part: str  # the digest of its rows
    record: Mapping[str, Any]  # its description
    saved: bytes | None  # where it is, as `pack_member` returned it, or None at the beginning


@dataclass(frozen=True)
class Batch:
    """What a worker is to do."""

    spool: str  # the directory with the objects, in which members in training are saved. A worker on another host may not see it.
    recipe: str  # the digest of the `Recipe`
    members: Sequence[Asked]
    strategy: Way  # how they train
    workers: int  # in how many threads
    run_dir: str | None  # the directory for their callbacks, or None


@dataclass(frozen=True)
class Answer:
    """What a worker has done."""

    missing: Sequence[str] = ()  # the digests of objects that it needs first
    # for each member, as `pack_member` returns it, and its timing; or None if it did not train
    members: Sequence[tuple[bytes, Timing] | None] = ()
    versions: Mapping[str, str | None] = field(default_factory=versions)  # the versions of what its bits depend on
    worker: tuple[str, int] = field(default_factory=_process)  # the host and the process


def work(message: bytes, sent: Mapping[str, bytes], attempt: int) -> Answer:
    """Trains a batch to its end, or until it is told to stop.

    Args:
      message: the pickled `Batch`.
      sent: the contents of objects that the worker asked for, by digest.
      attempt: a number that differs from call to call, because some executors answer equal calls with the same result.
    """
    try:
        return _worked(pickle.loads(message), sent)
    except Exception as error:
        raise _portable(error) from None


def file_of(name: str) -> str:
    """Returns the name of the file in which a member in training is saved."""
    return hashlib.sha256(name.encode()).hexdigest()[:24] + ".member"


def _worked(batch: Batch, sent: Mapping[str, bytes]) -> Answer:
    spool = Path(batch.spool)
    seen = spool.is_dir()
    if seen and (spool / STOP).exists():
        return Answer(members=[None] * len(batch.members))
    wanted = dict.fromkeys([batch.recipe, *(member.part for member in batch.members)])
    found = {digest: _kept.get(digest, spool, sent) for digest in wanted}
    if missing := [digest for digest, value in found.items() if value is None]:
        return Answer(missing=missing)
    recipe: Recipe = found[batch.recipe]
    for name, value in recipe.settings.items():
        if jax.config.values.get(name) != value:
            jax.config.update(name, value)
    place = _place(batch)
    parcel = _Parcel(spool if seen else None)
    with warnings.catch_warnings(action="ignore") if recipe.process != _process() else nullcontext():  # which has given them
        entries = [_entry(recipe, found[asked.part], asked, place, parcel) for asked in batch.members]
    waiting = [entry for entry in entries if entry.result is None]
    with Signals(says=False) as signals, _watched(signals, spool, seen):
        if batch.strategy == "vmap":
            side_by_side(waiting, signals, parcel.together)
        else:
            in_threads(waiting, batch.workers, signals)
    if signals.heard not in (None, signal.SIGINT):
        os.kill(os.getpid(), signals.heard)  # all is saved, and whoever sent the signal waits for this process to end
    done = [(parcel.contents[name], entry.timing) if (name := entry.member.name) in parcel.contents else None for entry in entries]
    return Answer(members=done)


def _entry(recipe: Recipe, part: Part, asked: Asked, directory: RunDirectory | None, parcel: _Parcel) -> Entry:
    """Returns a member where it was last saved."""
    trial = Trial(asked.setting, asked.seed, part.train, part.validation, asked.fold, part.fitted, asked.split)
    member = replace(member_of(recipe.make_task, trial, recipe.traced, recipe.config), name=asked.name)
    key = recipe, member.programs
    job = part.jobs.get(key) or part.jobs.setdefault(key, validate(member, part.train, part.validation, recipe.config))
    run = job.run(member.task)
    entry = Entry(trial, member, job, check_callbacks(recipe.callbacks(member) if recipe.callbacks else [], run), directory)
    device = jax.local_devices()[0]
    where = {"host": socket.gethostname(), "device": {"platform": device.platform, "kind": device.device_kind}, "versions": versions()}
    entry.record = {**asked.record, "environment": where}
    if newest := parcel.newest(asked):
        entry.take(*unpack_member(newest)[1:])
        if entry.result is not None:
            parcel.contents[asked.name] = newest
    entry.save_in(parcel)
    return entry


def _place(batch: Batch) -> RunDirectory | None:
    """The directory for callbacks.

    Raises:
      FileNotFoundError: this host does not see it.
    """
    if batch.run_dir is None:
        return None
    directory = RunDirectory(batch.run_dir)
    if not directory.config_path.exists():
        raise FileNotFoundError(
            f"the callbacks write to {batch.run_dir}, which the worker on {socket.gethostname()} does not see: "
            "use a run_dir that all workers share, or leave out callbacks."
        )
    return directory


class _Parcel:
    """The members of a batch as they were last saved: in memory, and in the spool where this worker sees it."""

    def __init__(self, spool: Path | None):
        self._spool, self._held = spool, False
        self.contents: dict[str, bytes] = {}
        self._new: list[str] = []  # those that are not yet in the spool
        self._lock = threading.Lock()

    def newest(self, asked: Asked) -> bytes | None:
        """Returns a member where it had trained the longest, in this batch or in that of a worker that was lost; or None."""
        known = {} if asked.saved is None else {unpack_member(asked.saved)[1].position: asked.saved}
        path = None if self._spool is None else self._spool / file_of(asked.name)
        if path is not None and path.exists():
            content = path.read_bytes()
            known.setdefault(unpack_member(content)[1].position, content)
        return known[max(known)] if known else None

    def put(self, name: str, saved: Saved, arrays: Mapping[str, np.ndarray]) -> None:
        """Saves a member."""
        self.contents[name] = pack_member(name, saved, arrays)
        self._new.append(name)
        if not self._held:
            self._write()

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context in which members are saved together: a worker that is lost leaves all of a batch at the same step."""
        self._held = True
        try:
            yield
            self._write()
        finally:
            self._held = False
            self._new.clear()

    def _write(self) -> None:
        if self._spool is None or not self._spool.is_dir():
            return
        with self._lock, warned(self._spool):
            names, self._new = self._new, []
            paths = {self._spool / file_of(name): self.contents[name] for name in names}
            for path, content in paths.items():
                write_file(path.with_suffix(".new"), content, private=True)
            for path in paths:
                path.with_suffix(".new").replace(path)


class _Kept:
    """The objects that this process was sent, the newest of them up to `KEEP_BYTES`. The next batch compiles and copies nothing."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str, spool: Path, sent: Mapping[str, bytes]) -> Any:
        """Returns an object, or None if it has to be sent."""
        with self._lock:
            if digest not in self._values:
                path = spool / digest
                if not path.exists() and digest not in sent:
                    return None
                source = path if path.exists() else sent[digest]
                self._values[digest] = read_object(source, digest), path.stat().st_size if source is path else len(sent[digest])
            self._values.move_to_end(digest)
            while len(self._values) > 1 and sum(size for _, size in self._values.values()) > KEEP_BYTES:
                self._values.popitem(last=False)
            return self._values[digest][0]


_kept = _Kept()


@contextmanager
def _watched(signals: Signals, spool: Path, seen: bool) -> Iterator[None]:
    """Ends the batch after its chunk when it is told to stop, when nobody waits for it, or when it is time to send members back."""
    over, until = threading.Event(), time.monotonic() + SEND_SECONDS

    def watch() -> None:
        while not over.wait(0.5):
            if (seen and ((spool / STOP).exists() or not spool.is_dir())) or (not seen and time.monotonic() > until):
                signals.heard = signals.heard or signal.SIGINT
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _portable(error: Exception) -> Exception:
    """Returns an error as it can travel: one that cannot be pickled would break the executor."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
