from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import flaxfit as ff


def make_task(hp):
    return ff.Task(
        ff.nn.MLP((8,), 1),
        ff.losses.binary_crossentropy,
        optax.adam(hp["rate"]),
        metrics={"accuracy": ff.metrics.binary_accuracy},
    )


@pytest.fixture(scope="module")
def splits(table):
    data, _ = table
    return [ff.data.split(data, validation=50, test=100, seed=seed, one_row=1.0) for seed in range(2)]


@pytest.fixture(scope="module")
def study(splits):
    return ff.fit_many(make_task, {"rate": [1e-2, 3e-2]}, splits=splits, seeds=2, epochs=5)


def test_each_member_is_the_run_on_its_own_split(study, splits):
    assert [(m.setting["rate"], m.fold, m.seed) for m in study.members] == [
        (rate, fold, seed) for rate in (1e-2, 3e-2) for fold in range(2) for seed in range(2)
    ]
    member, result = study.members[6], study.results[6]
    alone = ff.fit(member.task, splits[1].train, validation=splits[1].validation, epochs=5, seed=0)
    assert alone.history == result.history
    assert all(map(np.array_equal, jax.tree.leaves(alone.last), jax.tree.leaves(result.last)))


def test_each_member_is_scored_on_its_own_rows(study, splits):
    accuracies = study.evaluate([part.test for part in splits], "last")["accuracy"]
    for member, result, accuracy in zip(study.members, study.results, accuracies, strict=True):
        outputs = ff.predict(member.task, result.last, splits[member.fold].test.x)
        assert accuracy == pytest.approx(((outputs[:, 0] > 0) == splits[member.fold].test.y).mean())
    assert study.compare({"rate": 1e-2}, {"rate": 3e-2}, "val_loss").difference.count == 2  # splits, averaged over common seeds


def test_lockstep_gives_what_threads_give(study, splits):
    other = ff.fit_many(make_task, {"rate": [1e-2, 3e-2]}, splits=splits, seeds=2, epochs=5, strategy="vmap")
    np.testing.assert_allclose(other.scores("val_loss", "last"), study.scores("val_loss", "last"), rtol=1e-5)


@pytest.mark.parametrize("wrong", ["both", "none", "rows", "empty"])
def test_rows_come_one_way(table, splits, wrong):
    train, validation = table
    given = {
        "both": {"train": train, "splits": splits},
        "none": {},
        "rows": {"splits": [train]},
        "empty": {"splits": []},
    }[wrong]
    with pytest.raises(TypeError, match="splits="):
        ff.fit_many(make_task, {"rate": [1e-2]}, **given)
    with pytest.raises(TypeError, match="splits="):
        ff.fit_many(make_task, {"rate": [1e-2]}, splits=splits, validation=validation)


def test_rows_for_other_folds_are_refused(study, splits):
    with pytest.raises(ValueError, match="got 1 for the folds 0, 1"):
        study.evaluate([splits[0].test])
