"""The studies of few images and of reviews, shortened, as a user runs them."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import flaxfit as ff

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.slow
def test_mnist_few_samples(tmp_path, study, histories):
    page, _ = study("mnist_few_samples", "--epochs", "3", "--seeds", "2", "--test", "300")
    nets = [row[0] for row in page.table("After 601 updates")]
    others = ["L1 0.005", "L-infinity 1", "max-norm 1.2", "shifted images"]
    assert nets == ["plain", "weight decay 0.1", "classic dropout 0.2", "inverted dropout 0.2", *others]
    home = tmp_path / "runs/mnist_few_samples"
    test, train = (histories(home / f"recorded on {name}") for name in ("test", "train"))
    assert (len(test), len(train)) == (3 * 2, 8 * 2)
    for name, history in test.items():  # the same run, scored on other rows
        assert (history["loss"] == train[name]["loss"]).all()
        assert np.isnan(history["val_loss"]).tolist() == [True, True, False]
    assert page.verdict("reaches 100%") == "did not hold"  # in 3 epochs
    assert page.plots == ["accuracy", "remedies"]


@pytest.mark.slow
def test_mnist_dropout(study):
    page, _ = study("mnist_dropout", "--epochs", "2", "--seeds", "2", "--test", "300")
    train, test = (page.table(f"{part} accuracy") for part in ("Training", "Test"))
    assert [row[0] for row in train] == [row[0] for row in test] == ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.7", "0.9"]
    assert train[0][1] == train[0][2] != train[0][3]  # without dropout, it matters not in which layers there is none
    assert len(page.claims) == 4 + 1 + 2 * 2 + 2 + 4 + 2
    assert page.plots == ["rates"]


@pytest.mark.slow
def test_mnist_ensembles(tmp_path, study, histories):
    page, _ = study("mnist_ensembles", "--epochs", "3", "--seeds", "2", "--ensembles", "2", "--masks", "5", "--test", "300")
    assert [row[0] for row in page.table("2 ensembles of five")] == ["SGD", "Adam"]
    home = tmp_path / "runs/mnist_ensembles"
    assert sorted(histories(home / "SGD, plain")) == [f"way=SGD,seed={seed}" for seed in range(3402, 3412)]
    assert len(histories(home / "Adam, dropout 0.5 in one layer")) == 2
    assert page.plots == ["masks"]


def test_the_first_two_steps_of_the_source_are_none():
    import jax
    from networks import by_sgd, deep

    data, task = ff.Dataset(np.full((3, 28, 28, 1), 100, np.uint8), np.arange(3)), by_sgd(deep(4))
    start, same, moved = (ff.fit(task, data, batch_size=3, epochs=epochs).last.params for epochs in (1, 2, 3))
    jax.tree.map(np.testing.assert_array_equal, start, same)
    assert (start["Dense_6"]["bias"] != moved["Dense_6"]["bias"]).all()


def test_a_rate_that_fells_a_run_ends_what_it_bears():
    borne = runpy.run_path(str(EXPERIMENTS / "mnist_dropout.py"))["borne"]
    never, at_once, later = np.full(8, 80.0), np.r_[80.0, np.full(7, 70.0)], np.r_[80, 79, 76, 74, 80, 80, 80, 80.0]
    assert borne(np.stack([never, at_once, later], 1)).tolist() == [0.9, 0.0, 0.2]


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
