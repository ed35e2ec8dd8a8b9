"""A run whose state is spread over several processes: each saves its own parts, and any number of them restores those of any other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import flaxfit as ff
from flaxfit.devices.distributed import ALONE, HEARTBEAT_SECONDS
from flaxfit.devices.sharding import arrays_of
from flaxfit.storage import shards
from flaxfit.storage.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("quickly_compiled")

FORMAT_4 = Path(__file__).parents[1] / "storage" / "spread_v4"
SCRIPT = """
import os, sys, zlib
sys.stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Gloo's threads write to standard output
import jax
import flaxfit as ff

directory, epochs, devices = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", devices)
if "FLAXFIT_PROCESSES" in os.environ:
    ff.distributed.initialize()
import numpy as np, optax
from jax.sharding import Mesh

class Tell(ff.callbacks.Callback):
    every_epochs = 1
    reads_state = False
    def on_chunk_end(self, progress):
        print("epoch", progress.epoch, flush=True)

class Whole(ff.callbacks.Callback):
    def on_chunk_end(self, progress):  # in the first process, which is given everything
        print("sum", sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(progress.state.train.params)))

rng = np.random.default_rng(7)
x = rng.normal(size=(300, 8)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int32)
model = ff.nn.MLP((16, 16), 1, dropout=0.2, batch_norm="after")
task = ff.Task(model, ff.losses.binary_crossentropy, optax.adam(1e-2))
mine = np.array_split(np.arange(240), jax.process_count())[jax.process_index()]
validation = ff.Dataset(x[240:], y[240:])
callbacks = [ff.callbacks.Checkpoint(every_epochs=1, keep=3), Tell(), Whole()]
result = ff.fit(
    task, ff.Dataset(x[mine], y[mine]), validation=validation, epochs=epochs, batch_size=32, run_dir=directory, callbacks=callbacks,
    mesh=Mesh(np.array(jax.devices()), ("data",)), shard=ff.sharding.fsdp(50),
)
spread = [leaf for leaf in jax.tree.leaves(result.last) if isinstance(leaf, jax.Array)]
assert jax.process_count() == 1 or spread and not any(leaf.is_fully_replicated for leaf in spread)
whole = ff.sharding.gather(result.last)
bits = 0
for leaf in jax.tree.leaves(whole):
    bits = zlib.crc32(np.asarray(leaf).tobytes(), bits)
print("bits", bits)
print("scores", *map(float, result.history["loss"]), ff.evaluate(task, result.best, validation)["loss"])
"""


def begin(processes, directories, epochs, devices):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alike = {"FLAXFIT_COORDINATOR": f"127.0.0.1:{port}", "FLAXFIT_PROCESSES": str(processes)} if processes > 1 else {}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, directory, str(epochs), str(devices)],
            env=os.environ | alike | ({"FLAXFIT_PROCESS": str(number)} if processes > 1 else {}),
            **pipes,
        )
        for number, directory in enumerate(directories)
    ]


def train(processes, directory, epochs=2, devices=None):
    """Standard outputs by first word, and standard errors."""
    started = begin(processes, [directory] * processes, epochs, devices or 4 // processes)
    said = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0] * processes, said
    lines = [[line.split() for line in out.splitlines()] for out, _ in said]
    return [{words[0]: [float(word) for word in words[1:]] for words in each} for each in lines], [errors for _, errors in said]


def flip(path, places):
    """Changes a bit of some of the bytes of a file."""
    content = bytearray(path.read_bytes())
    for place in range(len(content))[places]:
        content[place] ^= 4
    path.write_bytes(content)


def test_each_process_saves_its_own_parts_and_one_process_restores_them(tmp_path):
    said, _ = train(2, tmp_path / "run")
    assert said[0]["bits"] == said[1]["bits"]
    assert said[0]["scores"] == said[1]["scores"]
    assert "sum" in said[0]
    assert "sum" not in said[1]
    newest = tmp_path / "run" / "checkpoints" / "16"
    for process in (0, 1):
        assert any((newest / "run" / f"ocdbt.process_{process}" / "d").iterdir())
    about = json.loads((newest / "about" / "metadata").read_text())
    name = ".train.params['Dense_1']['kernel']"
    assert about["parts"][name]["shape"] == [4, 16]
    assert shards.opened(newest / "run", [name])[name].chunk_layout.read_chunk.shape == (4, 16)

    rng = np.random.default_rng(7)
    x = rng.normal(size=(300, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    model = ff.nn.MLP((16, 16), 1, dropout=0.2, batch_norm="after")
    task = ff.Task(model, ff.losses.binary_crossentropy, optax.adam(1e-2))
    data, validation = ff.Dataset(x[:240], y[:240]), ff.Dataset(x[240:], y[240:])
    same = ff.resume(tmp_path / "run", task, data, validation=validation)
    bits = 0
    for leaf in jax.tree.leaves(same.last):
        bits = zlib.crc32(np.asarray(leaf).tobytes(), bits)
    assert [bits] == said[0]["bits"]


def test_parts_of_an_array_have_checksums():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    array = jax.device_put(np.arange(12.0).reshape(3, 4), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    arrays = {"spread": array, "history": np.arange(6.0), "scalar": np.array(3)}
    parts = shards.checksums(arrays, ALONE)
    assert parts["spread"] == {"shape": [3, 4], "crc32": [zlib.crc32(np.asarray(array).tobytes())]}
    values = np.arange(24.0).reshape(4, 6)
    corners = [values[row : row + 2, column : column + 3] for row in (0, 2) for column in (0, 3)]
    cut = {"values": {"shape": [2, 3], "crc32": [zlib.crc32(np.ascontiguousarray(corner)) for corner in corners]}}
    shards.check({"values": values}, cut, ALONE)
    for row, column in ((0, 0), (1, 5), (2, 2), (3, 3)):
        wrong = values.copy()
        wrong[row, column] = np.nextafter(wrong[row, column], 99)
        with pytest.raises(ValueError, match="the checksum of values is wrong"):
            shards.check({"values": wrong}, cut, ALONE)
    with pytest.raises(ValueError, match="there are no checksums of some arrays"):
        shards.check({"values": values, "others": values}, cut, ALONE)
    with pytest.raises(ValueError, match="cannot have parts of shape"):
        shards.check({"values": values}, {"values": {**cut["values"], "shape": [3, 3]}}, ALONE)


@pytest.mark.slow
def test_any_number_of_processes_restores_what_any_other_saved(tmp_path):
    saved = {count: train(count, tmp_path / f"{count}")[0] for count in (1, 2, 4)}
    for count, said in saved.items():
        for readers in (1, 2, 4):
            again, _ = train(readers, shutil.copytree(tmp_path / f"{count}", tmp_path / f"{count}-{readers}"))
            assert {one["bits"][0] for one in again} == {said[0]["bits"][0]}
    longer = [train(readers, tmp_path / f"4-{readers}", epochs=4)[0][0]["scores"] for readers in (1, 2, 4)]
    whole = train(1, tmp_path / "whole", epochs=4, devices=1)[0][0]["scores"]
    for scores in longer:
        np.testing.assert_allclose(scores, whole, rtol=1e-4)


@pytest.mark.slow
def test_a_damaged_part_is_found_whoever_reads_it(tmp_path):
    _, (errors, _) = train(2, tmp_path / "run", epochs=1)
    assert "damaged" not in errors
    train(2, tmp_path / "run", epochs=2)
    for readers in (1, 2, 4):
        copy = shutil.copytree(tmp_path / "run", tmp_path / f"copy-{readers}")
        for path in (copy / "checkpoints" / "16" / "run").rglob("d/*"):  # small arrays are in its index
            flip(path, slice(None, None, 16))
        said, errors = train(readers, copy, epochs=2)
        assert "The run is resumed from the older" in errors[0]
        assert all("resumed from the older" not in other for other in errors[1:])
        assert len(said[0]["scores"]) == 3


@pytest.mark.slow
def test_a_directory_that_only_the_first_process_sees_is_refused_by_all(tmp_path):
    started = begin(2, [tmp_path / "run", tmp_path / "other"], 2, 2)
    said = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [1, 1]
    for _, errors in said:
        assert "process 1 does not see there what process 0 has written: use a directory that they share." in errors
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_signal_to_one_process_saves_the_parts_of_all(tmp_path):
    started = begin(2, [tmp_path / "run"] * 2, 1_000_000, 2)
    out = started[0].stdout
    assert out is not None
    assert any(line == "epoch 2\n" for line in out)
    started[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2, errors
    newest = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"saved after {newest // 8} of 1000000 epochs" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_is_noticed(tmp_path, stopped):
    started = begin(2, [tmp_path / "run"] * 2, 1_000_000, 1)
    try:
        out = started[0].stdout
        assert out is not None
        assert any(line == "epoch 2\n" for line in out)
        started[stopped].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        _, errors = started[1 - stopped].communicate(timeout=1200)
        seconds = time.monotonic() - began
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert started[1 - stopped].returncode not in (0, -signal.SIGKILL), errors
    assert HEARTBEAT_SECONDS / 2 < seconds < 2 * HEARTBEAT_SECONDS
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.saved()


def test_what_two_processes_saved_in_format_4(tmp_path):
    state = {
        "rows": np.arange(32, dtype=np.float32).reshape(8, 4),
        "columns": np.arange(24).reshape(3, 8).astype(jax.numpy.bfloat16),
        "whole": np.arange(5, dtype=np.int32),
        "empty": np.zeros((0, 4), np.float32),
        "bool": np.array(True),
        "key": jax.random.key(3),
        "a/b.c['d']": np.arange(4, dtype=np.float32),
    }
    like, expected = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, state)), arrays_of(state)

    def read(directory):
        with Checkpoints(directory, run="golden") as checkpoints:
            arrays, history, position, notes = checkpoints.read(like)
        assert (position, notes) == (7, {"note": 0})
        np.testing.assert_array_equal(history, [[0.5, np.nan], [0.25, 1 / 3]])
        return {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}

    whole = {name: (array.dtype, array.tobytes()) for name, array in expected.items()}
    assert read(FORMAT_4) == whole
    found = 0
    for file in (FORMAT_4 / "7" / "run").rglob("d/*"):
        for place in range(0, file.stat().st_size, 200):
            copy = shutil.copytree(FORMAT_4, tmp_path / "copy", dirs_exist_ok=True)
            flip(copy / file.relative_to(FORMAT_4), slice(place, place + 1))
            with suppress(ValueError):
                assert read(copy) == whole  # not all that Orbax has written is read
                continue
            found += 1
    assert found >= 3
