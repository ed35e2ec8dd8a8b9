"""Every study, shortened, as it runs on an accelerator: members side by side under vmap, here on two devices that XLA makes of the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flaxfit.storage.store import Store

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
AS_ON_A_GPU = """
import os, runpy, sys
import jax
jax.default_backend = lambda: "gpu"
assert len(jax.devices()) == 2
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SHORT = {
    "quickstart": "--epochs 2 --seeds 2",
    "overfit_and_underfit": "--epochs 2 --seeds 2 --large-seeds 1",
    "higgs_fixes": "--epochs 2 --large-seeds 1",
    "save_and_restore": "--data digits --epochs 2 3 --seeds 2",
    "share_weights": "--data digits --epochs 2 --seeds 2",
    "shrinkage": "--seeds 2 --epochs 3 --weights 3",
    "polynomials": "--seeds 2 --degree 6 --points 12",
    "causes": "--seeds 2 --epochs 100 --fresh 200",
    "errata": "",
    "batch_norm": "--epochs 1 --seeds 2 --data fashion_mnist",
    "mnist_few_samples": "--epochs 2 --seeds 2 --test 300",
    "mnist_dropout": "--epochs 1 --seeds 2 --test 300",
    "mnist_ensembles": "--epochs 2 --seeds 2 --ensembles 2 --masks 5 --test 300",
    "mnist_early_stopping": "--epochs 1 --seeds 1",
    "stopping_rules": "--epochs 2 --seeds 2",
    "mnist_search": "--epochs 1 --seeds 1 --rounds 1",
    "optimizer_pairs": "--epochs 1 --seeds 1",
    "imdb_capacity": "--epochs 8 --long-epochs 4 --seeds 3 --few-seeds 1 --rows 1500 --vocabulary 200",
    "imdb_regularizers": "--epochs 16 --seeds 2 --rows 4000 --vocabulary 300",
    "initial_scale": "--seeds 2 --epochs 1 --rows 400 --scales 0.1 1",
    "sonar": "--epochs 2 --seeds 2",
    "leakage": "--epochs 2 --seeds 2 --folds 2",
    "cross_validation": "--epochs 2 --seeds 2 --widths 24 --shares 0.4 0.5 --folds 2",
}


@pytest.mark.parametrize("name", [name if name == "quickstart" else pytest.param(name, marks=pytest.mark.slow) for name in SHORT])
def test_runs_with_members_side_by_side(name, tmp_path, data):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", AS_ON_A_GPU, str(EXPERIMENTS / f"{name}.py"), *SHORT[name].split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in tmp_path.rglob("members.sqlite"):
        with Store(path, write=False) as store:
            assert all(store[member].record["environment"]["batch"]["width"] >= 1 for member in store.names)


def test_every_study_is_here():
    scripts = {path.stem: text for path in EXPERIMENTS.glob("*.py") if "script(main" in (text := path.read_text())}
    assert SHORT.keys() == {name for name, text in scripts.items() if "fit_many(" in text or "higgs.trained(" in text} | {"quickstart"}
