"""The studies of few images and of reviews, shortened, as a user runs them."""

from __future__ import annotations

from types import SimpleNamespace

import drawing
import mnist_dropout
import numpy as np
import pytest
import reviews

import flaxfit as ff


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
    from few_images import by_sgd, deep

    data, task = ff.Dataset(np.full((3, 28, 28, 1), 100, np.uint8), np.arange(3)), by_sgd(deep(4))
    start, same, moved = (ff.fit(task, data, batch_size=3, epochs=epochs).last.params for epochs in (1, 2, 3))
    jax.tree.map(np.testing.assert_array_equal, start, same)
    assert (start["Dense_6"]["bias"] != moved["Dense_6"]["bias"]).all()


def test_a_rate_that_breaks_a_run_ends_what_it_bears():
    never, at_once, later = np.full(8, 80.0), np.r_[80.0, np.full(7, 70.0)], np.r_[80, 79, 76, 74, 80, 80, 80, 80.0]
    assert mnist_dropout.borne(np.stack([never, at_once, later], 1)).tolist() == [0.9, 0.0, 0.2]


@pytest.mark.slow
def test_imdb_capacity(tmp_path, study, histories):
    short = ("--epochs", "12", "--long-epochs", "6", "--seeds", "3", "--few-seeds", "1", "--first-seed", "7")
    page, printed = study("imdb_capacity", *short, "--rows", "2000", "--vocabulary", "300")
    losses, kernels = page.tables.values()
    names = ["smaller 4-4-1", "baseline 16-16-1", "bigger 512-512-1", "basic 256-128-1", "overfitting 1024-512-512-512-1"]
    assert [row[0] for row in losses] == [row[0] for row in kernels] == names
    assert [row[1] for row in losses] == ["6", "4", "", "", ""]
    assert kernels[1][1] == f"{300 * 16 + 16 * 16 + 16:,}"
    assert "Total Parameters: 5,105" in printed
    runs = histories(tmp_path / "runs/imdb_capacity/basic, 100 words, 12 epochs")
    onsets = [history["val_binary_crossentropy"].argmin() for history in runs.values()]  # from 0
    assert losses[3][2] == str(ff.statistics.interval(onsets))
    assert page.claims["overfitting overfits sooner than basic"] == "undecided"  # by one pair
    assert page.verdict("the sum of |w| grows with the size") == "undecided"  # of one run of two nets
    assert len(page.claims) == 3 + 2 + 2 + 1 + 4
    assert page.plots == ["curves_smaller", "curves_basic"]


@pytest.mark.slow
def test_imdb_regularizers(study):
    page, _ = study("imdb_regularizers", "--epochs", "16", "--seeds", "2", "--rows", "4000", "--vocabulary", "300")
    losses, weights = page.tables.values()
    wide = [f"128-128-1, {name}" for name in ("plain", "L2 0.001", "dropout 0.3", "L1 0.001")]
    narrow = [f"16-16-1, {name}" for name in ("plain", "L2 0.001", "dropout 0.5", "word dropout 0.3")]
    assert [row[0] for row in losses] == [row[0] for row in weights] == wide + narrow
    norms = [float(row[2].split()[0]) for row in weights]
    assert norms[3] < norms[1] < norms[0]
    assert page.verdict("L2 leaves small weights") != "did not hold"  # two seeds can hardly carry 14 claims
    assert len(page.claims) == 2 * (3 + 1) + 7
    assert page.plots == ["128-128", "16-16"]


def test_the_histogram_of_weights_loses_none():
    figure, (ax,) = ff.plots.panels()
    drawing.histogram(ax, {"net": np.array([0.0, 1e-9, 1e-6, 1e-3, 0.2, -0.2, 50.0], np.float32)}, 1e-3)
    line = figure.axes[0].patches[0].get_xy()
    assert line[1:-1:2, 1].sum() == pytest.approx(100)  # of the outline: a height for each bin


def test_runs_that_died_are_left_out():
    """A flat curve at a coin's loss is a net whose units give 0; the seeds of two nets are the first ones of the longer."""

    def run(*losses):
        column = np.array(losses)
        columns = dict.fromkeys(("binary_crossentropy", "val_binary_crossentropy", "val_accuracy", "kernel_l1"), column)
        return SimpleNamespace(history=columns)

    coin = [0.6932] * 12
    falls = [0.6, 0.5, 0.4, *np.linspace(0.45, 0.85, 9)]  # rises by 0.05 an epoch
    study = SimpleNamespace(results=[run(*falls), run(*coin), run(*falls)])
    found = reviews.measures(study)
    np.testing.assert_allclose(found["onset"], [2, np.nan, 2])
    np.testing.assert_allclose(found["rise"], [0.05, np.nan, 0.05])
    assert len(reviews.curves(study)) == 2
    np.testing.assert_array_equal(reviews.alive(np.array([1.0, np.nan, 3.0]), np.array([4.0, 5.0])), [[1.0], [4.0]])
