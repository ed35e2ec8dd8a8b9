from __future__ import annotations

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
