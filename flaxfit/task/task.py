"""What is trained: a model, its objective, and how it is optimized."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from flaxfit import losses, metrics
from flaxfit.arguments import Mode, in_order, unwrapped
from flaxfit.losses import mode_of_function
from flaxfit.metrics import declared_of_batch, is_sklearn, of_whole_set
from flaxfit.positions import Counted
from flaxfit.regularize.masks import Mask
from flaxfit.rng import stream
from flaxfit.state import TrainState
from flaxfit.storage.predictor import COUNTED, SOWN
from flaxfit.task import convolutions, freezing, models, optimizers

if TYPE_CHECKING:
    from flax import nnx

_LOGGED = {
    "loss",
    "penalty",
    "gradient_norm",
    "learning_rate",
    "kernel_l1",
    "kernel_l2",
    "kernel_max",
    "epoch",
    "best_epoch",
    COUNTED,
    SOWN,
}

RowFunction = Callable[[Any, Any], Any]
"""(logits, y) -> one number for each example, shape (rows,)."""


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A model, its objective, and its optimizer. A task holds functions only, and nothing that training changes.

    Tasks are compared by identity. Two fits of the same object share their compiled programs, while a second, equal task compiles its own.

    Attributes:
      model: a Linen module; an NNX module, from whose present weights each run starts, whatever its seed; or a function of `rngs` that
        returns an NNX module, such as its class, for fresh weights from each seed. A model is told whether it trains by the argument of
        its `__call__` named `train`, `training`, `is_training`, `deterministic` or `use_running_average`. Without such an argument, the
        dropout and batch norm inside a Linen module are told directly, and an NNX module by its `train()` and `eval()`. Several inputs
        in a tuple or list are passed as arguments in order, and in a dict by name. The "losses" that the model sows are added to the
        objective; each is one number, or one for each example.
      loss: (logits, y) -> the data loss of each example, shape (rows,). The losses of flaxfit take logits, without a softmax or sigmoid
        before them. A function whose parameters are named (y_true, y_pred), as in Keras, is called with the targets first. Declare a loss
        that mixes examples with `flaxfit.losses.of_batch`. The data loss is logged under the `__name__` of the function.
      optimizer: an optax transformation, or `optax.MultiSteps`. It is given the objective's value, gradient and function if it takes them.
      metrics: name -> (logits, y) -> one number for each example, shape (rows,).
      set_metrics: name -> (logits, y) -> one number for all validation examples, such as `flaxfit.metrics.f1` or a function of
        scikit-learn. They are computed at the end of each epoch and logged as `val_` and the name. Functions of JAX run inside the
        compiled run; for others, the run returns to the host after each epoch. All outputs for the validation examples are in memory then.
      penalty: params -> scalar, which is added to the data loss (see `flaxfit.penalties`).
      constraint: params -> params, which is applied after each update (see `flaxfit.constraints`).
      augment: (key, x, y) -> (x, y), which is applied to each training batch after `preprocess`, and never in evaluation.
      preprocess: x -> x, which is applied to each batch, in training and in evaluation.
      rngs: the random streams that the model uses in training. Streams of an NNX module with other names draw from the first one.
      learning_rate: a number, or a schedule of `TrainState.step`. It is only logged, because optax does not report it.
      eval_params: TrainState -> the params for validation, best weights and prediction, such as an average of weights. By default those
        that the optimizer evaluates: without the adversarial step for SAM, the averages for schedule-free optimizers and lookahead.
      trainable: which parameters are trained: a regular expression on their path, or another mask (see `flaxfit.masks.resolve`). None for
        all. The others get no update, decay or constraint, and the optimizer does not see them. The batch statistics of their modules
        are frozen and used in training too, as with `trainable=False` in Keras.
      ignore_label: a label that stands for "no label", such as -1. Examples with it count neither in the loss and the metrics nor in the
        number of examples that means are taken over. If an example has a label at each of several positions, such as time steps, this
        is true of single positions. Labels are class numbers, or have the shape of the outputs. None if all labels count.
      network: the model in the form in which the training step calls it.
      eval_batch_size: the number of examples of a batch in evaluation, if a loss or metric depends on it (`flaxfit.losses.of_batch`).
      counted: which labels count, or None for all.

    Raises:
      TypeError: a field has the wrong type.
      ValueError: the name of a metric is in use; two `of_batch` have different batch sizes; the parameter names of a loss or metric
        contradict each other; the optimizer cannot work here.

    Example:
      >>> import flaxfit as ff, optax
      >>> task = ff.Task(model=ff.nn.MLP((16,), 1), loss=ff.losses.binary_crossentropy, optimizer=optax.adam(1e-3))
      >>> task.loss_name
      'binary_crossentropy'
    """

    model: Any
    loss: RowFunction
    optimizer: optax.GradientTransformation
    metrics: Mapping[str, RowFunction] = field(default_factory=dict)
    set_metrics: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict, kw_only=True)
    penalty: Callable[[Any], Array] | None = None
    constraint: Callable[[Any], Any] | None = None
    augment: Callable[[Array, Any, Any], tuple[Any, Any]] | None = None
    preprocess: Callable[[Any], Any] | None = None
    rngs: tuple[str, ...] = ("dropout",)
    learning_rate: Any = None
    eval_params: Callable[[Any], Any] | None = None
    trainable: Mask | None = None
    ignore_label: float | None = field(default=None, kw_only=True)
    network: models.Network = field(init=False, repr=False)
    eval_batch_size: int | None = field(init=False, repr=False)
    counted: Counted | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if models.is_module(self.loss):
            raise TypeError(f"Task(loss=...) must be a function, got the module {type(self.loss).__name__}: Task(model, loss, optimizer).")
        object.__setattr__(self, "network", models.network(self.model))
        object.__setattr__(self, "optimizer", optimizers.adapted(self.optimizer))
        for what in ("metrics", "set_metrics"):
            if not isinstance(getattr(self, what), Mapping):
                raise TypeError(f'Task({what}=...) must map names to functions, such as {{"accuracy": ff.metrics.binary_accuracy}}.')
        functions = {"loss": self.loss, **{f"metrics[{name!r}]": metric for name, metric in self.metrics.items()}}
        optional = {name: getattr(self, name) for name in ("penalty", "constraint", "augment", "preprocess", "eval_params")}
        others = {f"set_metrics[{name!r}]": metric for name, metric in self.set_metrics.items()}
        others |= {name: function for name, function in optional.items() if function is not None}
        for name, function in (functions | others).items():
            if not callable(function):
                raise TypeError(f"Task({name}=...) must be a function, got {type(function).__name__}{_named(name, function)}.")
        for name, function in functions.items():
            if is_sklearn(function):
                cure = "flaxfit.losses has losses that JAX can differentiate" if name == "loss" else "use Task(set_metrics=...)"
                raise TypeError(f"Task({name}=...) is a function of scikit-learn, which computes one number for a whole set: {cure}.")
        for what, taken in (("metrics", {self.loss_name}), ("set_metrics", {self.loss_name, *self.metrics})):
            for name in getattr(self, what):
                if name in _LOGGED | taken or name.startswith("val_"):
                    raise ValueError(f"Task({what}=...) must not have the name {name!r}, which is in use: give the metric another name.")
        object.__setattr__(self, "loss", in_order(self.loss, "Task(loss=...)"))
        metrics = {name: in_order(metric, f"Task(metrics=...), {name!r},") for name, metric in self.metrics.items()}
        object.__setattr__(self, "metrics", metrics)
        if self.ignore_label is not None and (isinstance(self.ignore_label, bool) or not isinstance(self.ignore_label, int | float)):
            raise TypeError(f"Task(ignore_label=...) must be a number, such as -1, got {self.ignore_label!r}.")
        object.__setattr__(self, "counted", None if self.ignore_label is None else Counted(self.ignore_label))
        set_metrics = {name: self.of_set(metric, f"Task(set_metrics=...), {name!r},") for name, metric in self.set_metrics.items()}
        object.__setattr__(self, "set_metrics", set_metrics)
        sizes = {declared.batch_size for declared in map(declared_of_batch, (self.loss, *self.metrics.values())) if declared is not None}
        if len(sizes) > 1:
            raise ValueError(f"all of_batch(..., batch_size=...) of a Task must have the same batch size, got {sorted(sizes)}.")
        if sizes and self.counted is not None:
            raise ValueError("Task(ignore_label=...) needs losses and metrics of single examples: of_batch computes with all of a batch.")
        object.__setattr__(self, "eval_batch_size", next(iter(sizes), None))
        object.__setattr__(self, "rngs", (self.rngs,) if isinstance(self.rngs, str) else tuple(self.rngs))

    @property
    def modes(self) -> dict[str, Mode]:
        """Logged name -> "min" or "max", for the objective, the data loss, the penalty, and each metric whose mode is known."""
        metrics = {**self.metrics, **self.set_metrics}
        said: dict[str, Mode] = {name: mode for name, metric in metrics.items() if (mode := mode_of_function(metric)) is not None}
        said |= dict.fromkeys(("loss", self.loss_name, "penalty"), "min")
        return said

    @property
    def loss_name(self) -> str:
        """The name under which the data loss is logged: that of the function, or `data_loss` if it has none."""
        name = getattr(unwrapped(self.loss), "__name__", "<lambda>")
        return "data_loss" if name == "<lambda>" or name in _LOGGED else name

    @property
    def row_loss(self) -> RowFunction:
        """The loss of each example, 0 at labels that do not count."""
        return self.loss if self.counted is None else self.counted.by_row(self.loss)

    @property
    def row_metrics(self) -> Mapping[str, RowFunction]:
        """The metrics of each example, 0 at labels that do not count."""
        return self.metrics if self.counted is None else {name: self.counted.by_row(metric) for name, metric in self.metrics.items()}

    def of_set(self, metric: Callable[..., Any], what: str) -> Callable[[Any, Any], Any]:
        """Returns a metric of a whole set for the labels that count. Errors call it `what`."""
        metric = of_whole_set(metric, what)
        return metric if self.counted is None else self.counted.of_set(metric)

    def apply(self, params: Any, collections: Any, x: Any, rngs: Mapping[str, Array] | None = None) -> tuple[Any, Any]:
        """Returns the outputs of the model for preprocessed inputs, and its collections after the call.

        With `rngs` the model trains: it may draw from them and change its collections. Outputs of half precision are returned as float32,
        so that losses and metrics are computed with it.
        """
        return self.forward(params, collections, x, rngs)[:2]

    def forward(
        self, params: Any, collections: Any, x: Any, rngs: Mapping[str, Array] | None = None, platform: str | None = None
    ) -> tuple[Any, Any, Array | None]:
        """Returns what `apply` does, and the sum of the losses that the model sowed, shape (rows,), or None.

        `platform` is that of the devices if this is part of a compiled loop; on "cpu" some operations then take faster forms.
        """
        frozen = None if self.trainable is None else freezing.frozen_modules(self.trainable, params)
        apply = functools.partial(self.network.apply, frozen=frozen)
        if platform == "cpu":
            apply = functools.partial(convolutions.rewritten, apply)
        logits, new, sown = apply(params, collections, x, rngs)
        new = new if frozen is None else freezing.kept(frozen, new, collections)
        return jax.tree.map(_at_least_float32, logits), new, models.auxiliary(sown, jax.tree.leaves(x)[0].shape[0])

    def init(self, key: Array, x: Any) -> TrainState:
        """Fresh weights, collections and optimizer state.

        Args:
          key: the run's root key; weights come from its streams, each named after a random stream of the model.
          x: a few rows; only shapes and types matter.
        """
        params, collections = self.variables(key, x)
        return TrainState(jnp.zeros((), jnp.int32), params, collections, self.optimizer.init(self.trained(params)))

    def variables(self, key: Array, x: Any) -> tuple[Any, Any]:
        """Fresh weights and collections. Arguments as `init`."""
        return self.network.init({name: stream(key, f"init/{name}") for name in ("params", *self.rngs)}, self.prepared(x))

    def trained(self, params: Any) -> Any:
        """`params` as the optimizer sees them: with `optax.MaskedNode()` for those that are not `trainable`."""
        return freezing.trained(self.trainable, params)

    def averages(self, shapes: TrainState) -> bool:
        """Whether other weights than `params` are evaluated, for which a state of these shapes needs that of the optimizer."""
        return self.eval_params is not None or optimizers.keeps_other_weights(shapes.opt_state)

    def evaluated(self, state: TrainState) -> TrainState:
        """`state` as validation, best weights and prediction use it: `eval_params` applied, no optimizer state."""
        if state.opt_state is None:
            return state
        if self.eval_params is not None:
            params = self.eval_params(state)
        else:
            params = optimizers.evaluation_weights(state.opt_state, self.trained(state.params))
        return TrainState(state.step, optimizers.completed(params, state.params), state.collections, None)

    def write_back(self, state: TrainState, into: nnx.Module | None = None) -> nnx.Module:
        """Writes the weights of a state into an NNX module: the task's own, or another of the same kind.

        Args:
          state: `result.best`, or any state of this task.
          into: the module; by default the one that the task was given, or a new one where it was given a function.

        Returns:
          The module, in evaluation mode.

        Raises:
          TypeError: the task's model is no NNX module.
          ValueError: the weights do not fit.
        """
        state = self.evaluated(state)
        return self.network.module(state.params, state.collections, into)

    def __repr__(self) -> str:
        metrics = ", ".join([*self.metrics, *self.set_metrics]) or "none"
        return f"Task({self.network.name}; loss {self.loss_name}; metrics {metrics})"

    def prepared(self, x: Any) -> Any:
        """`x` as the model sees it."""
        return x if self.preprocess is None else self.preprocess(x)

    def penalized(self, params: Any) -> Array:
        """The penalty, zero where there is none."""
        return jnp.zeros(()) if self.penalty is None else self.penalty(params)


def _at_least_float32(array: Array) -> Array:
    return array.astype(jnp.float32) if array.dtype in (jnp.bfloat16, jnp.float16) else array


def _named(name: str, function: Any) -> str:
    """For the name of a loss or metric, as Keras takes them: the function that has the most similar name."""
    module = losses if name == "loss" else metrics if "metrics" in name else None
    if module is None or not isinstance(function, str):
        return ""
    known = [each for each, value in vars(module).items() if getattr(value, "mode", None) and each.islower()]
    near = difflib.get_close_matches(function, known, n=1, cutoff=0.4) or known[:1]
    return f" {function!r}: pass the function, such as ff.{module.__name__.rpartition('.')[2]}.{near[0]}"
