"""The memory and the time that one run needs in each of its processes, for several numbers of processes on this machine.

A network of square layers is trained with Adam and `fsdp()`. Its state is four times as large as its weights: these, two moments of Adam
and the best weights. Each process pretends to have `--devices` devices, which on a CPU hold their arrays in the memory of the process, so
that the peak counts what a GPU would hold, too. It is the resident memory, as the system counts it. Checkpoints are saved after each
epoch, and then all processes start again to restore the last one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    processes: tuple[int, ...] = (1, 2, 4)
    """The numbers of processes to measure."""
    devices: int = 1
    """How many devices each process has."""
    layers: int = 8
    """How many hidden layers the network has."""
    width: int = 2048
    """How many units each layer has."""
    epochs: int = 2
    """How many epochs to train."""


def main(config: Config) -> None:
    if "FLAXFIT_PROCESS" in os.environ:
        print(json.dumps(one(config, os.environ["SPEED_RUN"])))
        return
    columns = (
        "processes",
        "state of each, MB",
        "peak without checkpoints, MB",
        "with checkpoints, MB",
        "resumed, MB",
        "save, s",
        "restore, s",
    )
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for count in config.processes:
        with tempfile.TemporaryDirectory() as home:
            kinds = [together(config, count, run) for run in ("", f"{home}/run", f"{home}/run")]
        plain, saved, resumed = kinds
        peaks = [", ".join(f"{each['peak']:,.0f}" for each in kind) for kind in kinds]
        state = max(each["state"] for each in plain)
        seconds = f"{max(each['save'] for each in saved):.1f} | {max(each['restore'] for each in resumed):.1f}"
        print(f"| {count} | {state:,.0f} | {' | '.join(peaks)} | {seconds} |", flush=True)


def together(config: Config, count: int, run: str) -> list[dict[str, float]]:
    """Trains in `count` processes and returns what each of them measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--{name}={getattr(config, name)}" for name in ("devices", "layers", "width", "epochs")]
    shared = os.environ | {"FLAXFIT_COORDINATOR": f"127.0.0.1:{port}", "FLAXFIT_PROCESSES": str(count), "SPEED_RUN": run}
    shared |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={config.devices}"}
    all_of_them: list[Any] = []
    for number in range(count):
        environment = shared | {"FLAXFIT_PROCESS": str(number)}
        all_of_them.append(subprocess.Popen([sys.executable, __file__, *options], env=environment, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0] for process in all_of_them]
    if any(process.returncode for process in all_of_them):
        raise RuntimeError(f"a process failed: {[process.returncode for process in all_of_them]}")
    return [json.loads(lines.splitlines()[-1]) for lines in said]


def one(config: Config, run: str) -> dict[str, float]:
    """Trains as one process: MB and seconds."""
    import time

    import jax
    import numpy as np
    import optax
    from jax.sharding import Mesh

    import flaxfit as ff
    from flaxfit.storage.checkpoints import Checkpoints
    from flaxfit.train.session import Session

    spent = {"save": 0.0, "restore": 0.0}

    def timed(kind: Any, name: str) -> None:
        whole = getattr(kind, name)

        def measured(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return whole(*args, **options)
            finally:
                spent[name] = max(spent[name], time.perf_counter() - start)

        setattr(kind, name, measured)

    timed(Checkpoints, "save")
    timed(Session, "restore")
    ff.distributed.initialize()
    rng = np.random.default_rng(0)
    rows = 256 // jax.process_count()
    x = rng.normal(size=(rows, config.width)).astype(np.float32)
    task = ff.Task(ff.nn.MLP((config.width,) * config.layers, 1), ff.losses.mse, optax.adam(1e-4))
    how: dict[str, Any] = {"mesh": Mesh(np.array(jax.devices()), ("data",)), "shard": ff.sharding.fsdp()}
    if run:
        how |= {"run_dir": run, "callbacks": [ff.callbacks.Checkpoint(every_epochs=1)]}
    result = ff.fit(task, ff.Dataset(x, x[:, 0]), epochs=config.epochs, batch_size=64, **how)
    arrays = [leaf for leaf in jax.tree.leaves((result.last, result.best.params)) if isinstance(leaf, jax.Array)]
    shards = [leaf.addressable_shards[0].data.nbytes for leaf in arrays]
    peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"peak": peak / 2**10, "state": sum(shards) * config.devices / 2**20, **spent}


if __name__ == "__main__":
    script(main, Config, __doc__)
