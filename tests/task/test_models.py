"""Modules of every calling convention train, are validated, exported and resumed; what stands still stands still."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")

WORDS = ["train", "training", "is_training", "deterministic", "use_running_average"]


def task_of(model, **fields):
    return ff.Task(model, fields.pop("loss", ff.losses.binary_crossentropy), fields.pop("optimizer", optax.adam(1e-2)), **fields)


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def told_by(word):
    """A net with dropout and batch norm that is told by `word` whether it trains."""

    def call(self, x, **said):
        train = said[word] if word.endswith(("train", "training")) else not said[word]
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x))
        return nn.Dense(1)(nn.Dropout(0.3, deterministic=not train)(nn.relu(x)))

    space = {"nn": nn, "call": call}
    exec(f"def __call__(self, x, {word}):\n    return call(self, x, {word}={word})", space)
    return type("Told", (nn.Module,), {"__call__": nn.compact(space["__call__"]), "__module__": __name__})()


class Silent(nn.Module):
    """Says nothing to its layers, which say themselves that they need to know."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm()(nn.Dense(16)(x))
        return nn.Dense(1)(nn.Dropout(0.3)(nn.relu(x)))


class Nnx(nnx.Module):
    """NNX's own convention: `train()` and `eval()`, no argument."""

    def __init__(self, rngs: nnx.Rngs):
        self.blocks = nnx.List([nnx.Linear(6, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)])
        self.drop, self.last = nnx.Dropout(0.3, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(self.drop(nnx.relu(x)))


class NnxTold(Nnx):
    def __call__(self, x, *, train):
        x = self.blocks[1](self.blocks[0](x), use_running_average=not train)
        return self.last(self.drop(nnx.relu(x), deterministic=not train))


MODELS = {
    **{word: lambda word=word: told_by(word) for word in WORDS},
    "silent": Silent,
    "sequential": lambda: nn.Sequential([nn.Dense(16), nn.BatchNorm(), nn.relu, nn.Dropout(0.3), nn.Dense(1)]),
    "sequential of a net": lambda: nn.Sequential([told_by("train")]),
    "nnx": lambda: Nnx(nnx.Rngs(0)),
    "nnx class": lambda: Nnx,
    "nnx function": lambda: lambda r: Nnx(r),
    "nnx told": lambda: NnxTold(nnx.Rngs(0)),
    "nnx sequential": lambda: (
        lambda rngs: nnx.Sequential(
            nnx.Linear(6, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs), nnx.relu, nnx.Dropout(0.3, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)
        )
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_any_convention(name, table, tmp_path):
    """Dropout acts in training and not in evaluation; batch norm learns its statistics; a resumed run has the same bits; exports agree."""
    train, validation = table
    task = task_of(MODELS[name]())
    options = {"validation": validation, "batch_size": 50}
    whole = ff.fit(task, train, epochs=12, **options)
    assert whole.history["val_loss"].min() < 0.93 * whole.history["val_loss"][0]
    assert "kernel_l2" in whole.history
    run = tmp_path / "run"
    ff.fit(task, train, epochs=5, run_dir=run, **options)
    resumed = ff.fit(task, train, epochs=12, run_dir=run, **options)
    assert resumed.history == whole.history
    assert equal(resumed.last, whole.last)

    state, x = task.evaluated(whole.last), validation.x
    means = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.collections["batch_stats"]) if path[-1].key == "mean"]
    assert np.abs(means[0]).max() > 0.01  # the running mean of hidden units, 0 at first
    outputs = ff.predict(task, state, x)
    np.testing.assert_allclose(outputs[:7], ff.predict(task, state, x[:7]), rtol=1e-5, atol=1e-6)  # no statistics of the batch
    keys = [{"dropout": jax.random.key(seed)} for seed in (1, 1, 2)]
    one, again, other = (task.apply(state.params, state.collections, x, rngs)[0] for rngs in keys)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    model = ff.load(run)
    np.testing.assert_allclose(model.predict(x), ff.predict(task, resumed.best, x), rtol=1e-5, atol=1e-6)
    assert model.evaluate(validation)["loss"] == pytest.approx(ff.evaluate(task, resumed.best, validation)["loss"], rel=1e-5)
    assert "Total Parameters" in ff.summary(task, x[:1])


def test_an_nnx_module_starts_from_its_weights_and_gets_the_trained_ones_back_on_request(table):
    train, validation = table
    model = Nnx(nnx.Rngs(7))
    x, before = jnp.asarray(validation.x), nnx.to_pure_dict(nnx.state(model, nnx.Param))
    task = task_of(model)
    start = task.init(jax.random.key(0), train.x)
    np.testing.assert_array_equal(start.params["last"]["kernel"], before["last"]["kernel"])
    result = ff.fit(task, train, validation=validation, epochs=3)
    assert equal(nnx.to_pure_dict(nnx.state(model, nnx.Param)), before)  # a run changes nothing outside itself
    assert equal(ff.fit(task, train, validation=validation, epochs=3, seed=0).last, result.last)
    assert task.write_back(result.best) is model
    np.testing.assert_allclose(model(x), ff.predict(task, result.best, x), rtol=1e-5, atol=1e-6)
    other = task.write_back(result.last, into=Nnx(nnx.Rngs(1)))
    np.testing.assert_allclose(other(x), ff.predict(task, result.last, x), rtol=1e-5, atol=1e-6)
    made = task_of(Nnx)
    np.testing.assert_allclose(made.write_back(result.best)(x), model(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="the weights do not fit Linear: blocks/0/bias is missing there"):
        task.write_back(result.best, into=nnx.Linear(6, 16, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match="write_back is for NNX modules"):
        task_of(Silent()).write_back(result.best)


def test_seeds_draw_the_weights_of_a_class_and_leave_those_of_a_module(table):
    drawn, given = task_of(Nnx), task_of(Nnx(nnx.Rngs(7)))
    kernels = [[task.init(jax.random.key(seed), table[0].x).params["last"]["kernel"] for seed in (0, 1)] for task in (drawn, given)]
    assert np.abs(kernels[0][0] - kernels[0][1]).max() > 0.01
    np.testing.assert_array_equal(*kernels[1])


def test_an_nnx_module_with_shared_weights_and_streams_of_its_own(table):
    """Tied kernels are one parameter; dropouts that share a stream draw different masks; a stream of another name draws too."""

    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
            self.second.kernel = self.first.kernel
            self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])
            self.noise = rngs.noise

        def __call__(self, x):
            ones = jnp.ones_like(x)
            masks = [drop(ones) for drop in self.drops]
            noise = 0 if self.drops[0].deterministic else jax.random.normal(self.noise(), (x.shape[0], 1))
            return (self.second(self.first(x)) * 0 + masks[0] - masks[1]).sum(-1, keepdims=True) + noise

    task = task_of(lambda rngs: Tied(rngs=nnx.Rngs(params=rngs.params(), dropout=0, noise=1)))
    state = task.init(jax.random.key(0), table[0].x)
    assert sorted(state.params) == ["first", "second"]
    assert sorted(state.params["second"]) == ["bias"]
    keys = [{"dropout": jax.random.key(seed)} for seed in (1, 2)]
    one, other = (task.apply(state.params, {}, table[0].x, rngs)[0] for rngs in keys)
    assert np.unique(one).size > 50
    assert np.abs(one - other).max() > 0.1
    assert not task.apply(state.params, {}, table[0].x)[0].any()


def test_a_model_that_draws_in_evaluation_is_refused(table):
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.last, self.rngs = nnx.Linear(6, 1, rngs=rngs), rngs

        def __call__(self, x):
            return self.last(x) + jax.random.normal(self.rngs.noise(), (1,))

    with pytest.raises(ValueError, match="Noisy draws random numbers, but in evaluation mode outputs must not be random"):
        ff.fit(task_of(Noisy), table[0])
    with pytest.raises(TypeError, match="must take rngs and return an NNX module, but it returns int"):
        task_of(lambda rngs: 3)
    with pytest.raises(TypeError, match=r"or a function of rngs that makes an NNX module, got type: pass MyModel"):
        task_of(Silent)


class Two(nn.Module):
    @nn.compact
    def __call__(self, left, right, train):
        return nn.Dense(1)(jnp.concatenate([nn.Dense(8)(left), nn.Dense(8)(right)], -1))


class TwoInOne(nn.Module):
    @nn.compact
    def __call__(self, x):
        left, right = x if isinstance(x, tuple) else (x["left"], x["right"])
        return Two()(left, right, train=False)


class TwoNnx(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 1, rngs=rngs), nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, left, right):
        return self.a(left) + self.b(right)


@pytest.mark.parametrize("form", [list, tuple, lambda pair: dict(zip(("left", "right"), pair, strict=True))], ids=["list", "tuple", "dict"])
@pytest.mark.parametrize("model", [Two, TwoInOne, lambda: TwoNnx])
def test_several_inputs(model, form, table, tmp_path):
    train, validation = (ff.Dataset(form([part.x[:, :4], part.x[:, 4:]]), part.y) for part in table)
    task = task_of(model())
    result = ff.fit(task, train, validation=validation, epochs=3, run_dir=tmp_path / "run")
    assert result.history["val_loss"][-1] < result.history["val_loss"][0]
    outputs = ff.predict(task, result.best, validation.x)
    assert outputs.shape == (100, 1)
    np.testing.assert_allclose(ff.load(tmp_path / "run").predict(validation.x), outputs, rtol=1e-5, atol=1e-6)


def test_a_list_of_rows_is_no_list_of_inputs():
    rows = [np.ones(3), np.zeros(3)]
    assert ff.Dataset(rows, [0, 1]).x.shape == (2, 3)
    assert ff.Dataset([np.ones((5, 2)), np.ones((5, 2))], np.zeros(5)).x[1].shape == (5, 2)
    assert ff.Dataset(np.ones((5, 2)), [np.zeros(5), np.ones((5, 3))]).y[1].shape == (5, 3)
    with pytest.raises(ValueError, match="must have the same number of rows"):
        ff.Dataset([np.ones((5, 2)), np.ones((5, 2))], np.zeros(4))


class Sows(nn.Module):
    """Two auxiliary losses: a number, and one number a row."""

    rowwise: bool = True

    @nn.compact
    def __call__(self, x, *, train):
        h = nn.Dense(4)(x)
        self.sow("losses", "size", 0.1 * jnp.mean(h**2, (0, 1)) if not self.rowwise else 0.1 * jnp.mean(h**2, 1))
        self.sow("intermediates", "hidden", h)
        return nn.Dense(1)(h)


class SowsNnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        h = self.first(x)
        self.sow("losses", "size", 0.1 * jnp.mean(h**2, 1))
        self.sow(nnx.Intermediate, "hidden", h)
        return self.last(h)


@pytest.mark.parametrize("model", [Sows, lambda: Sows(rowwise=False), lambda: SowsNnx])
def test_sowed_losses_are_part_of_the_objective(model, table, tmp_path):
    train, validation = table
    task = task_of(model(), metrics={"accuracy": ff.metrics.binary_accuracy}, optimizer=optax.sgd(0.1))
    result = ff.fit(task, train, validation=validation, epochs=4, batch_size=250, run_dir=tmp_path / "run")
    params = task.init(jax.random.key(0), train.x).params
    first, last = (params["Dense_0"], params["Dense_1"]) if "Dense_0" in params else (params["first"], params["last"])

    def objective(first, last, data):
        h = data.x @ first["kernel"] + first["bias"]
        loss = jnp.mean(ff.losses.binary_crossentropy(h @ last["kernel"] + last["bias"], data.y))
        return loss + 0.1 * jnp.mean(h**2), loss

    (value, loss), gradients = jax.value_and_grad(lambda p: objective(*p, train), has_aux=True)((first, last))
    assert result.history["loss"][0] == pytest.approx(float(value), rel=1e-5)
    assert result.history["binary_crossentropy"][0] == pytest.approx(float(loss), rel=1e-5)
    assert result.history["gradient_norm"][0] == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-4)
    after = jax.tree.map(lambda p, g: p - 0.1 * g, (first, last), gradients)
    assert result.history["val_loss"][0] == pytest.approx(float(objective(*after, validation)[0]), rel=1e-5)
    scores = ff.evaluate(task, result.best, validation, batch_size=100)
    assert scores["loss"] > scores["binary_crossentropy"]
    loaded = ff.load(tmp_path / "run").evaluate(validation)
    number = isinstance(model(), Sows) and not model().rowwise  # of a batch, so that it depends on the batches
    assert loaded == pytest.approx(scores, rel=1e-2 if number else 1e-5)


def test_what_is_sowed_must_be_a_number_or_one_a_row(table):
    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("losses", "all", x)
            return nn.Dense(1)(x)

    with pytest.raises(
        ValueError, match=r'the "losses" that a model sows must be one number, or one for each example, got shape \(32, 6\)'
    ):
        ff.fit(task_of(Wide()), table[0])


class Backbone(nn.Module):
    """Two blocks with batch norm, told either way whether they train."""

    attribute: bool = True

    @nn.compact
    def __call__(self, x, *, train):
        for _ in range(2):
            x = nn.Dense(8)(x)
            norm = {"use_running_average": not train}
            x = nn.relu(nn.BatchNorm(**norm)(x) if self.attribute else nn.BatchNorm()(x, **norm))
        return nn.Dense(1)(x)


class BackboneNnx(nnx.Module):
    def __init__(self, rngs):
        for index, width in enumerate((6, 8)):
            setattr(self, f"Dense_{index}", nnx.Linear(width, 8, rngs=rngs))
            setattr(self, f"BatchNorm_{index}", nnx.BatchNorm(8, rngs=rngs))
        self.Dense_2 = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        for index in range(2):
            x = nnx.relu(getattr(self, f"BatchNorm_{index}")(getattr(self, f"Dense_{index}")(x)))
        return self.Dense_2(x)


@pytest.mark.parametrize(
    "model",
    [Backbone, *(pytest.param(other, marks=pytest.mark.slow) for other in (lambda: Backbone(attribute=False), lambda: BackboneNnx))],
)
def test_frozen_parameters_and_their_batch_statistics_stand_still(model, table, tmp_path):
    """No update, decay or constraint; batch norm of a frozen module normalizes as in evaluation, as Keras's does."""
    train, validation = table
    frozen = ("Dense_0", "BatchNorm_0")
    fields = {
        "penalty": ff.penalties.l2(1e-2),
        "constraint": ff.constraints.max_norm(0.3),
        "optimizer": optax.adamw(1e-2, weight_decay=0.5),
    }
    task = task_of(model(), trainable=["Dense_[12]", "BatchNorm_1"], **fields)
    pretrained = ff.fit(task_of(model()), train, epochs=2).best
    whole = ff.fit(task, train, validation=validation, epochs=4, initial=pretrained)
    for name, part in pretrained.params.items():
        assert equal(part, whole.last.params[name]) == (name in frozen)
    for name, part in pretrained.collections["batch_stats"].items():
        assert equal(part, whole.last.collections["batch_stats"][name]) == (name in frozen)
    moments = optax.tree.get_all_with_path(whole.last.opt_state, "mu")[0][1]
    assert len(jax.tree.leaves(moments)) == len(jax.tree.leaves(whole.last.params)) - 4  # the optimizer does not see the others
    ff.fit(task, train, validation=validation, epochs=2, initial=pretrained, run_dir=tmp_path / "run")
    resumed = ff.fit(task, train, validation=validation, epochs=4, initial=pretrained, run_dir=tmp_path / "run")
    assert equal(resumed.last, whole.last)
    np.testing.assert_allclose(
        ff.load(tmp_path / "run").predict(validation.x), ff.predict(task, resumed.best, validation.x), rtol=1e-5, atol=1e-6
    )

    # The frozen part in training is the frozen part in evaluation: with all else frozen too but the last layer, so are the outputs.
    head = task_of(model(), trainable="Dense_2")
    params, collections = pretrained.params, pretrained.collections
    np.testing.assert_allclose(
        head.apply(params, collections, train.x, {"dropout": jax.random.key(0)})[0],
        head.apply(params, collections, train.x)[0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_training_the_head_alone_is_logistic_regression_on_the_frozen_features(table):
    train, _ = table
    net = Backbone()
    state = task_of(net).init(jax.random.key(0), train.x)
    task = task_of(net, trainable=lambda params: {name: name == "Dense_2" for name in params}, optimizer=optax.sgd(0.5))
    result = ff.fit(task, train, epochs=20, batch_size=250)
    _, noted = net.apply(
        {"params": state.params, **state.collections}, train.x, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    features = nn.relu(noted["intermediates"]["BatchNorm_1"]["__call__"][0])
    head = state.params["Dense_2"]
    gradient = jax.jit(jax.grad(lambda head: jnp.mean(ff.losses.binary_crossentropy(features @ head["kernel"] + head["bias"], train.y))))
    for _ in range(20):
        slope = gradient(head)
        head = jax.tree.map(lambda p, g: p - 0.5 * g, head, slope)
    np.testing.assert_allclose(result.last.params["Dense_2"]["kernel"], head["kernel"], rtol=1e-3, atol=1e-5)
    assert result.history["gradient_norm"][-1] == pytest.approx(float(optax.tree.norm(slope)), rel=1e-3)  # of what is trained


def test_averages_of_a_part_are_evaluated_with_the_rest(table):
    optimizer = optax.chain(optax.sgd(0.5), ff.averaging.weight_ema(0.9))
    task = task_of(Backbone(), trainable="Dense_2", optimizer=optimizer, eval_params=ff.averaging.averaged)
    result = ff.fit(task, table[0], validation=table[1], epochs=3)
    assert ff.evaluate(task, result.last, table[1])["loss"] == pytest.approx(result.history["val_loss"][-1], rel=1e-5)
    evaluated = task.evaluated(result.last)
    assert equal(evaluated.params["Dense_0"], result.last.params["Dense_0"])
    assert not equal(evaluated.params["Dense_2"], result.last.params["Dense_2"])


def test_a_mask_of_what_is_trained_must_match_something(table):
    with pytest.raises(ValueError, match=r"Task\(trainable=...\) does not fit the parameters: .*'Dens_9' matches no parameter"):
        ff.fit(task_of(Backbone(), trainable="Dens_9"), table[0])
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        ff.fit(task_of(Backbone(), trainable=lambda params: dict.fromkeys(params, False)), table[0])


class Ends(nn.Module):
    """Ends in a function of its own."""

    last: str = "sigmoid"
    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        return getattr(nn, self.last)(nn.Dense(self.outputs)(x))


def test_probabilities_before_a_loss_of_logits_are_warned_of_once(table):
    train = table[0]
    sigmoid = task_of(Ends())
    with pytest.warns(UserWarning, match=r"Ends ends in a sigmoid, but the loss binary_crossentropy takes logits"):
        ff.fit(sigmoid, train)
    ff.fit(sigmoid, train)  # a warning is an error here
    with pytest.warns(UserWarning, match="ends in a softmax"):
        ff.fit(task_of(Ends("softmax", 2), loss=ff.losses.categorical_crossentropy), train)
    ends = task_of(
        lambda rngs: nnx.Sequential(nnx.Linear(6, 2, rngs=rngs), nnx.softmax), loss=optax.softmax_cross_entropy_with_integer_labels
    )
    with pytest.warns(UserWarning, match="ends in a softmax"):
        ff.fit(ends, train)
    ff.fit(task_of(Ends("log_softmax", 2), loss=ff.losses.categorical_crossentropy), train)
    ff.fit(task_of(Ends(), loss=lambda p, y: (p[:, 0] - y) ** 2), train)
    ff.fit(task_of(Ends("silu")), train)


@pytest.mark.parametrize("model", [Backbone, *(pytest.param(other, marks=pytest.mark.slow) for other in (Silent, lambda: Nnx))])
def test_a_step_of_one_row_before_batch_norm_is_warned_of(model, table):
    task, data = task_of(model()), table[0][:49]
    with pytest.warns(UserWarning, match=r"the last batch of each epoch has a single example \(49 examples, batch_size=16\).* such as 17"):
        ff.fit(task, data, batch_size=16)
    ff.fit(task, data, batch_size=17)
    ff.fit(task_of(nn.Dense(1)), data, batch_size=16)


def test_one_image_has_statistics_of_its_own():
    class Pictures(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(1)(nn.BatchNorm(use_running_average=not train)(nn.Conv(2, (3, 3))(x)).mean((1, 2)))

    ff.fit(task_of(Pictures()), ff.Dataset(np.random.default_rng(0).normal(size=(9, 4, 4, 1)), np.arange(9) % 2), batch_size=4)


def test_the_state_of_another_optimizer_is_refused_with_the_cure(table):
    first = ff.fit(task_of(Silent()), table[0])
    second = task_of(Silent(), optimizer=optax.sgd(0.1, momentum=0.9))
    with pytest.raises(ValueError, match=r"initial holds the state of another optimizer: result\.best has none"):
        ff.fit(second, table[0], initial=first.last)
    ff.fit(second, table[0], initial=first.best)


def test_a_list_of_inputs_is_predicted_as_a_tuple_is(tmp_path):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, a, b, train):
            return nn.Dense(1)(jnp.concatenate([a, b], -1))

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 3)).astype(np.float32)  # equal shapes, so that NumPy would stack them
    task, data = ff.Task(Two(), ff.losses.mse, optax.adam(1e-2)), ff.Dataset([a, b], a[:, 0])
    result = ff.fit(task, data)
    for rows in (40, 2, 1):
        expected = ff.predict(task, result.best, (a[:rows], b[:rows]))
        np.testing.assert_array_equal(ff.predict(task, result.best, [a[:rows], b[:rows]]), expected)
    ff.export(tmp_path / "model", task, result.best, data)
    np.testing.assert_allclose(
        ff.load(tmp_path / "model").predict([a[:2], b[:2]]), ff.predict(task, result.best, (a[:2], b[:2])), rtol=1e-5
    )
