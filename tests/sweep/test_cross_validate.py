from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from sklearn.model_selection import RepeatedStratifiedKFold

import flaxfit as ff
from flaxfit.programs import program

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def make_task(hp):
    return ff.Task(
        ff.nn.MLP((8,), 1),
        ff.losses.binary_crossentropy,
        optax.adam(hp.get("rate", 1e-2)),
        metrics={"accuracy": ff.metrics.binary_accuracy},
        preprocess=hp.get("scaling"),
    )


def scaled(train):
    return {"scaling": ff.data.standardize(train.x)}


@pytest.fixture(scope="module")
def data(table):
    train, _ = table
    return ff.Dataset(np.asarray(train.x)[:103] * 3 + 1, np.asarray(train.y)[:103])


def test_folds_are_scikit_learns_and_each_is_the_run_that_fit_makes(data):
    scores = ff.cross_validate(make_task, data, folds=4, stratified=True, repeats=2, fitted=scaled, epochs=5, batch_size=20, seeds=2)
    expected = list(RepeatedStratifiedKFold(n_splits=4, n_repeats=2, random_state=np.random.RandomState(0)).split(data.y, data.y))
    assert len(scores.folds) == 8
    for (a, b), (c, d) in zip(scores.folds, expected, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    assert [(m.fold, m.seed) for m in scores.study.members][:3] == [(0, 0), (0, 1), (1, 0)]
    for index in (0, 5, 15):
        member = scores.study.members[index]
        train, test = scores.folds[member.fold]
        task = make_task(scaled(data[train]))
        alone = ff.fit(task, data[train], validation=data[test], epochs=5, batch_size=20, seed=member.seed)
        np.testing.assert_allclose(alone.history["val_loss"], scores.study.results[index].history["val_loss"], rtol=1e-4)
        held_out = ff.evaluate(task, alone.last, data[test])
        assert scores.scores["accuracy"][index] == pytest.approx(held_out["accuracy"])


def test_folds_of_unequal_sizes_are_two_programs(data, monkeypatch):
    programs = []
    real = program.advance
    monkeypatch.setattr(program, "advance", lambda *args: (programs.append(len(args[3])), real(*args))[1])
    scores = ff.cross_validate(lambda hp: make_task(hp), data, folds=10, epochs=2)
    assert sorted({len(train) for train, _ in scores.folds}) == [92, 93]
    assert sorted(programs) == [92, 93]


def test_out_of_fold_predictions_and_table(data):
    scores = ff.cross_validate(make_task, data, {"rate": [1e-4, 3e-2]}, folds=5, repeats=2, fitted=scaled, epochs=10)
    outputs = scores.out_of_fold()
    assert outputs.shape == (2, 2, 103, 1)
    accuracy = ((outputs[..., 0] > 0) == data.y).mean((1, 2))
    weights = np.array([len(test) for _, test in scores.folds]) / 206
    np.testing.assert_allclose(accuracy, (scores.per_fold("accuracy") * weights).sum(1), rtol=1e-6)
    table = scores.table("accuracy")
    assert [row.interval.method for row in table.rows] == ["corrected"] * 2
    assert table.rows[1].interval.mean > table.rows[0].interval.mean
    assert "accuracy, held out" in str(scores)


def test_early_stopping_does_not_look_at_the_rows_held_out(data):
    stopping = ff.EarlyStopping("val_loss", patience=2)
    options = {"folds": 3, "epochs": 40, "early_stopping": stopping}
    with pytest.raises(ValueError, match="stopping_rows"):
        ff.cross_validate(make_task, data, **options)
    scores = ff.cross_validate(make_task, data, stopping_rows=0.25, **options)
    assert scores.at == "best"
    rows = [r.data for r in scores.study.results]
    assert all(r["validation"]["count"] + r["train"]["count"] == len(train) for r, (train, _) in zip(rows, scores.folds, strict=True))


def test_nested_choice_is_made_by_inner_folds_alone(table):
    data, _ = table
    scores = ff.cross_validate(make_task, data, {"rate": [1e-6, 1e-2]}, folds=3, inner=2, fitted=scaled, epochs=10)
    assert [setting["rate"] for setting in scores.chosen] == [1e-2] * 3  # 1e-6 learns nothing
    assert len(scores.study) == 3
    train, test = scores.folds[1]
    task = make_task({"rate": 1e-2, **scaled(data[train])})
    alone = ff.fit(task, data[train], epochs=10)
    assert scores.scores["loss"][1] == pytest.approx(ff.evaluate(task, alone.last, data[test])["loss"], rel=1e-4)
    assert scores.per_fold("loss").shape == (1, 3)


def test_repeated_hold_out(data):
    scores = ff.cross_validate(make_task, data, {"rate": [1e-4, 3e-2]}, test=0.3, repeats=4, shuffle_seed=5, seeds=2, epochs=5)
    assert scores.per_fold("accuracy").shape == (2, 4)
    parts = [ff.data.split(data, test=0.3, seed=5 + index, one_row=1.0) for index in range(4)]
    apart = ff.fit_many(make_task, {"rate": [1e-4, 3e-2]}, splits=parts, seeds=2, epochs=5)
    np.testing.assert_allclose(scores.scores["loss"], apart.evaluate([part.test for part in parts], "last")["loss"], rtol=1e-5)
    row = scores.table("loss").rows[1]
    corrected = ff.statistics.interval(scores.per_fold("loss")[1], method="corrected", test_ratio=31 / 72)
    assert (row.interval.low, row.interval.high) == (corrected.low, corrected.high)
    with pytest.raises(ValueError, match="rows at random"):
        scores.out_of_fold()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 60, "stratified": True}, "use fewer folds"),
        ({"folds": 5, "test": 0.3}, "leave out folds"),
        ({"test": 0.3, "shuffle_seed": None}, "give a shuffle_seed"),
        ({"inner": 3}, "two settings or more"),
        ({"epoch": 3}, "no argument 'epoch' of cross_validate; did you mean 'epochs'"),
        ({"stopping_rows": 0.2}, "together"),
        ({"grid": {"rate": [1e-2, 1e-3]}, "inner": 2, "select": "acuracy"}, "scored are"),
        ({"grid": {"rate": [1e-2, 1e-3]}, "inner": 2, "select": "accuracy", "mode": "larger"}, 'must be "min" or "max"'),
    ],
)
def test_what_is_refused(data, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ff.cross_validate(make_task, data, **options)


def test_both_routes_to_the_same_scores_give_the_same_numbers(data):
    """Folds x seeds are not as many independent scores: seeds are averaged, and what folds share is corrected for."""
    a, b = {"rate": 1e-4}, {"rate": 3e-2}
    runs = ff.cross_validate(make_task, data, {"rate": [1e-4, 3e-2]}, folds=4, repeats=2, seeds=3, fitted=scaled, epochs=4)
    scores = runs.per_fold("accuracy")
    ratio = sum(len(test) for _, test in runs.folds) / sum(len(train) for train, _ in runs.folds)
    expected = ff.statistics.compare(*scores, larger_is_better=True, method="corrected", test_ratio=ratio)
    naive = ff.statistics.compare(*runs.scores["accuracy"].reshape(2, -1), larger_is_better=True)
    assert naive.p_value < expected.p_value
    ways = (
        runs.compare(a, b, "accuracy"),
        runs.study.compare(a, b, runs.scores["accuracy"], mode="max"),
        runs.study.compare(a, b, "val_accuracy"),  # at the last epoch, which the held-out rows have not chosen
        runs.study.compare(a, b, "accuracy", data=[data[test] for _, test in runs.folds]),
    )
    for found in ways:
        assert (found.p_value, found.difference.low) == pytest.approx((expected.p_value, expected.difference.low), rel=1e-4)
        assert found.difference.count == 8
        assert found.covers == "which rows were trained on and held out, corrected for shared rows; scores are means of 3 seeds"
    for told in (runs.table("accuracy"), runs.study.table("val_accuracy"), runs.study.table(runs.scores["accuracy"])):
        single = ff.statistics.interval(scores[0], method="corrected", test_ratio=ratio, bounds=(0, 1))
        assert (told.rows[0].interval.low, told.rows[0].interval.mean) == pytest.approx((single.low, single.mean), rel=1e-4)
    assert runs.compare(a, b).p_value == runs.compare(a, b, "binary_crossentropy").p_value
    assert [c.p_value for c in runs.compare_all(a, "accuracy").rows] == [ways[0].p_value]
    assert max(map(len, str(runs).splitlines())) <= 80
    best = {"rate": 3e-2} if scores[1].mean() > scores[0].mean() else {"rate": 1e-4}
    assert runs.best("accuracy") == best
    frame = runs.to_pandas()
    assert frame.groupby("rate")["accuracy"].mean()[best["rate"]] == pytest.approx(max(scores.mean(1)))
    assert runs.table("accuracy").to_pandas()["low"].tolist() == [row.interval.low for row in runs.table("accuracy").rows]
    assert runs.compare_all(a, "accuracy").to_pandas()["verdict"].tolist() == [ways[0].verdict]
    assert len(runs.study.to_pandas()) == len(runs.study)
    with pytest.raises(ValueError, match="no metric 'acuracy' among the scores; did you mean 'accuracy'"):
        runs.table("acuracy")


def test_of_noise_nothing_is_learned_beyond_what_held_out_rows_choose():
    """Labels are coin tosses: the epoch that the held-out rows like best is too good, the default is not."""
    rng = np.random.default_rng(0)
    noise = ff.Dataset(rng.normal(size=(60, 6)), rng.integers(0, 2, 60))
    runs = ff.cross_validate(make_task, noise, folds=3, seeds=2, epochs=40)
    honest, chosen = runs.study.table("val_accuracy"), runs.study.table("val_accuracy", "best")
    assert honest.rows[0].interval.mean == pytest.approx(runs.table("accuracy").rows[0].interval.mean)
    assert chosen.rows[0].interval.mean > honest.rows[0].interval.mean + 0.05
    assert "The best epoch of each run was chosen on the rows that it is scored on." in chosen.notes
    assert runs.table("accuracy").rows[0].collapsed == honest.rows[0].collapsed  # on noise, some run learns nothing
    assert honest.rows[0].collapsed


def test_a_setting_that_diverged_is_not_chosen(data):
    """A rate of 1e30 gives NaN, which no comparison of numbers beats."""
    how = {"folds": 2, "inner": 2, "epochs": 2, "terminate_on_nan": False}
    runs = ff.cross_validate(make_task, data, {"rate": [1e30, 1e-2]}, **how)
    assert [setting["rate"] for setting in runs.chosen] == [1e-2, 1e-2]
    with pytest.raises(ValueError, match="no setting has a finite"):
        ff.cross_validate(make_task, data, {"rate": [1e30, 1e31]}, **how)


def test_a_bad_choice_is_refused_before_anything_trains(data, monkeypatch):
    monkeypatch.setattr("flaxfit.sweep.cross_validate.train_all", lambda *_: pytest.fail("trained"))
    for options in ({"select": "acuracy"}, {"select": "accuracy", "mode": "larger"}):
        with pytest.raises(ValueError, match=r'scored are|must be "min" or'):
            ff.cross_validate(make_task, data, {"rate": [1e-2, 1e-3]}, inner=2, **options)


def test_a_cross_validation_resumes(data, tmp_path):
    first = ff.cross_validate(make_task, data, folds=3, epochs=4, run_dir=tmp_path)
    again = ff.cross_validate(make_task, data, folds=3, epochs=4, run_dir=tmp_path)
    assert sum(r.timing.chunks for r in again.study.results) == 0
    for name in first.scores:
        np.testing.assert_array_equal(first.scores[name], again.scores[name])


def test_narrowing_goes_on_between_the_neighbors_of_the_best(table, tmp_path):
    train, validation = table

    def rated(hp):
        return make_task({"rate": hp["rate"]})

    options = {"validation": validation, "rounds": 2, "points": 5, "seeds": 2, "epochs": 6, "run_dir": tmp_path}
    found = ff.narrow(rated, "rate", (1e-5, 4e-2), train, **options)
    first, second = (study.table().rows for study in found.rounds)
    values = [row.setting["rate"] for row in first]
    best = int(np.argmin([row.scores.mean() for row in first]))
    assert values == pytest.approx(np.linspace(1e-5, 4e-2, 5), rel=1e-4)
    expected = values[max(0, best - 1)], values[min(4, best + 1)]
    assert (second[0].setting["rate"], second[-1].setting["rate"]) == pytest.approx(expected)
    assert found.best == second[int(np.argmin([row.scores.mean() for row in second]))].setting["rate"]
    assert len(found.scores()) == 10
    again = ff.narrow(rated, "rate", (1e-5, 4e-2), train, **options)
    assert again.best == found.best
    assert sum(r.timing.chunks for study in again.rounds for r in study.results) == 0

    def gap(study):
        return np.abs(study.scores("val_loss", "last") - study.scores("loss", "last"))

    close = ff.narrow(rated, "rate", (1e-5, 4e-2), train, **options, metric=gap, mode="min")
    assert sum(r.timing.chunks for r in close.rounds[0].results) == 0  # the values of the other search
    means = [gap(close.rounds[1].select(rate=row.setting["rate"])).mean() for row in close.rounds[1].table().rows]
    assert close.best == close.rounds[1].table().rows[int(np.argmin(means))].setting["rate"]
    assert [scores.mean() for number, _, scores in close.scores(gap) if number == 2] == pytest.approx(means)
    with pytest.raises(ValueError, match="lowest, highest"):
        ff.narrow(rated, "rate", (1.0, 0.5), train)


@pytest.mark.parametrize(
    "options",
    [
        {"folds": 3},
        {"test": 0.3, "repeats": 2},
        {"folds": 3, "stopping_rows": 0.2},
        pytest.param({"folds": 3, "inner": 2}, marks=pytest.mark.slow),
    ],
)
def test_what_a_fold_holds_out_takes_no_part_in_its_training(net, options):
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(40, 9, 61), "city": rng.choice(["Rome", "Oslo", None], 61), "fee": rng.integers(0, 9, 61)})
    frame.loc[::5, "fee"] = np.nan
    labels = np.where(frame.age > 40, "old", "young")
    options = dict(options)
    if "stopping_rows" in options:
        options["early_stopping"] = ff.EarlyStopping("val_loss", patience=1)
    grid = {"rate": [1e-2, 1e-3]} if "inner" in options else {"rate": [1e-2]}

    def trained(rows):
        def make_task(hp):
            return ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(hp["rate"]))

        return ff.cross_validate(make_task, ff.data.Table(rows, labels), grid, epochs=3, batch_size=16, **options)

    clean = trained(frame)
    out = 1
    held_out = clean.folds[out][1]
    poisoned = frame.astype(object)
    poisoned.loc[held_out] = [["soon", "Atlantis", 1e30]] * len(held_out)
    again = trained(poisoned)
    for fold in (out, 0):
        states = [[r.last for m, r in zip(c.study.members, c.study.results, strict=True) if m.fold == fold] for c in (clean, again)]
        same = [
            np.array_equal(a, b)
            for a, b in zip(*(jax.tree.leaves([s.params for s in each]) for each in states), strict=True)
            if a.shape == b.shape
        ]
        assert all(same) == (fold == out)
    assert clean.held_out[out].encoding == again.held_out[out].encoding
    assert clean.held_out[0].encoding != again.held_out[0].encoding
    assert not np.array_equal(clean.held_out[out].x, again.held_out[out].x)
    if "test" not in options:
        assert clean.out_of_fold().shape[-2:] == (61, 1)
        assert np.isfinite(clean.out_of_fold()).all()


def test_folds_of_groups_and_in_time():
    rng = np.random.default_rng(0)
    x, groups, times = rng.normal(size=(60, 2)), np.arange(60) % 12, rng.permutation(60)
    data = ff.Dataset(x, x[:, 0])
    task = ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optax.sgd(0.1))
    grouped = ff.cross_validate(task, data, groups=groups, folds=3, epochs=1)
    for train, held in grouped.folds:
        assert not set(groups[train]) & set(groups[held])
    assert "corrected for shared rows" in grouped.table().covers
    early = ff.EarlyStopping("val_loss", patience=1)
    nested = {"early_stopping": early, "stopping_rows": 0.25}
    for options in ({}, nested):
        ordered = ff.cross_validate(task, data, times=times, folds=3, epochs=2, **options)
        for train, held in ordered.folds:
            assert times[train].max() < times[held].min()
        row = ordered.table().rows[0].interval
        scores = ordered.per_fold("mse")[0]
        assert (row.mean, row.sd) == (pytest.approx(scores.mean()), pytest.approx(scores.std(ddof=1)))
        assert np.isnan([row.low, row.high]).all()
        assert "No interval is given: in the order of time, each fold trains on more rows" in " ".join(str(ordered.table()).split())
        assert "interval" not in str(ordered.table()).split("│")[0]
    with pytest.raises(ValueError, match="no test is known for these scores: in the order of time"):
        ordered.compare({}, {})
    with pytest.raises(ValueError, match=r"draws rows at random, which times=\.\.\. forbids"):
        ff.cross_validate(task, data, times=times, test=0.2)
