"""The members of a population: what each trains on, and where it is while it trains."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.callbacks import Callback, Checkpoint, Progress
from flaxfit.data.dataset import Dataset
from flaxfit.devices.sharding import arrays_of
from flaxfit.history import History
from flaxfit.programs.checks import check_task
from flaxfit.programs.compiled import MakeTask, programs_of
from flaxfit.state import RunState
from flaxfit.storage.checkpoints import placed
from flaxfit.storage.directory import RunDirectory, versions
from flaxfit.storage.store import Saved, Store
from flaxfit.sweep.grid import name_of
from flaxfit.sweep.mapped import Mapped
from flaxfit.task.task import Task
from flaxfit.train.config import TrainConfig
from flaxfit.train.job import Job, Member, Split
from flaxfit.train.loop import Trainee, why_ended
from flaxfit.train.record import Resume, check_same_run, described, plain
from flaxfit.train.result import Result, Timing, result_of

SAVE_SECONDS = 60.0  # how often members in training are saved, unless a `Checkpoint` says


@dataclass(frozen=True)
class Trial:
    """What a member is to be trained on."""

    setting: Mapping[str, Any]
    seed: int
    train: Dataset  # its training rows
    validation: Dataset | None  # its validation rows, or None
    fold: int | None = None
    # what was fitted to its training rows, by name: trees of arrays that `make_task` gets besides the setting
    fitted: Mapping[str, Any] | None = None
    split: Split | None = None  # how many rows its fold has, or None


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


class Entry:
    """A member during training: its trial, its job, its callbacks, its state, and at the end its result."""

    def __init__(self, trial: Trial, member: Member, job: Job, callbacks: Sequence[Callback], directory: RunDirectory | None):
        self.trial, self.member, self.job = trial, member, job
        self.schedule = next((callback for callback in callbacks if isinstance(callback, Checkpoint)), None)
        self.callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
        self.record: dict[str, Any] = {}
        self.state: RunState | None = None
        self.result: Result | None = None
        self.timing = Timing(0.0, 0.0, 0.0, 0)
        self.batch: Mapped | None = None  # what trains it side by side with others
        self.width: int | None = None  # that of the batch in which it was saved
        self._place = None if directory is None else directory.member(member.name)
        self._history: History | None = None
        self._notes: Mapping[str, Any] = {}

    @property
    def position(self) -> int:
        """The number of steps done."""
        return 0 if self.state is None else int(self.state.epoch) * self.job.steps + int(self.state.step)

    def open(self, store: Store, resume: Resume) -> None:
        """Describes the member, and reads it from the store, with its result if it has ended."""
        member, job = self.member, self.job
        record = described(member.task, job.config, member.seed, job.recorded)
        setting = {
            name: value if isinstance(value, bool | int | float | str) else plain(str(value)) for name, value in member.setting.items()
        }
        record["arguments"] |= {"setting": setting, "fold": member.fold}
        self.record = record | {"program": job.recorded_program, "environment": {"versions": versions()}}
        if member.name not in store:
            return
        try:
            saved, arrays = store[member.name], store.arrays(member.name)
        except ValueError as error:
            warnings.warn(f"{error} The member {member.name} is trained anew.", RuntimeWarning, stacklevel=4)
            return
        where, epochs = f"{store.path}, member {member.name},", len(saved.history.epochs)
        check_same_run(saved.record, json.loads(json.dumps(self.record)), where, resume)
        if epochs > job.config.epochs:
            raise ValueError(f"{where} has {epochs} epochs already, but epochs={job.config.epochs}: pass epochs={epochs} or more.")
        self.take(saved, arrays)

    def take(self, saved: Saved, arrays: Mapping[str, np.ndarray]) -> None:
        """Sets the state to what was saved, and the result if the member had ended there."""
        job, batch = self.job, saved.record.get("environment", {}).get("batch")
        self.width = batch["width"] if batch and batch["devices"] == jax.local_device_count() else None
        self.state, self._history, self._notes = placed(arrays, job.shapes), saved.history, saved.notes
        flags = bool(self.state.stopper.stopped), bool(self.state.diverged), bool(saved.notes.get("stopped"))
        reason = why_ended(job.plan, self.position >= job.config.epochs * job.steps, *flags)
        if reason is not None:
            history = History(saved.history, **job.run(self.member.task).facts)
            self.result = result_of(self.member.task, self.state, history, reason, self.timing, job.origins)

    def save_in(self, store: Puts) -> None:
        """Has the member saved while it trains."""
        self.callbacks.append(_Saver(store, self))

    def trainee(self) -> Trainee:
        """Returns the member for the loop."""
        return Trainee(self.job.run(self.member.task, directory=self._place, history=self._history), self.callbacks, self._notes)

    def finish(self, trainee: Trainee) -> None:
        """Sets the result of a member that has ended. A member that was interrupted has none."""
        if trainee.state is None:
            return
        self.timing = trainee.timing
        if trainee.stop_reason not in (None, "interrupted"):
            task, data = self.member.task, trainee.run.data
            self.result = result_of(task, trainee.state, trainee.history, trainee.stop_reason, trainee.timing, data)


class Puts(Protocol):
    """Where members are saved."""

    def put(self, name: str, saved: Saved, arrays: Mapping[str, np.ndarray]) -> None:
        """Saves a member, as `Store.put`."""
        ...


class _Saver(Callback):
    """Saves a member, every minute or as a `Checkpoint` says, and at its end."""

    saves = True

    def __init__(self, store: Puts, entry: Entry):
        self._store, self._entry = store, entry
        self.every_seconds = SAVE_SECONDS
        if (schedule := entry.schedule) is not None:
            self.every_epochs, self.every_steps, self.every_seconds = schedule.every_epochs, schedule.every_steps, schedule.every_seconds

    def on_chunk_end(self, progress: Progress) -> None:
        position = progress.epoch * progress.run.steps_per_epoch + progress.step
        finished = progress.ended and progress.stop_reason != "interrupted"
        name, record, batch = self._entry.member.name, self._entry.record, self._entry.batch
        if batch is not None:  # what may change a member's last bits
            record.setdefault("environment", {})["batch"] = {"width": batch.width, "devices": batch.group.devices}
        self._store.put(name, Saved(record, position, finished, progress.history, progress.notes), arrays_of(progress.state))
