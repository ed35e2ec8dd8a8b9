from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import expit, log_softmax, logit, softmax

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def fitted(task, data, **options):
    return task, ff.fit(task, data, **({"epochs": 3, "batch_size": 50} | options)).best


def outputs(members, x):
    return np.stack([ff.predict(task, state, x) for task, state in members]).astype(float)


@pytest.fixture(scope="module")
def binary(table, net):
    """Members of two architectures and three kinds of preprocessing; one has batch norm and a scaling, one averaged weights."""
    train, _ = table
    settings = {
        "loss": ff.losses.binary_crossentropy,
        "metrics": {"accuracy": ff.metrics.binary_accuracy},
    }
    normed = ff.Task(net(batch_norm=True, dropout=0.3), optimizer=optax.adam(1e-2), preprocess=ff.data.standardize(train.x), **settings)
    wide = ff.Task(ff.nn.MLP((8, 8), 1), optimizer=optax.adam(3e-2), preprocess=lambda x: x**3, penalty=ff.penalties.l2(1e-2), **settings)
    averaged = ff.Task(
        net(),
        optimizer=optax.chain(optax.adam(1e-2), ff.averaging.weight_ema(0.9)),
        eval_params=ff.averaging.averaged,
        **settings,
    )
    ended = averaged.init(jax.random.key(1), train.x)
    return [
        fitted(normed, train),
        fitted(normed, train, seed=1),
        (wide, wide.init(jax.random.key(0), train.x)),
        (averaged, replace(ended, params=jax.tree.map(jnp.zeros_like, ended.params))),  # its average is not where it ended
    ]


@pytest.fixture(scope="module")
def classes(net):
    """Three classes, and members that share their task, trained on different rows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    data = ff.Dataset(x, (x[:, :3] + rng.normal(size=(200, 3))).argmax(1), sample_weight=rng.random(200))
    task = ff.Task(
        net(outputs=3),
        functools.partial(ff.losses.categorical_crossentropy, label_smoothing=0.1),
        optax.adam(1e-2),
        {"accuracy": ff.metrics.categorical_accuracy, "top": ff.metrics.top_k(2)},
        preprocess=ff.data.standardize(x),
    )
    return data, [fitted(task, data[first : first + 100], seed=first) for first in (0, 50, 100)]


@pytest.fixture(scope="module")
def regression(net):
    x = np.random.default_rng(1).normal(size=(120, 3)).astype(np.float32)
    data, task = ff.Dataset(x, x[:, 0] * x[:, 1]), ff.Task(net(), ff.losses.mse, optax.adam(1e-2), {"mae": ff.metrics.mae})
    return data, [fitted(task, data, seed=seed) for seed in range(3)]


def test_probabilities_of_one_logit_are_averaged(table, binary):
    x = table[1].x
    e, each = ff.ensemble(binary), outputs(binary, x)
    assert (len(e), e.average) == (4, "probabilities")
    assert np.ptp(each, 0).max() > 0.5
    np.testing.assert_allclose(ff.predict(e.task, e.state, x), logit(expit(each).mean(0)), rtol=1e-4, atol=1e-5)
    e = ff.ensemble(binary, average="logits")
    np.testing.assert_allclose(ff.predict(e.task, e.state, x), each.mean(0), rtol=1e-4, atol=1e-5)


def test_probabilities_of_classes_are_averaged(classes):
    data, members = classes
    e, each = ff.ensemble(members), outputs(members, data.x)
    np.testing.assert_allclose(ff.predict(e.task, e.state, data.x), np.log(softmax(each, -1).mean(0)), rtol=1e-4, atol=1e-5)
    e = ff.ensemble(members, average="logits")
    np.testing.assert_allclose(ff.predict(e.task, e.state, data.x), each.mean(0), rtol=1e-4, atol=1e-5)


def test_outputs_of_other_losses_are_averaged_as_they_are(regression):
    data, members = regression
    e = ff.ensemble(members)
    assert e.average == "logits"
    np.testing.assert_allclose(ff.predict(e.task, e.state, data.x), outputs(members, data.x).mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='the loss is mse: use average="logits"'):
        ff.ensemble(members, average="probabilities")


class Scaled(nn.Module):
    """Its input times a parameter, in half precision if told to."""

    dtype: object = None

    @nn.compact
    def __call__(self, x, *, train):
        return x.astype(self.dtype or x.dtype) * self.param("scale", nn.initializers.ones, (), self.dtype or jnp.float32)


def scaled(loss, factors, dtype=None):
    task = ff.Task(Scaled(dtype), loss, optax.identity())
    one = jnp.zeros((), jnp.int32)
    return [(task, ff.TrainState(one, {"scale": jnp.asarray(factor, dtype or jnp.float32)}, {}, None)) for factor in factors]


def test_sure_members_do_not_overflow():
    x = np.array([[100.0], [1.0], [-100.0]], np.float32)
    e = ff.ensemble(scaled(ff.losses.binary_crossentropy, (1, 0.9)))
    # At 100, p is 1 but for 3.7e-44; the mean of 1 - p is half the larger one.
    np.testing.assert_allclose(
        ff.predict(e.task, e.state, x)[:, 0], [90 + np.log(2), logit(expit([1, 0.9]).mean()), -90 - np.log(2)], rtol=1e-5
    )
    x = np.array([[100.0, 0.0, -300.0], [0.0, 0.0, 0.0]], np.float32)
    e = ff.ensemble(scaled(ff.losses.categorical_crossentropy, (1, -1)))
    expected = np.log(np.exp([log_softmax(x.astype(float), -1), log_softmax(-x.astype(float), -1)]).mean(0))
    np.testing.assert_allclose(ff.predict(e.task, e.state, x), expected, rtol=1e-5)


def test_half_precision_outputs_are_averaged_in_single():
    e = ff.ensemble(scaled(ff.losses.binary_crossentropy, (1, 1.0078125), jnp.bfloat16), average="logits")
    assert ff.predict(e.task, e.state, np.ones((1, 1), np.float32)) == np.float32(1.00390625)  # between two bfloat16 numbers


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_scores_are_those_of_the_average(table, binary, average, tmp_path):
    _, validation = table
    e = ff.ensemble(binary, average=average)
    logits = ff.predict(e.task, e.state, validation.x)
    scores = ff.evaluate(e.task, e.state, validation, metrics={"auc": ff.metrics.auc})
    assert list(scores) == ["loss", "binary_crossentropy", "accuracy", "auc"]  # no penalty, though a member has one
    assert scores["loss"] == scores["binary_crossentropy"]
    assert scores["loss"] == pytest.approx(float(ff.losses.binary_crossentropy(logits, validation.y).mean()), rel=1e-5)
    assert scores["accuracy"] == pytest.approx(((logits[:, 0] > 0) == validation.y).mean())
    model = ff.load(ff.export(tmp_path / "e", e.task, e.state, validation))
    np.testing.assert_allclose(model.predict(validation.x), logits, rtol=1e-5, atol=1e-6)
    assert model.evaluate(validation) == pytest.approx({name: scores[name] for name in list(scores)[:3]}, rel=1e-5)
    assert set(model.params) == {f"member_{i}" for i in range(4)}
    assert set(model.collections["batch_stats"]) == {"member_0", "member_1"}


def test_a_shared_scaling_is_the_exports(classes, tmp_path):
    data, members = classes
    e = ff.ensemble(members)
    model = ff.load(ff.export(tmp_path / "e", e.task, e.state, data))
    np.testing.assert_array_equal(model.scaling.offset, members[0][0].preprocess.offset)
    np.testing.assert_allclose(model.predict(data.x), ff.predict(e.task, e.state, data.x), rtol=1e-5, atol=1e-6)


def test_diversity_of_classifiers(classes):
    data, members = classes
    e = ff.ensemble(members)
    found, each = e.diversity(data), outputs(members, data.x)
    weight, one_hot = data.sample_weight, np.eye(3)[data.y] * 0.9 + 0.1 / 3

    def loss(logits):
        return (weight * -(one_hot * log_softmax(logits, -1)).sum(-1)).mean(-1)

    assert found["members"] == pytest.approx(loss(each).mean(), rel=1e-5)
    assert found["ensemble"] == pytest.approx(loss(np.log(softmax(each, -1).mean(0))), rel=1e-5)
    assert found["ambiguity"] == pytest.approx(found["members"] - found["ensemble"])
    assert found["ambiguity"] > 1e-4
    assert found["members_accuracy"] == pytest.approx((each.argmax(-1) == data.y).mean())
    assert found["ensemble_accuracy"] == pytest.approx((softmax(each, -1).mean(0).argmax(-1) == data.y).mean())
    assert found["ensemble_top"] >= found["ensemble_accuracy"]
    pairs = [(a.argmax(-1) != b.argmax(-1)).mean() for a, b in itertools.combinations(each, 2)]
    assert found["disagreement"] == pytest.approx(np.mean(pairs))
    assert found["disagreement"] > 0
    assert found == e.diversity(data, batch_size=33) | {name: pytest.approx(found[name], rel=1e-5) for name in found}


def test_jensen_holds_for_both_averages_of_binary_members(table, binary):
    for average in ("probabilities", "logits"):
        found = ff.ensemble(binary, average=average).diversity(table[1])
        assert found["ambiguity"] > 1e-4
    each = outputs(binary, table[1].x) > 0
    assert found["disagreement"] == pytest.approx(np.mean([(a != b).mean() for a, b in itertools.combinations(each, 2)]))
    single = ff.ensemble(binary[:1]).diversity(table[1])
    assert single["ambiguity"] == pytest.approx(0, abs=1e-6)
    assert np.isnan(single["disagreement"])


def test_ambiguity_of_squared_error_is_the_members_spread(regression):
    data, members = regression
    found = ff.ensemble(members).diversity(data)
    assert found["ambiguity"] == pytest.approx(outputs(members, data.x).var(0).mean(), rel=1e-4)
    assert set(found) == {"members", "ensemble", "ambiguity", "members_mae", "ensemble_mae"}


def test_a_study_an_ensemble_and_an_nnx_module_can_be_members(regression):
    class Line(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.line, self.norm = nnx.Linear(3, 1, rngs=rngs), nnx.BatchNorm(1, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.line(x))

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.Dropout(0.5)(x))

    data, _ = regression

    def make_task(hp):
        return ff.Task(
            ff.nn.MLP((8,), 1), ff.losses.mse, optax.adam(hp["rate"]), {"mae": ff.metrics.mae}, penalty=ff.penalties.l2(hp["l2"])
        )

    study = ff.fit_many(make_task, {"rate": [1e-2], "l2": [0.0, 1e-3]}, data, epochs=2)
    e = ff.ensemble(study)
    predicted = ff.predict(e.task, e.state, data.x)
    np.testing.assert_allclose(predicted, np.mean(study.predict(data.x), 0), rtol=1e-4, atol=1e-5)
    found = e.diversity(data)
    assert found["members"] == pytest.approx(study.evaluate(data)["mse"].mean())
    assert found["ensemble_mae"] == pytest.approx(np.abs(predicted[:, 0] - data.y).mean(), rel=1e-5)
    others = [ff.Task(model, ff.losses.mse, optax.adam(1e-2), {"mae": ff.metrics.mae}) for model in (Line, Plain())]
    mixed = ff.ensemble([(e.task, e.state), *((task, task.init(jax.random.key(0), data.x)) for task in others)])
    expected = outputs(mixed.members, data.x).mean(0)
    np.testing.assert_allclose(ff.predict(mixed.task, mixed.state, data.x), expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_ensemble_is_refused_at_the_door(table, binary, classes, regression):
    (task, state), data = binary[0], table[1]
    for members, message in (
        (task, "pairs .*, got Task"),
        ((task, state), "member 0 is Task"),
        ([(task, state.params)], "member 0 is Task, dict"),
        ([(task.model, state)], "task must be a flaxfit.Task, got Net"),
    ):
        with pytest.raises(TypeError, match=message):
            ff.ensemble(members)
    with pytest.raises(ValueError, match="at least one member"):
        ff.ensemble([])
    with pytest.raises(ValueError, match="share the loss: member 0 has binary_crossentropy, member 1 mse"):
        ff.ensemble([binary[0], regression[1][0]])
    with pytest.raises(ValueError, match=r"share metrics: member 0 has \['accuracy'\], member 1 \[\]"):
        ff.ensemble([binary[0], (replace(task, metrics={}), state)])
    with pytest.raises(ValueError, match="no average 'probability'; did you mean 'probabilities'"):
        ff.ensemble(binary, average="probability")
    flat = replace(task, model=Scaled(), preprocess=lambda x: x[:, 0])
    unlike = ff.ensemble([binary[0], (flat, scaled(task.loss, (1,))[0][1])])
    with pytest.raises(ValueError, match=r"share the shape of their outputs: member 0 gives \('rows', 1\), member 1 \('rows',\)"):
        ff.evaluate(unlike.task, unlike.state, data)
    e = ff.ensemble(binary)
    with pytest.raises(ValueError, match=r"Ensemble refuses x of shape \(rows, 5\)"):
        ff.predict(e.task, e.state, data.x[:, :5])
