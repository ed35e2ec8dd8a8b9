from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.programs import program
from flaxfit.storage.checkpoints import Checkpoints
from flaxfit.storage.directory import seal

VERSION_2 = Path(__file__).parent / "run_v2"
HISTORY = np.array([[0.5, math.nan], [-0.0, math.inf], [1 / 3, 5e-324]])


@pytest.fixture(scope="module")
def states(net):
    """Two states of a run, and leaves of the kinds that a run may also have."""
    task = ff.Task(model=net(batch_norm=True), loss=ff.losses.binary_crossentropy, optimizer=optax.adam(1e-3))
    plan = program.Plan(batch_size=5, stopping=ff.EarlyStopping("loss"), stops=False)

    def state(seed):
        key = jax.random.key(seed)
        extra = {
            "bfloat16": jax.random.normal(key, (3, 5), jnp.bfloat16),
            "bool": jnp.asarray(bool(seed)),
            "empty": jnp.zeros((0, 4)),
            "no keys": {},
            "none": None,
            "rbg": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
            "weights": jax.random.normal(key, (50_000,)),
            "a/b.c['d']": jnp.int32(seed),
        }
        return {"run": program.start(task, plan, key, jnp.zeros((2, 6))), "extra": extra}

    return state(0), state(1)


def like(state):
    return jax.eval_shape(lambda: state)


def bits(tree):
    leaves, structure = jax.tree.flatten(tree)
    raw = [jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in leaves]
    return structure, [(str(leaf.dtype), leaf.shape, np.asarray(data).tobytes()) for leaf, data in zip(leaves, raw, strict=True)]


def kept(directory):
    return sorted((path.name for path in directory.iterdir()), key=lambda name: (len(name), name))


@pytest.fixture(scope="module")
def two(states, tmp_path_factory):
    """A directory with the checkpoints 9 and 10, for copies of it."""
    directory = tmp_path_factory.mktemp("two") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        for position, state in zip((9, 10), states, strict=True):
            assert checkpoints.save(position, state, HISTORY[: position - 8], 0.5)
    return directory


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / "checkpoints")


@pytest.mark.parametrize("epochs", [0, 3])
def test_round_trip_to_the_bit(states, tmp_path, epochs):
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.restore(like(states[1])) is None
        assert checkpoints.save(7, states[1], HISTORY[:epochs], 0.5, wait=True)
        assert not checkpoints.save(7, states[0], HISTORY, 0.1)  # saved already
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
        restored, history, position, _ = checkpoints.restore(like(states[1]))
    assert bits(restored) == bits(states[1])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))
    assert (history.dtype, history.shape, history.tobytes()) == (np.float64, (epochs, 2), HISTORY[:epochs].tobytes())
    assert position == 7


def test_what_was_given_away_right_after(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    state = step({"a": jnp.zeros(1 << 20), "b": [jnp.zeros(1000) for _ in range(20)]})
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        for position in range(0, 25, 5):
            given, where = state["a"], state["a"].unsafe_buffer_pointer()
            assert checkpoints.save(position, state, HISTORY, 0.5)
            state = step(state)
            assert given.is_deleted()
            assert state["a"].unsafe_buffer_pointer() == where  # in place: no view is left that would make XLA copy
            for _ in range(4):
                state = step(state)
    for position in range(20, -1, -5):
        with Checkpoints(tmp_path) as checkpoints:
            restored, _, found, _ = checkpoints.restore(like(state))
        assert found == position
        assert all(np.all(np.asarray(leaf) == position + 1) for leaf in jax.tree.leaves(restored))
        shutil.rmtree(tmp_path / str(position))


def faults(path):
    """Ways to damage a file, by name."""
    content = path.read_bytes()
    middle = len(content) // 2
    yield "deleted", path.unlink
    yield "emptied", lambda: path.write_bytes(b"")
    yield "truncated", lambda: path.write_bytes(content[:middle])
    for place in (0, middle, len(content) - 1):
        flipped = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
        yield f"flipped at {place}", lambda flipped=flipped: path.write_bytes(flipped)


def test_any_damage_to_any_file_is_found_or_harmless(states, two, tmp_path):
    fallen_back = set()
    files = [path.relative_to(two / "10") for path in sorted((two / "10").rglob("*")) if path.is_file()]
    for name in files:
        for number in range(6):
            home = tmp_path / f"{name.name}-{name.parent.name}-{number}"
            directory = shutil.copytree(two, home / "checkpoints")
            fault, apply = list(faults(directory / "10" / name))[number]
            apply()
            with warnings.catch_warnings(record=True) as caught, Checkpoints(directory) as checkpoints:
                warnings.simplefilter("always")
                restored, history, position, _ = checkpoints.restore(like(states[0]))
            assert bits(restored) == bits(states[position - 9]), (name, fault)
            assert history.tobytes() == HISTORY[: position - 8].tobytes()
            assert kept(home) == (["checkpoints", "checkpoints-damaged"] if position == 9 else ["checkpoints"])
            assert [warning.category for warning in caught] == [RuntimeWarning] * (position == 9)
            if position == 9:
                fallen_back.add((str(name), fault.split()[0]))
    data = str(max(files, key=lambda name: (two / "10" / name).stat().st_size))
    for name in (data, "about/metadata"):
        assert {fault for other, fault in fallen_back if other == name} == {"deleted", "emptied", "truncated", "flipped"}
    for name in ("run/manifest.ocdbt", "run/_METADATA"):
        assert {"emptied", "truncated"} <= {fault for other, fault in fallen_back if other == name}


def test_a_damaged_one_is_moved_aside_and_its_position_saved_again(states, copy):
    (copy / "11").mkdir()  # empty
    (copy / "12.orbax-checkpoint-tmp").mkdir()  # by a process that was killed
    about = copy / "10" / "about" / "metadata"
    about.write_text(about.read_text().replace('"position": 10', '"position": 11'))
    with Checkpoints(copy) as checkpoints:
        with pytest.warns(RuntimeWarning) as caught:
            assert checkpoints.restore(like(states[0]))[2] == 9
        (message,) = (str(warning.message) for warning in caught)
        for words in (f"{copy}/10 (ValueError: the checksum", f"{copy}/11 (", f"moved to {copy}-damaged/11-1)", f"the older {copy}/9"):
            assert words in message
        for position in (10, 11):
            assert checkpoints.save(position, states[1], HISTORY, 0.4)
        assert checkpoints.restore(like(states[0]))[2] == 11
    assert kept(copy) == ["10", "11"]
    (copy / "11" / "about" / "metadata").unlink()
    with Checkpoints(copy) as checkpoints, pytest.warns(RuntimeWarning, match=r"11-2\)"):
        assert checkpoints.restore(like(states[0]))[2] == 10
    assert kept(copy.with_name("checkpoints-damaged")) == ["10-1", "11-1", "11-2"]


def test_all_are_damaged(states, copy):
    for position in ("9", "10"):
        (copy / position / "about" / "metadata").write_text("{")
    with Checkpoints(copy) as checkpoints, pytest.raises(ValueError, match=r"every checkpoint in .* is damaged") as raised:
        checkpoints.restore(like(states[0]))
    assert "\n  10: " in str(raised.value)
    assert "\n  9: " in str(raised.value)
    assert kept(copy.parent) == ["checkpoints"]


def test_another_state_is_no_damage(states, copy):
    shapes = like(states[0])
    wider = shapes | {"extra": shapes["extra"] | {"weights": jax.ShapeDtypeStruct((50_001,), jnp.float32)}}
    key = shapes | {"extra": shapes["extra"] | {"rbg": jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl="unsafe_rbg"), 3))}}
    more = shapes | {"more": jnp.zeros(())}
    said = {
        r"\['extra'\]\['weights'\] is float32\[50000\] in the checkpoint and float32\[50001\] here": wider,
        r"\['extra'\]\['rbg'\] is key<rbg>\[3\] in the checkpoint and key<urbg>\[3\] here": key,
        r"\['more'\] is missing in the checkpoint and float32\[\] here": more,
        r"\['run'\].* in the checkpoint and missing here; and \d+ more": {"extra": shapes["extra"]},
    }
    for words, other in said.items():
        with Checkpoints(copy) as checkpoints, pytest.raises(ValueError, match=words):
            checkpoints.restore(other)
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.restore(shapes)[2] == 10  # not moved


def test_another_format(states, copy, monkeypatch):
    monkeypatch.setattr("flaxfit.storage.checkpoints.FORMATS", (1, 2))
    with (
        Checkpoints(copy) as checkpoints,
        pytest.raises(ValueError, match=r"10 .*: its format is 3, and this version of flaxfit reads the formats 1, 2"),
    ):
        checkpoints.restore(like(states[0]))
    assert kept(copy) == ["9", "10"]


@pytest.fixture(scope="module")
def shapes_of_version_2():
    task = ff.Task(model=ff.nn.MLP((2,), 1), loss=ff.losses.mse, optimizer=optax.adam(0.05))
    plan = program.Plan(3, ff.EarlyStopping("loss", mode="min"), False)
    return jax.eval_shape(lambda key: program.start(task, plan, key, np.zeros((1, 3), np.float32)), jax.random.key(0))


def test_checkpoints_of_version_2(shapes_of_version_2, tmp_path):
    """Position 8 is inside of an epoch: its best weights are stored as `.finite`, which states no longer have."""
    directory = shutil.copytree(VERSION_2 / "checkpoints", tmp_path / "checkpoints")
    expected = json.loads((VERSION_2 / "expected.json").read_text())
    for name in ("9", "8"):
        with Checkpoints(directory) as checkpoints:
            arrays, history, position, notes = checkpoints.read(shapes_of_version_2)
        assert (str(position), notes) == (name, {})
        assert history.tolist() == expected[name]["history"]
        assert {path: array.tolist() for path, array in arrays.items()} == expected[name]["arrays"]
        shutil.rmtree(directory / name)


def test_a_run_goes_on_from_version_2(shapes_of_version_2, tmp_path):
    directory = shutil.copytree(VERSION_2 / "checkpoints", tmp_path / "checkpoints")
    with Checkpoints(directory) as checkpoints:
        state, history, position, _ = checkpoints.restore(shapes_of_version_2)
        for later in range(1, 4):
            assert checkpoints.save(position + later, state, history, 0.9)
        assert bits(checkpoints.restore(shapes_of_version_2)[0]) == bits(state)
    assert kept(directory) == ["9", "11", "12"]  # 9 is the best
    more = replace(shapes_of_version_2, plateau=jnp.zeros(()))
    shutil.copytree(VERSION_2 / "checkpoints", tmp_path / "other")
    with Checkpoints(tmp_path / "other") as checkpoints, pytest.raises(ValueError, match=r"\.plateau is missing in the checkpoint"):
        checkpoints.restore(more)


def test_notes(tmp_path):
    notes = {"a": [1, 2.5, None, "x"], 10: {"b": (True,)}, 9: math.inf}
    state = {"w": jnp.zeros(2)}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, state, HISTORY, 0.5, notes)
        assert checkpoints.read(like(state))[3] == {"a": [1, 2.5, None, "x"], "10": {"b": [True]}, "9": math.inf}
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(2, state, HISTORY, 0.5, {"a": np.ones(1)})
        assert checkpoints.save(2, state, HISTORY, 0.5, {"a": "b"}, wait=True)
        about = tmp_path / "2" / "about" / "metadata"
        about.write_text(about.read_text().replace('"a": "b"', '"a": "c"'))
        with pytest.warns(RuntimeWarning, match="the checksum of its description is wrong"):
            assert checkpoints.read(like(state))[2] == 1


def described(directory, **changes):
    """Changes a checkpoint's description, under a right seal."""
    path = directory / "about" / "metadata"
    about = json.loads(path.read_text()) | changes
    about.pop("seal")
    path.write_text(json.dumps(about | {"seal": seal(about)}))


@pytest.mark.parametrize(
    "same",
    [
        {"['a']": "['a']"},
        {"['a']": "['b']", "['b']": "['a']"},
        {"['c']": "['b']", "['b']": "['a']"},
        {"['a']": "['other']"},
        {"['a']": "history"},
        {"['absent']": "['a']"},
        {"['a']": "['short']"},
        {"['a']": ["['b']"]},
        {"['a']": None},
        ["['a']"],
        7,
    ],
)
def test_absurd_descriptions_of_what_is_the_same(tmp_path, same):
    state = {name: jnp.full(4, index) for index, name in enumerate("abc")} | {"short": jnp.zeros(3)}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, state, HISTORY, 0.5, wait=True)
        described(tmp_path / "1", format=2, same=same)
        with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
            checkpoints.restore(like(state))


def test_orbax_is_imported_on_a_thread():
    code = (
        "import sys, tempfile, threading, jax.numpy as jnp, numpy as np\n"
        "from flaxfit.storage.checkpoints import Checkpoints\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'orbax.checkpoint':\n"
        "            print(threading.current_thread() is threading.main_thread())\n"
        "sys.meta_path.insert(0, Finder())\n"
        "with tempfile.TemporaryDirectory() as home, Checkpoints(home) as checkpoints:\n"
        "    checkpoints.prepare()\n"
        "    print(checkpoints.save(1, {'w': jnp.ones(3)}, np.ones((1, 1)), 0.5, wait=True))\n"
        "with Checkpoints(home) as checkpoints:\n"
        "    checkpoints.prepare()\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "1"], done.stderr


@pytest.mark.parametrize(
    ("keep", "mode", "values", "left"),
    [
        (1, "min", [0.5, 0.2, math.nan, 0.9, 0.8], [2, 4, 5]),
        (1, "max", [0.5, 0.9, math.nan, math.inf, 0.2], [2, 4, 5]),
        (1, "min", [0.5, 0.4, 0.3], [2, 3]),  # the best is the newest: there is another to fall back to
        (2, "min", [0.1, 0.4, 0.3, -math.inf], [1, 3, 4]),
        (3, "min", [0.1, 0.4, 0.3, 0.2, 0.5], [1, 3, 4, 5]),
        (1, "min", [math.nan] * 3, [2, 3]),
        (1, "min", [0.3] * 4, [1, 3, 4]),
        (None, "min", [0.5, 0.2, math.nan, 0.9], [1, 2, 3, 4]),
    ],
)
def test_which_are_kept(tmp_path, keep, mode, values, left):
    with Checkpoints(tmp_path / "at once", keep=keep, mode=mode) as checkpoints:
        for position, value in enumerate(values, start=1):
            assert checkpoints.save(position, {"w": jnp.zeros(2)}, HISTORY, value)
    assert kept(tmp_path / "at once") == [str(position) for position in left]
    tmp_path /= "anew"
    for position, value in enumerate(values, start=1):
        with Checkpoints(tmp_path, keep=keep, mode=mode) as checkpoints:  # a new one each time: values are read from disk
            assert checkpoints.save(position, {"w": jnp.zeros(2)}, HISTORY, value)
    assert kept(tmp_path) == [str(position) for position in left]


def test_a_damaged_old_one_does_not_stop_saves(copy, states):
    for path in (copy / "9").rglob("*"):
        if path.is_file():
            path.write_bytes(b"{")
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.save(11, states[1], HISTORY, 0.6)
        assert checkpoints.save(12, states[1], HISTORY, 0.6)
    assert kept(copy) == ["10", "11", "12"]


def test_an_old_one_that_cannot_be_deleted_costs_nothing(tmp_path, monkeypatch):
    rename = Path.rename

    def refuse(path, target):
        if path.name.isdecimal() and path.parent == tmp_path:
            raise PermissionError("no")
        return rename(path, target)

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(Path, "rename", refuse)
        for position in range(1, 6):
            assert checkpoints.save(position, {"w": jnp.zeros(2)}, HISTORY, 1 / position)
        assert checkpoints.save(6, {"w": jnp.zeros(2)}, HISTORY, 0.1, wait=True)
        assert kept(tmp_path) == ["1", "2", "3", "4", "5", "6"]
        monkeypatch.undo()
        assert checkpoints.save(7, {"w": jnp.zeros(2)}, HISTORY, 0.1)
    assert kept(tmp_path) == ["6", "7"]


def test_what_is_written_wrongly_is_not_saved_and_older_ones_stay(tmp_path, monkeypatch):
    """As where Orbax lost the arrays without an error, because the path had a bracket."""
    from orbax.checkpoint import Checkpointer

    save = Checkpointer.save

    def loses(self, directory, *arguments, **options):
        save(self, directory, *arguments, **options)
        for path in (directory / "run").rglob("*"):
            if path.is_file():
                path.unlink()

    state = {"w": jnp.arange(3.0)}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, state, HISTORY, 0.5, wait=True)
        monkeypatch.setattr(Checkpointer, "save", loses)
        with pytest.warns(RuntimeWarning, match=r"/2 was not saved .*the newest one is .*/1\."):
            assert not checkpoints.save(2, state, HISTORY, 0.4, wait=True)
    assert kept(tmp_path) == ["1"]


def test_checkpoints_of_another_run(tmp_path):
    state = {"w": jnp.arange(3.0)}
    for run in ("mine", None):
        with Checkpoints(tmp_path / str(run), run=run) as checkpoints:
            assert checkpoints.owner() is None
            assert checkpoints.save(1, state, HISTORY, 0.5, wait=True)
            assert checkpoints.owner() == (run,)
            assert checkpoints.restore(like(state))[2] == 1
        for other in {"mine", "yours", None} - {run}:
            with Checkpoints(tmp_path / str(run), run=other) as checkpoints, pytest.raises(ValueError, match="it belongs to another run"):
                checkpoints.restore(like(state))


def test_threads_save_at_the_same_time(tmp_path):
    def saved(number):
        state = {"w": [jnp.arange(30_000) + number] * 4}
        with Checkpoints(tmp_path / str(number)) as checkpoints:
            for position in range(5):
                assert checkpoints.save(position, state, HISTORY, 0.5)
        with Checkpoints(tmp_path / str(number)) as checkpoints:
            restored, _, position, _ = checkpoints.restore(like(state))
        return position == 4 and bits(restored) == bits(state)

    with ThreadPoolExecutor(3) as threads:
        others = threads.map(saved, range(3))
        assert saved(3)
        assert all(others)


def test_keep_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"keep must be at least 1, or None"):
        Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize("name", ["lr=[0.1]", "[!a]", "a*", "a?", "a\\b", "with spaces", "100%20#1", "größe=模型", "~"])
def test_paths_that_orbax_would_glob_or_translate(tmp_path, name):
    tmp_path.joinpath("ab", "checkpoints").mkdir(parents=True)  # which "a*" and "a?" match too
    state = {"w": jnp.arange(3.0), "nested": {"b": jnp.ones((2, 2))}}
    for position in (1, 2, 3):
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            assert checkpoints.save(position, state, np.zeros((1, 1)), 0.5 / position)
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        found = checkpoints.restore(like(state))
    assert found is not None
    assert found[2] == 3
    assert bits(found[0]) == bits(state)
    assert kept(tmp_path / name / "checkpoints") == ["2", "3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "ab"])
    assert not list((tmp_path / "ab" / "checkpoints").iterdir())


KILLED = """
import sys, jax.numpy as jnp, numpy as np
from flaxfit.storage.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for position in range(int(sys.argv[2]), 10**6):
    checkpoints.save(position, {"w": [jnp.full(100_000, position) for _ in range(5)]}, np.full((1, 1), position), 1 / position)
    print(position, flush=True)
"""


def test_killed_during_saves(tmp_path):
    shapes, first, moments = {"w": [jax.ShapeDtypeStruct((100_000,), jnp.int32)] * 5}, 1, random.Random(0)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path, str(first)], stdout=subprocess.PIPE, text=True) as process:
            for _ in range(moments.randint(2, 4)):
                begun = int(process.stdout.readline())
            time.sleep(moments.random() / 10)
            process.kill()
        with Checkpoints(tmp_path) as checkpoints:  # a damaged one would warn
            restored, history, position, _ = checkpoints.restore(shapes)
            assert position >= begun - 1  # the one before the save under way was done
            assert all(np.all(np.asarray(leaf) == position) for leaf in [*restored["w"], history])
            assert checkpoints.save(position + 1, restored, history, 0.0)
            first = position + 2
        assert all(name.isdecimal() for name in kept(tmp_path))


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield path
    subprocess.run(["umount", path], check=True)


def noise(count):
    rng = np.random.default_rng(count)
    return {"w": [jnp.asarray(rng.random(count, np.float32)) for _ in range(3)]}


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_disk_that_fills(disk, monkeypatch, caplog, seen_before):
    small, large, directory = noise(50_000), noise(500_000), disk / "checkpoints"
    if not seen_before:  # it fills while the save is under way
        usage = namedtuple("usage", "free")
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9))
    with Checkpoints(directory) as checkpoints:
        with pytest.warns(RuntimeWarning, match=rf"{directory}/1 was not saved .*; there is none yet") as caught:
            assert not checkpoints.save(1, large, HISTORY, 0.5, wait=True)
        assert "No space left" in str(caught[0].message) or "EXHAUSTED" in str(caught[0].message)
        assert checkpoints.save(2, small, HISTORY, 0.5)
        words = rf"{directory}/3 was not saved .*; the newest one is {directory}/2\. Training continues"
        if seen_before:
            with pytest.warns(RuntimeWarning, match=words):
                assert not checkpoints.save(3, large, HISTORY, 0.4, wait=True)
            assert checkpoints.save(4, small, HISTORY, 0.4)
        else:
            assert checkpoints.save(3, large, HISTORY, 0.4)
            with pytest.warns(RuntimeWarning, match=words):
                assert checkpoints.save(4, small, HISTORY, 0.4)  # there is room again
        assert bits(checkpoints.restore(like(small))[0]) == bits(small)
    assert kept(directory) == ["2", "4"]
    # asyncio reports the other writes of a save whose first one failed, whenever they are garbage collected
    assert not [record for record in caplog.records if record.exc_info and record.name != "asyncio"]


def test_a_directory_that_turns_read_only(disk):
    small, directory = noise(50_000), disk / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.save(1, small, HISTORY, 0.5, wait=True)
        assert checkpoints.save(2, small, HISTORY, 0.4, wait=True)
        (directory / "2" / "about" / "metadata").write_text("{}")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.warns(RuntimeWarning, match=r"/3 was not saved \(OSError: .*Read-only file system"):
            assert not checkpoints.save(3, small, HISTORY, 0.4, wait=True)
        with pytest.warns(RuntimeWarning, match="could not be moved aside: .*Read-only file system"):
            assert checkpoints.restore(like(small))[2] == 1
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert checkpoints.save(3, small, HISTORY, 0.4)


def test_what_is_on_disk_is_orbax_s(two):
    """Read without flaxfit: a mapping from path to array, and JSON."""
    code = (
        "import sys, json, orbax.checkpoint as ocp\n"
        "reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())\n"
        "args = ocp.args.Composite(run=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())\n"
        "saved = reader.restore(sys.argv[1], args=args)\n"
        "about, arrays = saved['about'], saved['run']\n"
        "print(json.dumps([about['position'], about['value'], arrays['history'].shape, str(arrays[sys.argv[2]].dtype)]))\n"
    )
    printed = subprocess.run([sys.executable, "-c", code, two / "9", "['run'].key"], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == [9, 0.5, [1, 2], "uint32"]
