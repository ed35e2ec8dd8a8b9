"""The number of examples of a validation step, chosen from shapes alone so that what is computed fits into the processor's cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxfit.data.dataset import Dataset
from flaxfit.programs.checks import outlined
from flaxfit.programs.compiled import Programs

_BYTES = 4 * 2**20
_LEAST = 256
_USUAL = 1024


def validation_rows(programs: Programs, numbers: Mapping[str, Any], row: Dataset, rows: int) -> int:
    """Returns how many examples fit into 4 MB of the widest array of the model, and into 64 MB of its inputs, but at least 256.

    Args:
      programs: the programs of the task.
      numbers: its traced hyperparameters.
      row: one example.
      rows: the number of examples to trace, since a model may not take other numbers.
    """
    try:
        model = outlined(programs, numbers, row.x, rows, evaluates=True)
    except Exception:  # the checks report what is wrong
        return _USUAL
    return max(_LEAST, min(_BYTES // max(model.widest or 1, 1), 16 * _BYTES // max(model.inputs, 1)))
