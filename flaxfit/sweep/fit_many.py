"""Many runs as one population: seeds, settings, folds."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np

from flaxfit.arguments import check_count
from flaxfit.callbacks import Callback
from flaxfit.callbacks.base import check_callbacks
from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import Splits, held_out
from flaxfit.data.table import Table, encoded
from flaxfit.programs.compiled import MakeTask
from flaxfit.programs.plateau import Plateau
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.signals import Signals
from flaxfit.storage.directory import RunDirectory, environment
from flaxfit.storage.store import Store
from flaxfit.sweep.executors import Executors, Pool, Workers, collect, pool_of
from flaxfit.sweep.grid import Grid, expand
from flaxfit.sweep.members import Entry, Trial, member_of
from flaxfit.sweep.strategies import Strategy, chosen, in_threads, side_by_side
from flaxfit.sweep.study import Study
from flaxfit.sweep.tally import Ends, Tally
from flaxfit.sweep.worker import Recipe
from flaxfit.task.labels import ClassWeight
from flaxfit.train.config import TrainConfig, check_seed
from flaxfit.train.job import Job, Member, Split
from flaxfit.train.record import Resume
from flaxfit.train.session import opened
from flaxfit.train.validate import validate


def fit_many(
    make_task: MakeTask,
    grid: Grid | None = None,
    train: Dataset | Table | None = None,
    *,
    seeds: int | Sequence[int] = 1,
    validation: Dataset | Table | None = None,
    splits: Sequence[Splits] | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    early_stopping: EarlyStopping | None = None,
    plateau: Plateau | None = None,
    class_weight: ClassWeight | None = None,
    replacement: bool = False,
    terminate_on_nan: bool = True,
    shuffle: bool = True,
    validation_split: float | None = None,
    validation_every: int = 1,
    validation_batch_size: int | None = None,
    callbacks: Callable[[Member], Sequence[Callback]] | None = None,
    progress: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: Resume = "auto",
    strategy: Strategy = "auto",
    workers: int | None = None,
    executor: Executors | None = None,
) -> Study:
    """Trains each setting of a grid from several seeds. Each member is the run that `fit` makes with the same values and the same seed.

    Members share one compiled program, of which the numbers of the grid are arguments. Values that change the shape of the network, or that
    are marked with `flaxfit.static`, make a program of their own.

    Args:
      make_task: a function of a mapping of hyperparameters that returns a Task; or a Task, to train it from several seeds. Its numbers are
        traced: it can compute with them, but must not branch on them.
      grid: name -> values, of which all combinations are trained; or a list of settings. A list of values with a floating-point number is
        traced.
      train: the training examples.
      seeds: the number of seeds (0, 1, ...), or a list of seeds.
      validation: the validation examples, or None.
      epochs, batch_size, early_stopping, plateau, class_weight, replacement, terminate_on_nan: as `flaxfit.TrainConfig` says.
      shuffle, validation_split, validation_every, validation_batch_size: likewise.
      splits: a list of results of `flaxfit.data.split`, instead of `train` and `validation`. Each setting is trained on each split, whose
        place in the list is `member.fold`. `study.evaluate([s.test for s in splits])` scores each member on its own test examples.
      callbacks: a function of the member that returns its callbacks. Their files are written to the directory `members/NAME` of `run_dir`.
      progress: a title for the progress on standard error, or None for no progress.
      run_dir: a directory for the population. It has few files whatever the number of members: `config.json`, and `members.sqlite` with the
        history and the state of each member. A member has a directory of its own only if a callback or `Study.export` writes to it. Members
        are saved every minute, or as a `Checkpoint` among their callbacks says, and when they end.
      resume: as for `fit`. The population may be larger than before, and the strategy and the devices may be different.
      strategy: "threads" trains members one by one, with a thread for each core, and is best on a CPU. "vmap" trains as many members side
        by side as fit in memory, on all local devices, and is best on accelerators. "auto" chooses by the backend. The last bits of a
        member may differ between the two.
      workers: the number of threads; by default the number of cores. With an executor, it is the number of members in a batch, which one
        worker trains at the same time; by default 1, or 8 side by side.
      executor: trains the members in the workers of a `concurrent.futures.Executor`, such as a `ProcessPoolExecutor` or that of a Dask
        client; or a function that makes one, which is called again if a worker that died has broken the executor. The bits of a member
        that is trained by itself are those of a population without executor on the same kind of device.

    Returns:
      A `Study`, with members in the order of the grid, then of splits, then of seeds.

    Raises:
      ValueError, TypeError: as `fit`; the grid is not one; `make_task` needs the value of a traced number; the executor is none, or
        `make_task` or the callbacks cannot be sent to its workers.
      RuntimeError: a worker of the executor died, and nothing can take its place. The same call resumes the members that are missing.
      KeyboardInterrupt: Ctrl-C ended the population. The members that had finished are a `Study` in the error's attribute `result`, which
        is None if there are none.

    Warns:
      RuntimeWarning: some members ended on a value that is not finite.

    Example:
      >>> import flaxfit as ff, numpy as np, optax
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> def make_task(hp):
      ...     return ff.Task(ff.nn.MLP((8,), 1), ff.losses.mse, optax.adam(hp["rate"]), penalty=ff.penalties.l2(hp["l2"]))
      >>> study = ff.fit_many(make_task, {"rate": [1e-2], "l2": [0.0, 1e-3]}, ff.Dataset(x, x[:, 0] ** 2), seeds=2, epochs=3)
      >>> [member.name for member in study.members]
      ['rate=0.01,l2=0.0,seed=0', 'rate=0.01,l2=0.0,seed=1', 'rate=0.01,l2=0.001,seed=0', 'rate=0.01,l2=0.001,seed=1']
      >>> study.table(at="last").rows[0].interval.count
      2
    """
    if (train is None) == (splits is None) or (splits is not None and validation is not None):
        raise TypeError("fit_many needs the training rows: fit_many(make_task, grid, train, ...), or instead of them splits=[...].")
    if splits is not None and not (splits and all(isinstance(part, Splits) for part in splits)):
        raise TypeError(f"fit_many(splits=...) takes a list of what ff.data.split returns, at least one, got {splits!r}.")
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
    settings, traced = expand(grid)
    if splits is None:
        rows: list[Any] = [(*encoded(*held_out(train, validation, validation_split)), None)]
    elif validation_split is None:
        rows = [(part.train, part.validation, fold, None, _split(part)) for fold, part in enumerate(splits)]
    else:
        raise ValueError("fit_many(splits=...) has validation rows in its splits: leave out validation_split.")
    trials = [Trial(setting, seed, *part) for setting in settings for part in rows for seed in check_seeds(seeds)]
    return train_all(make_task, trials, traced, config, callbacks, progress, run_dir, resume, strategy, workers, executor)


def _split(part: Splits) -> Split | None:
    if part.test is not None:
        return Split(len(part.train) + (0 if part.validation is None else len(part.validation)), len(part.test), False)
    return None if part.validation is None else Split(len(part.train), len(part.validation), True)


def check_seeds(seeds: Any) -> list[int]:
    """Returns the seeds as a list."""
    if not isinstance(seeds, Sequence | np.ndarray | range):
        return list(range(check_count("seeds", seeds, 1, "runs of each setting")))
    listed = [check_seed(seed) for seed in seeds]
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"seeds must be one or more different numbers, got {listed}.")
    return listed


def train_all(
    make_task: MakeTask,
    trials: Sequence[Trial],
    traced: set[str],
    config: TrainConfig,
    callbacks: Callable[[Member], Sequence[Callback]] | None = None,
    progress: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: Resume = "auto",
    strategy: Strategy = "auto",
    workers: int | None = None,
    executor: Executors | Pool | None = None,
    transient: bool = False,
) -> Study:
    """Trains one member for each trial. The other arguments are those of `fit_many`; `transient` progress leaves no line at the end."""
    began = time.perf_counter()
    way = chosen(strategy)
    members = [member_of(make_task, trial, traced, config) for trial in trials]
    directory = None if run_dir is None else RunDirectory(run_dir)
    jobs: dict[Any, Job] = {}
    entries = []
    with ExitStack() as stack:
        pool = stack.enter_context(pool_of(executor))
        for member, trial in zip(members, trials, strict=True):
            key = (member.programs, id(trial.train), id(trial.validation))
            if key not in jobs:
                jobs[key] = validate(member, trial.train, trial.validation, config)
            own = check_callbacks(callbacks(member) if callbacks else [], jobs[key].run(member.task))
            entries.append(Entry(trial, member, jobs[key], own, directory))
        engine = None if pool is None else Workers(pool, Recipe(make_task, traced, config, callbacks), entries, way, workers)
        stack.enter_context(signals := Signals())
        store = None if directory is None else stack.enter_context(_opened(directory, resume))
        tally = stack.enter_context(Tally(progress, len(members), transient))
        for entry in entries:
            if store is not None:
                entry.open(store, resume)
            tally.add(entry.result is not None)
        waiting = [entry for entry in entries if entry.result is None]
        if engine is not None:
            engine.train(waiting, directory, store, signals, tally)
        else:
            for entry in waiting:
                entry.callbacks.append(Ends(tally))
                if store is not None:
                    entry.save_in(store)
            if way == "vmap":
                side_by_side(waiting, signals, nullcontext if store is None else store.together)
            else:
                in_threads(waiting, workers, signals)
    monitor = entries[0].job.plan.stopping.column
    if signals.heard is not None:
        ended = {entry.member: entry.result for entry in entries if entry.result is not None}
        some = Study([*ended], [*ended.values()], monitor, time.perf_counter() - began, directory) if ended else None
        saved = "nothing is saved without run_dir" if directory is None else f"saved in {directory.path}. To continue: the same command"
        signals.end(f"{len(ended)} of {len(members)} members had finished; {saved}.", some, returns=False)
    results = [entry.result for entry in entries if entry.result is not None]
    broken = [member.name for member, result in zip(members, results, strict=True) if result.stop_reason == "non_finite"]
    if broken:
        message = f"{len(broken)} of {len(members)} members ended on a value that is not finite: {'; '.join(broken[:5])}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return Study(members, results, monitor, time.perf_counter() - began, directory)


@contextmanager
def _opened(directory: RunDirectory, resume: Resume) -> Iterator[Store]:
    """Locks the directory of a population for this process, and opens its store."""
    with opened(directory, resume, "population") as old, Store(directory.store) as store:
        if old is not None and "population" not in old:
            raise ValueError(f"{directory.path} has a run, not a population: use another directory.")
        directory.write_config({"population": True, "environment": environment()})
        collect(directory, store)
        yield store
