"""What a study tries: the fixes that a task can express."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flaxfit.regularize import penalties
from flaxfit.task.task import Task

NEUTRAL: dict[str, Any] = {
    "width": 1.0,
    "l1": 0.0,
    "l2": 0.0,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "batch_norm": False,
    "augmentation": 0.0,
}
"""The hyperparameters of fixes, with the values at which they change nothing."""
TRACED = {"l1", "l2", "weight_decay", "dropout"}


@dataclass(frozen=True)
class Fix:
    """One setting that a study compares with the baseline.

    Attributes:
      kind: what it is, such as "L2 penalty".
      strength: how strong it is, as text; empty if there is only one strength.
      setting: the hyperparameters that differ from the baseline's.
      stops: whether it stops early.
    """

    kind: str
    strength: str
    setting: Mapping[str, Any]
    stops: bool = False

    @property
    def name(self) -> str:
        """The kind and the strength."""
        return f"{self.kind} {self.strength}".strip()


BASELINE = Fix("baseline", "", {})
# Kinds in the order of their simplicity, which decides between fixes that are equally good; strengths from the weakest on.
_KINDS: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...] = (
    ("baseline", ({},)),
    ("early stopping", ({},)),
    ("smaller network", ({"width": 0.25}, {"width": 0.0625})),
    ("weight decay", ({"weight_decay": 0.01}, {"weight_decay": 0.1}, {"weight_decay": 1.0})),
    ("L2 penalty", ({"l2": 1e-4}, {"l2": 1e-3}, {"l2": 1e-2})),
    ("L1 penalty", ({"l1": 1e-4}, {"l1": 1e-3}, {"l1": 5e-3})),
    ("dropout", ({"dropout": 0.2}, {"dropout": 0.35}, {"dropout": 0.5})),
    ("L2 with dropout", ({"l2": 1e-4, "dropout": 0.2}, {"l2": 1e-3, "dropout": 0.35}, {"l2": 1e-2, "dropout": 0.5})),
    ("batch norm", ({"batch_norm": True},)),
    ("augmentation", ({"augmentation": 0.05}, {"augmentation": 0.1}, {"augmentation": 0.2})),
    ("larger network", ({"width": 2.0},)),
)
SIMPLICITY = {kind: place for place, (kind, _) in enumerate(_KINDS)}
_HOW = {
    "l1": "add ff.penalties.l1(hp['l1'])",
    "l2": "add ff.penalties.l2(hp['l2'])",
    "width": "multiply the numbers of units by hp['width']",
    "weight_decay": "pass hp['weight_decay'] to optax.adamw",
    "dropout": "pass hp['dropout'] to ff.nn.Dropout",
    "batch_norm": "add batch norm if hp['batch_norm']",
    "augmentation": "pass hp['augmentation'] to a function of ff.augmentation, in Task(augment=...)",
}


def fixes_for(names: set[str], strengths: int) -> tuple[list[Fix], dict[str, str]]:
    """Returns the baseline and the fixes that can be expressed, and how the others would become possible.

    Args:
      names: the hyperparameters that can be set.
      strengths: how many strengths of each fix to try, 1 to 3.

    Returns:
      The fixes, the baseline first; and kind -> what to change so that it can be tried.
    """
    fixes, missing = [BASELINE], {}
    for kind, settings in _KINDS:
        if kind == "baseline":
            continue
        if absent := [name for name in settings[0] if name not in names]:
            missing[kind] = f"{_HOW[absent[0]]} in make_task(hp)"
            continue
        chosen = settings if strengths >= len(settings) else settings[(len(settings) - 1) // 2 :][:1] if strengths == 1 else settings[-2:]
        fixes += [Fix(kind, _strength(setting), setting, kind == "early stopping") for setting in chosen]
    return fixes, missing


def _strength(setting: Mapping[str, Any]) -> str:
    if "width" in setting:
        width = setting["width"]
        return f"({width:g}x width)" if width > 1 else f"(1/{1 / width:g} width)"
    return ", ".join(f"{value:g}" for value in setting.values() if not isinstance(value, bool))


def of_task(task: Task) -> Callable[[Mapping[str, Any]], Task]:
    """Returns a function of the hyperparameters `l1` and `l2`, whose penalty is added to that of a task."""

    def make_task(hp: Mapping[str, Any]) -> Task:
        added = penalties.elastic_net(hp["l1"], hp["l2"])
        own = task.penalty
        return replace(task, penalty=added if own is None else lambda params: own(params) + added(params))

    return make_task


class Asked(dict):
    """The neutral hyperparameters, which remembers which of them a user's function asked for."""

    def __init__(self, extra: Mapping[str, Any]):
        super().__init__({**NEUTRAL, **extra})
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value, as for a dict."""
        self.names.update({name} & {*NEUTRAL, "scaling"})
        return super().get(name, default)

    def keys(self) -> Any:
        """All names, which counts as asking for all."""
        self.names.update(super().keys())
        return super().keys()
