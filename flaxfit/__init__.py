"""Functional training for Flax: whole runs compiled, over-fitting diagnosed, remedies compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxfit import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flaxfit import data, hooks, losses, metrics, nn, schedules
    from flaxfit.cross_validation import CrossValidation, cross_validate
    from flaxfit.data.dataset import Dataset
    from flaxfit.driver import fit, resume
    from flaxfit.ensembles import Ensemble, ensemble
    from flaxfit.grid import static
    from flaxfit.nn import summary
    from flaxfit.population import fit_many
    from flaxfit.regularize import augmentation, averaging, constraints, masks, penalties, proximal
    from flaxfit.report import plots, statistics
    from flaxfit.report.diagnosis import Diagnosis, diagnose, verdicts
    from flaxfit.report.history import History
    from flaxfit.report.pages import Page
    from flaxfit.result import Result
    from flaxfit.scoring import evaluate, predict
    from flaxfit.search import Narrowing, narrow, optimise
    from flaxfit.state import RunState, TrainState
    from flaxfit.steps import eval_step, train_step
    from flaxfit.stopping import EarlyStopping
    from flaxfit.storage.export import export, pack
    from flaxfit.storage.predictor import Predictor, load, transfer
    from flaxfit.study import Member, Study
    from flaxfit.task import Task

# Name -> the module it is in, or is. Resolved on first use (PEP 562), so that `import flaxfit` costs nothing.
_PLACES = {
    "CrossValidation": "cross_validation",
    "Dataset": "data.dataset",
    "Diagnosis": "report.diagnosis",
    "EarlyStopping": "stopping",
    "Ensemble": "ensembles",
    "History": "report.history",
    "Result": "result",
    "RunState": "state",
    "Task": "task",
    "TrainState": "state",
    "augmentation": "regularize.augmentation",
    "averaging": "regularize.averaging",
    "constraints": "regularize.constraints",
    "cross_validate": "cross_validation",
    "data": "data",
    "diagnose": "report.diagnosis",
    "ensemble": "ensembles",
    "eval_step": "steps",
    "evaluate": "scoring",
    "export": "storage.export",
    "fit": "driver",
    "fit_many": "population",
    "hooks": "hooks",
    "load": "storage.predictor",
    "losses": "losses",
    "Member": "study",
    "masks": "regularize.masks",
    "metrics": "metrics",
    "Narrowing": "search",
    "narrow": "search",
    "optimise": "search",
    "nn": "nn",
    "Page": "report.pages",
    "Predictor": "storage.predictor",
    "pack": "storage.export",
    "penalties": "regularize.penalties",
    "plots": "report.plots",
    "predict": "scoring",
    "proximal": "regularize.proximal",
    "resume": "driver",
    "schedules": "schedules",
    "Study": "study",
    "static": "grid",
    "statistics": "report.statistics",
    "summary": "nn",
    "train_step": "steps",
    "transfer": "storage.predictor",
    "verdicts": "report.diagnosis",
}

__all__ = [*_PLACES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy.names(__name__, _PLACES)
