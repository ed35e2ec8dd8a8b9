"""The studies of small tables, shortened, in this process: their nets are tiny, and starting Python is what takes the time."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import flaxfit as ff


@pytest.fixture
def inside(page):
    """Runs a script's `main` and returns the page it wrote."""

    def inside(name, run_dir, **options):
        script = importlib.import_module(name)
        script.main(script.Config(run_dir=run_dir, **options))
        return page(run_dir)

    return inside


SHORT = {"epochs": 20, "splits": 3, "seeds": 2, "widths": (24,), "shares": (0.4, 0.5), "folds": 2, "larger": (2, 2)}


def check_sonar(page):
    assert page.verdict("F1: trained for 400 epochs") == "held"
    assert page.verdict("F1: trained for 20 epochs") == "did not hold"
    assert len(page.table("F2")) == 6
    assert len(page.table("F3")) == 2
    assert [row[0] for row in page.table("F4: test accuracy")] == [
        "30% held out, means of 2 runs",
        "2 folds, 1 times, means of 2 runs",
        "2 folds, 2 times, a run each",
    ]
    folds = page.table("F4: each fold's")
    assert folds[0][1] == folds[0][2]  # the first fold has nothing to carry on
    assert folds[1][1] != folds[1][2]
    assert [row[0] for row in page.table("Hold-out")] == ["40%", "50%"]
    assert page.plots == ["hold_out", "folds"]


def check_numbers_of_sonar(page, home, histories):
    """F2's and F3's table against the runs' own logs."""

    def last(directory, metric):
        return {name: history[metric][-1] for name, history in histories(directory).items()}

    found = last(home / "F2" / "folds", "val_accuracy")
    by_split = np.array([[found[f"loss=squared_error,fold={fold},seed={seed}"] for seed in range(2)] for fold in range(3)])
    row = page.table("F2")[3]
    assert row[:2] == ["test accuracy", "squared error"]
    mean = ff.statistics.interval(by_split.mean(1), method="corrected", test_ratio=63 / 145)
    assert row[3:6] == [str(mean), f"{by_split.mean(1).std(ddof=1):.3f}", f"{np.sqrt(by_split.var(1, ddof=1).mean()):.3f}"]
    accuracy, loss = (last(home / "F3", f"val_{name}") for name in ("accuracy", "binary_crossentropy"))
    chosen = []
    for fold in range(3):
        nets = [name for name in accuracy if f"fold={fold}," in name]
        chosen.append(accuracy[max(nets, key=lambda name: (accuracy[name], -loss[name]))])
    ratio = 42 / 132  # 20% of 208 rows test, 20% of the rest validate
    assert page.table("F3")[0][1] == str(ff.statistics.interval(chosen, method="corrected", test_ratio=ratio))


@pytest.mark.slow
def test_sonar_says_the_same_when_it_is_resumed(tmp_path, inside, data, histories, written):
    first = inside("sonar", tmp_path, **SHORT)
    check_sonar(first)
    check_numbers_of_sonar(first, tmp_path, histories)
    saved = written(tmp_path)
    assert saved[0] == 2 + 2 + 2 * 3 * 2 + 3 * 3 + 2 * 2 + 4 + 2 * 2 + 2 * 3
    again = inside("sonar", tmp_path, **SHORT)
    assert (again.tables, again.claims) == (first.tables, first.claims)
    assert written(tmp_path) == saved  # nothing was trained again


def test_sonar_without_originals(tmp_path, inside, synthetic_cache):
    check_sonar(inside("sonar", tmp_path / "run", **SHORT))


@pytest.mark.parametrize("wrong", [{"weights": 1}, {"degree": 1}, {"degree": 12, "points": 12}])
def test_shrinkage_says_what_it_cannot_do(tmp_path, inside, wrong):
    with pytest.raises(SystemExit, match="--degree from 2 to 18 and less than --points"):
        inside("shrinkage", tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_shrinkage(tmp_path, inside, written):
    short = {"seeds": 2, "weights": 3, "degree": 9, "points": 12}
    page = inside("shrinkage", tmp_path, **short)
    saved = written(tmp_path)
    assert saved[0] == 2 * 3 * 2 + 9 * 2
    assert inside("shrinkage", tmp_path, **short).tables == page.tables
    assert written(tmp_path) == saved  # nothing was trained again
    for claim in (
        "gradient descent finds scikit-learn's Lasso and Ridge",
        "L1 sets weights to exactly zero",
        "L2 shrinks weights, and sets none to zero",
        "gradient descent has converged to the least squares",
        "while the training error falls with each degree",
    ):
        assert page.claims[claim] == "held"
    assert [row[0] for row in page.table("Diabetes")] == ["0.001", "0.1", "10"]
    assert len(page.table("12 points")) == 9
    assert page.plots == ["paths", "degrees"]


def test_errata(tmp_path, inside, data):
    page = inside("errata", tmp_path, seeds=2)
    verdicts = [page.verdict(words) for words in ("under SGD", "under Adam", "while training only", "at 0.5", "100 words")]
    assert verdicts == ["held", *["did not hold"] * 4]
    assert page.plots == ["errata"]
