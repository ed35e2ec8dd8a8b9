"""Every optimizer of optax and optax.contrib trains, and a resumed run has the same bits; what cannot is refused by its name."""

from __future__ import annotations

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import flaxfit as ff
from flaxfit.task import optimizers

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SPECIAL = {
    "lbfgs": optax.lbfgs,
    "lookahead": lambda: optax.lookahead(optax.adam(0.05), sync_period=3, slow_step_size=0.5),
    "noisy_sgd": lambda: optax.noisy_sgd(0.01, key=jax.random.key(3)),
    "polyak_sgd": lambda: optax.polyak_sgd(0.5),
    "galore": lambda: contrib.galore(0.05, rank=2),
    "mechanize": lambda: contrib.mechanize(optax.sgd(0.1), s_init=0.01),
    "prodigy": lambda: contrib.prodigy(1.0, estim_lr0=1e-2),
    "dadapt_adamw": lambda: contrib.dadapt_adamw(1.0, estim_lr0=1e-2),
    "cocob": contrib.cocob,
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(0.05), 0.05),
    "sam": lambda: contrib.sam(optax.sgd(0.05), optax.chain(contrib.normalize(), optax.sgd(0.05))),
    "sam, opaque": lambda: contrib.sam(optax.adam(0.05), optax.sgd(0.05), opaque_mode=True),
    "clip, sam": lambda: optax.chain(optax.clip_by_global_norm(1.0), contrib.sam(optax.sgd(0.05), optax.sgd(0.05))),
    "backtracking": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10, store_grad=True)),
    "reduce_on_plateau": lambda: optax.chain(optax.adam(0.05), contrib.reduce_on_plateau(patience=2)),
    "MultiSteps, plateau": lambda: optax.MultiSteps(optax.chain(optax.adam(0.05), contrib.reduce_on_plateau(patience=2)), 3),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=optax.cosine_decay_schedule(0.1, 40)),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.05), 3),
    "partition": lambda: optax.partition({"a": optax.adam(0.05), "b": optax.sgd(0.05)}, {"Dense_0": "a", "Dense_1": "b"}),
    "add_noise": lambda: optax.chain(optax.add_noise(0.01, 0.55, jax.random.key(3)), optax.sgd(0.01)),
    "snapshot": lambda: optax.chain(optax.snapshot("norm", optax.tree.norm), optax.sgd(0.01)),
}
RATES = {"adadelta": 10.0, "lars": 20.0, "adafactor": 0.1, "sm3": 0.1, "fromage": 0.05}
LEFT_OUT = {"dpsgd", "_deprecated_dpsgd", "optimistic_adam"}  # refused; deprecated


def all_optimizers():
    """The optimizers of optax: what takes a learning rate first and gives a transformation."""
    for module in (optax, contrib):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            signature = inspect.signature(function)
            if "GradientTransformation" in str(signature.return_annotation) and not name.startswith("scale_by_"):
                first = next(iter(signature.parameters), None)
                if first == "learning_rate" and name not in SPECIAL.keys() | LEFT_OUT:
                    yield name, lambda function=function, name=name: function(RATES.get(name, 0.05))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(nn.relu(nn.Dense(4)(x)))


@pytest.fixture(scope="module")
def line():
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    return ff.Dataset(x, x.sum(1))


def bits(state):
    leaves = jax.tree.leaves(state)
    return [np.asarray(jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a) for a in leaves]


QUICK = {"adam", "adamw", "sgd", "lars", "adafactor", "rmsprop", "prodigy", *SPECIAL}  # all of them take minutes: -m slow
WITH_MARKS = [
    pytest.param(name, make, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for name, make in [*all_optimizers(), *SPECIAL.items()]
]


@pytest.mark.parametrize(("name", "make"), WITH_MARKS)
def test_it_trains_and_resumes(name, make, line, tmp_path):
    task, rows = ff.Task(Net(), ff.losses.mse, make()), line[:48]  # in whole batches: a short last one would be a second step to compile
    whole = ff.fit(task, rows, epochs=6, batch_size=12)
    assert whole.history["loss"][-1] < 0.995 * whole.history["loss"][0]
    ff.fit(task, rows, epochs=3, batch_size=12, run_dir=tmp_path / "run")
    resumed = ff.fit(task, rows, epochs=6, batch_size=12, run_dir=tmp_path / "run")
    assert resumed.history == whole.history
    assert all(np.array_equal(a, b) for a, b in zip(bits(resumed.last), bits(whole.last), strict=True))


def test_lbfgs_takes_the_steps_of_optax_by_hand(line):
    """The full batch, without dropout: the objective with its penalty is what the line search evaluates."""
    task = ff.Task(Net(), ff.losses.mse, optax.lbfgs(), penalty=ff.penalties.l2(1e-2))
    result = ff.fit(task, line, epochs=8, batch_size=50)
    params = task.init(jax.random.key(0), line.x).params

    def objective(params):
        return jnp.mean((Net().apply({"params": params}, line.x, train=True)[:, 0] - line.y) ** 2) + task.penalty(params)

    optimizer, losses = optax.lbfgs(), []
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(objective)(params)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(params, updates), state, value

    for _ in range(8):
        params, state, value = step(params, state)
        losses.append(float(value))
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-3)
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("opaque", [False, True])
def test_sam_takes_the_gradient_at_the_adversarial_weights(opaque, line):
    """Foret et al. 2021, by hand: a step up, its gradient, a step from where it started. The other way it takes two steps for it."""
    rate, radius = 0.05, 0.1
    sam = contrib.sam(optax.sgd(rate), optax.chain(contrib.normalize(), optax.sgd(radius)), opaque_mode=opaque)
    task = ff.Task(Net(), ff.losses.mse, sam)
    params = task.init(jax.random.key(0), line.x).params
    gradient = jax.grad(lambda p: jnp.mean((Net().apply({"params": p}, line.x, train=True)[:, 0] - line.y) ** 2))
    for _ in range(3):
        first = gradient(params)
        up = jax.tree.map(lambda p, g: p + radius * g / optax.tree.norm(first), params, first)  # noqa: B023
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradient(up))
    result = ff.fit(task, line, epochs=3 if opaque else 6, batch_size=50)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), result.last.params, params)


def test_what_is_evaluated_is_not_sams_adversarial_step(line):
    """After 7 steps of two each, the weights are a step up the slope; before it they were those of 6 steps."""
    sam = contrib.sam(optax.sgd(0.05), optax.sgd(0.5))
    task = ff.Task(Net(), ff.losses.mse, sam)
    six, seven = (ff.fit(task, line, validation=line, epochs=epochs, batch_size=50) for epochs in (6, 7))
    assert six.history["val_loss"][-1] == pytest.approx(seven.history["val_loss"][-1], rel=1e-6)
    assert ff.evaluate(task, seven.last, line)["loss"] == pytest.approx(seven.history["val_loss"][-1], rel=1e-6)
    trained = ff.TrainState(seven.last.step, seven.last.params, {}, None)
    assert ff.evaluate(task, trained, line)["loss"] > 1.05 * seven.history["val_loss"][-1]


def test_schedule_free_and_lookahead_are_evaluated_as_their_authors_say(line):
    free = ff.Task(Net(), ff.losses.mse, contrib.schedule_free_sgd(0.05))
    last = ff.fit(free, line, epochs=5, batch_size=16).last
    expected = contrib.schedule_free_eval_params(last.opt_state, last.params)
    jax.tree.map(np.testing.assert_array_equal, free.evaluated(last).params, expected)
    assert optax.tree.norm(optax.tree.sub(expected, last.params)) > 1e-3

    fast = optax.adam(0.05)
    ahead = ff.Task(Net(), ff.losses.mse, optax.lookahead(fast, sync_period=3, slow_step_size=0.5))
    last = ff.fit(ahead, line, epochs=5, batch_size=50).last
    alone = ff.Task(Net(), ff.losses.mse, fast)
    three = ff.fit(alone, line, epochs=3, batch_size=50).last.params
    middle = jax.tree.map(lambda a, b: (a + b) / 2, alone.init(jax.random.key(0), line.x).params, three)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ahead.evaluated(last).params, middle)


def test_a_state_that_keeps_other_weights_for_a_part_of_the_parameters(line):
    """`optax.masked` hides the others; they are evaluated as they are."""
    partly = optax.chain(
        optax.masked(contrib.schedule_free_sgd(0.05), {"Dense_0": True, "Dense_1": False}),
        optax.masked(optax.sgd(0.05), {"Dense_0": False, "Dense_1": True}),
    )
    task = ff.Task(Net(), ff.losses.mse, partly)
    last = ff.fit(task, line, epochs=5, batch_size=16).last
    evaluated = task.evaluated(last).params
    jax.tree.map(np.testing.assert_array_equal, evaluated["Dense_1"], last.params["Dense_1"])
    assert np.abs(evaluated["Dense_0"]["kernel"] - last.params["Dense_0"]["kernel"]).max() > 1e-4


def refused():
    yield contrib.dpsgd(0.1, 1.0, 1.0, seed=0), r"optax's differentially_private_aggregate, which needs the gradient of each example"
    yield optax.inject_hyperparams(contrib.dpsgd)(0.1, 1.0, 1.0, seed=0), "cannot use optax's dpsgd"
    lookahead = optax.lookahead(optax.adam(0.05), 3, 0.5)
    yield optax.chain(optax.clip(1.0), lookahead), r"only as its outermost part.*optax\.lookahead\(optax\.chain"
    yield optax.MultiSteps(lookahead, 2), "only as its outermost part"


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("case", range(4))
def test_what_cannot_work_is_refused_by_name(case):
    optimizer, message = list(refused())[case]
    with pytest.raises(ValueError, match=message):
        ff.Task(Net(), ff.losses.mse, optimizer)


def test_a_line_search_behind_a_mask_says_what_it_needs(line):
    mask = {"Dense_0": {"kernel": True, "bias": False}, "Dense_1": True}
    with pytest.raises(ValueError, match=r"mask_compatible_extra_args=True"):
        ff.fit(ff.Task(Net(), ff.losses.mse, optax.masked(optax.lbfgs(), mask)), line)
    others = jax.tree.map(lambda flag: not flag, {**mask, "Dense_1": {"kernel": True, "bias": True}})
    both = optax.chain(optax.masked(optax.lbfgs(), mask, mask_compatible_extra_args=True), optax.masked(optax.sgd(0.1), others))
    history = ff.fit(ff.Task(Net(), ff.losses.mse, both), line, epochs=8, batch_size=50).history["loss"]
    assert history[-1] < 0.3 * history[0]


def test_a_transformation_that_takes_some_arguments_gets_these_deep_in_a_chain(line):
    seen = []

    def update(updates, state, params=None, *, value, grad_fn):
        seen.append(jax.tree.map(jnp.shape, grad_fn(params, 0)))
        return updates, value

    own = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    task = ff.Task(Net(), ff.losses.mse, optax.chain(optax.clip(1.0), optax.chain(own, optax.sgd(0.1))))
    result = ff.fit(task, line, epochs=1, batch_size=50)
    assert float(result.last.opt_state[1][0]) == result.history["loss"][0]
    assert seen[0]["Dense_0"]["kernel"] == (4, 1)


def test_the_names_of_an_optimizer_are_found_in_what_users_build_around_it():
    inner = contrib.sam(optax.adam(0.1), optax.sgd(0.1))
    own = optax.GradientTransformation(inner.init, lambda *args: inner.update(*args))
    assert {"sam", "scale_by_adam", "chain"} <= optimizers._names(optax.MultiSteps(own, 2).gradient_transformation())
