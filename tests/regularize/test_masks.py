from typing import Any

import jax
import numpy as np
import optax
import pytest

from flaxfit.regularize import masks

PARAMS = {
    "BatchNorm_0": {"bias": np.ones(2), "scale": np.ones(2)},
    "Dense_0": {"bias": np.ones(2), "kernel": np.ones((3, 2))},
    "Dense_1": {"bias": np.ones(1), "kernel": np.ones((2, 1))},
}


def picked(mask):
    flags = masks.resolve(mask, PARAMS)
    assert jax.tree.structure(flags) == jax.tree.structure(PARAMS)
    assert all(isinstance(flag, bool) for flag in jax.tree.leaves(flags))
    return [path for path, flag in zip(masks.paths(PARAMS), jax.tree.leaves(flags), strict=True) if flag]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, ["Dense_0/kernel", "Dense_1/kernel"]),
        ("Dense_0", ["Dense_0/bias", "Dense_0/kernel"]),
        ("^Dense_1/kernel$", ["Dense_1/kernel"]),
        (["Dense_0/kernel", "scale"], ["BatchNorm_0/scale", "Dense_0/kernel"]),
        (masks.kernels, ["Dense_0/kernel", "Dense_1/kernel"]),
        (masks.matching("bias", "scale"), ["BatchNorm_0/bias", "BatchNorm_0/scale", "Dense_0/bias", "Dense_1/bias"]),
        (lambda params: {name: name == "Dense_0" for name in params}, ["Dense_0/bias", "Dense_0/kernel"]),  # a tree of prefixes
    ],
)
def test_what_a_mask_picks(mask, expected):
    assert picked(mask) == expected


@pytest.mark.parametrize("mask", ["Dense_7", ["Dense_0", "Dense_7"], ("Dense_7",)])
def test_a_pattern_that_matches_nothing_is_named_with_all_paths(mask):
    with pytest.raises(ValueError, match=r"'Dense_7' matches no parameter.*Dense_0/bias, Dense_0/kernel"):
        masks.resolve(mask, PARAMS)


def test_no_kernels_is_an_error_with_all_paths():
    with pytest.raises(ValueError, match=r"no parameter is called kernel.*BatchNorm_0/bias"):
        masks.resolve(None, {"BatchNorm_0": PARAMS["BatchNorm_0"]})


@pytest.mark.parametrize("mask", [[], {"Dense_0": True}, 3])
def test_a_mask_of_another_kind(mask):
    with pytest.raises(TypeError, match="a mask must be"):
        masks.resolve(mask, PARAMS)


@pytest.mark.parametrize("mask", [masks.kernels, masks.matching("kernel$")])
def test_masks_are_optax_masks(mask):
    optimizer: Any = optax.add_decayed_weights(0.5, mask=mask)
    updates, _ = optimizer.update(jax.tree.map(np.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    assert (updates["Dense_0"]["kernel"] == 0.5).all()
    assert not updates["Dense_0"]["bias"].any()
