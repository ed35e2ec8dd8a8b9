"""What a study does in the time that it is given."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flaxfit.overfitting.fixes import Fix, fixes_for

PERMUTATIONS = 19
SIZES = (0.25, 0.4, 0.63)
CELLS = 5  # the folds on which smaller training sets and permuted targets are tried
_TARGET_STEPS = 2500
_MOST_REPEATS = 10


@dataclass(frozen=True)
class Plan:
    """What a study trains. It is recorded, so that a resumed study does the same.

    Attributes:
      epochs: the epochs of each member.
      batch_size: the examples of a step.
      folds: the number of folds; 1 if the examples are in the order of time.
      repeats: how often they are made anew, or with one fold the number of seeds.
      strengths: how many strengths of each fix are tried.
      seconds: how long it should take.
    """

    epochs: int
    batch_size: int
    folds: int
    repeats: int
    strengths: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """Returns the plan as plain values for JSON."""
        return asdict(self)

    def describe(self, fixes: int) -> str:
        """Returns a sentence for the user."""
        how = f"{self.folds} folds x {self.repeats} repeat{'s' * (self.repeats != 1)}" if self.folds > 1 else f"{self.repeats} seeds"
        return f"{fixes} settings x {how}, {self.epochs} epochs each: about {duration(self.seconds)}"


def epochs_for(rows: int, batch_size: int) -> int:
    """Returns a number of epochs of about 2,500 steps in all, between 30 and 200."""
    return min(200, max(30, round(_TARGET_STEPS / math.ceil(rows / batch_size))))


def fitting(names: set[str], epochs: int, batch_size: int, left: float, cost: Cost, folds: int | None) -> Plan:
    """Returns the plan with the most strengths, then the most repeats, that fits into the time.

    With 10 folds, the same number of runs tells more than with 5 folds: their training sets are larger and share more, and the correction
    for shared examples is smaller. So 5 folds are used only if there is no time for 10.

    Args:
      names: the hyperparameters that can be set.
      epochs, batch_size: as for `Plan`.
      left: the seconds that are left.
      cost: what was measured.
      folds: the number of folds; None for 10 or 5; 1 for examples in the order of time.
    """

    def seconds(folds: int, strengths: int, repeats: int) -> float:
        fixes = fixes_for(names, strengths)[0]
        runs = sum(map(_cost, fixes)) * folds * repeats + min(folds, CELLS) * (sum(SIZES) + 0.5 * PERMUTATIONS) + 1
        # Compilation uses more than one core by itself.
        return 12.0 + (0.7 * cost.compile * (cost.sizes * _programs(fixes) + len(SIZES) + 1) + 1.15 * cost.run * runs) / _cores()

    if folds == 1:
        plans = [(1, strengths, repeats) for strengths in (3, 2, 1) for repeats in range(_MOST_REPEATS, 2, -1)]
    else:
        enough = [(folds or 10, strengths, repeats) for strengths in (3, 2, 1) for repeats in range(_MOST_REPEATS, 1, -1)]
        plans = enough + [(count, strengths, 1) for count in ((10, 5) if folds is None else (folds,)) for strengths in (2, 1)]
    chosen = next((plan for plan in plans if seconds(*plan) <= left), plans[-1])
    count, strengths, repeats = chosen
    return Plan(epochs, batch_size, count, repeats, strengths, seconds(*chosen))


@dataclass(frozen=True)
class Cost:
    """What one run of the baseline took."""

    compile: float  # the seconds until its first step
    run: float  # the seconds of its steps
    sizes: int  # how many different sizes the training sets of folds have, each of which is compiled

    def of_repeat(self, folds: int, fixes: Sequence[Fix]) -> float:
        """Returns the seconds of one more repeat, for which everything is compiled."""
        return 1.3 * self.run * folds * sum(map(_cost, fixes)) / _cores()

    def of_rest(self, folds: int) -> float:
        """Returns the seconds of what follows the repeats."""
        runs = min(folds, CELLS) * (sum(SIZES) + 0.5 * PERMUTATIONS) + 1
        return 12.0 + (self.compile * (len(SIZES) + 1) + 1.3 * self.run * runs) / _cores()


def _programs(fixes: Sequence[Fix]) -> int:
    """How many programs the fixes are compiled into."""
    return len({(*(fix.setting.get(name) for name in ("width", "batch_norm", "augmentation")), fix.stops) for fix in fixes})


def _cores() -> float:
    """How much faster a population is than its members one by one: its last members leave cores idle."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8) ** 0.9


def _cost(fix: Fix) -> float:
    """The time of a member as a multiple of the baseline's."""
    return 2.0 if fix.setting.get("width", 1.0) > 1 else 1.5 if fix.setting.get("batch_norm") else 1.0


def duration(seconds: float) -> str:
    """Returns a duration for a reader, such as "1 min 40 s".

    Example:
      >>> duration(100), duration(7.3)
      ('1 min 40 s', '7 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def seconds_of(text: str | float) -> float:
    """Returns the seconds of a duration such as "90", "2m", "1h30m" or "45s".

    Raises:
      ValueError: it is no such duration.

    Example:
      >>> seconds_of("2m"), seconds_of("1h30m"), seconds_of(45)
      (120.0, 5400.0, 45.0)
    """
    if isinstance(text, int | float):
        found = float(text)
    else:
        parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
        if not text.strip() or parts is None:
            raise ValueError(f"a time budget is a duration such as 90s, 2m or 1h30m, got {text!r}.")
        found = sum(float(part) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True) if part)
    if not 0 < found < math.inf:
        raise ValueError(f"a time budget must be more than 0 s, got {text!r}.")
    return found
