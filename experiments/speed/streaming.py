"""Trains from a generated set that need not fit in memory; rows a second, and how much memory that takes.

The rows are random, the labels follow from them; they are written to a temporary directory, as .npy files that are mapped into memory or
as array_record files through TFDS. Memory is the process's, sampled every 10 ms: anonymous, what the program holds, and
file-mapped, pages of files, which the system takes back as it likes; with what it was before training: Python, JAX and its programs.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    gigabytes: float = 5.0
    """The size of the data set."""
    source: Literal["npy", "tfds"] = "npy"
    """How the data set is stored: as memory-mapped .npy files, or as array_record files of TensorFlow Datasets."""
    features: int = 28
    """How many numbers of 4 bytes each example has."""
    batch_size: int = 500
    """How many examples a batch has."""
    hidden: int = 16
    """The units in the one hidden layer of the network."""
    epochs: int = 1
    """How many epochs to train."""
    compare: bool = False
    """Also train on the same examples in memory, to compare the losses and the time."""
    directory: Path = Path(tempfile.gettempdir())
    """The directory in which the data set is written, and deleted at the end."""


def blocks(config: Config) -> Any:
    """Yields (x, y) of the whole data set, some megabytes at a time."""
    import numpy as np

    generator, left = np.random.default_rng(0), int(config.gigabytes * 1e9 / 4 / config.features)
    while left:
        x = generator.random((min(left, 2**22 // config.features), config.features), np.float32) - np.float32(0.5)
        left -= len(x)
        yield x, (x[:, 0] * x[:, 1] > 0).astype(np.int32)


def npy(config: Config, directory: Path) -> Any:
    """Writes the data set as .npy files and returns it memory-mapped."""
    import numpy as np

    import flaxfit as ff

    rows = int(config.gigabytes * 1e9 / 4 / config.features)
    paths = [directory / "x.npy", directory / "y.npy"]
    with paths[0].open("wb") as xs, paths[1].open("wb") as ys:
        for file, shape, kind in ((xs, (rows, config.features), "<f4"), (ys, (rows,), "<i4")):
            np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
        for x, y in blocks(config):
            x.tofile(xs)
            y.tofile(ys)
    return ff.data.Stream(ff.Dataset(*(np.load(path, mmap_mode="r") for path in paths)))


def tfds(config: Config, directory: Path) -> Any:
    """Writes the data set as array_record files and returns it through TensorFlow Datasets."""
    import numpy as np
    import tensorflow_datasets as tfds

    import flaxfit as ff

    with tfds.core.registered.skip_registration():  # pyright: ignore[reportAttributeAccessIssue]

        class Rows(tfds.core.GeneratorBasedBuilder):
            """Random rows."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                x, y = tfds.features.Tensor(shape=(config.features,), dtype=np.float32), tfds.features.Scalar(dtype=np.int32)
                features = tfds.features.FeaturesDict({"x": x, "y": y})
                return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("x", "y"), disable_shuffling=True)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                number = 0
                for x, y in blocks(config):
                    for row in range(len(x)):
                        yield number, {"x": x[row], "y": y[row]}
                        number += 1

    make: Any = Rows  # pyright takes its base for a class without arguments
    builder = make(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return ff.data.Stream(builder.as_data_source("train"))


class Memory(threading.Thread):
    """Samples the memory of this process in megabytes, if there is /proc."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ends, self.first, self.peak = threading.Event(), self.now(), self.now()

    @staticmethod
    def now() -> dict[str, float]:
        """What it is now."""
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.is_file() else []
        return {line[:7]: int(line.split()[1]) / 1e3 for line in lines if line.startswith(("RssAnon", "RssFile"))}

    def run(self) -> None:
        """Samples until `ends` is set."""
        while not self.ends.wait(0.01):
            self.peak = {name: max(value, self.peak[name]) for name, value in self.now().items()}


def main(config: Config) -> None:
    import jax
    import numpy as np
    import optax

    import flaxfit as ff

    with tempfile.TemporaryDirectory(dir=config.directory, prefix="flaxfit-") as directory:
        began = time.perf_counter()
        write = npy if config.source == "npy" else tfds
        stream = write(config, Path(directory))
        size = sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file()) / 1e9
        print(f"{len(stream):,} rows of {config.features} numbers, {size:.2f} GB on disk, written in {time.perf_counter() - began:.0f} s")
        task = ff.Task(ff.nn.MLP((config.hidden,), 1), ff.losses.binary_crossentropy, optax.adam(1e-3))
        validation = stream[: min(1000, len(stream))]
        ff.fit(task, validation, validation=validation)  # what JAX loads at first use

        def timed(train: Any) -> Any:
            memory = Memory()
            memory.start()
            result = ff.fit(task, train, validation=validation, epochs=config.epochs, batch_size=config.batch_size)
            memory.ends.set()
            memory.join()
            pace, kind = len(train) * config.epochs / result.timing.train, type(train).__name__
            print(f"{kind}: {pace:,.0f} rows/s, {pace * 4 * config.features / 1e6:,.0f} MB/s, {result.timing.train:.2f} s", end="")
            print(f" in {result.timing.chunks} calls, compiled and started in {result.timing.compile:.2f} s", end="")
            for name, peak in memory.peak.items():
                print(f"; {name} at most {peak:,.0f} MB ({memory.first[name]:,.0f} before)", end="")
            print(f"; loss {result.history['loss'][-1]:.6f}, {jax.devices()[0].device_kind}")
            return result

        streamed = timed(stream)
        if config.compare:
            whole = timed(stream[:])
            if not np.array_equal(streamed.history["loss"], whole.history["loss"]):
                raise SystemExit("the losses differ")


if __name__ == "__main__":
    script(main, Config, __doc__)
