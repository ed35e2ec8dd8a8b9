"""What an experienced user of JAX writes: a jitted scan over the steps of an epoch, or a Python loop over a jitted step.

The state is donated, the order comes from NumPy, validation is part of the epoch's program, and four numbers are fetched after each
epoch. For populations, `members` maps the scan over several runs with `jax.vmap`. Without it, runs follow each other.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax_device import device, device_memory
from networks import network, optimizer
from serve import Round, Rows, Run, Unable, mean, trainings

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
__all__ = ["PACKAGES", "build", "device", "device_memory"]


def build(work: Any, arrays: Mapping[str, np.ndarray], *, loop: bool = False, members: bool = False) -> Run:
    """Returns a function that trains once."""
    if members and (work.members == 1 or work.folds):
        raise Unable("maps over the members of a population")
    net: Any = network(work, lambda rate, x, train: nn.Dropout(rate)(x, deterministic=not train))
    transform, random = optimizer(work), any(kind == "dropout" for kind, *_ in work.layers)

    def objective(params, state, key, x, y, l2, train):
        how = {"mutable": ["batch_stats"], "rngs": {"dropout": key} if random else {}} if train else {}
        logits = net.apply({"params": params, **state}, x, train=train, **how)
        logits, state = logits if train else (logits, state)
        if work.classes == 1:
            loss, right = optax.sigmoid_binary_cross_entropy(logits[:, 0], y), (logits[:, 0] > 0) == (y > 0.5)
        else:
            loss, right = optax.softmax_cross_entropy_with_integer_labels(logits, y), logits.argmax(1) == y
        penalty = l2 * sum(jnp.square(w).sum() for w in jax.tree.leaves(params) if w.ndim > 1) if any(work.l2) else 0.0
        return loss.mean() + penalty, (jnp.stack([loss.mean(), right.mean()]), state)

    def step(carry, rows, key, x, y, l2):
        params, state, opt_state = carry
        differentiate = jax.grad(objective, has_aux=True)
        gradients, (scores, state) = differentiate(params, state, key, x[rows], y[rows], l2, True)
        updates, opt_state = transform.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), scores

    def validated(carry, x, y, l2):
        return objective(carry[0], carry[1], None, x, y, l2, False)[1][0]

    def scan(carry, order, rest, key, rows, l2):
        keys = jax.random.split(key, len(order) + 1)
        carry, scores = jax.lax.scan(lambda carry, each: step(carry, each[0], each[1], rows.x, rows.y, l2), carry, (order, keys[1:]))
        total = scores.sum(0) * work.batch
        if len(rest):
            carry, scores = step(carry, rest, keys[0], rows.x, rows.y, l2)
            total += scores * len(rest)
        return carry, (total / len(rows.y), validated(carry, rows.validation_x, rows.validation_y, l2))

    jitted_step, jitted_validation = jax.jit(step, donate_argnums=0), jax.jit(validated)

    def steps(carry, order, rest, key, rows, l2):
        scores = []
        for number, batch in enumerate([*order, *([rest] if len(rest) else [])]):
            carry, found = jitted_step(carry, batch, jax.random.fold_in(key, number) if random else key, rows.x, rows.y, l2)
            scores.append(found)
        fetched, sizes = jax.device_get(scores), [work.batch] * len(order) + [len(rest)] * bool(len(rest))
        return carry, (np.average(fetched, 0, sizes), jitted_validation(carry, rows.validation_x, rows.validation_y, l2))

    batched = (0, 0, 0, 0, None, 0)
    epoch: Callable[..., Any] = steps if loop else jax.jit(jax.vmap(scan, batched) if members else scan, donate_argnums=0)

    @functools.partial(jax.vmap if members else lambda function: function)
    def start(key):
        variables = net.init(key, jnp.zeros((1, *arrays["x"].shape[1:])), train=False)
        params = variables.pop("params")
        return params, variables, transform.init(params)

    start = jax.jit(start)
    count = work.members if members else 1
    l2 = jnp.asarray(np.resize(work.l2, count), jnp.float32) if members else jnp.float32(work.l2[0])

    def train(host: Rows, seed: int, epochs: int) -> Round:
        generator, size, scores, began = np.random.default_rng(seed), len(host.y), [], time.perf_counter()
        rows, full = jax.device_put(host), size // work.batch * work.batch
        keys = jax.random.split(jax.random.key(seed), count) if members else jax.random.key(seed)
        carry = start(keys)
        for _ in range(epochs):
            orders = np.stack([generator.permutation(size) for _ in range(count)]).astype(np.int32)
            order, rest = orders[:, :full].reshape(count, -1, work.batch), orders[:, full:]
            if random:
                keys = jax.vmap(next_key)(keys) if members else next_key(keys)
            carry, values = epoch(carry, *((order, rest) if members else (order[0], rest[0])), keys, rows, l2)
            scores.append(jax.device_get(values))
        seconds = time.perf_counter() - began
        loss, accuracy = np.mean(scores[-1][1].reshape(-1, 2), 0)
        return Round(seconds, float(accuracy), float(loss), count)

    return lambda seed, epochs: mean([train(rows, seed, epochs) for rows in trainings(work, arrays, seed)])


@jax.jit
def next_key(key: jax.Array) -> jax.Array:
    return jax.random.split(key)[1]
