"""Milliseconds an epoch: flaxfit, a scan written by hand, and Keras on JAX, in turn in one process on the same rows.

The hand-written peer is what an experienced user would write: one jitted `lax.scan` over an epoch's batches with donated state, the
permutation made by NumPy on the host, validation in the same program, four metrics fetched an epoch. Keras runs at the fastest of
several `steps_per_execution`. Every peer trains with the same loss, metric, optimiser and batch size, validates each epoch, and must
reach about the same validation loss, else the comparison is refused. Compilation is outside the clock. Needs Keras only if asked for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

SIZES = {"tiny": (16,), "large": (512,) * 4}


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """Directory of original data files, searched before the network; by default what FLAXFIT_ORIGINALS names."""
    size: Literal["tiny", "large"] = "tiny"
    """HIGGS net: 16 units, or 4 x 512."""
    epochs: int = 200
    """Epochs a timing."""
    repeats: int = 9
    """Timings of each peer, in turn."""
    keras: bool = False
    """Time Keras on JAX too."""


def main(config: Config) -> None:
    import functools

    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from rich.console import Console
    from rich.table import Table

    import flaxfit as ff

    try:
        splits = ff.data.load("higgs", validation=1_000, train=10_000, originals=config.originals)
    except OSError as error:
        raise SystemExit(str(error)) from error
    x, y, xv, yv = (np.array(part, np.float32) for data in (splits.train, splits.validation) for part in (data.x, data.y))
    hidden, batch, epochs = SIZES[config.size], 500, config.epochs
    optimizer = optax.adam(ff.schedules.inverse_time_decay(1e-3, decay_steps=20_000))

    # flaxfit
    task = ff.Task(
        ff.nn.MLP(hidden, 1, activation="elu"), ff.losses.binary_crossentropy, optimizer, metrics={"accuracy": ff.metrics.binary_accuracy}
    )
    train, validation = ff.Dataset(x, y), ff.Dataset(xv, yv)

    def flaxfit() -> tuple[float, float]:
        result = ff.fit(task, train, validation=validation, epochs=epochs, batch_size=batch)
        return result.timing.train / epochs, result.history["val_loss"][-1]

    # by hand
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in hidden:
                x = nn.elu(nn.Dense(width, kernel_init=nn.initializers.glorot_uniform())(x))
            return nn.Dense(1, kernel_init=nn.initializers.glorot_uniform())(x)[:, 0]

    net = Net()

    def objective(params, x, y):
        logits = jnp.asarray(net.apply(params, x))
        return optax.sigmoid_binary_cross_entropy(logits, y).mean(), ((logits > 0) == (y > 0.5)).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def epoch(params, opt_state, order, x, y, xv, yv):
        def step(carry, rows):
            params, opt_state = carry
            scores, gradients = jax.value_and_grad(objective, has_aux=True)(params, x[rows], y[rows])
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), scores

        (params, opt_state), (loss, accuracy) = jax.lax.scan(step, (params, opt_state), order)
        return params, opt_state, (loss.mean(), accuracy.mean(), *objective(params, xv, yv))

    on_device = jax.device_put((x, y, xv, yv))

    def by_hand() -> tuple[float, float]:
        generator = np.random.default_rng(0)
        params = net.init(jax.random.key(0), jnp.asarray(x[:1]))
        opt_state, scores = optimizer.init(params), []
        start = time.perf_counter()
        for _ in range(epochs):
            order = generator.permutation(len(x)).astype(np.int32).reshape(-1, batch)
            params, opt_state, values = epoch(params, opt_state, order, *on_device)
            scores.append([float(value) for value in values])
        return (time.perf_counter() - start) / epochs, scores[-1][2]

    peers = {"flaxfit": flaxfit, "scan by hand": by_hand}
    if config.keras:
        os.environ["KERAS_BACKEND"] = "jax"
        import keras  # pyright: ignore[reportMissingImports]

        def keras_at(steps: int):
            model = keras.Sequential(
                [keras.Input((28,)), *(keras.layers.Dense(width, activation="elu") for width in hidden), keras.layers.Dense(1)]
            )
            decay = keras.optimizers.schedules.InverseTimeDecay(1e-3, 20_000, 1)
            metric = keras.metrics.BinaryAccuracy(threshold=0.0)
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(decay), loss, metrics=[metric], steps_per_execution=steps, jit_compile=True)
            fresh = model.get_weights()

            def fit(count: int = epochs) -> tuple[float, float]:
                model.set_weights(fresh)
                for variable in model.optimizer.variables if model.optimizer.built else ():
                    if variable is not model.optimizer._learning_rate:
                        variable.assign(np.zeros(variable.shape, variable.dtype))
                start = time.perf_counter()
                history = model.fit(
                    x, y, batch_size=batch, epochs=count, validation_data=(xv, yv), validation_batch_size=1000, verbose=0
                ).history
                return (time.perf_counter() - start) / count, history["val_loss"][-1]

            fit(2)
            return fit

        few = max(2, epochs // 10)
        tried = {steps: keras_at(steps) for steps in (1, 5, 10, 20)}
        speeds = {steps: min(fit(few)[0] for _ in range(3)) for steps, fit in tried.items()}
        best = min(speeds, key=lambda steps: speeds[steps])
        print("Keras, steps_per_execution -> ms an epoch:", {steps: round(1e3 * speed, 2) for steps, speed in speeds.items()})
        peers[f"Keras on JAX, {best} steps an execution"] = tried[best]

    for peer in peers.values():
        peer()  # compiles and warms up
    timings: dict[str, list[float]] = {name: [] for name in peers}
    losses: dict[str, float] = {}
    for _ in range(config.repeats):
        for name, peer in peers.items():
            seconds, losses[name] = peer()
            timings[name].append(1e3 * seconds)

    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    table = Table(title=f"HIGGS {config.size}, batch {batch}, {epochs} epochs x {config.repeats}, {device}")
    for column in ("peer", "ms an epoch (median)", "lowest", "highest", "peer / flaxfit (median of ratios)", "val_loss, last epoch"):
        table.add_column(column)
    for name, times in timings.items():
        ratio = np.median(np.divide(times, timings["flaxfit"]))
        table.add_row(name, *(f"{value:.3f}" for value in (np.median(times), min(times), max(times), ratio)), f"{losses[name]:.4f}")
    Console(width=150).print(table)
    reference = losses["scan by hand"]
    if any(abs(loss - reference) > 0.03 for loss in losses.values()):
        raise SystemExit("refused: the peers did not train to the same validation loss")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
