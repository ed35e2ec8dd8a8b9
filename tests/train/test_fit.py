"""fit, evaluate, predict: what a user would miss if it broke."""

from __future__ import annotations

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.programs.compiled import Programs
from flaxfit.train import loop


def make_task(net, **changes):
    fields = {"metrics": {"accuracy": ff.metrics.binary_accuracy}, "optimizer": optax.adam(1e-2), "loss": ff.losses.binary_crossentropy}
    return ff.Task(**{"model": net(), **fields, **changes})


def same_bits(a, b):
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


class Every(ff.callbacks.Callback):
    def __init__(self, epochs=None, steps=None):
        self.every_epochs, self.every_steps, self.looks, self.epochs = epochs, steps, [], []

    def on_chunk_end(self, progress):
        self.looks.append((progress.epoch, progress.step))
        self.epochs.extend(progress.new.epochs.tolist())


class Compilations:
    """Counts backend compilations and traces while it is open."""

    def __enter__(self):
        self.count = self.traces = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def _hear(self, event, duration, **kwargs):
        self.count += event == "/jax/core/compile/backend_compile_duration"
        self.traces += event == "/jax/core/compile/jaxpr_trace_duration"

    def __exit__(self, *exc):
        jax.monitoring.unregister_event_duration_listener(self._hear)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_chunk_length_never_changes_a_bit(net, table, batch_norm):
    train, validation = table
    task = make_task(net, model=net(batch_norm=batch_norm, dropout=0.2), penalty=ff.penalties.l2(1e-3))
    stopping = ff.EarlyStopping("val_binary_crossentropy", patience=6)
    options = {"validation": validation, "epochs": 30, "batch_size": 64, "early_stopping": stopping, "seed": 3}
    results = [
        ff.fit(task, train, callbacks=hooks, **options)
        for hooks in ([], [Every(epochs=1)], [Every(epochs=7)], [Every(steps=1)], [Every(steps=3), Every(epochs=2)])
    ]
    for other in results[1:]:
        assert other.history == results[0].history
        assert same_bits((other.best, other.last), (results[0].best, results[0].last))
        assert other.stop_reason == results[0].stop_reason
    assert len(results[0].history.epochs) > 10


def test_hooks_see_every_epoch_once_and_when_they_asked(net, table):
    train, _ = table
    each, seventh, steps, end = Every(epochs=1), Every(epochs=7), Every(steps=3), Every()
    ff.fit(make_task(net), train, epochs=20, batch_size=64, callbacks=[each, seventh, steps, end])  # 4 steps an epoch
    assert [epoch for epoch, step in each.looks if step == 0] == list(range(1, 21))
    assert seventh.looks == [(7, 0), (14, 0), (20, 0)]
    assert steps.looks == [(n // 4, n % 4) for n in range(3, 81, 3)] + [(20, 0)]
    assert end.looks == [(20, 0)]
    for hook in (each, seventh, steps, end):
        assert hook.epochs == list(range(1, 21))


def test_a_second_fit_compiles_nothing(net, table):
    train, validation = table
    task = make_task(net, model=net(batch_norm=True))
    options = {"validation": validation, "batch_size": 64, "early_stopping": ff.EarlyStopping("val_accuracy", patience=3)}
    ff.fit(task, train, epochs=4, **options)
    ff.fit(task, train, epochs=4, callbacks=[Every(steps=1)], **options)  # whatever is compiled for looking
    with Compilations() as compilations:
        ff.fit(task, train, epochs=30, seed=9, callbacks=[Every(epochs=3), Every(steps=7)], **options)
    assert compilations.count == 0
    with Compilations() as compilations:
        ff.fit(task, train, epochs=2, **options)
    assert compilations.count == compilations.traces == 0
    with Compilations() as compilations:
        ff.fit(make_task(net), train, epochs=1, batch_size=64)
    assert compilations.count > 0  # the counters count
    assert compilations.traces > 0


def test_one_compiled_call_a_chunk_and_no_transfer_inside(net, table, monkeypatch):
    train, validation = table
    task, calls = make_task(net), []
    ff.fit(task, train, validation=validation, epochs=2, batch_size=64)
    real = Programs.compiled

    def counting(programs, what, function, *args, **kwargs):
        program = real(programs, what, function, *args, **kwargs)

        def call(*args):
            calls.append(what)
            with jax.transfer_guard("disallow"):
                return program(*args)

        return call if what[0] == "advance" else program

    monkeypatch.setattr(Programs, "compiled", counting)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e6)
    result = ff.fit(task, train, validation=validation, epochs=40, batch_size=64, callbacks=[Every(epochs=10)])
    # Four chunks that end where the hook looks, and a few that grow eightfold from a single step before.
    assert len(calls) == result.timing.chunks
    assert result.timing.chunks <= 4 + 4
    calls.clear()
    result = ff.fit(task, train, validation=validation, epochs=40, batch_size=64)
    assert len(calls) == result.timing.chunks <= 5


def test_early_stopping_stops_where_its_rule_says_and_keeps_the_best(net, table):
    train, validation = table
    stopping = ff.EarlyStopping("val_loss", patience=5)
    result = ff.fit(make_task(net), train, validation=validation, epochs=500, batch_size=50, early_stopping=stopping)
    values = result.history["val_loss"]
    assert result.stop_reason == "early_stopping"
    assert result.best_epoch == 1 + np.argmin(values) == len(values) - 5
    assert ff.evaluate(make_task(net), result.best, validation)["loss"] == pytest.approx(values.min(), rel=1e-6)
    assert ff.evaluate(make_task(net), result.last, validation)["loss"] == pytest.approx(values[-1], rel=1e-6)
    assert result.best.opt_state is None
    assert int(result.best.step) == result.best_epoch * 5


def test_best_is_returned_without_early_stopping_too(net, table):
    train, validation = table
    result = ff.fit(make_task(net), train, validation=validation, epochs=60, batch_size=50)
    assert result.stop_reason == "epochs"
    assert result.best_epoch == 1 + np.argmin(result.history["val_loss"]) < 60
    alone = ff.fit(make_task(net), train, epochs=5, batch_size=50)
    assert alone.best_epoch == 1 + np.argmin(alone.history["loss"])


def test_logged_names_and_their_order(net, table):
    train, validation = table
    schedule = ff.schedules.inverse_time_decay(1e-2, decay_steps=10)
    task = make_task(net, penalty=ff.penalties.l2(1e-3), optimizer=optax.adam(schedule), learning_rate=schedule)
    history = ff.fit(task, train, validation=validation, epochs=3, batch_size=50).history
    training = ["loss", "binary_crossentropy", "penalty", "accuracy"]
    norms = ["kernel_l1", "kernel_l2", "kernel_max", "learning_rate"]
    assert list(history) == [*training, *(f"val_{name}" for name in training), *norms, "gradient_norm", "best_epoch"]
    for prefix in ("", "val_"):
        parts = history[prefix + "binary_crossentropy"] + history[prefix + "penalty"]
        np.testing.assert_allclose(history[prefix + "loss"], parts, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], [1e-2 / (1 + (5 * e - 1) / 10) for e in (1, 2, 3)], rtol=1e-6)
    plain = ff.fit(make_task(net), train, epochs=1).history
    assert "penalty" not in plain
    assert "learning_rate" not in plain
    injected = make_task(net, optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=schedule))
    np.testing.assert_allclose(
        ff.fit(injected, train, epochs=3, batch_size=50).history["learning_rate"], history["learning_rate"], rtol=1e-6
    )
    nameless = make_task(net, loss=lambda logits, y: ff.losses.binary_crossentropy(logits, y))
    assert list(ff.fit(nameless, train, epochs=1).history)[:2] == ["loss", "data_loss"]


def test_norms_are_of_the_kernels_at_the_end_of_the_epoch(net, table):
    result = ff.fit(make_task(net), table[0], epochs=2)
    kernels = np.concatenate([np.ravel(result.last.params[name]["kernel"]) for name in ("Dense_0", "Dense_1")])
    logged = [result.history[f"kernel_{name}"][-1] for name in ("l1", "l2", "max")]
    np.testing.assert_allclose(logged, [np.abs(kernels).sum(), np.sqrt((kernels**2).sum()), np.abs(kernels).max()], rtol=1e-5)


def test_training_metrics_are_means_over_the_rows_seen_with_a_last_short_batch(table):
    """A frozen model with batch norm and 250 = 3 x 64 + 58 rows: each step normalizes by its own batch, each row counts once."""

    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(1)(x))

    from flaxfit.data.order import round_keys, shuffled

    train, _ = table
    task = ff.Task(Normalized(), ff.losses.mse, optax.sgd(0.0), metrics={"mae": ff.metrics.mae})
    result = ff.fit(task, train, epochs=1, batch_size=64, seed=4)
    order = shuffled(np.arange(250), np.asarray(round_keys(jax.random.key(4), 0, 250)), 250)
    dense = result.last.params["Dense_0"]
    errors = []
    for first in range(0, 250, 64):
        rows = order[first : first + 64]
        z = (train.x[rows] @ dense["kernel"] + dense["bias"])[:, 0]
        errors.extend((z - z.mean()) / np.sqrt(z.var() + 1e-5) - train.y[rows])
    assert len(errors) == 250
    np.testing.assert_allclose(result.history["mae"][0], np.abs(errors).mean(), rtol=1e-5)
    np.testing.assert_allclose(result.history["mse"][0], np.square(errors).mean(), rtol=1e-5)


def test_evaluation_is_exact_whatever_the_batch_size(net, table):
    train, _ = table
    task = make_task(net, penalty=ff.penalties.l2(1e-2), model=net(batch_norm=True))
    state = ff.fit(task, train, epochs=3).last
    logits = ff.predict(task, state, train.x)
    expected = np.logaddexp(0, logits[:, 0]) - train.y * logits[:, 0]
    for batch_size in (1, 7, 250, 10_000):
        scores = ff.evaluate(task, state, train, batch_size=batch_size)
        assert list(scores) == ["loss", "binary_crossentropy", "penalty", "accuracy"]
        assert scores["binary_crossentropy"] == pytest.approx(expected.mean(), rel=1e-5)
        assert scores["accuracy"] == pytest.approx(((logits[:, 0] > 0) == train.y).mean(), rel=1e-6)
        assert scores["loss"] == pytest.approx(scores["binary_crossentropy"] + scores["penalty"], rel=1e-6)
        np.testing.assert_allclose(ff.predict(task, state, train.x, batch_size=batch_size), logits, rtol=1e-4, atol=1e-5)
    extra = ff.evaluate(task, state, train, metrics={"auc": ff.metrics.auc, "confusion": ff.metrics.confusion_matrix})
    assert extra["confusion"].sum() == 250
    assert 0.5 < extra["auc"] <= 1


def test_sample_weight_is_kerass_sum_over_batch_size(net, table):
    train, validation = table
    weight = np.random.default_rng(0).uniform(0, 3, 250)
    task = make_task(net, optimizer=optax.sgd(0.0))
    result = ff.fit(task, ff.Dataset(train.x, train.y, weight), validation=validation, epochs=1, batch_size=250)
    logits = ff.predict(task, result.last, train.x)[:, 0]
    rows = np.logaddexp(0, logits) - train.y * logits
    assert result.history["loss"][0] == pytest.approx((weight * rows).sum() / 250, rel=1e-5)
    assert result.history["accuracy"][0] == pytest.approx(((logits > 0) == train.y).mean())  # metrics are not weighted


def test_rows_of_weight_zero_and_of_class_weight_zero_teach_nothing(net, table):
    train, _ = table
    task = make_task(net, optimizer=optax.sgd(0.1))
    by_class = ff.fit(task, train, epochs=3, batch_size=250, class_weight={0: 0.0, 1: 2.0})
    by_row = ff.fit(task, ff.Dataset(train.x, train.y, 2.0 * (train.y == 1)), epochs=3, batch_size=250)
    assert same_bits(by_class.last.params, by_row.last.params)
    ones = ff.Dataset(train.x[train.y == 1], train.y[train.y == 1])
    scale = 2 * len(ones) / 250
    alone = ff.fit(make_task(net, optimizer=optax.sgd(0.1 * scale)), ones, epochs=3, batch_size=250)
    for a, b in zip(jax.tree.leaves(by_class.last.params), jax.tree.leaves(alone.last.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_initial_weights_go_on_and_stay_the_users(net, table):
    train, validation = table
    task = make_task(net)
    first = ff.fit(task, train, validation=validation, epochs=3)
    before = jax.tree.map(np.array, first.last)
    more = ff.fit(task, train, validation=validation, epochs=1, initial=first.last, seed=1)
    assert same_bits(before, first.last)  # donated copies, not the user's buffers
    assert int(more.last.step) == int(first.last.step) + 8
    from_best = ff.fit(task, train, epochs=1, initial=first.best)
    assert from_best.last.opt_state is not None
    with pytest.raises(ValueError, match=r"initial does not fit the model: .*Dense_0.* is float32\[16\], expected float32\[8\]"):
        ff.fit(make_task(net, model=net(hidden=8)), train, initial=first.last)


def test_models_with_pytree_inputs_and_tuple_targets(table):
    class TwoInputs(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            joined = jnp.concatenate([x["numbers"], nn.Embed(4, 3)(x["kind"])], axis=-1)
            return nn.Dense(1)(joined), nn.Dense(1)(joined)

    def both(logits, y):
        return ff.losses.binary_crossentropy(logits[0], y[0]) + ff.losses.mse(logits[1], y[1])

    train, _ = table
    x = {"numbers": train.x, "kind": np.arange(250) % 4}
    data = ff.Dataset(x, (train.y, train.x[:, 0]))
    task = ff.Task(TwoInputs(), both, optax.adam(1e-1))
    result = ff.fit(task, data, validation=data[:50], epochs=20)
    assert result.history["both"][-1] < 0.5 * result.history["both"][0]
    first, second = ff.predict(task, result.best, {"numbers": train.x[:7], "kind": np.zeros(7, int)}, batch_size=3)
    assert first.shape == second.shape == (7, 1)


def test_integer_images_are_preprocessed_everywhere(net):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 4, 4, 1), np.uint8), np.arange(60) % 3
    task = ff.Task(
        net(outputs=3),
        ff.losses.categorical_crossentropy,
        optax.adam(1e-2),
        preprocess=lambda x: x.reshape(len(x), -1).astype(jnp.float32) / 255,
    )
    result = ff.fit(task, ff.Dataset(images, labels), validation=ff.Dataset(images, labels), epochs=2)
    plain = ff.Task(net(outputs=3), ff.losses.categorical_crossentropy, optax.adam(1e-2))
    floats = ff.Dataset(images.reshape(60, -1) / np.float32(255), labels)
    assert ff.evaluate(plain, result.last, floats)["loss"] == pytest.approx(result.history["val_loss"][-1], rel=1e-5)


def test_augmentation_is_keyed_by_step_and_absent_from_evaluation(net, table):
    train, _ = table

    def noise(key, x, y):
        return x + 5 * jax.random.normal(key, x.shape), y

    still = {"optimizer": optax.sgd(0.0)}
    task = make_task(net, augment=noise, **still)
    result = ff.fit(task, train, validation=train, epochs=3, batch_size=250)
    assert len(set(result.history["loss"])) == 3  # weights stand still, noise does not
    assert len(set(result.history["val_loss"])) == 1
    assert result.history["val_loss"][0] == pytest.approx(
        ff.fit(make_task(net, **still), train, epochs=1, batch_size=250).history["loss"][0]
    )


def test_sampling_with_replacement_repeats_rows(table):
    class Mean(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return x + 0 * self.param("w", nn.initializers.zeros, (1,))

    data = ff.Dataset(np.arange(100.0)[:, None], np.zeros(100))
    task = ff.Task(Mean(), lambda logits, y: logits[:, 0], optax.sgd(0.0))
    exact = ff.fit(task, data, epochs=5, batch_size=20).history["loss"]
    drawn = ff.fit(task, data, epochs=400, batch_size=20, replacement=True).history["loss"]
    np.testing.assert_allclose(exact, 49.5, rtol=1e-6)  # without: each row once an epoch
    assert drawn.std() == pytest.approx(28.87 / 10, rel=0.15)  # with: the standard error of a mean of 100 draws
    assert drawn.mean() == pytest.approx(49.5, abs=4 * 2.887 / 20)


def test_no_tensorflow_no_torch_and_nothing_heavy_at_import():
    code = (
        "import sys, flaxfit as ff; assert 'jax' not in sys.modules; ff.fit, ff.nn, ff.plots, ff.diagnose, ff.callbacks;"
        "import optax; ff.Task(ff.nn.MLP((2,), 1), ff.losses.mse, optax.sgd(0.1));"
        "banned = {'tensorflow', 'torch', 'sklearn', 'matplotlib.pyplot', 'pandas', 'orbax.checkpoint', 'tensorboardX', 'flax.nnx'};"
        "banned &= set(sys.modules);"
        "assert not banned, banned"
    )
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)


def test_unknown_public_names_get_a_suggestion():
    code = "import flaxfit as ff; ff.EarlyStoping"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert "flaxfit has no 'EarlyStoping'; did you mean 'EarlyStopping'?" in said
    assert said.count("EarlyStopping") == 1
    assert all(getattr(ff, name) is not None for name in ff.__all__)


def test_a_loss_called_loss_does_not_hide_the_objective(net, table):
    def loss(logits, y):
        return ff.losses.binary_crossentropy(logits, y)

    task = make_task(net, loss=loss, penalty=ff.penalties.l2(0.1))
    history = ff.fit(task, table[0], validation=table[1], epochs=1).history
    assert history.data_loss == "data_loss"
    assert history["val_loss"][0] == pytest.approx(history["val_data_loss"][0] + history["val_penalty"][0], rel=1e-6)


def test_the_data_loss_is_to_be_small_whatever_it_is_called(net, table):
    def surprise(logits, y):
        return ff.losses.binary_crossentropy(logits, y)

    options = {"validation": table[1], "epochs": 40, "batch_size": 50}
    stopped = ff.fit(make_task(net, loss=surprise), table[0], early_stopping=ff.EarlyStopping("val_surprise", patience=3), **options)
    assert stopped.best_epoch == 1 + np.argmin(stopped.history["val_surprise"])


def test_weights_from_elsewhere_start_a_run(net, table):
    """Plain dicts of NumPy arrays and a plain 0, as pretrained weights come."""
    task = make_task(net, optimizer=optax.sgd(0.0))
    params = jax.tree.map(np.array, ff.fit(task, table[0], epochs=1, seed=8).last.params)
    result = ff.fit(task, table[0], epochs=1, initial=ff.TrainState(0, params, {}, None))
    assert same_bits(result.last.params, params)
    broken = {**params, "Dense_0": {**params["Dense_0"], "bias": np.full(16, np.nan, np.float32)}}
    with pytest.raises(ValueError, match=r"initial.params.*Dense_0.*bias.* has NaN"):
        ff.fit(task, table[0], initial=ff.TrainState(0, broken, {}, None))


def test_the_learning_rate_logged_is_the_one_applied_after_starting_from_best(net, table):
    rate = ff.schedules.inverse_time_decay(1e-2, decay_steps=2)
    task = make_task(net, optimizer=optax.adam(rate), learning_rate=rate)
    first = ff.fit(task, table[0], epochs=3)
    again = ff.fit(task, table[0], epochs=3, initial=first.best)
    assert again.history["learning_rate"].tolist() == first.history["learning_rate"].tolist()


def test_predicting_any_number_of_rows_needs_few_programs(net, table):
    task = make_task(net)
    state = ff.fit(task, table[0], epochs=1).last
    expected = ff.predict(task, state, table[0].x)
    with Compilations() as compilations:
        for rows in range(65, 129, 7):
            outputs = ff.predict(task, state, table[0].x[:rows].tolist())
            np.testing.assert_allclose(outputs, expected[:rows], rtol=1e-5, atol=1e-6)
    assert compilations.count == 1


def test_double_precision(net, table):
    x, y = np.asarray(table[0].x, np.float64), table[0].y
    with jax.enable_x64(True):
        task = make_task(net, penalty=ff.penalties.l2(1e-3), model=net(dropout=0.1))
        data = ff.Dataset(x, y)
        assert data.x.dtype == np.float64
        result = ff.fit(task, data, validation=data, epochs=5, batch_size=64)
        assert ff.evaluate(task, result.last, data)["loss"] == pytest.approx(result.history["val_loss"][-1], rel=1e-6)
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_any_optimisers_state_is_scored_alike(net, table):
    trained = make_task(net, optimizer=optax.sgd(0.1, momentum=0.9))
    last = ff.fit(trained, table[0], epochs=2).last
    assert ff.evaluate(make_task(net), last, table[1]) == ff.evaluate(trained, last, table[1])


def test_a_metric_that_fails_in_evaluation_is_named(net, table):
    task = make_task(net)
    state = ff.fit(task, table[0], epochs=1).best
    with pytest.raises(ZeroDivisionError) as caught:
        ff.evaluate(task, state, table[1], metrics={"broken": lambda logits, y: 1 / 0})
    assert caught.value.__notes__ == ["in evaluate(metrics=...), the metric 'broken'"]
    with pytest.raises(TypeError, match="must map names to functions"):
        ff.evaluate(task, state, table[1], metrics=[ff.metrics.auc])


def test_a_result_given_for_a_history_is_explained(net, table):
    result = ff.fit(make_task(net), table[0], validation=table[1], epochs=1)
    assert repr(result).startswith("Result(1 epochs, all that were asked for; best epoch 1; ")
    with pytest.raises(TypeError, match=r"such as result.history, got Result"):
        ff.plots.learning_curves({"a": result})
    assert len(ff.plots.learning_curves(result).axes[0].lines) == len(ff.plots.learning_curves({"run": result.history}).axes[0].lines)


def test_a_metric_that_never_changes_is_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    data = ff.Dataset(x, (x[:, 0] > 0.5).astype(np.int32))

    def accuracy(logits, y):
        return logits.argmax(-1) == y  # there is one logit, so that this is class 0 of all examples

    def task(metric):
        return ff.Task(ff.nn.MLP((), 1), ff.losses.binary_crossentropy, optax.adam(0.1), {"accuracy": metric})

    share = np.mean(data.y == 0)
    with pytest.warns(UserWarning, match=f"^accuracy was {share:.6g} in all 12 epochs, although the loss changed"):
        ff.fit(task(accuracy), data, epochs=12)
    ff.fit(task(accuracy), data, epochs=5)  # too few to say
    ff.fit(task(ff.metrics.binary_accuracy), data, epochs=12)
    ff.fit(task(lambda logits, y: logits[:, 0] < 1e9), data, epochs=12)  # always right, which nothing is wrong with
