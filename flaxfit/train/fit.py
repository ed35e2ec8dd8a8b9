"""The driver: compiled chunks of a run, with a look at the host between them."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from jax.sharding import Mesh

from flaxfit.callbacks import Callback, Checkpoint, Metrics
from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Stream
from flaxfit.devices.sharding import Placement, Shard
from flaxfit.state import TrainState
from flaxfit.storage.directory import RunDirectory
from flaxfit.train.checks import check_callbacks, check_seed, check_task
from flaxfit.train.job import Job, what_was_not_finite
from flaxfit.train.programs import Family
from flaxfit.train.result import Result
from flaxfit.train.session import Resume, Session, arguments_of, described
from flaxfit.train.stopping import EarlyStopping
from flaxfit.train.task import Task


def fit(
    task: Task,
    train: Dataset | Stream,
    *,
    validation: Dataset | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    early_stopping: EarlyStopping | None = None,
    callbacks: Sequence[Callback] = (),
    initial: TrainState | None = None,
    class_weight: Mapping[int, float] | None = None,
    replacement: bool = False,
    terminate_on_nan: bool = True,
    mesh: Mesh | None = None,
    shard: Shard | None = None,
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
      callbacks: who looks on, how often (see `flaxfit.callbacks`).
      initial: start from these weights instead of fresh ones, and from this optimiser state where there is one.
      class_weight: integer class -> factor on its rows' training loss, as in Keras.
      replacement: draw each batch with replacement.
      terminate_on_nan: end at the first epoch with a loss or a weight that is not finite. False: go on.
      mesh: devices to share the work, to the same losses but for rounding: each step's rows are spread along its first axis. Of several
        processes (`flaxfit.distributed`) each passes its part of the training rows, equally many, and all validation rows; the first one
        has the callbacks and the directory.
      shard: how parameters, and with them the optimiser's state, are spread over the mesh: `flaxfit.sharding.fsdp()`, or regular
        expressions on the path -> `PartitionSpec`. By default they lie whole on each device.
      run_dir: a directory for this run: configuration, metrics, checkpoints and, in the end, the model for `flaxfit.load`. On SIGINT and
        SIGTERM the run then saves and exits with 130 or 143.
      resume: where `run_dir` holds this run, "auto" goes on from its last checkpoint, to the same bits as if it had never stopped, or
        returns what is finished; "never" refuses to; "must" refuses to start anew. `epochs` may be larger than before.

    Returns:
      A `Result`; of a run that went on its timing is of this process.

    Raises:
      ValueError, TypeError: an input that cannot work, before anything compiles; of a stream's rows, once they are read. A run in
        `run_dir` that was another: lists the differences.
      RuntimeError: another process runs in `run_dir`; one of this run's processes failed or was lost.
      FileExistsError, FileNotFoundError: what `resume` refuses.

    Warns:
      UserWarning: the steps' rows do not divide over the mesh.
      RuntimeWarning: the run ended on a value that is not finite; says which and when.

    Example:
      >>> import flaxfit as ff, numpy as np, optax
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> task = ff.Task(model=ff.nn.MLP((8,), 1), loss=ff.losses.mse, optimizer=optax.adam(1e-2))
      >>> result = ff.fit(task, ff.Dataset(x, x[:, 0] ** 2), epochs=5, batch_size=16)
      >>> len(result.history["loss"]), result.stop_reason
      (5, 'epochs')
    """
    check_task(task)
    check_seed(seed)
    options = {"epochs": epochs, "batch_size": batch_size, "early_stopping": early_stopping, "class_weight": class_weight}
    options |= {"replacement": replacement, "terminate_on_nan": terminate_on_nan}
    began = time.perf_counter()
    placement = Placement.over(mesh, shard)
    with ExitStack() as stack:
        stack.enter_context(placement.team.watch(run_dir))
        with placement.team.together():
            job = Job(Family(task), task, train, validation, initial, options, placement)
            callbacks = run_callbacks(callbacks, job.columns, run_dir is not None)
        job.check_team(task, seed)
        session = None
        if run_dir is not None:
            config = described(task, {**job.options, "seed": seed}, job.recorded)
            session = Session(run_dir, resume, config, team=placement.team)
            stack.enter_context(session)
        checked = time.perf_counter() - began
        result = job.run(task, {}, seed, callbacks, session, session and session.signals)
        result = replace(result, timing=replace(result.timing, compile=result.timing.compile + checked))
        if session is not None:
            session.finish(task, job.data, result)
    if result.stop_reason == "non_finite":
        warnings.warn(what_was_not_finite(result.history), RuntimeWarning, stacklevel=2)
    return result


def run_callbacks(callbacks: Sequence[Callback], columns: Sequence[str], durable: bool) -> list[Callback]:
    """The callbacks of a run, checked; of one with a directory, with those that fill it."""
    callbacks = check_callbacks(callbacks)
    if durable and not any(isinstance(callback, Checkpoint) and not callback.weights_only for callback in callbacks):
        callbacks = [*callbacks, Checkpoint(every_seconds=60)]
    for callback in callbacks:
        if isinstance(callback, Checkpoint):
            callback.check(columns)
    return [*callbacks, Metrics()] if durable else callbacks


def resume(
    run_dir: str | os.PathLike[str],
    task: Task,
    train: Dataset | Stream,
    *,
    validation: Dataset | None = None,
    callbacks: Sequence[Callback] = (),
    initial: TrainState | None = None,
    epochs: int | None = None,
    mesh: Mesh | None = None,
    shard: Shard | None = None,
) -> Result:
    """Goes on with a run; all arguments of `fit` that are not given here come from its directory.

    Args:
      run_dir: the run's directory.
      task: what was trained, as it was.
      train: the training rows, as they were.
      validation: the validation rows, as they were.
      callbacks: as for `fit`.
      initial: as it was; its shapes matter, its numbers do not.
      epochs: how many in all, if more than before.
      mesh, shard: as for `fit`; they may be others than before, and the bits are the same only where they are not.

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
    how |= {"mesh": mesh, "shard": shard, "callbacks": callbacks, "initial": initial}
    return fit(task, train, validation=validation, run_dir=run_dir, resume="must", **how)
