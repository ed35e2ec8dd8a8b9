"""Times flaxfit beside programs written by hand, Keras, PyTorch, Lightning Fabric and scikit-learn, on the same data and networks.

Each peer is a process of its own with an environment of its own, which is made when it is first needed. The peers of a workload take
turns, round by round, in an order that is drawn anew in each round. Ratios are those of a round, peer / flaxfit. A peer whose validation
accuracy is farther from flaxfit's than the workload's tolerance has done other work, and is marked. The output directory gets `table.md`,
`table.csv`, plots, and all rounds in `rounds.json`. Expect half an hour on 2 cores, a few minutes with --quick, and 10 minutes more with
--growth. Let nothing else run beside it.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from servers import FLAXFIT, PEERS, PRODUCTS, Failed, Peer, Precision, Server, interpreter, variables
from tables import show, write
from workloads import FIRST, WORKLOADS, Arrays, Workload, arrays_of, growing

from flaxfit.cli import script


@dataclass(frozen=True)
class Config:
    """Options."""

    originals: Path | None = None
    """A directory of original data files, which is searched before the network. By default FLAXFIT_ORIGINALS names it."""
    workloads: tuple[str, ...] = ()
    """Only workloads whose name starts with one of these words: higgs-tiny, sonar, mnist-300, higgs-large, higgs-combined, mnist-norm, cnn,
    cnn-wide, lstm, population-16, population-128, folds, first."""
    peers: tuple[str, ...] = tuple(PEERS)
    """The peers beside flaxfit."""
    rounds: int = 5
    """How many rounds each workload has."""
    quick: bool = False
    """Two rounds of a quarter of the epochs, without Keras on TensorFlow, compiled PyTorch and Fabric."""
    growth: bool = False
    """Also measure how the time grows with the number of examples, the width, the batch size and the number of members."""
    output: Path = Path("runs/speed")
    """The directory for tables, plots and rounds, and what the peers print, in logs."""
    environments: Path = Path.home() / ".cache" / "flaxfit" / "speed"
    """The directory of the peers' environments, 5 GB. Variables such as PIP_EXTRA_INDEX_URL tell pip where to look for packages."""
    here: bool = False
    """Make no environments: run each peer with this Python if it has the peer's packages."""
    strategy: str = "auto"
    """How flaxfit runs populations, as `flaxfit.fit_many` takes it: "auto", "vmap" or "threads"."""
    precision: Precision = "float32"
    """The precision of matrix products, for all peers: "tf32" is for GPUs, "bf16" is mixed precision."""


LONG = 2.0  # a peer that needs more seconds for a run trains fewer epochs in each round
SLOW = ("keras-tensorflow", "torch-compiled", "fabric")
GROWTH = (FLAXFIT, "scan", "scan-members", "steps", "keras-jax", "torch")


def main(config: Config) -> None:
    works = chosen(config)
    arrays = {data: arrays_of(data, config.originals) for data in dict.fromkeys(work.data for work in works)}
    home = config.output
    record: dict[str, Any] = {
        "machine": machine(),
        "command": shown(sys.argv[1:]),
        "peers": {},
        "skipped": {},
        "precision": config.precision,
        "workloads": [],
    }
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(config, Path(directory), record)
        for name, values in arrays.items():
            np.savez(bench.file(name), **values)  # pyright: ignore[reportArgumentType]
        for work in works:
            began = time.perf_counter()
            measured = bench.measure(work, arrays[work.data])
            record["workloads"].append(measured | {"minutes": (time.perf_counter() - began) / 60})
            show(measured)
            write(record, home)
    print(f"{home / 'table.md'}, table.csv, rounds.json and plots: {sum(work['minutes'] for work in record['workloads']):.1f} minutes")


def chosen(config: Config) -> tuple[Workload, ...]:
    """Returns the workloads of these options."""
    works = (*WORKLOADS, *FIRST, *(growing() if config.growth else ()))
    words = config.workloads or ("",)
    found = tuple(work for work in works if work.growth or any(work.name.startswith(word) for word in words))
    names = [work.name for work in works]
    if unknown := [word for word in words if not any(name.startswith(word) for name in names)]:
        raise SystemExit(f"there is no workload {', '.join(unknown)}: choose from {', '.join(names)}.")
    if unknown := [name for name in config.peers if name not in PEERS]:
        raise SystemExit(f"there is no peer {', '.join(unknown)}: choose from {', '.join(PEERS)}.")
    return tuple(replace(work, epochs=max(1, work.epochs // 4)) for work in found) if config.quick else found


def shown(words: list[str]) -> list[str]:
    """Returns the words of the command without the directories of this machine."""
    for option in ("--originals", "--output", "--environments"):
        if option in words:
            at = words.index(option)
            words = words[:at] + words[at + 2 :]
    return words


def machine() -> dict[str, Any]:
    """Describes where and when this runs."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor() or platform.machine())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"processor": processor, "cores": os.cpu_count(), "system": platform.system(), "load": load, "started": started}


class Bench:
    """Measures workloads.

    Args:
      config: the options.
      directory: an empty directory for arrays and caches.
      record: where versions of peers, and what was left out, are noted.
    """

    def __init__(self, config: Config, directory: Path, record: dict[str, Any]):
        self.config, self._directory, self._record = config, directory, record
        self._logs = config.output / "logs"
        shutil.rmtree(self._logs, ignore_errors=True)
        self._logs.mkdir(parents=True)
        self._rounds = min(2, config.rounds) if config.quick else config.rounds
        self._known = {name: replace(peer, environment=None) if config.here else peer for name, peer in PEERS.items()}
        self._pythons: dict[str, str] = {}
        for name in dict.fromkeys((FLAXFIT, *(name for name in config.peers if not (config.quick and name in SLOW)))):
            try:
                self._pythons[name] = interpreter(self._known[name], config.environments)
            except Failed as failed:
                self._leave_out(name, failed)

    def file(self, data: str) -> Path:
        """Returns the path for the arrays of a workload."""
        return self._directory / f"{data.replace(':', '-')}.npz"

    def measure(self, work: Workload, arrays: Arrays) -> dict[str, Any]:
        """Returns the rounds of a workload, as plain values."""
        print(f"{datetime.now():%H:%M:%S} {work.title}", flush=True)
        plain = asdict(work) | {"arrays": str(self.file(work.data)), "rows": len(arrays["y"])}
        plain |= {"precision": self.config.precision, "strategy": self.config.strategy}
        rounds = self._starts(work, plain) if work.start else self._turns(work, plain)
        return {**rounds, "work": asdict(work), "operations": work.operations(arrays)}

    def _peers(self, work: Workload) -> list[str]:
        def takes_part(name: str) -> bool:
            peer = self._known[name]
            return not (
                name in work.without
                or (peer.populations and (work.members == 1 or work.folds))
                or (work.start and not peer.starts)
                or (work.growth and name not in GROWTH)
            )

        return [name for name in self._pythons if takes_part(name)]

    def _turns(self, work: Workload, plain: dict[str, Any]) -> dict[str, Any]:
        """All peers are started and compile, two at a time; then they take turns."""
        failed: dict[str, str] = {}
        prepared: dict[str, dict[str, Any]] = {}
        epochs: dict[str, int] = {}
        with ExitStack() as stack:
            servers: dict[str, Server] = {}

            def prepare(name: str) -> None:
                try:
                    server = stack.enter_context(self._server(name))
                    prepared[name] = server.ask(prepare=plain) | {"epochs": work.epochs, "ready": time.perf_counter() - server.began}
                    servers[name] = server
                except Failed as error:
                    failed[name] = str(error)

            names = self._peers(work)
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(prepare, sorted(names, key=lambda name: name not in SLOW)))
            if FLAXFIT in failed:
                raise SystemExit(f"flaxfit cannot train {work.name}: {failed[FLAXFIT]}")

            def turn(name: str, seed: int, epochs: int) -> dict[str, Any] | None:
                try:
                    return servers[name].ask(round=seed, epochs=epochs) | {"epochs": epochs}
                except Failed as error:
                    failed[name] = str(error)
                    servers.pop(name)

            for name in [*servers]:
                few = max(1, work.epochs // 5)
                if (found := turn(name, 0, few)) and name != FLAXFIT:
                    seconds = found["seconds"] * work.epochs / few
                    epochs[name] = max(1, round(work.epochs * min(1, LONG / seconds)))
            products = stack.enter_context(self._server("products", PRODUCTS))
            products.ask(prepare=plain)
            order, rounds = random.Random(0), []
            for seed in range(1, self._rounds + 1):
                turns = [name for name in names if name in servers]
                order.shuffle(turns)
                answers = {name: turn(name, seed, epochs.get(name, work.epochs)) for name in turns}
                rounds.append({"products": products.ask(round=seed, epochs=1)} | {name: one for name, one in answers.items() if one})
        return {"rounds": rounds, "failed": failed, "prepared": prepared}

    def _starts(self, work: Workload, plain: dict[str, Any]) -> dict[str, Any]:
        """A new process for each peer in each round."""
        failed: dict[str, str] = {}
        order, rounds, names = random.Random(0), [], self._peers(work)
        for number in range(min(self._rounds, 3) + (work.start == "warm")):
            order.shuffle(names)
            found: dict[str, Any] = {}
            for name in [name for name in names if name not in failed]:
                caches = self._directory / f"caches-{work.name}-{name}-{number * (work.start == 'cold')}"
                try:
                    with self._server(name, caches=caches) as server:
                        found[name] = server.ask(first=plain) | {"epochs": work.epochs}
                        found[name]["start"] = time.perf_counter() - server.began
                except Failed as error:
                    failed[name] = str(error)
            rounds.append(found)
        return {"rounds": rounds[work.start == "warm" :], "failed": failed}  # the first has filled the caches

    def _server(self, name: str, peer: Peer | None = None, caches: Path | None = None) -> Server:
        peer = peer or self._known[name]
        environment = variables(peer, self.config.precision, caches)
        server = Server(peer, self._pythons.get(name, sys.executable), environment, self._logs / f"{name}.log")
        self._record["peers"].setdefault(name, {"title": peer.title, **server.about})
        return server

    def _leave_out(self, name: str, reason: Exception) -> None:
        self._record["skipped"][name] = f"{PEERS[name].title}: {reason}"
        print(f"Left out: {self._record['skipped'][name]}", flush=True)


if __name__ == "__main__":
    script(main, Config, __doc__)
