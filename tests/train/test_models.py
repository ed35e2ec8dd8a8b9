"""Modules of every calling convention train, are validated, exported and resumed; what stands still stands still."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

import flaxfit as ff

WORDS = ["train", "training", "is_training", "deterministic", "use_running_average"]


def task_of(model, **fields):
    return ff.Task(model, fields.pop("loss", ff.losses.binary_crossentropy), fields.pop("optimizer", optax.adam(1e-2)), **fields)


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def told_by(word):
    """A net with dropout and batch norm that is told by `word` whether it trains."""

    def call(self, x, **said):
        train = said[word] if word.endswith(("train", "training")) else not said[word]
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x))
        return nn.Dense(1)(nn.Dropout(0.3, deterministic=not train)(nn.relu(x)))

    space = {"nn": nn, "call": call}
    exec(f"def __call__(self, x, {word}):\n    return call(self, x, {word}={word})", space)
    return type("Told", (nn.Module,), {"__call__": nn.compact(space["__call__"]), "__module__": __name__})()


class Silent(nn.Module):
    """Says nothing to its layers, which say themselves that they need to know."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm()(nn.Dense(16)(x))
        return nn.Dense(1)(nn.Dropout(0.3)(nn.relu(x)))


class Nnx(nnx.Module):
    """NNX's own convention: `train()` and `eval()`, no argument."""

    def __init__(self, rngs: nnx.Rngs):
        self.blocks = nnx.List([nnx.Linear(6, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)])
        self.drop, self.last = nnx.Dropout(0.3, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(self.drop(nnx.relu(x)))


class NnxTold(Nnx):
    def __call__(self, x, *, train):
        x = self.blocks[1](self.blocks[0](x), use_running_average=not train)
        return self.last(self.drop(nnx.relu(x), deterministic=not train))


MODELS = {
    **{word: lambda word=word: told_by(word) for word in WORDS},
    "silent": Silent,
    "sequential": lambda: nn.Sequential([nn.Dense(16), nn.BatchNorm(), nn.relu, nn.Dropout(0.3), nn.Dense(1)]),
    "sequential of a net": lambda: nn.Sequential([told_by("train")]),
    "nnx": lambda: Nnx(nnx.Rngs(0)),
    "nnx class": lambda: Nnx,
    "nnx function": lambda: lambda r: Nnx(r),
    "nnx told": lambda: NnxTold(nnx.Rngs(0)),
    "nnx sequential": lambda: (
        lambda rngs: nnx.Sequential(
            nnx.Linear(6, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs), nnx.relu, nnx.Dropout(0.3, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)
        )
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_any_convention(name, table, tmp_path):
    """Dropout acts in training and not in evaluation; batch norm learns its statistics; a resumed run has the same bits; exports agree."""
    train, validation = table
    task = task_of(MODELS[name]())
    options = {"validation": validation, "batch_size": 50}
    whole = ff.fit(task, train, epochs=12, **options)
    assert whole.history["val_loss"].min() < 0.93 * whole.history["val_loss"][0]
    assert "kernel_l2" in whole.history
    run = tmp_path / "run"
    ff.fit(task, train, epochs=5, run_dir=run, **options)
    resumed = ff.fit(task, train, epochs=12, run_dir=run, **options)
    assert resumed.history == whole.history
    assert equal(resumed.last, whole.last)

    state, x = task.evaluated(whole.last), validation.x
    means = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.collections["batch_stats"]) if path[-1].key == "mean"]
    assert np.abs(means[0]).max() > 0.01  # the running mean of hidden units, 0 at first
    outputs = ff.predict(task, state, x)
    np.testing.assert_allclose(outputs[:7], ff.predict(task, state, x[:7]), rtol=1e-5, atol=1e-6)  # no statistics of the batch
    keys = [{"dropout": jax.random.key(seed)} for seed in (1, 1, 2)]
    one, again, other = (task.apply(state.params, state.collections, x, rngs)[0] for rngs in keys)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    model = ff.load(run)
    np.testing.assert_allclose(model.predict(x), ff.predict(task, resumed.best, x), rtol=1e-5, atol=1e-6)
    assert model.evaluate(validation)["loss"] == pytest.approx(ff.evaluate(task, resumed.best, validation)["loss"], rel=1e-5)
    assert "Total Parameters" in ff.summary(task, x[:1])
