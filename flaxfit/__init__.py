"""Functional training for Flax: whole runs compiled, over-fitting diagnosed, remedies compared.

The public names, each imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flaxfit import hooks, losses, metrics, nn, schedules
    from flaxfit.data.dataset import Dataset
    from flaxfit.driver import Result, fit
    from flaxfit.nn import summary
    from flaxfit.regularize import averaging, constraints, masks, penalties, proximal
    from flaxfit.report import plots
    from flaxfit.report.diagnosis import Diagnosis, diagnose
    from flaxfit.report.history import History
    from flaxfit.scoring import evaluate, predict
    from flaxfit.state import RunState, TrainState
    from flaxfit.steps import eval_step, train_step
    from flaxfit.stopping import EarlyStopping
    from flaxfit.task import Task

# Name -> the module it is in, or is. Resolved on first use (PEP 562), so that `import flaxfit` costs nothing.
_PLACES = {
    "Dataset": "data.dataset",
    "Diagnosis": "report.diagnosis",
    "EarlyStopping": "stopping",
    "History": "report.history",
    "Result": "driver",
    "RunState": "state",
    "Task": "task",
    "TrainState": "state",
    "averaging": "regularize.averaging",
    "constraints": "regularize.constraints",
    "diagnose": "report.diagnosis",
    "eval_step": "steps",
    "evaluate": "scoring",
    "fit": "driver",
    "hooks": "hooks",
    "losses": "losses",
    "masks": "regularize.masks",
    "metrics": "metrics",
    "nn": "nn",
    "penalties": "regularize.penalties",
    "plots": "report.plots",
    "predict": "scoring",
    "proximal": "regularize.proximal",
    "schedules": "schedules",
    "summary": "nn",
    "train_step": "steps",
}

__all__ = [*_PLACES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        from flaxfit.suggest import unknown

        raise AttributeError(unknown("name", name, _PLACES, "in flaxfit"))
    module = importlib.import_module(f"flaxfit.{_PLACES[name]}")
    value = module if _PLACES[name].rsplit(".", 1)[-1] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
