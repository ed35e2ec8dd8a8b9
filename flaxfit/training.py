"""What `fit` and populations share: a job that is checked, then compiled, then run for any numbers and any seed."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit import run
from flaxfit.checks import (
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
from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Feed, Stream
from flaxfit.durable import Session, Signals, recorded
from flaxfit.hooks import Hook, Look, Run
from flaxfit.programs import Family, compiled, kept
from flaxfit.report.history import History
from flaxfit.result import Result, StopReason, Timing
from flaxfit.state import RunState, TrainState, for_evaluation
from flaxfit.stopping import EarlyStopping
from flaxfit.task import Task

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

    Attributes:
      options: these last, checked.
      data: the training rows as they will be used; of a stream, its first.
      plan: what is compiled in.
      columns: the names that each epoch logs.
      records: name -> rows, for the record.

    Raises:
      ValueError, TypeError: an input that cannot work.
    """

    def __init__(self, family: Family, task: Task, train: Any, validation: Any, initial: TrainState | None, options: Mapping[str, Any]):
        self.family, self.options = family, dict(options)
        early_stopping, class_weight = options["early_stopping"], options["class_weight"]
        whole = not isinstance(train, Stream)
        data = train if whole else train[:1]
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
        self.columns = kept(family, ("columns", validates), (data[:1],), lambda: run.columns(task, validates, shapes))
        check_monitor(stopping.monitor, self.columns[:-1])
        stopping.direction  # noqa: B018  (raises for a name that does not tell)
        self.plan = run.Plan(
            min(batch_size, len(train)),
            stopping,
            early_stopping is not None,
            replacement=options["replacement"],
            terminate_on_nan=options["terminate_on_nan"],
        )
        self.data, self.records = data, {"train": train} | ({} if validation is None else {"validation": validation})
        self._train, self._validation, self._initial = (None if whole else train), validation, initial

        def checked(rows: Dataset) -> Dataset:
            check_labels(task, "train", rows, logits)
            return weighted(rows)

        self._checked = checked

    def about(self, task: Task) -> Run:
        """The run of one of the family, as hooks see it."""
        rows = len(self.records["train"])
        data = {name: rows.record() for name, rows in self.records.items()}
        steps = run.steps_per_epoch(rows, self.plan.batch_size)
        return Run(task, self.columns, self.plan.stopping, rows, steps, self.epochs, data)

    @functools.cached_property
    def recorded(self) -> dict[str, Any]:
        """Where the rows come from, with checksums."""
        return recorded(self.records)

    @functools.cached_property
    def placed(self) -> tuple[Any, Dataset | None, Any]:
        """The training rows (None of a stream), the validation rows and a row's x, on the device."""
        return jax.device_put((self.data if self._train is None else None, self._validation, self.data[:1].x))

    def start(self, numbers: Mapping[str, Any], key: Any, x: Any, initial: TrainState | None) -> RunState:
        """The run at its beginning. Pure."""
        return run.start(self.family.task(numbers), self.plan, key, x, initial)

    def advance(self, numbers: Mapping[str, Any], state: RunState, rows: Any, validation: Any, until: Any) -> tuple[RunState, Any]:
        """The run's next steps. Pure."""
        return run.advance(self.family.task(numbers), self.plan, state, rows, validation, until)

    def run(
        self, task: Task, numbers: Mapping[str, Any], seed: int, hooks: Sequence[Hook], session: Session | None, signals: Signals | None
    ) -> Result:
        """One run, to its end or until a signal is heard.

        Args:
          task: the one of the family that hooks get to see.
          numbers: its numbers.
          seed: of the run.
          hooks: who looks on.
          session: the run's directory, or None.
          signals: what ends it sooner, or None.
        """
        began = time.perf_counter()
        rows, validation, x = self.placed
        numbers, key = jax.device_put((numbers, jax.random.key(seed)))
        about, initial, until = self.about(task), self._initial, jax.device_put(np.int32(0))
        with ExitStack() as stack:
            if self._train is not None:
                feed = Feed(self._train, self.plan.batch_size, self.epochs, self._checked, "train", key, self.plan.replacement)
                supply = stack.enter_context(feed).at
                rows = supply(0, 0)[0]
            else:
                supply = functools.partial(_all_rows, rows)
            state = None
            if session is not None:
                like = jax.eval_shape(self.start, numbers, key, x, initial)
                args = (numbers, like, rows, validation, until)
                session.confirm(
                    kept(self.family, ("hash", self.plan), args, lambda: program_hash(jax.jit(self.advance, donate_argnums=1), *args))
                )
                about = replace(about, directory=session.directory, history=session.restore(like, self.columns))
                state = session.state
            if state is None:
                start = compiled(self.family, ("start", self.plan.stopping.direction), self.start, numbers, key, x, initial)
                state = start(numbers, key, x, initial)
            advance = compiled(self.family, self.plan, self.advance, numbers, state, rows, validation, until, donate=(1,))
            del rows  # the first chunk of a stream would stay in memory
            compile_seconds = time.perf_counter() - began

            def train_on(state: RunState, position: int, until: int) -> tuple[RunState, Any]:
                rows, until = supply(position, until)
                return advance(numbers, state, rows, validation, jax.device_put(np.int32(until)))

            state, history, chunks, seconds = _drive(train_on, state, about, self.plan, hooks, signals)
        trained = len(history.epochs) - (0 if about.history is None else len(about.history.epochs))
        timing = Timing(compile_seconds, seconds, seconds / max(1, trained), chunks)
        return result_of(task, self.plan, state, history, timing, about.data)


def result_of(task: Task, plan: run.Plan, state: RunState, history: History, timing: Timing, data: Mapping[str, Any]) -> Result:
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
    plan: run.Plan,
    hooks: Sequence[Hook],
    signals: Signals | None,
) -> tuple[RunState, History, int, float]:
    """Runs chunk after chunk; between them, and only then, fetches what was logged and lets the hooks look."""
    log, total = _Log(about.columns, about.history), about.epochs * about.steps_per_epoch
    seconds = min([CHUNK_SECONDS, *(hook.every_seconds for hook in hooks if hook.every_seconds)])
    chunks, spent, pace, began = 0, 0.0, 1, time.perf_counter()

    def stands() -> tuple[int, int, bool]:
        epoch, step, stopped, diverged = jax.device_get((state.epoch, state.step, state.stopper.stopped, state.diverged))
        position = int(epoch) * about.steps_per_epoch + int(step)
        return position, int(step), position >= total or bool(diverged) or (plan.stops and bool(stopped))

    position, step, ended = stands()
    seen = [(log.epochs, position, began) for _ in hooks]  # epochs, steps and time at each hook's last look
    with ExitStack() as stack:
        if not ended:
            for hook in hooks:
                stack.callback(hook.close)
                hook.begin(about)
        while not ended:
            start, before = time.perf_counter(), position
            state, logged = advance(state, position, _next_stop(position, pace, about, plan, hooks))
            position, step, ended = stands()
            now = time.perf_counter()
            chunks, spent = chunks + 1, spent + now - start
            # Eight times longer at most: the first chunks tell how fast a step is.
            pace = min(8 * pace, max(1, int((position - before) * seconds / max(now - start, 1e-9))))
            log.add(jax.device_get(logged)[: (position - step) // about.steps_per_epoch - log.epochs])
            ended = ended or (signals is not None and signals.heard is not None)
            for index, hook in enumerate(hooks):
                epochs, steps, looked = seen[index]
                if ended or hook.due(epochs, log.epochs, steps, position, now - looked):
                    new = functools.partial(log.history, epochs)
                    hook.look(Look(about, new, log.history, state, log.epochs, step, now - began, ended))
                    seen[index] = log.epochs, position, now
    return state, log.history(), chunks, spent


def _next_stop(position: int, pace: int, about: Run, plan: run.Plan, hooks: Sequence[Hook]) -> int:
    """How many steps the run shall have done when the host looks next."""
    length = about.steps_per_epoch
    epoch = position // length
    stop = position + pace
    if stop // length > epoch:  # looks inside an epoch are for epochs longer than a chunk
        stop -= stop % length
    for hook in hooks:
        if hook.every_epochs:
            stop = min(stop, (epoch // hook.every_epochs + 1) * hook.every_epochs * length)
        if hook.every_steps:
            stop = min(stop, (position // hook.every_steps + 1) * hook.every_steps)
    return min(stop, (epoch + plan.capacity) * length, about.epochs * length)


def _stop_reason(state: RunState, plan: run.Plan) -> StopReason:
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
