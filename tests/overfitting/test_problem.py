"""How a study splits its examples, and what it learns from each part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flaxfit as ff
from flaxfit.overfitting.fixes import NEUTRAL, Asked, fixes_for
from flaxfit.overfitting.measures import measure_for
from flaxfit.overfitting.plan import Cost, duration, fitting, seconds_of
from flaxfit.overfitting.problem import problem_of
from flaxfit.overfitting.simple import comparable

NAMES = {"width", "l1", "l2", "weight_decay", "dropout", "batch_norm"}


@given(st.integers(60, 400), st.integers(2, 8), st.booleans())
@settings(max_examples=25, deadline=None)
def test_parts_are_disjoint_and_folds_have_one_size(rows, folds, labels):
    y = np.arange(rows) % 2 if labels else np.arange(rows) * 1.0
    problem, _ = problem_of(ff.Dataset(np.arange(rows * 2.0).reshape(rows, 2), y), None, None, 0.2, folds, 0)
    assert sorted([*problem.pool, *problem.test]) == list(range(rows))
    assert len(problem.test) >= 0.2 * rows
    held = [held for _, held in problem.split(0)]
    assert sorted(np.concatenate(held)) == sorted(problem.pool)
    assert len({len(part) for part in held}) == 1
    for train, part in problem.split(1):
        assert not set(train) & set(part)
        assert not set(train) & set(problem.test)


def test_groups_stay_together_and_times_stay_in_order():
    data, groups, times = ff.Dataset(np.zeros((200, 2)), np.arange(200) % 2), np.arange(200) // 4, np.arange(200)[::-1]
    problem, _ = problem_of(data, groups, None, 0.2, 5, 0)
    for first, second in [(problem.pool, problem.test), *problem.split(0)]:
        assert not set(groups[first]) & set(groups[second])
    problem, _ = problem_of(data, None, times, 0.2, 5, 0)
    ((train, held),) = problem.split(0)
    assert times[train].max() < times[held].min() <= times[held].max() < times[problem.test].min()
    part = problem.part(train, held, True)
    assert (len(part.train), len(part.validation), len(part.held_out)) == (96, 24, 40)


def test_each_fold_learns_its_own_numbers_with_the_features_of_all():
    random = np.random.default_rng(0)
    columns = {"a": random.normal(size=100), "city": random.choice(["Rome", "Oslo"], 100), "y": np.arange(100) % 2}
    problem, _ = problem_of(ff.data.Table(columns, "y"), None, None, 0.2, 4, 0)
    train, held = problem.split(0)[0]
    part = problem.part(train, held, False)
    assert part.train.features == problem.pooled().features == ("a", "city=Oslo", "city=Rome")
    np.testing.assert_allclose(np.asarray(part.train.x)[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(part.train.x)[:, 0].std(), 1, atol=1e-6)
    expected = (columns["a"][held] - columns["a"][train].mean()) / columns["a"][train].std()
    np.testing.assert_allclose(np.asarray(part.held_out.x)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_permuted_targets_are_those_of_the_pool():
    data = ff.Dataset(np.zeros((100, 2)), np.arange(100) * 1.0)
    problem, _ = problem_of(data, None, None, 0.2, 4, 0)
    train, held = problem.split(0)[0]
    permuted = problem.part(train, held, False, permuted=1)
    assert sorted([*np.asarray(permuted.train.y), *np.asarray(permuted.held_out.y)]) == sorted(problem.pool)
    assert not np.array_equal(permuted.train.y, problem.part(train, held, False).train.y)


def test_the_default_network_for_numbers_has_simple_models_beside_it():
    data = ff.Dataset(np.random.default_rng(0).normal(size=(60, 2)), 100 + 50 * np.arange(60.0))
    task = ff.Network((4,)).task_maker(data)(NEUTRAL)
    assert comparable(task, data)
    losses = np.asarray(task.loss(np.full((60, 1), data.y.mean()), data.y))
    assert losses.mean() == pytest.approx(1, rel=1e-5)  # the variance of the targets is the unit
    assert measure_for(task, None).name == "rmse"


def test_a_class_with_too_few_examples_is_named():
    seven = ff.Dataset(np.zeros((100, 2)), np.r_[np.zeros(92, int), np.ones(8, int)])
    assert problem_of(seven, None, None, 0.2, None, 0)[0].folds == 5  # not 10
    with pytest.raises(ValueError, match=r"the data has only \d groups to train and validate on, but at least 5 are needed"):
        problem_of(ff.Dataset(np.zeros((100, 2)), np.arange(100) % 2), np.arange(100) // 25, None, 0.25, None, 0)
    with pytest.raises(ValueError, match=r"the target has 2 classes, and .*1.* has only \d examples? to train"):
        problem_of(ff.Dataset(np.zeros((100, 2)), np.r_[np.zeros(96, int), np.ones(4, int)]), None, None, 0.2, 10, 0)


def test_a_target_of_one_value_is_refused():
    with pytest.raises(ValueError, match="all 60 examples have the same target, 'yes': there is nothing to predict"):
        problem_of(ff.data.Table({"x": np.arange(60) % 7}, ["yes"] * 60), None, None, 0.2, None, 0)
    with pytest.raises(ValueError, match=r"all 60 examples have the same target, 1\.5"):
        problem_of(ff.Dataset(np.zeros((60, 2)), np.full(60, 1.5)), None, None, 0.2, None, 0)


def test_more_time_buys_strengths_then_repeats():
    plans = [fitting(NAMES, 50, 32, left, Cost(2.0, 0.2, 1), None) for left in (1, 60, 90, 150, 3000)]
    assert (plans[0].folds, plans[0].strengths, plans[0].repeats) == (5, 1, 1)
    assert plans[-1].strengths == 3
    assert plans[-1].repeats == 10
    amounts = [(plan.folds, plan.strengths, plan.repeats) for plan in plans]
    assert amounts == sorted(amounts)
    assert all(plan.seconds <= left for plan, left in zip(plans[1:], (60, 90, 150, 3000), strict=True) if plan.strengths > 1)
    assert fitting(NAMES, 50, 32, 100, Cost(2.0, 0.2, 1), 1).folds == 1


@given(st.floats(0.6, 1e6))
def test_durations_are_read_as_they_are_written(seconds):
    text = duration(seconds).replace(" min", "m").replace(" ", "")
    assert seconds_of(text) == pytest.approx(round(seconds), abs=60 if "h" in text else 0.5)


def test_fixes_follow_the_names_that_a_function_asks_for():
    asked = Asked({})
    assert asked["l2"] == 0.0
    assert asked.get("dropout", 0.5) == 0.0
    assert asked.get("depth", 3) == 3
    assert asked.names == {"l2", "dropout"}
    fixes, missing = fixes_for(asked.names, 2)
    assert [fix.name for fix in fixes] == [
        "baseline", "early stopping", "L2 penalty 0.001", "L2 penalty 0.01", "dropout 0.35", "dropout 0.5",
        "L2 with dropout 0.001, 0.35", "L2 with dropout 0.01, 0.5",
    ]  # fmt: skip
    assert "hp['batch_norm']" in missing["batch norm"]
