from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

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
    with pytest.raises(ValueError, match="differ in rows"):
        metrics.confusion_matrix(LOGITS, LABELS[:10])
    with pytest.raises(ValueError, match="labels run from 0 to 5"):
        metrics.confusion_matrix(LOGITS, LABELS + (LABELS == 4))


@pytest.mark.parametrize("metric", [metrics.auc, metrics.confusion_matrix])
def test_whole_set_metrics_refuse_batches(metric):
    with pytest.raises(TypeError, match="for evaluation, not for Task"):
        jax.jit(metric)(LOGITS[:, 0], LABELS)
