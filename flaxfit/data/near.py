"""Rows that are nearly copies of others: rounded, changed by a little, scaled separately, images moved by a pixel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

ROWS = 1000  # of the rows that are looked for, so many at most
_CLOSE = 0.1  # a copy's distance over the median distance of a training row to its nearest neighbor
_AXES = 32  # of the space in which neighbors are looked for
_CANDIDATES = 3
_MAPPABLE = 3  # features; of fewer, a map brings any rows near to some


@dataclass(frozen=True)
class Copies:
    """What was found."""

    pairs: tuple[tuple[int, int], ...]  # row numbers of near copies, in the first set and in the second
    of: int  # how many rows of the second set were looked for
    own: int  # how many rows of the first set have a near copy among its other rows
    own_of: int  # of how many


def near_copies(first: Any, second: Any) -> Copies:
    """Which rows of a second set are much nearer to one of the first than rows of the first are among themselves.

    Distances are of standardized features; images are also compared moved by a pixel, and the second set also after a linear map of each
    feature (one for all pixels) that brings it closest to the first, since it may have been scaled by itself.
    """
    train, test, images = _matrix(first), _matrix(second), _images(first)
    looked = _some(len(test))
    own = _some(len(train))
    none = Copies((), len(looked), 0, len(own))
    varies = train.std(0) > 0
    if len(train) < 10 or not varies.any():
        return none
    center, scale = _scaling(train, images)
    z, others = ((part - center) / scale for part in (train, test[looked]))
    if not images:
        z, others = z[:, varies], others[:, varies]
    search = _Search(z, _shape(first) if images else None)
    own_distance = search.nearest(z[own], skip=own)[0]
    median = float(np.median(own_distance))
    if not median > 0:
        return none

    def close(rows: np.ndarray) -> list[tuple[int, int]]:
        distance, neighbor = search.nearest(rows)
        return [(int(neighbor[row]), int(looked[row])) for row in np.flatnonzero(distance < _CLOSE * median)]

    as_is, mapped = close(others), []
    if images or z.shape[1] >= _MAPPABLE:
        mapped = close(_mapped(others, z, search, images))
    # A map has been fitted, so that it needs many more, of as many rows: it may have brought all rows to one place.
    fitted = len({row for row, _ in mapped}) > max(2 * len(as_is), 0.05 * len(looked))
    return Copies(tuple(mapped if fitted else as_is), len(looked), int((own_distance < _CLOSE * median).sum()), len(own))


class _Search:
    """Nearest rows of `z`: candidates by the first principal axes, then exact distances; of images the middle, at the best of 9 places."""

    def __init__(self, z: np.ndarray, shape: tuple[int, ...] | None):
        from sklearn.neighbors import NearestNeighbors

        self._shape = shape
        self._middle = self._views(z)[0]
        self._axes = _axes(self._middle)
        self._index = NearestNeighbors(n_neighbors=min(_CANDIDATES + 1, len(z)), algorithm="brute").fit(self._placed(self._middle))

    def nearest(self, rows: np.ndarray, skip: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Distance to and number of the nearest row for each; `skip` are the numbers of the rows themselves."""
        distances, numbers = [], []
        for view in self._views(rows):
            candidates = self._index.kneighbors(self._placed(view), return_distance=False)
            found = np.stack([np.sqrt(((view - self._middle[column]) ** 2).mean(1)) for column in candidates.T], 1)
            distances.append(found if skip is None else np.where(candidates == skip[:, None], np.inf, found))
            numbers.append(candidates)
        distance, number = np.concatenate(distances, 1), np.concatenate(numbers, 1)
        best = distance.argmin(1)[:, None]
        return np.take_along_axis(distance, best, 1)[:, 0], np.take_along_axis(number, best, 1)[:, 0]

    def _placed(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._axes is None else rows @ self._axes

    def _views(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows; of images the middle first, then what is a pixel beside it."""
        if self._shape is None:
            return [rows]
        height, width = self._shape[:2]
        images, corners = rows.reshape(len(rows), *self._shape), itertools.product((1, 0, 2), repeat=2)
        return [images[:, i : i + height - 2, j : j + width - 2].reshape(len(rows), -1) for i, j in corners]


def _mapped(rows: np.ndarray, z: np.ndarray, search: _Search, images: bool) -> np.ndarray:
    """The rows after the linear map of each feature that brings the nearest of them closest to their neighbors, found step by step."""
    rows = (rows - rows.mean(None if images else 0)) / np.maximum(rows.std(None if images else 0), 1e-12)
    for share in (0.2, 0.2, 0.1, 0.1, 0.05):  # first most rows, then those that fit
        distance, neighbor = search.nearest(rows)
        near = np.argsort(distance)[: max(10, int(share * len(rows)))]
        if len(near) < 10:
            break
        x, y = rows[near], z[neighbor[near]]
        axis = None if images else 0
        spread = x.var(axis)
        slope = np.where(spread > 0, ((x - x.mean(axis)) * (y - y.mean(axis))).mean(axis) / np.where(spread > 0, spread, 1), 1.0)
        slope = np.clip(slope, *(share / np.maximum(rows.std(axis), 1e-12) for share in (2 / 3, 3 / 2)))  # a copy is as wide
        rows = (rows - x.mean(axis)) * slope + y.mean(axis)
    return rows


def _matrix(x: Any) -> np.ndarray:
    """All numbers of each row, shape (rows, numbers)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    return np.nan_to_num(np.concatenate([leaf.reshape(len(leaf), -1).astype(np.float32) for leaf in leaves], 1))


def _shape(x: Any) -> tuple[int, ...]:
    return np.shape(jax.tree.leaves(x)[0])[1:]


def _images(x: Any) -> bool:
    """Whether x is an array of images, at least 4 x 4."""
    leaves = jax.tree.leaves(x)
    return len(leaves) == 1 and np.ndim(leaves[0]) in (3, 4) and min(np.shape(leaves[0])[1:3]) >= 4


def _scaling(train: np.ndarray, images: bool) -> tuple[Any, Any]:
    """What standardizes: each feature by itself, pixels together."""
    if images:
        return train.mean(), max(float(train.std()), 1e-12)
    return train.mean(0), np.maximum(train.std(0), 1e-12)


def _axes(z: np.ndarray) -> np.ndarray | None:
    """The principal axes, where there are more numbers than these."""
    if z.shape[1] <= _AXES:
        return None
    some = z[_some(len(z))]
    return np.linalg.svd(some - some.mean(0), full_matrices=False)[2][:_AXES].T


def _some(rows: int) -> np.ndarray:
    """All rows, or so many at random."""
    return np.arange(rows) if rows <= ROWS else np.sort(np.random.default_rng(0).choice(rows, ROWS, replace=False))
