from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import flaxfit as ff
from flaxfit.history import History
from flaxfit.storage.directory import RunDirectory, differences, environment

HISTORY = History({"loss": [0.5, math.nan, 0.25], "val_loss": [math.inf, -0.0, 1 / 3]})


def first(epochs, of=HISTORY):
    return History({name: values[:epochs] for name, values in of.items()})


def test_layout_is_named_and_nothing_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory("runs/a")
    assert directory.path == tmp_path / "runs" / "a"
    names = ("config_path", "metrics_path", "checkpoints", "export", "plots", "tensorboard")
    assert [str(getattr(directory, name).relative_to(directory.path)) for name in names] == [
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "export",
        "plots",
        "tensorboard",
    ]
    assert directory.read_config() is None
    assert directory.read_metrics() is None
    assert list(tmp_path.iterdir()) == []


HOLDS = (
    "import sys\nfrom flaxfit.storage.directory import RunDirectory\nwith RunDirectory(sys.argv[1]).lock():\n print(1, flush=True); input()"
)


def test_two_processes_and_an_owner_that_died(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLDS, directory.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"1\n"
        with pytest.raises(RuntimeError, match=f"process {owner.pid} is running in {directory.path}: "), directory.lock():
            pass
        owner.kill()
        owner.wait()
        with directory.lock():
            with pytest.raises(RuntimeError, match=f"process {os.getpid()} is running"), RunDirectory(directory.path).lock():
                pass
            again = subprocess.run([sys.executable, "-c", HOLDS, directory.path], capture_output=True, text=True, check=False)
            assert f"RuntimeError: process {os.getpid()} is running in {directory.path}" in again.stderr


def test_the_lock_is_given_back_whatever_happens(tmp_path):
    directory = RunDirectory(tmp_path)
    with pytest.raises(KeyError), directory.lock():
        raise KeyError("in training")
    with pytest.raises(OSError, match="of the run's own"), directory.lock():
        raise OSError("of the run's own")
    with directory.lock():
        pass


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the run directory cannot be written .*file/run"), RunDirectory(tmp_path / "file" / "run").lock():
        pass


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 kB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_read_only_directory(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for path in (disk, disk / "run"):
        with pytest.raises(OSError, match=r"cannot be written .*Read-only") as raised, RunDirectory(path).lock():
            pass
        assert (raised.value.errno, raised.value.filename) == (errno.EROFS, str(path))


def test_a_full_disk(disk):
    directory = RunDirectory(disk)
    directory.write_config({"seed": 0})
    directory.write_metrics(first(1))
    (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 4096))
    many = History({name: [0.1] * 1000 for name in HISTORY}, first_epoch=2)
    whole = History({name: np.concatenate([first(1)[name], many[name]]) for name in many})
    with pytest.raises(OSError, match="No space left"):
        directory.append_metrics(many)
    with pytest.raises(OSError, match="No space left"):
        directory.write_metrics(whole)
    with pytest.raises(OSError, match="No space left"):
        directory.write_config({"seed": "1" * 10_000})
    assert directory.read_metrics() == first(1)
    assert directory.read_config() == {"seed": 0}
    (disk / "filler").unlink()
    directory.append_metrics(many)
    assert directory.read_metrics() == whole
    assert sorted(path.name for path in disk.iterdir()) == ["config.json", "metrics.jsonl"]


def test_config(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path / "run")
    config = {"model": {"sizes": [16, 16], "name": "Größe"}, "rate": 1e-3, "none": None}
    directory.write_config(config)
    assert directory.read_config() == config
    assert json.loads(directory.config_path.read_text())["format"] == 1
    with pytest.raises(TypeError):
        directory.write_config({"model": object()})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken"):  # noqa: PT012
        patch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("broken")))
        directory.write_config({})
    assert directory.read_config() == config
    assert [path.name for path in directory.path.iterdir()] == ["config.json"]


def test_config_of_another_kind(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.config_path.write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"is a run directory of format 2, but this version of flaxfit reads format 1: use the version"):
        directory.read_config()
    for content in ("{", "[]", "{}", "null", '{"format": 1}\x00', "\xff"):
        directory.config_path.write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=r"config\.json is not the configuration of a run"):
            directory.read_config()


def test_differences():
    old = {"batch_size": 32, "data": {"train": {"rows": "0:100", "sha": "a"}}, "sizes": [1, 2], "gone": None, "epochs": 5, "epochs_more": 1}
    new = {
        "batch_size": 64,
        "data": {"train": {"rows": "0:90", "sha": "a"}},
        "sizes": (1, 2),
        "new": {"a": True},
        "epochs": 9,
        "epochs_more": 2,
    }
    assert differences(old, old) == []
    nets = ({"model": f"Net(\n    # attributes\n    rate = {rate}\n    width = 8\n)"} for rate in (0.1, 0.2))
    assert differences(*nets) == ["model: Net(..., rate = 0.1, ...) -> Net(..., rate = 0.2, ...)"]
    assert differences(old, new, ignore=["epochs"]) == [
        "batch_size: 32 -> 64",
        "data.train.rows: 0:100 -> 0:90",
        "gone: null -> (missing)",
        "epochs_more: 1 -> 2",
        "new.a: (missing) -> true",
    ]
    assert differences(old, new, ignore=["batch_size", "data", "gone", "new.a", "epochs", "epochs_more"]) == []
    assert differences({"x": math.nan}, {"x": math.nan}) == []
    assert differences({"x": {}}, {"x": {"y": 1}}) == ["x: {} -> (missing)", "x.y: (missing) -> 1"]


def test_environment(tmp_path, monkeypatch):
    def git(*command):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], check=True, capture_output=True, cwd=tmp_path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["commit"] is None
    assert found["versions"]["flaxfit"] == ff.__version__
    assert found["versions"]["python"] == sys.version.split()[0]
    assert all(found["versions"][name] for name in ("jax", "flax", "optax", "numpy", "orbax-checkpoint"))
    assert found["device"]["count"] >= 1
    assert found["command"] == sys.orig_argv
    assert found["directory"] == str(tmp_path)
    (tmp_path / "file").write_text("a")
    git("init")
    git("add", "file")
    git("commit", "-m", "a")
    commit = environment()["commit"]
    assert len(commit) == 40
    (tmp_path / "file").write_text("b")
    assert environment()["commit"] == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None


def test_metrics(tmp_path):
    directory = RunDirectory(tmp_path)
    later = History({name: values[2:] for name, values in HISTORY.items()}, first_epoch=3)
    directory.append_metrics(first(2))
    directory.append_metrics(later)
    assert directory.read_metrics() == HISTORY
    directory.write_metrics(first(2))
    assert directory.read_metrics() == first(2)
    assert directory.metrics_path.read_text().splitlines() == list(first(2).lines())
    directory.write_metrics(first(0))
    assert len(directory.read_metrics().epochs) == 0


def test_a_torn_last_line(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_metrics(HISTORY)
    content = directory.metrics_path.read_bytes()
    lengths = [len(line) + 1 for line in HISTORY.lines()]
    for end in range(len(content)):
        directory.metrics_path.write_bytes(content[:end])
        epochs = sum(end >= sum(lengths[:count]) for count in (1, 2, 3))
        found = directory.read_metrics()
        assert found == first(epochs) if epochs else not len(found.epochs)
    directory.metrics_path.write_bytes(content[:10] + b"\n" + content[10:])
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: not a line of metrics"):
        directory.read_metrics()


def test_a_configuration_with_a_changed_bit_is_said_to_be_damaged(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_config({"seed": 3, "class_weight": {0: 1.0, 10: 2.0, 2: 0.5}})
    assert directory.read_config()["class_weight"] == {"0": 1.0, "10": 2.0, "2": 0.5}
    directory.config_path.write_text(directory.config_path.read_text().replace('"seed": 3', '"seed": 7'))
    with pytest.raises(ValueError, match="its checksum is wrong"):
        directory.read_config()


def test_a_directory_without_a_name_is_refused():
    with pytest.raises(ValueError, match='must have a name, got ""'):
        RunDirectory("")
