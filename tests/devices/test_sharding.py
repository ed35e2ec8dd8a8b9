"""One run over several devices: the same losses as on one, and checkpoints that go on on any number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")

# Everything that could depend on where a row is computed: dropout, augmentation, batch norm, a short last batch (26 rows, which four
# devices cannot share evenly), averaged weights, validation. Batch norm comes after the activation: before it, it would cancel the bias,
# and Adam makes steps of the rounding of a gradient that is zero.
SCRIPT = """
import functools, json, shutil, sys, warnings

import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np, optax
from jax.sharding import Mesh
import flaxfit as ff

rng = np.random.default_rng(7)
x = rng.normal(size=(330, 6)).astype(np.float32)
y = (x[:, 0] * x[:, 1] + 0.5 * rng.normal(size=330) > 0).astype(np.int32)
train, validation = ff.Dataset(x[:250], y[:250]), ff.Dataset(x[250:], y[250:])
task = ff.Task(
    model=ff.nn.MLP((16, 32), 1, dropout=0.3, batch_norm="after"), loss=ff.losses.binary_crossentropy,
    optimizer=optax.chain(optax.adam(1e-2), ff.averaging.weight_ema(0.9)), eval_params=ff.averaging.averaged,
    augment=ff.augmentation.gaussian_noise(0.1),
)
mesh = {n: Mesh(np.array(jax.devices()[:n]), ("data",)) for n in (2, 4)}
fit = functools.partial(ff.fit, task, train, validation=validation, epochs=4, batch_size=32, seed=3)
spread = {"mesh": mesh[4], "shard": ff.sharding.fsdp(100)}
stream = ff.data.Stream(train)
runs = {"one": fit(), "two": fit(mesh=mesh[2])}
runs["four"] = ff.fit(task, stream, validation=validation, epochs=4, batch_size=32, seed=3, **spread)
fit(mesh=mesh[2], epochs=2, run_dir=sys.argv[1])
for name, where in {"again": {"mesh": mesh[2]}, "down": {}, "up": spread}.items():
    shutil.copytree(sys.argv[1], f"{sys.argv[1]}-{name}")
    runs[name] = ff.resume(f"{sys.argv[1]}-{name}", task, train, validation=validation, epochs=4, **where)
warnings.simplefilter("error")
try:
    fit(mesh=mesh[4], batch_size=30)
except UserWarning as warning:
    warned = str(warning)

print(json.dumps({
    "history": {name: {column: list(map(float, run.history[column])) for column in run.history} for name, run in runs.items()},
    "weights": {name: float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(run.best.params))) for name, run in runs.items()},
    "shards": {
        jax.tree_util.keystr(path): leaf.sharding.shard_shape(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path((runs["four"].last, runs["four"].best)) if "Dense_1" in str(path)
    },
    "scores": {name: ff.evaluate(task, runs[name].best, validation)["loss"] for name in ("one", "four")},
    "warned": warned,
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    home = tmp_path_factory.mktemp("mesh")
    environment = os.environ | {"FLAXFIT_CACHE": str(home / "cache")}
    command = [sys.executable, "-c", SCRIPT, str(home / "run")]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def close(history, expected):
    assert set(history) == set(expected)
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["two", "four"])
def test_the_same_losses_as_on_one_device(found, name):  # on four of a stream
    close(found["history"][name], found["history"]["one"])
    assert found["weights"][name] == pytest.approx(found["weights"]["one"], rel=1e-4)


def test_a_checkpoint_of_two_devices_goes_on_on_two_to_the_same_bits_and_on_one_and_four(found):
    assert found["history"]["again"] == found["history"]["two"]
    assert found["weights"]["again"] == found["weights"]["two"]
    for name in ("down", "up"):
        close(found["history"][name], found["history"]["one"])


def test_parameters_are_spread_by_rule_and_what_follows_them_too(found):
    shards = found["shards"]
    kernels = {tuple(shape) for path, shape in shards.items() if path.endswith("['kernel']")}
    assert kernels == {(16, 8)}  # of 16 x 32 over four devices: weights, both moments, average, best
    assert sum(path.endswith("['kernel']") for path in shards) == 5
    assert {tuple(shape) for path, shape in shards.items() if path.endswith("['bias']")} == {(32,)}  # too small
    assert found["scores"]["four"] == pytest.approx(found["scores"]["one"], rel=1e-4)


def test_a_batch_that_does_not_divide_is_told(found):
    assert "steps of 30 rows do not divide over 4 devices" in found["warned"]


def test_what_cannot_work(net, table):
    train, _ = table
    task = ff.Task(model=net(), loss=ff.losses.binary_crossentropy, optimizer=optax.adam(1e-2))
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    with pytest.raises(TypeError, match=r"fit\(mesh=...\) must be a jax.sharding.Mesh"):
        ff.fit(task, train, mesh=jax.devices())
    with pytest.raises(ValueError, match="spreads parameters over a mesh"):
        ff.fit(task, train, shard=ff.sharding.fsdp())
    with pytest.raises(TypeError, match="must map regular expressions to"):
        ff.fit(task, train, mesh=mesh, shard={"kernel": "data"})
    with pytest.raises(ValueError, match=r"Dense_0/bias of shape \(16,\) cannot be spread as P\(None, 'data'\)"):
        ff.fit(task, train, mesh=mesh, shard={"bias": PartitionSpec(None, "data")})
    with pytest.raises(ValueError, match=r"'Conv' matches no parameter. The parameters are: Dense_0/bias, Dense_0/kernel"):
        ff.fit(task, train, mesh=mesh, shard={"Conv": PartitionSpec("data")})
