"""The studies of all of MNIST and of Fashion-MNIST, shortened, as a user runs them."""

from __future__ import annotations

import pytest

import flaxfit as ff


@pytest.mark.slow
def test_mnist_early_stopping(tmp_path, study):
    page, _ = study("mnist_early_stopping", "--epochs", "1", "--seeds", "1")
    rows = {row[0]: row for row in page.table("Accuracy after the last epoch")}
    source = [("97.29", "97.38"), ("98.35", "97.47"), ("97.66", "97.42"), ("99.54", "97.27"), ("96.66", "95.77")]
    assert [(row[1], row[4]) for row in rows.values()] == source
    accuracies = {name: float(row[5].split()[0]) for name, row in rows.items()}
    l2 = accuracies.pop("BN, L2 0.01")  # jumps from epoch to epoch
    assert 75 < l2 < 98, l2
    assert all(90 < accuracy < 98 for accuracy in accuracies.values()), accuracies
    assert accuracies["BN, dropout 0.1, stopped"] == accuracies["BN, dropout 0.1"] != accuracies["BN, dropout 0.2"]
    assert page.plots == ["curves"]
    assert page.verdict("restored") == "held"
    assert ff.load(tmp_path / "runs/mnist_early_stopping/stopped_model").about == {"epoch": 1, "net": "BN, dropout 0.1, stopped"}


@pytest.mark.slow
def test_stopping_rules(tmp_path, study, histories):
    page, _ = study("stopping_rules", "--epochs", "3", "--seeds", "2", "--first-seed", "7", "--patience", "1")
    rows = {row[0]: row[1:] for row in page.table("Rules that end a run")}
    runs = histories(tmp_path / "runs" / "stopping_rules" / "whole, from seed 7")
    assert len(runs) == 2
    ends = {"none": [], "gap rule, logged": [], "patience": []}
    for history in runs.values():
        logged, test = history["accuracy"], history["val_accuracy"]
        ends["none"].append(3.0)
        ends["gap rule, logged"].append(next((i + 1.0 for i in range(3) if test[i] >= logged[i]), 3.0))
        ends["patience"].append(next((i + 1.0 for i in (1, 2) if test[i] <= max(test[:i])), 3.0))
    assert {rule: rows[rule][0] for rule in ends} == {rule: ff.statistics.interval(values).short for rule, values in ends.items()}
    assert page.verdict("changes no epoch before") == "held"
    assert page.plots == ["rules"]


@pytest.mark.slow
def test_mnist_search(study):
    page, text = study("mnist_search", "--epochs", "1", "--seeds", "2", "--rounds", "1")
    tried = {row[0]: row for row in page.table("Rates that were tried")}
    assert [*tried] == ["0.1", "0.125", "0.15", "0.175", "0.2"]
    by_accuracy, by_gap = (text.split("Found: ")[1].split()[place] for place in (0, 4))
    assert by_accuracy == max(tried, key=lambda rate: float(tried[rate][1].split()[0]))
    assert by_gap == min(tried, key=lambda rate: abs(float(tried[rate][2].split()[0])))
    assert [row[0] for row in page.table("The rates found")] == sorted({"0.1", "0.2", by_accuracy, by_gap})
    assert page.plots == ["rates"]


@pytest.mark.slow
def test_optimizer_pairs(study):
    page, _ = study("optimizer_pairs", "--epochs", "1", "--seeds", "1")
    rows = page.table("Test accuracy after 1 epochs")
    assert [row[0] for row in rows] == ["SGD", "RMSprop", "Adam"]
    assert all(80 < float(cell.split()[0]) < 98 for row in rows for cell in row[1:])


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
