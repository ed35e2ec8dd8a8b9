"""The studies of few images and of reviews, shortened, as a user runs them."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.slow
def test_mnist_few_samples(tmp_path, study, histories):
    short = ("--epochs", "3", "--seeds", "2", "--ensembles", "1", "--thinned", "2", "--test", "300")
    page, _ = study("mnist_few_samples", *short)
    nets = [row[0] for row in page.table("After the last epoch")]
    others = ["L1 0.005", "L-infinity 1", "max-norm 1.2", "shifted images", "classic dropout 0.2"]
    assert nets == ["plain", "weight decay 0.1", "dropout 0.2", *others]
    home = tmp_path / "runs/mnist_few_samples"
    members = sorted(histories(home))
    assert [name for name in members if "plain" in name] == [f"net=plain,seed={seed}" for seed in range(5)]
    assert len(members) == 7 * 2 + 5
    assert [row[0] for row in page.table("Ensembles of five plain nets")] == ["0 to 4"]
    once, again = (histories(home / where)["net=plain,seed=0"] for where in (".", "scored_on_training_rows"))
    assert (once["loss"] == again["loss"]).all()  # the same run, scored on other rows
    assert (once["val_loss"] != again["val_loss"]).all()
    assert page.verdict("reaches 100%") == "did not hold"  # in 3 epochs
    assert page.plots == ["accuracy", "accuracy_others", "norms"]


@pytest.mark.slow
def test_imdb_capacity(tmp_path, study, histories):
    short = ("--epochs", "5", "--long-epochs", "6", "--seeds", "2", "--long-seeds", "1", "--rows", "600", "--vocabulary", "200")
    page, _ = study("imdb_capacity", *short)
    first, second = page.tables.values()
    assert [row[0] for row in first] == ["basic 256-128-1", "overfitting 1024-512-512-512-1"]
    assert [(row[0], row[2]) for row in second] == [("smaller 4-4-1", "6"), ("baseline 16-16-1", "4"), ("bigger 512-512-1", "")]
    assert page.claims["overfitting overfits sooner than basic"] == "undecided"  # by one pair
    assert page.claims["overfitting makes the weights of overfitting larger"] == "undecided"  # of one run
    assert len(page.claims) == 3 + 2 + 5
    assert page.plots == ["loss_basic", "norms_basic", "loss_smaller", "norms_smaller"]
    assert len(histories(tmp_path / "runs/imdb_capacity/vocabulary_100")) == 2 + 1


@pytest.mark.slow
def test_imdb_regularizers(study):
    page, _ = study("imdb_regularizers", "--epochs", "5", "--seeds", "2", "--rows", "1000", "--vocabulary", "200")
    small, wide = page.tables.values()
    assert [row[0] for row in small] == ["plain", "L2 0.001", "dropout 0.5", "word dropout 0.3"]
    assert [row[0] for row in wide] == ["plain", "L1 0.001", "L2 0.001", "dropout 0.3"]
    norms = [float(row[-1].split()[0]) for row in wide]
    assert norms[1] < norms[2] < norms[0]
    assert page.claims["L2 leaves small weights"] != "did not hold"  # two seeds can hardly carry nine claims
    assert page.plots == ["loss_16-16", "weights_16-16", "loss_128-128", "weights_128-128"]


def test_the_histogram_of_weights_loses_none():
    histogram = runpy.run_path(str(EXPERIMENTS / "imdb_regularizers.py"))["histogram"]
    weights = np.array([0.0, 1e-9, 1e-6, 1e-3, 0.2, -0.2, 50.0], np.float32)
    line = histogram({"net": weights}, {"net": "black"}).axes[0].patches[0].get_xy()
    assert line[1:-1:2, 1].sum() == pytest.approx(100)  # of the outline: a height for each bin
