"""How the members of a population train in one process: side by side in one program, or in threads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any, Literal

import jax

from flaxfit.arguments import unknown
from flaxfit.signals import Signals
from flaxfit.sweep.mapped import Group, Mapped
from flaxfit.sweep.members import Entry
from flaxfit.train.job import Single
from flaxfit.train.loop import train

Way = Literal["threads", "vmap"]
Strategy = Literal["auto"] | Way


def chosen(strategy: Strategy) -> Way:
    """Returns the strategy that is meant.

    Raises:
      ValueError: there is no such strategy.
    """
    if strategy not in ("auto", "threads", "vmap"):
        raise ValueError(unknown("strategy", str(strategy), ("auto", "threads", "vmap")))
    if strategy != "auto":
        return strategy
    return "threads" if jax.default_backend() == "cpu" else "vmap"


def alike(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Returns members in groups that can train side by side. What these have in common is their program, the shapes of their rows, where
    they are, and the width of the program in which they were saved."""
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves((entry.job.data, entry.job.validation)))
        groups.setdefault((entry.member.programs, shapes, entry.position, entry.width), []).append(entry)
    return list(groups.values())


def side_by_side(entries: Sequence[Entry], signals: Signals, together: Callable[[], AbstractContextManager[Any]]) -> None:
    """Trains members in groups with the same program and step, and a group in parts if memory is short.

    Members that were interrupted train on in a program of the same width, which may change their last bits. `together` makes a context in
    which members are saved together or not at all.
    """
    for members in alike(entries):
        width = members[0].width
        group = Group([entry.member for entry in members], [entry.job for entry in members], width)
        for first in range(0, len(members), group.width):
            if signals.heard is not None:
                return
            part, began = members[first : first + group.width], time.perf_counter()
            batch = Mapped(group, range(first, first + len(part)), None if width is None else group.width)
            batch.start([entry.state for entry in part if entry.state is not None] or None)
            for entry in part:
                entry.batch = batch
            trainees = [entry.trainee() for entry in part]
            train(batch, trainees, group.plan, began, signals, together=together)
            for entry, trainee in zip(part, trainees, strict=True):
                entry.finish(trainee)


def in_threads(entries: Sequence[Entry], workers: int | None, signals: Signals) -> None:
    """Trains members in threads, one for each core. Compiled programs run outside of Python's lock."""

    def work(entry: Entry) -> None:
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
