"""The trained members of a study, and their scores."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flaxfit.history import History
from flaxfit.overfitting.fixes import NEUTRAL, TRACED, Fix
from flaxfit.overfitting.measures import Measure
from flaxfit.overfitting.problem import Part, Problem, Rows
from flaxfit.programs.compiled import MakeTask
from flaxfit.programs.evaluate import predict_member
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.sweep.executors import Pool
from flaxfit.sweep.fit_many import train_all
from flaxfit.sweep.members import Trial
from flaxfit.train.config import TrainConfig
from flaxfit.train.job import Member, Split
from flaxfit.train.result import Result


@dataclass(frozen=True, eq=False)
class Cell:
    """One fold."""

    number: int  # its number, counted over repeats, which is also the seed of its members
    train: Rows  # the numbers of the training examples
    held_out: Rows  # the numbers of the examples that score
    permuted: int | None = None  # the seed of a permutation of the targets, or None for the true ones


@dataclass(frozen=True, eq=False)
class Run:
    """One trained member."""

    fix: Fix  # what was trained
    cell: Cell
    score: float  # its score on the held-out examples
    rows: np.ndarray | None  # the score of each held-out example, or None if the score is no mean of them
    history: History
    epochs: int  # how many epochs it trained
    seconds: float  # how long its steps took
    compile: float  # how long it took until the first step
    part: Part  # what it was trained on
    member: Member
    state: Any  # the weights of the member

    def predict(self, x: Any) -> np.ndarray:
        """Returns the outputs for some inputs."""
        return outputs_of(self.member, self.state, x)


def outputs_of(member: Member, state: Any, x: Any) -> np.ndarray:
    """Returns the outputs of a member with some weights."""
    return predict_member(member.programs, member.task, member.numbers, state, x)


@dataclass(eq=False)
class Trainer:
    """Trains the members of a study."""

    problem: Problem
    make_task: MakeTask  # what makes the task of each setting
    names: Collection[str]  # the hyperparameters that `make_task` takes
    measure: Measure  # how members are scored
    epochs: int  # how many epochs each member trains
    batch_size: int  # the number of examples of a step
    run_dir: str | os.PathLike[str] | None = None  # the directory for the populations, or None
    executor: Pool | None = None  # what trains the members, or None for this process
    progress: bool = False  # whether to show how many members have ended, on standard error
    so_far: str = ""  # what the progress says of the results so far
    broken: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def patience(self) -> int:
        """The patience of early stopping, in epochs."""
        return max(10, self.epochs // 10)

    @property
    def traced(self) -> set[str]:
        """The hyperparameters that are arguments of the compiled programs."""
        return TRACED & {*self.names}

    def config(self, stops: bool) -> TrainConfig:
        """Returns how members are trained."""
        return TrainConfig(self.epochs, self.batch_size, EarlyStopping(patience=self.patience) if stops else None)

    def setting(self, fix: Fix) -> dict[str, Any]:
        """Returns all hyperparameters of a fix."""
        return {name: fix.setting.get(name, NEUTRAL[name]) for name in NEUTRAL if name in self.names}

    def train(self, name: str, fixes: Sequence[Fix], cells: Sequence[Cell]) -> list[Run]:
        """Trains each fix on each fold.

        Args:
          name: the name of the population in the run directory.
          fixes: what to train.
          cells: the folds.
        """
        runs = []
        for stops in (False, True):
            chosen = [fix for fix in fixes if fix.stops == stops]
            if not chosen:
                continue
            parts = [self.problem.part(cell.train, cell.held_out, stops, cell.permuted) for cell in cells]
            owners = [(fix, cell, part) for fix in chosen for cell, part in zip(cells, parts, strict=True)]
            trials = [
                Trial(self.setting(fix), cell.number, part.train, part.validation, cell.number, part.fitted, Split(*part.sizes, not stops))
                for fix, cell, part in owners
            ]
            title = name + (" stopped early" if stops else "")
            place = None if self.run_dir is None else os.path.join(self.run_dir, "members", title)
            shown = ", ".join(filter(None, (title, self.so_far))) if self.progress else None
            how = {"progress": shown, "run_dir": place, "executor": self.executor, "transient": True}
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*members ended on a value that is not finite")  # they are counted instead
                warnings.filterwarnings("ignore", message=".*labels of classes that train.y does not have")  # in small training sets
                study = train_all(self.make_task, trials, self.traced, self.config(stops), **how)
            runs += [self._scored(*owner, m, r) for owner, m, r in zip(owners, study.members, study.results, strict=True)]
        return runs

    def _scored(self, fix: Fix, cell: Cell, part: Part, member: Member, result: Result) -> Run:
        state, held = result.best if fix.stops else result.last, part.held_out
        score, rows = float("nan"), None
        if result.stop_reason == "non_finite":
            self.broken[fix.name] += 1
        else:
            logits = outputs_of(member, state, held.x)
            y = np.asarray(held.y)
            score = self.measure(logits, y, held.sample_weight)
            rows = self.measure.rows(logits, y) if self.measure.by_example else None
        epochs, timing = len(result.history.epochs), result.timing
        return Run(fix, cell, score, rows, result.history, epochs, timing.train, timing.compile, part, member, state)
