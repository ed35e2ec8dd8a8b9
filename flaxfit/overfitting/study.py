"""The study of fixes: train a baseline and every fix on the same folds, and say which of them helps, beyond noise."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import check_count
from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import Splits
from flaxfit.data.table import Table
from flaxfit.history import History
from flaxfit.overfitting.answer import OverfittingStudy
from flaxfit.overfitting.columns import Importance, importances, places_of
from flaxfit.overfitting.doubts import doubts
from flaxfit.overfitting.findings import Rival, Signal
from flaxfit.overfitting.fixes import BASELINE, NEUTRAL, Fix, fixes_for
from flaxfit.overfitting.growth import Growth, growth
from flaxfit.overfitting.measures import Measure, interval_of, measure_for
from flaxfit.overfitting.network import Network, studied
from flaxfit.overfitting.plan import CELLS, PERMUTATIONS, SIZES, Cost, Plan, duration, epochs_for, fitting, seconds_of
from flaxfit.overfitting.problem import Problem, problem_of
from flaxfit.overfitting.recorded import Recorded
from flaxfit.overfitting.runs import Cell, Run, Trainer, outputs_of
from flaxfit.overfitting.scores import Scores
from flaxfit.overfitting.simple import comparable, simple_models
from flaxfit.programs.compiled import MakeTask
from flaxfit.programs.export import export
from flaxfit.report import statistics
from flaxfit.report.diagnosis import Diagnosis, diagnose, verdicts
from flaxfit.report.statistics import Interval, family
from flaxfit.state import TrainState
from flaxfit.sweep.executors import Executors, check_executor, pool_of
from flaxfit.sweep.fit_many import train_all
from flaxfit.sweep.members import Trial
from flaxfit.task.labels import kind_of_loss
from flaxfit.task.task import Task

_FEWEST = 12  # training examples of the smallest size


def overfitting_study(
    make_task: MakeTask | Network | None,
    data: Dataset | Table | Splits,
    *,
    metric: str | None = None,
    margin: float | None = None,
    groups: Any = None,
    times: Any = None,
    test: float = 0.2,
    folds: int | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    budget: str | float = "2m",
    seed: int = 0,
    run_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | bool = False,
    began: float | None = None,
    executor: Executors | None = None,
) -> OverfittingStudy:
    """Tells whether a model overfits, and which fix helps on examples that it never saw.

    The study sets test examples aside. On folds of the others it trains the baseline and each fix at several strengths: smaller and larger
    networks, L1 and L2 penalties, weight decay, dropout, L2 with dropout, batch norm, early stopping, and for images augmentation. Each
    fix is compared with the baseline fold by fold, with a test that is corrected for the examples that the training sets of folds share
    (Nadeau and Bengio 2003) and for the number of fixes (Holm 1979). It recommends the simplest setting within one standard error of the
    best (Breiman et al. 1984, "Classification and regression trees"), trains it again on all examples but the test examples, and scores it
    on these once. It also fits simple models of scikit-learn on the same folds, permutes the targets to see whether there is any
    signal (Ojala and Garriga 2010, "Permutation tests for studying classifier performance"), trains on fewer examples to see whether
    more would help, and looks for leakage.

    Args:
      make_task: what is studied. None or a `Network` makes a network for the data. A function of a mapping of hyperparameters that returns
        a `Task` is studied with the fixes whose hyperparameters it asks for: `width`, `l1`, `l2`, `weight_decay`, `dropout`,
        `batch_norm`, `augmentation`; the baseline has `width` 1, `batch_norm` False, and 0 for the others. If it asks for `scaling`, it
        gets a `Scaling` that standardizes the inputs. A `Task` is studied with penalties and early stopping.
      data: the examples: a `Dataset`, a `Table`, or `Splits` whose test examples are then the test examples of the study.
      metric: the metric that decides: the data loss, a metric of the task, or "auc". By default the data loss, or "rmse" for a mean
        squared error.
      margin: the smallest difference that matters, in the unit of the metric. A fix then helps only if it helps by more than this.
      groups: the group of each example, such as a patient, shape (rows,). All examples of a group are in the same fold.
      times: the time of each example, shape (rows,). The newest examples test, and validation examples are newer than training examples.
      test: the share of the examples to set aside.
      folds: the number of folds; by default 10, or 5 if there is no time for 10.
      epochs: the epochs of each run; by default about 2,500 steps, between 30 and 200 epochs.
      batch_size: the number of examples of a step.
      budget: the time for all of this, such as "90s" or "10m", which decides how many strengths of each fix are tried, and how often
        folds are made anew. The plan is reported before it starts.
      seed: the seed of all splits and runs.
      run_dir: a directory for the answer (`study.md`, figures, `study.json`), for the recommended model (`flaxfit.load`), and for the
        members in training: the same call resumes a study that was interrupted, with its plan.
      progress: a function that is called with a line of text now and then, or True to print to standard error, with a progress bar.
      began: the `time.monotonic()` from which the budget counts; by default now.
      executor: trains the members on other processes or machines, as for `fit_many`. The plan counts the cores of this machine.

    Returns:
      An `OverfittingStudy`.

    Raises:
      ValueError: there are too few examples; the metric is unknown; the budget is not a duration; `run_dir` has another study.
      TypeError: `data` or `make_task` is of another type.

    Example:
      >>> import flaxfit as ff, optax
      >>> data = ff.data.load("wine").train
      >>> task = ff.Task(ff.nn.MLP((8,), 3), ff.losses.categorical_crossentropy, optax.adam(1e-2))
      >>> study = ff.overfitting_study(task, data, epochs=5, folds=2, budget="1s")
      >>> [tried.fix.kind for tried in study.tried], study.row("early stopping").scores.shape
      (['baseline', 'early stopping', 'L2 penalty', 'L1 penalty'], (2,))
    """
    began = time.monotonic() if began is None else began
    check_executor(executor)
    say = progress if callable(progress) else _printed if progress else lambda _: None
    budget_seconds = seconds_of(budget)
    if isinstance(make_task, Dataset | Table | Splits):
        raise TypeError("overfitting_study takes what is studied first: overfitting_study(make_task, data), where make_task may be None.")
    problem, warnings = problem_of(data, groups, times, test, folds, seed)
    make, names, baseline = studied(make_task, problem)
    first = problem.split(0)[0]
    part = problem.part(*first, False)
    task = make({name: NEUTRAL[name] for name in names} | dict(part.fitted or {})) if not isinstance(make, Task) else make
    if problem.times is not None and metric is None and task.loss_name in ("mse", "standardized_mse"):
        metric = "mse"
    measure = measure_for(task, metric)
    warnings += problem.leaks()
    epochs = epochs_for(len(first[0]), batch_size) if epochs is None else check_count("epochs", epochs, 1, "epochs")
    check_count("batch_size", batch_size, 1, "examples of a step")
    trainer = Trainer(problem, make, names, measure, epochs, batch_size, run_dir, progress=progress is True)
    asked = {
        "metric": metric,
        "margin": margin,
        "test": test,
        "folds": folds,
        "batch_size": batch_size,
        "seed": seed,
        "names": sorted(names),
    }
    recorded = Recorded(run_dir, asked | {"epochs": epochs, "data": problem.checksum()}, say)
    for warning in warnings:
        recorded.say(f"Warning: {warning}")
    given = make_task is not None and not isinstance(make_task, Network)
    with pool_of(executor) as trainer.executor:
        return _Study(problem, trainer, baseline, given, folds, warnings, margin, began, budget_seconds, recorded).run()


@dataclass(eq=False)
class _Study:
    """A study in progress."""

    problem: Problem
    trainer: Trainer
    baseline: str
    given: bool
    folds: int | None
    warnings: list[str]
    margin: float | None
    began: float
    budget: float
    recorded: Recorded
    scores: Scores = field(init=False)

    def __post_init__(self) -> None:
        self.scores = Scores(self.problem, self.trainer.measure, self.margin)

    @property
    def left(self) -> float:
        return self.budget - (time.monotonic() - self.began)

    @property
    def measure(self) -> Measure:
        return self.trainer.measure

    def run(self) -> OverfittingStudy:
        problem, trainer = self.problem, self.trainer
        cells = self._cells(0)
        self.scores.add(trainer.train("baseline, one fold", [BASELINE], cells[:1]))  # which tells how long a run takes
        one = self.scores.runs.pop("baseline")[0]
        cost = Cost(one.compile, one.seconds, len({len(cell.train) for cell in cells}))
        plan = self.recorded.plan
        if plan is None:
            folds = self.folds or (None if problem.folds == 10 else problem.folds)
            plan = fitting({*trainer.names}, trainer.epochs, trainer.batch_size, self.left, cost, folds)
            self.recorded.keep(plan)
            if plan.seconds > self.left:
                self.warnings.append("even the smallest plan takes longer than the budget: give it more time, or fewer epochs.")
        self.problem.folds, cells = plan.folds, cells if plan.folds == problem.folds else self._cells(0)
        fixes, missing = fixes_for({*trainer.names}, plan.strengths)
        missing = missing if self.given else {}
        left = f"{duration(max(self.left, 0.0))} of {duration(self.budget)} are left"
        self.recorded.say(f"Plan: {plan.describe(len(fixes))} ({left}).")
        count = len(fixes)
        repeats = self._train(plan, fixes, cost)
        plan = replace(plan, repeats=repeats, strengths=plan.strengths if len(fixes) == count else 1)
        self.recorded.keep(plan)
        tried = self.scores.tried(fixes)
        best, recommended = self.scores.chosen(tried)
        self.recorded.say(f"Recommended: {recommended.name}. Training it on all examples but the test examples.")
        task, state, sample, outputs, test = self._final(recommended)
        rivals = self._rivals(recommended)
        more = self._growth(recommended, cells[:CELLS])
        signal = self._signal(cells[:CELLS])
        columns = self._columns(recommended)
        self.warnings += doubts(problem, tried, best, columns, trainer.broken)
        histories = {fix.name: [run.history for run in self.scores.runs[fix.name]] for fix in (BASELINE, recommended, best)}
        base = histories["baseline"]
        study = OverfittingStudy(
            self.measure.title,
            self.measure.larger_is_better,
            self._described(),
            plan,
            self.baseline,
            _diagnosed(self.scores.runs["baseline"], len(problem.pool)),
            verdicts(map(diagnose, base)),
            histories,
            tried,
            missing,
            recommended,
            best,
            test,
            len(problem.test),
            rivals,
            signal,
            more,
            columns,
            self.warnings,
            self.scores.covers(),
            self.margin,
            task,
            state,
            self._classes(),
            outputs,
            np.asarray(problem.data.y)[problem.test],
            time.monotonic() - self.began,
            None if trainer.run_dir is None else Path(trainer.run_dir),
        )
        if study.directory is not None:
            about = {"study": "flaxfit.overfitting_study", "recommended": recommended.name, "sentences": study.sentences}
            export(study.directory / "export", task, state, sample, about=about)
            study.write(study.directory)
        return study

    def _cells(self, repeat: int) -> list[Cell]:
        number = repeat * self.problem.folds
        return [Cell(number + place, *rows) for place, rows in enumerate(self.problem.split(repeat))]

    def _train(self, plan: Plan, fixes: list[Fix], cost: Cost) -> int:
        """Trains all fixes, repeat by repeat, while there is time. Returns the number of repeats.

        In the first repeat, one strength of each fix comes first. If there is no time for the others, they are taken off the list.
        """
        longest = cost.of_repeat(plan.folds, fixes)
        first = [fix.name for fix in fixes_for({*self.trainer.names}, 1)[0]]
        for repeat in range(plan.repeats):
            if repeat and not self.recorded.resumed and self.left < longest + cost.of_rest(plan.folds):
                self.warnings.append(f"the time allowed {repeat} of the {plan.repeats} planned repeats.")
                return repeat
            started, title, cells = time.monotonic(), f"repeat {repeat + 1} of {plan.repeats}", self._cells(repeat)
            if repeat:
                self.scores.add(self.trainer.train(title, fixes, cells))
                longest = max(longest, time.monotonic() - started)
            else:
                self.scores.add(self.trainer.train(title + ", baseline", [BASELINE], cells))
                self.recorded.say(f"The baseline: {_diagnosed(self.scores.runs['baseline'], len(self.problem.pool))}.")
                began, main = time.monotonic(), [fix for fix in fixes[1:] if fix.name in first]
                self.scores.add(self.trainer.train(title + ", one strength", main, cells))
                if others := [fix for fix in fixes[1:] if fix.name not in first]:
                    each = (time.monotonic() - began) / len(main)
                    if self.recorded.resumed or self.left > 0.8 * each * len(others) + cost.of_rest(plan.folds):
                        self.scores.add(self.trainer.train(title + ", other strengths", others, cells))
                    else:
                        self.warnings.append("the time allowed only one strength of each fix.")
                        fixes[:] = [fix for fix in fixes if fix not in others]
            tried = self.scores.tried(fixes)
            best, _ = self.scores.chosen(tried)
            score = next(t.score for t in tried if t.fix == best)
            left = "" if self.recorded.resumed else f", about {duration(max(0.0, self.left))} of the budget left"
            self.trainer.so_far = f"best so far {best.name}, {score.short}"
            self.recorded.say(f"{title} done: best so far {best.name}, {self.measure.title} {score.short}{left}.")
        return plan.repeats

    def _final(self, fix: Fix) -> tuple[Task, TrainState, Dataset, np.ndarray, dict[str, Interval]]:
        """The recommended setting, trained on the whole pool; an example of its data; its outputs and scores on the test examples."""
        trainer, problem = self.trainer, self.problem
        train, validation, test, fitted = problem.final(fix.stops)
        trial = Trial(trainer.setting(fix), problem.seed, train, validation, None, fitted)
        place = None if trainer.run_dir is None else os.path.join(trainer.run_dir, "members", "recommended")
        config, where = trainer.config(fix.stops), {"run_dir": place, "executor": trainer.executor}
        study = train_all(trainer.make_task, [trial], trainer.traced, config, **where)
        member, result = study.members[0], study.results[0]
        state = result.best if fix.stops else result.last
        outputs, y = outputs_of(member, state, test.x), np.asarray(test.y)
        scores = {self.measure.title: interval_of(self.measure, outputs, y)}
        for name, metric in member.task.metrics.items():
            rows = np.asarray(metric(outputs, y), float)
            if rows.shape == (len(test),) and name != self.measure.name:
                scores[name] = statistics.of_rows(rows)
        return member.task, replace(member.task.evaluated(state), opt_state=None), train[:1], outputs, scores

    def _rivals(self, fix: Fix) -> list[Rival]:
        runs = self.scores.runs[fix.name]
        task = runs[0].member.task
        plain = [self.problem.part(run.cell.train, run.cell.held_out, False) for run in runs]
        if self.problem.folds == 1:
            plain = plain[:1]
        if not comparable(task, plain[0].train):
            return []
        found, left_out = simple_models(task, self.measure, plain, max(15.0, 0.2 * self.budget))
        self.warnings += [f"{name} was left out, because it takes too long for the budget." for name in left_out]
        ours, compared, scores = self.scores.values(fix.name), [], []
        for model in found:
            theirs = model.scores if model.rows is None or self.problem.folds > 1 else np.array(model.rows)
            if self.problem.folds == 1:
                theirs = np.repeat(theirs, len(ours), axis=0)  # the same predictions whatever the seed
            scores.append(self.scores.interval(theirs))
            compared.append(self.scores.compared(theirs, ours, (model.name, fix.name)))
        return [Rival(m.name, score, c) for m, score, c in zip(found, scores, family(compared), strict=True)]

    def _growth(self, fix: Fix, cells: Sequence[Cell]) -> Growth | None:
        runs = self.scores.runs[fix.name][: len(cells)]
        if min(len(cell.train) for cell in cells) * SIZES[0] < _FEWEST or not all(np.isfinite(run.score) for run in runs):
            return None
        scores, sizes = [], []
        for share in SIZES:
            smaller = []
            for cell in cells:
                order = np.random.default_rng([self.problem.seed, cell.number]).permutation(cell.train)
                smaller.append(replace(cell, train=np.sort(order[: round(share * len(order))])))
            found = self.trainer.train(f"{share:.0%} of the examples", [fix], smaller)
            scores.append([run.score for run in found])
            sizes.append(round(float(np.mean([len(cell.train) for cell in smaller]))))
        scores.append([run.score for run in runs])
        sizes.append(round(float(np.mean([len(cell.train) for cell in cells]))))
        if not np.isfinite(scores).all():
            return None
        return growth(sizes, np.array(scores), self.measure.larger_is_better, self.problem.how)

    def _signal(self, cells: Sequence[Cell]) -> Signal | None:
        """Early stopping with true and with permuted targets: of all settings it is the one that nothing was chosen by."""
        if (stopping := self.scores.runs.get("early stopping")) is None:
            return None
        count = len(cells)
        permuted = [
            replace(cell, number=1000 + place * count + cell.number, permuted=place)
            for place in range(1, PERMUTATIONS + 1)
            for cell in cells
        ]
        runs = self.trainer.train("permuted targets", [stopping[0].fix], permuted)
        scores = np.array([run.score for run in runs]).reshape(PERMUTATIONS, count).mean(1)
        real = float(np.mean([run.score for run in stopping[:count]]))
        sign = -1 if self.measure.larger_is_better else 1
        as_good = int((sign * scores <= sign * real).sum())
        return Signal(real, scores, (1 + as_good) / (1 + PERMUTATIONS))

    def _columns(self, fix: Fix) -> list[Importance]:
        runs = self.scores.runs[fix.name]
        if len(runs) < 2 or not all(np.isfinite(run.score) for run in runs):
            return []
        return importances(runs, self.measure, places_of(runs[0].part.held_out, self.problem.encoding), self.problem.how)

    def _described(self) -> str:
        problem = self.problem
        target = f" to predict {problem.data.target}" if isinstance(problem.data, Table) else ""
        kind = "in groups" if problem.groups is not None else "in the order of time" if problem.times is not None else "at random"
        return (
            f"{len(problem.data)} examples{target}, split {kind}: {len(problem.pool)} to train and validate on, and {len(problem.test)} "
            f"test examples that only the recommended network sees, once."
        )

    def _classes(self) -> tuple[str, ...] | None:
        """The names of the classes, if the outputs are their logits."""
        if self.problem.labels is None or kind_of_loss(self.scores.runs["baseline"][0].member.task) is None:
            return None
        return self.problem.data.classes or tuple(map(str, range(max(2, int(self.problem.labels.max()) + 1))))


def _diagnosed(runs: Sequence[Run], rows: int) -> Diagnosis:
    """The diagnosis of the mean curve, whose validation examples are those of all folds, and how many runs agree with it."""
    histories = [run.history for run in runs]
    whole = {len(history.epochs) for history in histories}
    if len(whole) > 1:  # some were not finite
        return diagnose(histories)
    mean = History.mean(histories)
    mean.validation_rows = rows
    found, each = diagnose(mean), [diagnose(history) for history in histories]
    alike = [one.verdict == found.verdict or ("overfitted" in one.verdict and "overfitted" in found.verdict) for one in each]
    return replace(found, runs=len(each), agree=sum(alike))


def _printed(line: str) -> None:
    sys.stderr.write(f"{line}\n")
