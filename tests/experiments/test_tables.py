"""The studies of small tables, shortened, in this process: their nets are tiny, and starting Python is what takes the time."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def inside(page):
    """Runs a script's `main` and returns the page it wrote."""

    def inside(name, run_dir, **options):
        script = runpy.run_path(str(EXPERIMENTS / f"{name}.py"))
        script["main"](script["Config"](run_dir=run_dir, **options))
        return page(run_dir)

    return inside


SHORT = {"epochs": 20, "splits": 3, "seeds": 2, "widths": (24,), "shares": (0.4, 0.5), "folds": 2, "larger": (2, 2)}


def check_sonar(page):
    assert page.verdict("F1: trained on all rows") == "held"
    assert len(page.table("F2")) == 6
    assert len(page.table("F3")) == 2
    assert [row[0] for row in page.table("F4: test accuracy")] == ["30% held out", "2 folds, 1 times", "2 folds, 2 times"]
    folds = page.table("F4: each fold's")
    assert folds[0][1] == folds[0][2]  # the first fold has nothing to carry on
    assert folds[1][1] != folds[1][2]
    assert [row[0] for row in page.table("Hold-out")] == ["40%", "50%"]
    assert page.plots == ["hold_out", "folds"]


def test_sonar_says_the_same_when_it_is_resumed(tmp_path, inside, data):
    first = inside("sonar", tmp_path, **SHORT)
    check_sonar(first)
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("_CHECKPOINT_METADATA")}
    assert len(checkpoints) == 2 + 2 * 3 * 2 + 3 * 3 + 2 * 2 + 4 + 2 * 3
    again = inside("sonar", tmp_path, **SHORT)
    assert (again.tables, again.claims) == (first.tables, first.claims)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("_CHECKPOINT_METADATA")} == checkpoints


def test_sonar_without_originals(tmp_path, inside, synthetic_cache):
    check_sonar(inside("sonar", tmp_path / "run", **SHORT))


def test_shrinkage(tmp_path, inside):
    page = inside("shrinkage", tmp_path, seeds=2, weights=3, degree=9, points=12)
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
