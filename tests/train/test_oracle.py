"""The engine against a training loop written by hand in Flax and Optax, step by step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.data.order import round_keys, shuffled
from flaxfit.rng import stream

BATCH, EPOCHS = 50, 40  # 250 rows: 5 steps an epoch, 200 steps
DECAY = 1e-2


def by_hand(model, optimizer, penalty, data, seed):
    """The objective of every step."""
    key = jax.random.key(seed)
    variables = model.init(
        {"params": stream(key, "init/params"), "dropout": stream(key, "init/dropout")}, jnp.asarray(data.x[:1]), train=False
    )
    params, rest = variables["params"], {name: value for name, value in variables.items() if name != "params"}
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, rest, opt_state, x, y, dropout):
        def objective(params):
            logits, new = model.apply({"params": params, **rest}, x, train=True, rngs={"dropout": dropout}, mutable=["batch_stats"])
            return optax.sigmoid_binary_cross_entropy(logits[:, 0], y).mean() + penalty(params), new

        (value, new), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), {**rest, **new}, opt_state, value

    losses = []
    for epoch in range(EPOCHS):
        order = shuffled(np.arange(len(data)), np.asarray(round_keys(key, epoch, len(data))), len(data))
        for rows in order.reshape(-1, BATCH):
            dropout = jax.random.fold_in(stream(key, "dropout"), len(losses))
            params, rest, opt_state, value = step(params, rest, opt_state, data.x[rows], data.y[rows], dropout)
            losses.append(float(value))
    return losses


def l2(params):
    return DECAY * sum(jnp.sum(params[name]["kernel"] ** 2) for name in ("Dense_0", "Dense_1"))


@pytest.mark.parametrize("variant", ["plain", "dropout 0", "dropout", "batch norm", "l2", "weight decay"])
def test_every_step_equals_a_loop_written_by_hand(variant, net, table, each_loss):
    train, _ = table
    model = net(batch_norm=variant == "batch norm", dropout=0.3 if variant == "dropout" else 0.0)
    optimizer = optax.adam(1e-2)
    if variant == "weight decay":
        optimizer = optax.chain(optax.add_decayed_weights(DECAY, mask=ff.masks.kernels), optimizer)
    hook, remember = each_loss
    watched = optax.chain(remember, optimizer)
    task = ff.Task(model, ff.losses.binary_crossentropy, watched, penalty=ff.penalties.l2(DECAY) if variant == "l2" else None)
    result = ff.fit(task, train, epochs=EPOCHS, batch_size=BATCH, seed=5, callbacks=[hook])
    losses = by_hand(model, optimizer, l2 if variant == "l2" else lambda params: 0.0, train, 5)
    assert len(losses) == 200
    assert losses[-1] < 0.8 * losses[0]
    # Units in the last place of float32, each 0.6e-7 to 1.2e-7 relative: XLA adds up in another order, and may contract `a * b + c`.
    np.testing.assert_array_max_ulp(np.float32(hook.losses), np.float32(losses), maxulp=8)
    np.testing.assert_allclose(result.history["loss"], np.reshape(losses, (EPOCHS, -1)).mean(1), rtol=1e-6)
