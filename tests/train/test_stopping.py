from __future__ import annotations

import math

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxfit.train.plateau import Plateau
from flaxfit.train.stopping import EarlyStopping


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
        ({"patience": True}, "an integer of 0 or more, got True"),
        ({"patience": -1}, r"patience=\.\.\.\) counts epochs: an integer of 0 or more, got -1"),
        ({"patience": 2.5}, "an integer of 0 or more, got 2.5"),
        ({"min_delta": -0.1}, "must be 0 or more, got -0.1"),
        ({"min_delta": math.nan}, "must be 0 or more, got nan"),
        ({"mode": "minimum"}, 'is "auto", "min" or "max", got \'minimum\''),
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
    with pytest.raises(ValueError, match="does not say"):
        ff.diagnose(bare.history, "my_loss")
    assert ff.diagnose(bare.history, "my_loss", mode="max").metric == "my_loss"
    assert ff.losses.mode_of_function(optax.squared_error) == "min"
    assert task(ff.metrics.binary_accuracy).modes["my_loss"] == "max"


def test_a_plateau_alone_guesses_nothing():
    with pytest.raises(ValueError, match="does not say whether larger is better"):
        Plateau("val_margin").init()
    assert float(Plateau("val_margin", mode="max").init().best) == -math.inf
    assert Plateau("val_loss").direction == "min"
