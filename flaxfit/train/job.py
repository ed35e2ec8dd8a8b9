"""What `fit` and populations share: a job that is checked, then compiled, then run for any numbers and any seed."""

from __future__ import annotations

import functools
import hashlib
import math
import signal
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.callbacks import Callback, Progress, Run
from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Feed, Stream
from flaxfit.devices.distributed import ALONE
from flaxfit.devices.sharding import ONE_DEVICE, Placement
from flaxfit.history import History
from flaxfit.state import RunState, TrainState, for_evaluation
from flaxfit.train import program
from flaxfit.train.checks import (
    check_alike,
    check_count,
    check_data,
    check_finite,
    check_labels,
    check_monitor,
    check_program,
    check_state,
    class_weighted,
)
from flaxfit.train.programs import Family, compiled, kept
from flaxfit.train.result import Result, StopReason, Timing
from flaxfit.train.session import Session, Signals, checksum, described
from flaxfit.train.stopping import EarlyStopping
from flaxfit.train.task import Task

CHUNK_SECONDS = 2.0
"""A chunk is made no longer than about this, so that Ctrl-C and signals are heard; its length never changes a result."""


class Job:
    """A training job: a family of tasks on some rows, for any numbers and seeds.

    Args:
      family: what shares its programs.
      task: one of the family, of plain numbers, to check.
      train: the training rows.
      validation: the validation rows, or None.
      initial: weights to start from, or None.
      epochs, batch_size, early_stopping, class_weight, replacement, terminate_on_nan: as for `flaxfit.fit`.
      placement: on which devices.

    Attributes:
      options: these last, checked.
      data: the training rows as they will be used; of a stream, its first.
      plan: what is compiled in.
      columns: the names that each epoch logs.
      records: name -> rows, for the record.

    Raises:
      ValueError, TypeError: an input that cannot work.
    """

    def __init__(
        self,
        family: Family,
        task: Task,
        train: Any,
        validation: Any,
        initial: TrainState | None,
        options: Mapping[str, Any],
        placement: Placement = ONE_DEVICE,
    ):
        self.family, self.options, self.placement = family, dict(options), placement
        early_stopping, class_weight = options["early_stopping"], options["class_weight"]
        whole = not isinstance(train, Stream)
        data = train if whole else train[:1]
        if not whole and placement.team.size > 1:
            raise TypeError("a Stream is read by one process: of several, give each its part of the rows as a Dataset.")
        check_data("train", data)
        self.epochs = self.options["epochs"] = check_count("epochs", options["epochs"], 1, "epochs")
        batch_size = self.options["batch_size"] = check_count("batch_size", options["batch_size"], 1, "rows a step")
        if validation is not None:
            check_data("validation", validation)
            check_alike(data, validation)
        if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
            raise TypeError(f'early_stopping must be ff.EarlyStopping("val_loss", patience=...), got {early_stopping!r}.')

        def weighted(rows: Dataset) -> Dataset:
            return rows if class_weight is None else class_weighted(rows, class_weight, whole)

        data = weighted(data)
        shapes, logits = kept(family, "shapes", (data[:1],), lambda: check_program(task, data))
        for name, rows in (("train", data), ("validation", validation)):
            if rows is not None:
                check_labels(task, name, rows, logits)
        if initial is not None:
            initial = check_state("initial", initial, shapes)
            for path, leaf in jax.tree_util.tree_leaves_with_path(initial):
                if jnp.issubdtype(leaf.dtype, jnp.inexact):
                    check_finite(f"initial{jax.tree_util.keystr(path)}", jnp.atleast_1d(leaf))
        stopping = early_stopping or EarlyStopping("loss" if validation is None else "val_loss", mode="min")
        if stopping.mode == "auto" and stopping.monitor.removeprefix("val_") == task.loss_name:
            stopping = replace(stopping, mode="min")  # whatever the loss is called
        validates = validation is not None
        self.columns = kept(family, ("columns", validates), (data[:1],), lambda: program.columns(task, validates, shapes))
        check_monitor(stopping.monitor, self.columns[:-1])
        stopping.direction  # noqa: B018  (raises for a name that does not tell)
        self.rows = len(train) * placement.team.size
        self.plan = program.Plan(
            min(batch_size, self.rows),
            stopping,
            early_stopping is not None,
            replacement=options["replacement"],
            terminate_on_nan=options["terminate_on_nan"],
            placement=placement,
        )
        if placement.mesh is not None and (ways := placement.mesh.devices.shape[0]) and self.plan.batch_size % ways:
            message = f"steps of {self.plan.batch_size} rows do not divide over {ways} devices, so that each computes all of them"
            warnings.warn(f"{message}: take a batch_size that does.", UserWarning, stacklevel=3)
        self.data, self.records = data, {"train": train} | ({} if validation is None else {"validation": validation})
        self._train, self._validation, self._initial = (None if whole else train), validation, initial

        def checked(rows: Dataset) -> Dataset:
            check_labels(task, "train", rows, logits)
            return weighted(rows)

        self._checked = checked

    def check_team(self, task: Task, seed: int) -> None:
        """That all processes are about to run the same.

        Raises:
          ValueError: they are not.
        """
        team = self.placement.team
        if team.size == 1:
            return
        rows = team.gather(len(self.data)).tolist()
        if len(set(rows)) > 1:
            raise ValueError(f"each process must pass equally many training rows, in order of the processes they pass {rows}.")
        shapes = {path: (leaf.shape, str(leaf.dtype)) for path, leaf in self.data.leaves()}
        facts = {
            "the task or the arguments of fit are": described(task, {**self.options, "seed": seed}, {}),
            "the shapes or types of the training rows are": shapes,
            "the validation rows, of which each process must pass all, are": checksum(self._validation),
        }
        for what, fact in facts.items():
            found = team.gather(zlib.crc32(repr(fact).encode()))
            if (found != found[0]).any():
                raise ValueError(f"{what} not the same on process {np.flatnonzero(found != found[0])[0]} as on process 0.")

    def about(self, task: Task) -> Run:
        """The run of one of the family, as callbacks see it."""
        steps = program.steps_per_epoch(self.rows, self.plan.batch_size)
        return Run(task, self.columns, self.plan.stopping, self.rows, steps, self.epochs, self._sources)

    @property
    def _sources(self) -> dict[str, dict[str, Any]]:
        """Where the rows come from; which of a source's rows, only where this process has all."""
        data = {name: rows.record() for name, rows in self.records.items()}
        if self.placement.team.size > 1:
            data["train"] = {name: value for name, value in data["train"].items() if name != "rows"} | {"count": self.rows}
        return data

    @functools.cached_property
    def recorded(self) -> dict[str, Any]:
        """Where the rows come from, with checksums."""
        teams = {"train": self.placement.team, "validation": ALONE}
        return {name: about | checksum(self.records[name], teams[name]) for name, about in self._sources.items()}

    @functools.cached_property
    def placed(self) -> tuple[Any, Dataset | None, Any]:
        """The training rows (None of a stream), the validation rows and a row's x, on the device or devices."""
        x = jax.tree.map(self.placement.team.from_first, self.data[:1].x)
        rows = self.placement.rows(self.data if self._train is None else None)
        return (rows, *self.placement.everywhere((self._validation, x)))

    def start(self, numbers: Mapping[str, Any], key: Any, x: Any, initial: TrainState | None) -> RunState:
        """The run at its beginning. Pure."""
        return program.start(self.family.task(numbers), self.plan, key, x, initial)

    def advance(self, numbers: Mapping[str, Any], state: RunState, rows: Any, validation: Any, until: Any) -> tuple[RunState, Any]:
        """The run's next steps. Pure."""
        return program.advance(self.family.task(numbers), self.plan, state, rows, validation, until)

    def program(self, *args: Any) -> str:
        """A hash of `advance`, for arguments of these shapes, as it is on one device: a run may go on on more or fewer."""
        plan = replace(self.plan, placement=ONE_DEVICE)

        def advance(numbers: Mapping[str, Any], state: RunState, rows: Any, validation: Any, until: Any) -> tuple[RunState, Any]:
            return program.advance(self.family.task(numbers), plan, state, rows, validation, until)

        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=getattr(a, "weak_type", False)), args)
        return kept(self.family, ("hash", plan), shapes, lambda: program_hash(jax.jit(advance, donate_argnums=1), *shapes))

    def run(
        self,
        task: Task,
        numbers: Mapping[str, Any],
        seed: int,
        callbacks: Sequence[Callback],
        session: Session | None,
        signals: Signals | None,
    ) -> Result:
        """One run, to its end or until a signal is heard.

        Args:
          task: the one of the family that callbacks get to see.
          numbers: its numbers.
          seed: of the run.
          callbacks: who looks on.
          session: the run's directory, or None.
          signals: what ends it sooner, or None.
        """
        began, placement = time.perf_counter(), self.placement
        with ExitStack() as stack:
            rows, validation, x = self.placed
            numbers, key, initial, until = placement.everywhere((numbers, jax.random.key(seed), self._initial, np.int32(0)))
            about = self.about(task)
            if self._train is not None:
                feed = Feed(self._train, self.plan.batch_size, self.epochs, self._checked, "train", key, self.plan.replacement)
                read = stack.enter_context(feed).at

                def supply(position: int, until: int) -> tuple[Any, int]:
                    rows, until = read(position, until)
                    return placement.everywhere(rows), until

                rows = supply(0, 0)[0]
            else:
                supply = functools.partial(_all_rows, rows)
            state, like = None, placement.like(jax.eval_shape(self.start, numbers, key, x, initial))
            if session is not None:
                session.confirm(self.program(numbers, like, rows, validation, until))
                about = replace(about, directory=session.directory, history=session.restore(like, self.columns))
                state = session.state
            if state is None:
                what, args = ("start", self.plan.stopping.direction, placement), (numbers, key, x, initial)
                state = compiled(self.family, what, self.start, *args, out=placement.out(like))(*args)
            out = placement.out(like, 0)
            advance = compiled(self.family, self.plan, self.advance, numbers, state, rows, validation, until, donate=(1,), out=out)
            del rows  # the first chunk of a stream would stay in memory
            compile_seconds = time.perf_counter() - began

            def train_on(state: RunState, position: int, until: int) -> tuple[RunState, Any]:
                rows, until = supply(position, until)
                return advance(numbers, state, rows, validation, placement.everywhere(np.int32(until)))

            state, history, chunks, seconds = _drive(train_on, state, about, self.plan, callbacks if placement.team.leads else (), signals)
            result = result_of(task, self.plan, state, history, Timing(compile_seconds, seconds, 0.0, chunks), about.data)
            result = replace(result, best=placement.on_host(result.best), last=placement.on_host(result.last))
        trained = len(history.epochs) - (0 if about.history is None else len(about.history.epochs))
        return replace(result, timing=replace(result.timing, epoch=seconds / max(1, trained)))


def result_of(task: Task, plan: program.Plan, state: RunState, history: History, timing: Timing, data: Mapping[str, Any]) -> Result:
    """What a run gave whose last state is `state`."""
    reason = _stop_reason(state, plan)
    last = state.finite if reason == "non_finite" else state.train
    best = state.best if int(state.stopper.best_epoch) else for_evaluation(task, last)
    return Result(history, best, last, history.best_epoch, reason, timing, data)


def program_hash(function: Any, *args: Any) -> str:
    """Of a jitted function's program for these arguments."""
    return hashlib.sha256(function.lower(*args).as_text().encode()).hexdigest()


def _all_rows(data: Dataset, position: int, until: int) -> tuple[Dataset, int]:
    """What `Feed.at` gives, of rows in memory."""
    return data, until


class _Log:
    """The metrics so far, in an array that grows."""

    def __init__(self, names: Sequence[str], history: History | None):
        self._names, self._rows, self.epochs = names, np.empty((64, len(names))), 0
        if history is not None:
            self.add(np.stack([history[name] for name in names], axis=1))

    def add(self, rows: np.ndarray) -> None:
        needed = self.epochs + len(rows)
        if needed > len(self._rows):
            self._rows = np.concatenate([self._rows[: self.epochs], np.empty((max(needed, self.epochs), len(self._names)))])
        self._rows[self.epochs : needed] = rows
        self.epochs = needed

    def history(self, first: int = 0) -> History:
        rows = self._rows[first : self.epochs].copy()
        return History({name: rows[:, column] for column, name in enumerate(self._names)}, first + 1)


def _drive(
    advance: Callable[[RunState, int, int], tuple[RunState, Any]],
    state: RunState,
    about: Run,
    plan: program.Plan,
    callbacks: Sequence[Callback],
    signals: Signals | None,
) -> tuple[RunState, History, int, float]:
    """Runs chunk after chunk; between them, and only then, fetches what was logged and lets the callbacks look."""
    log, total = _Log(about.columns, about.history), about.epochs * about.steps_per_epoch
    seconds = min([CHUNK_SECONDS, *(callback.every_seconds for callback in callbacks if callback.every_seconds)])
    chunks, spent, pace, began, placement = 0, 0.0, 1, time.perf_counter(), plan.placement
    team = placement.team

    def stands() -> tuple[int, int, bool]:
        epoch, step, stopped, diverged = jax.device_get((state.epoch, state.step, state.stopper.stopped, state.diverged))
        position = int(epoch) * about.steps_per_epoch + int(step)
        return position, int(step), position >= total or bool(diverged) or (plan.stops and bool(stopped))

    position, step, ended = stands()
    seen = [(log.epochs, position, began) for _ in callbacks]  # epochs, steps and time at each callback's last look
    with ExitStack() as stack:
        if not ended:
            with team.together():
                for callback in callbacks:
                    stack.callback(callback.on_train_end)
                    callback.on_train_begin(about)
        while not ended:
            start, before = time.perf_counter(), position
            stop = int(team.gather(_next_stop(position, pace, about, plan, callbacks))[0])  # one process's callbacks and clock decide
            state, logged = advance(state, position, stop)
            position, step, ended = stands()
            now = time.perf_counter()
            chunks, spent = chunks + 1, spent + now - start
            # Eight times longer at most: the first chunks tell how fast a step is.
            pace = min(8 * pace, max(1, int((position - before) * seconds / max(now - start, 1e-9))))
            log.add(jax.device_get(logged)[: (position - step) // about.steps_per_epoch - log.epochs])
            if signals is not None and (heard := int(team.gather(signals.heard or 0).max())):
                signals.heard, ended = signal.Signals(heard), True
            due = []
            for index, callback in enumerate(callbacks):
                epochs, steps, looked = seen[index]
                if ended or callback.due(epochs, log.epochs, steps, position, now - looked):
                    due.append(index)
            wanted = team.gather(any(callbacks[index].reads_state for index in due)).any()
            shown = placement.on_host(state) if wanted else state
            with team.together():
                for index in due:
                    new = functools.partial(log.history, seen[index][0])
                    callbacks[index].on_chunk_end(Progress(about, new, log.history, shown, log.epochs, step, now - began, ended))
                    seen[index] = log.epochs, position, now
    return state, log.history(), chunks, spent


def _next_stop(position: int, pace: int, about: Run, plan: program.Plan, callbacks: Sequence[Callback]) -> int:
    """How many steps the run shall have done when the host looks next."""
    length = about.steps_per_epoch
    epoch = position // length
    stop = position + pace
    if stop // length > epoch:  # looks inside an epoch are for epochs longer than a chunk
        stop -= stop % length
    for callback in callbacks:
        if callback.every_epochs:
            stop = min(stop, (epoch // callback.every_epochs + 1) * callback.every_epochs * length)
        if callback.every_steps:
            stop = min(stop, (position // callback.every_steps + 1) * callback.every_steps)
    return min(stop, (epoch + plan.capacity) * length, about.epochs * length)


def _stop_reason(state: RunState, plan: program.Plan) -> StopReason:
    if bool(state.diverged):
        return "non_finite"
    return "early_stopping" if plan.stops and bool(state.stopper.stopped) else "epochs"


def what_was_not_finite(history: History) -> str:
    """The warning of a run that ended on a value that is not finite."""
    epoch, values = history.epochs[-1], history.row(-1)
    names = [name for name in ("loss", "val_loss") if not math.isfinite(values.get(name, 0.0))]
    what = " and ".join(f"{name} is {values[name]}" for name in names) or "a weight or batch statistic is not finite"
    last = f"the state after epoch {epoch - 1}" if epoch > 1 else "the initial state"
    return (
        f"training ended in epoch {epoch}: {what}. Result.last is {last}. Lower the learning rate, clip the "
        "gradient (optax.clip_by_global_norm) or scale the inputs; fit(terminate_on_nan=False) goes on regardless."
    )
