"""The checks of a run before anything compiles, which make a `Job` of it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Stream
from flaxfit.devices.sharding import ONE_DEVICE, Placement
from flaxfit.programs import program
from flaxfit.programs.checks import (
    check_alike,
    check_data,
    check_finite,
    check_last_step,
    check_monitor,
    check_program,
    check_state,
    outputs,
)
from flaxfit.programs.rows import check_positions, check_rows_apart
from flaxfit.programs.set_metrics import on_host
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.programs.widths import validation_rows
from flaxfit.state import TrainState
from flaxfit.task.labels import check_labels, weighted
from flaxfit.train.config import TrainConfig
from flaxfit.train.job import Job, Member


def validate(
    member: Member,
    train: Any,
    validation: Any,
    config: TrainConfig,
    initial: TrainState | None = None,
    placement: Placement = ONE_DEVICE,
) -> Job:
    """Checks a run before anything compiles.

    Args:
      member: one of the runs that the job may be of.
      train: the training rows.
      validation: the validation rows, or None.
      config: how it trains.
      initial: weights to start from, or None.
      placement: on which devices.

    Raises:
      ValueError, TypeError: an input that cannot work.
    """
    task, programs, whole = member.task, member.programs, not isinstance(train, Stream)
    data = train if whole else train[:1]
    if not whole and placement.team.size > 1:
        raise TypeError("a Stream works in one process only: with several, pass each its part of the rows as a Dataset.")
    check_data("train", data)
    if validation is not None:
        check_data("validation", validation)
        check_alike(data, validation)
        if None not in (data.classes, validation.classes) and data.classes != validation.classes:
            raise ValueError(
                f"the classes of train are {', '.join(data.classes)}, those of validation {', '.join(validation.classes)}: "
                "number both alike, Dataset(x, y, classes=train.classes)."
            )

    total = len(train) * placement.team.size
    batch_size = min(config.batch_size, total)
    if validation is not None and config.validation_batch_size is None and task.eval_batch_size is None:
        config = replace(config, validation_batch_size=validation_rows(programs, member.numbers, data[:1], batch_size))
    evaluated = task.eval_batch_size or config.validation_batch_size or program.Plan.eval_batch_size
    training = program.batch_sizes(total, batch_size)
    evaluation = () if validation is None else program.batch_sizes(len(validation), evaluated)
    by_class = config.class_weight
    if config.validation_every > 1 and validation is None:
        raise ValueError(f"validation_every={config.validation_every} needs validation examples: pass fit(validation=...).")
    if config.validation_split is not None and placement.team.size > 1:
        raise ValueError("validation_split works in one process only: with several, pass the same validation=... to each.")
    if by_class == "balanced" and placement.team.size > 1:
        raise ValueError('class_weight="balanced" works in one process only: with several, pass the factors.')
    by_position = task.counted is not None or (data.sample_weight is not None and data.sample_weight.ndim > 1)
    shape = outputs(programs, task, member.numbers, data[:1].x, batch_size) if by_position or by_class is not None else None

    def by_classes(rows: Dataset) -> Dataset:
        return rows if by_class is None else weighted(task, rows, by_class, shape, whole)

    data = by_classes(data)
    if shape is not None:
        check_positions(task, "train", data if whole else train, shape)
        if validation is not None:
            check_positions(task, "validation", validation, shape)
    shapes, logits, measures = check_program(programs, task, member.numbers, data, training, evaluation)
    for name, rows in (("train", data), ("validation", validation)):
        if rows is not None:
            check_labels(task, name, rows, logits, data if whole and name == "validation" else None)
    if initial is None and (stored := task.network.stored) is not None:
        initial = TrainState(np.int32(0), *stored, None)  # pyright: ignore[reportArgumentType]
    if initial is not None:
        initial = check_state("initial", initial, shapes)
        for path, leaf in jax.tree_util.tree_leaves_with_path(initial):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                check_finite(f"initial{jax.tree_util.keystr(path)}", jnp.atleast_1d(leaf))
    check_rows_apart(programs, task, member.numbers, train, logits, (evaluation or training[:1])[-1], (*training, *evaluation))
    default = task.loss_name if validation is None else f"val_{task.loss_name}"
    stopping = (config.early_stopping or EarlyStopping()).monitoring(default)
    plateau = config.plateau and config.plateau.monitoring(default)
    plan = program.Plan(
        batch_size,
        stopping,
        config.early_stopping is not None,
        evaluated,
        replacement=config.replacement,
        shuffle=config.shuffle,
        validation_every=config.validation_every if validation is not None else 1,
        terminate_on_nan=config.terminate_on_nan,
        plateau=plateau,
        placement=placement,
        on_host=() if validation is None else on_host(programs, task, member.numbers, logits, data[:1].y, len(validation)),
    )
    check_last_step(task, shapes, data, total, plan.batch_size)
    columns = program.columns(task, validation is not None, plan, measures)
    for rule in (stopping, plateau):
        if rule is not None:
            check_monitor(rule.column, columns[:-1])
    plan = replace(plan, stopping=stopping.resolved(task.modes), plateau=plateau and plateau.resolved(task.modes))
    if placement.mesh is not None and (ways := placement.mesh.devices.shape[0]) and plan.batch_size % ways:
        message = f"steps of {plan.batch_size} rows do not divide over {ways} devices, so that each computes all of them"
        warnings.warn(f"{message}: use a batch_size that does.", UserWarning, stacklevel=3)

    def prepare(rows: Dataset) -> Dataset:
        check_labels(task, "train", rows, logits)
        return by_classes(rows)

    sources = {"train": train} | ({} if validation is None else {"validation": validation})
    return Job(programs, config, placement, plan, columns, sources, data, initial, prepare, member.numbers)
