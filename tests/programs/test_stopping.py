from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flaxfit as ff
from flaxfit.curves import CAPACITY, blocks, rise
from flaxfit.programs.plateau import Plateau
from flaxfit.programs.stopping import EarlyStopping

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def keras(values, patience, min_delta, mode, baseline, start_from_epoch):
    """Keras's rule, written from its documentation as plain Python: (epoch it stops after or None, best epoch)."""
    sign = 1 if mode == "min" else -1
    best, best_epoch, wait = None, 0, 0
    for epoch, value in enumerate(values, start=1):
        if epoch <= start_from_epoch:
            continue
        wait += 1
        if not math.isnan(value) and (best is None or sign * value + np.float32(min_delta) < sign * best):
            best, best_epoch = value, epoch
            if baseline is None or sign * value + np.float32(min_delta) < sign * np.float32(baseline):
                wait = 0
        elif wait >= patience and epoch > 1:
            return epoch, best_epoch
    return None, best_epoch


# Without subnormal numbers, which XLA takes for zero and NumPy does not.
floats = st.floats(-2, 2, width=32, allow_subnormal=False)
numbers = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), floats, st.just(math.nan))


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(numbers, min_size=1, max_size=25),
    patience=st.integers(0, 5),
    min_delta=st.sampled_from([0.0, 0.1]),
    mode=st.sampled_from(["min", "max"]),
    baseline=st.sampled_from([None, 0.4]),
    start=st.integers(0, 4),
)
def test_it_stops_where_keras_does_and_never_on_nan(values, patience, min_delta, mode, baseline, start):
    values = [np.float32(value) for value in values]
    rule = EarlyStopping("value", patience, min_delta, mode, baseline, start)
    state, stopped = rule.init(), None
    for epoch, value in enumerate(values, start=1):
        state = rule.update(state, value, epoch)
        if state.stopped:
            stopped = epoch
            break
    assert (stopped, int(state.best_epoch)) == keras(values, patience, min_delta, mode, baseline, start)


def test_the_pair_runs_inside_a_compiled_loop():
    rule = EarlyStopping("loss", patience=2)

    @jax.jit
    def run(values):
        def step(state, item):
            state = rule.update(state, *item)
            return state, state.stopped

        return jax.lax.scan(step, rule.init(), (values, 1 + np.arange(len(values))))

    state, stopped = run(np.array([3.0, 2.0, 2.5, 2.4, 1.0]))
    assert stopped.tolist() == [False, False, False, True, True]
    assert float(state.best) == 1.0  # it goes on watching; the driver stops


@pytest.mark.parametrize(
    ("monitor", "direction"),
    [
        ("val_loss", "min"),
        ("loss", "min"),
        ("accuracy", None),
        ("my_accuracy_loss", None),
        ("kernel_l2", None),
    ],
)
def test_auto_mode_guesses_nothing_by_name(monitor, direction):
    if direction is None:
        with pytest.raises(ValueError, match='is best when small or large: pass mode="min"'):
            EarlyStopping(monitor).direction  # noqa: B018
    else:
        assert EarlyStopping(monitor).direction == direction


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": True}, 'an integer of 0 or more, or "auto", got True'),
        ({"patience": -1}, r"patience=\.\.\.\) must be a number of epochs, an integer of 0 or more, or \"auto\", got -1"),
        ({"patience": "automatic"}, "got 'automatic'"),
        ({"patience": "auto", "baseline": 0.5}, r"baseline=\.\.\.\) cannot be used with patience"),
        ({"patience": 2.5}, 'an integer of 0 or more, or "auto", got 2.5'),
        ({"min_delta": -0.1}, "must be 0 or more, got -0.1"),
        ({"min_delta": math.nan}, "must be 0 or more, got nan"),
        ({"mode": "minimum"}, 'must be "auto", "min" or "max", got \'minimum\''),
        ({"baseline": math.inf}, "must be finite, got inf"),
        ({"start_from_epoch": -3}, "got -3"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


def test_numpy_numbers_are_numbers():
    assert EarlyStopping("loss", np.int64(3), np.float32(0.5)) == EarlyStopping("loss", 3, 0.5)


def test_metrics_say_whether_larger_is_better(table):
    import flaxfit as ff

    def margin(logits, y):
        return logits[:, 0] * (2 * y - 1)

    def task(metric):
        return ff.Task(ff.nn.MLP((4,), 1), ff.losses.binary_crossentropy, optax.adam(3e-2), metrics={"my_loss": metric})

    train, validation = table
    how = {"validation": validation, "epochs": 12, "early_stopping": EarlyStopping("val_my_loss", patience=99)}
    with pytest.raises(ValueError, match=r'\{"my_loss": ff\.Metric\(function, mode="max"\)\}'):
        ff.fit(task(margin), train, **how)
    with pytest.raises(ValueError, match="'val_my_loss' is best when small or large"):
        ff.fit(task(margin), train, validation=validation, plateau=ff.Plateau("val_my_loss"))
    result = ff.fit(task(ff.Metric(margin, "max")), train, **how)
    assert result.best_epoch == 1 + np.argmax(result.history["val_my_loss"])
    assert result.history.mode("val_my_loss") == "max"
    assert (result.history.rows, result.history.validation_rows, result.history.data_loss) == (250, 100, "binary_crossentropy")
    assert ff.diagnose(result.history, "my_loss").metric == "my_loss"
    bare = ff.fit(task(margin), train, validation=validation, epochs=12)
    with pytest.raises(ValueError, match="is not known"):
        ff.diagnose(bare.history, "my_loss")
    assert ff.diagnose(bare.history, "my_loss", mode="max").metric == "my_loss"
    assert ff.losses.mode_of_function(optax.squared_error) == "min"
    assert task(ff.metrics.binary_accuracy).modes["my_loss"] == "max"


def test_a_plateau_alone_guesses_nothing():
    with pytest.raises(ValueError, match="is best when small or large"):
        Plateau("val_margin").init()
    assert float(Plateau("val_margin", mode="max").init().best) == -math.inf
    assert Plateau("val_loss").direction == "min"


@functools.cache
def compiled_update(stopping):
    return jax.jit(stopping.update)


def replayed(values, training=None, **options):
    """(the epoch it stops after, or None; best epoch) of a stopper with patience="auto"."""
    stopping = EarlyStopping("val_loss", "auto", **options)
    update, state = compiled_update(stopping), stopping.init()
    for epoch, value in enumerate(values, start=1):
        state = update(state, value, epoch, math.nan if training is None else training[epoch - 1])
        if state.stopped:
            return epoch, int(state.best_epoch)
    return None, int(state.best_epoch)


def test_auto_stops_soon_after_a_minimum_and_not_before_it():
    rng, t = np.random.default_rng(0), np.arange(400)
    curve = 0.5 + np.exp(-t / 15) + 0.004 * np.maximum(t - 90, 0)
    values = curve + 0.01 * rng.standard_normal(400)
    stop, best = replayed(values)
    assert best == 1 + np.argmin(values)
    assert 95 < stop < 150
    assert replayed(-values, mode="max") == (stop, best)
    assert replayed(1000 + values)[0] == pytest.approx(stop, abs=10)
    assert replayed(curve[:90] + 0.01 * rng.standard_normal(90)) == (None, pytest.approx(75, abs=15))


def test_auto_skips_what_is_not_finite():
    t = np.arange(120)
    values = 0.5 + np.exp(-t / 6) + 0.01 * np.maximum(t - 30, 0)
    stop, best = replayed(values)
    holed = np.insert(values, 20, [math.nan, math.inf])
    assert replayed(holed) == (stop + 2, best + 2)


def test_auto_waits_on_the_plateau_of_a_constant_predictor():
    """Training begins to move, validation gets worse by next to nothing, and has gained still less: that is a start, not an end."""
    t = np.arange(60)
    validation, training = 0.693 + 1e-5 * t, 0.693 - 1e-3 * t
    assert replayed(validation, training)[0] is None
    assert replayed(validation)[0] is not None
    assert replayed(0.693 + 5e-4 * t, training)[0] is not None


@pytest.mark.slow
def test_auto_rarely_stops_a_run_that_only_wobbles():
    rng, t = np.random.default_rng(1), np.arange(150)
    runs = 0.5 + 0.5 * np.exp(-t / 10) + 0.02 * rng.standard_normal((20, 150))
    assert sum(replayed(run)[0] is not None for run in runs) <= 2


def test_auto_in_chunks_and_populations_and_after_a_resume(table, tmp_path):
    """Where a chunk ends, who trains beside and whether the run was cut do not matter."""
    import flaxfit as ff

    train, validation = table
    task = ff.Task(ff.nn.MLP((32,), 1), ff.losses.binary_crossentropy, optax.adam(2e-2))
    how = {"validation": validation, "batch_size": 50, "epochs": 150, "early_stopping": ff.EarlyStopping("val_loss", "auto")}
    whole = ff.fit(task, train, seed=0, **how)
    assert whole.stop_reason == "early_stopping"
    assert 10 < len(whole.history.epochs) < 150
    assert whole.best_epoch == 1 + np.argmin(whole.history["val_loss"])
    assert ff.diagnose(whole.history).verdict == "overfitted"

    class EachEpoch(ff.callbacks.Callback):
        every_epochs = 1

    assert ff.fit(task, train, seed=0, callbacks=[EachEpoch()], **how).history == whole.history
    ff.fit(task, train, seed=0, run_dir=tmp_path / "run", **{**how, "epochs": 9})
    resumed = ff.fit(task, train, seed=0, run_dir=tmp_path / "run", **how)
    assert resumed.history == whole.history
    study = ff.fit_many(task, None, train, seeds=2, **how)
    assert study.results[0].stop_reason == "early_stopping"
    assert len(study.results[0].history.epochs) == pytest.approx(len(whole.history.epochs), abs=3)


def test_auto_and_diagnose_are_one_test():
    """The compiled statistic of the stopper's blocks is that of the host's, at all lengths, whatever the curve's unit."""
    compiled = jax.jit(lambda levels, count: rise(levels, count, jnp, jax.vmap))
    rng = np.random.default_rng(0)
    for count in (5, 9, 20, 47, 100, 127):
        for scale in (1e-6, 1.0, 1e6):
            curve = scale * (1 + np.linspace(0, 2, count) ** 4 / 4 + rng.standard_normal((20, count)))
            padded = jnp.pad(jnp.asarray(curve, jnp.float32), ((0, 0), (0, CAPACITY - count)))
            found, expected = compiled(padded, count), rise(curve, count)
            assert np.asarray(found[0]) == pytest.approx(expected[0], rel=1e-2, abs=1e-2)
            assert np.mean(np.asarray(found[1]) == expected[1]) > 0.9


def test_the_blocks_of_auto_are_those_of_diagnose():
    values = np.random.default_rng(0).standard_normal(1000)
    stopping = EarlyStopping("val_loss", "auto")
    states, _ = jax.lax.scan(lambda state, v: (stopping.update(state, v[0], v[1]), None), stopping.init(), (values, np.arange(1, 1001)))
    levels, size = blocks(values)  # they end with the last epoch, here as there
    assert (int(states.curve.count), int(states.curve.size)) == (len(levels), size)
    assert np.asarray(states.curve.levels[: len(levels)]) == pytest.approx(levels, abs=1e-6)


def test_a_patience_in_epochs_costs_what_it_did():
    """No curve in the state and no test in the program, unless "auto" asks for them."""
    stopping, auto = EarlyStopping("val_loss", 5), EarlyStopping("val_loss", "auto")
    assert len(jax.tree.leaves(stopping.init())) == 5
    assert "cond" not in str(jax.make_jaxpr(stopping.update)(stopping.init(), 1.0, 1, 1.0))
    assert "cond" in str(jax.make_jaxpr(auto.update)(auto.init(), 1.0, 1, 1.0))
    with pytest.raises(ValueError, match="start from init"):
        auto.update(stopping.init(), 1.0, 1)


def test_without_a_monitor_the_data_loss_decides_and_not_the_objective():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8)).astype(np.float32)
    train, validation = ff.Dataset(x[:20], rng.normal(size=20)), ff.Dataset(x[20:], rng.normal(size=40))  # nothing can be learned

    def grows(params):  # the objective falls while the network overfits
        return -sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    task = ff.Task(ff.nn.MLP((32,), 1), ff.losses.mse, optax.adam(0.01), penalty=grows)
    options = {"validation": validation, "epochs": 30, "batch_size": 20}
    result = ff.fit(task, train, early_stopping=EarlyStopping(patience=50), plateau=ff.Plateau(patience=50), **options)
    assert result.best_epoch == 1 + np.argmin(result.history["val_mse"]) != 1 + np.argmin(result.history["val_loss"])
    alone = ff.fit(task, train, epochs=30, batch_size=20, early_stopping=EarlyStopping(patience=50))
    assert alone.best_epoch == 1 + np.argmin(alone.history["mse"])
    named = ff.fit(task, train, early_stopping=EarlyStopping("val_loss", patience=50), **options)
    assert named.best_epoch == 1 + np.argmin(named.history["val_loss"])
