"""Populations on an executor of `concurrent.futures`: batches of members go to its workers, wherever these are."""

from __future__ import annotations

import itertools
import queue
import shutil
import tempfile
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from flaxfit.callbacks import Dots, ProgressBar
from flaxfit.signals import Signals
from flaxfit.storage.directory import RunDirectory, versions
from flaxfit.storage.parcels import pack_member, unpack_member, write_object
from flaxfit.storage.store import Store
from flaxfit.sweep.members import Entry
from flaxfit.sweep.strategies import Way, alike
from flaxfit.sweep.tally import Tally
from flaxfit.sweep.worker import STOP, Answer, Asked, Batch, Part, Recipe, file_of, work
from flaxfit.train.result import Timing

Executors = Executor | Callable[[], Executor]
"""An executor, or a function that makes one."""
SIDE_BY_SIDE = 8  # the members of a batch that trains side by side, unless `workers` says
STOP_SECONDS = 30.0  # how long workers may take to end their chunk and to save, when the population ends early
MOST_LOSSES = 10  # so many times in a row may workers be lost, without a member that gets on, before the population ends
HOLD_SECONDS = 10.0  # how long other batches of a worker wait while it is sent the rows, unless it answers before
SILENT_SECONDS = 900.0  # if for this long no worker has saved or returned a member, there may be none
_SPOOL = ".workers-"


def check_executor(executor: Any) -> None:
    """Checks that populations can be trained by an executor.

    Raises:
      TypeError: it is none, and no function.
      ValueError: its workers are forks of this process, in which JAX hangs.
    """
    if executor is None:
        return
    if not isinstance(executor, Executor) and not callable(executor):
        raise TypeError(f"executor must be a concurrent.futures.Executor, or a function that returns one, got {executor!r}.")
    context = getattr(executor, "_mp_context", None)  # of a ProcessPoolExecutor
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "the processes of this executor are forked, in which JAX hangs: "
            'use ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")).'
        )


class Pool:
    """An executor for one population or several. It is a context manager.

    An executor that a function makes is made when it is first needed, made anew when it has broken, and shut down at the end.

    Args:
      given: the executor, or the function.

    Raises:
      TypeError, ValueError: as `check_executor`.
    """

    def __init__(self, given: Executors):
        check_executor(given)
        self._given, self.busy = given, False  # busy: work that nobody waits for is left in it
        self._executor = given if isinstance(given, Executor) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None and not isinstance(self._given, Executor):
            self._executor.shutdown(wait=not self.busy)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Submits a call to the executor."""
        if self._executor is None:
            assert not isinstance(self._given, Executor)
            self._executor = self._given()
            if not isinstance(self._executor, Executor):
                raise TypeError(f"the function passed as executor must return a concurrent.futures.Executor, got {self._executor!r}.")
            check_executor(self._executor)
        return self._executor.submit(function, *args)

    def renew(self) -> bool:
        """Lets a broken executor go. Returns whether another one can be made."""
        if isinstance(self._given, Executor):
            return False
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self._executor = None
        return True


@contextmanager
def pool_of(executor: Executors | Pool | None) -> Iterator[Pool | None]:
    """The pool of an executor, which ends with the context; or a pool as it is, which does not."""
    if executor is None or isinstance(executor, Pool):
        yield executor
        return
    with Pool(executor) as pool:
        yield pool


def collect(directory: RunDirectory, store: Store) -> None:
    """Takes over what workers of earlier calls have saved in the directory, if it is newer than what is in the store."""
    for spool in directory.path.glob(f"{_SPOOL}*"):
        _gather(spool, store)
        shutil.rmtree(spool, ignore_errors=True)


def _gather(spool: Path, store: Store) -> None:
    for path in spool.glob("*.member"):
        with suppress(ValueError, KeyError, OSError):  # damaged: what the store has is used
            name, saved, arrays = unpack_member(path.read_bytes())
            if name not in store or store[name].position < saved.position:
                store.put(name, saved, arrays)


@dataclass(eq=False)
class _Batch:
    """A batch of members."""

    entries: list[Entry]  # the members that have not ended
    saved: dict[str, bytes] = field(default_factory=dict)  # member -> where it is, as `pack_member` returned it, if a worker sent it back
    wanted: Sequence[str] = ()  # the digests of the objects that its worker asked for


class Workers:
    """Trains a population on an executor.

    Args:
      pool: the executor.
      recipe: what all members have in common.
      entries: the members.
      strategy: how the members of a batch train.
      workers: how many members a batch has.

    Raises:
      ValueError: the members have callbacks that do not work in another process.
      TypeError: what the workers need cannot be pickled.
    """

    def __init__(self, pool: Pool, recipe: Recipe, entries: Sequence[Entry], strategy: Way, workers: int | None):
        self._pool, self._recipe = pool, recipe
        self._strategy: Way = strategy
        self._size = workers or (1 if strategy == "threads" else SIDE_BY_SIDE)
        self._attempts, self._told = itertools.count(), False
        self._callbacks = any(entry.callbacks for entry in entries)
        self._pending: dict[Future[Answer], _Batch] = {}
        for entry in entries:
            _check_callbacks(entry)
        with tempfile.TemporaryDirectory() as place:
            try:
                write_object(recipe, Path(place))
                write_object([entry.trial.setting for entry in entries], Path(place))
            except Exception as error:
                raise TypeError(
                    f"make_task, its settings and the callbacks are sent to the workers of the executor, but cannot be pickled: {error}. "
                    "Make what cannot be pickled inside of make_task."
                ) from error

    def train(self, entries: Sequence[Entry], directory: RunDirectory | None, store: Store | None, signals: Signals, tally: Tally) -> None:
        """Trains members until all have ended, or a signal arrives.

        Args:
          entries: the members.
          directory: the directory of the population, or None.
          store: its store, or None.
          signals: the signals that end it early.
          tally: where members that have ended are counted.

        Raises:
          RuntimeError: workers were lost, and nothing can take their place.
        """
        self._entries, self._directory, self._store, self._tally = entries, directory, store, tally
        batches = [group[at : at + self._size] for group in alike(entries) for at in range(0, len(group), self._size)]
        if not batches:
            return
        with _spool(directory) as self._place:
            self._parts: dict[Any, str] = {}
            self._digest = write_object(self._recipe, self._place)
            self._waiting, self._held = deque(map(_Batch, batches)), []
            self._sent: dict[Any, float] = {}
            self._done: queue.SimpleQueue[Future[Answer]] = queue.SimpleQueue()
            patience = STOP_SECONDS
            try:
                self._loop(signals)
            except KeyboardInterrupt:  # a second signal ends the population at once
                patience = 0.0
                raise
            finally:
                (self._place / STOP).touch()
                self._finish(patience)
                if store is not None:
                    _gather(self._place, store)

    def _loop(self, signals: Signals) -> None:
        losses, saved, heard = 0, {}, time.monotonic()
        while (self._waiting or self._held or self._pending) and signals.heard is None:
            batch = None
            try:
                if self._held and time.monotonic() - max(self._sent.values()) > HOLD_SECONDS:
                    self._release()
                while self._waiting:
                    self._submit(self._waiting[0])
                    self._waiting.popleft()
                try:
                    future = self._done.get(timeout=0.25)
                except queue.Empty:
                    if time.monotonic() - heard > SILENT_SECONDS:
                        before, saved, heard = saved, self._marks(), time.monotonic()
                        if saved == before:
                            message = f"no worker has saved or returned a member for {SILENT_SECONDS / 60:.0f} minutes"
                            warnings.warn(f"{message}: see whether the executor has workers.", RuntimeWarning, stacklevel=5)
                    continue
                heard = time.monotonic()
                if (batch := self._pending.pop(future, None)) is not None:
                    self._take(batch, future.result())
                    losses = 0
            except Exception as error:
                if not _lost(error):
                    if batch is not None:
                        error.add_note(f"in the member {', '.join(entry.member.name for entry in batch.entries)}")
                    raise
                before, saved = saved, self._marks()
                losses = 1 if saved != before else losses + 1
                self._waiting.extend([batch] if batch is not None else [])
                if isinstance(error, BrokenExecutor):
                    self._waiting.extend(self._pending.values())
                    self._pending.clear()
                if losses >= MOST_LOSSES:
                    raise RuntimeError(
                        f"workers were lost {losses} times in a row, as where memory is short, or where a script lacks "
                        f'`if __name__ == "__main__":`; {self._state()}'
                    ) from error
                if isinstance(error, BrokenExecutor) and not self._pool.renew():
                    raise RuntimeError(
                        f"a worker died, which broke the executor; {self._state()} "
                        "With a function that makes the executor, executor=lambda: ..., it is made anew."
                    ) from error

    def _marks(self) -> dict[str, int]:
        """When each member in training was last saved."""
        return {path.name: path.stat().st_mtime_ns for path in self._place.glob("*.member")}

    def _submit(self, batch: _Batch) -> None:
        """Sends a batch to a worker."""
        import cloudpickle

        asked = [self._asked(entry, batch) for entry in batch.entries]
        place = str(self._directory.path) if self._directory is not None and self._callbacks else None
        order = Batch(str(self._place), self._digest, asked, self._strategy, self._size, place)
        sent = {digest: (self._place / digest).read_bytes() for digest in batch.wanted}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")  # Dask: each worker asks once
            future = self._pool.submit(work, cloudpickle.dumps(order), sent, next(self._attempts))
        batch.wanted = ()
        self._pending[future] = batch
        future.add_done_callback(self._done.put)

    def _asked(self, entry: Entry, batch: _Batch) -> Asked:
        trial, name = entry.trial, entry.member.name
        key = id(trial.train), id(trial.validation), id(trial.fitted)
        if key not in self._parts:
            self._parts[key] = write_object(Part(trial.train, trial.validation, trial.fitted), self._place)
        saved = batch.saved.get(name)
        if saved is None and entry.state is not None and self._store is not None:
            saved = pack_member(name, self._store[name], self._store.arrays(name))
        return Asked(trial.setting, trial.seed, trial.fold, trial.split, name, self._parts[key], entry.record, saved)

    def _take(self, batch: _Batch, answer: Answer) -> None:
        """Takes what a worker returned. What has not ended is sent again."""
        self._compare(answer.versions)
        if answer.missing:
            now = time.monotonic()
            if now - self._sent.get(answer.worker, -np.inf) < HOLD_SECONDS:
                self._held.append(batch)
            else:
                self._sent[answer.worker] = now
                batch.wanted = answer.missing
                self._waiting.append(batch)
            return
        self._release()
        rest = []
        for entry, one in zip(batch.entries, answer.members, strict=True):
            name = entry.member.name
            if one is not None:
                _, saved, arrays = unpack_member(one[0])
                entry.timing = _added(entry.timing, one[1])
                if self._store is not None:
                    self._store.put(name, saved, arrays)
                if saved.finished:
                    entry.take(saved, arrays)
                    self._tally.add()
                    (self._place / file_of(name)).unlink(missing_ok=True)
                    continue
                batch.saved[name] = one[0]
            rest.append(entry)
        if rest:
            batch.entries = rest
            self._waiting.append(batch)

    def _release(self) -> None:
        """Sends the batches that waited for a worker that was sent rows."""
        self._waiting.extend(self._held)
        self._held.clear()

    def _finish(self, patience: float) -> None:
        """Waits so many seconds for the workers that are still training, which end after their chunk."""
        self._pool.busy = bool(wait(self._pending, timeout=patience).not_done)
        for future, batch in self._pending.items():
            if not future.cancel():
                with suppress(Exception, CancelledError):
                    self._take(batch, future.result(timeout=0))

    def _state(self) -> str:
        """Which members are missing, and how to continue."""
        names = [entry.member.name for entry in self._entries if entry.result is None]
        listed = "; ".join(names[:5]) + f"; and {len(names) - 5} more" * (len(names) > 5)
        saved = "Nothing is saved without run_dir." if self._directory is None else "The same call resumes them."
        return f"{len(names)} of {len(self._entries)} members have not ended: {listed}. {saved}"

    def _compare(self, theirs: Mapping[str, str | None]) -> None:
        changed = [f"{name} {version}" for name, version in theirs.items() if version != versions().get(name)]
        if changed and not self._told:
            self._told = True
            warnings.warn(
                f"workers have {', '.join(changed)}, which this process does not have: bits may differ.", UserWarning, stacklevel=2
            )


def _added(one: Timing, other: Timing) -> Timing:
    chunks, train = one.chunks + other.chunks, one.train + other.train
    return Timing(one.compile + other.compile, train, other.epoch or one.epoch, chunks)


def _check_callbacks(entry: Entry) -> None:
    for callback in entry.callbacks:
        if isinstance(callback, ProgressBar | Dots):
            raise ValueError(
                f"{type(callback).__name__} cannot show the members that workers train: "
                "leave it out, and pass progress=... for the progress of all members."
            )
    schedule = entry.schedule
    if schedule is not None and (schedule.every_epochs or schedule.every_steps):
        raise ValueError("workers save members by the clock: use Checkpoint(every_seconds=...), or leave it out for once a minute.")


def _lost(error: Exception) -> bool:
    """Whether a worker was lost, or its executor, and the batch may be trained elsewhere."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, BrokenExecutor) or bool(names & {"KilledWorker", "CancelledError"})


@contextmanager
def _spool(directory: RunDirectory | None) -> Iterator[Path]:
    """A private directory for what workers read and for the members in training, in the run directory if there is one."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="flaxfit-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    place = directory.path / f"{_SPOOL}{uuid.uuid4().hex[:12]}"
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
