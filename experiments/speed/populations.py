"""Wall time of populations on one machine, against a scan written by hand, Keras on JAX and scikit-learn, in turn in one process.

"higgs" and "mnist300": two L2 penalties x some seeds, `fit_many` from call to return, divided by members and epochs, against an epoch
of one run: of a `fit` alone, from call to return; of the scan, and of Keras at its fastest `steps_per_execution`, without building the
model. One Keras run a round stands for those that would follow each other. Every peer trains with the same penalty, validates each
epoch and must reach about the same validation loss, else the comparison is refused; the population's first member must be the run
alone, bit for bit. Compilation is outside the clock.

"sonar": 10 x 10 stratified folds of 60-24-10-1, 100 epochs of batch 5. `cross_validate` validates each epoch and keeps the best weights
besides, scikit-learn's `MLPClassifier` does not. Keras trains a sample of the folds, extrapolated to all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flaxfit.cli import script

PENALTIES = {"higgs": (1e-4, 1e-3), "mnist300": (0.005, 0.05)}
EPOCHS = {"higgs": 200, "mnist300": 201, "sonar": 100}
KERAS_FOLDS = 3


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """A directory of original data files, which is searched before the network. By default FLAXFIT_ORIGINALS names it."""
    study: Literal["higgs", "mnist300", "sonar"] = "higgs"
    """higgs: 16 units, batches of 500. mnist300: 300 images, 6 x 100 units, validated on 10,000. sonar: cross-validation."""
    seeds: int = 8
    """How many seeds of each of the two penalties."""
    epochs: int | None = None
    """How many epochs to train each run. By default 200, 201 or 100."""
    repeats: int = 9
    """How often each program is timed, taking turns."""
    keras: bool = False
    """Also time Keras on JAX."""
    sizes: tuple[int, ...] = ()
    """Time populations of so many seeds under vmap instead, on HIGGS, such as 1 8 64 512. This is for accelerators."""


def main(config: Config) -> None:
    epochs = config.epochs or EPOCHS[config.study]
    if config.study == "sonar":
        sonar(config, epochs)
    else:
        population(config, epochs)


def population(config: Config, epochs: int) -> None:
    import numpy as np
    import optax
    from peers import Peer, Workload, by_hand, device, higgs, in_turn, keras_on_jax, refuse_unequal, show

    import flaxfit as ff

    def mnist300() -> Workload:
        splits = ff.data.load("mnist", train=300, test=10_000, originals=config.originals)
        train, test = (ff.Dataset(part.x.astype(np.float32).reshape(-1, 784) / 255, part.y) for part in (splits.train, splits.test))
        rate, shape = 0.01, {"hidden": (100,) * 6, "outputs": 10, "activation": "relu", "initializer": "he_normal"}
        optimizers = {"optimizer": optax.sgd(rate), "keras_optimizer": lambda keras: keras.optimizers.SGD(rate)}
        return Workload("MNIST-300", train, test, **shape, **optimizers, batch=100, replacement=True, tolerance=0.2)

    work = higgs((16,), "HIGGS tiny", config.originals) if config.study == "higgs" else mnist300()
    low, l2 = PENALTIES[config.study]
    options = {"validation": work.validation, "epochs": epochs, "batch_size": work.batch, "replacement": work.replacement}
    title = f"{work.title}, batch {work.batch}, {epochs} epochs x {config.repeats}, {device()}"
    firsts = {}  # a history of what must be the same run

    def make_task(hp):
        return work.task(hp["l2"])

    def many(grid: dict[str, list[float]], seeds: int, **where) -> Peer:
        def peer() -> tuple[float, float]:
            start = time.perf_counter()
            study = ff.fit_many(make_task, grid, work.train, seeds=seeds, **options, **where)
            seconds = time.perf_counter() - start
            of_l2 = study.select(l2=l2)
            firsts["member"] = of_l2.results[0].history
            return seconds / epochs / len(study), of_l2.scores("val_loss", "last").mean()

        return peer

    if config.sizes:
        peers = {f"{size} members": many({"l2": [l2]}, size, strategy="vmap") for size in config.sizes}
        show(title, "ms a member-epoch", *in_turn(peers, config.repeats))
        return

    task = work.task(l2)

    def alone() -> tuple[float, float]:
        start = time.perf_counter()
        firsts["alone"] = history = ff.fit(task, work.train, **options).history
        return (time.perf_counter() - start) / epochs, history["val_loss"][-1]

    name = f"fit_many, {2 * config.seeds} members"
    peers = {name: many({"l2": [low, l2]}, config.seeds), "fit alone": alone, "scan by hand": by_hand(work, epochs, l2)}
    if config.keras:
        peers |= keras_on_jax(work, epochs, l2)
    timings, losses = in_turn(peers, config.repeats)
    show(title, "ms a (member-)epoch", timings, losses)
    refuse_unequal(losses, "scan by hand", work.tolerance)
    if not np.array_equal(firsts["member"]["val_loss"], firsts["alone"]["val_loss"]):
        raise SystemExit("refused: the population's member is not the run alone")
    for other, most in (("scan by hand", 0.6), ("Keras", 1 / 6)):
        for peer in (peer for peer in peers if peer.startswith(other)):
            print(f"fit_many / {other}: {np.median(timings[name] / timings[peer]):.3f} (to be at most {most:.3f} of HIGGS on 2 cores)")


def sonar(config: Config, epochs: int) -> None:
    import warnings

    import jax
    import numpy as np
    import optax
    import sklearn
    from peers import Workload, device, keras_fit, keras_on_jax
    from rich.console import Console
    from rich.table import Table
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import cross_val_score
    from sklearn.neural_network import MLPClassifier

    import flaxfit as ff

    jax.config.update("jax_enable_compilation_cache", False)  # compilation is on the clock
    data = ff.data.load("sonar", originals=config.originals).train
    x, y = np.asarray(data.x), np.asarray(data.y)

    def workload(train: ff.Dataset, validation: ff.Dataset) -> Workload:
        shape = {"hidden": (24, 10), "outputs": 1, "activation": "relu", "initializer": "glorot_uniform"}
        optimizers = {"optimizer": optax.adam(1e-3), "keras_optimizer": lambda keras: keras.optimizers.Adam(1e-3)}
        return Workload("sonar", train, validation, **shape, **optimizers, batch=5)

    task = workload(data, data).task()
    how = {"alpha": 0.0, "batch_size": 5, "max_iter": epochs, "n_iter_no_change": epochs, "tol": 0.0, "random_state": 0}
    model = MLPClassifier((24, 10), **how)
    times: dict[str, list[float]] = {}
    scores: dict[str, np.ndarray] = {}
    folds = ff.data.folds(data, 10, stratified=True, repeats=10, seed=0)

    def flaxfit() -> np.ndarray:
        outcome = ff.cross_validate(task, data, folds=10, stratified=True, repeats=10, epochs=epochs, batch_size=5)
        return outcome.per_fold("accuracy")[0]

    def timed(name: str, scored) -> None:
        start = time.perf_counter()
        scores[name] = scored()
        times.setdefault(name, []).append(time.perf_counter() - start)

    timed("flaxfit, compilation included", flaxfit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its way to say that all epochs were trained
        for _ in range(config.repeats):
            timed("flaxfit", flaxfit)
            for jobs in (1, 2):
                name = f"scikit-learn {sklearn.__version__}, n_jobs={jobs}"
                timed(name, lambda jobs=jobs: cross_val_score(model, x, y, cv=folds, n_jobs=jobs))

    if config.keras:
        best, steps = "", 0
        for number, (train, test) in enumerate(folds[:KERAS_FOLDS]):
            work = workload(data[train], data[test])
            if not number:
                best = next(iter(keras_on_jax(work, epochs)))
                steps = int(best.split(", ")[1].split()[0])
            start = time.perf_counter()
            fit = keras_fit(work, steps)
            fit(epochs)
            kinds = {"compilation included": time.perf_counter() - start, "compiled before": epochs * fit(epochs)[0]}
            for kind, seconds in kinds.items():
                times.setdefault(f"{best}, {kind}; {KERAS_FOLDS} folds extrapolated", []).append(seconds * len(folds))

    table = Table(title=f"sonar, {len(folds)} trainings of 60-24-10-1, batch 5, {epochs} epochs x {config.repeats}, {device()}")
    for column in ("peer", "s (median)", "lowest", "highest", "peer / flaxfit", "accuracy, 95% interval (corrected)"):
        table.add_column(column)
    for name, seconds in times.items():
        typical = np.median(seconds)
        values = (f"{value:.2f}" for value in (typical, min(seconds), max(seconds), typical / np.median(times["flaxfit"])))
        accuracy = str(ff.statistics.interval(scores[name], method="corrected", test_ratio=1 / 9)) if name in scores else "-"
        table.add_row(name, *values, accuracy)
    Console(width=150).print(table)


if __name__ == "__main__":
    script(main, Config, __doc__)
