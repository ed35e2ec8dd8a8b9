"""Populations whose members are trained by the workers of an executor."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import cloudpickle
import jax
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit import cli
from flaxfit.storage.store import Store
from flaxfit.sweep import executors, worker

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def made():
    """A `make_task` that is pickled by value, as one of a script is."""

    def make_task(hp):
        network = ff.nn.MLP((16,), 1, dropout=hp["dropout"])
        return ff.Task(network, ff.losses.binary_crossentropy, optax.adam(hp["rate"]), {"accuracy": ff.metrics.binary_accuracy})

    return make_task


GRID = {"dropout": [0.0, 0.3], "rate": [1e-2, 1e-1]}


@pytest.fixture(scope="module")
def how(table):
    train, validation = table
    return {"train": train, "validation": validation, "epochs": 60, "early_stopping": ff.EarlyStopping(patience=5)}


@pytest.fixture(scope="module")
def whole(how):
    """What one process trains."""
    return ff.fit_many(made(), GRID, strategy="threads", **how)


@pytest.fixture(scope="module")
def long(how):
    """Members that take some time, and what one process makes of them."""
    options = {**how, "early_stopping": None, "seeds": 2}
    return options, ff.fit_many(made(), GRID, strategy="threads", **options)


def spawned():
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def same(study, other):
    """Whether two populations have the same bits."""
    for a, b in zip(study.results, other.results, strict=True):
        leaves = [jax.tree.leaves((r.best, r.last)) for r in (a, b)]
        if a.history != b.history or (a.best_epoch, a.stop_reason) != (b.best_epoch, b.stop_reason):
            return False
        if not all(np.array_equal(x, y) for x, y in zip(*leaves, strict=True)):
            return False
    return [m.name for m in study.members] == [m.name for m in other.members]


def dying(notes, members):
    """Callbacks that save often, kill their process once in the middle of each of some members, and note where it is resumed."""

    def callbacks(member):
        class Dies(ff.callbacks.Callback):
            every_epochs = 20

            def on_train_begin(self, run):
                done = 0 if run.history is None else len(run.history.epochs)
                with (notes / member.name).open("a") as file:
                    file.write(f"{done} ")

            def on_chunk_end(self, progress):
                if member.name in members and progress.epoch == 40 and len((notes / member.name).read_text().split()) == 1:
                    os.kill(os.getpid(), signal.SIGKILL)

        return [Dies(), ff.callbacks.Checkpoint(every_seconds=1e-6)]

    return callbacks


def test_a_pool_that_a_dead_worker_broke_is_named_and_the_same_call_resumes(long, tmp_path):
    options, whole = {**long[0], "run_dir": tmp_path / "run"}, long[1]
    names = [member.name for member in whole.members]
    (notes := tmp_path / "notes").mkdir()
    options["callbacks"] = dying(notes, {names[2], names[5]})
    with spawned() as pool, pytest.raises(RuntimeError, match=rf"a worker died(?s:.*)of 8 members have not ended: (?s:.*){names[2]}"):
        ff.fit_many(made(), GRID, executor=pool, **options)
    again = ff.fit_many(made(), GRID, executor=spawned, **options)  # a worker dies in this call, too
    assert same(whole, again)
    begun = {name: [int(done) for done in (notes / name).read_text().split()] for name in names}
    assert all(begun[names[n]][0] == 0 < begun[names[n]][1] < 40 for n in (2, 5))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", ".owner", "config.json", "members.sqlite"]
    assert same(whole, ff.fit_many(made(), GRID, strategy="threads", **options))
    assert {name: len((notes / name).read_text().split()) for name in names} == {name: len(done) for name, done in begun.items()}


@pytest.mark.slow
def test_dask_trains_the_batch_of_a_lost_worker_elsewhere(long, tmp_path):
    distributed = pytest.importorskip("distributed")
    options, whole = {**long[0], "run_dir": tmp_path / "run"}, long[1]
    names = [member.name for member in whole.members]
    (notes := tmp_path / "notes").mkdir()
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, distributed.Client(cluster) as client:
        study = ff.fit_many(made(), GRID, executor=client.get_executor(), callbacks=dying(notes, {names[2]}), **options)
    assert same(whole, study)
    first, resumed = map(int, (notes / names[2]).read_text().split())
    assert first == 0 < resumed < 40


@pytest.mark.slow
def test_a_study_on_dask_takes_a_model_from_a_file(tmp_path, monkeypatch, capsys):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import flaxfit as ff, optax\n\n"
        "def make_task(hp):\n"
        "    network = ff.nn.MLP((8,), 3, dropout=hp['dropout'])\n"
        "    return ff.Task(network, ff.losses.categorical_crossentropy, optax.adam(1e-2), preprocess=hp['scaling'])\n"
    )
    command = ["study", "wine", "--task", "mine.py:make_task", "--epochs", "20", "--folds", "2", "--budget", "1s", "--quiet", "--json"]
    assert cli.main(command) == 0
    alone = json.loads(capsys.readouterr().out)
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster:
        assert cli.main([*command, "--dask", cluster.scheduler_address]) == 0
    study = json.loads(capsys.readouterr().out)
    assert [fix["score"] for fix in study["fixes"]] == [fix["score"] for fix in alone["fixes"]]


class Elsewhere(Executor):
    """An executor whose workers do not see the directories of this process."""

    def __init__(self):
        self.pool, self.sent = ThreadPoolExecutor(1), []

    def submit(self, function, message, sent, attempt):
        self.sent.append(sorted(sent))
        return self.pool.submit(function, pickle.dumps(replace(pickle.loads(message), spool="/nowhere")), sent, attempt)

    def shutdown(self, wait=True, **_):
        self.pool.shutdown()


def test_without_a_common_directory_rows_are_sent_once_and_members_are_sent_back_now_and_then(how, whole, monkeypatch):
    with Elsewhere() as pool:
        study = ff.fit_many(made(), GRID, executor=pool, **how)
        assert same(whole, study)
        assert sum(map(len, pool.sent)) == 2  # the rows, and the task
    monkeypatch.setattr(worker, "SEND_SECONDS", 0.0)

    class Slow(ff.callbacks.Callback):
        every_epochs = 6

        def on_chunk_end(self, progress):
            time.sleep(0.2)

    with Elsewhere() as pool:
        study = ff.fit_many(made(), GRID, executor=pool, callbacks=lambda member: [Slow()], **how)
        assert len(pool.sent) > 6  # the first batch asks, each of four is sent, and again after half a second
    assert same(whole, study)


@pytest.mark.slow
def test_folds_side_by_side_take_an_executor_too(how):
    task, grid = made(), {name: values[:1] for name, values in GRID.items()}
    options = {"folds": 2, "epochs": 2, "seeds": 2, "strategy": "vmap"}
    with ThreadPoolExecutor(1) as pool:
        study = ff.cross_validate(task, how["train"], grid, executor=pool, **options).study
    assert same(ff.cross_validate(task, how["train"], grid, **options).study, study)


def test_ctrl_c_ends_the_workers_after_their_chunk_and_keeps_what_they_trained(how, tmp_path):
    options = {**how, "early_stopping": None, "epochs": 1_000_000, "run_dir": tmp_path}

    class Interrupts(ff.callbacks.Callback):
        every_epochs = 50

        def on_chunk_end(self, progress):
            if progress.epoch == 50:
                os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt, match=r"0 of 4 members had finished; saved in"):
        ff.fit_many(made(), GRID, executor=pool, callbacks=lambda member: [Interrupts()], **options)
    with Store(tmp_path / "members.sqlite", write=False) as store:
        assert store[store.names[0]].record["environment"]["device"]["platform"] == jax.default_backend()
        assert [50 * 8 <= store[name].position < 1_000_000 for name in store.names] == [True]


def test_what_cannot_work_is_refused_before_anything_trains(how, monkeypatch):
    monkeypatch.setattr(executors.Workers, "train", lambda *_: pytest.fail("trained"))
    lock = threading.Lock()

    def locked(hp):
        return made()(hp) if lock else None

    forked = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with forked, ThreadPoolExecutor(1) as pool:
        for task, executor, callbacks, error, words in (
            (made(), 2, [], TypeError, r"executor must be a concurrent\.futures\.Executor"),
            (made(), forked, [], ValueError, "forked, in which JAX hangs"),
            (locked, pool, [], TypeError, "cannot be pickled(?s:.*)lock"),
            (made(), pool, [ff.callbacks.ProgressBar()], ValueError, "ProgressBar cannot show(?s:.*)progress="),
            (made(), pool, [ff.callbacks.Checkpoint(every_epochs=2)], ValueError, "every_seconds"),
        ):
            with pytest.raises(error, match=words):
                ff.fit_many(task, GRID, executor=executor, callbacks=lambda member, given=callbacks: given, **how)


class Late(Executor):
    """An executor whose workers take a second to come."""

    def submit(self, function, *args):
        future = Future()
        threading.Timer(1.0, lambda: future.set_result(function(*args))).start()
        return future


def test_an_executor_without_workers_is_said(how, monkeypatch):
    monkeypatch.setattr(executors, "SILENT_SECONDS", 0.1)
    with pytest.warns(RuntimeWarning, match="see whether the executor has workers") as told:
        ff.fit_many(made(), {name: values[:1] for name, values in GRID.items()}, executor=Late(), **how)
    assert {warning.filename for warning in told} == {__file__}


def test_the_error_of_a_member_names_it(how):
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    class Fails(ff.callbacks.Callback):
        every_epochs = 1

        def on_chunk_end(self, progress):
            raise Odd("out of", "luck")

    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="Odd: out of luck") as caught:
        ff.fit_many(made(), GRID, executor=pool, callbacks=lambda member: [Fails()], **how)
    assert "rate=" in " ".join(caught.value.__notes__)


def test_a_task_that_was_trained_can_still_be_pickled(how):
    task = made()
    ff.fit_many(task, GRID, **{**how, "epochs": 1})
    assert not cloudpickle.loads(cloudpickle.dumps(task))._flaxfit_programs
