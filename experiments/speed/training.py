"""Milliseconds an epoch: flaxfit, a scan and a loop written by hand, and Keras on JAX, in turn in one process on the same rows.

The hand-written peers are what an experienced user would write: one jitted `lax.scan` over an epoch's batches with donated state, the
permutation made by NumPy on the host, validation in the same program, four metrics fetched an epoch; and a Python loop over a jitted
step. Keras runs at the fastest of several `steps_per_execution`. Every peer trains with the same loss, metric, optimizer and batch
size, validates each epoch, and must reach about the same validation loss, else the comparison is refused. Compilation is outside the
clock. Needs Keras only if asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flaxfit.cli import script

SIZES = {"tiny": (16,), "large": (512,) * 4}
FILTERS = {"cnn": (16, 32), "cnn-wide": (32, 64, 64)}


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """A directory of original data files, which is searched before the network. By default FLAXFIT_ORIGINALS names it."""
    size: Literal["tiny", "large", "cnn", "cnn-wide"] = "tiny"
    """The network: 16 units or 4 x 512 on HIGGS; convolutions with 16 and 32, or 32, 64 and 64 filters, on Fashion-MNIST."""
    epochs: int = 200
    """How many epochs each timing takes."""
    repeats: int = 9
    """How often each program is timed, taking turns."""
    keras: bool = False
    """Also time Keras on JAX."""


def main(config: Config) -> None:
    from peers import by_hand, device, higgs, images, in_turn, keras_on_jax, refuse_unequal, show

    import flaxfit as ff

    epochs = config.epochs
    if config.size in FILTERS:
        work = images(FILTERS[config.size], f"Fashion-MNIST {config.size}", config.originals)
    else:
        work = higgs(SIZES[config.size], f"HIGGS {config.size}", config.originals)
    task = work.task()

    def flaxfit() -> tuple[float, float]:
        result = ff.fit(task, work.train, validation=work.validation, epochs=epochs, batch_size=work.batch)
        return result.timing.train / epochs, result.history["val_loss"][-1]

    peers = {"flaxfit": flaxfit, "scan by hand": by_hand(work, epochs), "steps by hand": by_hand(work, epochs, loop=True)}
    if config.keras:
        peers |= keras_on_jax(work, epochs)
    timings, losses = in_turn(peers, config.repeats)
    show(f"{work.title}, batch {work.batch}, {epochs} epochs x {config.repeats}, {device()}", "ms an epoch", timings, losses)
    refuse_unequal(losses, "scan by hand", work.tolerance)


if __name__ == "__main__":
    script(main, Config, __doc__)
