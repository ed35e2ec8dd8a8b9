"""Many runs as one population: seeds, settings, folds."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.arguments import check_count, unknown
from flaxfit.callbacks import Callback, Checkpoint, Progress
from flaxfit.callbacks.base import check_callbacks
from flaxfit.callbacks.line import Line, Status
from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import Splits, held_out
from flaxfit.data.table import Table, encoded
from flaxfit.devices.sharding import arrays_of
from flaxfit.history import History
from flaxfit.state import RunState
from flaxfit.storage.checkpoints import placed
from flaxfit.storage.directory import RunDirectory, environment, versions
from flaxfit.storage.store import Saved, Store
from flaxfit.sweep.grid import Grid, expand, name_of
from flaxfit.sweep.mapped import Group, Mapped
from flaxfit.sweep.study import Study
from flaxfit.train.checks import check_task
from flaxfit.train.compiled import MakeTask, programs_of
from flaxfit.train.config import TrainConfig, check_seed
from flaxfit.train.job import Job, Member, Single, Split
from flaxfit.train.labels import ClassWeight
from flaxfit.train.loop import Trainee, train, why_ended
from flaxfit.train.plateau import Plateau
from flaxfit.train.record import Resume, check_same_run, described, plain
from flaxfit.train.result import Result, Timing, result_of
from flaxfit.train.session import opened
from flaxfit.train.signals import Signals
from flaxfit.train.stopping import EarlyStopping
from flaxfit.train.task import Task
from flaxfit.train.validate import validate

Strategy = Literal["auto", "threads", "vmap"]
SAVE_SECONDS = 60.0
"""How often members in training are saved, unless a `Checkpoint` says."""


@dataclass(frozen=True)
class Trial:
    """What a member is to be trained on.

    Attributes:
      setting: its hyperparameters.
      seed: its seed.
      train: its training rows.
      validation: its validation rows, or None.
      fold: its fold, or None.
      fitted: what was fitted to its training rows, by name: trees of arrays that `make_task` gets besides the setting.
      split: how many rows its fold has, or None.
    """

    setting: Mapping[str, Any]
    seed: int
    train: Dataset
    validation: Dataset | None
    fold: int | None = None
    fitted: Mapping[str, Any] | None = None
    split: Split | None = None


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
      workers: the number of threads; by default the number of cores.

    Returns:
      A `Study`, with members in the order of the grid, then of splits, then of seeds.

    Raises:
      ValueError, TypeError: as `fit`; the grid is not one; `make_task` needs the value of a traced number.
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
    return train_all(make_task, trials, traced, config, callbacks, progress, run_dir, resume, strategy, workers)


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
) -> Study:
    """Trains one member for each trial. The other arguments are those of `fit_many`."""
    began = time.perf_counter()
    if strategy not in ("auto", "threads", "vmap"):
        raise ValueError(unknown("strategy", str(strategy), ("auto", "threads", "vmap")))
    if strategy == "auto":
        strategy = "threads" if jax.default_backend() == "cpu" else "vmap"
    members = [member_of(make_task, trial, traced, config) for trial in trials]
    jobs: dict[Any, Job] = {}
    entries = []
    with ExitStack() as stack:
        for member, trial in zip(members, trials, strict=True):
            key = (member.programs, id(trial.train), id(trial.validation))
            if key not in jobs:
                jobs[key] = validate(member, trial.train, trial.validation, config)
            chosen = check_callbacks(callbacks(member) if callbacks else [], jobs[key].run(member.task))
            entries.append(_Entry(member, jobs[key], chosen))
        stack.enter_context(signals := Signals())
        directory, store = stack.enter_context(_population(run_dir, resume))
        tally = stack.enter_context(_Tally(progress, len(members)))
        for entry in entries:
            entry.open(directory, store, resume, tally)
        waiting = [entry for entry in entries if entry.result is None]
        if strategy == "vmap":
            _side_by_side(waiting, signals)
        else:
            _in_threads(waiting, workers, signals)
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


class _Entry:
    """A member during training: its job, its callbacks, its state, and at the end its result."""

    def __init__(self, member: Member, job: Job, callbacks: Sequence[Callback]):
        self.member, self.job, self.callbacks = member, job, list(callbacks)
        self.state: RunState | None = None
        self.result: Result | None = None
        self.record: dict[str, Any] = {}
        self._history: History | None = None
        self._notes: Mapping[str, Any] = {}

    @property
    def position(self) -> int:
        """The number of steps done."""
        return 0 if self.state is None else int(self.state.epoch) * self.job.steps + int(self.state.step)

    def open(self, directory: RunDirectory | None, store: Store | None, resume: Resume, tally: _Tally) -> None:
        """Reads the member from the store, and its result if it has ended."""
        member, job = self.member, self.job
        schedule = [callback for callback in self.callbacks if isinstance(callback, Checkpoint)]
        self.callbacks = [callback for callback in self.callbacks if callback not in schedule]
        self._place = None if directory is None else directory.member(member.name)
        self.callbacks.append(_Ends(tally))
        if store is None:
            return
        record = described(member.task, job.config, member.seed, job.recorded)
        setting = {
            name: value if isinstance(value, bool | int | float | str) else plain(str(value)) for name, value in member.setting.items()
        }
        record["arguments"] |= {"setting": setting, "fold": member.fold}
        self.record = record | {"program": job.recorded_program, "environment": {"versions": versions()}}
        self.callbacks.append(_Saver(store, member.name, self.record, schedule))
        if member.name not in store:
            return
        try:
            saved, arrays = store[member.name], store.arrays(member.name)
        except ValueError as error:
            warnings.warn(f"{error} The member {member.name} is trained anew.", RuntimeWarning, stacklevel=4)
            return
        self._take(saved, arrays, f"{store.path}, member {member.name},", resume)
        if self.result is not None:
            tally.add()

    def _take(self, saved: Saved, arrays: Any, where: str, resume: Resume) -> None:
        job, epochs = self.job, len(saved.history.epochs)
        check_same_run(saved.record, json.loads(json.dumps(self.record)), where, resume)
        if epochs > job.config.epochs:
            raise ValueError(f"{where} has {epochs} epochs already, but epochs={job.config.epochs}: pass epochs={epochs} or more.")
        self.state, self._history, self._notes = placed(arrays, job.shapes), saved.history, saved.notes
        flags = bool(self.state.stopper.stopped), bool(self.state.diverged), bool(saved.notes.get("stopped"))
        reason = why_ended(job.plan, self.position >= job.config.epochs * job.steps, *flags)
        if reason is not None:
            history = History(saved.history, **job.run(self.member.task).facts)
            self.result = result_of(self.member.task, self.state, history, reason, Timing(0.0, 0.0, 0.0, 0), job.origins)

    def trainee(self) -> Trainee:
        """Returns the member for the loop."""
        return Trainee(self.job.run(self.member.task, directory=self._place, history=self._history), self.callbacks, self._notes)

    def finish(self, trainee: Trainee) -> None:
        """Sets the result of a member that has ended. A member that was interrupted has none."""
        if trainee.state is not None and trainee.stop_reason not in (None, "interrupted"):
            task, data = self.member.task, trainee.run.data
            self.result = result_of(task, trainee.state, trainee.history, trainee.stop_reason, trainee.timing, data)


def member_of(make_task: MakeTask, trial: Trial, traced: set[str], config: TrainConfig) -> Member:
    """Returns the member of a trial.

    Raises:
      TypeError: a hyperparameter is not hashable; or there is a grid, but only a Task.
    """
    fixed = tuple((name, value) for name, value in trial.setting.items() if name not in traced)
    try:
        hash(fixed)
    except TypeError:
        raise TypeError(f"hyperparameters that are compiled in must be hashable, tuples instead of lists, got {dict(fixed)}.") from None
    if isinstance(make_task, Task) and (trial.setting or trial.fitted):
        raise TypeError("a grid needs a function make_task(hp) that returns a Task, got a Task.")
    programs, kind = programs_of(make_task, fixed), jnp.result_type(float)
    numbers = {name: np.asarray(value, kind) for name, value in trial.setting.items() if name in traced} | dict(trial.fitted or {})
    task = programs.task({name: trial.setting.get(name, value) for name, value in numbers.items()})
    check_task(task)
    fold = {} if trial.fold is None else {"fold": trial.fold}
    name = name_of({**trial.setting, **fold, "seed": trial.seed})
    facts: dict[str, Any] = {
        "split": trial.split,
        "class_weight": config.class_weight,
        "targets": None if trial.validation is None else trial.validation.y,
    }
    return Member(trial.setting, trial.seed, task, trial.fold, name, programs=programs, numbers=numbers, **facts)


@contextmanager
def _population(run_dir: str | os.PathLike[str] | None, resume: Resume) -> Iterator[tuple[RunDirectory | None, Store | None]]:
    """Opens the directory and the store of a population, and locks them for this process."""
    if run_dir is None:
        yield None, None
        return
    directory = RunDirectory(run_dir)
    with opened(directory, resume, "population") as old, Store(directory.store) as store:
        if old is not None and "population" not in old:
            raise ValueError(f"{directory.path} has a run, not a population: use another directory.")
        directory.write_config({"population": True, "environment": environment()})
        yield directory, store


def _side_by_side(entries: Sequence[_Entry], signals: Signals) -> None:
    """Trains members in groups with the same program and step, and a group in parts if memory is short."""
    groups: dict[Any, list[_Entry]] = {}
    for entry in entries:
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves((entry.job.data, entry.job.validation)))
        groups.setdefault((entry.member.programs, shapes, entry.position), []).append(entry)
    for together in groups.values():
        group = Group([entry.member for entry in together], [entry.job for entry in together])
        for entry in together:  # what may change a member's last bits
            entry.record.setdefault("environment", {})["batch"] = {"width": group.width, "devices": group.devices}
        for first in range(0, len(together), group.width):
            if signals.heard is not None:
                return
            part, began = together[first : first + group.width], time.perf_counter()
            batch = Mapped(group, range(first, first + len(part)))
            batch.start([entry.state for entry in part if entry.state is not None] or None)
            trainees = [entry.trainee() for entry in part]
            train(batch, trainees, group.plan, began, signals)
            for entry, trainee in zip(part, trainees, strict=True):
                entry.finish(trainee)


def _in_threads(entries: Sequence[_Entry], workers: int | None, signals: Signals) -> None:
    """Trains members in threads, one for each core. Compiled programs run outside of Python's lock."""

    def work(entry: _Entry) -> None:
        if signals.heard is None:
            began = time.perf_counter()
            with Single(entry.job, entry.member) as batch:
                batch.start(entry.state)
                train(batch, [trainee := entry.trainee()], entry.job.plan, began, signals)
            entry.finish(trainee)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(workers or cores, "member") as pool:
        futures: list[Future[Any]] = []
        try:
            futures = [pool.submit(work, entry) for entry in entries]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future, entry in zip(futures, entries, strict=True):
                if future.done() and (error := future.exception()) is not None:
                    error.add_note(f"in the member {entry.member.name}")
                    raise error
        except BaseException:
            signals.heard = signals.heard or signal.SIGINT  # the others end after their chunk
            pool.shutdown(cancel_futures=True)
            raise


class _Ends(Callback):
    """Counts members that have ended."""

    reads_state = False

    def __init__(self, tally: _Tally):
        self._tally = tally

    def on_chunk_end(self, progress: Progress) -> None:
        if progress.ended and progress.stop_reason != "interrupted":
            self._tally.add()


class _Saver(Callback):
    """Saves a member in the population's store."""

    saves = True

    def __init__(self, store: Store, name: str, record: Mapping[str, Any], schedule: Sequence[Checkpoint]):
        self._store, self._name, self._record = store, name, record
        self.every_seconds = SAVE_SECONDS
        if schedule:
            self.every_epochs, self.every_steps, self.every_seconds = (
                getattr(schedule[0], f"every_{unit}") for unit in ("epochs", "steps", "seconds")
            )

    def on_chunk_end(self, progress: Progress) -> None:
        position = progress.epoch * progress.run.steps_per_epoch + progress.step
        finished = progress.ended and progress.stop_reason != "interrupted"
        self._store.put(self._name, self._record, position, finished, arrays_of(progress.state), progress.history, progress.notes)


class _Tally:
    """Reports how many members have ended: as a bar on a terminal and in a notebook, else with a line now and then."""

    def __init__(self, name: str | None, total: int):
        self._name, self._total, self._done, self._line = name, total, 0, None
        self._began, self._lock = time.monotonic(), threading.Lock()

    def __enter__(self) -> _Tally:
        if self._name is not None:
            self._line = Line()
            self._line.show(Status(self._name, 0, self._total), self._name)
        return self

    def __exit__(self, *error: object) -> None:
        if self._line is not None:
            self._line.end(self._told() if self._done == self._total else None)

    def add(self, members: int = 1) -> None:
        """Counts members that have ended. It may be called from any thread."""
        with self._lock:
            self._done += members
            if self._line is not None:
                left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
                self._line.show(Status(str(self._name), self._done, self._total, left=left, values=("members",) * 4), self._told())

    def _told(self) -> str:
        return f"{self._name}: {self._done}/{self._total} members, {time.monotonic() - self._began:.0f} s"
