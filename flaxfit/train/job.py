"""A run that has been checked, and the batch of one that trains it."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxfit.callbacks import Run
from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Feed, Stream
from flaxfit.devices.distributed import ALONE
from flaxfit.devices.sharding import ONE_DEVICE, Placement
from flaxfit.programs import program
from flaxfit.programs.compiled import Programs
from flaxfit.programs.set_metrics import computed
from flaxfit.rng import key_shape
from flaxfit.state import RunState, TrainState
from flaxfit.task.labels import ClassWeight
from flaxfit.task.task import Task
from flaxfit.train.config import TrainConfig
from flaxfit.train.record import checksum, program_record

START: Mapping[str, Any] = {"compiler_options": {"xla_backend_optimization_level": 1}}
"""How the program of a run's beginning is compiled: in half the time. It runs once, no slower, and draws the same weights."""


class Split(NamedTuple):
    """How many rows a member of a cross-validation learns from, and how many are held out.

    Attributes:
      learned: rows to train on, and those on which it chooses its epoch, if these are others than the rows held out.
      held_out: rows held out.
      validates: whether the rows held out are its validation rows, which then must not choose its epoch.
    """

    learned: int
    held_out: int
    validates: bool


@dataclass(frozen=True, eq=False)
class Member:
    """One run of a population.

    Attributes:
      setting: its hyperparameters, by name.
      seed: its seed.
      task: what is trained: what `make_task` gives for the setting.
      fold: which fold of a cross-validation it is, counted over repeats, or which of `fit_many`'s splits; or None.
      name: such as `l2=0.001,seed=3`.
      split: how many rows its fold has, or None where it has none, or none are held out.
      class_weight: that of its training loss, or None.
      targets: of its validation rows, or None.
    """

    setting: Mapping[str, Any]
    seed: int
    task: Task
    fold: int | None = None
    name: str = ""
    programs: Programs = field(repr=False, kw_only=True)
    numbers: Mapping[str, Any] = field(repr=False, kw_only=True, default_factory=dict)
    split: Split | None = field(kw_only=True, default=None)
    class_weight: ClassWeight | None = field(kw_only=True, default=None)
    targets: Any = field(repr=False, kw_only=True, default=None)


@dataclass(frozen=True, eq=False)
class Job:
    """A run that has been checked, for any numbers and seeds.

    Attributes:
      programs: what is compiled, of all tasks that this job may be of.
      config: how it trains.
      placement: on which devices.
      plan: what of it is compiled in.
      columns: the names that each epoch logs.
      sources: "train" and, where there is one, "validation" -> the rows as they were given.
      data: the training rows as they are used; of a stream, its first.
      initial: weights to start from, or None.
      prepare: what each piece of a stream's rows goes through.
      numbers: traced hyperparameters, of which the shapes matter.
    """

    programs: Programs
    config: TrainConfig
    placement: Placement
    plan: program.Plan
    columns: tuple[str, ...]
    sources: Mapping[str, Any]
    data: Dataset
    initial: TrainState | None
    prepare: Callable[[Dataset], Dataset]
    numbers: Mapping[str, Any]

    @property
    def stream(self) -> Stream | None:
        """The training rows, where they are read while training computes."""
        return self.sources["train"] if isinstance(self.sources["train"], Stream) else None

    @property
    def validation(self) -> Dataset | None:
        """The validation rows."""
        return self.sources.get("validation")

    @property
    def rows(self) -> int:
        """Training rows of all processes."""
        return len(self.sources["train"]) * self.placement.team.size

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return program.steps_per_epoch(self.rows, self.plan.batch_size)

    def run(self, task: Task, **place: Any) -> Run:
        """What callbacks are told of the run of a task."""
        validation = None if self.validation is None else len(self.validation)
        stopping = self.plan.stopping
        return Run(
            task, self.columns, stopping.column, stopping.direction, self.rows, validation, self.steps, self.config.epochs, self.origins,
            validation_every=self.config.validation_every, **place,
        )  # fmt: skip

    @property
    def origins(self) -> dict[str, dict[str, Any]]:
        """Where the rows come from; which of a source's rows, only where this process has all."""
        data = {name: rows.record() for name, rows in self.sources.items()}
        if self.placement.team.size > 1:
            data["train"] = {name: value for name, value in data["train"].items() if name != "rows"} | {"count": self.rows}
        return data

    @functools.cached_property
    def recorded(self) -> dict[str, Any]:
        """Where the rows come from, with checksums."""
        teams = {"train": self.placement.team, "validation": ALONE}
        return {name: about | checksum(self.sources[name], teams[name]) for name, about in self.origins.items()}

    @functools.cached_property
    def placed(self) -> tuple[Any, Dataset | None, Any]:
        """The training rows (None of a stream), the validation rows and a row's x, on the device or devices."""
        x = jax.tree.map(self.placement.team.from_first, self.data[:1].x)
        rows = self.placement.rows(self.data if self.stream is None else None)
        return (rows, *self.placement.everywhere((self.validation, x)))

    def start(self, plan: program.Plan) -> Callable[..., RunState]:
        """(numbers, key, a row's x, initial) -> the run at its beginning, compiled with `START`. It holds no rows: the task keeps it."""
        return functools.partial(_start, self.programs.task, plan)

    def advance(self, plan: program.Plan) -> Callable[..., tuple[RunState, Any]]:
        """(numbers, state, rows, validation, until) -> the run after its next steps, and what it logged."""
        return functools.partial(_advance, self.programs.task, plan)

    def validated(self, plan: program.Plan) -> Callable[..., tuple[Any, Any]]:
        """(numbers, weights, validation rows) -> `program.validated`."""
        return functools.partial(_validated, self.programs.task, plan)

    def end(self, plan: program.Plan) -> Callable[..., tuple[RunState, Any]]:
        """(numbers, state, scores, told) -> `program.end`."""
        return functools.partial(_end, self.programs.task, plan, self.rows)

    def told(self, task: Task, logits: Any) -> np.ndarray:
        """The set metrics of a task that the host computes, of the outputs for the validation rows: shape (metrics,)."""
        assert self.validation is not None
        return computed({name: task.set_metrics[name] for name in self.plan.on_host}, logits, self.validation.y)

    @functools.cached_property
    def shapes(self) -> RunState:
        """The shapes of the run's state."""
        plan = replace(self.plan, placement=ONE_DEVICE)
        start = self.programs.jit(("start", plan), self.start(plan), **START)
        return start.eval_shape(self.numbers, key_shape(), self.data[:1].x, self.initial)

    def program(self, rows: Any = None) -> dict[str, str]:
        """The record of the program as it is for one run on one device: a run may be continued on more or fewer, mapped or not.

        Args:
          rows: training rows as the program gets them; by default all.
        """
        plan = replace(self.plan, placement=ONE_DEVICE)
        args = (self.numbers, self.shapes, self.data if rows is None else rows, self.validation, np.int32(0))
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=getattr(a, "weak_type", False)), args)
        text = self.programs.jit(("advance", plan), self.advance(plan), donate_argnums=1).lower(*shapes).as_text()
        return program_record(self.programs, self.numbers, self.shapes.train, self.data[:1], plan.batch_size, text)

    @functools.cached_property
    def recorded_program(self) -> dict[str, str]:
        """`program`, of all rows."""
        return self.program()

    def check_team(self, facts: Mapping[str, Any]) -> None:
        """Checks that all processes are about to train the same run.

        Raises:
          ValueError: they are not.
        """
        team = self.placement.team
        if team.size == 1:
            return
        rows = team.gather(len(self.data)).tolist()
        if len(set(rows)) > 1:
            raise ValueError(f"each process must pass the same number of training rows, but they pass {rows}.")
        shapes = {path: (leaf.shape, str(leaf.dtype)) for path, leaf in self.data.leaves()}
        for what, fact in {
            "the task or the arguments of fit are": facts,
            "the shapes or types of the training rows are": shapes,
            "the validation rows, of which each process must pass all, are": checksum(self.validation),
        }.items():
            found = team.gather(zlib.crc32(repr(fact).encode()))
            if (found != found[0]).any():
                raise ValueError(f"{what} not the same on process {np.flatnonzero(found != found[0])[0]} as on process 0.")


def _start(task_of: Any, plan: program.Plan, numbers: Any, key: Any, x: Any, initial: Any) -> RunState:
    return program.start(task_of(numbers), plan, key, x, initial)


def _advance(task_of: Any, plan: program.Plan, numbers: Any, state: RunState, *rows_until: Any) -> tuple[RunState, Any]:
    return program.advance(task_of(numbers), plan, state, *rows_until)


def _validated(task_of: Any, plan: program.Plan, numbers: Any, train: TrainState, validation: Dataset) -> tuple[Any, Any]:
    return program.validated(task_of(numbers), plan, train, validation)


def _end(task_of: Any, plan: program.Plan, rows: int, numbers: Any, state: RunState, scores: Any, told: Any) -> tuple[RunState, Any]:
    return program.end(task_of(numbers), plan, rows, state, scores, told)


class Single:
    """A batch of one run, which is not mapped. A context manager: a stream's reader ends with it.

    Args:
      job: the run.
      member: which of the job's runs it is.

    Attributes:
      state: where the run stands, on the device or devices.
      width: 1.
    """

    width = 1

    def __init__(self, job: Job, member: Member):
        self.job, self.members, self.placement = job, [member], job.placement
        rows, self._validation, x = job.placed
        key = jax.random.key(jax.device_put(np.uint32(member.seed)))
        arguments = (member.numbers, key, job.initial, np.int32(0))
        self._numbers, key, initial, self._until = self.placement.everywhere(arguments)
        self._first = (self._numbers, key, x, initial)
        self._stack, self._read = ExitStack(), None
        if job.stream is not None:
            plan = job.plan
            ordered = key if plan.shuffle else None
            feed = Feed(job.stream, plan.batch_size, job.config.epochs, job.prepare, "train", ordered, plan.replacement)
            self._read = self._stack.enter_context(feed).at
            rows = self.placement.everywhere(self._read(0, 0)[0])
        self._rows = rows
        self.like = self.placement.like(job.shapes)

    def __enter__(self) -> Single:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, saved: RunState | None = None) -> None:
        """Makes the state: fresh, or what was saved."""
        if saved is not None:
            self.state: RunState = saved
        else:
            out = self.placement.out(self.like)
            options = {**START, **({} if out is None else {"out_shardings": out})}
            start = (("start", self.job.plan), self.job.start(self.job.plan), self._first, options)
            self.state = self.job.programs.side_by_side(start, self._next(self.like))[0](*self._first)

    def _next(self, state: RunState) -> Any:
        """The arguments of `Programs.compiled` for what `advance` calls."""
        out = self.placement.out(self.like, 0)
        options: dict[str, Any] = {} if out is None else {"out_shardings": out}
        args = (self._numbers, state, self._rows, self._validation, self._until)
        return ("advance", self.job.plan), self.job.advance(self.job.plan), args, {"donate_argnums": 1, **options}

    def program(self) -> dict[str, str]:
        """The record of the program, as `Job.program`."""
        return self.job.program(self._rows)

    def compile(self) -> None:
        """Compiles what `advance` calls."""
        plan = self.job.plan
        what, function, args, options = self._next(self.state)
        self._advance = self.job.programs.compiled(what, function, *args, **options)
        if plan.on_host:
            self._validated = self._jit("validated", self.job.validated(plan), self._numbers, self.state.train, self._validation)
            self._scores, _ = self._validated.eval_shape(self._numbers, self.state.train, self._validation)
            told = np.zeros(len(plan.on_host), np.float32)
            self._end = self._jit("end", self.job.end(plan), self._numbers, self.state, self._scores, told, **options)
        if self._read is not None:
            self._rows = None  # the first chunk would stay in memory

    def _jit(self, name: str, function: Any, *args: Any, **options: Any) -> Any:
        return self.job.programs.compiled((name, self.job.plan, self.job.rows), function, *args, **options)

    def advance(self, position: int, until: int) -> Any:
        """Trains from step `position` to `until`, or to a stream's chunk's end: the metrics of the epochs, shape (1, capacity, columns)."""
        rows, length = self._rows, self.job.steps
        if self.job.plan.on_host:
            until = min(until, (position // length + 1) * length)
        if self._read is not None:
            rows, until = self._read(position, until)
            rows = self.placement.everywhere(rows)
        until_ = self.placement.everywhere(np.int32(until))
        self.state, table = self._advance(self._numbers, self.state, rows, self._validation, until_)
        if self.job.plan.on_host and until % length == 0:
            if until // length % self.job.plan.validation_every:
                scores = self.placement.everywhere(program.unvalidated(self._scores))
                told = np.full(len(self.job.plan.on_host), np.nan, np.float32)
            else:
                scores, outputs = self._validated(self._numbers, self.state.train, self._validation)
                told = self.job.told(self.members[0].task, jax.device_get(self.placement.on_host(outputs)))
            self.state, table = self._end(
                self._numbers, self.state, scores, self.placement.everywhere(self.placement.team.from_first(told))
            )
        return table[None]

    def status(self) -> Any:
        """Finished epochs, steps of the epoch under way, whether the stopper stopped and whether the run diverged, shape (1,) each."""
        state = self.state
        return jax.tree.map(np.atleast_1d, jax.device_get((state.epoch, state.step, state.stopper.stopped, state.diverged)))

    def on_host(self) -> RunState:
        """The state; of several processes, all of it in the first one's memory. All of them call this."""
        return self.placement.on_host(self.state, keep=self.placement.team.leads)

    def ended(self) -> RunState:
        """The state; of several processes, what each of them has whole in its memory, and the rest spread over them."""
        return self.placement.parts_on_host(self.state)

    def member(self, state: RunState, index: int) -> RunState:
        """The state of one member of `on_host`'s."""
        return state

    def keep(self, members: Any) -> None:
        """Leaves members that have ended; there is one."""
