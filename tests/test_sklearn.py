from __future__ import annotations

import pickle
import warnings

import cloudpickle
import numpy as np
import optax
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import flaxfit as ff
from flaxfit.sklearn import FlaxClassifier, FlaxRegressor

pytestmark = pytest.mark.usefixtures("quickly_compiled")

CHECKS = [
    pytest.param(estimator, check, id=f"{type(estimator).__name__}-{getattr(check, 'func', check).__name__}")
    for instance in (FlaxClassifier(), FlaxRegressor())
    for estimator, check in estimator_checks_generator(instance, mark=None)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_check_estimator(estimator, check):
    check(estimator)


def frame(rows=120):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(40, 9, rows), "city": rng.choice(["Rome", "Oslo", None], rows)})
    labels = np.where(table.age + 10 * (table.city == "Rome") > 43, "old", "young")
    table.loc[::9, "age"] = np.nan
    return table, labels


def test_in_a_pipeline_and_a_search():
    x, y = load_wine(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), FlaxClassifier((8,), epochs=60, random_state=0))
    search = GridSearchCV(pipeline, {"flaxclassifier__dropout": [0.0, 0.5]}, cv=3).fit(x, y)
    assert search.best_score_ > 0.9
    assert search.predict_proba(x).shape == (178, 3)


def test_classes_keep_their_names_and_calibrate():
    x, y = load_breast_cancer(return_X_y=True)
    names = np.array(["benign", "malignant"], object)[1 - y]
    made = CalibratedClassifierCV(FlaxClassifier((8,), epochs=10, random_state=0), cv=2).fit(x, names)
    assert made.score(x, names) > 0.9
    assert made.classes_.tolist() == ["benign", "malignant"]


def test_a_fitted_estimator_is_pickled():
    x, y = load_diabetes(return_X_y=True)
    made = FlaxRegressor((8,), epochs=10, optimizer=optax.sgd, penalty=ff.penalties.l2(1e-3), random_state=0)
    fitted = clone(made).fit(x, y).set_params(penalty=None)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict(x), fitted.predict(x))
    assert fitted.n_iter_ == len(fitted.history_["loss"]) == 10
    assert cross_val_score(FlaxRegressor(epochs=40, random_state=0), x, y, cv=3).mean() > 0.3


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.from_pandas])
def test_frames_with_text_and_gaps(kind):
    table, labels = frame()
    made = FlaxClassifier((8,), epochs=60, random_state=0).fit(kind(table), labels)
    assert made.score(kind(table), labels) > 0.8
    assert made.encoding_.features == ("age", "age is missing", "city=Oslo", "city=Rome", "city is missing")
    assert made.feature_names_in_.tolist() == ["age", "city"]
    assert len(pickle.loads(pickle.dumps(made)).predict(kind(pd.DataFrame({"age": [None, 1.0], "city": ["Paris", None]})))) == 2
    with pytest.raises(ValueError, match=r"(?s)Feature names seen at fit time, yet now missing.*age"):
        made.predict(kind(table[["city"]]))
    pipeline = make_pipeline(make_column_transformer((OneHotEncoder(), ["city"])), FlaxClassifier((8,), epochs=60, random_state=0))
    assert pipeline.fit(table, labels).score(table, labels) > 0.5


def test_early_stopping_on_an_inner_split_and_on_rows_that_are_given():
    table, labels = frame()
    stopping = ff.EarlyStopping("val_loss", patience=3)
    made = FlaxClassifier((8,), learning_rate=0.1, batch_size=20, early_stopping=stopping, validation_fraction=0.25, random_state=0)
    made.fit(table, labels)
    assert made.n_iter_ == int(np.argmin(made.history_["val_loss"])) + 1 + 3 < made.epochs
    given = clone(made).fit(table[:80], labels[:80], validation=(table[80:], labels[80:]))
    likelihood = given.predict_proba(table[80:])[np.arange(40), np.searchsorted(given.classes_, labels[80:])]
    assert -np.log(likelihood).mean() == pytest.approx(min(given.history_["val_loss"]), rel=1e-4)
    with pytest.raises(ValueError, match=r"validation=.* has the class 'dead', which y has not"):
        clone(made).fit(table, labels, validation=(table[:2], ["old", "dead"]))


def test_class_weights_and_sample_weights_multiply():
    table, labels = frame()
    x, old = table[["age"]].fillna(40), labels == "old"
    weight = np.where(old, 4.0, 1.0)
    by_weight = FlaxClassifier((), epochs=60, learning_rate=0.1, random_state=0).fit(x, labels, weight).predict_proba(x)
    by_class = FlaxClassifier((), epochs=60, learning_rate=0.1, class_weight={"old": 4.0}, random_state=0).fit(x, labels).predict_proba(x)
    np.testing.assert_array_equal(by_weight, by_class)
    plain = FlaxClassifier((), epochs=60, learning_rate=0.1, random_state=0).fit(x, labels).predict_proba(x)
    assert by_class[:, 0].mean() > plain[:, 0].mean() + 0.05
    balanced = FlaxClassifier((), epochs=60, learning_rate=0.1, class_weight="balanced", random_state=0).fit(x, labels).predict_proba(x)
    sums = {name: len(labels) / (2 * (labels == name).sum()) for name in ("old", "young")}
    np.testing.assert_array_equal(
        balanced, FlaxClassifier((), epochs=60, learning_rate=0.1, class_weight=sums, random_state=0).fit(x, labels).predict_proba(x)
    )


def test_a_model_of_ones_own_and_targets_with_a_large_offset():
    x = np.random.default_rng(0).normal(size=(100, 2))
    two = FlaxClassifier(model=ff.nn.MLP((4,), 2), epochs=50, random_state=0).fit(x, x[:, 0] > 0)
    assert two.predict_proba(x).shape == (100, 2)
    assert two.score(x, x[:, 0] > 0) > 0.9
    seconds = 1.7e9 + 60 * x[:, 0]
    assert FlaxRegressor(epochs=100, random_state=0).fit(x, seconds).score(x, seconds) > 0.9


def test_a_task_that_was_fitted_is_copied_by_cloudpickle():
    task = ff.Task(
        ff.nn.MLP((4,), 1),
        lambda logits, y: ff.losses.mse(logits, y),
        optax.adam(1e-2),
        penalty=lambda params: 0.1 * optax.tree.norm(params),
    )
    data = ff.Dataset(np.eye(4), np.arange(4.0))
    first = ff.fit(task, data, epochs=2)
    again = ff.fit(cloudpickle.loads(cloudpickle.dumps(task)), data, epochs=2)
    np.testing.assert_array_equal(again.history["loss"], first.history["loss"])


def test_reports_of_skore():
    skore = pytest.importorskip("skore")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = np.where(x[:, 0] > 0, "yes", "no")
    parts = {"X_train": x[:80], "y_train": y[:80], "X_test": x[80:], "y_test": y[80:]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of skore's own
        report = skore.EstimatorReport(FlaxClassifier((), epochs=10, random_state=0), **parts, pos_label="yes")
        assert report.metrics.accuracy() == accuracy_score(y[80:], report.estimator_.predict(x[80:]))
        assert "roc_auc" in report.metrics.summarize().frame().index
        folds = skore.CrossValidationReport(FlaxRegressor((), epochs=2, random_state=0), x, x[:, 0], splitter=3)
        assert len(folds.reports_) == 3
        assert np.isfinite(folds.metrics.r2().to_numpy()).all()
