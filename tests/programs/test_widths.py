"""The rows of a step of validation follow from shapes, are recorded, and may be set."""

import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.programs.compiled import Programs
from flaxfit.programs.widths import validation_rows


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        return nn.Dense(10)(nn.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1))


def task_of(model, **options):
    return ff.Task(model, ff.losses.mse, optax.sgd(0.1), **options)


@pytest.mark.parametrize(
    ("model", "shape", "rows"),
    [
        (ff.nn.MLP((100,) * 6, 10), (784,), 10485),  # float32: 4 MB of 100
        (ff.nn.MLP((512,) * 4, 1), (28,), 2048),
        (Pooled(), (28, 28, 1), 256),
    ],
)
def test_rows_follow_from_the_widest_layer(model, shape, rows):
    task = task_of(model, preprocess=lambda x: x.astype(jnp.float32) / 255)
    row = ff.Dataset(np.zeros((1, *shape), np.uint8), np.zeros(1))
    assert validation_rows(Programs(task), {}, row, 32) == rows


def test_the_rows_are_recorded_may_be_set_and_change_the_scores_by_rounding_only(tmp_path):
    rng = np.random.default_rng(0)
    data = ff.Dataset(rng.normal(size=(100, 3)), rng.normal(size=100))
    task = task_of(ff.nn.MLP((4,), 1))
    losses, recorded = [], []
    for name, options in {"chosen": {}, "seven": {"validation_batch_size": 7}}.items():
        result = ff.fit(task, data, validation=data, epochs=2, run_dir=tmp_path / name, **options)
        losses.append(result.history["val_loss"])
        recorded.append(json.loads((tmp_path / name / "config.json").read_text())["arguments"]["validation_batch_size"])
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert recorded == [262144, 7]
    again = ff.resume(tmp_path / "seven", task, data, validation=data, epochs=3)
    assert len(again.history["val_loss"]) == 3
    with pytest.raises(ValueError, match="validation_batch_size"):
        ff.fit(task, data, validation=data, epochs=3, run_dir=tmp_path / "seven")
    with pytest.raises(ValueError, match="validation_batch_size must be"):
        ff.fit(task, data, validation=data, validation_batch_size=0)
