"""A whole run, or its next epochs and steps, as one pure function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from flaxfit.data import order
from flaxfit.data.dataset import Dataset
from flaxfit.data.stream import Chunk
from flaxfit.devices.sharding import ONE_DEVICE, Placement
from flaxfit.programs.plateau import Plateau
from flaxfit.programs.step import joined, scored, train_step
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.regularize.masks import kernels
from flaxfit.rng import stream
from flaxfit.shapes import RoundKeys
from flaxfit.state import RunState, TrainState
from flaxfit.storage.predictor import COUNTED, SOWN
from flaxfit.task.packing import Packing, packing_of
from flaxfit.task.task import Task

IN_ORDER_BYTES = 2**24
"""Up to this size, the training rows are copied in the order of each epoch. A chunk of few steps copies all of them, too."""


@dataclass(frozen=True)
class Plan:
    """What of a run is compiled in. How long it trains is not: that is an argument.

    Attributes:
      batch_size: rows a step; the last step of an epoch takes what is left.
      stopping: when to stop, and which metric is monitored for the best weights.
      stops: whether the stopper's word counts, or only its best epoch.
      eval_batch_size: rows a step of validation, for memory; the result does not depend on it.
      replacement: batches are drawn with replacement.
      shuffle: each epoch has an order of its own; else the rows come as they stand.
      validation_every: validate at the end of epochs that this divides; the others log NaN.
      terminate_on_nan: end the run at a loss or weight that is not finite.
      plateau: when to lower the learning rate.
      capacity: the most epochs whose metrics one call can hand back.
      axis: the name of the axis over which `advance` is mapped, where many runs train side by side, step by step. A run that has ended
        stays as it is until the others have.
      placement: how a step's rows and the state lie on devices.
      on_host: the set metrics that the host computes. Where there are any, `advance` does not end epochs: `validated` and then `end` do.
    """

    batch_size: int
    stopping: EarlyStopping
    stops: bool
    eval_batch_size: int = 1024
    replacement: bool = False
    shuffle: bool = True
    validation_every: int = 1
    terminate_on_nan: bool = True
    plateau: Plateau | None = None
    capacity: int = 1024
    axis: str | None = None
    placement: Placement = ONE_DEVICE
    on_host: tuple[str, ...] = ()


def batch_sizes(rows: int, batch_size: int) -> tuple[int, ...]:
    """How many rows the batches of so many rows have: the whole ones and the last, where it is shorter.

    Example:
      >>> batch_sizes(100, 32), batch_sizes(96, 32), batch_sizes(20, 32)
      ((32, 4), (32,), (20,))
    """
    whole, rest = divmod(rows, batch_size)
    return (batch_size,) * bool(whole) + (rest,) * bool(rest)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Steps an epoch, the last of which may be short."""
    return -(-rows // batch_size)


def logged(task: Task) -> list[str]:
    """The names of what training and validation both log, in order. The data loss is the second of them."""
    return ["loss", task.loss_name, *(["penalty"] if task.penalty else []), *task.metrics]


def columns(task: Task, validates: bool, plan: Plan, measures: Iterable[str]) -> tuple[str, ...]:
    """The names of what each epoch logs, in order; `measures` are the names of `measures`."""
    names = logged(task)
    names += [f"val_{name}" for name in (*names, *task.set_metrics)] if validates else []
    scale = () if plan.plateau is None else ("learning_rate_scale",)
    return (*names, *sorted(measures), *scale, "gradient_norm", "best_epoch")


def start(task: Task, plan: Plan, key: Array, x: Any, initial: TrainState | None = None) -> RunState:
    """The run at its beginning, with fresh weights or those of `initial`. The model is initialized on a batch of the row `x`."""
    x = jax.tree.map(lambda a: jnp.broadcast_to(a[:1], (plan.batch_size, *a.shape[1:])), x)  # it may take no other number of rows
    # A copy of `initial`, since the run donates its buffers.
    train = task.init(key, x) if initial is None else jax.tree.map(jnp.copy, initial)
    zero = jnp.zeros((), jnp.int32)
    if train.opt_state is None:
        train = TrainState(zero, train.params, train.collections, task.optimizer.init(task.trained(train.params)))
    sums = jnp.zeros(len(_summed(task)), jnp.float32)
    plateau = None if plan.plateau is None else plan.plateau.init()
    return RunState(train, task.evaluated(train), plan.stopping.init(), plateau, sums, zero, zero, jnp.zeros((), bool), key)


def advance(
    task: Task, plan: Plan, state: RunState, data: Dataset | Chunk, validation: Dataset | None, until: Array
) -> tuple[RunState, Array]:
    """Trains until the run has done `until` steps, or stops by itself.

    Args:
      task: what is trained.
      plan: how; static.
      state: where the run stands.
      data: the training rows, or those of the steps up to `until`.
      validation: the validation rows, or None.
      until: how many steps the run shall have done in all, int32 scalar; it may end inside an epoch. At most `plan.capacity` epochs
        may end on the way; with `plan.on_host` no more than the epoch under way, which is left at its last step.

    Returns:
      The run's state then, and the metrics of the epochs that ended on the way: float32, shape (capacity, columns), of which the
      first `new epoch - old epoch` rows are filled, in the order of `columns`.
    """
    steps = steps_per_epoch(len(data), plan.batch_size)
    whole, rest = divmod(len(data), plan.batch_size)
    gathers = _gathers(plan, data)

    def rows_of(state: RunState, step: Array, size: int, keys: RoundKeys) -> Any:
        """The rows of one step of the epoch under way; of those that lie in order, as in a chunk, the first."""
        if isinstance(data, Chunk):
            return (step - data.first) * plan.batch_size
        if gathers:
            return step * plan.batch_size
        if plan.replacement:
            return order.drawn(state.key, state.epoch * steps + step, size, len(data))
        places = step * plan.batch_size + jnp.arange(size)
        return order.shuffled(places, keys, len(data)) if plan.shuffle else places

    def in_order(state: RunState, keys: RoundKeys) -> Dataset:
        """The rows of the epoch under way, in its order."""
        if isinstance(data, Chunk):
            return data.rows
        if not (gathers and (plan.shuffle or plan.replacement)):
            return data
        if not plan.replacement:
            return data[order.shuffled(jnp.arange(len(data)), keys, len(data))]
        first = state.epoch * steps
        rows = jax.vmap(lambda step: order.drawn(state.key, step, plan.batch_size, len(data)))(first + jnp.arange(whole)).ravel()
        last = [order.drawn(state.key, first + whole, rest, len(data))] if rest else []
        return data[jnp.concatenate([rows, *last])]

    def agreed(value: Array) -> Array:
        """The largest value of the mapped runs: one for all, so that loops and branches stay such when mapped."""
        return lax.pmax(value, plan.axis) if plan.axis else value

    def one_step(state: RunState, ordered: Dataset, rows: Array, size: int) -> RunState:
        batch = _slice(ordered, rows, size) if isinstance(data, Chunk) or gathers else ordered[rows]
        scale = None if state.plateau is None else state.plateau.scale
        fields, platform = _fields(plan.placement.batch(batch)), plan.placement.platform
        train, sums = train_step(task, state.train, state.key, *fields, scale, platform, packing)
        train = plan.placement.kept(train, train.params)
        sums = state.sums + jnp.stack([sums[name] for name in _summed(task)]).astype(jnp.float32)
        return _unless_ended(plan, state, train=train, sums=sums, step=state.step + 1)

    def some_epoch(carry: tuple[RunState, Array]) -> tuple[RunState, Array]:
        state, table = carry
        epoch, step = agreed(state.epoch), agreed(state.step)
        keys = order.keys_of(base, epoch, len(data))
        ordered = in_order(state, keys)
        end = jnp.minimum(until - epoch * steps, steps)
        if whole:
            # Each step finds the rows of the next: carried, they are an array; else XLA computes them anew for every element it gathers.
            def rows_at(step: Array) -> Any:
                return rows_of(state, jnp.minimum(step, whole - 1), plan.batch_size, keys)

            def step_ahead(carry: tuple[RunState, Array, Array]) -> tuple[RunState, Array, Array]:
                state, step, rows = carry
                return one_step(state, ordered, rows, plan.batch_size), step + 1, rows_at(step + 1)

            ahead = (state, step, rows_at(step))
            state, step, _ = lax.while_loop(lambda carry: carry[1] < jnp.minimum(end, whole), step_ahead, ahead)
        if rest:  # a step of its own shape: padding would disturb batch norm in any model
            last = functools.partial(rows_of, step=jnp.asarray(whole, jnp.int32), size=rest, keys=keys)
            short = (step == whole) & (end > whole)
            state = lax.cond(short, lambda s: one_step(s, ordered, last(s), rest), lambda s: s, state)
            step = step + short

        def end_epoch(state: RunState, table: Array) -> tuple[RunState, Array]:
            def scores() -> dict[str, Array]:
                if (rows := validation) is None:
                    return {}
                if plan.validation_every == 1:
                    return validated(task, plan, train, rows)[0]

                def now() -> dict[str, Array]:
                    return validated(task, plan, train, rows)[0]

                return lax.cond(_validates(plan, epoch), now, lambda: unvalidated(jax.eval_shape(now)))

            train = state.train if packing is None else _with_weights(packing.unpacked, state.train)
            changes, means = _end_epoch(task, plan, len(data), scores, state, train, packing)
            row = jnp.stack([jnp.asarray(means[name], jnp.float32) for name in names])
            return _unless_ended(plan, state, **changes), lax.dynamic_update_slice_in_dim(table, row[None], epoch - first, 0)

        if plan.on_host:
            return state, table
        return lax.cond(step == steps, end_epoch, lambda *carry: carry, state, table)

    def goes_on(carry: tuple[RunState, Array]) -> Array:
        state, _ = carry
        return (agreed(state.epoch) * steps + agreed(state.step) < until) & agreed(~_ended(plan, state))

    first = agreed(state.epoch)
    base = stream(state.key, "order")
    names = columns(task, validation is not None, plan, jax.eval_shape(lambda train: measures(task, train), state.train))
    table = jnp.zeros((plan.capacity, len(names)), jnp.float32)
    packing = None
    # On a GPU the optimizer updates all arrays in one kernel anyway, and joined weights make an epoch of a small network twice as long.
    if plan.placement.platform == "cpu" and plan.placement.mesh is None and not task.averages(state.train):
        packing = packing_of(task, state.train.params, state.train.opt_state)
    if packing is None:
        return lax.while_loop(goes_on, some_epoch, (state, table))
    state = replace(state, train=_with_weights(packing.packed, state.train), best=_with_weights(packing.packed, state.best))
    state, table = lax.while_loop(goes_on, some_epoch, (state, table))
    return replace(state, train=_with_weights(packing.unpacked, state.train), best=_with_weights(packing.unpacked, state.best)), table


def _with_weights(change: Callable[[Any], Any], state: TrainState) -> TrainState:
    """The state with its weights and the optimizer's changed. A collection of the model may look like the weights, but is not changed."""
    return replace(state, params=change(state.params), opt_state=change(state.opt_state))


def _gathers(plan: Plan, data: Dataset | Chunk) -> bool:
    """Whether the rows of an epoch are put in order before its first step: the steps then take slices."""
    small = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(data)) <= IN_ORDER_BYTES
    return small and isinstance(data, Dataset) and plan.axis is None and plan.placement.mesh is None


def _slice(data: Dataset, first: Array | int, size: int) -> Dataset:
    return jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, first, size), data)


def _fields(data: Dataset) -> tuple[Any, Any, Any]:
    return data.x, data.y, data.sample_weight


def _ended(plan: Plan, state: RunState) -> Array:
    return state.diverged | (state.stopper.stopped if plan.stops else False)


def _unless_ended(plan: Plan, state: RunState, **changes: Any) -> RunState:
    """The state with these changes; of mapped runs, those that have ended stay as they are."""
    if plan.axis:
        changes = {name: _choose(_ended(plan, state), getattr(state, name), new) for name, new in changes.items()}
    return replace(state, **changes)


def validated(task: Task, plan: Plan, train: TrainState, validation: Dataset) -> tuple[dict[str, Array], Any]:
    """What the end of an epoch logs of the validation rows, but for the set metrics that the host computes; and the outputs for those."""
    scores, outputs = score(task, task.evaluated(train), validation, plan.eval_batch_size, plan.placement, bool(task.set_metrics))
    scores |= {name: metric(outputs, validation.y) for name, metric in task.set_metrics.items() if name not in plan.on_host}
    return {f"val_{name}": value for name, value in scores.items()}, outputs


def _validates(plan: Plan, epoch: Array) -> Array:
    """Whether the epoch after `epoch` finished ones validates."""
    return (epoch + 1) % plan.validation_every == 0


def unvalidated(scores: Any) -> Any:
    """What `validated` gives, of these shapes, where there is no validation: NaN."""
    return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), scores)


def end(task: Task, plan: Plan, rows: int, state: RunState, scores: dict[str, Array], told: Array) -> tuple[RunState, Array]:
    """Ends an epoch of `rows` training rows, all of whose steps are done, where the host has computed set metrics.

    Args:
      task, plan, state: as for `advance`.
      rows: training rows.
      scores: as `validated` gave them.
      told: the metrics of `plan.on_host`, shape (metrics,).

    Returns:
      As `advance`, with the metrics of one epoch.
    """
    scores = scores | {f"val_{name}": told[index] for index, name in enumerate(plan.on_host)}
    changes, means = _end_epoch(task, plan, rows, lambda: scores, state, state.train)
    names = columns(task, True, plan, measures(task, state.train))
    return _unless_ended(plan, state, **changes), jnp.stack([jnp.asarray(means[name], jnp.float32) for name in names])[None]


def _end_epoch(
    task: Task,
    plan: Plan,
    rows: int,
    scores: Callable[[], dict[str, Array]],
    state: RunState,
    train: TrainState,
    packing: Packing | None = None,
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Asks the stopper and the plateau, keeps the best weights: what changes in the state, and what is logged.

    `train` is that of `state`, unpacked if there is a `packing`.
    """
    epoch, evaluated = state.epoch + 1, task.evaluated(train)
    if packing is not None:
        evaluated = _with_weights(packing.packed, evaluated)
    sums = dict(zip(_summed(task), state.sums / (rows if task.counted is None else state.sums[-1]), strict=True))
    means = {name: sums[name] for name in sums if name != COUNTED} | measures(task, train)
    means |= scores()
    missing = None if plan.validation_every == 1 else ~_validates(plan, state.epoch)
    loss, validation = jnp.isfinite(means["loss"]), jnp.isfinite(means.get("val_loss", 0.0))
    finite = loss & (validation if missing is None else validation | missing) & _all_finite((state.train.params, train.collections))
    # An epoch that broke down is never best, whatever its monitor says.
    monitor = plan.stopping.column
    training = means.get(monitor.removeprefix("val_"))
    stopper = plan.stopping.update(state.stopper, jnp.where(finite, means[monitor], jnp.nan), epoch, training)
    if missing is not None and monitor.startswith("val_"):
        stopper = _choose(missing, replace(state.stopper, improved=jnp.zeros((), bool)), stopper)
    means["best_epoch"] = stopper.best_epoch
    changes = {
        "best": _choose(stopper.improved, evaluated, state.best),
        "stopper": stopper,
        "sums": jnp.zeros_like(state.sums),
        "epoch": epoch,
        "step": jnp.zeros_like(state.step),
        "diverged": ~finite if plan.terminate_on_nan else state.diverged,
    }
    if plan.plateau is not None and state.plateau is not None:
        means["learning_rate_scale"] = state.plateau.scale  # the epoch's own: a reduction acts from the next epoch on
        if "learning_rate" in means:
            means["learning_rate"] *= state.plateau.scale
        changes["plateau"] = plan.plateau.update(state.plateau, means[plan.plateau.column])
        if missing is not None and plan.plateau.column.startswith("val_"):
            changes["plateau"] = _choose(missing, state.plateau, changes["plateau"])
    return changes, means


def evaluate(task: Task, state: TrainState, data: Dataset, batch_size: int, placement: Placement = ONE_DEVICE) -> dict[str, Array]:
    """Exact means over all rows: `loss` (the objective), the data loss, `penalty` where there is one, the metrics."""
    return score(task, state, data, batch_size, placement)[0]


def score(
    task: Task, state: TrainState, data: Dataset, batch_size: int, placement: Placement = ONE_DEVICE, keeps: bool = False
) -> tuple[dict[str, Array], Any]:
    """What `evaluate` returns; and, if it `keeps` them, the model's outputs for all rows, else None."""
    batch_size = task.eval_batch_size or batch_size
    whole, rest = divmod(len(data), batch_size)

    def part(first: Array | int, size: int) -> tuple[Any, Any]:
        sums, outputs = scored(task, state, *_fields(placement.batch(_slice(data, first, size))), placement.platform)
        return sums, outputs if keeps else None

    def put(outputs: Any, more: Any, index: Array | int) -> Any:
        return jax.tree.map(lambda all, some: lax.dynamic_update_slice_in_dim(all, some, index * batch_size, 0), outputs, more)

    if whole + bool(rest) == 1:
        sums, outputs = part(0, len(data))
    else:
        shapes = jax.eval_shape(lambda: part(0, batch_size))
        outputs = jax.tree.map(lambda s: jnp.zeros((len(data), *s.shape[1:]), s.dtype), shapes[1])
        if rest:
            sums, more = part(whole * batch_size, rest)
            outputs = put(outputs, more, whole)
        else:
            sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[0])

        def step(index: Array, carry: tuple[dict[str, Array], Any]) -> tuple[dict[str, Array], Any]:
            sums, more = part(index * batch_size, batch_size)
            return jax.tree.map(jnp.add, carry[0], sums), put(carry[1], more, index)

        sums, outputs = lax.fori_loop(0, whole, step, (sums, outputs))
    counted = len(data) if task.counted is None else jnp.maximum(sums.pop(COUNTED), jnp.finfo(jnp.float32).tiny)
    means = {name: value / (len(data) if name == SOWN else counted) for name, value in sums.items()}
    penalty = task.penalized(state.params)
    objective = means[task.loss_name] + penalty
    if SOWN in means:
        objective += means.pop(SOWN)
    return {"loss": objective, **means} | ({"penalty": penalty} if task.penalty else {}), outputs


def _summed(task: Task) -> tuple[str, ...]:
    return (*logged(task), "gradient_norm", *([] if task.counted is None else [COUNTED]))


def _choose(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _all_finite(tree: Any) -> Array:
    floating = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in joined(floating)])) if floating else jnp.ones((), bool)


def measures(task: Task, state: TrainState) -> dict[str, Array]:
    """What an epoch logs about the weights: L1, L2 and largest absolute value of all kernels together, and the last update's rate.

    The rate is what the task tells, or what `optax.inject_hyperparams` keeps; optax's other states keep a count, not the rate.
    """
    chosen = [p for p, m in zip(jax.tree.leaves(state.params), jax.tree.leaves(kernels(state.params)), strict=True) if m]
    chosen = joined(chosen)
    measures = {f"kernel_{name}": optax.tree.norm(chosen, ord) for name, ord in (("l1", 1), ("l2", 2), ("max", jnp.inf)) if chosen}
    rate = task.learning_rate
    if rate is None:
        injected = [h["learning_rate"] for _, h in optax.tree.get_all_with_path(state.opt_state, "hyperparams") if "learning_rate" in h]
        rate = injected[0] if injected else None
    elif callable(rate):
        rate = rate(jnp.maximum(state.step - 1, 0))
    return measures if rate is None else measures | {"learning_rate": jnp.asarray(rate, jnp.float32)}
