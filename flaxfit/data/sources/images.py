"""MNIST (handwritten digits) and Fashion-MNIST (clothes): 70,000 gray images of 28 x 28 pixels each, in IDX files."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.data.sources.source import File, Parts, Source

_KINDS = {"train-images": "idx3", "train-labels": "idx1", "t10k-images": "idx3", "t10k-labels": "idx1"}


def _idx(path: Path) -> np.ndarray:
    """Reads an IDX file of unsigned bytes: two zeros, the type 8, the number of axes, each axis as a big-endian word, the values."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _source(name: str, url: str, sums: tuple[str, ...], **about: Any) -> Source:
    files = tuple(
        File(f"{name}/{kind}-{idx}-ubyte.gz", sha256, f"{url}{kind}-{idx}-ubyte.gz")
        for (kind, idx), sha256 in zip(_KINDS.items(), sums, strict=True)
    )

    def read(paths: Mapping[str, Path], rows: int | None) -> Parts:
        images, labels, test_images, test_labels = (_idx(paths[file.path]) for file in files)
        return {"train": {"x": images[..., None], "y": labels}, "test": {"x": test_images[..., None], "y": test_labels}}

    return Source(name, "1.0.0", originals=files, read=read, **about)


MNIST = _source(
    "mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition. Proc. IEEE 86 (1998).",
    license="usually given as CC BY-SA 3.0",
    homepage="http://yann.lecun.com/exdb/mnist/",
    classes=tuple("0123456789"),
)

FASHION_MNIST = _source(
    "fashion_mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    citation="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms. arXiv:1708.07747 (2017).",  # noqa: E501
    license="MIT",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
