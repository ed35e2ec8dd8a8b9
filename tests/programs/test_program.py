"""The run as a pure function: what later makes populations and exact resume possible."""

from __future__ import annotations

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.programs import program


def task_with(rate, weight, dropout):
    return ff.Task(
        ff.nn.MLP((8,), 1, dropout=dropout, batch_norm="after"),
        ff.losses.binary_crossentropy,
        optax.adam(rate),
        penalty=ff.penalties.l2(weight),
        metrics={"accuracy": ff.metrics.binary_accuracy},
        learning_rate=rate,
    )


PLAN = program.Plan(batch_size=64, stopping=ff.EarlyStopping("val_loss", patience=3), stops=True, capacity=32)
EPOCHS, STEPS = 20, 4


def whole(rate, weight, dropout, key, train, validation):
    """A whole run, its task made while tracing."""
    task = task_with(rate, weight, dropout)
    state = program.start(task, PLAN, key, train[:1].x)
    return program.advance(task, PLAN, state, train, validation, jnp.int32(EPOCHS * STEPS))


def test_hyperparameters_are_arguments_and_members_of_a_vmap_stop_on_their_own(table):
    train, validation = jax.device_put(table)
    settings = [(1e-1, 0.0, 0.0), (1e-2, 1e-3, 0.2), (1e-2, 0.0, 0.0)]
    traces = []

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, None, None))
    def population(*args):
        traces.append(None)
        return whole(*args)

    keys = jnp.stack([jax.random.key(seed) for seed in range(3)])
    rates, weights, dropouts = (jnp.asarray(values) for values in zip(*settings, strict=True))
    states, tables = population(rates, weights, dropouts, keys, train, validation)
    population(rates * 2, weights + 1, dropouts + 0.1, keys, train, validation)
    assert len(traces) == 1  # other values, no other program
    lengths = set()
    for member, setting in enumerate(settings):
        alone = ff.fit(
            task_with(*setting), train, validation=validation, epochs=EPOCHS, batch_size=64, seed=member, early_stopping=PLAN.stopping
        )
        epochs = len(alone.history.epochs)
        lengths.add(epochs)
        assert int(states.epoch[member]) == epochs
        assert int(states.stopper.best_epoch[member]) == alone.best_epoch
        np.testing.assert_allclose(tables[member, :epochs, 0], alone.history["loss"], rtol=1e-4)
        for a, b in zip(jax.tree.leaves(states.best.params), jax.tree.leaves(alone.best.params), strict=True):
            np.testing.assert_allclose(a[member], b, rtol=1e-2, atol=1e-3)
    assert len(lengths) > 1


@pytest.mark.parametrize("pieces", [[1] * 12, [3, 4, 5], [5, 7]])
def test_a_run_in_pieces_is_the_run_to_the_bit_though_it_passes_through_the_host(table, pieces):
    train, validation = jax.device_put(table)
    task = task_with(1e-2, 1e-3, 0.2)
    start = program.start(task, PLAN, jax.random.key(1), train[:1].x)
    advance = jax.jit(functools.partial(program.advance, task, PLAN))
    end, rows = advance(start, train, validation, jnp.int32(12))
    state, until, seen = start, 0, []
    for piece in pieces:
        until += piece
        before = int(state.epoch)
        state, part = advance(state, train, validation, jnp.int32(until))
        seen.append(part[: int(state.epoch) - before])
        # As a checkpoint would: all of the state through NumPy and back.
        key = jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(state.key))))
        state = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), jax.tree.map(lambda a: a, program.replace(state, key=jnp.zeros(()))))
        state = program.replace(state, key=key)
    assert int(state.epoch) == 3
    assert np.array_equal(np.concatenate(seen), rows[:3])
    for a, b in zip(jax.tree.leaves(program.replace(state, key=0)), jax.tree.leaves(program.replace(end, key=0)), strict=True):
        assert np.array_equal(a, b)


def test_more_epochs_than_one_call_hands_back(table):
    train, _ = table
    task = task_with(1e-3, 0.0, 0.0)
    history = ff.fit(task, train[:8], epochs=2100, batch_size=8).history
    assert history.epochs.tolist() == list(range(1, 2101))
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]


def test_a_task_keeps_programs_for_so_many_shapes_only(monkeypatch):
    monkeypatch.setattr("flaxfit.programs.compiled.MOST_SHAPES", 2)
    task = ff.Task(ff.nn.MLP((2,), 1), ff.losses.mse, optax.sgd(1e-2))
    x = np.ones((40, 2), np.float32)
    results = [ff.fit(task, ff.Dataset(x[:rows], x[:rows, 0]), epochs=2) for rows in (20, 21, 22, 23, 24, 20)]
    (programs,) = vars(task)["_flaxfit_programs"].values()
    assert max(function._cache_size() for function in programs._functions.values()) <= 3
    assert results[0].history == results[-1].history


def test_exports_leave_no_traces_behind(tmp_path):
    task = ff.Task(ff.nn.MLP((2,), 1), ff.losses.mse, optax.sgd(1e-2))
    data = ff.Dataset(np.ones((8, 2), np.float32), np.ones(8, np.float32))
    result, counts = ff.fit(task, data), []
    for _ in range(4):
        ff.export(tmp_path / "export", task, result.best, data)
        gc.collect()
        counts.append(sum(type(each).__name__ in ("Jaxpr", "JaxprEqn", "_DimExpr") for each in gc.get_objects()))
    assert counts[1] == counts[2] == counts[3]
