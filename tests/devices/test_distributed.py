"""One run of two processes with two devices each: the losses of one process, and what happens when one of them is ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import optax
import pytest

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SCRIPT = """
import os, sys
sys.stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Gloo's threads write to standard output in pieces, between and into our lines
import jax
import flaxfit as ff

jax.config.update("jax_num_cpu_devices", 2)
ff.distributed.initialize()
import numpy as np, optax
from jax.sharding import Mesh

file, directory, pause, epochs, rows, shard = sys.argv[1:]

class Tell(ff.callbacks.Callback):
    every_epochs = 1
    def on_chunk_end(self, progress):
        print("epoch", progress.epoch, flush=True)
        if progress.epoch == int(pause):
            sys.stdin.readline()

data, first = np.load(file), jax.process_index() * 125
task = ff.Task(model=ff.nn.MLP((16,), 1, dropout=0.2, batch_norm="after"), loss=ff.losses.binary_crossentropy, optimizer=optax.adam(1e-2))
part = slice(first, first + int(rows))
result = ff.fit(
    task, ff.Dataset(data["x"][part], data["y"][part]), validation=ff.Dataset(data["x"][250:], data["y"][250:]),
    epochs=int(epochs), batch_size=32, mesh=Mesh(np.array(jax.devices()), ("data",)),
    shard=ff.sharding.fsdp(50) if shard else None, run_dir=directory, callbacks=[ff.callbacks.Checkpoint(every_epochs=1), Tell()],
)
score = ff.evaluate(task, result.best, ff.Dataset(data["x"][250:], data["y"][250:]))["loss"]
print(*map(float, result.history["loss"]), *map(float, result.history["val_loss"]), score)
"""


class Pair:
    """Two processes of the script. If the state is spread, they share a directory; if not, the second's must stay unmade."""

    def __init__(self, home):
        self.home = home

    def start(self, directory, pause=0, epochs=4, rows=(125, 125), shard=""):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Programs of several processes are kept nowhere unless JAX is told to: the pairs of these tests share them.
        kept = {"JAX_COMPILATION_CACHE_DIR": str(self.home / "programs"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = os.environ | kept | {"FLAXFIT_COORDINATOR": f"127.0.0.1:{port}", "FLAXFIT_PROCESSES": "2"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.both = [
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, self.home / "rows.npz", directory, str(pause), str(epochs), str(rows[number]), shard],
                env=environment | {"FLAXFIT_PROCESS": str(number)},
                **pipes,
            )
            for number, directory in enumerate((self.home / directory, self.home / (directory if shard else "second")))
        ]
        return self.both

    def paused(self, epoch):
        """Waits until the first process holds after this epoch."""
        for line in self.both[0].stdout:
            if line == f"epoch {epoch}\n":
                return
        pytest.fail(self.both[0].stderr.read())

    def go_on(self):
        self.both[0].stdin.write("\n")
        self.both[0].stdin.flush()

    def ended(self):
        """Exit codes, lines on standard output and standard errors; a limit only so that a hang ends."""
        said = [process.communicate(timeout=600) for process in self.both]
        return [process.returncode for process in self.both], [out.splitlines() for out, _ in said], [errors for _, errors in said]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(330, 6)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] + 0.5 * rng.normal(size=330) > 0).astype(np.int32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, data):
    pair = Pair(tmp_path_factory.mktemp("pair"))
    np.savez(pair.home / "rows.npz", x=data[0], y=data[1])
    yield pair
    for process in pair.both:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def alone(data):
    """Task, rows and the result of one process on one device."""
    x, y = data
    model = ff.nn.MLP((16,), 1, dropout=0.2, batch_norm="after")
    task = ff.Task(model=model, loss=ff.losses.binary_crossentropy, optimizer=optax.adam(1e-2))
    train, validation = ff.Dataset(x[:250], y[:250]), ff.Dataset(x[250:], y[250:])
    return task, train, validation, ff.fit(task, train, validation=validation, epochs=4, batch_size=32)


def test_two_processes_are_one_run_which_outlives_them(pair, data, alone):
    task, train, validation, expected = alone
    pair.start("whole")
    codes, out, errors = pair.ended()
    assert codes == [0, 0], errors
    assert out[0][:-1] == [f"epoch {epoch}" for epoch in (1, 2, 3, 4)]
    assert out[1] == [out[0][-1]]  # the second has the same numbers, and no hooks
    assert not (pair.home / "second").exists()
    numbers = [float(number) for number in out[0][-1].split()]
    np.testing.assert_allclose(numbers[:8], [*expected.history["loss"], *expected.history["val_loss"]], rtol=1e-4)
    assert numbers[8] == pytest.approx(ff.evaluate(task, expected.best, validation)["loss"], rel=1e-4)
    assert ff.load(pair.home / "whole").evaluate(validation)["loss"] == pytest.approx(numbers[8], rel=1e-6)

    both = pair.start("ended", pause=1)
    pair.paused(1)
    both[1].send_signal(signal.SIGTERM)
    pair.go_on()
    codes, _, errors = pair.ended()
    assert codes == [-signal.SIGTERM, -signal.SIGTERM], errors
    assert "saved after" in errors[0]
    assert "saved after" not in errors[1]

    both = pair.start("ended", pause=3)
    pair.paused(3)
    both[1].kill()
    pair.go_on()
    codes, _, errors = pair.ended()
    assert codes == [1, -signal.SIGKILL], errors
    assert "another one of the 2 processes of this run was lost" in errors[0]
    assert f"resume from the last checkpoint in {pair.home / 'ended'}" in errors[0]

    went_on = ff.resume(pair.home / "ended", task, train, validation=validation)
    logged = [json.loads(line) for line in (pair.home / "whole" / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "val_loss"):
        assert went_on.history[name][:3].tolist() == [line[name] for line in logged[:3]]  # stopped and resumed on two: the same bits
        np.testing.assert_allclose(went_on.history[name], expected.history[name], rtol=1e-4)


@pytest.mark.slow
def test_parameters_spread_over_processes(pair, alone):
    expected = alone[-1]
    pair.start("spread", pause=2, shard="fsdp")
    pair.paused(2)
    pair.both[0].kill()
    codes, _, errors = pair.ended()
    assert codes[0] == -signal.SIGKILL
    assert codes[1] not in (0, -signal.SIGKILL), errors
    pair.start("spread", shard="fsdp")
    codes, out, errors = pair.ended()
    assert codes == [0, 0], errors
    numbers = [float(number) for number in out[1][-1].split()]
    np.testing.assert_allclose(numbers[:8], [*expected.history["loss"], *expected.history["val_loss"]], rtol=1e-4)


def test_unequal_parts_are_refused_by_all(pair):
    pair.start("unequal", rows=(125, 120))
    codes, _, errors = pair.ended()
    assert codes == [1, 1]
    for said in errors:
        assert "each process must pass the same number of training rows, but they pass [125, 120]." in said
