"""Compiled programs on disk: what happens to a cache that nobody asked for must never end or change a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxfit.programs import disk

CODE = """
import collections, json, warnings, jax
warnings.simplefilter("error")
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rsplit("/", 1)[-1]]))
import flaxfit as ff, numpy as np, optax
before = dict(jax.config.values)
task = ff.Task(ff.nn.MLP((4,), 1), ff.losses.mse, optax.sgd(1e-3))
result = ff.fit(task, ff.Dataset(np.eye(4), np.ones(4)), epochs=2)
assert dict(jax.config.values) == before
print(json.dumps([events["cache_hits"], events["cache_misses"], result.history["loss"].tolist()]))
"""


def run(home):
    environment = {name: value for name, value in os.environ.items() if name != "FLAXFIT_CACHE"} | {"XDG_CACHE_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_the_next_process_loads_what_the_first_compiled_and_mends_what_is_torn(tmp_path):
    hits, misses, loss = run(tmp_path)
    assert hits == 0 < misses
    assert run(tmp_path) == [misses, 0, loss]
    (entry,) = tmp_path.glob("flaxfit/programs/*/jit__advance-*-cache")
    entry.write_bytes(entry.read_bytes()[:1000])
    assert run(tmp_path)[2] == loss
    assert not entry.exists()  # so that the next process writes it again


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """The directory of programs of a process that has not compiled anything."""
    monkeypatch.setenv("FLAXFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(disk, "_failed", False)
    disk._directory.cache_clear()
    yield tmp_path / "cache" / "programs"
    disk._directory.cache_clear()


def compiled():
    """Compiles a program that this process does not have yet, and returns what it computes."""
    return float(disk.compiled(jax.jit(lambda x: 2 * x + 1).lower(1.0))(1.0))


@pytest.mark.parametrize("setting", ["jax_enable_compilation_cache", "jax_compilation_cache_dir"])
def test_who_wants_none_or_another_gets_it(programs, tmp_path, monkeypatch, setting):
    value = False if setting == "jax_enable_compilation_cache" else str(tmp_path / "own")
    before = jax.config.values[setting]
    try:
        jax.config.update(setting, value)
        assert compiled() == 3
    finally:
        jax.config.update(setting, before)
        compilation_cache.reset_cache()
    assert not programs.exists()
    assert compiled() == 3
    assert list(programs.glob("*/*-cache"))


@pytest.mark.parametrize("method", ["get", "put"])
def test_a_cache_that_fails_is_emptied_and_the_process_goes_on_without(programs, monkeypatch, method):
    programs.mkdir(parents=True)
    disk._directory()
    (directory,) = programs.glob("*")
    (directory / "jit_torn-cache").touch()

    def broken(self, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"jax._src.lru_cache.LRUCache.{method}", broken)
    assert compiled() == compiled() == 3  # without a warning, which pytest would raise
    assert not directory.exists()


def test_an_error_of_the_compiler_is_raised(programs):
    class Fails:
        def compile(self):
            raise ValueError("too large for the device")

    with pytest.raises(ValueError, match="too large"):
        disk.compiled(Fails())


@pytest.mark.parametrize("mode", [0o500, 0o777])
def test_a_directory_that_is_read_only_or_that_others_can_write_is_not_used(programs, mode):
    disk._directory()
    (directory,) = programs.glob("*")
    directory.chmod(mode)
    if mode == 0o500 and os.access(directory, os.W_OK):
        pytest.skip("root can write everywhere")
    disk._directory.cache_clear()
    assert compiled() == 3
    assert not list(directory.iterdir())


def test_a_home_that_cannot_be_written_is_not_used(programs):
    programs.parent.parent.mkdir(exist_ok=True)
    programs.parent.write_text("a file where the directory should be")
    assert compiled() == 3


def test_what_was_not_used_for_the_longest_time_makes_room(programs, monkeypatch):
    other = programs / "jaxlib-0.0-another"  # another version's are the same user's disk
    other.mkdir(parents=True)
    for age in range(10):
        (other / f"{age}-cache").write_bytes(bytes(100))
        os.utime(other / f"{age}-cache", (1_000_000_000 - age,) * 2)
    monkeypatch.setattr(disk, "MOST_BYTES", 1000)
    disk._directory()
    assert len(list(other.iterdir())) == 10
    (other / "new-cache").write_bytes(bytes(1))
    disk._directory.cache_clear()
    disk._directory()
    assert sorted(path.name for path in other.iterdir()) == ["0-cache", "1-cache", "2-cache", "3-cache", "new-cache"]
