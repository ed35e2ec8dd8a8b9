"""Workers of an executor that are killed at random moments: in a process pool, and on a Dask cluster.

`python -m tests.faults.workers` also prints what an executor costs a member, compared with threads.
"""

import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import optax

import flaxfit as ff
from tests.faults.runs import Tally

MEMBERS = 64


def population(epochs, **options):
    """Trains 64 members, and returns their histories and weights as bytes."""

    def make_task(hp):
        return ff.Task(ff.nn.MLP((16,), 1, dropout=hp["dropout"]), ff.losses.binary_crossentropy, optax.adam(hp["rate"]))

    rng = np.random.default_rng(7)
    x = rng.normal(size=(350, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + 0.5 * x[:, 2] + 0.5 * rng.normal(size=350) > 0).astype(np.int32)
    rows, validation = ff.Dataset(x[:250], y[:250]), ff.Dataset(x[250:], y[250:])
    grid = {"dropout": [0.0, 0.1, 0.2, 0.3], "rate": [1e-3, 3e-3, 1e-2, 3e-2]}
    study = ff.fit_many(make_task, grid, rows, validation=validation, seeds=MEMBERS // 16, epochs=epochs, **options)
    leaves = [jax.tree.leaves((result.best, result.last)) for result in study.results]
    return [[*map(np.asarray, own), *result.history.values()] for own, result in zip(leaves, study.results, strict=True)]


def pools():
    """A function that makes process pools, and one that returns the processes of the newest."""
    made = []

    def make():
        made.append(ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")))
        return made[-1]

    return make, lambda: [process.pid for process in list((made[-1]._processes or {}).values())] if made else []


@contextmanager
def workers(kind):
    """An executor of two workers of this machine, and a function that returns their processes."""
    if kind == "processes":
        yield pools()
        return
    import dask
    import distributed

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),  # a new worker may start slowly
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        # A nanny gives up when its worker dies before it has registered, so that only registered ones are killed.
        yield client.get_executor(), lambda: [*client.run(os.getpid, on_error="ignore").values()]


def kills(kind, count, epochs, seed=0):
    """Trains populations whose workers are killed again and again, at intervals like the time they take to start, until so many are."""
    tally, chance, done = Tally(), random.Random(seed), 0
    reference = population(epochs, strategy="threads")
    began = time.monotonic()
    with workers(kind) as (executor, _):
        population(1, executor=executor)
    start = time.monotonic() - began
    while done < count:
        over, hit = threading.Event(), []

        def kill(pids, over=over, hit=hit):
            while not over.wait(start * chance.uniform(0.2, 1.8)):
                if alive := pids():
                    try:
                        os.kill(chance.choice(alive), signal.SIGKILL)
                        hit.append(time.monotonic())
                    except ProcessLookupError:  # it is being replaced
                        pass
                    print(".", end="", flush=True)

        with workers(kind) as (executor, pids), tempfile.TemporaryDirectory() as home:
            killer = threading.Thread(target=kill, args=(pids,))
            killer.start()
            options = {"run_dir": Path(home) / "run", "callbacks": lambda member: [ff.callbacks.Checkpoint(every_seconds=0.5)]}
            try:
                try:
                    found = population(epochs, executor=executor, **options)
                except RuntimeError as error:  # too many in a row: the same call resumes
                    if "lost 10 times" not in str(error):
                        raise
                    found = population(epochs, executor=executor, **options)
                pairs = ((a, b) for one, other in zip(found, reference, strict=True) for a, b in zip(one, other, strict=True))
                outcome, note = ("fine", "") if all(np.array_equal(a, b) for a, b in pairs) else ("wrong", "other bits")
            except Exception as error:
                outcome, note = "refused", f"{type(error).__name__}: {error}"
            over.set()
            killer.join()
        for _ in hit:
            tally.add(outcome, f"{kind}: {note}")
        done += len(hit) or 1
    return tally


def costs(epochs):
    """Prints how long populations take in threads and on executors whose workers are warm, and what that is a member."""
    times = {}

    def timed(name, **options):
        population(epochs, **options)
        began = time.perf_counter()
        population(epochs, **options)
        times[name] = time.perf_counter() - began

    timed("threads", strategy="threads")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        timed("processes", executor=pool)
    with workers("dask") as (executor, _):
        timed("dask", executor=executor)
    for name, seconds in times.items():
        print(f"{name}: {seconds:.2f} s, {1e3 * (seconds - times['threads']) / MEMBERS:.1f} ms a member more than threads", flush=True)


if __name__ == "__main__":
    count, epochs, *kinds = (*sys.argv[1:], *("40", "4000")[len(sys.argv) - 1 :])
    count, epochs = int(count), int(epochs)
    for length in (50, epochs):
        print(f"{length} epochs:")
        costs(length)
    for kind in kinds or ("dask", "processes"):
        began = time.monotonic()
        tally = kills(kind, count, epochs)
        print(f"{kind}: {tally.total()} kills, {tally['fine']} fine, {time.monotonic() - began:.0f} s", *tally.notes, sep="\n", flush=True)
