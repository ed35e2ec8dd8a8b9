"""Losses and metrics in which rows meet: found before training, or declared and evaluated in batches of a stated size."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.programs import program

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture(scope="module")
def line():
    x = np.random.default_rng(0).normal(size=(203, 3)).astype(np.float32)
    return ff.Dataset(x, x.sum(1))


def task_of(loss, outputs=1, model=None, **fields):
    return ff.Task(model or ff.nn.MLP((), outputs), loss, optax.adam(1e-2), **fields)


def broadcast(logits, y):
    return jnp.mean((logits - y) ** 2, axis=-1)


def standardized(logits, y):
    return ((logits[:, 0] - logits.mean()) - (y - y.mean())) ** 2


def ranks(logits, y):
    return (jnp.argsort(jnp.argsort(logits[:, 0])) == jnp.argsort(jnp.argsort(y))).astype(jnp.float32)


def neighbors(logits, y):
    pairs = len(y) // 2
    return jnp.repeat((logits[: 2 * pairs : 2, 0] - logits[1::2, 0]) ** 2, 2, total_repeat_length=len(y)) if pairs else y


def against_the_next(logits, y):
    return jnp.maximum(0.0, 1 + jnp.roll(logits[:, 0], 1) - logits[:, 0])


def over_the_largest(logits, y):
    return -jnp.log(logits[:, 0] / logits.max()) * y


@pytest.mark.parametrize("function", [broadcast, standardized, ranks, neighbors, against_the_next, over_the_largest])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_rows_that_meet_are_found_before_training(line, function, batch_size, monkeypatch):
    def start(*args, **kwargs):
        raise AssertionError("compiled before the check")

    monkeypatch.setattr("flaxfit.train.job.Single.start", start)
    with pytest.raises(
        ValueError, match=rf"the loss {function.__name__} mixes examples: .*\n.*ff\.losses\.of_batch\({function.__name__}\)"
    ):
        ff.fit(task_of(function), line, batch_size=batch_size)
    with pytest.raises(ValueError, match="the metric 'm' mixes examples"):
        ff.fit(task_of(ff.losses.mse, metrics={"m": function}), line, batch_size=batch_size)


def test_found_by_evaluate_and_in_populations_and_of_streams_too(line):
    state = ff.fit(task_of(ff.losses.mse), line).best
    with pytest.raises(ValueError, match="mixes examples"):
        ff.evaluate(task_of(broadcast), state, line)
    with pytest.raises(ValueError, match="mixes examples"):
        ff.fit_many(lambda hp: ff.Task(ff.nn.MLP((), 1), broadcast, optax.sgd(hp["rate"])), {"rate": [0.1, 0.2]}, line)
    with pytest.raises(ValueError, match="mixes examples"):
        ff.fit(task_of(broadcast), ff.data.Stream(line))


def test_the_message_names_shapes_and_cure(line):
    with pytest.raises(ValueError, match=r"logits \(rows, 1\) and y \(rows,\) broadcast.*take logits\[\.\.\., 0\]"):
        ff.fit(task_of(broadcast), line)
    with pytest.raises(ValueError, match=r"logits \(rows,\) and y \(rows, 1\) broadcast.*take y\[\.\.\., 0\]"):
        ff.fit(task_of(broadcast, model=Flat()), ff.Dataset(line.x, line.y[:, None]))
    with pytest.raises(ValueError, match=r"got shape \(rows, rows\)\. Where logits \(rows, 1\) and y \(rows,\) broadcast"):
        ff.fit(task_of(lambda logits, y: (logits - y) ** 2), line)


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, y: -jnp.log(logits[:, 0]) * y,  # NaN of a negative output
        lambda logits, y: 1e12 * (logits[:, 0] - y) ** 2,
        lambda logits, y: jnp.full(len(y), jnp.nan),
        lambda logits, y: optax.squared_error(logits.squeeze(), y.squeeze()),
        lambda logits, y: jnp.where(y > 0, jnp.inf, logits[:, 0]),
        lambda logits, y: (logits - y[:, None]).mean(1) * np.random.default_rng(0).random(len(y), np.float32),
    ],
)
def test_losses_of_single_rows_pass(line, loss):
    ff.fit(task_of(loss), line[:200], terminate_on_nan=False)


def broadcast_accuracy(logits, y):
    return ((logits > 0) == y).mean(-1)


@pytest.mark.parametrize("ones", [1, 3, 100, 202])
def test_rare_labels_and_sorted_ones(line, ones):
    y = (np.arange(203) < ones).astype(np.int32)
    with pytest.raises(ValueError, match="the metric 'm' mixes examples"):
        ff.fit(task_of(ff.losses.binary_crossentropy, metrics={"m": broadcast_accuracy}), ff.Dataset(line.x, y))


def test_outputs_that_all_rows_share(line):
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return {"z": nn.Dense(1)(x)[:, 0], "scale": self.param("scale", nn.initializers.ones, ())}

    ff.fit(task_of(lambda z, y: z["scale"] * (z["z"] - y) ** 2, model=Scaled()), line)
    with pytest.raises(ValueError, match="mixes examples"):
        ff.fit(task_of(lambda z, y: z["scale"] * (z["z"] - z["z"].max()) ** 2, model=Scaled()), line)


def test_it_is_done_once_for_a_task(line, monkeypatch):
    from flaxfit.programs.compiled import Programs

    task, made = task_of(ff.losses.mse), []
    jit = Programs.jit
    ff.fit(task, line)

    def noted(self, what, *args, **options):
        made.append(what)
        return jit(self, what, *args, **options)

    monkeypatch.setattr(Programs, "jit", noted)
    ff.fit(task, line, epochs=2)
    assert made
    assert not [what for what in made if "rows" in what]


class Ghost(nn.Module):
    """Normalizes groups of `size` rows in training; with `always`, in evaluation too."""

    size: int = 8
    always: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        hidden = nn.Dense(6)(x)
        if train or self.always:
            groups = hidden.reshape(-1, self.size, 6)
            hidden = ((groups - groups.mean(1, keepdims=True)) / groups.std(1, keepdims=True)).reshape(hidden.shape)
        return nn.Dense(1)(hidden)


def test_only_batch_sizes_that_occur_are_tried(line, tmp_path):
    for rows, batch_size in ((200, 40), (200, 48), (16, 100)):
        ff.fit(task_of(ff.losses.mse, model=Ghost()), line[:rows], batch_size=batch_size, run_dir=tmp_path / f"{rows}-{batch_size}")
    resumed = ff.fit(task_of(ff.losses.mse, model=Ghost()), line[:200], batch_size=40, epochs=2, run_dir=tmp_path / "200-40")
    assert len(resumed.history.epochs) == 2
    result = ff.fit(task_of(ff.losses.mse, model=Ghost(always=True)), line[:160], validation=line[160:200], batch_size=40)
    assert np.isfinite(result.history["val_loss"]).all()
    with pytest.raises(ValueError, match=r"Ghost refuses x of shape \(rows, 3\) in the last batch, of 3 rows \(a batch size that divides"):
        ff.fit(task_of(ff.losses.mse, model=Ghost()), line, batch_size=40)
    with pytest.raises(ValueError, match=r"Ghost refuses x of shape \(rows, 3\): "):
        ff.fit(task_of(ff.losses.mse, model=Ghost()), line, batch_size=30)


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x)[:, 0]


def info_nce(logits, y, temperature=0.5):
    """The row's output is to be like that of the row half a batch away: (n, d) against itself."""
    z = logits / jnp.linalg.norm(logits, axis=-1, keepdims=True)
    similarity = z @ z.T / temperature - 1e9 * jnp.eye(len(z))
    return -jax.nn.log_softmax(similarity)[jnp.arange(len(z)), (jnp.arange(len(z)) + len(z) // 2) % len(z)].mean()


def by_hand(function, logits, y, size):
    parts = [slice(first, min(first + size, len(y))) for first in range(0, len(y), size)]
    return sum(float(function(logits[part], y[part])) * (part.stop - part.start) for part in parts) / len(y)


def test_a_loss_of_a_batch_is_the_same_in_fit_and_evaluate(line, tmp_path):
    task = task_of(ff.losses.of_batch(info_nce, batch_size=20), outputs=4, metrics={"mean": lambda logits, y: logits.mean(1)})
    train, validation = line[:120], line[120:]
    result = ff.fit(task, train, validation=validation, epochs=3, batch_size=30, run_dir=tmp_path / "run")
    expected = by_hand(info_nce, ff.predict(task, result.last, validation.x), validation.y, 20)
    assert result.history["val_info_nce"][-1] == pytest.approx(expected, rel=1e-5)
    for batch_size in (7, 20, 1024):
        assert ff.evaluate(task, result.last, validation, batch_size=batch_size)["info_nce"] == pytest.approx(expected, rel=1e-5)
    assert ff.evaluate(task, result.last, ff.data.Stream(validation), batch_size=30)["info_nce"] == pytest.approx(expected, rel=1e-5)
    assert result.history.mode("val_info_nce") == "min"


def test_a_step_of_it_is_that_of_its_gradient(line):
    task = task_of(ff.losses.of_batch(functools.partial(info_nce, temperature=0.2)), outputs=4)
    state = task.init(jax.random.key(0), line.x[:1])
    after, sums = ff.train_step(task, state, jax.random.key(0), line.x[:10], line.y[:10])

    def objective(params):
        return info_nce(task.apply(params, {}, line.x[:10])[0], line.y[:10], 0.2)

    value, gradient = jax.value_and_grad(objective)(state.params)
    updates, _ = task.optimizer.update(gradient, state.opt_state, state.params)
    assert task.loss_name == "info_nce"
    assert float(sums["info_nce"]) / 10 == pytest.approx(float(value), rel=1e-6)
    for got, expected in zip(jax.tree.leaves(after.params), jax.tree.leaves(optax.apply_updates(state.params, updates)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_a_metric_of_a_batch_and_one_number_a_row(line):
    metric = ff.losses.of_batch(neighbors, batch_size=50)
    task = task_of(ff.losses.mse, metrics={"pairs": ff.Metric(metric, "min")})
    result = ff.fit(task, line[:100], validation=line[100:200], batch_size=10)
    expected = np.mean(neighbors(ff.predict(task, result.last, line.x[100:200]), line.y[100:200]))
    assert result.history["val_pairs"][0] == pytest.approx(float(expected), rel=1e-5)


def test_what_is_no_loss_of_a_batch(line):
    of_batch = ff.losses.of_batch
    with pytest.raises(ValueError, match="must be at least 1"):
        of_batch(info_nce, batch_size=0)

    def halves(logits, y):
        return logits[: len(y) // 2, 0]

    with pytest.raises(
        ValueError, match=r"of_batch\(halves\) must return one number for the batch, or one for each example, got shape \(101,\)"
    ):
        ff.fit(task_of(of_batch(halves)), line, batch_size=203)
    with pytest.raises(ValueError, match="info_nce is computed from a whole batch, so that examples cannot have weights"):
        ff.fit(task_of(of_batch(info_nce), outputs=4), ff.Dataset(line.x, line.y, np.ones(203)))
    with pytest.raises(ValueError, match=r"must have the same batch size, got \[8, 16\]"):
        task_of(of_batch(info_nce, 8), metrics={"m": of_batch(info_nce, 16)})
    with pytest.raises(ValueError, match=r"one number for the whole batch.*Declare .* with ff\.losses\.of_batch"):
        ff.fit(task_of(info_nce, outputs=4), line)


def test_sizes_of_batches():
    for rows in range(1, 40):
        for size in range(1, 12):
            expected = list(dict.fromkeys(min(size, rows - first) for first in range(0, rows, size)))
            assert list(program.batch_sizes(rows, size)) == expected
