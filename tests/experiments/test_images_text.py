"""The studies of images and reviews, shortened, as a user runs them."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def run(script, *arguments, cwd, code=0):
    command = [sys.executable, EXPERIMENTS / script, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory, originals):
    """A directory for all runs of this module, with a cache of its own, so that reviews are prepared once a vocabulary."""
    directory = tmp_path_factory.mktemp("experiments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAXFIT_CACHE", str(directory / "cache"))
        patch.delenv("FLAXFIT_ORIGINALS", raising=False)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of runs so short, compiling is most of the time
        yield directory


def study(script, *arguments, home, originals):
    """Runs a script and returns its page: tables by title, verdicts by claim, files of plots."""
    done = run(script, *arguments, "--originals", str(originals), cwd=home)
    directory = home / "runs" / script.removesuffix(".py")
    parts = json.loads((directory / "page.json").read_text())["parts"]
    tables = {part["title"]: part["rows"] for part in parts if part["kind"] == "table"}
    claims = {part["claim"]: part["verdict"] for part in parts if part["kind"] == "claim"}
    for part in parts:
        if part["kind"] == "plot":
            assert (directory / part["file"]).read_bytes()[:4] == b"\x89PNG"
        if part["kind"] == "claim":
            assert f"{part['verdict']}: {part['claim']} ({part['statistic']})" in done.stdout
    return tables, claims, [part["file"] for part in parts if part["kind"] == "plot"]


def test_mnist_few_samples(home, originals):
    short = ("--epochs", "3", "--seeds", "2", "--ensembles", "1", "--thinned", "2", "--test", "300")
    tables, claims, plots = study("mnist_few_samples.py", *short, home=home, originals=originals)
    nets = [row[0] for row in tables["After the last epoch"]]
    assert nets == ["plain", "weight decay 0.1", "dropout 0.2", "L1 0.005", "L-infinity 1", "max-norm 1.2"]
    members = sorted(path.name for path in (home / "runs/mnist_few_samples/members").iterdir())
    assert [name for name in members if "plain" in name] == [f"net=plain,seed={seed}" for seed in range(5)]
    assert len(members) == 5 * 2 + 5
    assert [row[0] for row in tables["Ensembles of five plain nets, mean of probabilities"]] == ["0 to 4"]
    forms = next(verdict for claim, verdict in claims.items() if claim.startswith("the classic form of dropout"))
    assert forms == "held"
    assert next(verdict for claim, verdict in claims.items() if "reaches 100%" in claim) == "did not hold"  # in 3 epochs
    assert plots == ["plots/accuracy.png", "plots/accuracy_others.png", "plots/norms.png"]


def test_imdb_capacity(home, originals):
    short = ("--epochs", "5", "--long-epochs", "6", "--seeds", "2", "--long-seeds", "1", "--rows", "600", "--vocabulary", "200")
    tables, claims, plots = study("imdb_capacity.py", *short, home=home, originals=originals)
    first, second = tables.values()
    assert [row[0] for row in first] == ["basic 256-128-1", "overfitting 1024-512-512-512-1"]
    assert [(row[0], row[2]) for row in second] == [("smaller 4-4-1", "6"), ("baseline 16-16-1", "4"), ("bigger 512-512-1", "")]
    assert claims["overfitting over-fits sooner than basic"] == "undecided"  # by one pair
    assert claims["smaller over-fits from about epoch 6 (within 1 epoch)"] in ("held", "undecided", "did not hold")
    assert plots == ["plots/loss_basic.png", "plots/norms_basic.png", "plots/loss_smaller.png", "plots/norms_smaller.png"]
    assert len(list((home / "runs/imdb_capacity/vocabulary_100/members").iterdir())) == 2 + 1


def test_imdb_regularizers(home, originals):
    short = ("--epochs", "5", "--seeds", "2", "--rows", "1000", "--vocabulary", "200")
    tables, claims, plots = study("imdb_regularizers.py", *short, home=home, originals=originals)
    small, wide = tables.values()
    assert [row[0] for row in small] == ["plain", "L2 0.001", "dropout 0.5"]
    assert [row[0] for row in wide] == ["plain", "L1 0.001", "L2 0.001", "dropout 0.3"]
    norms = [float(row[-1].split()[0]) for row in wide]
    assert norms[1] < norms[2] < norms[0]
    assert claims["L2 leaves small weights"] == "held"
    assert plots == ["plots/loss_16-16.png", "plots/weights_16-16.png", "plots/loss_128-128.png", "plots/weights_128-128.png"]


@pytest.mark.parametrize("script", ["mnist_few_samples.py", "imdb_capacity.py", "imdb_regularizers.py"])
def test_a_missing_directory_is_said_and_leaves_nothing(script, tmp_path):
    done = run(script, "--originals", "nowhere", cwd=tmp_path, code=1)
    assert done.stderr.strip() == "no directory of originals nowhere: mind --originals or FLAXFIT_ORIGINALS."
    assert not os.listdir(tmp_path)


def test_the_histogram_of_weights_loses_none():
    histogram = runpy.run_path(str(EXPERIMENTS / "imdb_regularizers.py"))["histogram"]
    weights = np.array([0.0, 1e-9, 1e-6, 1e-3, 0.2, -0.2, 50.0], np.float32)
    line = histogram({"net": weights}, {"net": "black"}).axes[0].patches[0].get_xy()
    assert line[1:-1:2, 1].sum() == pytest.approx(100)  # of the outline: a height for each bin
