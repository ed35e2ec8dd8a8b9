from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

import flaxfit as ff
from flaxfit.programs.export import export, pack
from flaxfit.state import TrainState
from flaxfit.storage.predictor import PARTS, SUMS, load, transfer
from flaxfit.storage.weights import save_weights


def task_of(model, **settings):
    settings = {
        "loss": ff.losses.binary_crossentropy,
        "metrics": {"accuracy": ff.metrics.binary_accuracy},
        "optimizer": optax.adam(1e-2),
    } | settings
    return ff.Task(model=model, **settings)


def trained(task, data, epochs=2):
    return ff.fit(task, data, epochs=epochs, batch_size=32)


@pytest.fixture(scope="module")
def saved(table, net, tmp_path_factory):
    """A net with batch norm, dropout, penalty and scaling in an export, and all that it came from."""
    train, validation = table
    train = replace(train, features=tuple("abcdef"), classes=("no", "yes"))
    scaling = ff.data.standardize(train.x)
    task = task_of(net(batch_norm=True, dropout=0.5), penalty=ff.penalties.l2(1e-3), preprocess=scaling)
    best = trained(task, train).best
    run = tmp_path_factory.mktemp("runs") / "one"
    export(run / "export", task, best, train, about={"epoch": 2, "monitor": "loss"})
    file = pack(run / "export", run / "model.flaxfit")
    return SimpleNamespace(task=task, state=best, train=train, validation=validation, scaling=scaling, run=run, file=file)


def assert_same_model(model, task, state, data, **tolerance):
    np.testing.assert_allclose(model.predict(data.x), ff.predict(task, state, data.x), **({"rtol": 1e-6, "atol": 1e-6} | tolerance))
    scores, expected = model.evaluate(data), ff.evaluate(task, state, data)
    assert list(scores) == list(expected)
    for name in scores:
        assert scores[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-7), name


@pytest.mark.parametrize("form", ["run", "export", "file"])
def test_a_loaded_model_predicts_and_scores_as_the_task_does(saved, form):
    model = load({"run": saved.run, "export": str(saved.run / "export"), "file": saved.file}[form])
    assert_same_model(model, saved.task, saved.state, saved.validation)
    assert model.about == {"epoch": 2, "monitor": "loss"}
    assert model.features == tuple("abcdef")
    assert model.classes == ("no", "yes")
    assert model.metadata["data"] == {"count": 250, "source": "arrays"}
    assert model.metadata["step"] == int(saved.state.step)
    np.testing.assert_array_equal(model.scaling.offset, saved.scaling.offset)
    np.testing.assert_array_equal(model.scaling(saved.train.x), saved.scaling(saved.train.x))
    for loaded, kept in ((model.params, saved.state.params), (model.collections, saved.state.collections)):
        assert jax.tree.all(jax.tree.map(np.array_equal, loaded, kept))
    name = "model.flaxfit" if form == "file" else saved.run.name if form == "run" else "export"
    assert repr(model) == (f"Predictor({name}: x (rows, 6) float32; 161 weights; scores binary_crossentropy, accuracy)")


def test_other_weights_make_another_model_of_it(saved, tmp_path):
    fresh = saved.task.init(jax.random.key(5), saved.train.x[:1])
    untrained = load(export(tmp_path / "fresh", saved.task, fresh, saved.train))
    model = untrained.with_weights(saved.run / "export" / "weights.safetensors")
    assert_same_model(model, saved.task, saved.state, saved.validation)
    np.testing.assert_array_equal(model.params["Dense_0"]["kernel"], saved.state.params["Dense_0"]["kernel"])
    assert_same_model(untrained, saved.task, fresh, saved.validation)  # as it was

    save_weights(tmp_path / "checkpoint.safetensors", saved.state)  # as hooks.Checkpoint writes them
    assert_same_model(untrained.with_weights(tmp_path / "checkpoint.safetensors"), saved.task, saved.state, saved.validation)
    alone = ff.load_weights(tmp_path / "checkpoint.safetensors")
    np.testing.assert_array_equal(alone["params"]["Dense_0"]["kernel"], saved.state.params["Dense_0"]["kernel"])
    ff.save_weights(str(tmp_path / "by_hand.safetensors"), saved.state)
    assert (tmp_path / "by_hand.safetensors").read_bytes() == (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint.safetensors has weights and no model: load\(run_dir\)\.with_weights\(file\)"):
        load(tmp_path / "checkpoint.safetensors")
    other = replace(saved.state, params={**saved.state.params, "Dense_1": {"bias": np.zeros(2, np.float32)}})
    save_weights(tmp_path / "other.safetensors", other)
    with pytest.raises(
        ValueError, match=r"other.safetensors.*params/Dense_1/bias is float32 \(2,\) in the file, and float32 \(1,\) in the model"
    ):
        untrained.with_weights(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "checkpoint.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut.safetensors is damaged or not a model"):
        untrained.with_weights(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_batch_size_does_not_matter(saved, batch_size):
    model = load(saved.file)
    np.testing.assert_allclose(
        model.predict(saved.validation.x, batch_size=batch_size), model.predict(saved.validation.x), rtol=1e-6, atol=1e-6
    )
    scores = model.evaluate(saved.validation, batch_size=batch_size, metrics={"auc": ff.metrics.auc})
    assert scores == pytest.approx(ff.evaluate(saved.task, saved.state, saved.validation, metrics={"auc": ff.metrics.auc}), rel=1e-6)


def test_a_stream_scores_as_its_rows(saved):
    model, weighted = load(saved.file), replace(saved.validation, sample_weight=np.linspace(0, 2, 100))
    expected = model.evaluate(weighted, metrics={"auc": ff.metrics.auc})
    assert model.evaluate(ff.data.Stream(weighted), batch_size=32, metrics={"auc": ff.metrics.auc}) == pytest.approx(expected, rel=1e-6)
    x = saved.validation.x.copy()
    x[70] = np.nan
    with pytest.raises(ValueError, match="first in row 6") as raised:
        model.evaluate(ff.data.Stream(replace(weighted, x=x)), batch_size=32)
    assert raised.value.__notes__ == ["Rows are counted from row 64 of the stream."]


def test_sample_weights_count_as_in_evaluate(saved):
    weighted = replace(saved.validation, sample_weight=np.linspace(0, 2, 100))
    assert load(saved.file).evaluate(weighted) == pytest.approx(ff.evaluate(saved.task, saved.state, weighted), rel=1e-6)


class Batch(NamedTuple):
    left: np.ndarray
    right: np.ndarray


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(jnp.concatenate([x["left"], x["right"]], -1) if isinstance(x, dict) else x.left + x.right)


class Odd(nn.Module):
    """Half precision, an integer table, a scalar; two outputs by name."""

    @nn.compact
    def __call__(self, x, *, train):
        count = self.variable("counts", "seen", lambda: jnp.full((), 7, jnp.int32))
        scale = self.param("scale", lambda key: jnp.float32(0.5))
        y = nn.Dense(1, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(x)
        return {"mean": y * scale, "seen": y * 0 + count.value}


class NeedsTheNumberOfRows(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x + np.zeros(x.shape))


rng = np.random.default_rng(3)
x6 = rng.normal(size=(90, 6)).astype(np.float32)
labels = (x6[:, 0] > 0).astype(np.int32)


@pytest.mark.parametrize(
    ("task", "x", "y", "rows"),
    [
        (task_of(TwoInputs()), {"left": x6, "right": x6[:, :2]}, labels, None),
        (task_of(TwoInputs()), Batch(x6, x6), labels, None),
        (
            task_of(
                Odd(), loss=lambda logits, y: (logits["mean"][:, 0] - y["target"]) ** 2, metrics={"z": lambda logits, y: y["target"] > 0}
            ),
            x6,
            {"target": x6[:, 1]},
            None,
        ),
        (task_of(NeedsTheNumberOfRows()), x6, labels, 128),
        (
            task_of(
                ff.nn.MLP((4,), 1), optimizer=optax.chain(optax.adam(1e-2), ff.averaging.weight_ema(0.5)), eval_params=ff.averaging.averaged
            ),
            x6,
            labels,
            None,
        ),
        (task_of(ff.nn.MLP((4,), 3), loss=ff.losses.categorical_crossentropy, metrics={"top": ff.metrics.top_k(2)}), x6, labels, None),
        (
            task_of(ff.nn.MLP((4,), 1), preprocess=lambda x: x.reshape(x.shape[0], -1) / 255.0),
            (x6 * 50 + 128).astype(np.uint8).reshape(-1, 2, 3, 1),
            labels,
            None,
        ),
        (task_of(ff.nn.MLP((4,), 1), preprocess=ff.data.rescale()), (x6 * 50 + 128).astype(np.uint8), labels, ...),
        (task_of(TwoInputs(), preprocess=ff.data.standardize({"left": x6, "right": x6 + 1})), {"left": x6, "right": x6}, labels, ...),
    ],
    ids=["dict", "named tuple", "odd types", "fixed rows", "averaged weights", "classes", "images", "rescaled", "dict scaled"],
)
def test_whatever_fits_a_task_is_exported(task, x, y, rows, tmp_path):
    data = ff.Dataset(x, y)
    # Fresh weights will do, and compile less, but an average equals them.
    last = trained(task, data).last if task.eval_params else task.init(jax.random.key(0), data.x)
    model = load(export(tmp_path / "e", task, last, data))
    assert rows is ... or model.metadata["rows"] == rows
    scores, expected = model.evaluate(data, batch_size=50), ff.evaluate(task, last, data)
    assert scores == pytest.approx(expected, rel=1e-6)
    logits, expected = model.predict(x), ff.predict(task, last, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), logits, expected)
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, task.evaluated(last).params))
    if isinstance(task.model, Odd):
        assert model.params["Dense_0"]["kernel"].dtype == jnp.bfloat16
        assert model.collections["counts"]["seen"] == 7
    if isinstance(x, dict) and task.preprocess:
        np.testing.assert_array_equal(model.scaling.offset["right"], task.preprocess.offset["right"])


SCRIPT = """
import sys, numpy as np
from flaxfit.data.dataset import Dataset
from flaxfit.storage.predictor import load
rows = np.load(sys.argv[2])
model = load(sys.argv[1])
np.testing.assert_allclose(model.predict(rows["x"]), rows["logits"], rtol=1e-6, atol=1e-6)
assert abs(model.evaluate(Dataset(rows["x"], rows["y"]))["loss"] - rows["loss"]) < 1e-6
loaded = {name.split(".")[0] for name in sys.modules} & {"flax", "optax", "orbax", "conftest", "test_export"}
import jax
print(jax.device_count(), loaded)
"""


@pytest.mark.parametrize("devices", [1, 4])
def test_another_process_needs_neither_the_model_s_code_nor_as_many_devices(saved, devices, tmp_path):
    rows = saved.validation
    loss = ff.evaluate(saved.task, saved.state, rows)["loss"]
    np.savez(tmp_path / "rows.npz", x=rows.x, y=rows.y, logits=ff.predict(saved.task, saved.state, rows.x), loss=loss)
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(saved.file), str(tmp_path / "rows.npz")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{devices} set()\n", done.stderr


def test_writing_an_export_does_not_import_orbax():
    code = "import flaxfit.programs.export, sys; assert 'orbax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_head_of_another_size_is_left_fresh_and_training_goes_on(saved):
    task = task_of(type(saved.task.model)(outputs=3, batch_norm=True), loss=ff.losses.categorical_crossentropy, metrics={})
    state = task.init(jax.random.key(5), saved.train.x[:1])
    params, left = transfer(str(saved.file), state.params)
    assert left == {"Dense_1/bias": "(1,) in the source, (3,) here", "Dense_1/kernel": "(16, 1) in the source, (16, 3) here"}
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], saved.state.params["Dense_0"]["kernel"])
    np.testing.assert_array_equal(params["Dense_1"]["kernel"], state.params["Dense_1"]["kernel"])
    collections, left = transfer(load(saved.file).collections, state.collections)
    assert not left
    initial = replace(state, params=params, collections=collections, opt_state=None)
    first = ff.evaluate(task, initial, saved.train)["loss"]
    assert ff.fit(task, saved.train, epochs=5, initial=initial).history["loss"][-1] < first
    with pytest.raises(ValueError, match=r"no weight of the source fits: it has BatchNorm_0/bias, .*, and the model has other"):
        transfer(saved.run, {"other": jnp.zeros(3)})


def rewritten(directory, saved, **changes):
    """A copy of the export with other contents of files, whose sums agree."""
    files = {name: (saved.run / "export" / name).read_bytes() for name in PARTS} | changes
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / SUMS).write_text("".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in PARTS))
    return directory


@pytest.mark.parametrize("name", [*PARTS, SUMS])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "absent"])
def test_damage_to_any_file_is_noticed(saved, tmp_path, name, damage):
    copy = rewritten(tmp_path / "copy", saved)
    content = bytearray((copy / name).read_bytes())
    content[len(content) * 2 // 3] ^= 1
    match damage:
        case "flipped":
            (copy / name).write_bytes(content)
        case "cut":
            (copy / name).write_bytes(content[:-20])
        case "empty":
            (copy / name).write_bytes(b"")
        case "absent":
            (copy / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=f"{copy}"):
        load(copy)


def test_a_damaged_single_file_is_a_clear_error(saved, tmp_path):
    content, file = saved.file.read_bytes(), tmp_path / "model.flaxfit"
    places = [*range(0, len(content), 211), *range(len(content) - 500, len(content), 3)]
    sound = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            assert load(file).params["Dense_0"]["kernel"].shape == (6, 16)
            sound += 1
    assert sound < 0.2 * len(places)  # dates and the like
    for size in range(0, len(content), 997):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is damaged or not a model"):
            load(file)


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def zipped(path, saved, changes=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in (*PARTS, SUMS):
            archive.write(saved.run / "export" / name, name)
        for name, content in changes:
            archive.writestr(name, content)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("../model.json", r"holds '\.\./model\.json', which is not part"),
        ("/etc/model.json", r"holds '/etc/model\.json'"),
        ("model.json/", r"holds 'model\.json/'"),
        ("payload.pkl", r"holds 'payload\.pkl'"),
        ("model.json", "a file twice"),
        (link("predict.stablehlo"), "is a link"),
    ],
)
def test_a_zip_with_other_members_is_refused(saved, tmp_path, member, message):
    path = zipped(tmp_path / "m.flaxfit", saved, [(member, b"{}")])
    with pytest.raises(ValueError, match=message):
        load(path)
    assert os.listdir(tmp_path) == ["m.flaxfit"]


def test_sizes_are_bounded_before_anything_is_read(saved, tmp_path, monkeypatch):
    bomb = zipped(tmp_path / "bomb.flaxfit", saved, compression=zipfile.ZIP_DEFLATED)
    absurd = tmp_path / "absurd.flaxfit"
    content = bytearray(saved.file.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # sizes compressed and not, of the last member
    content[entry + 20 : entry + 28] = (2**31).to_bytes(4, "little") * 2
    absurd.write_bytes(content)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    with pytest.raises(ValueError, match="is compressed"):
        load(bomb)
    with pytest.raises(ValueError, match="larger than the zip"):
        load(absurd)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_pickles_are_never_opened(saved, tmp_path):
    np.savez(tmp_path / "a.npz", weights=np.array([Trap()], object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.npz"):
        file = (tmp_path / name).rename(tmp_path / f"{name}.flaxfit")
        with pytest.raises(ValueError, match="is damaged or not a model"):
            load(file)
    for name in PARTS:
        with pytest.raises(ValueError, match="is damaged or not a model"):
            load(rewritten(tmp_path / name, saved, **{name: pickle.dumps(Trap())}))


def header(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "weights",
    [
        (2**62).to_bytes(8, "little") + b"{}",
        header({"params/a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        header({"params/a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 0]}}),
        header({"params/a": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}),
        safetensors.numpy.save({"params/a": np.zeros(1), "params/a/b": np.zeros(1)}),
    ],
    ids=["header", "data", "shape", "type", "paths"],
)
def test_weights_that_lie_are_refused(saved, tmp_path, weights):
    with pytest.raises(ValueError, match="is damaged or not a model"):
        load(rewritten(tmp_path / "copy", saved, **{"weights.safetensors": weights}))


def test_weights_alone_need_no_program(saved, tmp_path, monkeypatch):
    directory = rewritten(tmp_path / "copy", saved, **{"predict.stablehlo": b"what would crash the parser"})
    monkeypatch.setattr("jax.export.deserialize", lambda content: pytest.fail("a program was parsed"))
    weights = ff.load_weights(directory)
    expected = {"params": saved.state.params, "collections": saved.state.collections}
    assert jax.tree.structure(weights) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(weights), jax.tree.leaves(expected)))
    assert ff.transfer(directory, saved.state.params)[1] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, but this version of flaxfit reads 1"),
        ({"format": "1; import os"}, "format is '1; import os'"),
        ({"preprocess": {"scaling": {"offset": "absent", "divisor": "absent"}}}, "absent"),
        ({"preprocess": {"scaling": {"loader": "params/Dense_0/bias"}}}, "loader"),
        ({"x": 3}, "is damaged or not a model"),
        ({"about": None, "features": 3}, "is damaged or not a model"),
    ],
)
def test_a_model_json_of_another_format_or_kind_is_refused(saved, tmp_path, change, message):
    record = json.loads((saved.run / "export" / "model.json").read_text()) | change
    with pytest.raises(ValueError, match=message):
        load(rewritten(tmp_path / "copy", saved, **{"model.json": json.dumps(record).encode()}))
    with pytest.raises(ValueError, match="is damaged or not a model"):
        load(rewritten(tmp_path / "deep", saved, **{"model.json": b"[" * 100_000}))


def test_a_program_that_calls_python_is_refused(saved, tmp_path):
    call = jax.ffi.ffi_call("xla_ffi_python_cpu_callback", jax.ShapeDtypeStruct((2, 6), np.float32))
    allowed = [jax.export.DisabledSafetyCheck.custom_call("xla_ffi_python_cpu_callback")]
    abstract = {"params/a": jax.ShapeDtypeStruct((1,), np.float32)}, {"": jax.ShapeDtypeStruct((2, 6), np.float32)}
    program = jax.export.export(jax.jit(lambda weights, x: call(x[""])), platforms=["cpu"], disabled_checks=allowed)(*abstract)
    with pytest.raises(ValueError, match=r"the program calls 'xla_ffi_python_cpu_callback'"):
        load(rewritten(tmp_path / "copy", saved, **{"predict.stablehlo": bytes(program.serialize())}))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((3, 5), np.float32), ValueError, r"x of shape \(3, 5\) does not fit the model, which takes \(rows, 6\) float32\."),
        (np.zeros(6, np.float32), ValueError, r"for a single example, pass x\[None\]"),
        (np.zeros((3, 6), np.uint8), TypeError, "x is uint8, but the model takes"),
        (np.full((3, 6), np.nan), ValueError, "x has NaN or infinity, first in row 0"),
        (np.zeros((0, 6), np.float32), ValueError, "no examples"),
        ({"left": x6}, ValueError, "the model takes the arrays x, got x/left"),
        ([["a"] * 6], TypeError, "x must hold numbers, got <U1"),
    ],
)
def test_rows_unlike_those_of_training_are_refused(saved, x, error, message):
    with pytest.raises(error, match=message):
        load(saved.file).predict(x)


def test_targets_are_checked(saved):
    model, x = load(saved.file), saved.validation.x[:2]
    assert model.evaluate(ff.Dataset(x, [0.0, 1.0])) == model.evaluate(ff.Dataset(x, [0, 1]))
    for y, message in (
        ([0, 2], "classes from 0 to 1, got labels from 0 to 2"),
        ([0.5, 1], "y has values that int32 cannot hold"),
    ):
        with pytest.raises(ValueError, match=message):
            model.evaluate(ff.Dataset(x, y))
    with pytest.raises(TypeError, match=r"must be a flaxfit\.Dataset"):
        model.evaluate(x)
    with pytest.raises(ValueError, match="must not have the name 'accuracy'"):
        model.evaluate(saved.validation, metrics={"accuracy": ff.metrics.auc})
    with pytest.raises(ValueError, match="batch_size must be"):
        model.predict(x, batch_size=0)


def test_bytes_keep_their_range(tmp_path):
    task = task_of(ff.nn.MLP((4,), 1), preprocess=ff.data.rescale())
    images = np.arange(60, dtype=np.uint8).reshape(10, 6)
    data = ff.Dataset(images, labels[:10])
    model = load(export(tmp_path / "e", task, task.init(jax.random.key(0), images), data))
    np.testing.assert_array_equal(model.predict(images.astype(np.int64)), model.predict(images))
    with pytest.raises(ValueError, match="x has values that uint8 cannot hold, first in row 9"):
        model.predict(images.astype(np.int64) + 197)


class Printing(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        jax.debug.callback(lambda x: None, x)
        return nn.Dense(1)(x)


def test_what_cannot_be_exported_says_why_and_leaves_nothing(saved, tmp_path):
    data = saved.train
    with pytest.raises(TypeError, match=r"export\(about=...\) must hold plain values"):
        export(tmp_path / "e", saved.task, saved.state, data, about={"task": saved.task})
    with pytest.raises(ValueError, match="state does not fit"):
        export(tmp_path / "e", task_of(ff.nn.MLP((4,), 1)), saved.state, data)
    with pytest.raises(TypeError, match=r"data must be a flaxfit\.Dataset"):
        export(tmp_path / "e", saved.task, saved.state, data.x)
    task = task_of(Printing())
    with pytest.raises(ValueError, match=r"Printing cannot be exported to cpu, cuda, tpu: "):
        export(tmp_path / "e", task, task.init(jax.random.key(0), data.x[:1]), data)
    assert not list(tmp_path.iterdir())


def test_an_export_is_replaced_as_a_whole_and_nothing_else_is(saved, tmp_path, monkeypatch):
    directory = rewritten(tmp_path / "export", saved)
    other = TrainState(saved.state.step + 1, jax.tree.map(jnp.zeros_like, saved.state.params), saved.state.collections, None)
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export(directory, saved.task, other, saved.train)
    assert os.listdir(tmp_path) == ["export"]
    monkeypatch.undo()
    assert load(directory).metadata["step"] == saved.state.step
    assert not load(export(directory, saved.task, other, saved.train)).params["Dense_0"]["kernel"].any()
    assert os.listdir(tmp_path) == ["export"]
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="has files that are not part of an export"):
        export(tmp_path, saved.task, other, saved.train)
    assert sorted(os.listdir(tmp_path)) == ["export", "notes.txt"]


def test_packing_again_gives_the_same_file(saved, tmp_path):
    assert pack(saved.run / "export", tmp_path / "m.flaxfit").read_bytes() == saved.file.read_bytes()
    assert os.listdir(tmp_path) == ["m.flaxfit"]


def test_a_model_of_a_table_predicts_on_raw_frames_in_a_process_of_its_own(net, tmp_path):
    import pandas as pd

    rng = np.random.default_rng(0)
    when = pd.Timestamp("2024-01-01") + pd.to_timedelta(1.7e8 * rng.random(80), "s")
    columns = {"age": rng.integers(18, 80, 80).astype(float), "city": rng.choice(["Rome", "Oslo"], 80), "when": when}
    frame = pd.DataFrame({**columns, "price": [f"{p:.2f}".replace(".", ",") for p in 99 * rng.random(80)], "id": range(80)})
    frame.loc[::9, "age"] = np.nan
    parts = ff.data.split(ff.data.Table(frame, np.where(frame.age > 40, "old", "young")), validation=0.25, seed=0, one_row=1.0)
    task = ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2))
    result = ff.fit(task, parts.train, validation=parts.validation, epochs=2, run_dir=tmp_path / "run")
    new = pd.DataFrame(
        {
            "city": ["Oslo", None, "Paris"],
            "price": ["1,5", None, "?"],
            "when": [when[0], None, when[1]],
            "age": [30.0, None, 1e9],
            "more": 1,
        }
    )
    expected = ff.predict(task, result.best, parts.train.encoding(new))
    new.to_pickle(tmp_path / "new.pickle")
    script = f"""
import numpy as np, pandas as pd, flaxfit as ff
model, new = ff.load({str(tmp_path / "run")!r}), pd.read_pickle({str(tmp_path / "new.pickle")!r})
np.save({str(tmp_path / "logits.npy")!r}, model.predict(new))
assert model.classes == ("old", "young"), model.classes
assert str(model.encoding).count("standardized") == 3
try:
    model.predict(new.drop(columns="age"))
except ValueError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("the frame has no column 'age', which the encoding needs. It has: city, price, when, more.")
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match=r"columns that are not numeric: 'city' \(text\)"):
        ff.load(tmp_path / "run").evaluate(ff.Dataset(new, [0, 1, 0]))
