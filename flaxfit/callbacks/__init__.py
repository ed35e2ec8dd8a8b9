"""Callbacks: progress, logs and checkpoints, between the chunks of a run.

A run is computed in chunks, each one call of the compiled program. A chunk ends where a callback has asked to be called, and the callback
is given what was logged since its last call.
"""

from typing import TYPE_CHECKING, Any

from flaxfit.arguments import absent
from flaxfit.callbacks.base import Callback, Progress, Run
from flaxfit.callbacks.checkpoints import Checkpoint, SaveWeights
from flaxfit.callbacks.loggers import CSVLogger, MLflow, TensorBoard, Wandb
from flaxfit.callbacks.progress import Dots, ProgressBar

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "Dots",
    "MLflow",
    "Progress",
    "ProgressBar",
    "Run",
    "SaveWeights",
    "TensorBoard",
    "Wandb",
]

_KERAS = {
    "EarlyStopping": "fit(early_stopping=ff.EarlyStopping(...))",
    "ReduceLROnPlateau": "fit(plateau=ff.Plateau(...))",
    "ModelCheckpoint": "ff.callbacks.SaveWeights for files of weights, and fit(run_dir=...) for the model",
    "BackupAndRestore": "fit(run_dir=...)",
    "LearningRateScheduler": "a schedule of optax, such as optax.adam(optax.cosine_decay_schedule(1e-3, steps))",
    "TerminateOnNaN": "fit(terminate_on_nan=True), the default",
    "LambdaCallback": "a class that is derived from ff.callbacks.Callback",
}


if not TYPE_CHECKING:  # a type checker finds unknown names itself

    def __getattr__(name: str) -> Any:
        raise absent(__name__, name, __all__, _KERAS)
