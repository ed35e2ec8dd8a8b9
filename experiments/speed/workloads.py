"""What the peers of the benchmark train: plain specifications, and the arrays that all of them read from one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import flaxfit as ff

Layer = tuple[Any, ...]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Workload:
    """One training, as plain values. Peers get its fields as JSON, with the path of the arrays.

    Attributes:
      name: its name on the command line.
      title: its name in tables.
      data: the name of the function of this module that makes its arrays.
      layers: ("dense", units, activation or None), ("conv", filters, activation), ("pool",), ("flatten",), ("batch_norm",),
        ("dropout", rate) and ("lstm", units), in order. Convolutions are 3 x 3, poolings 2 x 2. The last layer returns logits.
      classes: the number of logits, 1 for two classes.
      batch: the number of examples in a batch.
      epochs: the number of epochs in a run. Each ends with a validation on all validation examples at once.
      tolerance: how far a peer's validation accuracy, averaged over rounds, may be from flaxfit's.
      optimizer: "adam" or "sgd".
      rate: the learning rate.
      decay_steps: divides the learning rate by 1 + step / decay_steps, if it is not None.
      initializer: how kernels are initialized: "glorot_uniform" or "he_normal". Biases start at 0.
      l2: the weight of the L2 penalty on all kernels; in a population, each of them for the same number of members.
      members: the number of members of a population or of folds, 1 for a single run.
      folds: whether the members are the folds of a cross-validation.
      sample: how many of the folds a peer trains in a round that trains them one after the other.
      executions: the values of Keras's `steps_per_execution` of which the fastest counts.
      without: the peers that are left out because they would take too long.
      start: "cold" or "warm": the first epoch of a new process is timed, with an empty compilation cache or a full one.
      growth: the name of a quantity and its value here, for a point of a growth curve.
    """

    name: str
    title: str
    data: str
    layers: tuple[Layer, ...]
    classes: int
    batch: int
    epochs: int
    tolerance: float
    optimizer: str = "adam"
    rate: float = 1e-3
    decay_steps: int | None = None
    initializer: str = "glorot_uniform"
    l2: tuple[float, ...] = (0.0,)
    members: int = 1
    folds: bool = False
    sample: int = 1
    executions: tuple[int, ...] = (1, 20)
    without: tuple[str, ...] = ()
    start: str | None = None
    growth: tuple[str, int] | None = None

    def operations(self, arrays: Mapping[str, np.ndarray]) -> float | None:
        """Returns the operations of an epoch's matrix products, validation included, or None if there are other layers with kernels."""
        if any(layer[0] in ("conv", "lstm") for layer in self.layers) or self.folds:
            return None
        rows, validation, width, total, first = len(arrays["y"]), len(arrays["validation_y"]), arrays["x"].shape[-1], 0.0, True
        for layer in self.layers:
            if layer[0] == "dense":
                products = 2 if first else 3  # forward, the kernel's gradient, and the input's, which the first layer does not need
                total += 2.0 * width * layer[1] * (products * rows + validation)
                width, first = layer[1], False
        return total


def dense(*widths: int, outputs: int, activation: str = "relu") -> tuple[Layer, ...]:
    return (*(("dense", width, activation) for width in widths), ("dense", outputs, None))


def wide(width: int) -> tuple[Layer, ...]:
    return dense(width, outputs=1, activation="elu")


def convolutions(*filters: int) -> tuple[Layer, ...]:
    blocks = ((("conv", number, "relu"), ("pool",)) for number in filters)
    return (*(layer for block in blocks for layer in block), ("flatten",), *dense(64, outputs=10))


RECURRENT = (("lstm", 64), *dense(outputs=10))
DROPPED = tuple(layer for _ in range(4) for layer in (("dense", 512, "elu"), ("dropout", 0.5)))
NORMED = tuple(layer for _ in range(2) for layer in (("dense", 50, "relu"), ("batch_norm",), ("dropout", 0.2)))
HIGGS: dict[str, Any] = {"data": "higgs", "classes": 1, "batch": 500, "tolerance": 0.03, "decay_steps": 20_000}
CNN: dict[str, Any] = {"data": "fashion_mnist", "classes": 10, "batch": 64, "epochs": 2, "tolerance": 0.05, "executions": (1,)}
SONAR: dict[str, Any] = {"layers": dense(24, 10, outputs=1), "classes": 1, "batch": 5, "tolerance": 0.08}
TINY = Workload("higgs-tiny", "HIGGS tiny: 16 units", layers=wide(16), epochs=200, **HIGGS)
SGD: dict[str, Any] = {"optimizer": "sgd", "rate": 0.01, "initializer": "he_normal"}
POPULATION = replace(TINY, l2=(1e-4, 1e-3))
AS_OF_16 = ("keras-tensorflow", "torch-compiled", "fabric")  # one member takes them as long as in a population of 16

WORKLOADS = (
    TINY,
    Workload("sonar", "sonar: 24 and 10 units, batches of 5", "sonar", epochs=400, **SONAR),
    Workload("mnist-300", "MNIST, 300 images: 6 x 100 units, SGD", "mnist_300", dense(*(100,) * 6, outputs=10), 10, 100, 50, 0.08, **SGD),
    Workload("higgs-large", "HIGGS large: 4 x 512 units", layers=dense(*(512,) * 4, outputs=1, activation="elu"), epochs=3, **HIGGS),
    Workload("higgs-combined", "HIGGS combined: with dropout and L2", layers=(*DROPPED, ("dense", 1, None)), l2=(1e-4,), epochs=3, **HIGGS),
    Workload("mnist-norm", "MNIST: batch norm and dropout", "mnist", (*NORMED, ("dense", 10, None)), 10, 100, 2, 0.02),
    Workload("cnn", "CNN 16-32", layers=convolutions(16, 32), **CNN),
    Workload("cnn-wide", "CNN 32-64-64", layers=convolutions(32, 64, 64), without=("scan",), **CNN),
    Workload("lstm", "LSTM of 64 units over the rows of images", "image_rows", RECURRENT, 10, 64, 4, 0.08, executions=(1,)),
    replace(POPULATION, name="population-16", title="population of 16 of HIGGS tiny", members=16, epochs=50),
    replace(POPULATION, name="population-128", title="population of 128 of HIGGS tiny", members=128, epochs=20, without=AS_OF_16),
    Workload("folds", "sonar: 10 x 10 folds", "sonar_folds", epochs=100, members=100, folds=True, sample=2, **SONAR),
)
FIRST = tuple(
    replace(work, name=f"first-{work.name}-{start}", title=f"{work.title}, {start} cache", epochs=1, executions=(1,), start=start)
    for work in WORKLOADS[:3]
    for start in ("cold", "warm")
)


def growing() -> tuple[Workload, ...]:
    """HIGGS tiny with one quantity that grows."""
    points = [
        *(("rows", rows, {"data": f"higgs:{rows}", "epochs": 1_000_000 // rows}) for rows in (1_000, 3_000, 10_000)),
        *(("batch", batch, {"batch": batch, "epochs": min(200, max(20, batch // 5))}) for batch in (50, 500, 5_000)),
        *(("width", width, {"layers": wide(width), "epochs": 100 if width < 1_000 else 20}) for width in (16, 128, 1_024)),
        *(("members", members, {"members": members, "l2": (1e-4,), "epochs": 50}) for members in (1, 4, 16, 64)),
    ]
    return tuple(
        replace(TINY, name=f"growth-{name}-{value}", title=f"HIGGS tiny, {name} {value:,}", growth=(name, value), **changed)
        for name, value, changed in points
    )


def arrays_of(data: str, originals: Path | None) -> Arrays:
    """Makes the arrays of a workload: x, y, validation_x and validation_y; for folds x, y and the number of each example's fold."""
    name, _, size = data.partition(":")
    makers: dict[str, Callable[..., Arrays]] = {
        "higgs": higgs,
        "sonar": sonar,
        "sonar_folds": sonar_folds,
        "mnist_300": lambda source: images("mnist", source, train=300, test=10_000, flat=True),
        "mnist": lambda source: images("mnist", source, test=10_000, flat=True),
        "fashion_mnist": lambda source: images("fashion_mnist", source, train=2_560, test=1_000),
        "image_rows": lambda source: {
            key: value[..., 0] if key.endswith("x") else value
            for key, value in images("fashion_mnist", source, train=2_560, test=1_000).items()
        },
    }
    return makers[name](originals, int(size)) if size else makers[name](originals)


def together(train: Any, validation: Any) -> Arrays:
    return {"x": train.x, "y": train.y, "validation_x": validation.x, "validation_y": validation.y}


def higgs(originals: Path | None, rows: int = 10_000) -> Arrays:
    splits = ff.data.load("higgs", validation=1_000, train=rows, originals=originals)
    return {name: np.array(value, np.float32) for name, value in together(splits.train, splits.validation).items()}


def sonar(originals: Path | None) -> Arrays:
    """145 examples to train on and 63 to validate on."""
    splits = ff.data.split(ff.data.load("sonar", originals=originals).train, validation=63, stratified=True, seed=0)
    return {name: np.array(value, np.float32) for name, value in together(splits.train, splits.validation).items()}


def sonar_folds(originals: Path | None) -> Arrays:
    """The folds of ten cross-validations with ten folds each, shape (repeats, rows)."""
    data, repeats, folds = ff.data.load("sonar", originals=originals).train, 10, 10
    numbers = np.empty((repeats, len(data)), np.int32)
    for index, (_, held_out) in enumerate(ff.data.folds(data, folds, stratified=True, repeats=repeats, seed=0)):
        numbers[index // folds, held_out] = index % folds
    return {"x": np.array(data.x, np.float32), "y": np.array(data.y, np.float32), "folds": numbers}


def images(name: str, originals: Path | None, *, flat: bool = False, **sizes: int) -> Arrays:
    splits = ff.data.load(name, originals=originals, **sizes)  # pyright: ignore[reportArgumentType]
    arrays = together(splits.train, splits.test)
    for key in ("x", "validation_x"):
        scaled = np.array(arrays[key], np.float32) / 255
        arrays[key] = scaled.reshape(len(scaled), -1) if flat else scaled
    return {key: value if key.endswith("x") else np.array(value, np.int32) for key, value in arrays.items()}
