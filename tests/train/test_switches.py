"""JAX's own switches: the main jobs work under each of them, with the same numbers where the switch is not about numbers."""

import json
import os
import subprocess
import sys

import jax
import pytest

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SCRIPT = """
import functools, json, sys
import flaxfit as ff, numpy as np, optax
from flax import linen as nn


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(3)(nn.Dropout(0.2, deterministic=not train)(x))


rng = np.random.default_rng(0)
x, y = rng.normal(size=(90, 8, 8, 1)).astype(np.float32), rng.integers(0, 3, 90)
train, validation = ff.Dataset(x[:60], y[:60]), ff.Dataset(x[60:], y[60:])
augment = ff.augmentation.cutout(2)


def make_task(hp):
    return ff.Task(
        Net(), ff.losses.categorical_crossentropy, optax.adam(hp["rate"]), penalty=ff.penalties.l2(1e-3), augment=augment,
        metrics={"accuracy": ff.metrics.categorical_accuracy}, set_metrics={"f1": functools.partial(ff.metrics.f1, average="macro")},
        preprocess=ff.data.standardize(x[:60]),
    )


task = make_task({"rate": 1e-2})
how = {"validation": validation, "batch_size": 16, "class_weight": {0: 2.0}, "early_stopping": ff.EarlyStopping("val_accuracy", patience=9)}
how["plateau"] = ff.Plateau("val_loss", patience=1)
ff.fit(task, train, epochs=2, run_dir=sys.argv[1] + "/run", **how)
resumed = ff.fit(task, train, epochs=4, run_dir=sys.argv[1] + "/run", **how)
whole = ff.fit(task, train, epochs=4, **how)
assert whole.history == resumed.history
scores = ff.evaluate(task, whole.best, validation)
loaded = ff.load(sys.argv[1] + "/run")
np.testing.assert_allclose(loaded.predict(validation.x), ff.predict(task, whole.best, validation.x), rtol=1e-4, atol=1e-5)
how |= {"seeds": 2, "epochs": 2}
studies = [ff.fit_many(make_task, {"rate": [1e-2, 1e-3]}, train, strategy=strategy, **how) for strategy in ("threads", "vmap")]
for study in studies:
    np.testing.assert_allclose(study.results[0].history["loss"], whole.history["loss"][:2], rtol=1e-3)
folds = ff.cross_validate(task, train, folds=2, epochs=1, batch_size=16)
numbers = [whole.history["loss"].tolist(), whole.history["val_f1"].tolist(), scores["loss"], *folds.study.results[0].history["val_loss"]]
print(json.dumps(numbers))
"""


def run(place, **switches):
    env = os.environ | {name.upper(): value for name, value in switches.items()}
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", SCRIPT, str(place)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        {"jax_numpy_rank_promotion": "raise"},
        {"jax_debug_nans": "1"},
        {"jax_transfer_guard": "disallow"},
    ],
    ids=str,
)
def test_guards_change_no_number(switches, plain, tmp_path):
    assert run(tmp_path, **switches) == plain


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches", [{"jax_enable_x64": "1"}, {"jax_threefry_partitionable": "0"}, {"jax_default_prng_impl": "rbg"}], ids=str
)
def test_what_changes_numbers_works(switches, tmp_path):
    run(tmp_path, **switches)


def test_all_guards_at_once(tmp_path):
    # The check of jax_debug_nans fetches what it looks at, which on a GPU is a transfer.
    guard = {"jax_transfer_guard": "disallow"} if jax.default_backend() == "cpu" else {}
    run(tmp_path, jax_numpy_rank_promotion="raise", jax_debug_nans="1", jax_enable_x64="1", **guard)
