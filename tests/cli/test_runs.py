from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error

import flaxfit as ff
from flaxfit.cli import main, script
from flaxfit.cli.suggest import study_of_words
from flaxfit.programs import program
from flaxfit.storage.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("quickly_compiled")

VERSION_1 = Path(__file__).parents[1] / "storage" / "run_v1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on digits that has ended."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    splits = ff.data.load("digits", validation=300, train=500)
    task = ff.Task(
        model=ff.nn.MLP((8,), 10), loss=ff.losses.categorical_crossentropy, optimizer=optax.adam(1e-2),
        metrics={"accuracy": ff.metrics.categorical_accuracy}, preprocess=ff.data.rescale(16),
    )  # fmt: skip
    result = ff.fit(task, splits.train, validation=splits.validation, epochs=4, run_dir=directory)
    return directory, task, result, splits


def test_show(finished, capsys):
    directory = finished[0]
    assert main(["show", str(directory)]) == 0
    text = capsys.readouterr().out
    for words in (
        "train: 500 examples of digits 300:800",
        "validation: 300 examples of digits 0:300",
        "epochs 4, batch_size 32",
        "Epoch 4 of 4",
    ):
        assert words in text


def test_report_of_a_run_begins_with_three_sentences(finished, tmp_path, capsys):
    directory, _, result, splits = finished
    assert main(["report", str(directory), "-o", str(tmp_path / "run.html")]) == 0
    page = (tmp_path / "run.html").read_text()
    answer = page.split('<div class="answer">')[1].split("</div>")[0].replace("</p>", "").split("<p>")[1:]
    shares = np.bincount(splits.validation.y) / 300
    epoch = result.best_epoch - 1
    loss, accuracy = (result.history[f"val_{name}"][epoch] for name in ("categorical_crossentropy", "accuracy"))
    entropy = log_loss(splits.validation.y, np.tile(shares, (300, 1)))
    assert answer[0] == "It is too short to tell whether it overfits."
    assert answer[1] == (
        f"Its best epoch of 4 is {result.best_epoch}, with val_categorical_crossentropy {loss:.4g} and val_accuracy {accuracy:.4g}; the "
        f"best constant prediction has {entropy:.4g} and {shares.max():.4g}."
    )
    assert len(answer) == 3
    assert '<th scope="col">best epoch' in page

    history = ff.load_history(directory)
    assert history == result.history
    assert (history.rows, history.validation_rows) == (500, 300)
    with pytest.raises(FileNotFoundError, match=r"there is no run in .*absent: it has no config\.json"):
        ff.load_history(tmp_path / "absent")
    with pytest.raises(ValueError, match="has a single run: leave out member='seed=0'"):
        ff.load_history(directory, "seed=0")


@pytest.mark.parametrize(
    ("command", "study"),
    [
        (
            "python flaxfit fit a.csv --target y --epochs 3 --ignore id --ignore name --dropout 0.5 --quiet",
            "flaxfit study a.csv --target y --ignore id --ignore name --epochs 3",
        ),
        ("python -m flaxfit fit a.csv --type='my age=number'", "flaxfit study a.csv --type 'my age=number'"),
        ("python flaxfit fit a.csv --no-such-option", None),
        ("python fit a.csv", None),
        ("python script.py", None),
    ],
)
def test_the_study_that_a_report_recommends(command, study):
    assert study_of_words(shlex.split(command)) == study


def test_the_best_constant_prediction():
    from flaxfit.programs.constant import constant_scores

    random = np.random.default_rng(0)
    x, y = random.normal(size=(90, 2)), random.normal(3, 2, size=90).astype(np.float32)
    labels = (y > 2).astype(int)

    def scores(loss, y, metrics=(), **options):
        return constant_scores(ff.Task(ff.nn.MLP((), 1), loss, optax.sgd(0.1), dict(metrics)), ff.Dataset(x, y, **options))

    constant = DummyRegressor().fit(x, y).predict(x)
    assert scores(ff.losses.mse, y) == {"val_mse": pytest.approx(mean_squared_error(y, constant), rel=1e-5)}
    median = DummyRegressor(strategy="median").fit(x, y).predict(x)
    assert scores(ff.losses.mae, y[:, None]) == {"val_mae": pytest.approx(mean_absolute_error(y, median), rel=1e-5)}
    loss = log_loss(labels, np.full(90, labels.mean()))
    found = scores(ff.losses.binary_crossentropy, labels, {"hits": ff.metrics.binary_accuracy, "mae": ff.metrics.mae})
    assert found == {"val_binary_crossentropy": pytest.approx(loss), "val_hits": max(labels.mean(), 1 - labels.mean())}
    assert scores(ff.losses.huber, y) == scores(ff.losses.mse, y, sample_weight=np.ones(90)) == scores(ff.losses.mse, x) == {}


def test_show_a_population(finished, tmp_path, capsys):
    _, task, _, splits = finished
    study = ff.fit_many(task, None, splits.train, seeds=2, validation=splits.validation, epochs=3, run_dir=tmp_path / "many")
    assert main(["show", str(tmp_path / "many")]) == 0
    text = capsys.readouterr().out
    best = study.results[1].history["val_categorical_crossentropy"][study.results[1].best_epoch - 1]
    assert f"seed=1: 3 epochs, best epoch {study.results[1].best_epoch}: val_categorical_crossentropy {best:.4g}" in text
    assert main(["show", str(tmp_path / "many"), "--plot"]) == 0
    assert (tmp_path / "many" / "plots" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert ff.load_history(tmp_path / "many", "seed=1") == study.results[1].history
    with pytest.raises(ValueError, match=r"no member '' in .*There are: seed=0, seed=1"):
        ff.load_history(tmp_path / "many")
    assert main(["report", str(tmp_path / "many")]) == 0
    page = (tmp_path / "many" / "report.html").read_text()
    lowest = ff.statistics.interval([result.history["val_categorical_crossentropy"].min() for result in study.results])
    assert f"The lowest val_categorical_crossentropy of a run is {lowest} on average for all runs." in page
    capsys.readouterr()
    assert main(["show", str(tmp_path / "many"), "--member", "seed=0"]) == 0
    assert "Epoch 3 of 3" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "many"), "--member", "sed=0"]) == 2
    assert "did you mean 'seed=0'" in capsys.readouterr().err
    best = min(study.results, key=lambda result: result.history["val_categorical_crossentropy"].min())
    chosen = study.export({}, splits.train)
    assert chosen.parent.name == f"seed={study.results.index(best)}"
    shutil.rmtree(chosen.parent)
    place = study.export("seed=1", splits.train)
    model = ff.load(tmp_path / "many", member="seed=1")
    assert place == tmp_path / "many" / "members" / "seed=1" / "export"
    expected = ff.evaluate(task, study.results[1].best, splits.validation)
    assert model.evaluate(splits.validation) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(FileNotFoundError, match=r"study\.export"):
        ff.load(tmp_path / "many", member="seed=0")


def test_metrics_that_are_not_those_of_the_checkpoint_are_said_to_be_damaged(finished, tmp_path, capsys):
    run = shutil.copytree(finished[0], tmp_path / "run")
    assert main(["show", str(run)]) == 0
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"loss": ', '"loss": 1')  # still a line of metrics
    file.write_text("".join(lines))
    capsys.readouterr()
    assert main(["show", str(run)]) == 2
    assert "metrics.jsonl is damaged: its first 4 epochs are not those of the newest checkpoint" in " ".join(
        capsys.readouterr().err.split()
    )


def test_show_plot(finished, capsys):
    directory = finished[0]
    assert not (directory / "plots").exists()
    assert main(["show", str(directory), "--plot"]) == 0
    picture = directory / "plots" / "learning_curves.png"
    assert capsys.readouterr().out.endswith(f"\n{picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_evaluate_and_export(finished, capsys):
    directory, task, result, splits = finished
    assert main(["evaluate", str(directory)]) == 0
    text = capsys.readouterr().out
    expected = ff.evaluate(task, result.best, splits.validation)
    assert text.startswith("digits, validation, 300 examples; ± and [] are 95% intervals over these:\n  loss ")
    shares = ff.evaluate(task, result.best, splits.validation, interval=True)["accuracy"]
    assert text.endswith(f"accuracy {str(shares).removesuffix(' (300)')}\n")
    assert shares.mean == pytest.approx(expected["accuracy"])
    assert main(["evaluate", str(directory), "--part", "train"]) == 0
    assert "digits, train, 500 examples" in capsys.readouterr().out
    home = str(Path(ff.__file__).parents[1]).encode()
    assert not any(home in file.read_bytes() for file in (directory / "export").iterdir())  # paths of one's own stay at home
    assert main(["export", str(directory)]) == 0
    file = Path(capsys.readouterr().out.strip())
    assert file == directory / "model.flaxfit"
    np.testing.assert_allclose(
        ff.load(file).predict(splits.validation.x), ff.predict(task, result.best, splits.validation.x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("command", ["show", "evaluate", "export", "resume"])
def test_a_directory_that_holds_no_run(command, tmp_path, capsys):
    assert main([command, str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("flaxfit: ")
    assert str(tmp_path) in said.err
    assert said.out == ""


def test_runs_that_validate_every_few_epochs_are_compared_by_these(finished, tmp_path, capsys):
    _, task, _, splits = finished
    for seed in (0, 1):
        options = {"epochs": 10, "validation_every": 3, "seed": seed, "run_dir": tmp_path / f"{seed}"}
        result = ff.fit(task, splits.train, validation=splits.validation, **options)
    assert main(["compare", str(tmp_path / "0"), str(tmp_path / "1"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["settings"][1]
    assert found["diagnosis"] == f"{ff.diagnose(result.history).verdict} 1/1"  # not "diverging", which no validation in epoch 10 would be


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flaxfit {ff.__version__}\n"


def test_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["show", "runs", "--plto"])
    assert ended.value.code == 2


def test_resume_runs_the_recorded_command_again_if_it_may(tmp_path):
    (tmp_path / "train.py").write_text(
        "import sys, numpy as np, optax, flaxfit as ff\n"
        "task = ff.Task(model=ff.nn.MLP((2,), 1), loss=ff.losses.mse, optimizer=optax.sgd(0.1))\n"
        "result = ff.fit(task, ff.Dataset(np.eye(4), np.arange(4.0)), epochs=3, run_dir='run')\n"
        "print('chunks', result.timing.chunks, sys.argv[1:])\n"
    )
    subprocess.run([sys.executable, "train.py", "--some", "option"], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, "-m", "flaxfit", "resume", str(tmp_path / "run")]
    options = {"cwd": tmp_path.parent, "capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    asked = subprocess.run(command, check=False, **options)
    assert asked.returncode == 2
    assert "train.py --some option" in asked.stdout
    assert "pass --yes to start this command" in asked.stderr
    done = subprocess.run([*command, "--yes"], check=True, **options)
    assert "chunks 0 ['--some', 'option']" in done.stdout
    (tmp_path / "run" / "config.json").chmod(0o666)
    refused = subprocess.run([*command, "--yes"], check=False, **options)
    assert refused.returncode == 2
    assert "can be written by anybody" in refused.stderr


def test_help_is_quick_to_import():
    code = "import sys\nfrom flaxfit.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    assert 'jax' not in sys.modules"
    assert "resume" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_a_run_directory_of_version_1(tmp_path, capsys):
    """Made by the first version that had any; later ones must go on reading it."""
    shutil.copytree(VERSION_1, tmp_path / "run")
    assert main(["show", str(tmp_path / "run")]) == 0
    assert "Epoch 2 of 2" in capsys.readouterr().out
    model = ff.load(tmp_path / "run")
    expected = json.loads((VERSION_1 / "expected.json").read_text())
    np.testing.assert_allclose(model.predict(np.eye(3, dtype=np.float32)), expected["logits"], rtol=1e-5)
    assert ff.transfer(model, {"Dense_0": {"kernel": np.zeros((3, 2), np.float32)}})[0]["Dense_0"]["kernel"].any()
    task = ff.Task(model=ff.nn.MLP((2,), 1), loss=ff.losses.mse, optimizer=optax.sgd(0.1))
    plan = program.Plan(3, ff.EarlyStopping("loss", mode="min"), False)
    shapes = jax.eval_shape(lambda key: program.start(task, plan, key, np.eye(3, dtype=np.float32)[:1]), jax.random.key(0))
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        state, history, position, _ = checkpoints.restore(shapes)
    assert (int(state.epoch), len(history), position) == (2, 2, 2)


@dataclass
class Config:
    seeds: int = 5


def test_a_script_ends_with_a_sentence_where_its_data_are_missing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study.py"])

    def missing(config):
        raise OSError("no directory of originals nowhere")

    with pytest.raises(SystemExit, match="no directory of originals nowhere"):
        script(missing, Config, "A study.")
    with pytest.raises(FileNotFoundError):  # a slip of its own keeps its traceback
        script(lambda config: Path("nowhere").read_text(), Config, "A study.")


def test_a_reader_that_has_gone_is_no_traceback(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr("sys.stdout", Closed())
    assert main(["--help"]) == 1
