"""Callbacks: progress, logs and checkpoints, between the chunks of a run.

A run is computed in chunks, each one call of the compiled program. A chunk ends where a callback has asked to be called, and the callback
is given what was logged since its last call.
"""

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
