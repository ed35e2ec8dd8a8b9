"""Are two splits alike, and does a feature give the label away?"""

from __future__ import annotations

from typing import Any

import numpy as np

from flaxfit.data.dataset import Dataset
from flaxfit.data.near import ROWS
from flaxfit.data.splits import class_labels, class_name

_CHANCE = 0.001  # of a warning where there is no difference, over all features or classes together
_SHIFT = 0.1  # the least difference of shares, or of distribution functions, that is worth a warning
_FEATURES = 20  # looked at one by one
_SHOWN = 5
_FEW = 20  # rows that say nothing of a distribution


def shifts(first: str, train: Dataset, second: str, other: Dataset) -> list[str]:
    """Warnings of classes and features that are distributed differently, by a chi-square test and by Kolmogorov and Smirnov's."""
    from scipy.stats import chi2_contingency, ks_2samp

    told, labels = [], [y for data in (train, other) if (y := class_labels(data)) is not None]
    if len(labels) == 2:
        classes = np.unique(np.concatenate(labels))
        counts = np.array([[(y == label).sum() for label in classes] for y in labels])
        shares = counts / counts.sum(1, keepdims=True)
        apart = np.abs(shares[0] - shares[1])
        if len(classes) > 1 and apart.max() > _SHIFT and float(chi2_contingency(counts).pvalue) < _CHANCE:  # pyright: ignore[reportAttributeAccessIssue]
            one, label = shares[:, apart.argmax()], class_name(train, int(classes[apart.argmax()]))
            told.append(f"class shares differ: {label} is {one[0]:.3f} of {first} and {one[1]:.3f} of {second}.")
    if getattr(train.x, "ndim", 0) != 2 or min(len(train), len(other)) < _FEW:
        return told
    x, z = np.asarray(train.x, float), np.asarray(other.x, float)
    found = [ks_2samp(x[:, i], z[:, i], method="asymp") for i in range(x.shape[1])]
    moved = [i for i, one in enumerate(found) if one.statistic > _SHIFT and one.pvalue < _CHANCE / x.shape[1]]  # pyright: ignore[reportAttributeAccessIssue]
    if moved:
        moved.sort(key=lambda i: -found[i].statistic)  # pyright: ignore[reportAttributeAccessIssue]
        some = ", ".join(f"{_name(train, i)} (mean {x[:, i].mean():.3g} and {z[:, i].mean():.3g})" for i in moved[:_SHOWN])
        more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        told.append(f"features differ between {first} and {second}: {some}{more}.")
    return told


def giveaways(train: Dataset) -> list[str]:
    """Warnings of features that are the label, or tell it alone as well as all of them, by cross-validated trees."""
    from scipy.stats import rankdata

    y = getattr(train, "y", None)
    if getattr(train.x, "ndim", 0) != 2 or getattr(y, "ndim", 0) != 1 or train.x.shape[1] < 2:
        return []
    rows = np.random.default_rng(0).permutation(len(train))[:ROWS]
    x, y = np.nan_to_num(np.asarray(train.x, np.float32)[rows]), np.asarray(y)[rows]
    labeled = class_labels(train) is not None
    if len(rows) < 30 or (labeled and np.unique(y, return_counts=True)[1].min() < 3) or len(np.unique(y)) < 2:
        return []
    ranks = rankdata(x, axis=0) - (len(x) + 1) / 2
    goal = (y[:, None] == np.unique(y)).astype(float) if labeled and len(np.unique(y)) <= 100 else rankdata(y)[:, None]
    goal = (goal - goal.mean(0)) / goal.std(0)
    correlation = np.abs(ranks.T @ goal).max(1) / np.maximum(ranks.std(0), 1e-9) / len(ranks)
    chosen = np.argsort(-correlation)[:_FEATURES]
    alone = np.array([_score(x[:, [i]], y, labeled) for i in chosen])
    best, all_of_them = chosen[alone.argmax()], _score(x, y, labeled, forest=True)
    alone = np.maximum(alone, _score(x[:, [best]], y, labeled, forest=True))
    chance = np.unique(y, return_counts=True)[1].max() / len(y) if labeled else 0.0
    error = np.sqrt(max(chance * (1 - chance), 0.01) / len(y))
    if alone.max() > 1 - 1e-3 or (not labeled and correlation.max() > 1 - 1e-3):
        return [f"the feature {_name(train, best)} is the label, or a function of it."]
    if alone.max() < chance + max(0.1, 4 * error) or alone.max() < all_of_them - error / 2:
        return []
    what = "an accuracy" if labeled else "an R2"
    return [
        f"the feature {_name(train, best)} alone reaches {what} of {alone.max():.3f}, all features together {all_of_them:.3f}: "
        "is it known when the label is not?"
    ]


def _score(x: np.ndarray, y: np.ndarray, labeled: bool, forest: bool = False) -> float:
    """Cross-validated accuracy, or R2, of a tree, or of many."""
    from sklearn import ensemble, tree
    from sklearn.model_selection import cross_val_score

    kind: Any
    if forest:
        kind = ensemble.ExtraTreesClassifier if labeled else ensemble.ExtraTreesRegressor
        model = kind(50, min_samples_leaf=2, random_state=0)
    else:
        kind = tree.DecisionTreeClassifier if labeled else tree.DecisionTreeRegressor
        model = kind(min_samples_leaf=5, max_leaf_nodes=64, random_state=0)
    return float(cross_val_score(model, x, y, cv=3).mean())


def _name(data: Dataset, index: int) -> str:
    return data.features[index] if data.features else f"x[:, {index}]"
