"""Training one run."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Never

from jax.sharding import Mesh

from flaxfit.callbacks import Callback, Checkpoint, Run
from flaxfit.callbacks.base import check_callbacks
from flaxfit.callbacks.loggers import MetricsFile
from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import held_out
from flaxfit.data.stream import Stream
from flaxfit.data.table import Table, encoded
from flaxfit.devices.sharding import Placement, Shard, gather
from flaxfit.programs.checks import check_task
from flaxfit.programs.compiled import programs_of
from flaxfit.programs.constant import constant_scores
from flaxfit.programs.plateau import Plateau
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.signals import Signals
from flaxfit.state import TrainState
from flaxfit.storage.directory import RunDirectory
from flaxfit.task.labels import ClassWeight
from flaxfit.task.task import Task
from flaxfit.train import loop
from flaxfit.train.config import TrainConfig, check_seed, no_argument
from flaxfit.train.job import Member, Single
from flaxfit.train.record import Resume, described
from flaxfit.train.result import Result, result_of, what_never_changed, what_was_not_finite
from flaxfit.train.session import Session
from flaxfit.train.validate import validate


def fit(
    task: Task,
    train: Dataset | Stream | Table,
    *,
    validation: Dataset | Table | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    early_stopping: EarlyStopping | None = None,
    plateau: Plateau | None = None,
    callbacks: Sequence[Callback] = (),
    initial: TrainState | None = None,
    class_weight: ClassWeight | None = None,
    replacement: bool = False,
    terminate_on_nan: bool = True,
    shuffle: bool = True,
    validation_split: float | None = None,
    validation_every: int = 1,
    validation_batch_size: int | None = None,
    mesh: Mesh | None = None,
    shard: Shard | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: Resume = "auto",
    **others: Never,
) -> Result:
    """Trains a model as one compiled program.

    Args:
      task: what to train. It keeps its compiled programs, so that a second call with the same object compiles nothing.
      train: the training examples, which are moved to the device once; or a `flaxfit.data.Stream` of more than fit there. The encoding of a
        table is learned from its rows.
      validation: the examples that each epoch is validated on, or None.
      epochs, batch_size, early_stopping, plateau, class_weight, replacement, terminate_on_nan: how to train, as `flaxfit.TrainConfig` says.
      shuffle, validation_split, validation_every, validation_batch_size: likewise.
      seed: the seed of the initial weights, the order of the examples and all other randomness, below 2**32.
      callbacks: objects that are called between chunks (see `flaxfit.callbacks`).
      initial: weights to start from instead of fresh ones, and the state of the optimizer if it has one.
      mesh: the devices that share the work. The examples of each step are spread along its first axis, and losses change by rounding only.
        With several processes (`flaxfit.distributed`), each passes its part of the training examples, the same number for all, and all
        validation examples. The first process calls the callbacks and writes the directory.
      shard: how parameters and the state of the optimizer are spread over the mesh: `flaxfit.sharding.fsdp()`, or regular expressions on
        the path -> `PartitionSpec`. By default each device has all of them. Each of several processes then saves its own parts, so that
        all of them must see `run_dir`.
      run_dir: a directory for this run: configuration, metrics, checkpoints and, in the end, the model for `flaxfit.load`.
      resume: what to do if `run_dir` has this run already. "auto" resumes it from its last checkpoint, with the same bits as if it had
        never stopped, or returns it if it is finished. "never" raises an error; "must" raises one if there is no run; "force" also
        resumes a run whose configuration is another. `epochs` may be larger than before.
      others: none. For an argument of Keras, the error says what it is here.

    Returns:
      A `Result`. The timing of a resumed run covers this process only. If Ctrl-C or the stop button of a notebook ends the run in an
      interactive session, it is the result so far, with `stop_reason` "interrupted".

    Raises:
      ValueError, TypeError: an argument cannot work, which is found before anything compiles (the examples of a stream are checked when
        they are read); or `run_dir` has another run, and the message lists the differences, or checkpoints of another run.
      RuntimeError: another process uses `run_dir`; or a process of this run failed or was lost.
      FileExistsError, FileNotFoundError: there is a run and `resume` is "never", or there is none and it is "must"; or `run_dir` has
        other files in the place of its own.
      KeyboardInterrupt: Ctrl-C ended the run in a script. Everything is saved, and the error's attribute `result` is the result so far.
        After SIGTERM and SIGHUP everything is saved, too, before the process ends. A second signal ends it at once.

    Warns:
      UserWarning: the examples of a step do not divide over the mesh; the resumed run was made by other versions; the model is likely to be
        wrong, such as probabilities before a loss of logits.
      RuntimeWarning: the run ended on a value that is not finite, or something could not be written to `run_dir`.

    Example:
      >>> import flaxfit as ff, numpy as np, optax
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> task = ff.Task(model=ff.nn.MLP((8,), 1), loss=ff.losses.mse, optimizer=optax.adam(1e-2))
      >>> result = ff.fit(task, ff.Dataset(x, x[:, 0] ** 2), epochs=5, batch_size=16)
      >>> len(result.history["loss"]), result.stop_reason
      (5, 'epochs')
    """
    began = time.perf_counter()
    if others:
        raise no_argument("fit", others, inspect.signature(fit).parameters)
    check_task(task)
    config = TrainConfig(
        epochs,
        batch_size,
        early_stopping,
        plateau,
        class_weight,
        replacement,
        terminate_on_nan,
        shuffle,
        validation_split,
        validation_every,
        validation_batch_size,
    )
    initial = gather(initial)  # It may be the end of a run over processes.
    train, validation = encoded(*held_out(train, validation, config.validation_split))
    member = Member({}, check_seed(seed), task, programs=programs_of(task))
    placement = Placement.over(mesh, shard)
    team, signals = placement.team, Signals()
    with ExitStack() as stack:
        stack.enter_context(signals)
        stack.enter_context(team.watch(run_dir))
        with team.together():
            job = validate(member, train, validation, config, initial, placement)
            chosen = run_callbacks(callbacks, job.run(task), durable=run_dir is not None)
        if team.size > 1:
            job.check_team(described(task, job.config, seed, {}, job.initial))
        session = None
        if run_dir is not None:
            record = described(task, job.config, seed, job.recorded, job.initial)
            if job.validation is not None:
                record["constant"] = constant_scores(task, job.validation)  # for a report
            session = stack.enter_context(Session(run_dir, resume, record, team))
        batch = stack.enter_context(Single(job, member))
        found, writers = None, placement.writers(batch.like)
        if session is not None:
            session.confirm(batch.program())
            found = session.restore(batch.like, job.columns, writers)
        state, history, notes = found or (None, None, {})
        batch.start(state)
        about = job.run(task, directory=session and session.directory, history=history, writers=writers)
        if not team.leads:  # What saves a state that is spread over the processes is called in all of them.
            chosen = [callback for callback in chosen if writers.size > 1 and callback.saves and callback.reads_state]
        trainee = loop.Trainee(about, chosen, notes)
        loop.train(batch, [trainee], job.plan, began, signals, team)
        assert trainee.state is not None
        assert trainee.stop_reason is not None
        result = result_of(task, trainee.state, trainee.history, trainee.stop_reason, trainee.timing, about.data)
        if session is not None:
            session.export(task, result, job.data[:1])
    if signals.heard is not None:
        trained = f"{len(result.history.epochs)} of {epochs} epochs"
        message = f"ended after {trained}; nothing is saved without fit(run_dir=...)."
        if run_dir is not None:
            message = f"saved after {trained}. To continue: the same command, or flaxfit resume {run_dir}"
        signals.end(message, result, returns=True, team=team)
    if result.stop_reason == "non_finite":
        warnings.warn(what_was_not_finite(result.history), RuntimeWarning, stacklevel=2)
    elif (stuck := what_never_changed(task, result.history)) is not None:
        warnings.warn(stuck, UserWarning, stacklevel=2)
    return result


def run_callbacks(callbacks: Any, run: Run, durable: bool) -> list[Callback]:
    """Returns the callbacks of a run after checking them, with those that write its directory if it has one."""
    callbacks = check_callbacks(callbacks, run)
    if durable and not any(isinstance(callback, Checkpoint) for callback in callbacks):
        callbacks.append(Checkpoint(every_seconds=60))
    return [*callbacks, MetricsFile()] if durable else callbacks


def resume(
    run_dir: str | os.PathLike[str],
    task: Task,
    train: Dataset | Stream | Table,
    *,
    validation: Dataset | Table | None = None,
    callbacks: Sequence[Callback] = (),
    initial: TrainState | None = None,
    epochs: int | None = None,
    mesh: Mesh | None = None,
    shard: Shard | None = None,
) -> Result:
    """Resumes a run. All arguments of `fit` that are not given here come from its directory.

    Args:
      run_dir: the directory of the run.
      task: the same task as before.
      train: the same training examples.
      validation: the same validation examples.
      callbacks: as for `fit`.
      initial: the same initial weights.
      epochs: the number of epochs in all, if more than before.
      mesh, shard: as for `fit`. They may differ from before, but then the bits may differ, too.

    Returns:
      A `Result`, as `fit`.

    Raises:
      FileNotFoundError: there is no run. Other errors are those of `fit`.
    """
    directory = RunDirectory(run_dir)
    record = directory.read_config()
    if record is None:
        raise FileNotFoundError(f"{directory.path} has no run to resume.")
    arguments = record["arguments"] | ({} if epochs is None else {"epochs": epochs})
    options: dict[str, Any] = {**vars(TrainConfig.from_record(arguments)), "seed": arguments["seed"]}
    options |= {"mesh": mesh, "shard": shard, "callbacks": callbacks, "initial": initial}
    return fit(task, train, validation=validation, run_dir=run_dir, resume="must", **options)
