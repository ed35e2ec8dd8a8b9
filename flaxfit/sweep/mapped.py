"""Members that are mapped over and train side by side in one program, on all local devices."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxfit.devices.sharding import ONE_DEVICE, host, is_key, place
from flaxfit.programs import disk
from flaxfit.programs.program import unvalidated
from flaxfit.state import RunState
from flaxfit.train.job import START, Job, Member
from flaxfit.train.loop import few_left

MEMORY_SHARE = 0.75  # of a device's memory, so much may be used: results and other programs need some
_AXIS = "members"


class Group:
    """Members of one program: one job but for their rows, which have the same shapes.

    Args:
      members: the members.
      jobs: the job of each.
      width: how many trained side by side when they were saved, or None if they start now. They then train on in as many, because the
        width may change the last bits.
    """

    def __init__(self, members: Sequence[Member], jobs: Sequence[Job], width: int | None = None):
        self.members, self.jobs, self.job = members, jobs, jobs[0]
        self.plan = replace(self.job.plan, axis=_AXIS, placement=ONE_DEVICE)
        self.shared = all(job is jobs[0] for job in jobs)
        mesh = Mesh(np.array(jax.local_devices()), ("devices",))
        self.split, self.whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("devices",), ()))
        self.devices = mesh.size
        # How many members train side by side at most. It is a multiple of the number of devices, and follows from shapes and the size of
        # the device alone, never from what happens to be free.
        self.width = self._width(self.rounded(len(members) if width is None or few_left(len(members), width) else width))

    def rounded(self, members: int) -> int:
        """Returns the width of so many members: the next multiple of the number of devices."""
        return -(-members // self.devices) * self.devices

    def _width(self, width: int) -> int:
        size = MEMORY_SHARE * device_bytes()
        while size < np.inf and width > self.devices:
            needed = program_bytes(disk.compiled(self.advance().lower(*self._shapes(width))))
            if needed <= size:
                break
            width = max(1, min(width - 1, int(width * size / needed)) // self.devices) * self.devices
        return width

    def _shapes(self, width: int) -> tuple[Any, ...]:
        """The shapes of `advance`'s arguments, for so many members."""
        rows = (self.job.data, self.job.validation)
        stacked, own = (self.members[0].numbers, self.job.shapes), () if self.shared else rows
        many = jax.tree.map(lambda a: jax.ShapeDtypeStruct((width, *a.shape), a.dtype, sharding=self.split), (*stacked, *own))
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self.whole), (*rows, np.int32(0)))
        return (*many[:2], *(many[2:] or one[:2]), one[2])

    @functools.cached_property
    def rows(self) -> Any:
        """Training and validation rows that all members share, on each device."""
        return jax.device_put((self.job.data, self.job.validation), self.whole)

    def start(self) -> Any:
        """The compiled start of members side by side."""
        start = jax.vmap(self.job.start(self.plan), in_axes=(0, 0, None, None))
        return self.job.programs.jit(("start", self.plan, self.split), start, out_shardings=self.split, **START)

    def advance(self) -> Any:
        """The compiled next steps of members side by side."""
        own = None if self.shared else 0
        advance = jax.vmap(self.job.advance(self.plan), in_axes=(0, 0, own, own, None), axis_name=_AXIS)
        what = ("advance", self.plan, self.split, self.shared)
        return self.job.programs.jit(what, advance, donate_argnums=1, out_shardings=self.split)

    def validated(self) -> Any:
        """The compiled validation of members side by side, where the host computes metrics of it."""
        validated = jax.vmap(self.job.validated(self.plan), in_axes=(0, 0, None if self.shared else 0))
        return self.job.programs.jit(("validated", self.plan, self.split, self.shared), validated, out_shardings=self.split)

    def end(self) -> Any:
        """The compiled end of an epoch of members side by side, where the host has computed metrics."""
        end = jax.vmap(self.job.end(self.plan), axis_name=_AXIS)
        return self.job.programs.jit(("end", self.plan, self.split, self.job.rows), end, donate_argnums=1, out_shardings=self.split)


class Mapped:
    """A batch of members of a group, for the loop.

    Args:
      group: the group.
      indices: which of its members.
      width: how many slots they have; by default as many as they need.
    """

    def __init__(self, group: Group, indices: Sequence[int], width: int | None = None):
        self.group = group
        self._slots = np.resize(indices, width or group.rounded(len(indices)))
        self._count = len(indices)
        self._stack()

    @property
    def width(self) -> int:
        """How many members the program trains, some of them twice if there are fewer."""
        return len(self._slots)

    def _stack(self) -> None:
        """Numbers and rows of the members, side by side."""
        group, chosen = self.group, [self.group.members[slot] for slot in self._slots]
        numbers = jax.tree.map(lambda *values: np.stack(values), *(member.numbers for member in chosen))
        self._numbers, self._until = jax.device_put(numbers, group.split), jax.device_put(np.int32(0), group.whole)
        if group.shared:
            self._rows = group.rows
        else:
            sets = [(group.jobs[slot].data, group.jobs[slot].validation) for slot in self._slots]
            self._rows = jax.device_put(jax.tree.map(lambda *arrays: np.stack(arrays), *sets), group.split)

    def start(self, saved: Sequence[RunState] | None = None) -> None:
        """Makes the states: fresh ones, or what was saved of each member."""
        group = self.group
        if saved is not None:
            states = [saved[index % len(saved)] for index in range(len(self._slots))]
            self.state = jax.tree.map(self._joined, *states)
            return
        seeds = np.array([group.members[slot].seed for slot in self._slots], np.uint32)
        keys = jax.jit(jax.vmap(jax.random.key), out_shardings=group.split)(jax.device_put(seeds))
        x = jax.device_put(group.job.data[:1].x, group.whole)
        self.state = group.start()(self._numbers, keys, x, group.job.initial)

    def _joined(self, *leaves: Any) -> Any:
        words = np.stack([np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in leaves])
        return place(words, jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype, sharding=self.group.split))

    def compile(self) -> None:
        """Compiles what `advance` calls."""
        disk.compiled(self.group.advance().lower(self._numbers, self.state, *self._rows, self._until))

    def advance(self, position: int, until: int) -> Any:
        """Trains from step `position` to `until`: what the epochs logged, shape (members, capacity, columns)."""
        group, length = self.group, self.group.job.steps
        if group.plan.on_host:
            until = min(until, (position // length + 1) * length)
        until_ = jax.device_put(np.int32(until), group.whole)
        self.state, table = group.advance()(self._numbers, self.state, *self._rows, until_)
        if group.plan.on_host and until % length == 0:
            arguments = (self._numbers, self.state.train, self._rows[1])
            if until // length % group.plan.validation_every:
                scores = jax.device_put(unvalidated(group.validated().eval_shape(*arguments)[0]), group.split)
                told = [np.full(len(group.plan.on_host), np.nan, np.float32)] * len(self._slots)
            else:
                scores, outputs = group.validated()(*arguments)
                each = [jax.tree.map(operator.itemgetter(index), jax.device_get(outputs)) for index in range(len(self._slots))]
                told = [group.jobs[slot].told(group.members[slot].task, own) for slot, own in zip(self._slots, each, strict=True)]
            self.state, table = group.end()(self._numbers, self.state, scores, jax.device_put(np.stack(told), group.split))
        return table[: self._count]

    def status(self) -> Any:
        """Finished epochs, steps of the epoch under way, whether the stopper stopped, whether the run diverged; shape (members,) each."""
        state = self.state
        facts = jax.device_get((state.epoch, state.step, state.stopper.stopped, state.diverged))
        return jax.tree.map(lambda array: array[: self._count], facts)

    def on_host(self) -> Any:
        """The states of all members, in memory; keys as they are."""
        return jax.tree.map(lambda leaf: leaf if is_key(leaf) else jax.device_get(leaf), self.state)

    def ended(self) -> Any:
        """The states of all members, in memory."""
        return self.on_host()

    def member(self, state: Any, index: int) -> RunState:
        """One member's part of `on_host`, or of `ended`."""

        def one(leaf: Any) -> Any:
            return place(host(leaf)[index], jax.ShapeDtypeStruct((), leaf.dtype)) if is_key(leaf) else np.array(leaf[index])

        return jax.tree.map(one, state)

    def keep(self, members: np.ndarray) -> None:
        """Lets all other members go: a narrower program trains the rest."""
        chosen, self._count = np.resize(members, self.group.rounded(len(members))), len(members)
        self._slots = self._slots[chosen]
        self.state = jax.device_put(jax.tree.map(lambda leaf: leaf[chosen], self.state), self.group.split)
        self._stack()


def device_bytes() -> float:
    """The memory of the smallest local device; infinity where devices do not tell, as CPUs."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    return min((s["bytes_limit"] for s in stats if s), default=np.inf)


def program_bytes(program: Any) -> int:
    """What a compiled program takes on one device: arguments, results and what lies between."""
    memory = program.memory_analysis()
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return own + memory.temp_size_in_bytes
