"""Many runs as one population: seeds, settings, folds."""

from __future__ import annotations

import os
import signal
import sys
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
from flaxfit.callbacks import Callback
from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import Splits
from flaxfit.storage.directory import RunDirectory, environment
from flaxfit.sweep.grid import Grid, expand
from flaxfit.sweep.lockstep import train_together
from flaxfit.sweep.study import Member, Study
from flaxfit.train.checks import check_program, check_seed, check_task
from flaxfit.train.fit import run_callbacks
from flaxfit.train.job import Job
from flaxfit.train.programs import Family, kept
from flaxfit.train.result import Result
from flaxfit.train.session import Resume, Session, Signals, described
from flaxfit.train.stopping import EarlyStopping
from flaxfit.train.task import Task

Strategy = Literal["auto", "threads", "vmap"]
MakeTask = Callable[[Mapping[str, Any]], Task] | Task
_TRACER_ERRORS = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, jax.errors.TracerIntegerConversionError)


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
    """

    setting: Mapping[str, Any]
    seed: int
    train: Dataset
    validation: Dataset | None
    fold: int | None = None
    fitted: Mapping[str, Any] | None = None


def fit_many(
    make_task: MakeTask,
    grid: Grid | None = None,
    train: Dataset | None = None,
    *,
    seeds: int | Sequence[int] = 1,
    validation: Dataset | None = None,
    splits: Sequence[Splits] | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    early_stopping: EarlyStopping | None = None,
    class_weight: Mapping[int, float] | None = None,
    replacement: bool = False,
    terminate_on_nan: bool = True,
    callbacks: Callable[[Member], Sequence[Callback]] | None = None,
    progress: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: Resume = "auto",
    strategy: Strategy = "auto",
    workers: int | None = None,
) -> Study:
    """Trains each setting of a grid from several seeds. Each member is the run that `fit` makes alone with its values and its seed.

    Members share one program, in which the numbers of the grid are arguments; values that shape the network, and those that are
    `flaxfit.static`, make a program each.

    Args:
      make_task: a mapping of hyperparameters -> Task; or a Task, for a population of seeds. Numbers reach it traced: it computes with
        them, and does not branch on them.
      grid: name -> values, of which all combinations are trained; or a list of settings. A list that holds a floating-point number is
        traced.
      train: the training rows.
      seeds: how many (0, 1, ...), or which.
      validation, epochs, batch_size, early_stopping, class_weight, replacement, terminate_on_nan: as for `fit`.
      splits: instead of `train` and `validation` a list of `flaxfit.data.split`'s: each setting is trained on each, whose place in the
        list is `member.fold`. `study.evaluate([s.test for s in splits])` scores each member on its own test rows.
      callbacks: member -> its callbacks, for "threads".
      progress: a name under which to tell on standard error how many members have ended.
      run_dir: a directory for the population; members get run directories of their own in `members/`, without an export.
      resume: as for `fit`. A population may have grown since: settings and seeds may be added.
      strategy: "threads" runs members side by side, a thread a core: best on a CPU. "vmap" runs them in lockstep in one program, over all
        local devices, in waves where memory is short: best on accelerators. "auto" chooses by the backend.
      workers: threads; by default the cores.

    Returns:
      A `Study`: members grid-major, then by split, then by seed.

    Raises:
      ValueError, TypeError: as `fit`; a grid that is none; a `make_task` that needs the value of a traced number.

    Warns:
      RuntimeWarning: members ended on a value that is not finite.

    Example:
      >>> import flaxfit as ff, numpy as np, optax
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> def make_task(hp):
      ...     return ff.Task(ff.nn.MLP((8,), 1), ff.losses.mse, optax.adam(hp["rate"]), penalty=ff.penalties.l2(hp["l2"]))
      >>> study = ff.fit_many(make_task, {"rate": [1e-2], "l2": [0.0, 1e-3]}, ff.Dataset(x, x[:, 0] ** 2), seeds=2, epochs=3)
      >>> [member.name for member in study.members]
      ['rate=0.01,l2=0.0,seed=0', 'rate=0.01,l2=0.0,seed=1', 'rate=0.01,l2=0.001,seed=0', 'rate=0.01,l2=0.001,seed=1']
      >>> study.table("loss", "last").rows[0].interval.count
      2
    """
    if (train is None) == (splits is None) or (splits is not None and validation is not None):
        raise TypeError("fit_many needs the training rows: fit_many(make_task, grid, train, ...), or instead of them splits=[...].")
    if splits is not None and not (splits and all(isinstance(part, Splits) for part in splits)):
        raise TypeError(f"fit_many(splits=...) takes a list of what ff.data.split returns, at least one, got {splits!r}.")
    settings, traced = expand(grid)
    rows: list[Any] = [(train, validation, None)]
    if splits is not None:
        rows = [(part.train, part.validation, fold) for fold, part in enumerate(splits)]
    trials = [Trial(setting, seed, *part) for setting in settings for part in rows for seed in check_seeds(seeds)]
    options = {"epochs": epochs, "batch_size": batch_size, "early_stopping": early_stopping, "class_weight": class_weight}
    options |= {"replacement": replacement, "terminate_on_nan": terminate_on_nan}
    how = Where(callbacks, progress, run_dir, resume, strategy, workers)
    return train_all(make_task, trials, traced, options, how)


@dataclass(frozen=True)
class Where:
    """Where and how a population runs: the arguments of `fit_many` of these names."""

    callbacks: Callable[[Member], Sequence[Callback]] | None = None
    progress: str | None = None
    run_dir: str | os.PathLike[str] | None = None
    resume: Resume = "auto"
    strategy: Strategy = "auto"
    workers: int | None = None


def check_seeds(seeds: Any) -> list[int]:
    """Seeds as a list: as many as were asked for, or those."""
    if not isinstance(seeds, Sequence | np.ndarray | range):
        return list(range(check_count("seeds", seeds, 1, "runs of each setting")))
    listed = [check_seed(seed) for seed in seeds]
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"seeds must be one or more different numbers, got {listed}.")
    return listed


def train_all(make_task: MakeTask, trials: Sequence[Trial], traced: set[str], options: Mapping[str, Any], where: Where) -> Study:
    """Trains a member a trial."""
    began = time.perf_counter()
    if where.strategy not in ("auto", "threads", "vmap"):
        raise ValueError(unknown("strategy", str(where.strategy), ("auto", "threads", "vmap")))
    members = [_member(make_task, trial, traced) for trial in trials]
    jobs: dict[Any, Job] = {}
    listed = []
    for member, trial in zip(members, trials, strict=True):
        key = (member.family, id(trial.train), id(trial.validation))
        if key not in jobs:
            jobs[key] = job = Job(member.family, member.task, trial.train, trial.validation, None, options)
            _check_traced(member, job)
        listed.append(jobs[key])
    alike = "threads" if jax.default_backend() == "cpu" else "vmap"
    strategy = alike if where.strategy == "auto" else where.strategy
    if strategy == "vmap" and where.callbacks is not None:
        raise ValueError('callbacks look at one run at a time: members in lockstep have none; leave them out, or take strategy="threads".')
    with _population(where) as (directory, signals), _Tally(where.progress, len(members)) as tally:
        if strategy == "vmap":
            results: list[Any] = train_together(members, listed, directory, signals, tally)
        else:
            results = _in_threads(members, listed, where, directory, signals, tally)
        if (heard := signals.heard) is not None:
            ended = sum(result is not None for result in results)
            here = directory.path if directory else None
            sys.stderr.write(f"{heard.name}: saved, {ended} of {len(members)} members at their end. To go on: the same command ({here}).\n")
            raise SystemExit(128 + heard)
    broken = [m.name for m, result in zip(members, results, strict=True) if result.stop_reason == "non_finite"]
    if broken:
        message = f"{len(broken)} of {len(members)} members ended on a value that is not finite: {'; '.join(broken[:5])}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return Study(members, results, listed[0].plan.stopping.monitor, time.perf_counter() - began)


def _member(make_task: MakeTask, trial: Trial, traced: set[str]) -> Member:
    fixed = tuple((name, value) for name, value in trial.setting.items() if name not in traced)
    try:
        hash(fixed)
    except TypeError:
        raise TypeError(f"hyperparameters that are compiled in must be hashable, tuples for lists, got {dict(fixed)}.") from None
    if isinstance(make_task, Task) and (trial.setting or trial.fitted):
        raise TypeError("a grid needs a make_task(hp) that builds a Task from it, got a Task.")
    family = Family(make_task, fixed)
    kind = jnp.result_type(float)
    numbers = {name: np.asarray(value, kind) for name, value in trial.setting.items() if name in traced} | dict(trial.fitted or {})
    task = family.task({name: trial.setting.get(name, value) for name, value in numbers.items()})
    check_task(task)
    return Member(trial.setting, trial.seed, task, trial.fold, family=family, numbers=numbers)


def _check_traced(member: Member, job: Job) -> None:
    """That the task can be built from numbers whose values are not known."""

    def build(numbers: Mapping[str, Any]) -> int:
        check_program(member.family.task(numbers), job.data)
        return 0

    try:
        kept(member.family, "traced", (member.numbers, job.data[:1]), lambda: jax.eval_shape(build, member.numbers) is None)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _TRACER_ERRORS):
            cause = cause.__cause__
        if cause is None or not member.numbers:
            raise
        raise ValueError(
            f"make_task, or what it builds, needs the value of a traced hyperparameter ({', '.join(member.numbers)}), as `if` and "
            "float() do: compute with it instead (flaxfit.nn's dropout takes a traced rate), or compile it in, one program a value: "
            f"ff.static([...]). {str(cause).splitlines()[0]}"
        ) from error


@contextmanager
def _population(where: Where) -> Iterator[tuple[RunDirectory | None, Signals]]:
    """The population's directory, kept for this process, and what ends it sooner."""
    signals = Signals()
    if where.run_dir is None:
        yield None, signals
        return
    directory = RunDirectory(where.run_dir)
    with ExitStack() as stack:
        stack.enter_context(directory.lock())
        there = directory.read_config() is not None
        if where.resume == "never" and there:
            raise FileExistsError(f'{directory.path} holds a population: resume="auto" goes on with it; or name another directory.')
        if where.resume == "must" and not there:
            raise FileNotFoundError(f'{directory.path} holds no population to resume; resume="auto" starts one.')
        directory.write_config({"population": True, "environment": environment()})
        yield directory, stack.enter_context(signals)


def _in_threads(
    members: Sequence[Member], jobs: Sequence[Job], where: Where, directory: RunDirectory | None, signals: Signals, tally: _Tally
) -> list[Any]:
    """A thread a core, each with a member of its own until none is left. The programs run outside of Python's lock."""

    def train(member: Member, job: Job) -> Result | None:
        if signals.heard is not None:
            return None
        callbacks = run_callbacks(where.callbacks(member) if where.callbacks else [], job.columns, directory is not None)
        with ExitStack() as stack:
            session = None
            if directory is not None:
                arguments = {**job.options, "seed": member.seed, "setting": dict(member.setting), "fold": member.fold}
                config = described(member.task, arguments, job.recorded)
                session = stack.enter_context(Session(directory.members / member.name, "auto", config, signals))
            result = job.run(member.task, member.numbers, member.seed, callbacks, session, signals)
        tally.add()
        return None if signals.heard is not None else result

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(where.workers or cores, "member") as pool:
        futures: list[Future[Any]] = []
        try:
            futures = [pool.submit(train, member, job) for member, job in zip(members, jobs, strict=True)]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future, member in zip(futures, members, strict=True):
                if future.done() and (error := future.exception()) is not None:
                    error.add_note(f"in the member {member.name}")
                    raise error
        except BaseException:
            signals.heard = signals.heard or signal.SIGINT  # the others end after their chunk
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


class _Tally:
    """How many members have ended, told on standard error: a bar on a terminal, else a line now and then."""

    def __init__(self, name: str | None, total: int):
        self._name, self._total, self._done, self._bar = name, total, 0, None
        self._began = self._told = time.monotonic()

    def __enter__(self) -> _Tally:
        if self._name is not None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._console = Console(stderr=True)
            if self._console.is_terminal:
                columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, console=self._console, transient=True)
                self._bar.add_task(self._name, total=self._total)
                self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, members: int = 1) -> None:
        """`members` more have ended. From any thread."""
        self._done += members
        now = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], members)
        elif self._name is not None and (now - self._told > 10 or self._done == self._total):
            self._told = now
            line = f"{self._name}: {self._done}/{self._total} members, {now - self._began:.0f} s"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
