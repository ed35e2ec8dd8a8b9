from __future__ import annotations

import json

import jax
import numpy as np
import optax
import pytest

import flaxfit as ff


def _set(rows=10):
    x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    about = ff.data.Provenance("numbers", range(100, 100 + rows), "train", "1.0.0", {"numbers.csv": "ab" * 32})
    return ff.Dataset(x, np.arange(rows) % 2, features=("a", "b"), classes=("no", "yes"), provenance=about)


def test_rows_keep_their_description_and_their_number():
    part = _set()[2:8][np.array([5, 0])]
    assert (part.features, part.classes) == (("a", "b"), ("no", "yes"))
    assert part.provenance.rows.tolist() == [107, 102]
    assert part.x[:, 0].tolist() == [14.0, 4.0]
    assert _set()[np.arange(10) < 3].provenance.rows.tolist() == [100, 101, 102]


def test_the_record_is_plain_and_tells_rows_apart():
    data = _set()
    record = json.loads(json.dumps(data[2:5].record()))
    assert record == {
        "count": 3, "source": "numbers", "version": "1.0.0", "part": "train", "rows": "102:105", "checksums": {"numbers.csv": "ab" * 32},
    }  # fmt: skip
    chosen = [data[rows].record()["rows"] for rows in (np.array([1, 2]), np.array([2, 1]), slice(0, 4, 2))]
    assert len(set(chosen)) == 3
    assert all(text.startswith("2 rows, sha256 ") for text in chosen)
    assert ff.Dataset([[1.0]], [0]).record() == {"count": 1, "source": "arrays"}


def test_descriptions_compile_nothing_anew():
    data = _set()
    assert jax.tree.structure(data[:3]) == jax.tree.structure(ff.Dataset(data.x[:3], data.y[:3]))
    assert [path for path, _ in data.leaves()] == ["x", "y"]


def test_a_run_records_where_its_rows_come_from():
    task = ff.Task(model=ff.nn.MLP((2,), 1), loss=ff.losses.binary_crossentropy, optimizer=optax.sgd(0.1))
    result = ff.fit(task, _set()[:6], validation=_set()[6:])
    assert result.data["train"]["rows"] == "100:106"
    assert result.data["validation"]["rows"] == "106:110"


def test_names_that_do_not_fit():
    x, y = np.ones((3, 2)), np.zeros(3, int)
    with pytest.raises(ValueError, match=r"features=...\) has 1 names for 2 columns"):
        ff.Dataset(x, y, features=("a",))
    with pytest.raises(TypeError, match=r"classes=...\) must be a list of names, got 'ab'"):
        ff.Dataset(x, y, classes="ab")
    assert ff.Dataset(x, y, features=["a", "b"]).features == ("a", "b")
