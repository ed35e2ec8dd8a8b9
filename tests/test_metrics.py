import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve

from flaxfit import metrics

RNG = np.random.default_rng(1)
LOGITS: Any = RNG.normal(size=(200, 5)).astype(np.float32)
LABELS: Any = RNG.integers(0, 5, 200)


def test_binary_accuracy_against_scikit_learn():
    logits, y = LOGITS[:, 0], LABELS % 2
    expected = sklearn.metrics.accuracy_score(y, logits > 0)
    for shaped in (logits, logits[:, None]):
        result = metrics.binary_accuracy(jnp.asarray(shaped), jnp.asarray(y))
        assert result.shape == (200,)
        np.testing.assert_allclose(result.mean(), expected, rtol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8), np.eye(5, dtype=np.float32)[LABELS]])
def test_categorical_accuracy_and_top_k_against_scikit_learn(labels):
    assert metrics.categorical_accuracy(LOGITS, labels).mean() == pytest.approx((LOGITS.argmax(1) == LABELS).mean())
    assert (metrics.top_k(5)(LOGITS, labels) == 1).all()
    for k in (1, 2, 4):
        result = metrics.top_k(k)(LOGITS, labels)
        assert result.shape == (200,)
        assert result.mean() == pytest.approx(sklearn.metrics.top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(5)))


def test_top_k_is_named_after_k_and_gives_nothing_for_logits_all_alike():
    assert metrics.top_k(3).__name__ == "top_3_accuracy"
    assert metrics.top_k(2)(jnp.zeros((200, 5)), LABELS).mean() == pytest.approx((LABELS < 2).mean())


def test_top_k_errors():
    with pytest.raises(ValueError, match="1 or more"):
        metrics.top_k(0)
    with pytest.raises(ValueError, match="the logits have 5"):
        metrics.top_k(6)(LOGITS, LABELS)


def test_mae_against_scikit_learn():
    result = metrics.mae(LOGITS, LOGITS[::-1])
    assert result.shape == (200,)
    assert result.mean() == pytest.approx(sklearn.metrics.mean_absolute_error(LOGITS[::-1], LOGITS), rel=1e-5)


def test_metrics_average_the_axes_beyond_the_rows():
    logits, labels = LOGITS.reshape(40, 5, 5), LABELS.reshape(40, 5)
    expected = (logits.argmax(-1) == labels).mean(1)
    np.testing.assert_allclose(metrics.categorical_accuracy(logits, labels), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.top_k(1)(logits, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("decimals", [6, 1, 0])  # fewer decimals, more ties
def test_auc_against_scikit_learn(decimals):
    scores, y = LOGITS[:, 0].round(decimals), LABELS > 2
    assert metrics.auc(scores, y) == pytest.approx(sklearn.metrics.roc_auc_score(y, scores), abs=1e-12)
    assert metrics.auc(jnp.asarray(scores)[:, None], jnp.asarray(y)) == metrics.auc(scores, y)


def test_auc_where_it_is_not_defined():
    assert np.isnan(metrics.auc(np.arange(3.0), np.ones(3)))
    assert np.isnan(metrics.auc([np.nan, 1.0, 2.0], [0, 1, 1]))
    assert np.isnan(metrics.auc([], []))
    assert metrics.auc([-np.inf, 1.0, np.inf], [0, 0, 1]) == 1.0
    assert np.isnan(metrics.auc([0.1, 0.2, 0.3], [0, 1, 1], weight=[0, 1, 1]))
    for logits, y, options, message in (
        (LOGITS, LABELS, {}, "a logit for each label"),
        (LOGITS[:, 0], LABELS, {}, r"labels 0 and 1, got [234]: pass y == label"),
        ([0.1, 0.2], [0.0, 0.7], {}, "got 0.7"),
        (LOGITS, np.eye(5)[LABELS], {}, 'of 5 labels needs average="macro"'),
        ([0.1, 0.2], [0, 1], {"weight": [1.0, -1.0]}, "0 or more"),
        ([0.1, 0.2], [0, 1], {"weight": [1.0]}, "each of 2 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.auc(logits, y, **options)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_auc_of_several_labels_and_of_weighted_rows(average):
    y, weight = np.eye(5)[LABELS], np.random.default_rng(0).uniform(0, 2, len(LABELS))
    expected = sklearn.metrics.roc_auc_score(y, LOGITS, average=average, sample_weight=weight)
    assert metrics.auc(LOGITS, y, average=average, weight=weight) == pytest.approx(expected)
    single = sklearn.metrics.roc_auc_score(LABELS > 2, LOGITS[:, 0], sample_weight=weight)
    assert metrics.auc(LOGITS[:, 0], LABELS > 2, weight=weight) == pytest.approx(single)


@pytest.mark.parametrize("labels", [LABELS, np.eye(5)[LABELS]])
def test_confusion_matrix_against_scikit_learn(labels):
    expected = sklearn.metrics.confusion_matrix(LABELS, LOGITS.argmax(1))
    np.testing.assert_array_equal(metrics.confusion_matrix(LOGITS, labels), expected)


def test_confusion_matrix_of_two_classes_and_of_classes_that_never_occur():
    y = LABELS > 2
    expected = sklearn.metrics.confusion_matrix(y, LOGITS[:, 0] > 0)
    for logits in (LOGITS[:, 0], LOGITS[:, :1]):
        np.testing.assert_array_equal(metrics.confusion_matrix(logits, y), expected)
    assert metrics.confusion_matrix(LOGITS, np.zeros(200)).shape == (5, 5)
    assert metrics.confusion_matrix([1.0, 2.0], [1, 1]).tolist() == [[0, 0], [0, 2]]


def test_confusion_matrix_errors():
    with pytest.raises(ValueError, match="have different numbers of rows"):
        metrics.confusion_matrix(LOGITS, LABELS[:10])
    with pytest.raises(ValueError, match="labels run from 0 to 5"):
        metrics.confusion_matrix(LOGITS, LABELS + (LABELS == 4))


@pytest.mark.parametrize("metric", [metrics.auc, metrics.confusion_matrix])
def test_whole_set_metrics_refuse_batches(metric):
    with pytest.raises(TypeError, match=r"needs the whole set: Task\(set_metrics"):
        jax.jit(metric)(LOGITS[:, 0], LABELS)


WEIGHTS = RNG.normal(size=(200, 5))
SCORES = {  # logits, what scikit-learn is given, targets
    "binary": (LOGITS[:, 0], LOGITS[:, 0] > 0, LABELS > 2),
    "column": (LOGITS[:, :1], LOGITS[:, 0] > 0, (LABELS > 2)[:, None]),
    "classes": (LOGITS, LOGITS.argmax(1), LABELS),
    "a class missing": (LOGITS[LABELS != 3], LOGITS.argmax(1)[LABELS != 3], LABELS[LABELS != 3]),
    "never taken": (LOGITS - np.array([0, 0, 99, 0, 0], np.float32), (LOGITS - np.array([0, 0, 99, 0, 0])).argmax(1), LABELS),
    "neither": (LOGITS[LABELS != 3] - np.eye(5)[3] * 99, (LOGITS - np.eye(5)[3] * 99).argmax(1)[LABELS != 3], LABELS[LABELS != 3]),
}


@pytest.mark.parametrize("average", [None, "binary", "macro", "micro", "weighted"])
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_f1_precision_and_recall_against_scikit_learn(name, kind, average):
    logits, taken, y = SCORES[kind]
    single = kind in ("binary", "column")
    metric, oracle = getattr(metrics, name), getattr(sklearn.metrics, f"{name}_score")
    if average == "binary" and not single:
        with pytest.raises(ValueError, match="needs one logit for each example"):
            metric(logits, y, average)
        return
    expected = oracle(y.ravel(), taken, average=average or ("binary" if single else "macro"), zero_division=0)
    for found in (metric(logits, y, average), jax.jit(metric, static_argnums=2)(jnp.asarray(logits), jnp.asarray(y), average)):
        assert found.shape == ()
        assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", SCORES)
def test_balanced_accuracy_against_scikit_learn(kind):
    logits, taken, y = SCORES[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are taken and not there
        expected = sklearn.metrics.balanced_accuracy_score(y.ravel(), taken)
    assert float(metrics.balanced_accuracy(logits, y)) == pytest.approx(expected, abs=1e-6)


def test_scores_of_nothing_are_zero_and_of_places_within_rows_are_of_all_of_them():
    assert float(metrics.f1(-np.ones(4, np.float32), np.zeros(4))) == 0
    with pytest.raises(ValueError, match=r"average=.* must be"):
        metrics.f1(LOGITS, LABELS, "macros")
    for metric in (metrics.f1, metrics.balanced_accuracy, metrics.ece):
        assert float(metric(LOGITS.reshape(40, 5, 5), LABELS.reshape(40, 5))) == pytest.approx(float(metric(LOGITS, LABELS)), rel=1e-6)
        assert float(metric(LOGITS, np.eye(5, dtype=np.float32)[LABELS])) == pytest.approx(float(metric(LOGITS, LABELS)), rel=1e-6)


@pytest.mark.parametrize("shape", [(200,), (200, 1), (100, 2), (50, 4)])
def test_regression_scores_against_scikit_learn(shape):
    y = RNG.normal(size=200).astype(np.float32).reshape(shape)
    outputs = y + RNG.normal(size=shape).astype(np.float32)
    assert float(metrics.r2(outputs, y)) == pytest.approx(sklearn.metrics.r2_score(y, outputs), abs=1e-5)
    assert float(metrics.rmse(outputs, y)) == pytest.approx(sklearn.metrics.root_mean_squared_error(y, outputs), rel=1e-5)
    found = metrics.mape(outputs, y)
    assert found.shape == shape[:1]
    assert float(found.mean()) == pytest.approx(sklearn.metrics.mean_absolute_percentage_error(y, outputs), rel=1e-4)


def test_r2_of_constant_targets_and_of_a_large_offset():
    ones = np.ones(5, np.float32)
    assert [float(metrics.r2(outputs, ones)) for outputs in (ones, 2 * ones)] == [1, 0]
    y = 1000 + RNG.normal(size=200).astype(np.float32)
    outputs = y + 0.5 * RNG.normal(size=200).astype(np.float32)
    assert float(metrics.r2(outputs, y)) == pytest.approx(sklearn.metrics.r2_score(y, outputs), abs=1e-4)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("single", [True, False])
def test_ece_against_scikit_learn_s_calibration_curve(bins, single):
    logits, y = (3 * LOGITS[:, 0], LABELS > 2) if single else (2 * LOGITS, LABELS)
    both = np.stack([np.zeros(200), logits], 1) if single else logits
    chances = np.exp(both) / np.exp(both).sum(1, keepdims=True)
    confidence, hit = chances.max(1), both.argmax(1) == y
    accuracy, mean = calibration_curve(hit, confidence, n_bins=bins)
    counts = np.histogram(confidence, np.linspace(0, 1, bins + 1))[0]
    expected = (np.abs(accuracy - mean) * counts[counts > 0]).sum() / 200
    assert float(metrics.ece(logits, y, bins)) == pytest.approx(expected, abs=1e-5)
    confidence, right, rows = metrics.reliability(logits, y, bins)
    assert rows.sum() == len(y)
    assert rows @ np.abs(right - confidence) / len(y) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        metrics.ece(logits, y, 0)


BINARY, SEVERAL, LABELED = (LOGITS[:, :1], LABELS > 2), (LOGITS, LABELS), (LOGITS, (LOGITS + WEIGHTS > 0).astype(int))
CHANCES, SOFTMAX = expit(LOGITS[:, 0].astype(float)), softmax(LOGITS.astype(float), 1)


@pytest.mark.parametrize(
    ("function", "data", "expected"),
    [
        (sklearn.metrics.accuracy_score, BINARY, lambda f: f(LABELS > 2, LOGITS[:, 0] > 0)),
        (sklearn.metrics.roc_auc_score, BINARY, lambda f: f(LABELS > 2, CHANCES)),
        (sklearn.metrics.brier_score_loss, BINARY, lambda f: f(LABELS > 2, CHANCES)),
        (sklearn.metrics.log_loss, BINARY, lambda f: f(LABELS > 2, CHANCES)),
        (sklearn.metrics.hinge_loss, BINARY, lambda f: f(LABELS > 2, LOGITS[:, 0])),
        (sklearn.metrics.matthews_corrcoef, SEVERAL, lambda f: f(LABELS, LOGITS.argmax(1))),
        (sklearn.metrics.cohen_kappa_score, SEVERAL, lambda f: f(LABELS, LOGITS.argmax(1))),
        (sklearn.metrics.adjusted_rand_score, SEVERAL, lambda f: f(LABELS, LOGITS.argmax(1))),
        (sklearn.metrics.log_loss, SEVERAL, lambda f: f(LABELS, SOFTMAX)),
        (sklearn.metrics.log_loss, (LOGITS, np.eye(5)[LABELS]), lambda f: f(LABELS, SOFTMAX)),
        (functools.partial(sklearn.metrics.roc_auc_score, multi_class="ovr"), SEVERAL, lambda f: f(LABELS, SOFTMAX)),
        (functools.partial(sklearn.metrics.top_k_accuracy_score, k=2), SEVERAL, lambda f: f(LABELS, SOFTMAX)),
        (functools.partial(sklearn.metrics.f1_score, average="macro"), LABELED, lambda f: f(LABELED[1], LOGITS > 0)),
        (sklearn.metrics.label_ranking_loss, LABELED, lambda f: f(LABELED[1], LOGITS)),
        (sklearn.metrics.r2_score, (LOGITS[:, :1], WEIGHTS[:, 0]), lambda f: f(WEIGHTS[:, 0], LOGITS[:, 0])),
        (sklearn.metrics.median_absolute_error, (LOGITS, WEIGHTS), lambda f: f(WEIGHTS, LOGITS)),
        (metrics.from_sklearn(sklearn.metrics.explained_variance_score, "classes"), SEVERAL, None),
        (metrics.from_sklearn(lambda y_true, y_pred: y_pred.sum(), "probabilities"), SEVERAL, None),
    ],
)
def test_functions_of_scikit_learn_get_what_they_need(function, data, expected):
    found = metrics.of_whole_set(function, "it")(*data)
    if expected is None:
        given = LOGITS.argmax(1) if function.needs == "classes" else SOFTMAX
        assert found == pytest.approx(function.function(LABELS, given))
    else:
        assert found == pytest.approx(expected(function), rel=1e-9)


def test_what_scikit_learn_s_functions_say_and_what_is_none():
    said = [metrics.from_sklearn(f).mode for f in (sklearn.metrics.f1_score, sklearn.metrics.log_loss, sklearn.metrics.max_error)]
    assert said == ["max", "min", "min"]
    assert np.isnan(metrics.from_sklearn(sklearn.metrics.f1_score)(np.full(3, np.nan), np.ones(3)))
    with pytest.raises(TypeError, match=r"scikit-learn's auc\(x, y, \.\.\.\) does not compare targets with outputs"):
        metrics.from_sklearn(sklearn.metrics.auc)
    with pytest.raises(ValueError, match='say "classes", "probabilities" or "values"'):
        metrics.from_sklearn(lambda y_true, y_pred: 0.0)
    with pytest.raises(ValueError, match=r"from_sklearn\(needs=\.\.\.\) must be"):
        metrics.from_sklearn(sklearn.metrics.f1_score, "logits")


def test_metrics_of_a_set_pass_jax_s_guard_against_accidental_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        for metric in (metrics.f1, metrics.balanced_accuracy, metrics.ece):
            assert np.isfinite(metric(LOGITS, LABELS))
        for metric in (metrics.r2, metrics.rmse, metrics.mape):
            assert np.isfinite(metric(LOGITS, WEIGHTS.astype(np.float32))).all()


def test_metrics_of_scikit_learn_take_classes_in_a_column():
    logits, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 3
    for function in (functools.partial(sklearn.metrics.f1_score, average="macro"), sklearn.metrics.log_loss):
        metric = metrics.from_sklearn(function)
        for form in (y[:, None], y.astype(float)):
            assert metric(logits, form) == metric(logits, y)
