"""Each script, shortened, as a user runs it: in a directory of its own."""

from __future__ import annotations

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


def test_overfit_and_underfit(tmp_path, originals, cache):
    text = run("overfit_and_underfit.py", "--epochs", "3", "--study", "sizes", "--dots", "--originals", str(originals), cwd=tmp_path)
    out = tmp_path / "runs" / "overfit_and_underfit"
    for name in ("Tiny", "Small", "Medium", "Large"):
        history = ff.History.from_jsonl(out / "sizes" / f"{name}.jsonl")
        assert history.epochs.tolist() == [1, 2, 3]
        assert 0.5 < history["val_binary_crossentropy"][-1] < 1.0
        assert f"{name}: " in text
        assert list((out / "logs" / "sizes" / name / "validation").iterdir())
    assert sorted(path.name for path in out.glob("*.png")) == ["schedule.png", "sizes.png", "sizes_norms.png"]
    assert "Total Parameters: 481" in text  # Tiny: 28 x 16 + 16 + 16 + 1


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
