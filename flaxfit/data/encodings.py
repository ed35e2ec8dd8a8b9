"""Rows of numbers from what is not one: words as multi-hot vectors."""

from __future__ import annotations

from typing import Any

import numpy as np


def multi_hot(ranks: Any, offsets: Any, vocabulary: int) -> np.ndarray:
    """Which of the `vocabulary` most frequent words each text has.

    Args:
      ranks: the words of all texts, one text after the other: ranks by frequency from 1, 0 for unknown words; shape (words,).
      offsets: where each text begins, and where the last one ends: shape (texts + 1,).
      vocabulary: how many words count; rank r is column r - 1.

    Returns:
      0 or 1, uint8, shape (texts, vocabulary).

    Example:
      >>> multi_hot([1, 3, 1, 0, 2, 9], [0, 4, 6], 3)
      array([[1, 0, 1],
             [0, 1, 0]], dtype=uint8)
    """
    ranks, offsets = np.asarray(ranks, np.int32), np.asarray(offsets)
    hot = np.zeros((len(offsets) - 1, vocabulary), np.uint8)
    before = np.repeat(np.arange(-1, hot.size - 1, vocabulary), np.diff(offsets))  # the place before each word's text
    known = np.flatnonzero((ranks - 1).view(np.uint32) < vocabulary)  # unsigned, so that 0 is beyond too
    hot.reshape(-1)[before[known] + ranks[known]] = 1
    return hot
