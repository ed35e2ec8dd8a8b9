"""Members of a population in lockstep: one program, mapped over them, on all local devices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxfit.history import History
from flaxfit.storage.checkpoints import Checkpoints
from flaxfit.storage.directory import RunDirectory
from flaxfit.sweep.study import Member
from flaxfit.train import program
from flaxfit.train.job import CHUNK_SECONDS, Job, program_hash, result_of
from flaxfit.train.programs import compiled, kept
from flaxfit.train.result import Result, Timing
from flaxfit.train.session import Session, Signals, described

SAVE_SECONDS = 60.0
MEMORY_SHARE = 0.9
"""Of what a device has free, that much may be used: other programs need some."""
_AXIS = "members"


def train_together(
    members: Sequence[Member], jobs: Sequence[Job], directory: RunDirectory | None, signals: Signals, tally: Any
) -> list[Result | None]:
    """Trains members group by group, of one program each, and a group in waves where it is too large for memory.

    Returns:
      What each member gave; None for all of a wave that a signal ended.
    """
    results: list[Result | None] = [None] * len(members)
    groups: dict[Any, list[int]] = {}
    for index, (member, job) in enumerate(zip(members, jobs, strict=True)):
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves((job.data, job.records.get("validation"))))
        groups.setdefault((member.family, shapes), []).append(index)
    for indices in groups.values():
        group = _Group([members[i] for i in indices], [jobs[i] for i in indices])
        width = group.width()
        for first in range(0, len(indices), width):
            part = indices[first : first + width]
            if signals.heard is not None:
                return results
            wave = _Wave(group, range(first, first + len(part)), width)
            for index, result in zip(part, wave.train(directory, signals), strict=True):
                results[index] = result
            tally.add(len(part))
    return results


class _Group:
    """Members of one program: one family, rows of the same shapes."""

    def __init__(self, members: Sequence[Member], jobs: Sequence[Job]):
        self.members, self.jobs, self.job = members, jobs, jobs[0]
        self.shared = all(job is jobs[0] for job in jobs)
        self.plan = replace(self.job.plan, lockstep=_AXIS)
        mesh = Mesh(np.array(jax.local_devices()), ("devices",))
        self.split, self.whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("devices",), ()))
        self.devices = mesh.size
        self._rows: Any = None

    def width(self) -> int:
        """How many members fit into memory at once, as the compiled program tells; a multiple of the devices."""
        free = MEMORY_SHARE * free_bytes()
        width = -(-len(self.members) // self.devices) * self.devices
        while free < np.inf and width > self.devices:
            stack = self.stacked([0] * width)
            needed = _bytes(self.advance(stack, self.start(stack)))
            if needed <= free:
                break
            width = max(1, min(width - 1, int(width * free / needed)) // self.devices) * self.devices
        return width

    def stacked(self, indices: Sequence[int]) -> tuple[Any, Any, Any, Any]:
        """Numbers, keys and rows of these members, side by side."""
        chosen = [self.members[i] for i in indices]
        numbers = jax.tree.map(lambda *values: np.stack(values), *(m.numbers for m in chosen))
        seeds = np.array([m.seed for m in chosen], np.uint32)
        keys = jax.jit(jax.vmap(jax.random.key), out_shardings=self.split)(seeds)
        if self.shared:
            if self._rows is None:
                self._rows = jax.device_put(self.job.placed[:2], self.whole)
            rows = self._rows
        else:
            sets = [(self.jobs[i].data, self.jobs[i].records.get("validation")) for i in indices]
            rows = jax.device_put(jax.tree.map(lambda *arrays: np.stack(arrays), *sets), self.split)
        return jax.device_put(numbers, self.split), keys, *rows

    def start(self, stack: tuple[Any, Any, Any, Any]) -> Any:
        """The members at their beginning."""
        numbers, keys, _, _ = stack
        x = self.job.placed[2]

        def start(numbers: Any, keys: Any, x: Any) -> Any:
            state = jax.vmap(lambda n, k: self.job.start(n, k, x, None))(numbers, keys)
            return jax.lax.with_sharding_constraint(state, self.split)

        x = jax.device_put(x, self.whole)
        return compiled(self.job.family, ("start together", self.plan.stopping.direction), start, numbers, keys, x)(numbers, keys, x)

    def advance(self, stack: tuple[Any, Any, Any, Any], state: Any) -> Any:
        """The compiled program for so many members."""
        numbers, _, rows, validation = stack
        args = (numbers, state, rows, validation, jax.device_put(np.int32(0), self.whole))
        return compiled(self.job.family, (self.plan, self.shared), self._advance, *args, donate=(1,))

    def hash(self, stack: tuple[Any, Any, Any, Any], state: Any) -> str:
        """Of that program."""
        numbers, _, rows, validation = stack
        args = (numbers, state, rows, validation, jax.device_put(np.int32(0), self.whole))
        return kept(self.job.family, ("hash", self.plan, self.shared), args, lambda: program_hash(jax.jit(self._advance), *args))

    def _advance(self, numbers: Any, state: Any, rows: Any, validation: Any, until: Any) -> Any:
        def one(numbers: Any, state: Any, rows: Any, validation: Any) -> Any:
            return program.advance(self.job.family.task(numbers), self.plan, state, rows, validation, until)

        own = None if self.shared else 0
        out = jax.vmap(one, in_axes=(0, 0, own, own), axis_name=_AXIS)(numbers, state, rows, validation)
        return jax.lax.with_sharding_constraint(out, self.split)


class _Wave:
    """Members that go on together: as many as fit, the last ones over again where there are fewer."""

    def __init__(self, group: _Group, indices: Sequence[int], width: int):
        self.group, self.indices = group, indices
        self.slots = [*indices, *[indices[-1]] * (width - len(indices))]

    def train(self, directory: RunDirectory | None, signals: Signals) -> list[Result | None]:
        began = time.perf_counter()
        group, job = self.group, self.group.job
        members = [group.members[i] for i in self.indices]
        about = job.about(members[0].task)
        stack = group.stacked(self.slots)
        state, logs = group.start(stack), np.full((len(self.slots), 0, len(job.columns)), np.nan)
        advance = group.advance(stack, state)
        with ExitStack() as context:
            checkpoints = None
            if directory is not None:
                names = [member.name for member in members]
                config = described(members[0].task, {**job.options, "members": names, "slots": len(self.slots)}, job.recorded)
                session = Session(directory.together / f"{names[0]}+{len(names) - 1}", "auto", config, signals)
                context.enter_context(session)
                session.confirm(group.hash(stack, state))
                checkpoints = context.enter_context(Checkpoints(session.directory.checkpoints))
                if (found := checkpoints.restore(state)) is not None:
                    state, logs, _ = found
                    session.check_epochs(logs.shape[1])
            steps, total = about.steps_per_epoch, about.epochs * about.steps_per_epoch
            live, full = np.arange(len(self.slots)), None  # which slots go on, and all slots on the host once some do not
            compile_seconds, spent, chunks, pace, saved = time.perf_counter() - began, 0.0, 0, 1, time.perf_counter()

            def stands() -> tuple[np.ndarray, int]:
                epochs, step, ended = jax.device_get((state.epoch, state.step, state.diverged | (state.stopper.stopped & job.plan.stops)))
                at = epochs * steps + step
                return ended | (at >= total), int(at.max())

            ended, position = stands()
            while not ended.all() and signals.heard is None:
                if 2 * (~ended).sum() <= len(live) and len(live) > group.devices:
                    full = _merged(state if full is None else full, state, live)
                    chosen = np.flatnonzero(~ended)
                    fewer = -(-len(chosen) // group.devices) * group.devices
                    chosen = np.resize(chosen, fewer)
                    live, state = live[chosen], jax.device_put(_at(state, chosen), group.split)
                    stack = group.stacked([self.slots[slot] for slot in live])
                    advance = group.advance(stack, state)
                start, before = time.perf_counter(), position
                until = min(position + pace, (position // steps + job.plan.capacity) * steps, total)
                until -= until % steps if until // steps > position // steps else 0
                numbers, _, rows, validation = stack
                state, table = advance(numbers, state, rows, validation, jax.device_put(np.int32(until), group.whole))
                ended, position = stands()
                now = time.perf_counter()
                chunks, spent = chunks + 1, spent + now - start
                pace = min(8 * pace, max(1, int((position - before) * CHUNK_SECONDS / max(now - start, 1e-9))))
                logs = _longer(logs, jax.device_get(table)[:, : position // steps - before // steps], live)
                if checkpoints is not None and now - saved > SAVE_SECONDS:
                    saved = now
                    checkpoints.save(position, _merged(full, state, live) if full is not None else state, logs, float("nan"))
            full = _merged(full, state, live)
            if checkpoints is not None:
                checkpoints.save(position, full, logs, float("nan"))
        results: list[Result | None] = []
        for slot, member in enumerate(members):
            own = _at(full, slot)
            epochs = int(own.epoch)
            timing = Timing(compile_seconds, spent, spent / max(1, epochs) / len(members), chunks)
            history = History({name: logs[slot, :epochs, column] for column, name in enumerate(job.columns)})
            done = bool(own.diverged) or (job.plan.stops and bool(own.stopper.stopped)) or epochs >= about.epochs
            results.append(result_of(member.task, job.plan, own, history, timing, about.data) if done else None)
        return results


def free_bytes() -> float:
    """What the fullest local device has free; infinity where devices do not tell, as CPUs."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    return min((s["bytes_limit"] - s["bytes_in_use"] for s in stats if s), default=np.inf)


def _bytes(program: Any) -> int:
    """What a compiled program takes on one device: arguments, results and what lies between."""
    memory = program.memory_analysis()
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return own + memory.temp_size_in_bytes


def _at(state: Any, slots: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[slots], state)


def _longer(logs: np.ndarray, rows: np.ndarray, live: np.ndarray) -> np.ndarray:
    """The metrics with those of new epochs, which the members that went on have."""
    new = np.full((len(logs), rows.shape[1], rows.shape[2]), np.nan)
    new[live] = rows
    return np.concatenate([logs, new], axis=1)


def _merged(full: Any, state: Any, live: np.ndarray) -> Any:
    """All members, of which those at `live` stand as in `state`; `full` is None while these are all."""
    if full is None:
        return state

    def put(old: Any, new: Any) -> Any:
        if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
            return old.at[live].set(new)
        old = np.array(old)
        old[live] = new
        return old

    return jax.tree.map(put, full, state)
