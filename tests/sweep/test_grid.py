from __future__ import annotations

import functools
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

import flaxfit as ff
from flaxfit.sweep.grid import expand, name_of


def test_product_in_order_and_what_is_traced():
    settings, traced = expand({"l2": [0.0, 1e-4], "layers": [1, 2], "norm": [True, False], "momentum": ff.static([0.0, 0.9])})
    assert len(settings) == 16
    assert settings[0] == {"l2": 0.0, "layers": 1, "norm": True, "momentum": 0.0}
    assert settings[1] == {"l2": 0.0, "layers": 1, "norm": True, "momentum": 0.9}
    assert settings[-1] == {"l2": 1e-4, "layers": 2, "norm": False, "momentum": 0.9}
    assert traced == {"l2"}


def test_integers_among_floats_are_traced_and_numpy_numbers_are_plain():
    settings, traced = expand({"l2": np.array([0.0, 1e-3]), "rate": [0, 0.5]})
    assert traced == {"l2", "rate"}
    assert [type(value) for value in settings[0].values()] == [float, int]


def test_settings_one_by_one():
    assert expand([{"l2": 0.0, "net": "a"}, {"l2": 0.1, "net": "b"}]) == ([{"l2": 0.0, "net": "a"}, {"l2": 0.1, "net": "b"}], {"l2"})
    assert expand(None) == ([{}], set())


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"l2": 0.1}, "must be a list of values, got 0.1: put it in brackets"),
        ({"net": "Tiny"}, "must be a list of values"),
        ({"l2": []}, "'l2' holds no values"),
        ({"l2": [0.1, float("nan")]}, "'l2' holds nan"),
        ({"l2": [0.1, "a"]}, r"mixes numbers with 'a': make it ff.static\(\[...\]\)"),
        ({"l2": [0.1, 0.1]}, "a setting twice"),
        ([{"a": 1}, {"b": 1}], r"the same names, got \['a'\] and \['b'\]"),
        ([], "no settings"),
        (3, "a grid maps names to lists"),
    ],
)
def test_what_is_no_grid(grid, message):
    with pytest.raises((TypeError, ValueError), match=message):
        expand(grid)


def test_names_are_fit_for_files():
    assert name_of({"net": "Large, L2", "path": "a/b", "hidden": (8, 8), "l2": 1e-4}) == "net=Large__L2,path=a_b,hidden=8-8,l2=0.0001"


class Kind:
    """A value with Python's own repr, which has an address."""


def scaled(factor):
    def scale(x):
        return factor * x

    return scale


def test_names_of_functions_and_objects_have_no_addresses():
    assert name_of({"activation": nn.relu, "cell": nn.LSTMCell}) == "activation=relu,cell=LSTMCell"
    assert name_of({"f": functools.partial(jax.nn.leaky_relu, negative_slope=0.1)}) == "f=leaky_relu-negative_slope_0.1"
    assert name_of({"f": (nn.relu, Kind())}) == name_of({"f": (nn.relu, Kind())})
    assert "0x" not in name_of({"f": Kind(), "g": [scaled(2), lambda x: x]})


def test_functions_of_one_name_are_told_apart_by_what_they_do():
    settings, traced = expand({"f": [scaled(2), scaled(3), lambda x: x + 1, lambda x: x + 2, lambda x: x - 1], "l2": [0.0]})
    assert len({name_of(setting) for setting in settings}) == 5
    assert traced == {"l2"}
    assert name_of({"f": scaled(2)}) == name_of({"f": scaled(2)})
    assert name_of({"f": scaled(2)}).startswith("f=scale-")


def test_the_name_of_a_lambda_is_the_same_in_another_process():
    code = "from flaxfit.sweep.grid import name_of; print(name_of({'f': lambda x: [x for x in (3, 'a')]}))"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].startswith("f=lambda-")
