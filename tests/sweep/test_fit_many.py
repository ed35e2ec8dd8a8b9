from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.storage.store import Store
from flaxfit.sweep import mapped, strategies
from flaxfit.train import loop

GRID = {"dropout": [0.0, 0.3], "rate": [1e-2, 3e-2, 1e-1]}


def make_task(hp):
    return ff.Task(
        ff.nn.MLP((16,), 1, dropout=hp["dropout"]),
        ff.losses.binary_crossentropy,
        optax.adam(hp["rate"]),
        metrics={"accuracy": ff.metrics.binary_accuracy},
        penalty=ff.penalties.l2(1e-4),
    )


@pytest.fixture(scope="module")
def how(table):
    train, validation = table
    stopping = ff.EarlyStopping("val_loss", patience=5)
    return {"train": train, "validation": validation, "epochs": 60, "batch_size": 32, "early_stopping": stopping}


@pytest.fixture(scope="module")
def study(how):
    return ff.fit_many(make_task, GRID, seeds=2, strategy="threads", **how)


def same(a, b):
    """Whether two results have the same bits."""
    leaves = [jax.tree.leaves((r.best, r.last)) for r in (a, b)]
    return a.history == b.history and all(np.array_equal(x, y) for x, y in zip(*leaves, strict=True))


def close(study, other, tolerance):
    for a, b in zip(study.results, other.results, strict=True):
        assert len(a.history.epochs) == len(b.history.epochs)
        assert (a.best_epoch, a.stop_reason) == (b.best_epoch, b.stop_reason)
        for name in a.history:
            np.testing.assert_allclose(a.history[name], b.history[name], rtol=tolerance, atol=tolerance)
        for x, y in zip(jax.tree.leaves((a.best, a.last)), jax.tree.leaves((b.best, b.last)), strict=True):
            np.testing.assert_allclose(x, y, rtol=50 * tolerance, atol=50 * tolerance)


def test_each_member_is_the_run_that_fit_makes_alone(study, how):
    assert [m.name for m in study.members[:3]] == [
        "dropout=0.0,rate=0.01,seed=0",
        "dropout=0.0,rate=0.01,seed=1",
        "dropout=0.0,rate=0.03,seed=0",
    ]
    lengths = {len(result.history.epochs) for result in study.results}
    assert len(lengths) > 4  # they stop by themselves
    for index in (0, 5, 9):
        member, result = study.members[index], study.results[index]
        train = how["train"]
        alone = ff.fit(make_task(member.setting), train, seed=member.seed, **{k: v for k, v in how.items() if k != "train"})
        assert len(alone.history.epochs) == len(result.history.epochs)
        assert alone.best_epoch == result.best_epoch
        np.testing.assert_allclose(alone.history["val_loss"], result.history["val_loss"], rtol=1e-5)


def test_lockstep_gives_what_threads_give(study, how):
    close(study, ff.fit_many(make_task, GRID, seeds=2, strategy="vmap", **how), 1e-5)


def test_the_width_follows_from_shapes_and_the_device_s_size_and_parts_give_the_same(study, how, monkeypatch):
    widths = []
    real = mapped.Mapped.__init__
    monkeypatch.setattr(mapped.Mapped, "__init__", lambda self, group, *args: (real(self, group, *args), widths.append(group.width))[0])
    whole = mapped.program_bytes
    needed = []
    monkeypatch.setattr(mapped, "program_bytes", lambda program: needed.append(whole(program)) or needed[-1])
    monkeypatch.setattr(mapped, "device_bytes", lambda: 2**40)
    ff.fit_many(make_task, GRID, seeds=2, strategy="vmap", **{**how, "epochs": 1})
    monkeypatch.setattr(mapped, "device_bytes", lambda: needed[0] / mapped.MEMORY_SHARE / 2)
    started = []
    real_start = mapped.Group.start
    monkeypatch.setattr(mapped.Group, "start", lambda self: started.append(1) or real_start(self))
    close(study, ff.fit_many(make_task, GRID, seeds=2, strategy="vmap", **how), 1e-5)
    assert widths[0] == 12
    assert 1 <= widths[1] < 12
    assert len(started) == len(widths) - 1 == -(-12 // widths[1])  # nothing runs before its turn


def test_ended_members_leave_the_program(study, how, monkeypatch):
    widths = []
    real = mapped.Mapped.advance
    monkeypatch.setattr(mapped.Mapped, "advance", lambda self, *args: (widths.append(len(self._slots)), real(self, *args))[1])
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)  # chunks of one step
    close(study, ff.fit_many(make_task, GRID, seeds=2, strategy="vmap", **how), 1e-5)
    assert widths[0] == 12
    assert widths[-1] <= 2


def test_other_numbers_and_seeds_compile_nothing(study, how):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    ff.fit_many(make_task, {"dropout": [0.1, 0.25], "rate": [2e-2]}, seeds=[7, 8], strategy="threads", **how)
    assert not compiled
    ff.fit_many(lambda hp: make_task({"dropout": 0.0, **hp}), {"rate": [2e-2]}, how["train"], strategy="threads")
    assert compiled  # the counter counts


def test_values_that_shape_the_network_are_programs_of_one_call(how):
    def sized(hp):
        return ff.Task(ff.nn.MLP((hp["units"],), 1), ff.losses.binary_crossentropy, optax.adam(hp["rate"]))

    study = ff.fit_many(sized, {"units": [2, 5], "rate": [1e-2, 1e-3]}, how["train"], epochs=2)
    assert [r.best.params["Dense_0"]["kernel"].shape[1] for r in study.results] == [2, 2, 5, 5]
    assert len({float(r.history["loss"][-1]) for r in study.results}) == 4


def test_a_task_alone_makes_a_population_of_seeds(how):
    task = make_task({"dropout": 0.0, "rate": 1e-2})
    study = ff.fit_many(task, None, how["train"], seeds=[3, 4], epochs=2)
    assert [m.seed for m in study.members] == [3, 4]
    assert same(study.results[1], ff.fit(task, how["train"], seed=4, epochs=2))


def test_a_member_that_breaks_down_ends_alone(how):
    def unstable(hp):
        return ff.Task(ff.nn.MLP((8,), 1), ff.losses.mse, optax.sgd(hp["rate"]))

    for strategy in ("threads", "vmap"):
        with pytest.warns(RuntimeWarning, match=r"1 of 2 members ended on a value that is not finite: rate=1e\+30,seed=0\."):
            study = ff.fit_many(unstable, {"rate": [1e-2, 1e30]}, how["train"], epochs=4, strategy=strategy)
        assert [r.stop_reason for r in study.results] == ["epochs", "non_finite"]
        assert [len(r.history.epochs) for r in study.results] == [4, 1]
        assert all(np.isfinite(leaf).all() for r in study.results for leaf in jax.tree.leaves(r.best.params))


def test_progress_and_hooks_of_each_member(how, capsys):
    seen = []

    class Count(ff.callbacks.Callback):
        def __init__(self, name):
            self.name = name

        def on_chunk_end(self, progress):
            seen.append((self.name, progress.epoch))

    ff.fit_many(
        make_task, {"dropout": [0.1], "rate": [0.1]}, how["train"], seeds=2, epochs=3, callbacks=lambda m: [Count(m.name)], progress="p"
    )
    assert sorted(seen) == [("dropout=0.1,rate=0.1,seed=0", 3), ("dropout=0.1,rate=0.1,seed=1", 3)]
    assert "p: 2/2 members" in capsys.readouterr().err


class Branches(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(nn.Dropout(self.rate, deterministic=not train)(x))


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ({"dropout": [0.1], "rate": 0.1}, {}, "put the value into brackets"),
        (GRID, {"seeds": 0}, "seeds must be at least 1"),
        (GRID, {"seeds": [1, 1]}, "different numbers"),
        (GRID, {"strategy": "thread"}, "did you mean 'threads'"),
        ({"dropout": [0.5, 1.5], "rate": [0.1]}, {}, "a dropout rate must be at least 0"),
        (GRID, {"batch_size": 0}, "batch_size must be at least 1"),
        ({"dropout": [0.1]}, {}, "rate"),
    ],
)
def test_bad_input_is_refused_before_anything_compiles(grid, options, message, how, monkeypatch):
    def compiled(*args, **kwargs):
        raise AssertionError("compiled before the check")

    monkeypatch.setattr("flaxfit.programs.compiled.Programs.compiled", compiled)
    with pytest.raises((TypeError, ValueError, KeyError), match=message):
        ff.fit_many(make_task, grid, how["train"], **options)


def test_a_branch_on_a_traced_number_is_told_how_to_be_static(how):
    def branching(hp):
        penalty = ff.penalties.l2(hp["l2"]) if hp["l2"] else None
        return ff.Task(ff.nn.MLP((4,), 1), ff.losses.mse, optax.sgd(0.1), penalty=penalty)

    def inside(hp):
        return ff.Task(Branches(hp["l2"]), ff.losses.mse, optax.sgd(0.1))

    for make in (branching, inside):
        with pytest.raises(ValueError, match=r"needs the value of a traced hyperparameter \(l2\).*ff\.static\(\[\.\.\.\]\)"):
            ff.fit_many(make, {"l2": [0.0, 0.1]}, how["train"])
        study = ff.fit_many(make, {"l2": ff.static([0.0, 0.1])}, how["train"])
        assert len(study) == 2


def test_an_error_in_one_member_names_it_and_ends_the_others(how):
    class Fails(ff.callbacks.Callback):
        every_epochs = 1

        def on_chunk_end(self, progress):
            raise OSError("no")

    with pytest.raises(OSError, match="no") as raised:  # and a million epochs do not come
        ff.fit_many(
            make_task, GRID, how["train"], epochs=10**6, workers=2, callbacks=lambda m: [Fails()] if m.setting["rate"] == 0.03 else []
        )
    assert "rate=0.03" in raised.value.__notes__[0]


def test_a_durable_population_goes_on_grows_and_refuses_others(study, how, tmp_path):
    for strategy in ("threads", "vmap"):
        first = ff.fit_many(make_task, GRID, seeds=2, strategy=strategy, run_dir=tmp_path / strategy, **how)
        close(study, first, 1e-5)
        again = ff.fit_many(make_task, GRID, seeds=2, strategy=strategy, run_dir=tmp_path / strategy, **how)
        assert all(same(a, b) for a, b in zip(first.results, again.results, strict=True))
        assert sum(r.timing.chunks for r in again.results) == 0
    assert sorted(path.name for path in (tmp_path / "threads").iterdir()) == [".lock", ".owner", "config.json", "members.sqlite"]
    with Store(tmp_path / "threads" / "members.sqlite", write=False) as store:
        assert store["dropout=0.0,rate=0.01,seed=1"].history == study.results[1].history
        assert sorted(store.names) == sorted(member.name for member in study.members)  # in the order in which they ended
    grown = ff.fit_many(make_task, GRID, seeds=3, run_dir=tmp_path / "threads", **how)
    assert sum(r.timing.chunks > 0 for r in grown.results) == 6
    with pytest.raises(ValueError, match=r"arguments\.batch_size: 32 -> 16"):
        ff.fit_many(make_task, GRID, seeds=2, run_dir=tmp_path / "threads", **{**how, "batch_size": 16})
    with pytest.raises(FileExistsError, match="has a population already"):
        ff.fit_many(make_task, GRID, seeds=2, run_dir=tmp_path / "threads", resume="never", **how)


SCRIPT = textwrap.dedent("""
    import sys
    import numpy as np
    sys.path.insert(0, sys.argv[3])
    import flaxfit as ff
    from flaxfit.sweep import members
    from flaxfit.train import loop
    from test_fit_many import GRID, make_task
    members.SAVE_SECONDS, loop.CHUNK_SECONDS = 0.05, 0.02
    rng = np.random.default_rng(7)
    x = rng.normal(size=(350, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + 0.5 * x[:, 2] + 0.5 * rng.normal(size=350) > 0).astype(np.int32)
    ff.fit_many(
        make_task, GRID, ff.Dataset(x[:250], y[:250]), validation=ff.Dataset(x[250:], y[250:]), seeds=2, epochs=400, batch_size=32,
        run_dir=sys.argv[1], strategy=sys.argv[2],
    )
""")


def start(run_dir, strategy):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(run_dir), strategy, os.path.dirname(__file__)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_population_is_resumed_with_another_strategy_size_and_number_of_epochs(how, tmp_path):
    task, options = make_task({"dropout": 0.3, "rate": 1e-2}), {**how, "early_stopping": None}
    ff.fit_many(task, None, seeds=3, strategy="vmap", run_dir=tmp_path, **{**options, "epochs": 4})
    grown = ff.fit_many(task, None, seeds=5, strategy="threads", run_dir=tmp_path, **{**options, "epochs": 9})
    whole = ff.fit_many(task, None, seeds=5, strategy="threads", **{**options, "epochs": 9})
    close(whole, grown, 1e-4)
    assert all(same(a, b) for a, b in zip(whole.results[3:], grown.results[3:], strict=True))
    mixed = ff.fit_many(task, None, seeds=6, strategy="vmap", run_dir=tmp_path, **{**options, "epochs": 10})
    assert [result.timing.chunks > 0 for result in mixed.results] == [True] * 6
    with pytest.raises(ValueError, match=r"member seed=0, was another(?s:.*)arguments.batch_size: 32 -> 16"):
        ff.fit_many(task, None, seeds=2, run_dir=tmp_path, **{**options, "epochs": 10, "batch_size": 16})


def test_members_of_every_strategy_have_callbacks_with_a_place_of_their_own(how, tmp_path):
    task = make_task({"dropout": 0.0, "rate": 1e-2})
    for strategy in ("threads", "vmap"):
        home = tmp_path / strategy
        ff.fit_many(
            task, None, how["train"], seeds=2, epochs=3, strategy=strategy, run_dir=home,
            callbacks=lambda member: [ff.callbacks.SaveWeights("{epoch}", best_only=False), ff.callbacks.TensorBoard()],
        )  # fmt: skip
        assert sorted(path.name for path in (home / "members" / "seed=1" / "weights").iterdir()) == [f"{n}.safetensors" for n in (1, 2, 3)]
        assert list((home / "members" / "seed=0" / "tensorboard" / "train").iterdir())


def test_long_names_and_functions_as_values_have_directories_and_are_resumed(table, tmp_path):
    names = [f"a_hyperparameter_with_the_long_name_{number}" for number in range(8)]  # their setting's name has 345 bytes

    def make_task(hp):
        width = 4 + int(sum(hp[name] for name in names))
        return ff.Task(ff.nn.MLP((width,), 1, activation=hp["activation"]), ff.losses.binary_crossentropy, optax.adam(1e-2))

    def population(epochs):
        grid = {**{name: [0] for name in names}, names[-1]: [1, 2], "activation": [nn.relu, lambda x: nn.relu(x) ** 2]}
        options = {"callbacks": lambda member: [ff.callbacks.SaveWeights("best")], "run_dir": tmp_path / "run [x]"}
        return ff.fit_many(make_task, grid, table[0], epochs=epochs, **options)

    study, grown = population(1), population(2)
    assert [member.name for member in study.members] == [member.name for member in grown.members]
    assert [len(result.history.epochs) for result in grown.results] == [2] * 4
    assert [result.history["loss"][0] for result in grown.results] == [result.history["loss"][0] for result in study.results]
    assert len(list((tmp_path / "run [x]" / "members").iterdir())) == 4
    for member, result in zip(grown.members, grown.results, strict=True):
        assert "0x" not in member.name
        loaded = ff.load(grown.export(member.name, table[0]))
        np.testing.assert_allclose(loaded.predict(table[0].x), ff.predict(member.task, result.best, table[0].x), rtol=1e-5, atol=1e-6)


def test_folds_record_their_own_rows(how, tmp_path):
    rows = how["train"]
    ff.cross_validate(make_task({"dropout": 0.0, "rate": 1e-2}), rows, folds=2, epochs=1, strategy="vmap", run_dir=tmp_path)
    with Store(tmp_path / "folds" / "members.sqlite", write=False) as store:
        sums = {store[name].record["data"]["train"]["crc32"] for name in store.names}
    assert len(sums) == 2


def test_five_hundred_members_are_a_few_files(how, tmp_path):
    task = make_task({"dropout": 0.0, "rate": 1e-2})
    ff.fit_many(task, None, how["train"], seeds=500, epochs=1, batch_size=250, run_dir=tmp_path)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) <= 60


def test_members_side_by_side_are_saved_together_and_train_on_in_as_wide_a_program(how, tmp_path, monkeypatch):
    """On CPUs a program of one member gives other bits than one of several."""
    options = {**how, "strategy": "vmap", "early_stopping": None, "epochs": 6}
    callbacks = lambda member: [ff.callbacks.Checkpoint(every_epochs=2)]  # noqa: E731
    grid = {"dropout": [0.1], "rate": [0.1, 0.01, 0.001]}
    whole = ff.fit_many(make_task, grid, **options)
    put = Store.put

    def dies(store, name, saved, arrays):
        if saved.finished and name.startswith("dropout=0.1,rate=0.001"):
            raise RuntimeError("killed")
        put(store, name, saved, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put", dies)
        with pytest.raises(RuntimeError, match="killed"):
            ff.fit_many(make_task, grid, run_dir=tmp_path, callbacks=callbacks, **options)
    with Store(tmp_path / "members.sqlite", write=False) as store:
        assert {store[name].position for name in store.names} == {store[store.names[0]].position}
    resumed = ff.fit_many(make_task, grid, run_dir=tmp_path, callbacks=callbacks, **options)
    assert all(same(a, b) for a, b in zip(whole.results, resumed.results, strict=True))
    for rates, width in ((grid["rate"][:2], 3), (grid["rate"][:1], 1)):  # half or fewer train on in a narrower one, as in a single call
        options["epochs"] += 1
        ff.fit_many(make_task, {**grid, "rate": rates}, run_dir=tmp_path, **options)
        with Store(tmp_path / "members.sqlite", write=False) as store:
            assert store["dropout=0.1,rate=0.1,seed=0"].record["environment"]["batch"]["width"] == width


@pytest.mark.parametrize("strategy", ["threads", "vmap"])
def test_killed_and_terminated_a_population_ends_with_the_same_bits(table, tmp_path, strategy):
    train, validation = table
    options = {"validation": validation, "seeds": 2, "epochs": 400, "batch_size": 32}
    whole = ff.fit_many(make_task, GRID, train, strategy=strategy, **options)
    randomness, owner = random.Random(0), tmp_path / "run" / ".owner"
    for signal_sent in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path / "run", strategy)
        while process.poll() is None and not (owner.exists() and owner.read_text() == str(process.pid)):
            time.sleep(0.02)
        time.sleep(0.3 + randomness.random())
        process.send_signal(signal_sent)
        _, error = process.communicate()
        if signal_sent == signal.SIGTERM and process.returncode:  # it has not ended before
            assert process.returncode == -signal.SIGTERM, error
            assert "To continue: the same command" in error
    process = start(tmp_path / "run", strategy)
    _, error = process.communicate()
    assert process.returncode == 0, error
    resumed = ff.fit_many(make_task, GRID, train, strategy=strategy, run_dir=tmp_path / "run", **options)
    assert all(same(a, b) for a, b in zip(whole.results, resumed.results, strict=True))
    assert sum(r.timing.chunks for r in resumed.results) == 0


def test_the_population_is_shared_out_over_devices(how, study, tmp_path):
    script = SCRIPT.replace("import sys\n", "import sys\nimport jax\njax.config.update('jax_num_cpu_devices', 2)\n", 1)
    script = script.replace("ff.fit_many(", "study = ff.fit_many(").replace(
        "epochs=400", 'epochs=60, early_stopping=ff.EarlyStopping("val_loss", patience=5)'
    )
    script += "np.save(sys.argv[1] + '.npy', np.concatenate([r.history['val_loss'] for r in study.results]))\n"
    command = [sys.executable, "-c", script, str(tmp_path / "run"), "vmap", os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = np.concatenate([r.history["val_loss"] for r in study.results])
    np.testing.assert_allclose(np.load(tmp_path / "run.npy"), expected, rtol=1e-5)


def test_workers_are_as_many_as_asked_for(how, monkeypatch):
    asked = []
    real = strategies.ThreadPoolExecutor
    monkeypatch.setattr(strategies, "ThreadPoolExecutor", lambda workers, name: (asked.append(workers), real(workers, name))[1])
    ff.fit_many(make_task, {"dropout": [0.1], "rate": [0.1]}, how["train"], workers=3)
    assert asked == [3]
