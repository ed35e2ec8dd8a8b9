# pyright: strict, reportMissingTypeStubs=false
"""A user's code in pyright's strict mode: the types of the public names are known. It is checked and never run."""

from __future__ import annotations

import numpy as np
import optax

import flaxfit as ff


class Stop(ff.callbacks.Callback):
    every_epochs = 1

    def on_chunk_end(self, progress: ff.callbacks.Progress) -> None:
        if progress.new["loss"][-1] < 0.1:
            progress.stop()


def use() -> list[float]:
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    data = ff.Dataset(x, (x[:, 0] > 0).astype(np.int32))
    task = ff.Task(
        ff.nn.MLP((4,), 1),
        ff.losses.binary_crossentropy,
        optax.adam(1e-2),
        {"accuracy": ff.metrics.binary_accuracy},
        penalty=ff.penalties.l2(1e-3, ff.masks.kernels),
    )
    callbacks = [Stop(), ff.callbacks.CSVLogger("log.csv"), ff.callbacks.TensorBoard("logs", {"l2": 1e-3})]
    stopping = ff.EarlyStopping("loss", patience=3)
    result = ff.fit(task, data, epochs=2, early_stopping=stopping, callbacks=callbacks, run_dir="run")
    scores = ff.evaluate(task, result.best, data)
    study = ff.fit_many(task, None, data, seeds=2, epochs=2)
    folds = ff.cross_validate(task, data, folds=3, epochs=1)
    found = ff.overfitting_study(None, data)
    model = ff.load("run")
    print(ff.diagnose(result.history).verdict, study.table("loss"), folds.table("accuracy"), found, model.predict(x))
    return [float(result.history["loss"][-1]), scores["accuracy"], ff.statistics.interval([0.1, 0.2]).mean]
