"""Each script, shortened, as a user runs it: in a directory of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import flaxfit as ff

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def run(script, *arguments, cwd):
    done = subprocess.run([sys.executable, EXPERIMENTS / script, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SCRIPTS = sorted(path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_help_needs_no_data_and_no_jax(script, tmp_path):
    code = (
        "import runpy, sys\ntry:\n    runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\nassert 'jax' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(EXPERIMENTS / script), "--help"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "usage: " in text
    assert list(tmp_path.iterdir()) == []


def test_quickstart(tmp_path):
    text = run("quickstart.py", "--epochs", "30", "--seeds", "1", cwd=tmp_path)
    for words in ("plain", "L2 0.001", "dropout 0.5", "batch norm", "Learning curves: quickstart.png"):
        assert words in text
    assert (tmp_path / "quickstart.png").read_bytes()[:4] == b"\x89PNG"


def claims(directory):
    """Claim -> verdict, of a study's page."""
    page = json.loads((directory / "page.json").read_text())
    return {part["claim"]: part["verdict"] for part in page["parts"] if part["kind"] == "claim"}


def test_overfit_and_underfit(tmp_path, originals, cache):
    options = ("--epochs", "2", "--seeds", "2", "--large-seeds", "1", "--originals", str(originals))
    text = run("overfit_and_underfit.py", *options, cwd=tmp_path)
    out = tmp_path / "runs" / "overfit_and_underfit"
    assert "Total Parameters: 481" in text  # Tiny: 28 x 16 + 16 + 16 + 1
    for net in ("small/members/net=Tiny,seed=1", "large/members/net=combined,seed=0", "large/members/net=batch_norm,seed=0"):
        history = ff.History.from_jsonl(out / net / "metrics.jsonl")
        assert history.epochs.tolist() == [1, 2]
        assert 0.5 < history["val_binary_crossentropy"][-1] < 1.0
    for log in ("sizes/Tiny/seed=1", "sizes/Large/seed=0", "regularizers/combined/seed=0", "remedies/noise/seed=0"):
        assert list((out / "logs" / log / "validation").iterdir())
    plots = ("sizes", "sizes_norms", "regularizers", "regularizers_norms", "remedies", "remedies_norms", "schedule")
    assert sorted(path.stem for path in (out / "plots").iterdir()) == sorted(plots)
    verdicts = claims(out)
    assert len(verdicts) == 8
    assert verdicts["a penalty makes the objective larger"] == "held"
    assert verdicts["only Tiny escapes over-fitting"] == "undecided"  # after 2 epochs
    assert verdicts["L2 helps Large"] == "undecided"  # of one seed
    table = next(part for part in json.loads((out / "page.json").read_text())["parts"] if part["kind"] == "table")
    assert [row[:3] for row in table["rows"][2:4]] == [["Medium", "2", "2"], ["Large", "1", "2"]]


def test_save_and_restore(tmp_path, cache):
    text = run("save_and_restore.py", "--data", "digits", "--epochs", "3", "--seeds", "2", cwd=tmp_path)
    out = tmp_path / "runs" / "save_and_restore"
    verdicts = claims(out)
    restored = [verdict for claim, verdict in verdicts.items() if claim.endswith("without training")]
    assert restored == ["held"] * 3
    assert verdicts["it needs none of the code that made it"] == verdicts["training goes on from what was saved"] == "held"
    history = ff.History.from_jsonl(out / "runs" / "members" / "seed=1" / "metrics.jsonl")
    best = history.best_epoch
    name = f"{best:02d}-{history['val_loss'][best - 1]:.5f}.safetensors"
    assert (out / "models" / "seed=1" / name).is_file()
    assert f"seed=1: {name}" in text
    assert "Dense_1/bias: (10,) in the source, (1,) here" in text


def test_results_are_made_of_pages(tmp_path):
    with ff.Page("Sonar", tmp_path / "runs" / "sonar", "Folds.") as page:
        history = ff.History({"loss": [0.7, 0.5], "mse": [0.7, 0.5]})
        page.plot("folds", ff.plots.learning_curves({"one": history}), "Curves")
        page.claim("it learns", True, "0.7 to 0.5")
    stale = tmp_path / "docs" / "results" / "sonar_older.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    text = run("results.py", cwd=tmp_path)
    assert "RESULTS.md: 1 of 9 studies, 1 pictures of " in text
    results = (tmp_path / "RESULTS.md").read_text()
    assert "| it learns | **held** | 0.7 to 0.5 |" in results
    assert "![Curves](docs/results/sonar_folds.png)" in results
    assert results.index("Left out: `experiments/batch_norm.py`") < results.index("## Sonar") < results.index("## shrinkage")
    assert [path.name for path in stale.parent.iterdir()] == ["sonar_folds.png"]
    size = (tmp_path / "runs" / "sonar" / "plots" / "folds.png").stat().st_size
    assert (stale.parent / "sonar_folds.png").stat().st_size < size / 2


@pytest.mark.parametrize("script", ["overfit_and_underfit.py", "speed/training.py"])
def test_a_missing_directory_is_said_without_a_traceback(script, tmp_path, cache):
    command = [sys.executable, EXPERIMENTS / script, "--originals", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "no directory of originals nowhere: mind --originals or FLAXFIT_ORIGINALS."


def test_the_speed_benchmark_runs_and_its_peers_agree(tmp_path, originals, cache):
    text = run("speed/training.py", "--epochs", "20", "--repeats", "1", "--originals", str(originals), cwd=tmp_path)
    assert "flaxfit" in text
    assert "scan by hand" in text


def test_the_benchmark_of_populations_runs_and_its_peers_agree(tmp_path, originals, cache):
    arguments = ("--epochs", "100", "--repeats", "1", "--seeds", "1", "--originals", str(originals))
    text = run("speed/populations.py", *arguments, cwd=tmp_path)
    for words in ("fit_many, 2 members", "fit alone", "fit_many / scan by hand: "):
        assert words in text
