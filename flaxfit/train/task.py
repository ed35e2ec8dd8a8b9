"""What is trained: a model, its objective, and how it is optimized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from flaxfit.arguments import Mode, in_order, unwrapped
from flaxfit.losses import mode_of_function
from flaxfit.metrics import declared_of_batch, is_sklearn, of_whole_set
from flaxfit.rng import stream
from flaxfit.state import TrainState

_LOGGED = {"loss", "penalty", "gradient_norm", "learning_rate", "kernel_l1", "kernel_l2", "kernel_max", "epoch", "best_epoch"}

RowFunction = Callable[[Any, Any], Any]
"""(logits, y) -> one number a row, shape (rows,)."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained. It holds functions only, never numbers that training changes, and is compared by identity.

    Two fits of one `Task` object share their compiled programs; a second, equal-looking Task compiles its own.

    Attributes:
      model: a Linen module with `__call__(self, x, *, train)`.
      loss: (logits, y) -> the data loss of each row, shape (rows,), of the model's outputs as they are: the losses here want logits, no
        softmax or sigmoid before. One with parameters called (y_true, y_pred), as in Keras, or alike gets the targets first. A loss in
        which rows meet is declared by `flaxfit.losses.of_batch`. It is logged under its `__name__`.
      optimizer: any optax transformation, or `optax.MultiSteps`; one that asks for `value=` gets the objective.
      metrics: name -> (logits, y) -> one number a row.
      set_metrics: name -> (logits, y) -> one number for all validation rows, such as `flaxfit.metrics.f1` or a function of scikit-learn.
        They are computed at the end of each epoch and logged as `val_` and the name: functions of JAX inside the compiled run, others on
        the host, for which the run halts at each epoch's end. The outputs for all validation rows are in memory then.
      penalty: params -> scalar, added to the data loss (see `flaxfit.penalties`).
      constraint: params -> params, applied after each update (see `flaxfit.constraints`).
      augment: (key, x, y) -> (x, y), on each training batch after `preprocess`; never in evaluation.
      preprocess: x -> x, on every batch, in training and evaluation.
      rngs: the Linen random streams that the model draws from in training.
      learning_rate: number, or schedule of `TrainState.step`, for the log only: optax does not tell.
      eval_params: TrainState -> params used for validation, best weights and prediction, such as an average of weights.
      eval_batch_size: rows of a batch in evaluation where the loss or a metric depends on it, as `flaxfit.losses.of_batch` says; else None.

    Raises:
      TypeError: a field that is not of its kind.
      ValueError: a metric under a name that is logged already; `of_batch` of several sizes; a function whose parameters' names contradict
        each other.

    Example:
      >>> import flaxfit as ff, optax
      >>> task = ff.Task(model=ff.nn.MLP((16,), 1), loss=ff.losses.binary_crossentropy, optimizer=optax.adam(1e-3))
      >>> task.loss_name
      'binary_crossentropy'
    """

    model: nn.Module
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
    eval_batch_size: int | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            hint = (
                "pass MyModel(...), not the class" if isinstance(self.model, type) else "an NNX module goes through flax.nnx.bridge.ToLinen"
            )
            raise TypeError(f"Task(model=...) must be a flax.linen.Module, got {type(self.model).__name__}: {hint}.")
        if isinstance(self.optimizer, optax.MultiSteps):
            object.__setattr__(self, "optimizer", self.optimizer.gradient_transformation())
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise TypeError(
                f"Task(optimizer=...) must be an optax transformation such as optax.adam(1e-3), got {type(self.optimizer).__name__}."
            )
        for what in ("metrics", "set_metrics"):
            if not isinstance(getattr(self, what), Mapping):
                raise TypeError(f'Task({what}=...) maps names to functions, as in {{"accuracy": ff.metrics.binary_accuracy}}.')
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
                raise TypeError(f"Task({name}=...) is a function of scikit-learn, which is of a whole set of NumPy arrays: {cure}.")
        for what, taken in (("metrics", {self.loss_name}), ("set_metrics", {self.loss_name, *self.metrics})):
            for name in getattr(self, what):
                if name in _LOGGED | taken or name.startswith("val_"):
                    raise ValueError(
                        f"Task({what}=...) may not hold {name!r}: that name is logged already; call the metric something else."
                    )
        object.__setattr__(self, "loss", in_order(self.loss, "Task(loss=...)"))
        metrics = {name: in_order(metric, f"Task(metrics=...), {name!r},") for name, metric in self.metrics.items()}
        object.__setattr__(self, "metrics", metrics)
        set_metrics = {name: of_whole_set(metric, f"Task(set_metrics=...), {name!r},") for name, metric in self.set_metrics.items()}
        object.__setattr__(self, "set_metrics", set_metrics)
        sizes = {declared.batch_size for declared in map(declared_of_batch, (self.loss, *self.metrics.values())) if declared is not None}
        if len(sizes) > 1:
            raise ValueError(f"all of_batch(..., batch_size=...) of a Task must have one batch size, got {sorted(sizes)}.")
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

    def apply(self, params: Any, collections: Any, x: Any, rngs: Mapping[str, Array] | None = None) -> tuple[Any, Any]:
        """The model's outputs for preprocessed rows, and its collections after them.

        Given `rngs` the model trains: it may draw from them and change its collections. Half-precision outputs come back as float32,
        so that losses and metrics are computed in it.
        """
        train = rngs is not None
        output = self.model.apply(
            {"params": params, **collections}, x, train=train, rngs=dict(rngs or {}), mutable=list(collections) if train else False
        )
        logits, collections = output if train else (output, collections)
        return jax.tree.map(_at_least_float32, logits), collections

    def init(self, key: Array, x: Any) -> TrainState:
        """Fresh weights, collections and optimizer state.

        Args:
          key: the run's root key; weights come from its streams, each named after a Linen stream.
          x: a few rows; only shapes and types matter.
        """
        rngs = {name: stream(key, f"init/{name}") for name in ("params", *self.rngs)}
        variables: Any = self.model.init(rngs, self.prepared(x), train=False)
        params = variables.get("params", {})
        collections = {name: value for name, value in variables.items() if name != "params"}
        return TrainState(jnp.zeros((), jnp.int32), params, collections, self.optimizer.init(params))

    def evaluated(self, state: TrainState) -> TrainState:
        """`state` as validation, best weights and prediction use it: `eval_params` applied, no optimizer state."""
        if state.opt_state is None:
            return state
        params = state.params if self.eval_params is None else self.eval_params(state)
        return TrainState(state.step, params, state.collections, None)

    def prepared(self, x: Any) -> Any:
        """`x` as the model sees it."""
        return x if self.preprocess is None else self.preprocess(x)

    def penalized(self, params: Any) -> Array:
        """The penalty, zero where there is none."""
        return jnp.zeros(()) if self.penalty is None else self.penalty(params)


def _at_least_float32(array: Array) -> Array:
    return array.astype(jnp.float32) if array.dtype in (jnp.bfloat16, jnp.float16) else array
