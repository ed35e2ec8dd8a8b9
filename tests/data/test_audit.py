from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flaxfit as ff
from flaxfit.data import leakage


def _sets(**parts):
    return {name: ff.Dataset(x, y) for name, (x, y) in parts.items()}


def _planted():
    """Test rows 0 and 3 are train rows 5 and 7, the second with another label; train row 6 repeats row 2."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(40, 3)), rng.normal(size=(4, 3))
    train[6], test[0], test[3] = train[2], train[5], train[7]
    labels = np.arange(40) % 2
    return ff.data.Splits(ff.Dataset(train, labels, classes=("R", "M")), test=ff.Dataset(test, [1, 0, 0, 0], classes=("R", "M")))


def test_finds_what_was_planted():
    report = leakage(_planted(), one_row=1.0)
    assert report.rows == {"train": 40, "test": 4}
    (found,) = report.across
    assert (found.first, found.second, found.rows, found.contradicting, found.examples) == ("train", "test", 2, 1, ((5, 0), (7, 3)))
    assert found.expected == pytest.approx(4 * 2 / 40)  # as often as the two equal rows in train
    assert found.leaked
    assert [(one.first, one.rows, one.examples) for one in report.within] == [("train", 1, ((2, 6),)), ("test", 0, ())]
    assert report.shares == {"train": {"class R": 0.5, "class M": 0.5}, "test": {"class R": 0.75, "class M": 0.25}}
    assert report.differences == {"class R": 0.25, "class M": 0.25}
    assert report.warnings == (
        "rows of test that are also in train: 2, 1 of them with another y, 0.2 expected from repeated rows (train[5] = test[0], "
        "train[7] = test[3]).",
    )
    assert json.loads(json.dumps(dataclasses.asdict(report)))["across"][0]["examples"] == [[5, 0], [7, 3]]


def test_the_report_is_a_table():
    assert str(leakage(_planted())).splitlines() == [
        "               train   test  difference",
        "rows              40      4",
        "repeated rows      1      0",
        "class R        0.500  0.750       0.250",
        "class M        0.500  0.250       0.250",
        "Warning: rows of test that are also in train: 2, 1 of them with another y, 0.2 expected from repeated rows (train[5] = test[0], "
        "train[7] = test[3]).",
        "Warning: test has only 4 examples, so that one of them changes its accuracy by 0.25: use flaxfit.cross_validate instead.",
    ]
    lines = str(leakage({"test": ff.Dataset(np.arange(4), [0.5] * 4)}, one_row=1.0)).splitlines()
    assert lines == ["               test", "rows              4", "repeated rows     0", "No row is in two splits."]


def test_of_many_classes_it_prints_those_that_differ_most():
    y = np.arange(300) % 30
    lines = str(leakage(_sets(train=(np.arange(300), y), test=(np.arange(300, 600), np.where(y == 7, 8, y))))).splitlines()
    assert [line.split("  ")[0] for line in lines[3:5]] == ["class 7", "class 8"]
    assert lines[13] == "(20 more classes differ less.)"
    assert lines[15] == "Warning: test has no row of class 7, another split has."


def test_warns_of_a_class_that_another_split_lacks():
    parts = _sets(train=(np.arange(40), np.arange(40) % 20), test=(np.arange(100, 102), [0, 25]))
    absent = ", ".join(f"class {label}" for label in range(1, 11))
    assert leakage(parts, one_row=1.0).warnings == (
        "train has no row of class 25, another split has.",
        f"test has no row of {absent} and 9 more, another split has.",
    )


def test_nothing_wrong_no_warning():
    data = ff.Dataset(np.arange(500), np.arange(500) % 2)
    assert leakage(ff.data.split(data, validation=100, test=0.2, seed=0)).warnings == ()
    fold = dict(zip(("train", "validation"), (data[rows] for rows in ff.data.folds(data, 10)[3]), strict=True))
    assert leakage(fold, one_row=1.0).warnings == ()
    assert leakage(fold).warnings == (
        "validation has only 50 examples, so that one of them changes its accuracy by 0.020: use flaxfit.cross_validate instead.",
    )


_rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(_rows, _rows, _rows)
def test_counts_are_those_of_comparing_each_row_with_each(train, validation, test):
    rows = {"train": train, "validation": validation, "test": test}
    report = leakage(_sets(**{name: np.array(of).T for name, of in rows.items()}), one_row=1.0)

    def compared(first, second):
        found, contradicting = {}, set()
        for other, (x, y) in enumerate(rows[second]):
            equal = [one for one in range(len(rows[first])) if rows[first][one][0] == x]
            if equal and (first != second or equal[0] < other):
                found[other] = equal[0]
                contradicting |= {other for one in equal if rows[first][one][1] != y}
        examples = tuple((one, other) for other, one in found.items())[:5]
        return first, second, len(found), len(contradicting), examples

    def counted(found):
        return tuple((one.first, one.second, one.rows, one.contradicting, one.examples) for one in found)

    across = [compared(*pair) for pair in (("train", "validation"), ("train", "test"), ("validation", "test"))]
    assert counted(report.across) == tuple(found for found in across if found[2])
    assert counted(report.within) == tuple(compared(name, name) for name in rows)


def test_rows_are_equal_if_all_their_bits_are():
    for x, others, rows in (
        ([[0.0, 1.0]], [[-0.0, 1.0]], 1),
        ([[np.nan, 1.0]], [[np.nan, 1.0]], 1),
        ([[1.0, 2.0]], [[np.nextafter(np.float32(1), np.float32(2)), 2.0]], 0),
        ([[1.0, 2.0]], [[2.0, 1.0]], 0),
        ((np.array([1]), np.array([[2, 3]])), (np.array([1]), np.array([[2, 4]])), 0),
        ({"a": np.array([1]), "b": np.array([[2.0]])}, {"a": np.array([1]), "b": np.array([[2.0]])}, 1),
        (jnp.ones((1, 2, 2), jnp.bfloat16), jnp.ones((1, 2, 2), jnp.bfloat16), 1),
        (np.ones((1, 4))[:, ::2], np.ones((1, 2)), 1),
        ([True], [True], 1),
    ):
        across = leakage(_sets(a=(x, [0.5]), b=(others, [0.5])), one_row=1.0).across
        assert sum(found.rows for found in across) == rows


def test_large_rows_are_compared_over_all_their_length_and_beyond_one_chunk():
    x = np.zeros((5, 2**21), np.uint8)
    x[:, -1] = [1, 2, 3, 4, 1]
    (found,) = leakage({"train": ff.Dataset(x, np.arange(5))}).within
    assert (found.rows, found.contradicting, found.examples) == (1, 1, ((0, 4),))


def test_targets_may_be_of_any_kind():
    x = np.arange(3)
    for y, other in (([0.5, 1.0, 1.5], [0.5, 1.0, 2.5]), (np.eye(3), np.eye(3)[[0, 1, 1]]), ({"a": x}, {"a": np.array([0, 1, 3])})):
        report = leakage(_sets(train=(x, y), test=(x, other)), one_row=1.0)
        assert [(found.rows, found.contradicting) for found in report.across] == [(3, 1)]
        assert (report.shares, report.differences) == ({}, {})


def test_says_what_is_wrong():
    data = ff.Dataset(np.arange(4.0), [0, 1, 0, 1])
    for wrong in (data, [data], {}, {"train": np.arange(3)}, {"train": data, "test": None}):
        with pytest.raises(TypeError, match=r"leakage takes what flaxfit\.data\.split returned, or a dict of name -> flaxfit.Dataset, got"):
            leakage(wrong)
    for other in (ff.Dataset(np.arange(4), [0, 1, 0, 1]), ff.Dataset(np.zeros((4, 2)), [0, 1, 0, 1]), data[:0]):
        with pytest.raises(ValueError, match=r"leakage compares rows of the same shapes and types, got .*'test': .*rows {'train': 4"):
            leakage({"train": data, "test": other})
    with pytest.raises(ValueError, match="one_row"):
        leakage({"train": data}, one_row=0)


def _table(rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5))
    return x, (x.sum(1) + rng.normal(size=rows) > 0).astype(int)


def test_rows_of_few_values_repeat_by_chance():
    """Five features of three values: all rows of test occur in train, as those of train occur in it."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 3, (rows, 5)).astype(float) for rows in (2000, 500))
    y = rng.integers(0, 2, 2500)
    report = leakage(_sets(train=(train, y[:2000]), test=(test, y[2000:])))
    assert report.across[0].rows > 490
    assert report.warnings == ()
    assert "No more often than by chance: rows of test that are also in train: " in str(report)


@pytest.mark.parametrize("change", ["rounded", "a little", "scaled", "standardized apart"])
def test_near_copies_are_found(change):
    x, y = _table(500)
    train, test = x[:400], x[400:].copy()
    test[:30] = train[50:80]
    if change == "rounded":
        test = test.round(2)
    elif change == "a little":
        test[:30] += 1e-6 * np.random.default_rng(1).normal(size=(30, 5))
    elif change == "scaled":
        test = 2.5 * test + [1, 2, 3, 4, 5]
    else:
        test[:] = train[np.random.default_rng(2).permutation(400)[:100]]  # all rows are copies
        test = (test - test.mean(0)) / test.std(0)
    report = leakage(_sets(train=(train, y[:400]), test=(test, y[400:])), one_row=1.0)
    (found,) = report.near
    assert 30 <= found.rows <= (100 if change == "standardized apart" else 32)
    if change != "standardized apart":
        assert found.examples == ((50, 0), (51, 1), (52, 2), (53, 3), (54, 4))
    assert any("rows of test that are nearly in train" in message for message in report.warnings)
    assert report.across == ()


@pytest.mark.parametrize("size", [8, 28])
def test_images_that_are_moved_by_a_pixel_are_found(size):
    """Smooth random images; those of test are others, but for ten that are training images one pixel to the right."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=(240, size, size + 1))
    images = gaussian_filter(noise, (0, size / 8, size / 8)).astype(np.float32)
    train, test = images[:200, :, 1:], images[200:, :, 1:].copy()
    assert leakage(_sets(train=(train, np.zeros(200)), test=(test, np.zeros(40))), one_row=1.0).warnings == ()
    test[:10] = images[:10, :, :-1]
    (found,) = leakage(_sets(train=(train, np.zeros(200)), test=(test, np.zeros(40))), one_row=1.0).near
    assert (found.rows, found.examples[0]) == (10, (0, 0))


def test_no_near_copies_where_there_are_none():
    for seed in range(10):
        x, y = _table(500, seed)
        assert leakage(_sets(train=(x[:400], y[:400]), test=(x[400:], y[400:])), one_row=1.0).warnings == ()


def test_a_feature_that_gives_the_label_away():
    rng, (x, y) = np.random.default_rng(1), _table(400)
    for feature, message in (
        (3.0 * y, "the feature x[:, 2] is the label, or a function of it."),
        (y + 0.3 * rng.normal(size=400), "the feature x[:, 2] alone reaches an accuracy of 0.9"),
    ):
        given_away = x.copy()
        given_away[:, 2] = feature
        (found,) = leakage({"train": ff.Dataset(given_away, y)}).warnings
        assert found.startswith(message)
    given_away[:, 2] = 2 * x[:, 0] ** 3 + 1
    data = ff.Dataset(given_away, x[:, 0], features=("a", "b", "c", "d", "e"))
    assert any("is the label" in message for message in leakage({"train": data}).warnings)


def test_shifted_classes_and_features():
    x, y = _table(700)
    order = np.argsort(-x[:, 1] + np.random.default_rng(0).normal(size=700))
    x, y = x[order], y[order]
    messages = leakage(_sets(train=(x[:500], y[:500]), test=(x[500:], y[500:])), one_row=1.0).warnings
    assert any("features differ between train and test: x[:, 1] (mean 0." in message for message in messages)
    y = (np.arange(700) % 7 > np.where(np.arange(700) < 500, 1, 4)).astype(int)
    messages = leakage(_sets(train=(x[:500, :1], y[:500]), test=(x[500:, :1] * 0 + x[:200, :1], y[500:])), one_row=1.0).warnings
    assert any("class shares differ: class" in message for message in messages)


def test_groups_times_and_sizes():
    x, y = _table(300)
    parts = _sets(train=(x[:200], y[:200]), test=(x[200:], y[200:]))
    groups = {"train": np.arange(200) // 4, "test": 48 + np.arange(100) // 4}
    assert leakage(parts, groups=groups, one_row=1.0).warnings == ("groups of test that are also in train: 2 of 25 (48, 49).",)
    days = np.datetime64("2020-01-01") + np.arange(300)
    times = {"train": days[50:250], "test": np.concatenate([days[:50], days[250:]])}
    assert leakage(parts, times=times, one_row=1.0).warnings == ("rows of test from before the last row of train: 50 of 100.",)
    assert leakage(parts, times={"train": days[:200], "test": days[200:]}, one_row=1.0).warnings == ()
    swapped = {"train": parts["test"], "test": parts["train"]}
    assert leakage(swapped, one_row=1.0).warnings == ("100 rows in train, 200 in test: are they swapped?",)
    with pytest.raises(ValueError, match=r"leakage\(groups=\.\.\.\) needs one value for each row of each split"):
        leakage(parts, groups={"train": groups["train"]})
