"""The studies of all of MNIST and of Fashion-MNIST, shortened, as a user runs them."""

from __future__ import annotations

import pytest

import flaxfit as ff


@pytest.mark.slow
def test_mnist_early_stopping(tmp_path, study):
    page, _ = study("mnist_early_stopping", "--epochs", "1", "--seeds", "1", "--rounds", "1", "--search-seeds", "1")
    rows = {row[0]: row for row in page.table("Accuracy after the last epoch")}
    assert [(row[2], row[5]) for row in rows.values()] == [
        ("0.9729", "0.9738"),
        ("0.9835", "0.9747"),
        ("0.9766", "0.9742"),
        ("0.9954", "0.9727"),
        ("0.9666", "0.9577"),
        ("", ""),
    ]
    accuracies = {name: float(row[6].split()[0]) for name, row in rows.items()}
    l2 = accuracies.pop("BN, L2 0.01")  # jumps from epoch to epoch
    assert 0.75 < l2 < 0.98, l2
    assert all(0.9 < accuracy < 0.98 for accuracy in accuracies.values()), accuracies
    assert accuracies["BN, dropout 0.1, stopped"] == accuracies["BN, dropout 0.1"] != accuracies["BN, dropout 0.2"]
    assert [row[0] for row in page.table("The dropout rate by narrowing")] == ["0.1", "0.125", "0.15", "0.175", "0.2"]
    assert page.plots == ["curves", "stopping", "test_accuracy", "search"]
    assert page.verdict("restored") == "held"
    assert ff.load(tmp_path / "runs/mnist_early_stopping/stopped_model").about == {"epoch": 1, "net": "BN, dropout 0.1, stopped"}


@pytest.mark.slow
def test_batch_norm_says_the_same_when_it_is_resumed(tmp_path, study, written):
    options = ("--epochs", "1", "--seeds", "2", "--data", "fashion_mnist")
    page, text = study("batch_norm", *options)
    rows = {row[0]: row[1:] for row in page.table("Fashion-MNIST")}
    for accuracies in (rows["validation accuracy after epoch 1, percent"], rows["test accuracy after the last epoch, percent"]):
        assert all(75 < float(accuracy.split()[0]) < 90 for accuracy in accuracies[:2])
    assert len(page.claims) == 5
    count, times = written(tmp_path / "runs")
    assert count == 4
    assert study("batch_norm", *options)[1] == text
    assert written(tmp_path / "runs") == (count, times)  # nothing was trained again
