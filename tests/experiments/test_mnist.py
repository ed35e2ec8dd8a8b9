"""The scripts on MNIST and Fashion-MNIST, shortened, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import flaxfit as ff

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def run(script, *arguments, cwd):
    done = subprocess.run([sys.executable, EXPERIMENTS / script, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def page(directory):
    parts = json.loads((directory / "page.json").read_text(encoding="utf-8"))["parts"]
    assert all((directory / part["file"]).is_file() for part in parts if part["kind"] == "plot")
    return {kind: [part for part in parts if part["kind"] == kind] for kind in ("table", "claim", "plot")}


def test_mnist_early_stopping(tmp_path, originals, cache):
    arguments = ("--epochs", "1", "--seeds", "1", "--rounds", "1", "--search-seeds", "1", "--originals", str(originals))
    run("mnist_early_stopping.py", *arguments, cwd=tmp_path)
    out = tmp_path / "runs" / "mnist_early_stopping"
    found = page(out)
    table, searched, _ = found["table"]
    rows = {row[0]: row for row in table["rows"]}
    assert [(row[2], row[5]) for row in rows.values()] == [
        ("0.9729", "0.9738"),
        ("0.9835", "0.9747"),
        ("0.9766", "0.9742"),
        ("0.9954", "0.9727"),
        ("0.9666", "0.9577"),
        ("", ""),
    ]
    accuracies = {name: float(row[6].split()[0]) for name, row in rows.items()}
    assert all(0.9 < accuracy < 0.98 for accuracy in accuracies.values())
    assert accuracies["BN, dropout 0.1, stopped"] == accuracies["BN, dropout 0.1"] != accuracies["BN, dropout 0.2"]
    assert [row[1] for row in searched["rows"]] == ["0.1", "0.125", "0.15", "0.175", "0.2"]
    restored = next(claim for claim in found["claim"] if "restored" in claim["claim"])
    assert restored["verdict"] == "held"
    assert ff.load(out / "stopped_model").about == {"epoch": 1, "net": "BN, dropout 0.1, stopped"}


def test_batch_norm_says_the_same_when_it_is_resumed(tmp_path, originals, cache):
    arguments = ("--epochs", "1", "--seeds", "2", "--data", "fashion_mnist", "--originals", str(originals))
    text = run("batch_norm.py", *arguments, cwd=tmp_path)
    found = page(tmp_path / "runs" / "batch_norm")
    rows = {row[0]: row[1:] for row in found["table"][0]["rows"]}
    for accuracies in (rows["validation accuracy after epoch 1, percent"], rows["test accuracy after the last epoch, percent"]):
        assert all(75 < float(accuracy.split()[0]) < 90 for accuracy in accuracies[:2])
    assert len(found["claim"]) == 5
    checkpoints = sorted((tmp_path / "runs").rglob("_CHECKPOINT_METADATA"))
    written = [path.stat().st_mtime_ns for path in checkpoints]
    assert len(written) == 4
    assert run("batch_norm.py", *arguments, cwd=tmp_path) == text
    assert [path.stat().st_mtime_ns for path in checkpoints] == written  # nothing was trained again
