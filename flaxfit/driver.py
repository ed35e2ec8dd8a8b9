"""The driver: compiled chunks of a run, with a look at the host between them."""

from __future__ import annotations

import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit import run
from flaxfit.checks import (
    check_alike,
    check_count,
    check_data,
    check_finite,
    check_hooks,
    check_labels,
    check_monitor,
    check_program,
    check_state,
    check_task,
    class_weighted,
)
from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Feed, Stream
from flaxfit.durable import Resume, Session, Signals, arguments_of
from flaxfit.hooks import Checkpoint, Hook, Look, Metrics, Run
from flaxfit.programs import compiled, kept
from flaxfit.report.history import History
from flaxfit.state import RunState, TrainState, for_evaluation
from flaxfit.stopping import EarlyStopping
from flaxfit.storage.directory import RunDirectory
from flaxfit.task import Task

CHUNK_SECONDS = 2.0
"""A chunk is made no longer than about this, so that Ctrl-C and signals are heard; its length never changes a result."""

StopReason = Literal["epochs", "early_stopping", "non_finite"]


@dataclass(frozen=True)
class Timing:
    """Where a fit's wall time went.

    Attributes:
      compile: seconds before the first step: checks, tracing and compiling, which a task and shapes seen before need not again, and
        moving the data to the device.
      train: seconds inside the compiled chunks.
      epoch: seconds an epoch, of `train`.
      chunks: compiled calls.
    """

    compile: float
    train: float
    epoch: float
    chunks: int


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
      history: every logged metric by epoch, from 1.
      best: the evaluation state of the best epoch by the monitor (without early stopping: `val_loss`, or `loss`); of the last epoch
        where the monitor was never a number.
      last: the state after the last epoch; if the run ended on a loss or weight that is not finite, after the last epoch before.
      best_epoch: the best epoch, None where the monitor was never a number.
      stop_reason: "epochs", "early_stopping" or "non_finite".
      timing: where the time went.
      data: "train" and, where there is one, "validation" -> where the rows come from, as plain values.
    """

    history: History
    best: TrainState
    last: TrainState
    best_epoch: int | None
    stop_reason: StopReason
    timing: Timing
    data: Mapping[str, Any]

    def __repr__(self) -> str:
        epochs, pace = len(self.history.epochs), f"{self.timing.epoch * 1e3:.3g} ms an epoch"
        end = {"epochs": "all that were asked for", "early_stopping": "stopped early", "non_finite": "ended by a value that is not finite"}
        return f"Result({epochs} epochs, {end[self.stop_reason]}; best epoch {self.best_epoch}; {pace})"


def fit(
    task: Task,
    train: Dataset | Stream,
    *,
    validation: Dataset | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    early_stopping: EarlyStopping | None = None,
    hooks: Sequence[Hook] = (),
    initial: TrainState | None = None,
    class_weight: Mapping[int, float] | None = None,
    replacement: bool = False,
    terminate_on_nan: bool = True,
    run_dir: str | os.PathLike[str] | None = None,
    resume: Resume = "auto",
) -> Result:
    """Trains a task.

    Args:
      task: what to train. Programs are kept with it: fit the same object again and nothing compiles.
      train: the training rows; moved to the device once. Or a `flaxfit.data.Stream` of more than fit there: the same losses.
      validation: rows that each epoch is validated on, or None.
      epochs: how many, at most.
      batch_size: rows a step; the last step of an epoch takes what is left. Above the rows: one short batch.
      seed: decides the initial weights, the order of rows and all other randomness; below 2**32.
      early_stopping: when to stop sooner.
      hooks: who looks on, how often (see `flaxfit.hooks`).
      initial: start from these weights instead of fresh ones, and from this optimiser state where there is one.
      class_weight: integer class -> factor on its rows' training loss, as in Keras.
      replacement: draw each batch with replacement.
      terminate_on_nan: end at the first epoch with a loss or a weight that is not finite. False: go on.
      run_dir: a directory for this run: configuration, metrics, checkpoints and, in the end, the model for `flaxfit.load`. On SIGINT and
        SIGTERM the run then saves and exits with 130 or 143.
      resume: where `run_dir` holds this run, "auto" goes on from its last checkpoint, to the same bits as if it had never stopped, or
        returns what is finished; "never" refuses to; "must" refuses to start anew. `epochs` may be larger than before.

    Returns:
      A `Result`; of a run that went on its timing is of this process.

    Raises:
      ValueError, TypeError: an input that cannot work, before anything compiles; of a stream's rows, once they are read. A run in
        `run_dir` that was another: lists the differences.
      RuntimeError: another process runs in `run_dir`.
      FileExistsError, FileNotFoundError: what `resume` refuses.

    Warns:
      RuntimeWarning: the run ended on a value that is not finite; says which and when.

    Example:
      >>> import flaxfit as ff, numpy as np, optax
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> task = ff.Task(model=ff.nn.MLP((8,), 1), loss=ff.losses.mse, optimizer=optax.adam(1e-2))
      >>> result = ff.fit(task, ff.Dataset(x, x[:, 0] ** 2), epochs=5, batch_size=16)
      >>> len(result.history["loss"]), result.stop_reason
      (5, 'epochs')
    """
    began = time.perf_counter()
    check_task(task)
    whole = not isinstance(train, Stream)
    data = train if whole else train[:1]
    check_data("train", data)
    epochs = check_count("epochs", epochs, 1, "epochs")
    batch_size = check_count("batch_size", batch_size, 1, "rows a step")
    if check_count("seed", seed, 0, "below 2**32") >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}: JAX would take it modulo that.")
    if validation is not None:
        check_data("validation", validation)
        check_alike(data, validation)
    hooks = check_hooks(hooks)
    if run_dir is not None and not any(isinstance(hook, Checkpoint) and not hook.weights_only for hook in hooks):
        hooks = [*hooks, Checkpoint(every_seconds=60)]
    if run_dir is not None:
        hooks = [*hooks, Metrics()]
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        raise TypeError(f'early_stopping must be ff.EarlyStopping("val_loss", patience=...), got {early_stopping!r}.')

    def weighted(rows: Dataset) -> Dataset:
        return rows if class_weight is None else class_weighted(rows, class_weight, whole)

    data = weighted(data)
    shapes, logits = kept(task, "shapes", (data[:1],), lambda: check_program(task, data))
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
    names = run.columns(task, validation is not None, shapes)
    check_monitor(stopping.monitor, names[:-1])
    stopping.direction  # noqa: B018  (raises for a name that does not tell)
    for hook in hooks:
        if isinstance(hook, Checkpoint):
            hook.check(names)

    plan = run.Plan(
        min(batch_size, len(train)), stopping, early_stopping is not None, replacement=replacement, terminate_on_nan=terminate_on_nan
    )
    sets = {"train": train} | ({} if validation is None else {"validation": validation})
    about = Run(
        task,
        names,
        stopping,
        len(train),
        run.steps_per_epoch(len(train), plan.batch_size),
        epochs,
        data={name: rows.record() for name, rows in sets.items()},
    )
    x, validation, key = jax.device_put((data[:1].x, validation, jax.random.key(seed)))

    def checked(rows: Dataset) -> Dataset:
        check_labels(task, "train", rows, logits)
        return weighted(rows)

    with ExitStack() as stack:
        session = None
        if run_dir is not None:
            how = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "early_stopping": early_stopping, "class_weight": class_weight}
            how |= {"replacement": replacement, "terminate_on_nan": terminate_on_nan}
            session = stack.enter_context(Session(run_dir, resume, task, how, sets))
        if isinstance(train, Stream):
            supply = stack.enter_context(Feed(train, plan.batch_size, epochs, checked, "train", key, replacement)).at
        else:
            supply = functools.partial(_all_rows, jax.device_put(data))
        rows, until = supply(0, 0)[0], jnp.zeros((), jnp.int32)
        start, advance = (functools.partial(function, task, plan) for function in (run.start, run.advance))
        if session is not None:
            like = jax.eval_shape(start, key, x, initial)
            session.confirm(jax.jit(advance, donate_argnums=0).lower(like, rows, validation, until))
            about = replace(about, directory=session.directory, history=session.restore(like, names))
        if session is not None and session.state is not None:
            state = session.state
        else:
            state = compiled(task, ("start", plan.stopping.direction), start, key, x, initial)(key, x, initial)
        advance = compiled(task, plan, advance, state, rows, validation, until, donate=(0,))
        del rows  # the first chunk of a stream would stay in memory
        compile_seconds = time.perf_counter() - began

        def train_on(state: RunState, position: int, until: int) -> tuple[RunState, Any]:
            rows, until = supply(position, until)
            return advance(state, rows, validation, jax.device_put(np.int32(until)))

        state, history, chunks, train_seconds = _drive(train_on, state, about, plan, hooks, session and session.signals)
        reason = _stop_reason(state, plan)
        last = state.finite if reason == "non_finite" else state.train
        best = state.best if int(state.stopper.best_epoch) else for_evaluation(task, last)
        trained = len(history.epochs) - (0 if about.history is None else len(about.history.epochs))
        timing = Timing(compile_seconds, train_seconds, train_seconds / max(1, trained), chunks)
        result = Result(history, best, last, history.best_epoch, reason, timing, about.data)
        if session is not None:
            session.finish(task, data, result)
    if reason == "non_finite":
        warnings.warn(_what_was_not_finite(history), RuntimeWarning, stacklevel=2)
    return result


def resume(
    run_dir: str | os.PathLike[str],
    task: Task,
    train: Dataset | Stream,
    *,
    validation: Dataset | None = None,
    hooks: Sequence[Hook] = (),
    initial: TrainState | None = None,
    epochs: int | None = None,
) -> Result:
    """Goes on with a run; all arguments of `fit` that are not given here come from its directory.

    Args:
      run_dir: the run's directory.
      task: what was trained, as it was.
      train: the training rows, as they were.
      validation: the validation rows, as they were.
      hooks: as for `fit`.
      initial: as it was; its shapes matter, its numbers do not.
      epochs: how many in all, if more than before.

    Returns:
      What `fit` returns.

    Raises:
      FileNotFoundError: there is no run; and what `fit` raises.
    """
    directory = RunDirectory(run_dir)
    config = directory.read_config()
    if config is None:
        raise FileNotFoundError(f"{directory.path} holds no run to resume.")
    how: dict[str, Any] = arguments_of(config) | ({} if epochs is None else {"epochs": epochs})
    return fit(task, train, validation=validation, hooks=hooks, initial=initial, run_dir=run_dir, resume="must", **how)


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


def _what_was_not_finite(history: History) -> str:
    epoch, values = history.epochs[-1], history.row(-1)
    names = [name for name in ("loss", "val_loss") if not math.isfinite(values.get(name, 0.0))]
    what = " and ".join(f"{name} is {values[name]}" for name in names) or "a weight or batch statistic is not finite"
    last = f"the state after epoch {epoch - 1}" if epoch > 1 else "the initial state"
    return (
        f"training ended in epoch {epoch}: {what}. Result.last is {last}. Lower the learning rate, clip the "
        "gradient (optax.clip_by_global_norm) or scale the inputs; fit(terminate_on_nan=False) goes on regardless."
    )
