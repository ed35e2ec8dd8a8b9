"""What the speed scripts share: a workload, its peers by hand and in Keras, a clock that takes peers in turn, the table."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import flaxfit as ff

Peer = Callable[[], tuple[float, float]]
"""Trains once. Returns seconds an epoch and the last epoch's validation loss, penalty included."""


@dataclass(frozen=True)
class Workload:
    """What all programs train: the same layers, on the same examples, in the same batches."""

    title: str
    train: ff.Dataset
    validation: ff.Dataset
    hidden: Sequence[int]
    outputs: int
    """How many logits the network has: 1 for two classes."""
    activation: str
    initializer: str
    optimizer: optax.GradientTransformation
    keras_optimizer: Callable[[Any], Any]
    """The same object of the module `keras`."""
    batch: int
    replacement: bool = False
    """Whether batches are drawn with replacement, which all but Keras can do."""
    tolerance: float = 0.03
    """How far validation losses may differ. Programs that differ more have not done the same work."""
    filters: Sequence[int] = ()
    """Convolutions of 3 x 3 before the dense layers, each followed by the activation and max pooling of 2 x 2: how many filters."""

    @property
    def rows(self) -> tuple[np.ndarray, ...]:
        """x, y, and those of validation."""
        return self.train.x, self.train.y, self.validation.x, self.validation.y

    def task(self, l2: Any = 0.0) -> ff.Task:
        """flaxfit's; without a penalty where `l2` is the number 0."""
        model: Any = ff.nn.MLP(tuple(self.hidden), self.outputs, activation=self.activation, initializer=self.initializer)
        model = network(self) if self.filters else model
        two = self.outputs == 1
        loss = ff.losses.binary_crossentropy if two else ff.losses.categorical_crossentropy
        accuracy = ff.metrics.binary_accuracy if two else ff.metrics.categorical_accuracy
        penalty = None if isinstance(l2, float) and not l2 else ff.penalties.l2(l2)
        return ff.Task(model, loss, self.optimizer, metrics={"accuracy": accuracy}, penalty=penalty)


def higgs(hidden: Sequence[int], title: str, originals: Path | None) -> Workload:
    """HIGGS with 10,000 examples to train on and 1,000 to validate on, batches of 500, and Adam with a falling learning rate."""
    splits = ff.data.load("higgs", validation=1_000, train=10_000, originals=originals)
    train, validation = (
        ff.Dataset(np.array(part.x, np.float32), np.array(part.y, np.float32)) for part in (splits.train, splits.validation)
    )
    optimizer = optax.adam(ff.schedules.inverse_time_decay(1e-3, decay_steps=20_000))

    def keras_optimizer(keras: Any) -> Any:
        return keras.optimizers.Adam(keras.optimizers.schedules.InverseTimeDecay(1e-3, 20_000, 1))

    return Workload(title, train, validation, hidden, 1, "elu", "glorot_uniform", optimizer, keras_optimizer, 500)


def images(filters: Sequence[int], title: str, originals: Path | None) -> Workload:
    """Fashion-MNIST with 2,560 images to train on and 1,000 to validate on, batches of 64: convolutions, 64 units, and Adam."""
    splits = ff.data.load("fashion_mnist", validation=1_000, train=2_560, originals=originals)
    train, validation = (ff.Dataset(np.array(part.x, np.float32) / 255, part.y) for part in (splits.train, splits.validation))
    optimizers = {"optimizer": optax.adam(1e-3), "keras_optimizer": lambda keras: keras.optimizers.Adam(1e-3)}
    layers = {"hidden": (64,), "outputs": 10, "activation": "relu", "initializer": "glorot_uniform", "filters": filters}
    return Workload(title, train, validation, **layers, **optimizers, batch=64, tolerance=0.15)


def network(work: Workload) -> nn.Module:
    """The layers in Linen."""
    initializer, activation = getattr(nn.initializers, work.initializer)(), getattr(nn, work.activation)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for filters in work.filters:
                x = nn.max_pool(activation(nn.Conv(filters, (3, 3), kernel_init=initializer)(x)), (2, 2), (2, 2))
            x = x.reshape(x.shape[0], -1)
            for width in work.hidden:
                x = activation(nn.Dense(width, kernel_init=initializer)(x))
            return nn.Dense(work.outputs, kernel_init=initializer)(x)

    return Net()


def by_hand(work: Workload, epochs: int, l2: float = 0.0, *, loop: bool = False) -> Peer:
    """What an experienced user would write: one jitted scan per epoch with a donated state, and the order by NumPy.

    With `loop`, the steps are a Python loop over a jitted step instead.
    """
    optimizer, batch, (x, y, xv, yv) = work.optimizer, work.batch, work.rows
    net = network(work)

    def objective(params, x, y):
        logits = jnp.asarray(net.apply(params, x))
        if work.outputs == 1:
            logits = logits[:, 0]
            loss, right = optax.sigmoid_binary_cross_entropy(logits, y), (logits > 0) == (y > 0.5)
        else:
            loss, right = optax.softmax_cross_entropy_with_integer_labels(logits, y), logits.argmax(1) == y
        penalty = sum(jnp.square(w).sum() for w in jax.tree.leaves(params) if w.ndim > 1) if l2 else 0.0
        return loss.mean() + l2 * penalty, right.mean()

    def update(params, opt_state, rows, x, y):
        scores, gradients = jax.value_and_grad(objective, has_aux=True)(params, x[rows], y[rows])
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, scores

    step, score = jax.jit(update, donate_argnums=(0, 1)), jax.jit(objective)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def scan(params, opt_state, order, x, y, xv, yv):
        def body(carry, rows):
            params, opt_state, scores = update(carry[0], carry[1], rows, x, y)
            return (params, opt_state), scores

        (params, opt_state), (loss, accuracy) = jax.lax.scan(body, (params, opt_state), order)
        return params, opt_state, (loss.mean(), accuracy.mean(), *objective(params, xv, yv))

    def steps(params, opt_state, order, x, y, xv, yv):
        scores = []
        for rows in order:
            params, opt_state, found = step(params, opt_state, rows, x, y)
            scores.append(found)
        loss, accuracy = np.mean(jax.device_get(scores), axis=0)
        return params, opt_state, (loss, accuracy, *score(params, xv, yv))

    epoch: Callable[..., Any] = steps if loop else scan

    on_device = jax.device_put((x, y, xv, yv))

    def peer() -> tuple[float, float]:
        generator = np.random.default_rng(0)
        params = net.init(jax.random.key(0), jnp.asarray(x[:1]))
        opt_state, scores = optimizer.init(params), []
        start = time.perf_counter()
        for _ in range(epochs):
            order = generator.integers(0, len(x), len(x)) if work.replacement else generator.permutation(len(x))
            params, opt_state, values = epoch(params, opt_state, order.astype(np.int32).reshape(-1, batch), *on_device)
            scores.append([float(value) for value in values])
        return (time.perf_counter() - start) / epochs, scores[-1][2]

    return peer


def keras_fit(work: Workload, steps: int, l2: float = 0.0) -> Callable[[int], tuple[float, float]]:
    """Returns a function that trains Keras on JAX with a number of steps per execution, each time from the same initial weights."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras  # pyright: ignore[reportMissingImports]

    x, y, xv, yv = work.rows
    options = {"kernel_initializer": work.initializer, "kernel_regularizer": keras.regularizers.L2(l2) if l2 else None}
    layers: list[Any] = []
    for filters in work.filters:
        convolution = keras.layers.Conv2D(filters, 3, padding="same", activation=work.activation, **options)
        layers += [convolution, keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten()] if work.filters else []
    layers += [keras.layers.Dense(width, activation=work.activation, **options) for width in work.hidden]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(work.outputs, **options)])
    if work.outputs == 1:
        loss, metric = keras.losses.BinaryCrossentropy(from_logits=True), keras.metrics.BinaryAccuracy(threshold=0.0)
    else:
        loss, metric = keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.metrics.SparseCategoricalAccuracy()
    model.compile(work.keras_optimizer(keras), loss, metrics=[metric], steps_per_execution=steps, jit_compile=True)
    fresh = model.get_weights()

    def fit(epochs: int) -> tuple[float, float]:
        model.set_weights(fresh)
        for variable in model.optimizer.variables if model.optimizer.built else ():
            if variable is not model.optimizer._learning_rate:
                variable.assign(np.zeros(variable.shape, variable.dtype))
        how = {"batch_size": work.batch, "validation_data": (xv, yv), "validation_batch_size": 1000, "verbose": 0}
        start = time.perf_counter()
        history = model.fit(x, y, epochs=epochs, **how).history
        return (time.perf_counter() - start) / epochs, history["val_loss"][-1]

    return fit


def keras_on_jax(work: Workload, epochs: int, l2: float = 0.0) -> dict[str, Peer]:
    """Returns Keras on JAX at the fastest of several `steps_per_execution`, under a name that says which."""
    few, speeds, fits = max(2, epochs // 10), {}, {}
    for steps in (1, 5, 10, 20):
        fits[steps] = fit = keras_fit(work, steps, l2)
        fit(2)  # compiles
        speeds[steps] = min(fit(few)[0] for _ in range(3))
    best = min(speeds, key=lambda steps: speeds[steps])
    print("Keras, steps_per_execution -> ms an epoch:", {steps: round(1e3 * speed, 2) for steps, speed in speeds.items()})
    return {f"Keras {version('keras')} on JAX, {best} steps an execution": lambda: fits[best](epochs)}


def device() -> str:
    """Describes the workload, for the title of a table."""
    return f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, flaxfit {ff.__version__}"


def in_turn(peers: Mapping[str, Peer], repeats: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Runs all programs in rounds. Returns milliseconds per epoch, shape (repeats,), and the last validation loss."""
    for peer in peers.values():
        peer()
    rounds = [{name: peer() for name, peer in peers.items()} for _ in range(repeats)]
    return {name: np.array([1e3 * r[name][0] for r in rounds]) for name in peers}, {name: rounds[-1][name][1] for name in peers}


def show(title: str, unit: str, timings: Mapping[str, np.ndarray], losses: Mapping[str, float]) -> None:
    """Prints the table. Ratios are to the first program, round by round."""
    table, first = Table(title=title), next(iter(timings))
    for column in ("peer", f"{unit} (median)", "lowest", "highest", f"peer / {first} (median of ratios)", "val_loss, last epoch"):
        table.add_column(column)
    for name, times in timings.items():
        ratio = np.median(times / timings[first])
        table.add_row(name, *(f"{value:.3f}" for value in (np.median(times), times.min(), times.max(), ratio)), f"{losses[name]:.4f}")
    Console(width=150).print(table)


def refuse_unequal(losses: Mapping[str, float], reference: str, tolerance: float) -> None:
    """Raises SystemExit if the validation loss of a program is far from that of the reference, because then it did other work."""
    if any(not abs(loss - losses[reference]) <= tolerance for loss in losses.values()):
        raise SystemExit("refused: the peers did not train to the same validation loss")
