"""What the faults befall: `python child.py KIND DIRECTORY` trains in the directory and prints a checksum of all results."""

import os
import sys
import time
import zlib

import jax
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  (imported here, so that forked processes have it)

import flaxfit as ff

EPOCHS = 40
IMPORTED = ff.fit, ff.fit_many, ff.cross_validate, ff.load  # names are imported when they are first used


class Slow(ff.callbacks.Callback):
    """Makes an epoch last long enough for a fault to meet it."""

    every_epochs = 1

    def on_chunk_end(self, progress):
        time.sleep(0.02)


def data(rows=200):
    x = np.random.default_rng(0).normal(size=(rows, 6)).astype(np.float32)
    return ff.Dataset(x, (x[:, 0] * x[:, 1] > 0).astype(np.int32))


def task(hp=None):
    model = ff.nn.MLP((16, 16), 1, dropout=0.1, batch_norm=True)
    return ff.Task(model, ff.losses.binary_crossentropy, optax.adam((hp or {}).get("rate", 1e-2)))


def callbacks():
    return [Slow(), ff.callbacks.Checkpoint(every_epochs=3)]


def fit(directory, epochs=EPOCHS, **options):
    return ff.fit(task(), data(), epochs=epochs, run_dir=directory, callbacks=callbacks(), **options)


def train(kind, directory):
    """Returns the results of a kind of training."""
    if kind in ("fit", "continued"):
        return [fit(directory)]
    grid = {"rate": [1e-2, 1e-3]}
    if kind == "cross-validation":  # which takes no callbacks, so it has more epochs instead
        return ff.cross_validate(task, data(), grid=grid, folds=2, epochs=50 * EPOCHS, run_dir=directory).study.results
    chosen = {"callbacks": lambda member: callbacks(), "strategy": kind}
    return ff.fit_many(task, grid, data(), seeds=2, epochs=EPOCHS // 2, run_dir=directory, **chosen).results


def checksum(results):
    crc = 0
    for result in results:
        for leaf in jax.tree.leaves((result.best, result.last)):
            crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
        for column in result.history.values():
            crc = zlib.crc32(np.ascontiguousarray(column).tobytes(), crc)
    return crc


def main(kind, directory):
    print("ready", flush=True)
    if kind == "begun":  # a finished run that is continued later
        fit(directory, EPOCHS // 2)
    else:
        print("done", checksum(train(kind, directory)), flush=True)


def forked(kind, directory, log):
    """`main` in a process that was forked from one with all imports. What it says goes to a file."""
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    main(kind, directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
