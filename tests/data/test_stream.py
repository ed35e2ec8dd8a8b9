"""Streams: the bits of arrays from any source, at any chunk length, from any position; nothing read too far ahead, nothing left behind."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.data import order, stream
from flaxfit.data.stream import Feed, Stream
from flaxfit.programs import program


def make_task(model, **changes):
    return ff.Task(
        **{
            "model": model,
            "loss": ff.losses.binary_crossentropy,
            "optimizer": optax.adam(1e-2),
            "metrics": {"accuracy": ff.metrics.binary_accuracy},
            **changes,
        }
    )


def assert_same_run(a, b):
    assert a.history == b.history
    assert (a.stop_reason, a.best_epoch) == (b.stop_reason, b.best_epoch)
    assert_same_bits((a.last, a.best), (b.last, b.best))


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)


class Look(ff.callbacks.Callback):
    """Does something after every step."""

    every_steps = 1

    def __init__(self, action=lambda look: None):
        self.on_chunk_end = action


@pytest.fixture
def short(monkeypatch):
    """Sets how many batches of 40 rows a chunk has."""

    def set_steps(steps):
        for name in ("CHUNK_ROWS", "CHUNK_ELEMENTS"):
            monkeypatch.setattr(stream, name, 40 * steps)

    return set_steps


@pytest.fixture(scope="module")
def task():
    """One for most tests, so that little is compiled."""
    return make_task(ff.nn.MLP((8,), 1, dropout=0.2), optimizer=optax.sgd(0.1))


OPTIONS = {"epochs": 3, "batch_size": 40, "seed": 3}  # 250 rows: 6 steps, and one of 10 rows


@pytest.fixture(scope="module")
def arrays_run(task, table):
    return ff.fit(task, table[0], **OPTIONS)


@pytest.fixture(scope="module")
def rich(net):
    return make_task(net(batch_norm=True, dropout=0.2), penalty=ff.penalties.l2(1e-3))


@pytest.mark.parametrize("steps", [1, 3, 512])
def test_a_stream_trains_to_the_bits_of_arrays(rich, table, short, steps):
    task, (train, validation) = rich, table
    data = ff.Dataset(train.x, train.y, np.random.default_rng(0).uniform(0, 2, 250))
    stopping = ff.EarlyStopping("val_loss", patience=2, min_delta=0.01)
    options = {**OPTIONS, "validation": validation, "epochs": 60, "early_stopping": stopping}
    expected = ff.fit(task, data, **options)
    assert expected.stop_reason == "early_stopping"
    short(steps)
    threads = threading.active_count()
    assert_same_run(ff.fit(task, Stream(data), **options), expected)
    assert_same_run(ff.fit(task, Stream(data), callbacks=[Look()], **options), expected)  # a hook inside chunks
    assert threading.active_count() == threads


@pytest.mark.parametrize("options", [{"batch_size": 1000}, {"replacement": True, "class_weight": {1: 2.0}}], ids=str)
def test_a_stream_trains_to_the_bits_of_arrays_in_other_ways(task, table, short, options):
    train = table[0][np.argsort(table[0].y)]  # some pieces lack a class
    short(3)
    options = {**OPTIONS, **options}
    assert_same_run(ff.fit(task, Stream(train), **options), ff.fit(task, train, **options))


def records(train):
    return [{"x": x, "label": y} for x, y in zip(train.x, train.y, strict=True)]


def a_list(train, directory):
    return Stream(records(train), "x", lambda element: element["label"])


def a_grain_map(train, directory):
    return Stream(grain.MapDataset.source(records(train)).map(lambda element: (element["x"], element["label"])))


def a_memory_map(train, directory):
    np.save(directory / "x.npy", train.x)
    np.save(directory / "y.npy", train.y)
    return Stream(ff.Dataset(*(np.load(directory / name, mmap_mode="r") for name in ("x.npy", "y.npy"))))


def tfds_records(train, directory):
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Table(tfds.core.GeneratorBasedBuilder):
            """The table's rows."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {"x": tfds.features.Tensor(shape=(6,), dtype=np.float32), "label": tfds.features.ClassLabel(num_classes=2)}
                features = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("x", "label"), disable_shuffling=True)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                yield from enumerate(records(train))

    builder = Table(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return Stream(builder.as_data_source("train"))


@pytest.mark.parametrize("make", [a_list, a_grain_map, a_memory_map, tfds_records])
def test_every_kind_of_source(task, table, arrays_run, short, make, tmp_path):
    short(3)
    source = make(table[0], tmp_path)
    assert len(source) == 250
    assert_same_run(ff.fit(task, source, **OPTIONS), arrays_run)


def test_inputs_of_several_arrays_and_weights(short):
    short(1)
    rng = np.random.default_rng(0)
    elements = [{"a": rng.normal(size=2), "b": [float(row), 1.0], "y": row % 2, "w": row / 50} for row in range(50)]
    source = Stream(elements, lambda e: {"a": e["a"], "b": e["b"]}, "y", sample_weight="w")
    x = {name: [element[name] for element in elements] for name in ("a", "b")}
    data = ff.Dataset(x, np.arange(50) % 2, np.arange(50) / 50)
    assert_same_bits(source[np.array([4, 2])], data[np.array([4, 2])])
    with Feed(source, 20, 1, lambda rows: rows, "train") as reader:
        pieces = list(reader.pieces())
    assert [len(piece) for piece in pieces] == [40, 10]
    assert_same_bits(jax.tree.map(lambda *parts: np.concatenate(parts), *pieces), data)


PLAN = program.Plan(40, ff.EarlyStopping("loss", mode="min"), False, capacity=8)


def feed(data, key, **options):
    return Feed(Stream(data), 40, 3, lambda rows: rows, "train", key, **options)


def test_double_precision_on_the_reading_threads_too():
    with jax.enable_x64(True):
        data = ff.Dataset(np.arange(100.0)[:, None] + 1e-12, np.zeros(100))
        with feed(data, None) as reader:
            for piece in reader.pieces():
                assert_same_bits(piece, data)


def test_rows_are_a_function_of_the_position(table, short):
    short(3)
    key = jax.random.key(5)
    numbered = ff.Dataset(np.arange(250), table[0].y)
    with feed(numbered, key) as fresh:
        for position in range(21):
            epoch, step = divmod(position, 7)
            with feed(numbered, key) as resumed:  # by a process that starts there
                for reader in (fresh, resumed):
                    chunk, end = reader.at(position, 1000)
                    assert position < end <= (epoch + 1) * 7
                    at = (step - int(chunk.first)) * 40
                    size = min(40, 250 - step * 40)
                    keys = np.asarray(order.round_keys(key, epoch, 250))
                    expected = order.shuffled(np.arange(step * 40, step * 40 + size), keys, 250)
                    assert np.array_equal(chunk.rows.x[at : at + size], expected)


@pytest.fixture(scope="module")
def advance(task):
    return jax.jit(functools.partial(program.advance, task, PLAN))


def test_going_on_inside_an_epoch_is_the_run_to_the_bit(task, advance, table, arrays_run, short):
    """The state goes through NumPy, as through a checkpoint; the threads that read are others."""
    short(3)
    key = jax.random.key(OPTIONS["seed"])
    state, position = program.start(task, PLAN, key, table[0][:1].x), 0
    for stop in (5, 6, 11, 21):
        state = program.replace(jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), program.replace(state, key=jnp.zeros(()))), key=key)
        with feed(table[0], key) as reader:
            while position < stop:
                chunk, until = reader.at(position, stop)
                state, _ = advance(state, chunk, None, jnp.int32(until))
                position = until
                assert int(state.epoch) * 7 + int(state.step) == position
    assert_same_bits((state.train, state.best), (arrays_run.last, arrays_run.best))


def test_rows_that_fill_a_chunk_up_are_never_used(task, advance, table, short):
    short(3)
    key = jax.random.key(5)
    state = poisoned = program.start(task, PLAN, key, table[0][:1].x)
    with feed(table[0], key) as reader:
        for position in (0, 3, 6):
            chunk, until = reader.at(position, 7)
            used = min(250, until * 40) - position * 40
            assert chunk.rows.x.shape[0] == 120
            x = jnp.where(jnp.arange(120)[:, None] < used, chunk.rows.x, jnp.nan)
            y = jnp.where(jnp.arange(120) < used, chunk.rows.y, 77)
            state, _ = advance(state, chunk, None, jnp.int32(until))
            poisoned, _ = advance(poisoned, program.replace(chunk, rows=ff.Dataset(x, y)), None, jnp.int32(until))
    assert used == 10
    assert int(state.epoch) == 1
    assert_same_bits(program.replace(state, key=jnp.zeros(())), program.replace(poisoned, key=jnp.zeros(())))


class Compilations:
    """Counts backend compilations while it is open."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def _hear(self, event, duration, **kwargs):
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *exc):
        jax.monitoring.unregister_event_duration_listener(self._hear)


def test_a_second_fit_compiles_nothing(net, table, short):
    short(3)
    task, source = make_task(net()), Stream(table[0])
    options = {"validation": table[1], "batch_size": 40}
    with Compilations() as compilations:
        ff.fit(task, source, epochs=1, **options)
        ff.evaluate(task, ff.fit(task, source, epochs=1, **options).last, source, batch_size=40)
    assert compilations.count > 0
    with Compilations() as compilations:
        result = ff.fit(task, source, epochs=4, seed=9, **options)
        ff.evaluate(task, result.last, source, batch_size=40)
    assert compilations.count == 0
    assert result.timing.chunks <= 4 * 3 + 1  # one call a chunk, but for the first, which is cut for its first step


class Watched:
    """A source that notes which rows it was asked for, and on which threads."""

    def __init__(self, data):
        self.data, self.asked, self.readers = data, [], set[threading.Thread]()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, row):
        self.asked.append(row)
        self.readers.add(threading.current_thread())
        return self.data.x[row], self.data.y[row]


def test_reading_is_ahead_but_by_two_chunks_at_most_and_once_an_epoch(task, table, short):
    short(1)
    source = Watched(table[0][:240])  # 6 chunks of 40
    train, late = Stream(source), []
    source.asked.clear()
    ff.fit(task, train, epochs=1, batch_size=40)
    door = len(source.asked) - 240  # looks at the first row before training
    assert 0 < door < 5
    source.asked.clear()

    def look(look):
        ahead = door + 40 * min(12, look.epoch * 6 + look.step + 2)
        deadline = time.monotonic() + 10
        while len(source.asked) < ahead and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        late.append(len(source.asked) - ahead)

    ff.fit(task, train, epochs=2, batch_size=40, callbacks=[Look(look)])
    assert late == [0] * 12
    assert sorted(source.asked[door:]) == sorted([*range(240)] * 2)


def broken(train, row):
    x = train.x.copy()
    x[row, 2] = np.inf if row % 2 else np.nan
    return ff.Dataset(x, train.y)


def test_a_row_that_is_not_finite_is_named(task, table, arrays_run, short):
    short(3)
    for row in (123, 200):
        with pytest.raises(ValueError, match=rf"^example {row} of train has NaN or infinity in x: remove the example"):
            ff.fit(task, Stream(broken(table[0], row)), **OPTIONS)
    with pytest.raises(ValueError, match=r"^example 123 of data has NaN or infinity in x"):
        ff.evaluate(task, arrays_run.last, Stream(broken(table[0], 123)))


def test_labels_and_shapes_are_checked_as_they_are_read(task, table, short):
    short(3)
    train, last = table[0], np.arange(250) == 249
    with pytest.raises(ValueError, match=r"^train.y has labels from \d to 7, but binary_crossentropy .* needs labels from 0 to 1"):
        ff.fit(task, Stream(ff.Dataset(train.x, np.where(last, 7, train.y))), **OPTIONS)
    elements = [*zip(train.x, train.y, strict=True)]
    with pytest.raises(ValueError, match=r"the shape of the first one: pad or crop them. .all input arrays must have the same shape"):
        ff.fit(task, Stream([*elements[:249], (train.x[0, :3], 0)]), **OPTIONS)
    with pytest.raises(ValueError, match=r"^all examples of train must be alike: x is float32\[1\], but float32\[6\] in the first one"):
        ff.fit(task, Stream([elements[0]] + [(x[:1], y) for x, y in elements[1:]]), **OPTIONS)
    with pytest.raises(ValueError, match=r"^all examples of train must be alike: y is float32\[\], but int32\[\] in the first one"):
        ff.fit(task, Stream([elements[0]] + [(x, 0.5) for x, _ in elements[1:]]), **OPTIONS)


def succeeds(task, source):
    ff.evaluate(task, ff.fit(task, Stream(source), **OPTIONS).last, Stream(source), batch_size=40)


def fails_in_the_source(task, source):
    class Broken(Watched):
        def __getitem__(self, row):
            if row == 77:
                raise OSError("disk")
            return source[row]

    with pytest.raises(OSError, match="disk"):
        ff.fit(task, Stream(Broken(source.data)), **OPTIONS)


def fails_in_a_hook(task, source):
    for error in (ZeroDivisionError, KeyboardInterrupt):

        def fail(look, error=error):
            raise error

        with pytest.raises(error):
            ff.fit(task, Stream(source), callbacks=[Look(fail)], **OPTIONS)


def fails_in_evaluation(task, source):
    state = ff.fit(task, source.data, **OPTIONS).last
    source.data = broken(source.data, 3)
    with pytest.raises(ValueError, match="example 3 of data"):
        ff.evaluate(task, state, Stream(source), batch_size=40)


@pytest.mark.parametrize("case", [succeeds, fails_in_the_source, fails_in_a_hook, fails_in_evaluation])
def test_no_thread_is_left_behind(task, table, short, case):
    short(3)
    source = Watched(table[0])
    case(task, source)
    readers = source.readers - {threading.current_thread()}
    assert readers
    assert not [thread for thread in readers if thread.is_alive()]


def test_what_waits_to_be_read_is_dropped_at_the_end(task, table, short, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    class Slow(Watched):
        def __getitem__(self, row):
            if len(self.asked) > 140:  # the second chunk is being read, the third waits
                begun.set()
                assert ended.wait(60)
            return super().__getitem__(row)

    class Executor(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            ended.set()
            super().shutdown(wait=wait)

    def fail(look):
        assert begun.wait(60)
        raise ZeroDivisionError

    short(3)
    monkeypatch.setattr(stream, "THREADS", 1)
    monkeypatch.setattr(stream, "ThreadPoolExecutor", Executor)
    source = Slow(table[0])
    with pytest.raises(ZeroDivisionError):
        ff.fit(task, Stream(source), callbacks=[Look(fail)], **OPTIONS)
    assert 240 < len(source.asked) < 250


def test_evaluation_is_that_of_arrays(task, table, arrays_run, short):
    metrics = {"auc": ff.metrics.auc, "confusion": ff.metrics.confusion_matrix}
    expected = ff.evaluate(task, arrays_run.best, table[0], metrics=metrics)
    for steps, batch_size in ((1, 40), (3, 40), (512, 1024)):
        short(steps)
        scores = ff.evaluate(task, arrays_run.best, Stream(table[0]), batch_size=batch_size, metrics=metrics)
        assert list(scores) == list(expected)
        assert np.array_equal(scores.pop("confusion"), expected["confusion"])
        for name, score in scores.items():
            assert score == pytest.approx(expected[name], rel=1e-6)


def test_what_a_stream_says_of_itself(task, table, short):
    short(3)
    about = ff.data.Provenance("table", range(1000, 1250), version="2")
    data = ff.Dataset(table[0].x, table[0].y, features=tuple("abcdef"), classes=("no", "yes"), provenance=about)
    for source in (Stream(data), Stream(records(data), "x", "label", features=data.features, classes=data.classes, provenance=about)):
        part = source[10:20]
        assert isinstance(part, ff.Dataset)
        assert_same_bits(part, data[10:20])
        assert part.features == data.features
        assert part.classes == data.classes
        assert part.record() == data[10:20].record()
        assert source.record() == data.record()
    assert ff.fit(task, source, **OPTIONS).data == {"train": data.record()}
    assert Stream(records(table[0]), "x", "label").record() == {"count": 250, "source": "list"}


def test_errors_at_the_door(task, table):
    train = table[0]
    with pytest.raises(TypeError, match=r"random access \(__len__ and __getitem__\), got .*IterDataset.*: pass a data source"):
        Stream(grain.MapDataset.source([1]).to_iter_dataset())
    with pytest.raises(ValueError, match=r"1 to .* elements that does not repeat, got 0"):
        Stream([])
    with pytest.raises(ValueError, match=r"that does not repeat, got 9223372036854775807"):
        Stream(grain.MapDataset.source([1]).repeat())
    with pytest.raises(
        TypeError, match=r"Stream\(x=\.\.\.\) must say where to find x in an element \(with keys 'x', 'label'\): pass a key or a function"
    ):
        Stream(records(train))
    with pytest.raises(TypeError, match=r"must say where to find x in an element \(ndarray\)"):
        Stream(train.x)
    with pytest.raises(ValueError, match=r"Stream\(y='lable'\): no key 'lable' in an element; did you mean 'label'\? There are: x, label"):
        Stream(records(train), "x", "lable")
    with pytest.raises(ValueError, match=r"Stream\(y=2\): no key '2' in an element. There are: 0, 1"):
        Stream([(1.0, 0)], y=2)
    with pytest.raises(TypeError, match="x must hold numbers, got <U3: encode the values first"):
        Stream([("abc", 0)])
    source = Stream(train)
    with pytest.raises(TypeError, match=r"use stream\[3:4\] for the example 3"):
        source[3]
    for rows in ([250], [-1], slice(0, 0)):
        with pytest.raises(IndexError, match="a Stream of 250 examples has the indices 0 to 249, got"):
            source[rows]
    with pytest.raises(TypeError, match=r"validation must be in memory, got a Stream: take a Dataset from it, stream\[:10_000\]"):
        ff.fit(task, source, validation=source)
    with pytest.raises(ValueError, match="validation rows differ from training rows"):
        ff.fit(task, source, validation=ff.Dataset(train.x[:, :2], train.y))
    with pytest.raises(TypeError, match="class_weight needs integer class labels"):
        ff.fit(task, Stream(ff.Dataset(train.x, train.y + 0.5)), class_weight={0: 2.0})


def resident(path):
    """Bytes of a mapped file that count as this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    sizes = [line for at, line in enumerate(lines) if line.startswith("Rss:") and any(str(path) in above for above in lines[at - 4 : at])]
    return sum(int(line.split()[1]) * 1024 for line in sizes)


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="needs Linux")
def test_pages_of_a_mapped_file_are_given_back(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2**20, 8), np.float32))  # 32 MiB
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    x.sum()
    assert resident(tmp_path / "x.npy") > 30e6
    with Feed(Stream(ff.Dataset(x, np.zeros(len(x), np.int8))), 64, 1, lambda rows: rows, "train", jax.random.key(0)) as reader:
        for number, piece in enumerate(reader.pieces()):
            assert piece.x.shape[1:] == (8,)
            if number == 40:
                break
    assert resident(tmp_path / "x.npy") < 8e6


@pytest.mark.parametrize("mode", ["c", "r+"])
def test_changes_to_a_mapped_array_are_kept(tmp_path, mode):
    np.save(tmp_path / "x.npy", np.zeros((5000, 4), np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode=mode)
    x[:] = 5
    source = Stream(ff.Dataset(x[1000:], np.zeros(4000, np.int8)))
    for _ in range(2):
        assert (source[:].x == 5).all()
    assert (x == 5).all()


@pytest.mark.parametrize("source", ["npy", "tfds"])
def test_the_speed_script_runs_and_cleans_up(tmp_path, source):
    script = Path(__file__).parents[2] / "experiments" / "speed" / "streaming.py"
    options = ["--gigabytes", "0.001", "--source", source, "--compare", "--directory", str(tmp_path)]
    done = subprocess.run([sys.executable, script, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Stream: " in done.stdout
    assert "Dataset: " in done.stdout
    assert list(tmp_path.iterdir()) == []
