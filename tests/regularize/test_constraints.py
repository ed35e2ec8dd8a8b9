import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfit.regularize.constraints import max_norm

RNG = np.random.default_rng(0)
DENSE = RNG.normal(size=(20, 8)).astype(np.float32) * np.linspace(0, 1, 8, dtype=np.float32)
CONV = RNG.normal(size=(3, 3, 4, 6)).astype(np.float32)
PARAMS = {"Conv_0": {"kernel": CONV}, "Dense_0": {"bias": np.full(8, 9.0, np.float32), "kernel": DENSE}}


@pytest.mark.parametrize("limit", [0.5, 2.0, 100.0])
def test_each_units_incoming_weights_are_scaled_to_the_limit(limit):
    result = max_norm(limit)(PARAMS)
    for name, axes in (("Dense_0", 0), ("Conv_0", (0, 1, 2))):
        before, after = PARAMS[name]["kernel"], np.asarray(result[name]["kernel"])
        norms = np.sqrt((before**2).sum(axes))
        np.testing.assert_allclose(np.sqrt((after**2).sum(axes)), np.minimum(norms, limit), rtol=1e-5)
        np.testing.assert_array_equal(after[..., norms < limit], before[..., norms < limit])  # untouched, bit for bit
    np.testing.assert_array_equal(result["Dense_0"]["bias"], PARAMS["Dense_0"]["bias"])


def test_zeros_and_a_limit_of_zero_stay_finite():
    zeros = {"kernel": jnp.zeros((3, 2))}
    for limit in (0.0, 1.0, 1e30):
        assert not max_norm(limit)(zeros)["kernel"].any()
    assert not max_norm(0.0)({"kernel": jnp.ones((3, 2))})["kernel"].any()


def test_the_limit_may_be_traced_and_the_type_stays():
    traces = []

    @jax.jit
    def norms(limit):
        traces.append(1)
        kernel = max_norm(limit)({"kernel": jnp.full((4, 2), 2.0, jnp.bfloat16)})["kernel"]
        assert kernel.dtype == jnp.bfloat16
        return jnp.linalg.norm(kernel.astype(jnp.float32), axis=0)

    np.testing.assert_allclose([norms(1.0), norms(9.0)], [[1, 1], [4, 4]], rtol=1e-2)
    assert len(traces) == 1


def test_masks_and_errors():
    result = max_norm(1.0, "bias")(PARAMS)  # each bias is a unit's only weight
    np.testing.assert_array_equal(result["Dense_0"]["bias"], np.ones(8))
    np.testing.assert_array_equal(result["Dense_0"]["kernel"], DENSE)
    with pytest.raises(ValueError, match=r"max_norm\(limit=...\) must be 0 or more"):
        max_norm(-1.0)
