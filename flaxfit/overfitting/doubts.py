"""What to distrust in the answer of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flaxfit.overfitting.columns import Importance
from flaxfit.overfitting.findings import Tried
from flaxfit.overfitting.fixes import Fix
from flaxfit.overfitting.problem import Problem

_RARE = 20
_FEW = 200


def doubts(problem: Problem, tried: Sequence[Tried], best: Fix, columns: Sequence[Importance], broken: Mapping[str, int]) -> list[str]:
    """Returns what the data and the results warn of.

    Args:
      problem: the examples and their splits.
      tried: what each fix did.
      best: the fix with the best mean score.
      columns: how much the network needs each column.
      broken: fix -> how many of its runs were not finite.
    """
    found, data, labels = [], problem.data, problem.labels
    if labels is not None:
        values, counts = np.unique(labels, return_counts=True)
        names = data.classes or tuple(map(str, range(int(values.max()) + 1)))
        rare = [f"{names[v]} ({c})" for v, c in zip(values, counts, strict=True) if c < _RARE]
        if rare:
            some = ", ".join(rare[:8]) + (", ..." if len(rare) > 8 else "")
            found.append(f"classes with fewer than {_RARE} examples, of which no score tells much: {some}.")
        if counts.max() > 0.8 * counts.sum():
            share, name = counts.max() / counts.sum(), names[values[counts.argmax()]]
            found.append(f"imbalance: {name} is {share:.1%} of the examples, which is the accuracy of always predicting it.")
    if len(problem.pool) < _FEW:
        found.append(f"only {len(problem.pool)} examples to train and validate on: intervals are wide and may be too narrow.")
    of_kind = [t.fix for t in tried if t.fix.kind == best.kind]
    if len(of_kind) > 1 and best == of_kind[-1]:
        found.append(f"the best strength of {best.kind}, {best.strength}, is the strongest that was tried: a stronger one may be better.")
    useless = [each.column for each in columns if each.useless]
    if useless:
        some = ", ".join(useless[:10]) + (", ..." if len(useless) > 10 else "")
        found.append(f"the network is not shown to need these columns: {some}. They may mean nothing, or repeat what other columns say.")
    for name, count in broken.items():
        found.append(f"{name}: {count} runs ended on a value that is not finite.")
    return found
