from __future__ import annotations

import atexit
import functools
import http.server
import os
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.data import sources

collect_ignore = ["faults"]  # run by name: python -m tests.faults

if "FLAXFIT_CACHE" not in os.environ:  # the processes of a run share compiled programs; nothing is written to the user's home
    os.environ["FLAXFIT_CACHE"] = tempfile.mkdtemp(prefix="flaxfit-tests-")
    atexit.register(shutil.rmtree, os.environ["FLAXFIT_CACHE"], ignore_errors=True)


@pytest.fixture(scope="module")
def quickly_compiled():
    """Programs are compiled as fast as can be, in processes that the tests start, too: of short runs that is most of the time.

    Not for tests that expect known bits, or the same bits of different programs: they are about the programs that users have. What was
    compiled here is therefore forgotten at the end of the module.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


class Net(nn.Module):
    """A small net in plain Linen, so that the engine is tested apart from `flaxfit.nn`."""

    hidden: int = 16
    outputs: int = 1
    batch_norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(self.hidden)(x)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.outputs)(x)


@pytest.fixture(scope="session")
def net():
    return Net


@pytest.fixture(scope="session")
def table():
    """A learnable but noisy two-class table: 250 rows of 6 features to train, 100 to validate."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(350, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + 0.5 * x[:, 2] + 0.5 * rng.normal(size=350) > 0).astype(np.int32)
    return ff.Dataset(x[:250], y[:250]), ff.Dataset(x[250:], y[250:])


class EachLoss(ff.callbacks.Callback):
    """Notes the objective after every step, from an optimizer chain that starts with the fixture's transformation."""

    every_steps = 1

    def __init__(self):
        self.losses = []

    def on_chunk_end(self, progress):
        self.losses.append(float(progress.state.train.opt_state[0]))


@pytest.fixture
def each_loss():
    """A hook, and an optax transformation that changes nothing and keeps the last objective to the bit, for the hook to read."""

    def update(updates, state, params=None, *, value, **extra):
        return updates, value

    return EachLoss(), optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)


@pytest.fixture(scope="session")
def originals():
    """The directory of original data files; tests that need them are skipped where there is none."""
    directory = Path(os.environ.get("FLAXFIT_ORIGINALS") or "missing")
    if not (directory / "mnist").is_dir():
        pytest.skip("needs FLAXFIT_ORIGINALS, a directory of original data files")
    return directory


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no directory of originals."""
    monkeypatch.setenv("FLAXFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FLAXFIT_ORIGINALS", raising=False)
    return tmp_path / "cache" / "data"


class Host:
    """A server on this machine that stands for the hosts of the originals, with their faults.

    Attributes:
      files: path -> the bytes served there.
      faults: what goes wrong with the next requests, in turn: "drop" breaks off in the middle, "stall" waits there, a number is a
        status, another text is where a redirect leads.
      requests: the paths asked for.
      sent: bytes written to sockets.
    """

    def __init__(self, monkeypatch):
        self.files, self.faults, self.requests, self.sent, self._monkeypatch = {}, [], [], 0, monkeypatch
        monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))  # between attempts
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stands_for(self, name, files, sums=None):
        """Serves `files` (path of an original -> bytes) as the originals of the source `name`."""
        self.files |= files
        source = sources.SOURCES[name]
        url = f"http://127.0.0.1:{self._server.server_port}/"
        changed = tuple(replace(file, url=url + file.path, sha256=(sums or {}).get(file.path, file.sha256)) for file in source.originals)
        self._monkeypatch.setitem(sources.SOURCES, name, replace(source, originals=changed))

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, host, *arguments):
        self.host = host
        super().__init__(*arguments)

    def do_GET(self):
        path = self.path.lstrip("/")
        self.host.requests.append(path)
        fault = self.host.faults.pop(0) if self.host.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if fault not in (None, "drop", "stall"):
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
            return
        content = self.host.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        content = content[: len(content) // 2] if fault in ("drop", "stall") else content
        try:
            for first in range(0, len(content), 1 << 16):
                self.host.sent += self.wfile.write(content[first : first + (1 << 16)])
            if fault == "stall":
                self.rfile.read(1)  # until the reader hangs up
        except OSError:
            pass  # the reader has had enough
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def host(monkeypatch):
    host = Host(monkeypatch)
    yield host
    host.close()
