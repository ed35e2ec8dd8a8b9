from __future__ import annotations

from dataclasses import replace

import numpy as np
import optax
import pytest
from scipy import stats

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")


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
        with pytest.raises(ValueError, match=r'is not known .*\{"margin": ff\.Metric\(function, mode="max"\)\}'):
            ask()
    assert bare.rank("val_margin", mode="max") == bare.rank("val_margin", mode="min")[::-1] == [b, a]
    assert bare.rank(bare.scores("val_margin"), mode="max") == [b, a]
    with pytest.raises(ValueError, match="it is not known whether these scores"):
        bare.rank(bare.scores("val_margin"))
    for ask in (lambda: bare.rank(mode="maximum"), lambda: bare.compare(a, b, mode="larger")):
        with pytest.raises(ValueError, match='must be "min" or "max", got'):
            ask()
    stopping = ff.EarlyStopping("val_margin", patience=9, mode="max")  # which says it for all
    told = ff.fit_many(make_task, {"rate": [1e-4, 3e-2]}, train, early_stopping=stopping, **how)
    assert (told.mode(), told.rank()) == ("max", [b, a])
    assert ff.diagnose(told.results[0].history, "margin").metric == "margin"


def _squares(hp):
    """Squared error with hp["l2"] as its penalty; where hp["loss"] is absolute, absolute error."""
    loss = ff.metrics.mae if hp.get("loss") == "absolute" else ff.losses.mse
    metrics = {} if loss is ff.metrics.mae else {"mae": ff.metrics.mae}
    return ff.Task(ff.nn.MLP((8,), 1), loss, optax.adam(1e-2), metrics, penalty=ff.penalties.l2(hp.get("l2", 0.0)))


@pytest.fixture(scope="module")
def line():
    x = np.linspace(-1, 1, 160)[:, None]
    y = x[:, 0] ** 2 + 0.1 * np.random.default_rng(0).normal(size=160)
    return ff.data.split(ff.Dataset(x, y), validation=0.25, test=0.25, seed=0, one_row=1.0)


@pytest.fixture(scope="module")
def penalized(line):
    return ff.fit_many(_squares, {"l2": [0.0, 1e-2]}, line.train, validation=line.validation, seeds=4, epochs=8, batch_size=20)


def test_the_data_loss_is_compared_and_not_each_settings_own_penalty(penalized):
    """L2 was called worse, p 4e-24, because its objective contains the penalty; the data losses are equal."""
    plain, l2 = penalized.settings
    name = "val_mse"
    assert penalized.monitor == name
    assert penalized.compare(plain, l2) == penalized.compare(plain, l2, name)
    objective = [penalized.select(**s).scores("val_loss", "last") for s in (plain, l2)]
    data_loss = [penalized.select(**s).scores(name, "last") for s in (plain, l2)]
    assert stats.ttest_rel(*objective).pvalue < 0.01 < stats.ttest_rel(*data_loss).pvalue  # what the penalty makes of it
    for ask in (penalized.table, penalized.rank, lambda metric: penalized.compare(plain, l2, metric)):
        with pytest.raises(ValueError, match=r"val_loss includes the penalty of each setting.*mse, the default"):
            ask("val_loss")
    assert len(penalized.select(l2=1e-2).table("val_loss").rows) == 1  # one setting has one penalty
    for result in penalized.results:
        assert result.best_epoch == 1 + int(np.argmin(result.history[name]))


def test_different_losses_and_class_weights_need_a_metric(line, table):
    study = ff.fit_many(_squares, [{"loss": "squared"}, {"loss": "absolute"}], line.train, validation=line.validation, epochs=1)
    with pytest.raises(ValueError, match=r"different losses \(mse and mae\): name the metric to compare"):
        study.table()
    assert len(study.table(study.evaluate(line.test)["loss"]).rows) == 2
    apart = [ff.fit_many(_squares, [{"loss": loss}], line.train, validation=line.validation, epochs=1) for loss in ("squared", "absolute")]
    with pytest.raises(ValueError, match="different losses"):
        (apart[0] + apart[1]).rank()
    train, validation = table

    def make_task(hp):
        return ff.Task(ff.nn.MLP((4,), 1), ff.losses.binary_crossentropy, optax.adam(hp["rate"]))

    one, other = (
        ff.fit_many(make_task, {"rate": [rate]}, train, validation=validation, epochs=1, class_weight=weight)
        for rate, weight in ((1e-3, None), (1e-2, {1: 5.0}))
    )
    with pytest.raises(ValueError, match=r"different class weights \(None and \{1: 5.0\}\)"):
        (one + other).compare({"rate": 1e-3}, {"rate": 1e-2})
    assert (one + other).compare({"rate": 1e-3}, {"rate": 1e-2}, "val_binary_crossentropy").verdict == "undecided"


def test_on_given_rows_the_variance_is_that_of_seeds_and_of_rows(penalized, line):
    plain, l2 = penalized.settings
    rows = np.stack([(o[:, 0] - line.test.y) ** 2 for o in penalized.predict(line.test.x)])
    found = penalized.compare(plain, l2, data=line.test)
    expected = ff.statistics.compare(rows[:4], rows[4:])
    assert (found.difference.low, found.p_value) == (
        pytest.approx(expected.difference.low, rel=1e-3),
        pytest.approx(expected.p_value, rel=1e-3),
    )
    table = penalized.table(data=line.test)
    assert table.rows[0].interval.low == pytest.approx(ff.statistics.interval(rows[:4], method="crossed").low, rel=1e-3)
    assert table.covers == "seeds and which rows were held out; not which rows were trained on"
    assert penalized.rank("mae", data=line.test)[0] in penalized.settings
    one = replace(penalized, members=penalized.members[:1], results=penalized.results[:1]).table("mae", data=line.test)
    assert one.covers == "which rows were held out; not seeds, nor which rows were trained on"
    assert one.rows[0].interval.high > one.rows[0].interval.low
    with pytest.raises(ValueError, match="needs the name of a metric"):
        penalized.table(np.zeros(8), data=line.test)
    with pytest.raises(ValueError, match="no metric 'accuracy' that gives a number for each row"):
        penalized.table("accuracy", data=line.test)


def test_intervals_of_one_model_cover_the_rows(penalized, line):
    task, best = penalized.members[0].task, penalized.results[0].best
    scores = ff.evaluate(task, best, line.test, interval=True)
    errors = (ff.predict(task, best, line.test.x)[:, 0] - line.test.y) ** 2
    expected = ff.statistics.interval(errors)
    assert (scores["mse"].mean, scores["mse"].low) == (pytest.approx(expected.mean, rel=1e-4), pytest.approx(expected.low, rel=1e-4))
    assert scores["loss"].mean == pytest.approx(ff.evaluate(task, best, line.test)["loss"], rel=1e-5)


def test_all_settings_against_a_baseline_are_one_family(study):
    baseline = {"dropout": 0.0, "rate": 1e-3}
    found = study.compare_all(baseline)
    single = [study.compare(baseline, s) for s in study.settings[1:]]
    assert [c.p_value for c in found.rows] == [c.p_value for c in ff.statistics.family(single)]
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "p-values are corrected by Holm's method; intervals hold at 95% for all 3 together." in " ".join(text.split())
    assert "Intervals cover seeds; not which" in " ".join(text.split())
    scores = study.scores("val_accuracy")
    scores[15] = np.nan
    found = study.compare_all(baseline, scores, mode="max", margin=1e-3)
    assert (len(found.rows), found.broken) == (2, {"dropout=0.5,rate=0.03": 1})
    assert "1 runs not finite" in " ".join(str(found).replace("│", " ").split())
    scores[0] = np.nan
    with pytest.raises(ValueError, match="1 of its scores are not finite"):
        study.compare_all(baseline, scores, mode="max")
    assert study.rank(scores, mode="max")[-1] in (baseline, {"dropout": 0.5, "rate": 0.03})


def test_settings_without_a_common_seed_are_compared_by_welchs_test(study):
    a, b = {"dropout": 0.0, "rate": 1e-3}, {"dropout": 0.0, "rate": 3e-2}
    places = [i for i, m in enumerate(study.members) if (m.setting == a and m.seed < 2) or (m.setting == b and m.seed >= 2)]
    part = replace(study, members=[study.members[i] for i in places], results=[study.results[i] for i in places])
    x, y = by_hand(part, "val_accuracy", "last", **a), by_hand(part, "val_accuracy", "last", **b)
    found = part.compare(a, b, "val_accuracy", "last")
    assert found.p_value == pytest.approx(stats.ttest_ind(y, x, equal_var=False).pvalue, rel=1e-5)
    assert np.isnan(found.correlation)
    assert not np.isnan(study.compare(a, b).correlation)


def test_runs_that_learned_nothing_are_named(table):
    train, validation = table

    def make_task(hp):
        metrics = {"accuracy": ff.metrics.binary_accuracy}
        return ff.Task(ff.nn.MLP((8,), 1), ff.losses.binary_crossentropy, optax.sgd(hp["rate"]), metrics)

    # At 1e-9 the outputs stay what they were at the start.
    study = ff.fit_many(make_task, {"rate": [1e-9, 0.3]}, train, validation=validation, seeds=3, epochs=15)
    dead = study.select(rate=1e-9).members
    for told in (study.table("val_accuracy", "last"), study.table("accuracy", data=validation)):
        assert len(told.rows[0].collapsed) >= 2
        assert set(told.rows[0].collapsed) <= {member.name for member in dead}
        assert (told.rows[1].collapsed, told.rows[1].without) == ((), None)
        text = " ".join(str(told).split())
        assert "No better than a constant prediction: " in text
        assert "rate=1e-09,seed=" in text
    mixed = replace(study, members=[replace(m, setting={"rate": 0.0}) for m in study.members])
    row = mixed.table("accuracy", data=validation).rows[0]
    assert row.without.count == 6 - len(row.collapsed)
    assert row.without.mean > row.interval.mean


def test_a_study_that_grew_after_it_was_looked_at_says_so(line, tmp_path):
    how = {"validation": line.validation, "epochs": 1, "run_dir": tmp_path}
    first = ff.fit_many(_squares, {"l2": [0.0, 1e-2]}, line.train, seeds=2, **how)
    assert "Looked at before" not in str(first.table()) + str(first.compare_all({"l2": 0.0}))
    grown = ff.fit_many(_squares, {"l2": [0.0, 1e-2]}, line.train, seeds=3, **how)
    for told in (grown.table(), grown.compare_all({"l2": 0.0})):
        assert "Looked at before, with 2 runs of a setting: verdicts err more often than" in " ".join(str(told).split())
