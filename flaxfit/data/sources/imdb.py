"""IMDB: 50,000 film reviews, as the ranks of their words.

The rank of a word is its place by frequency in the training reviews, from 1. A word that they do not have is 0. Most words share their
frequency with others; their order is that of the index which Keras publishes.
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.data.sources.source import File, Parts, Source

_REVIEWS, _INDEX = "imdb/aclImdb_v1.tar.gz", "imdb/imdb_word_index.json"
_LAYOUTS = ("words", "keras")
KERAS = ("(padding)", "(start)", "(out of vocabulary)", "(unused)")  # what the first columns of the layout "keras" are
_NAME = re.compile(r"aclImdb/(train|test)/(neg|pos)/(\d+)_\d+\.txt")
# The tokenizer of Keras when the index was made, for the byte strings of Python 2: its filter, and lower case for ASCII letters only.
_FILTER = b'!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
_TABLE = bytes.maketrans(_FILTER + bytes(range(65, 91)), b" " * len(_FILTER) + bytes(range(97, 123)))


def tokens(review: bytes) -> list[bytes]:
    """Returns the words of a review, in order."""
    return list(filter(None, review.translate(_TABLE).split(b" ")))


def ranked(counts: Mapping[bytes, int], index: Mapping[str, int]) -> list[bytes]:
    """Returns the words by falling count. Words with equal counts are in the order of `index`, which must have the same words."""
    order = {word.encode(): rank for word, rank in index.items()}
    if order.keys() != counts.keys():
        raise ValueError(
            f"the training reviews have {len(counts.keys() - order.keys())} words that are not in {_INDEX}, and lack "
            f"{len(order.keys() - counts.keys())} of its {len(order)} words: one of the two files is not the published one."
        )
    return sorted(counts, key=lambda word: (-counts[word], order[word]))


def _read(paths: Mapping[str, Path], rows: int | None) -> Parts:
    # The archive is read in its own order and never unpacked to disk. Each review is kept as numbers of words in order of appearance.
    seen: defaultdict[bytes, int] = defaultdict(itertools.count().__next__)
    reviews: dict[tuple[str, int, bool], np.ndarray] = {}
    with tarfile.open(paths[_REVIEWS], mode="r|gz") as archive:
        for member in archive:
            if match := _NAME.fullmatch(member.name):
                split, label, number = match.groups()
                words = tokens(archive.extractfile(member).read())  # pyright: ignore[reportOptionalMemberAccess]
                reviews[split, int(number), label == "pos"] = np.fromiter(map(seen.__getitem__, words), np.int32, len(words))
    numbers = np.concatenate([review for (split, _, _), review in reviews.items() if split == "train"])
    counts = dict(zip(seen, np.bincount(numbers, minlength=len(seen)).tolist(), strict=True))
    index = json.loads(paths[_INDEX].read_text(encoding="utf-8"))
    words = ranked({word: count for word, count in counts.items() if count}, index)
    ranks = np.zeros(len(seen), np.int32)
    ranks[[seen[word] for word in words]] = np.arange(1, len(words) + 1)

    def part(name: str) -> dict[str, np.ndarray]:
        keys = sorted(key for key in reviews if key[0] == name)  # Bad and good reviews alternate, so that any first rows are balanced.
        offsets = np.cumsum([0, *(len(reviews[key]) for key in keys)])
        return {
            "ranks": ranks[np.concatenate([reviews[key] for key in keys])],
            "offsets": offsets.astype(np.int64),
            "y": np.array([good for _, _, good in keys], np.int32),
        }

    return {"train": part("train"), "test": part("test"), "words": {"words": np.frombuffer(b"\n".join(words), np.uint8)}}


def _assemble(arrays: Mapping[str, np.ndarray], parts: Parts, vocabulary: int, layout: str) -> tuple[Any, tuple[str, ...]]:
    words = bytes(parts["words"]["words"]).decode().split("\n")
    if layout not in _LAYOUTS:
        raise ValueError(f'load("imdb"): {unknown("layout", layout, _LAYOUTS)}')
    extra = KERAS if layout == "keras" else ()
    least, most = len(extra) + 1, len(extra) + len(words)
    if not least <= vocabulary <= most:
        raise ValueError(f'load("imdb", vocabulary=...) must be from {least} to {most}, got {vocabulary}.')
    ranks, named = arrays["ranks"], (*extra, *words[: vocabulary - len(extra)])
    if not extra:
        return multi_hot(ranks, arrays["offsets"], vocabulary), named
    shifted = np.where(ranks + len(extra) <= vocabulary, ranks + len(extra), 3)  # column 2 for words of a higher rank
    hot = multi_hot(np.where(ranks, shifted, 0), arrays["offsets"], vocabulary)  # a word without a rank is dropped, as by Keras's tokenizer
    hot[:, 1] = 1
    return hot, named


def multi_hot(ranks: np.ndarray, offsets: np.ndarray, vocabulary: int) -> np.ndarray:
    """Returns which of the most frequent words each text has: 0 or 1, uint8, shape (texts, vocabulary). Rank r is column r - 1.

    Args:
      ranks: the ranks of the words of all texts, one text after the other, int32.
      offsets: the position in `ranks` at which each text begins, and at the end the position at which the last one ends.
      vocabulary: the number of columns.

    Example:
      >>> multi_hot(np.array([1, 3, 1, 0, 2, 9], np.int32), np.array([0, 4, 6]), 3)
      array([[1, 0, 1],
             [0, 1, 0]], dtype=uint8)
    """
    hot = np.zeros((len(offsets) - 1, vocabulary), np.uint8)
    before = np.repeat(np.arange(-1, hot.size - 1, vocabulary), np.diff(offsets))  # for each word, the place before the row of its text
    known = np.flatnonzero((ranks - 1).view(np.uint32) < vocabulary)  # unsigned, so that rank 0 is left out as well
    hot.reshape(-1)[before[known] + ranks[known]] = 1
    return hot


IMDB = Source(
    "imdb",
    "1.0.0",
    citation="A. L. Maas et al.: Learning word vectors for sentiment analysis. ACL (2011).",
    license="none stated: free for research with citation; the texts belong to their authors",
    homepage="https://ai.stanford.edu/~amaas/data/sentiment/",
    originals=(
        File(
            _REVIEWS,
            "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
            "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
        ),
        File(
            _INDEX,
            "027313fe9a320280f3bf0fac5baf58c4a683cf39a7ed9c3d3d3912bde4284cf6",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb_word_index.json",
        ),
    ),
    substitutes=(
        File(
            "imdb/aclImdb_labelled.tar.gz",
            "c8f37cf029dce64de1ad2ad6af52800d53e5d4f5948d5a8037e16731a79a635f",
            stands_for=_REVIEWS,
            note="the 50,000 labeled reviews of aclImdb_v1.tar.gz without its unlabeled ones",
        ),
    ),
    read=_read,
    classes=("bad", "good"),
    assemble=_assemble,
    options={"vocabulary": 10_000, "layout": "words", "original": None},
)
