"""What is trained: a model, its objective, and how it is optimized."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from flaxfit.arguments import Mode, in_order, unwrapped
from flaxfit.losses import mode_of_function
from flaxfit.metrics import declared_of_batch, is_sklearn, of_whole_set
from flaxfit.positions import Counted
from flaxfit.regularize.masks import Mask
from flaxfit.rng import stream
from flaxfit.state import TrainState
from flaxfit.storage.predictor import COUNTED, SOWN
from flaxfit.train import convolutions, freezing, models, optimizers

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
"""(logits, y) -> one number a row, shape (rows,)."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained. It holds functions only, never numbers that training changes, and is compared by identity.

    Two fits of one `Task` object share their compiled programs; a second, equal-looking Task compiles its own.

    Attributes:
      model: a Linen module; an NNX module, whose weights at this moment are those that training starts from, whatever the seed; or
        `rngs -> NNX module`, such as its class, for fresh weights from each seed. It is told whether it trains by the argument of its
        `__call__` named `train`, `training`, `is_training`, `deterministic` or `use_running_average`. One that has none of them needs
        none: Linen's dropout and batch norm inside are told themselves, NNX modules by their `train()` and `eval()`. Of several
        inputs, a tuple or list goes to a `__call__` with several arguments one by one, a dict by name. What it sows as "losses"
        is added to the objective: numbers, or one for each row.
      loss: (logits, y) -> the data loss of each row, shape (rows,), of the model's outputs as they are: the losses here want logits, no
        softmax or sigmoid before. One with parameters called (y_true, y_pred), as in Keras, or alike gets the targets first. A loss in
        which rows meet is declared by `flaxfit.losses.of_batch`. It is logged under its `__name__`.
      optimizer: any optax transformation, or `optax.MultiSteps`. Those that ask for the objective's value, gradient or function get it.
      metrics: name -> (logits, y) -> one number a row.
      set_metrics: name -> (logits, y) -> one number for all validation rows, such as `flaxfit.metrics.f1` or a function of scikit-learn.
        They are computed at the end of each epoch and logged as `val_` and the name: functions of JAX inside the compiled run, others on
        the host, for which the run halts at each epoch's end. The outputs for all validation rows are in memory then.
      penalty: params -> scalar, added to the data loss (see `flaxfit.penalties`).
      constraint: params -> params, applied after each update (see `flaxfit.constraints`).
      augment: (key, x, y) -> (x, y), on each training batch after `preprocess`; never in evaluation.
      preprocess: x -> x, on every batch, in training and evaluation.
      rngs: the random streams that the model draws from in training. NNX's streams of other names draw from the first.
      learning_rate: number, or schedule of `TrainState.step`, for the log only: optax does not tell.
      eval_params: TrainState -> params used for validation, best weights and prediction, such as an average of weights. By default those
        that the optimizer asks for: SAM's without the adversarial step, the averages of schedule-free and lookahead.
      trainable: which parameters are trained, a regular expression on their path or another mask (see `flaxfit.masks.resolve`); None:
        all. The others get no update, no decay and no constraint, and the optimizer does not see them. Their modules' batch
        statistics stand still, and batch norm uses them in training too, as Keras's `trainable=False` does.
      ignore_label: a label that stands for "no label", such as -1. Examples with it count neither in the loss nor in the metrics nor in the
        number of examples that their means are over; where an example has a label at each of several positions, such as time steps, the
        same is true of positions. Labels are class numbers, or numbers of the outputs' shape. None: all count.
      network: the model in the one form in which the training step calls it.
      eval_batch_size: rows of a batch in evaluation where the loss or a metric depends on it, as `flaxfit.losses.of_batch` says; else None.
      counted: which labels count, or None where all do.

    Raises:
      TypeError: a field that is not of its kind.
      ValueError: a metric under a name that is logged already; `of_batch` of several sizes; a function whose parameters' names contradict
        each other; an optimizer that cannot work.

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
    network: models.LinenNetwork | models.NnxNetwork = field(init=False, repr=False)
    eval_batch_size: int | None = field(init=False, repr=False)
    counted: Counted | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
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
                raise TypeError(f"Task({name}=...) must be a function, got {type(function).__name__}.")
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

    def __getstate__(self) -> dict[str, Any]:
        """For cloudpickle: all but the compiled programs, which `flaxfit.train.compiled` keeps here."""
        return {name: value for name, value in vars(self).items() if name != "_flaxfit_programs"}

    @property
    def modes(self) -> dict[str, Mode]:
        """Logged name -> "min" or "max", of the objective, the data loss, the penalty, and each metric that says its mode."""
        metrics = {**self.metrics, **self.set_metrics}
        said: dict[str, Mode] = {name: mode for name, metric in metrics.items() if (mode := mode_of_function(metric)) is not None}
        said |= dict.fromkeys(("loss", self.loss_name, "penalty"), "min")
        return said

    @property
    def loss_name(self) -> str:
        """The name under which the data loss is logged: the function's own, or `data_loss` where it has none."""
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
        """A metric of a whole set, of the labels that count; `what` is what errors call it."""
        metric = of_whole_set(metric, what)
        return metric if self.counted is None else self.counted.of_set(metric)

    def apply(self, params: Any, collections: Any, x: Any, rngs: Mapping[str, Array] | None = None) -> tuple[Any, Any]:
        """The model's outputs for preprocessed rows, and its collections after them.

        Given `rngs` the model trains: it may draw from them and change its collections. Half-precision outputs come back as float32,
        so that losses and metrics are computed in it.
        """
        return self.forward(params, collections, x, rngs)[:2]

    def forward(
        self, params: Any, collections: Any, x: Any, rngs: Mapping[str, Array] | None = None, platform: str | None = None
    ) -> tuple[Any, Any, Array | None]:
        """What `apply` gives, and the losses that the model sowed: their sum for each row, shape (rows,), or None.

        `platform` is that of the devices, where this is part of a compiled loop: on "cpu" some operations then take other forms.
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
        if not isinstance(self.network, models.NnxNetwork):
            raise TypeError("write_back is for NNX modules; a Linen module has no weights: model.apply({'params': state.params}, ...).")
        state = self.evaluated(state)
        into = self.model if into is None and isinstance(self.model, nnx.Module) else into
        return self.network.module(state.params, state.collections, into)

    def prepared(self, x: Any) -> Any:
        """`x` as the model sees it."""
        return x if self.preprocess is None else self.preprocess(x)

    def penalized(self, params: Any) -> Array:
        """The penalty, zero where there is none."""
        return jnp.zeros(()) if self.penalty is None else self.penalty(params)


def _at_least_float32(array: Array) -> Array:
    return array.astype(jnp.float32) if array.dtype in (jnp.bfloat16, jnp.float16) else array
