"""The studies of small tables, shortened, in this process: their nets are tiny, and starting Python is what takes the time."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def study(name, run_dir, **options):
    """Runs a script's `main` and returns the page it wrote: its tables by title, its claims, its pictures."""
    script = runpy.run_path(str(EXPERIMENTS / f"{name}.py"))
    script["main"](script["Config"](run_dir=run_dir, **options))
    parts = json.loads((run_dir / "page.json").read_text())["parts"]
    tables = {part["title"]: part["rows"] for part in parts if part["kind"] == "table"}
    claims = {part["claim"]: part["verdict"] for part in parts if part["kind"] == "claim"}
    plots = [run_dir / part["file"] for part in parts if part["kind"] == "plot"]
    assert all(plot.read_bytes()[:4] == b"\x89PNG" for plot in plots)
    return tables, claims, [plot.stem for plot in plots]


def found(named, start):
    [value] = [value for name, value in named.items() if name.startswith(start)]
    return value


def test_sonar(tmp_path, originals):
    options = {"epochs": 20, "splits": 3, "seeds": 2, "widths": (24,), "shares": (0.4, 0.5), "folds": 2, "larger": (2, 2)}
    tables, claims, plots = study("sonar", tmp_path, originals=originals, **options)
    assert claims["F1: trained on all rows and scored on the same, the accuracy is 1"] == "held"
    assert len(found(tables, "F2")) == 6
    assert len(found(tables, "F3")) == 2
    assert [row[0] for row in found(tables, "F4: test accuracy")] == ["30% held out", "2 folds, 1 times", "2 folds, 2 times"]
    folds = found(tables, "F4: each fold's")
    assert folds[0][1] == folds[0][2]  # the first fold has nothing to carry on
    assert folds[1][1] != folds[1][2]
    assert [row[0] for row in found(tables, "Hold-out")] == ["40%", "50%"]
    assert plots == ["hold_out", "folds"]


def test_a_missing_directory_is_said_without_a_traceback(tmp_path, cache):
    with pytest.raises(SystemExit, match=r"^no directory of originals nowhere: mind --originals or FLAXFIT_ORIGINALS\.$"):
        study("sonar", tmp_path, originals=Path("nowhere"))


def test_shrinkage(tmp_path):
    tables, claims, plots = study("shrinkage", tmp_path, seeds=2, weights=3, degree=9, points=12)
    for claim in (
        "gradient descent finds scikit-learn's Lasso and Ridge",
        "L1 sets weights to exactly zero",
        "L2 shrinks weights, and sets none to zero",
        "gradient descent has converged to the least squares",
        "while the training error falls with each degree",
    ):
        assert claims[claim] == "held"
    assert [row[0] for row in found(tables, "Diabetes")] == ["0.001", "0.1", "10"]
    assert len(found(tables, "12 points")) == 9
    assert plots == ["paths", "degrees"]
