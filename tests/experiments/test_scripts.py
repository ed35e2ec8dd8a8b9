"""What all scripts have in common, and those that are no studies."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import Page
from results import STUDIES

import flaxfit as ff
from flaxfit.data.sources import SOURCES

pytestmark = pytest.mark.usefixtures("quickly_compiled")

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SCRIPTS = sorted(path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.py") if "__main__" in path.read_text())


# Each script in a process of its own, which is a fork of one that has imported what all of them need.
HELP = """
import contextlib, io, os, runpy, sys, traceback
import flaxfit.cli, numpy, tyro

def helps(script):
    sys.argv, said = [script, "--help"], io.StringIO()
    sys.path.insert(0, os.path.dirname(script))
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
    assert "usage: " in said.getvalue()
    assert "jax" not in sys.modules

failed = []
for script in sys.argv[1:]:
    if not (child := os.fork()):
        try:
            helps(script)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        failed.append(script)
assert not failed, failed
"""


def test_help_needs_no_data_and_no_jax(tmp_path):
    command = [sys.executable, "-c", HELP, *(EXPERIMENTS / script for script in SCRIPTS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(SCRIPTS) > 30
    assert list(tmp_path.iterdir()) == []


def test_quickstart(tmp_path, run):
    text = run("quickstart.py", "--epochs", "30", "--seeds", "1")
    for words in ("plain", "L2 0.001", "dropout 0.5", "batch norm", "Learning curves: quickstart.png"):
        assert words in text
    assert (tmp_path / "quickstart.png").read_bytes()[:4] == b"\x89PNG"


def test_results_are_made_of_pages(tmp_path, run):
    with Page("Sonar", tmp_path / "runs" / "training_size", "Folds.") as page:
        history = ff.History({"loss": [0.7, 0.5], "mse": [0.7, 0.5]})
        page.plot("folds", ff.plots.learning_curves({"one": history}), "Curves")
        page.claim("source", "it learns", True, "0.7 to 0.5")
        page.claim("ours", "it learns | fast", None, "p 0.3")
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    (folder / "training_size_older.png").touch()
    (folder / "training_size_hard_IMDB.png").touch()  # another study's
    (folder / "batch_norm.md").write_text("# Earlier\n\n| claim | verdict | why |\n| it helps | **did not hold** | p 0.01 |\n")
    (tmp_path / "RESULTS.md").write_text("# Results\n\nBy hand.\n\n## Studies\n\nOld.\n")
    assert {path.stem for path in SCRIPTS if "import Page" in (EXPERIMENTS / path).read_text()} <= set(STUDIES)
    assert f"RESULTS.md: 2 of {len(STUDIES)} studies, 1 written anew" in run("results.py")
    results = (tmp_path / "RESULTS.md").read_text().splitlines()
    assert results[:5] == ["# Results", "", "By hand.", "", "## Studies"]
    assert results[-2:] == [
        "| [Earlier](docs/results/batch_norm.md) | 0 | 1 | 0 |",
        "| [Sonar](docs/results/training_size.md) | 1 | 0 | 1 |",
    ]
    written = (folder / "training_size.md").read_text()
    assert "| it learns | source | **held** | 0.7 to 0.5 |" in written
    assert "![Curves](training_size_folds.png)" in written
    assert sorted(path.name for path in folder.iterdir()) == [
        "batch_norm.md",
        "training_size.md",
        "training_size_folds.png",
        "training_size_hard_IMDB.png",
    ]
    (folder / "training_size.md").write_text(written.replace("# Sonar\n", "# Sonar\n\nIt *learns*.\n\nSoon.\n"))
    run("results.py")
    assert (folder / "training_size.md").read_text().startswith("# Sonar\n\nIt *learns*.\n\nSoon.\n\n![Curves]")
    size = (tmp_path / "runs" / "training_size" / "plots" / "folds.png").stat().st_size
    assert (folder / "training_size_folds.png").stat().st_size < size / 2


# All but the one that measures loading, in processes of its own.
READS = re.compile(r"config\.originals|^from reviews import", re.MULTILINE)
WITH_ORIGINALS = [script for script in SCRIPTS if READS.search((EXPERIMENTS / script).read_text()) and script.stem != "loading"]


@pytest.mark.parametrize("script", WITH_ORIGINALS, ids=str)
def test_a_missing_directory_is_said_without_a_traceback_and_leaves_nothing(script, tmp_path, run, cache):
    said = run(script, "--originals", "nowhere", code=1)
    assert said == "the directory of originals nowhere does not exist: check --originals or FLAXFIT_ORIGINALS."
    assert list(tmp_path.iterdir()) == []


def test_synthetic_rows_have_the_shapes_of_the_originals(synthetic_cache):
    """Where there are originals no other test looks at what the tests would have without them."""
    shapes = {"mnist": (60_000, 10_000), "fashion_mnist": (60_000, 10_000), "imdb": (25_000, 25_000), "sonar": (208, None)}
    for name, (train, test) in shapes.items():
        splits, source = ff.data.load(name), SOURCES[name]
        assert (len(splits.train), splits.test and len(splits.test)) == (train, test)
        assert np.unique(splits.train.y).tolist() == list(range(len(source.classes)))
        if name != "imdb":
            assert splits.train.x.shape[1:] == ((60,) if name == "sonar" else (28, 28, 1))
    assert splits.train.x.min() >= 0
    higgs = ff.data.load("higgs", train=10_000, validation=1_000)
    assert higgs.train.x.shape == (10_000, 28)
    assert ff.data.load("imdb", vocabulary=100).train.x.shape == (25_000, 100)


def test_the_diagnosis_is_measured_on_curves_whose_truth_is_known(run, monkeypatch):
    monkeypatch.delenv("FLAXFIT_ORIGINALS", raising=False)
    text = run("diagnosis.py", "--quick")
    for words in ("white noise", "rate drops at 0.5, then 16 sd", "Histories: left out. Name a directory", "Networks: verdicts", "| auto "):
        assert words in text
