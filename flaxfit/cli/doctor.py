"""`flaxfit doctor`: does this installation work?"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import flaxfit as ff
from flaxfit.cli.options import Doctor
from flaxfit.data import cache
from flaxfit.storage.directory import versions


def doctor(command: Doctor) -> None:
    """Prints versions, devices and the cache, and trains a small network whose answer is known.

    Raises:
      RuntimeError: the small network did not train as it must.
    """
    place = cache.home()
    writable = os.access(next(p for p in (place, *place.parents) if p.exists()), os.W_OK)
    found: dict[str, Any] = {
        "versions": {"flaxfit": ff.__version__, **versions()},
        "devices": [f"{device.device_kind} ({device.platform})" for device in jax.devices()],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cache": f"{place}{'' if writable else ' (not writable)'}",
    }
    began = time.monotonic()
    found["self test"] = _self_test()
    found["seconds"] = round(time.monotonic() - began, 1)
    if command.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found["versions"].items():
        print(f"{name:20} {value or 'not installed'}")
    print(f"{'devices':20} {', '.join(found['devices'])}")
    print(f"{'cores':20} {found['cores']}")
    print(f"{'cache':20} {found['cache']}")
    print(f"{'self test':20} {found['self test']} ({found['seconds']} s)")


def _self_test() -> str:
    """Trains, saves, resumes and loads a network."""
    x = np.linspace(-1, 1, 64)[:, None]
    data = ff.Dataset(x, 3 * x[:, 0] - 1)
    task = ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optax.adam(0.1))
    with tempfile.TemporaryDirectory() as scratch:
        half = ff.fit(task, data, epochs=50, run_dir=Path(scratch) / "run", callbacks=[ff.callbacks.Checkpoint(every_epochs=50)])
        whole = ff.fit(task, data, epochs=100, run_dir=Path(scratch) / "run", resume="auto")
        once = ff.fit(task, data, epochs=100)
        slope = float(np.ravel(whole.last.params["Dense_0"]["kernel"])[0])
        loaded = ff.load(Path(scratch) / "run").predict(np.ones((1, 1)))
    same = all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(whole.last.params), jax.tree.leaves(once.last.params), strict=True))
    facts = {
        f"the slope is {slope:.3f} instead of 3": abs(slope - 3) > 0.01,
        "a resumed run has other weights than an uninterrupted one": not same,
        "the loaded model predicts something else": abs(float(np.ravel(loaded)[0]) - 2) > 0.05,
        "training did not improve the loss": not half.history["mse"][-1] < half.history["mse"][0],
    }
    if wrong := [fact for fact, there in facts.items() if there]:
        raise RuntimeError(f"the self test failed: {wrong[0]}.")
    return "trained, saved, resumed to the bit and loaded"
