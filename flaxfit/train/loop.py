"""The host loop, which runs compiled chunks of a batch of members and calls callbacks between them. It is the only one.

A batch is one run that is not mapped (`fit`, or a member of a population in a thread), or several members that train side by side under
`jax.vmap`. After each chunk, the loop fetches what was logged, calls the callbacks that are due (those that save come last), and releases
members that have ended. Where a chunk ends never changes a result.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from flaxfit.callbacks import Callback, Progress, Run
from flaxfit.callbacks.base import StopReason
from flaxfit.devices.distributed import ALONE, Team
from flaxfit.history import History
from flaxfit.programs.program import Plan
from flaxfit.signals import Signals
from flaxfit.state import RunState
from flaxfit.train.result import Timing

CHUNK_SECONDS = 2.0
"""The approximate length of a chunk at most, so that Ctrl-C and signals take effect soon."""


class Batch(Protocol):
    """Members that train in one program. All that have not ended are at the same step."""

    state: RunState

    @property
    def width(self) -> int:
        """The number of members that the program trains, some of them twice if there are fewer."""
        ...

    def compile(self) -> None:
        """Compiles the program that `advance` calls."""
        ...

    def advance(self, position: int, until: int) -> Any:
        """Trains from step `position` to `until`, or less far. Returns what the epochs logged, shape (members, capacity, columns)."""
        ...

    def status(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns for each member: finished epochs, finished steps of the current epoch, whether it stopped early, whether it diverged."""
        ...

    def on_host(self) -> Any:
        """Returns the state of all members, as callbacks may read it. The processes of a run call this together, for the first one."""
        ...

    def ended(self) -> Any:
        """Returns the state of all members, as their results keep it."""
        ...

    def member(self, state: Any, index: int) -> RunState:
        """Returns the part of one member of what `on_host` or `ended` returned."""
        ...

    def keep(self, members: np.ndarray) -> None:
        """Releases all other members."""
        ...


@dataclass
class Trainee:
    """A member in the loop.

    Attributes:
      run: the description for its callbacks.
      callbacks: its callbacks.
      notes: what its checkpoint kept besides the state.
      state: the state at its end, or None while it trains.
      stop_reason: why it ended.
      history: all its epochs.
      timing: the wall time of its batch.
    """

    run: Run
    callbacks: Sequence[Callback]
    notes: Mapping[str, Any] = field(default_factory=dict)
    state: RunState | None = None
    stop_reason: StopReason | None = None
    history: History = field(init=False)
    timing: Timing = field(init=False)

    def __post_init__(self) -> None:
        self.log, self.seen, self.closing = _Log(self.run), [], ExitStack()
        self.callbacks = sorted(self.callbacks, key=lambda callback: callback.saves)
        self.stopped = bool(self.notes.get("stopped"))
        self.began = 0

    def begin(self, now: float, position: int) -> None:
        """Calls `on_train_begin`, and arranges that `on_train_end` will be called."""
        self.began = position
        states = self.notes.get("callbacks", {})
        for name, callback in self._named().items():
            self.closing.callback(callback.on_train_end)
            callback.on_train_begin(self.run)
            if name in states:
                callback.load_state_dict(states[name])
        self.seen = [(self.log.epochs, position, now) for _ in self.callbacks]

    def _named(self) -> dict[str, Callback]:
        return {f"{index} {type(callback).__name__}": callback for index, callback in enumerate(self.callbacks)}

    def kept(self) -> dict[str, Any]:
        """Returns the notes for a checkpoint."""
        states = {name: state for name, callback in self._named().items() if (state := callback.state_dict()) is not None}
        return {"stopped": self.stopped, "callbacks": states}


def few_left(members: int, width: int) -> bool:
    """Returns whether so few members of a program are left that a narrower one trains them. A resumed population asks the same."""
    return 0 < 2 * members <= width


def train(
    batch: Batch,
    trainees: Sequence[Trainee],
    plan: Plan,
    began: float,
    signals: Signals | None = None,
    team: Team = ALONE,
    together: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Trains a batch to its end, or until a signal arrives, and fills in the results of the trainees.

    Args:
      batch: the batch, whose state has been made.
      trainees: its members, in order.
      plan: the part of their job that is compiled in.
      began: when its start-up began, by `time.perf_counter`.
      signals: the signals that end it early, or None.
      team: the processes of the run, all of which call this. The first one has the callbacks.
      together: makes a context in which the members are saved together or not at all.
    """
    run = trainees[0].run
    length, total = run.steps_per_epoch, run.epochs * run.steps_per_epoch
    live, spent, chunks, pace = list(range(len(trainees))), 0.0, 0, 1
    callbacks = [callback for trainee in trainees for callback in trainee.callbacks]
    seconds = min([CHUNK_SECONDS, *(callback.every_seconds for callback in callbacks if callback.every_seconds)])

    def status() -> tuple[list[StopReason | None], np.ndarray, np.ndarray]:
        """Returns for each live member why it has ended, or None; its steps in all, and those of the current epoch."""
        epochs, steps, *flags = batch.status()
        positions = epochs * length + steps
        places = zip(live, positions, *flags, strict=True)
        reasons: list[StopReason | None] = []
        for member, at, stopped, diverged in places:
            reasons.append(why_ended(plan, at >= total, stopped, diverged, trainees[member].stopped))
        return reasons, positions, steps

    def let_go(reasons: list[StopReason | None]) -> list[StopReason | None]:
        """Fills in the results of members that have ended. Once half or less are left, they train on without the others."""
        nonlocal live
        read = functools.cache(batch.ended)
        for index, reason in enumerate(reasons):
            trainee = trainees[live[index]]
            if reason is not None and trainee.state is None:
                trainee.state, trainee.stop_reason, trainee.history = batch.member(read(), index), reason, trainee.log.history()
                trained = max(1, int(positions[index]) - trainee.began) / length
                trainee.timing = Timing(compiling, spent, spent / trained / len(trainees), chunks)
                trainee.closing.close()
        going = np.array([index for index, reason in enumerate(reasons) if reason is None], int)
        if few_left(len(going), batch.width):
            batch.keep(going)
            live = [live[index] for index in going]
            return [None] * len(live)
        return reasons

    def advance() -> None:
        """Trains one chunk and calls the callbacks that are due."""
        nonlocal reasons, position, steps, positions, spent, chunks, pace
        active = [member for member in live if trainees[member].state is None]
        asking = [callback for member in active for callback in trainees[member].callbacks]
        start, before = time.perf_counter(), position
        until = int(team.gather(_next_stop(position, pace, run, plan, asking))[0])  # one process's callbacks and clock decide
        table = batch.advance(position, until)
        reasons, positions, steps = status()
        position, now = int(positions.max()), time.perf_counter()
        chunks, spent = chunks + 1, spent + now - start
        # The first chunks show how fast a step is, so each is at most eight times longer than the one before.
        pace = min(8 * pace, max(1, int((position - before) * seconds / max(now - start, 1e-9))))
        rows = jax.device_get(table)
        if signals is not None and (heard := int(team.gather(signals.heard or 0).max())):
            signals.heard = signal.Signals(heard)
            reasons[:] = [reason or "interrupted" for reason in reasons]
        waiting: list[tuple[int, Trainee]] = []
        for index, member in enumerate(live):
            trainee = trainees[member]
            if trainee.state is None:
                trainee.log.add(rows[index, : positions[index] // length - trainee.log.epochs])
                waiting.append((index, trainee))
        asked = team.gather(any(_due(t, reasons[i], positions[i], now, saves=None) for i, t in waiting))[0]
        read = functools.cache(batch.on_host)
        if asked and team.size > 1:
            read()  # all processes gather it together
        with team.together(), together():
            for index, trainee in waiting:
                state = functools.partial(lambda read, index: batch.member(read(), index), read, index)
                place = (int(positions[index]), int(steps[index]), now, now - start_of_run)
                reasons[index] = _call(trainee, reasons[index], *place, state=state, spread=lambda: batch.state)
        if team.size > 1 and team.gather(trainees[0].stopped).any():  # the first process's callbacks decide for all
            trainees[0].stopped, reasons[0] = True, reasons[0] or "callback"

    def save() -> None:
        """Saves all members where they are, if what they logged is of the same place."""
        _, positions, steps = status()
        now, on_host = time.perf_counter(), functools.cache(batch.on_host)
        with together():
            for index, member in enumerate(live):
                trainee = trainees[member]
                if trainee.state is None and trainee.log.epochs == positions[index] // length:
                    state = functools.partial(lambda read, index: batch.member(read(), index), on_host, index)
                    for number, callback in enumerate(trainee.callbacks):
                        if callback.saves:
                            _tell(trainee, number, None, int(positions[index]), int(steps[index]), now, now - start_of_run, state)

    with ExitStack() as stack:
        reasons, positions, steps = status()
        position, compiling = int(positions.max()), 0.0
        if None in reasons:
            batch.compile()
            compiling, now = time.perf_counter() - began, time.perf_counter()
            with team.together():
                for index, reason in enumerate(reasons):
                    if reason is None:
                        stack.enter_context(trainees[live[index]].closing)
                        trainees[live[index]].begin(now, position)
        else:
            compiling = time.perf_counter() - began
        start_of_run = time.perf_counter()
        reasons = let_go(reasons)
        while None in reasons:
            try:
                advance()
            except BaseException:
                if team.size == 1 and (signals is None or signals.heard is None):  # a second signal ends the run at once
                    with suppress(Exception):  # if the state is lost, the error says why
                        save()
                raise
            reasons = let_go(reasons)


def why_ended(plan: Plan, done: bool, stopped: bool, diverged: bool, by_callback: bool) -> StopReason | None:
    """Returns why a run has ended, or None if it has not."""
    if diverged:
        return "non_finite"
    if stopped and plan.stops:
        return "early_stopping"
    return "callback" if by_callback else "epochs" if done else None


def _due(trainee: Trainee, reason: StopReason | None, position: int, now: float, saves: bool | None) -> list[int]:
    """Returns the callbacks that are to be called: those that save, the others, or (None) all that may read the state on the host."""
    due, spread = [], trainee.run.writers.size > 1
    for index, callback in enumerate(trainee.callbacks):
        epochs, steps, called = trainee.seen[index]
        reads = callback.reads_state or callback.every_epochs or callback.every_steps  # may stop the run, which saves it
        if spread:  # What saves it then needs no copy on the host.
            reads = callback.reads_state and not callback.saves
        wanted = reads if saves is None else callback.saves == saves
        if wanted and (reason is not None or callback.due(epochs, trainee.log.epochs, steps, position, now - called)):
            due.append(index)
    return due


def _call(
    trainee: Trainee, reason: StopReason | None, position: int, step: int, now: float, seconds: float, state: Any, spread: Any
) -> StopReason | None:
    """Calls the callbacks of a member that are due, those that save last. Returns why the member ends, or None.

    Those that save a state which is spread over processes get `spread`, and are called in all processes if they are in the first one.
    """
    team = trainee.run.writers
    savers = [index for index, callback in enumerate(trainee.callbacks) if callback.saves]
    joint = [index for index in savers if team.size > 1 and trainee.callbacks[index].reads_state]

    def call(index: int) -> None:
        _tell(trainee, index, reason, position, step, now, seconds, spread if index in joint else state)

    def save(due: list[int]) -> None:
        if joint:
            chosen = team.gather(np.array([index in due for index in joint]))[0]
            due = [index for index in due if index not in joint] + [index for index, wanted in zip(joint, chosen, strict=True) if wanted]
        for index in due:
            call(index)

    try:
        for index in _due(trainee, reason, position, now, saves=False):
            call(index)
        if trainee.stopped and reason is None:
            reason = "callback"
            for index in _due(trainee, reason, position, now, saves=False):
                call(index)
    except BaseException:
        save(savers)
        raise
    save(_due(trainee, reason, position, now, saves=True))
    return reason


def _tell(
    trainee: Trainee, index: int, reason: StopReason | None, position: int, step: int, now: float, seconds: float, state: Any
) -> None:
    """Calls one callback of a member."""
    callback, since = trainee.callbacks[index], trainee.seen[index][0]

    def stop() -> None:
        if callback.every_seconds is not None or not (callback.every_epochs or callback.every_steps):
            name = type(callback).__name__
            raise ValueError(f"{name} may stop a run only at epochs or steps fixed beforehand: set every_epochs, not every_seconds.")
        trainee.stopped = True

    trainee.seen[index] = trainee.log.epochs, position, now
    trained = (position - trainee.began) / trainee.run.steps_per_epoch
    callback.on_chunk_end(
        Progress(
            trainee.run, trainee.log.epochs, step, seconds, trained, reason, new=functools.partial(trainee.log.history, since),
            history=trainee.log.history, state=state, stop=stop, notes=trainee.kept,
        )
    )  # fmt: skip


def _next_stop(position: int, pace: int, run: Run, plan: Plan, callbacks: Sequence[Callback]) -> int:
    """Returns the number of steps that the run is to have done at the end of the next chunk."""
    length = run.steps_per_epoch
    epoch = position // length
    stop = position + pace
    if stop // length > epoch:  # stops inside an epoch are for epochs longer than a chunk
        stop -= stop % length
    for callback in callbacks:
        if callback.every_epochs:
            stop = min(stop, (epoch // callback.every_epochs + 1) * callback.every_epochs * length)
        if callback.every_steps:
            stop = min(stop, (position // callback.every_steps + 1) * callback.every_steps)
    return min(stop, (epoch + plan.capacity) * length, run.epochs * length)


class _Log:
    """The metrics of a run, in an array that grows."""

    def __init__(self, run: Run):
        self._run, self._names, self._rows, self.epochs = run, run.columns, np.empty((64, len(run.columns))), 0
        if run.history is not None:
            self.add(np.stack([run.history[name] for name in run.columns], axis=1))

    def add(self, rows: np.ndarray) -> None:
        needed = self.epochs + len(rows)
        if needed > len(self._rows):
            self._rows = np.concatenate([self._rows[: self.epochs], np.empty((max(needed, self.epochs), len(self._names)))])
        self._rows[self.epochs : needed] = rows
        self.epochs = needed

    def history(self, first: int = 0) -> History:
        rows = self._rows[first : self.epochs].copy()
        return History({name: rows[:, column] for column, name in enumerate(self._names)}, first + 1, **self._run.facts)
