"""What the studies of IMDB's reviews have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

import flaxfit as ff

LOSS = "binary_crossentropy"
COIN = 0.69
"""A run whose test loss never falls below it has died: its ReLU units give 0. The loss of a coin is 0.693."""

AFTER = 5
"""Over how many epochs after the least test loss the rise is measured."""


def load(config: Any, words: int) -> ff.data.Splits:
    """Returns the reviews in Keras's layout, as many as a study's options say."""
    return ff.data.load("imdb", vocabulary=words, layout="keras", train=config.rows, test=config.rows, originals=config.originals)


def make_task(model: Any, **more: Any) -> ff.Task:
    """Returns a task with the loss, the optimizer and the metric of the sources."""
    import optax

    metrics = {"accuracy": ff.metrics.binary_accuracy}
    return ff.Task(model, ff.losses.binary_crossentropy, optax.adam(1e-3, eps=1e-7), metrics=metrics, **more)


def kernels(result: ff.Result, hidden: bool = False) -> np.ndarray:
    """Returns the weights of all kernels after the last epoch in one row, or those of all but the last layer."""
    layers = [layer["kernel"].ravel() for _, layer in sorted(result.last.params.items())]
    return np.concatenate(layers[:-1] if hidden else layers)


def measures(study: ff.Study, epochs: int | None = None) -> dict[str, np.ndarray]:
    """Returns what runs of one length gave, one number a run, NaN for those that died; "then" is after `epochs`, by default the end."""
    columns = (LOSS, f"val_{LOSS}", "val_accuracy", "kernel_l1")
    training, loss, accuracy, size = (np.array([result.history[name] for result in study.results]) for name in columns)
    at = np.arange(len(loss)), (onset := loss.argmin(1))  # from 0, as the sources count
    found = {"onset": onset, "best": loss[at], "last": loss[:, -1], "training": training[:, -1]}
    later = np.minimum(onset + AFTER, loss.shape[1] - 1)
    found |= {"rise": (loss[at[0], later] - loss[at]) / np.maximum(later - onset, 1)}
    found |= {"accuracy": accuracy[at], "last accuracy": accuracy[:, -1]}
    found |= {"before": size[at], "after": size[:, -1], "then": size[:, :epochs][:, -1], "growth": size[:, -1] / size[at]}
    return {name: np.where(loss.min(1) < COIN, values, np.nan) for name, values in found.items()}


def curves(study: ff.Study) -> list[ff.History]:
    """Returns the histories of the runs that did not die."""
    return [result.history for result in study.results if result.history[f"val_{LOSS}"].min() < COIN]


def alive(*runs: np.ndarray) -> np.ndarray:
    """Returns the numbers of the seeds with which none of these networks died; they have the first seeds in common."""
    both = np.stack([each[: min(map(len, runs))] for each in runs])
    return both[:, np.isfinite(both).all(0)]
