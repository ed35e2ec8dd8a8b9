from __future__ import annotations

import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import model_selection

import flaxfit as ff
from flaxfit.data import Splits, folds, hold_outs, split


def _set(rows=1000, classes=3, labels=None):
    """x is the row's number, and the source's row number is 100 more."""
    y = np.arange(rows) ** 2 % classes if labels is None else np.asarray(labels)
    return ff.Dataset(np.arange(len(y)), y, classes=("a", "b", "c"), provenance=ff.data.Provenance("numbers", range(100, 100 + len(y))))


def _sizes(parts):
    return {name: len(data) for name, data in parts.items()}


def test_without_a_seed_the_first_rows_validate_and_the_next_train():
    parts = split(_set(12_000), validation=1_000, train=10_000, test=500)
    assert {name: data.record()["rows"] for name, data in parts.items()} == {
        "train": "1100:11100", "validation": "100:1100", "test": "11100:11600",
    }  # fmt: skip
    assert [int(data.x[0]) for _, data in parts.items()] == [1_000, 0, 11_000]
    assert repr(parts) == "Splits(train: 10000 rows, validation: 1000 rows, test: 500 rows)"
    alone = split(_set(12))
    assert (_sizes(alone), alone.validation, alone.test) == ({"train": 12}, None, None)


def test_a_seed_draws_rows_as_numpy_permutes_them():
    data = _set()
    parts, order = split(data, validation=0.2, train=300, test=100, seed=3), np.random.default_rng(3).permutation(1000)
    assert parts.validation.x.tolist() == order[:200].tolist()
    assert parts.train.x.tolist() == order[200:500].tolist()
    assert parts.test.x.tolist() == order[500:600].tolist()
    assert parts.train.classes == ("a", "b", "c")
    for stratified in (False, True):
        one, same, other = (split(data, test=0.2, stratified=stratified, seed=seed).test.x.tolist() for seed in (3, 3, 4))
        assert one == same != other
        assert one != sorted(one)


@pytest.mark.parametrize(
    ("rows", "shares", "sizes"),
    [
        (208, {"test": 0.2}, {"train": 166, "test": 42}),
        (208, {"train": 0.6, "validation": 0.2, "test": 0.2}, {"train": 124, "validation": 42, "test": 42}),
        (10, {"train": 0.5, "validation": 0.25, "test": 0.25}, {"train": 4, "validation": 3, "test": 3}),
        (10, {"train": 0.25, "test": 0.25}, {"train": 3, "test": 3}),
        (10, {"train": 7, "validation": np.float32(0.3)}, {"train": 7, "validation": 3}),
        (100, {"test": 0.07}, {"train": 93, "test": 7}),
        (10, {"train": np.int64(4), "test": 1e-9}, {"train": 4, "test": 1}),
    ],
)
def test_shares_are_rounded_up(rows, shares, sizes):
    assert _sizes(split(_set(rows), **shares, one_row=1.0)) == sizes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(3, 300), st.lists(st.integers(1, 100), min_size=3, max_size=4))
def test_shares_never_take_more_rows_than_there_are(rows, parts):
    shares = dict(zip(("train", "validation", "test"), (part / sum(parts) for part in parts), strict=False))
    if rows - sum(math.ceil(round(share * rows, 6)) for name, share in shares.items() if name != "train") < 1:
        with pytest.raises(ValueError, match="none are left to train on"):
            split(_set(rows), **shares, one_row=1.0)
        return
    sizes = _sizes(split(_set(rows), **shares, one_row=1.0))
    for name in ("validation", "test"):
        assert -1e-6 < sizes[name] - shares[name] * rows < 1
    assert -2 < sizes["train"] - shares["train"] * rows < 1
    assert sum(sizes.values()) <= rows
    if len(parts) == 3:
        assert sum(sizes.values()) == rows


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data(), st.lists(st.integers(-2, 4), min_size=3, max_size=120), st.sampled_from(["drawn", "stratified", "in order"]))
def test_pieces_are_disjoint_exact_and_stratified(data, labels, kind):
    rows, y = len(labels), np.array(labels)
    validation = data.draw(st.integers(1, rows - 2))
    test = data.draw(st.integers(1, rows - validation - 1))
    train = data.draw(st.none() | st.integers(1, rows - validation - test))
    seed = None if kind == "in order" else data.draw(st.integers(0, 2**40))
    asked = {"train": train, "validation": validation, "test": test, "stratified": kind == "stratified", "seed": seed, "one_row": 1.0}
    try:
        parts = split(_set(labels=labels), **asked)
    except ValueError as error:
        if kind != "stratified" or not re.match(
            r"split\(stratified=True\) cannot draw \d+ of \d+ examples for (validation|test|train): ", str(error)
        ):
            raise
        classes, counts = np.unique(y, return_counts=True)
        left = rows - validation - test
        assert counts.min() < 4 or min(validation, test, train or left, left) < len(classes)
        return
    left = rows - validation - test
    assert _sizes(parts) == {"train": train or left, "validation": validation, "test": test}
    taken = np.concatenate([piece.x for _, piece in parts.items()])
    assert len(np.unique(taken)) == len(taken)
    for _, piece in parts.items():
        assert list(piece.provenance.rows) == (piece.x + 100).tolist()
        assert (piece.y == y[piece.x]).all()
        if kind == "stratified":
            for label in labels:
                assert abs((piece.y == label).sum() - (y == label).mean() * len(piece)) < 3


def test_stratifies_a_thousand_classes_and_seldom_ones():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 1000, 20_000)
    parts = split(_set(labels=y), train=0.31, validation=0.17, test=0.13, stratified=True, seed=0)
    for _, piece in parts.items():
        assert np.abs(np.bincount(piece.y, minlength=1000) - np.bincount(y, minlength=1000) * len(piece) / len(y)).max() < 2
    rare = split(_set(labels=[0] * 297 + [1] * 3), validation=100, test=100, stratified=True, seed=0)
    assert sorted(int(piece.y.sum()) for _, piece in rare.items()) == [1, 1, 1]
    booleans = split(ff.Dataset(jnp.arange(400.0), jnp.arange(400) < 100), test=0.5, stratified=True, seed=0)
    assert int(booleans.test.y.sum()) == 50
    all_but_one = split(_set(labels=[0, 1, 2] * 100), train=199, test=100, stratified=True, seed=0, one_row=1.0)
    assert _sizes(all_but_one) == {"train": 199, "test": 100}
    assert np.bincount(all_but_one.train.y).min() >= 65


@pytest.mark.parametrize(
    ("labels", "test", "message"),
    [
        ([0] * 9 + [1], 3, r"split\(stratified=True\) cannot draw 3 of 10 examples for test: .*only 1 member.*\[1\]"),
        ([0, 1, 2] * 4, 2, r"2 of 12 examples for test: The test_size = 2 should be greater or equal to the number of classes = 3"),
    ],
)
def test_says_what_cannot_be_stratified(labels, test, message):
    with pytest.raises(ValueError, match=message):
        split(_set(labels=labels), test=test, stratified=True, seed=0, one_row=1.0)


def test_warns_of_sets_too_small_to_tell():
    assert _sizes(split(_set(), validation=100)) == {"train": 900, "validation": 100}
    expected = "validation has only 33 examples, so that one of them changes its accuracy by 0.030: use flaxfit.cross_validate instead."
    with pytest.warns(UserWarning, match=f"^{re.escape(expected)}$") as caught:
        split(_set(), train=10, validation=33, test=100)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="test has only 200 examples, so that one of them changes its accuracy by 0.0050"):
        split(_set(), test=200, one_row=0.004)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (
            {"train": 900, "test": 101},
            ValueError,
            "of 1000 examples into train 900 and test 101: these are more than there are. Ask for fewer",
        ),
        ({"train": 0.9, "test": 0.2}, ValueError, "train 900 and test 200: these are more than there are"),
        ({"train": 501, "validation": 0.2494, "test": 0.2494}, ValueError, "validation 250 and train 501 and test 250: these are more"),
        ({"validation": 800, "test": 300}, ValueError, "of 1000 examples into validation 800 and test 300: none are left to train on"),
        ({"validation": 1000}, ValueError, "of 1000 examples into validation 1000: none are left to train on"),
        ({"test": 0.0}, ValueError, r"split\(test=...\) must be a share between 0 and 1, or an integer, got 0.0"),
        ({"test": 1.0}, ValueError, "between 0 and 1, or an integer, got 1.0"),
        ({"test": float("nan")}, ValueError, "between 0 and 1, or an integer, got nan"),
        ({"train": 0}, ValueError, r"split\(train=...\) must be at least 1 \(a number of examples; a float between 0 and 1"),
        ({"validation": -5}, ValueError, "must be at least 1 .*, got -5"),
        ({"test": True}, TypeError, r"split\(test=...\) must be an integer \(a number of examples; .*, got True"),
        ({"test": "5"}, TypeError, "must be an integer .*, got '5'"),
        ({"test": 100, "seed": -1}, ValueError, r"split\(seed=...\) must be at least 0"),
        ({"test": 100, "seed": 0.5}, TypeError, r"split\(seed=...\) must be an integer"),
        ({"test": 100, "stratified": True}, ValueError, "draws examples at random: pass a seed"),
        ({"test": 100, "one_row": 0.0}, ValueError, r"one_row .* above 0 and at most 1, which never warns, got 0.0"),
        ({"test": 100, "one_row": 1.1}, ValueError, "one_row .* got 1.1"),
    ],
)
def test_split_says_what_is_wrong(asked, error, message):
    with pytest.raises(error, match=message):
        split(_set(), **asked)


@pytest.mark.parametrize("function", [split, folds])
def test_needs_a_dataset_with_class_labels_to_stratify_by(function):
    with pytest.raises(TypeError, match=rf"{function.__name__} needs a flaxfit.Dataset, got ndarray: wrap the arrays as ff.Dataset"):
        function(np.arange(10))
    for y, got in (
        (np.zeros((10, 1, 1), int), r"int32\[10, 1, 1\]"),
        (np.full(10, 0.5), r"float32\[10\]"),
        ({"a": np.zeros(10)}, "{'a': "),
    ):
        needs = r"needs class labels y, integers of shape \(rows,\) or \(rows, 1\) or one-hot"
        message = rf"{function.__name__}\(stratified=True\) {needs}, got {got}"
        with pytest.raises(ValueError, match=message):
            function(ff.Dataset(np.arange(10), y), stratified=True, seed=0)


@pytest.mark.parametrize("k", [2, 5, 7])
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(("repeats", "seed"), [(1, None), (1, 8), (3, 8)])
def test_folds_are_scikit_learns(k, stratified, repeats, seed):
    data = _set(101)
    kind = "StratifiedKFold" if stratified else "KFold"
    if repeats == 1:
        oracle = getattr(model_selection, kind)(k, shuffle=seed is not None, random_state=seed)
    else:
        oracle = getattr(model_selection, f"Repeated{kind}")(n_splits=k, n_repeats=repeats, random_state=seed)
    got, expected = folds(data, k, stratified=stratified, repeats=repeats, seed=seed), list(oracle.split(data.x, data.y))
    assert len(got) == len(expected) == k * repeats
    for pair, oracles in zip(got, expected, strict=True):
        for rows, wanted in zip(pair, oracles, strict=True):
            assert rows.dtype == np.int64
            assert rows.tolist() == wanted.tolist()
    assert data[got[0][1]].provenance.rows.tolist() == (got[0][1] + 100).tolist()


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"k": 1}, ValueError, r"folds\(k=...\) must be at least 2"),
        ({"k": 2.0}, TypeError, r"folds\(k=...\) must be an integer"),
        ({"k": 11}, ValueError, r"folds\(k=11\) needs at least 11 examples, but the data set has 10: use fewer folds"),
        ({"stratified": True}, ValueError, r"folds\(k=5\) needs at least 5 examples of each class, but class b has 4: use fewer folds"),
        ({"repeats": 0}, ValueError, r"folds\(repeats=...\) must be at least 1"),
        ({"repeats": 2}, ValueError, r"folds\(repeats=2\) without a seed would repeat the same folds: pass a seed"),
        ({"seed": -1}, ValueError, r"folds\(seed=...\) must be at least 0"),
    ],
)
def test_folds_says_what_is_wrong(asked, error, message):
    with pytest.raises(error, match=message):
        folds(_set(labels=[0, 1] * 4 + [0, 0]), **asked)


@pytest.mark.parametrize("stratified", [False, True])
def test_hold_outs_are_the_splits_of_the_seeds_from_the_first(stratified):
    data = _set(101)
    drawn = hold_outs(data, 0.3, stratified=stratified, repeats=3, seed=8)
    assert len(drawn) == 3
    for seed, (train, test) in enumerate(drawn, start=8):
        parts = split(data, test=0.3, stratified=stratified, seed=seed, one_row=1.0)
        assert train.dtype == test.dtype == np.int64
        np.testing.assert_array_equal(data[train].x, parts.train.x)
        np.testing.assert_array_equal(data[test].x, parts.test.x)
        assert sorted([*train, *test]) == list(range(101))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"test": 1.5}, r"split\(test=...\) must be a share between 0 and 1"),
        ({"test": 0.3, "repeats": 0}, r"hold_outs\(repeats=...\) must be at least 1"),
        ({"test": 0.3, "seed": -1}, r"hold_outs\(seed=...\) must be at least 0"),
    ],
)
def test_hold_outs_says_what_is_wrong(asked, message):
    with pytest.raises(ValueError, match=message):
        hold_outs(_set(10), **asked)


def test_a_class_without_a_name_goes_by_its_number():
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"class {label} has 4"):
            folds(_set(labels=[0, label] * 4 + [0, 0]), stratified=True)


def test_ready_made_parts_make_splits():
    parts = Splits(_set(5), test=_set(3))
    assert (repr(parts), parts.validation) == ("Splits(train: 5 rows, test: 3 rows)", None)


def test_stratified_folds_take_labels_in_other_forms():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=60)
    plain = folds(ff.Dataset(np.arange(60.0), y), 3, stratified=True, seed=1)
    for form in (y[:, None], y.astype(float), np.eye(3)[y]):
        for one, other in zip(folds(ff.Dataset(np.arange(60.0), form), 3, stratified=True, seed=1), plain, strict=True):
            np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("stratified", [False, True])
def test_folds_of_groups_are_scikit_learns(stratified):
    rng = np.random.default_rng(0)
    groups, y = rng.integers(20, size=200), rng.integers(2, size=200)
    kind = model_selection.StratifiedGroupKFold if stratified else model_selection.GroupKFold
    found = folds(ff.Dataset(np.arange(200.0), y), 4, stratified=stratified, groups=groups, seed=3)
    expected = list(kind(4, shuffle=True, random_state=np.random.RandomState(3)).split(y, y, groups))
    for (train, held), (theirs, their_held) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(train, theirs)
        np.testing.assert_array_equal(held, their_held)
        assert not set(groups[train]) & set(groups[held])


def test_folds_in_time_train_on_what_is_older():
    times = np.random.default_rng(0).permutation(40)
    found = folds(ff.Dataset(np.arange(40.0), times), 4, times=times)
    order = np.argsort(times)
    for (train, held), (theirs, their_held) in zip(found, model_selection.TimeSeriesSplit(4).split(order), strict=True):
        assert (times[train].tolist(), times[held].tolist()) == (times[order][theirs].tolist(), times[order][their_held].tolist())
        assert times[train].max() < times[held].min()


def test_split_by_groups_and_in_time():
    groups, times = np.arange(300) % 30, np.random.default_rng(1).permutation(300)
    data = ff.Dataset(np.arange(300), groups)
    parts = split(data, validation=0.2, test=0.3, groups=groups, seed=0, one_row=1.0)
    sets = [set(part.y.tolist()) for part in (parts.train, parts.validation, parts.test)]
    assert [len(part) for part in sets] == [15, 6, 9]
    assert sum(map(len, sets)) == len(sets[0] | sets[1] | sets[2])
    parts = split(data, validation=0.2, test=60, times=times, one_row=1.0)
    ages = [times[part.x] for part in (parts.train, parts.validation, parts.test)]
    assert [len(each) for each in ages] == [180, 60, 60]
    assert ages[0].max() < ages[1].min()
    assert ages[1].max() < ages[2].min()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: split(d, test=0.5, groups=np.arange(10)), r"split\(groups=...\) draws examples at random: pass a seed"),
        (lambda d: split(d, test=5, groups=np.arange(10), seed=0), "must be a fraction of the groups"),
        (lambda d: split(d, test=0.5, groups=np.arange(9), seed=0), r"one value for each of 10 examples, shape \(10,\), got shape \(9,\)"),
        (lambda d: split(d, test=0.5, times=np.arange(10), seed=0), "no seed with times"),
        (lambda d: folds(d, 3, groups=np.zeros(10)), "needs at least 3 groups, but there are 1"),
        (lambda d: folds(d, 3, times=np.arange(10), seed=0), "are in the order of time: leave out stratified, groups and seed"),
        (lambda d: folds(d, 10, times=np.arange(10)), "needs at least 11 examples, but the data set has 10"),
    ],
)
def test_groups_and_times_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(_set(10))
