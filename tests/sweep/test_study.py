from __future__ import annotations

from dataclasses import replace

import numpy as np
import optax
import pytest
from scipy import stats

import flaxfit as ff


@pytest.fixture(scope="module")
def study(table):
    train, validation = table

    def make_task(hp):
        return ff.Task(
            ff.nn.MLP((8,), 1, dropout=hp["dropout"]),
            ff.losses.binary_crossentropy,
            optax.adam(hp["rate"]),
            metrics={"accuracy": ff.metrics.binary_accuracy},
        )

    grid = {"dropout": [0.0, 0.5], "rate": [1e-3, 3e-2]}
    return ff.fit_many(make_task, grid, train, validation=validation, seeds=4, epochs=15, batch_size=25)


def by_hand(study, name, at, **setting):
    chosen = [r for m, r in zip(study.members, study.results, strict=True) if dict(m.setting) | setting == dict(m.setting)]
    best = np.argmax if name == "val_accuracy" else np.argmin  # of the column itself
    return np.array([r.history[name][-1 if at == "last" else best(r.history[name])] for r in chosen])


@pytest.mark.parametrize("at", ["best", "last"])
def test_table_against_scipy(study, at):
    table = study.table("val_accuracy", at)
    assert [dict(row.setting) for row in table.rows] == [dict(s) for s in study.settings]
    for row in table.rows:
        values = by_hand(study, "val_accuracy", at, **row.setting)
        np.testing.assert_array_equal(row.scores, values)
        low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
        assert row.interval.mean == pytest.approx(values.mean())
        assert (row.interval.low, row.interval.high) == pytest.approx((low, high))
        assert str(row.interval).rsplit(" (", 1)[0] in str(table)
    assert max(map(len, str(table).splitlines())) <= 80
    assert "Intervals cover seeds; not which rows were held out." in str(table)


def test_comparison_pairs_the_seeds(study):
    a, b = {"dropout": 0.0, "rate": 1e-3}, {"dropout": 0.0, "rate": 3e-2}
    x, y = by_hand(study, "val_loss", "best", **a), by_hand(study, "val_loss", "best", **b)
    comparison = study.compare(a, b)
    assert comparison.difference.mean == pytest.approx((y - x).mean())
    assert comparison.p_value == pytest.approx(stats.ttest_rel(y, x).pvalue)
    assert comparison.verdict == "better"  # a loss that falls thirty times as fast
    assert study.compare(b, a).verdict == "worse"
    accuracy = study.compare(a, b, "val_accuracy")
    assert accuracy.verdict == "better"  # larger is better there


def test_rank_and_selection(study):
    means = {s["rate"]: by_hand(study, "val_loss", "last", **s).mean() for s in study.settings if s["dropout"] == 0.0}
    ranked = study.select(dropout=0.0).rank("val_loss", "last")
    assert [s["rate"] for s in ranked] == sorted(means, key=lambda rate: means[rate])
    worst_first = study.rank("val_accuracy")[::-1]
    assert (
        by_hand(study, "val_accuracy", "best", **worst_first[0]).mean() <= by_hand(study, "val_accuracy", "best", **worst_first[-1]).mean()
    )
    assert len(study.select(rate=1e-3)) == 8


def test_scores_of_ones_own(study, table):
    _, validation = table
    scores = study.evaluate(validation)
    at_the_monitors = [r.history["val_accuracy"][r.best_epoch - 1] for r in study.results]
    np.testing.assert_allclose(scores["accuracy"], at_the_monitors, rtol=1e-6)
    one = ff.evaluate(study.members[5].task, study.results[5].best, validation)
    assert scores["loss"][5] == pytest.approx(one["loss"], rel=1e-6)
    np.testing.assert_allclose(
        study.predict(validation.x[:7])[5], ff.predict(study.members[5].task, study.results[5].best, validation.x[:7])
    )
    with pytest.raises(ValueError, match="mode"):
        study.compare({"dropout": 0.0, "rate": 1e-3}, {"dropout": 0.0, "rate": 3e-2}, scores["accuracy"])
    difference = study.compare({"dropout": 0.0, "rate": 1e-3}, {"dropout": 0.0, "rate": 3e-2}, scores["accuracy"], mode="max")
    assert difference.verdict == "better"


def test_scores_that_are_not_finite_are_counted_and_left_out(study):
    scores = study.scores("val_loss")
    scores[[0, 4, 5, 6, 7]] = np.nan
    first, second, *_ = study.table(scores).rows
    assert first.interval.count == 3
    assert first.interval.mean == pytest.approx(scores[1:4].mean())
    assert second.interval.count == 0
    text = " ".join(str(study.table(scores)).replace("│", " ").split())
    assert "4, 1 not" in text
    assert "4, 4 not" in text


def test_studies_are_joined(study):
    first, second = study.select(dropout=0.0), study.select(dropout=0.5)
    both = first + second
    assert [member.name for member in both.members] == [member.name for member in study.members]
    np.testing.assert_array_equal(both.scores("val_loss"), study.scores("val_loss"))
    pair = {"dropout": 0.0, "rate": 3e-2}, {"dropout": 0.5, "rate": 3e-2}
    assert str(both.compare(*pair)) == str(study.compare(*pair))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s + s.select(dropout=0.5), "both have dropout=0.5,rate=0.001,seed=0"),
        (lambda s: s + ff.Study([], [], "val_mse", 0.0), "they monitor val_binary_crossentropy and val_mse"),
        (
            lambda s: s + ff.Study([replace(s.members[0], setting={"n": 1}, name="n=1,seed=0")], s.results[:1], s.monitor, 0.0),
            "their hyperparameters are",
        ),
        (lambda s: s.select(dropuot=0.0), "did you mean 'dropout'"),
        (lambda s: s.select(dropout=0.25), "no member has dropout=0.25"),
        (lambda s: s.scores("val_acuracy"), "did you mean 'val_accuracy'"),
        (lambda s: s.scores("val_loss", "first"), "no place in a run 'first'"),
        (lambda s: s.scores(np.zeros(3)), r"shape \(16,\)"),
        (lambda s: s.compare({"dropout": 0.0}, {"dropout": 0.5}), "picks more than one setting"),
    ],
)
def test_what_cannot_be_asked(study, call, message):
    with pytest.raises((ValueError, KeyError), match=message):
        call(study)


def test_a_metric_without_a_mode_is_ranked_by_the_mode_that_is_given(table):
    train, validation = table

    def margin(logits, y):
        return logits[:, 0] * (2 * y - 1)

    def make_task(hp):
        net, loss = ff.nn.MLP((4,), 1), ff.losses.binary_crossentropy
        return ff.Task(net, loss, optax.adam(hp["rate"]), metrics={"margin": margin})

    how = {"validation": validation, "epochs": 3, "seeds": 2}
    a, b = {"rate": 1e-4}, {"rate": 3e-2}
    bare = ff.fit_many(make_task, {"rate": [1e-4, 3e-2]}, train, **how)
    for ask in (lambda: bare.rank("val_margin"), lambda: bare.compare(a, b, "val_margin")):
        with pytest.raises(ValueError, match=r'does not say .*\{"margin": ff\.Metric\(function, mode="max"\)\}'):
            ask()
    assert bare.rank("val_margin", mode="max") == bare.rank("val_margin", mode="min")[::-1] == [b, a]
    assert bare.rank(bare.scores("val_margin"), mode="max") == [b, a]
    with pytest.raises(ValueError, match="an array of scores does not say"):
        bare.rank(bare.scores("val_margin"))
    for ask in (lambda: bare.rank(mode="maximum"), lambda: bare.compare(a, b, mode="larger")):
        with pytest.raises(ValueError, match='is "min" or "max", got'):
            ask()
    stopping = ff.EarlyStopping("val_margin", patience=9, mode="max")  # which says it for all
    told = ff.fit_many(make_task, {"rate": [1e-4, 3e-2]}, train, early_stopping=stopping, **how)
    assert (told.mode(), told.rank()) == ("max", [b, a])
    assert ff.diagnose(told.results[0].history, "margin").metric == "margin"
