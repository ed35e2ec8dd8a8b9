"""Each script, shortened, as a user runs it: in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flaxfit as ff

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
HIGGS = Path(os.environ.get("FLAXFIT_ORIGINALS", "missing")) / "higgs" / "HIGGS_sample_15978.csv.gz"
needs_higgs = pytest.mark.skipif(not HIGGS.is_file(), reason="needs FLAXFIT_ORIGINALS, a directory with higgs/HIGGS_sample_15978.csv.gz")


def run(script, *arguments, cwd):
    done = subprocess.run([sys.executable, EXPERIMENTS / script, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", sorted(path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.py")), ids=str)
def test_help_needs_no_data_and_no_jax(script, tmp_path):
    code = (
        "import runpy, sys\ntry:\n    runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\nassert 'jax' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(EXPERIMENTS / script), "--help"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "--epochs" in text
    assert list(tmp_path.iterdir()) == []


def test_quickstart(tmp_path):
    text = run("quickstart.py", "--epochs", "30", "--seeds", "1", cwd=tmp_path)
    for words in ("plain", "L2 0.001", "dropout 0.5", "batch norm", "Learning curves: quickstart.png"):
        assert words in text
    assert (tmp_path / "quickstart.png").read_bytes()[:4] == b"\x89PNG"


@needs_higgs
def test_overfit_and_underfit(tmp_path):
    text = run("overfit_and_underfit.py", "--epochs", "3", "--study", "sizes", "--dots", "--csv", str(HIGGS), cwd=tmp_path)
    out = tmp_path / "runs" / "overfit_and_underfit"
    for name in ("Tiny", "Small", "Medium", "Large"):
        history = ff.History.from_jsonl(out / "sizes" / f"{name}.jsonl")
        assert history.epochs.tolist() == [1, 2, 3]
        assert 0.5 < history["val_binary_crossentropy"][-1] < 1.0
        assert f"{name}: " in text
        assert list((out / "logs" / "sizes" / name / "validation").iterdir())
    assert sorted(path.name for path in out.glob("*.png")) == ["schedule.png", "sizes.png", "sizes_norms.png"]
    assert "Total Parameters: 481" in text  # Tiny: 28 x 16 + 16 + 16 + 1


def test_a_missing_file_is_said_without_a_traceback(tmp_path):
    command = [sys.executable, EXPERIMENTS / "overfit_and_underfit.py", "--csv", "nowhere.csv.gz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "no file nowhere.csv.gz: give --csv, or set FLAXFIT_ORIGINALS to the directory that holds higgs/"


@needs_higgs
def test_the_speed_benchmark_runs_and_its_peers_agree(tmp_path):
    text = run("speed/training.py", "--epochs", "20", "--repeats", "1", "--csv", str(HIGGS), cwd=tmp_path)
    assert "flaxfit" in text
    assert "scan by hand" in text
