"""Runs one peer of the benchmark: it reads requests as lines of JSON from standard input and writes an answer to each as a line of JSON.

`suite.py` starts one such process for each peer, with the Python of the peer's environment, so this file and the modules beside it need
only NumPy and what the peer itself is made of. The requests are `{"prepare": workload}`, which builds, compiles and trains once;
`{"round": seed, "epochs": epochs}`, which trains once more; and `{"first": workload}`, which does what "prepare" does against a clock that
starts before the model is made. The first line is written without a request, when everything is imported: the versions of the packages
and the device.

The clock of a round starts with arrays in the memory of the host. It stops when the validation scores of the last epoch are known.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


class Rows(NamedTuple):
    """The examples of one training."""

    x: np.ndarray
    y: np.ndarray
    validation_x: np.ndarray
    validation_y: np.ndarray


class Round(NamedTuple):
    """What one round of a peer took and reached.

    Attributes:
      seconds: those of all its runs together.
      accuracy: the mean of their last validation accuracies.
      loss: the same of the validation losses.
      runs: the number of runs.
      note: how the peer was run, where it chose the fastest way itself.
    """

    seconds: float
    accuracy: float
    loss: float
    runs: int = 1
    note: str = ""


Run = Callable[[int, int], Round]
"""Trains once, or all members once, from a seed and for a number of epochs."""


class Unable(Exception):
    """The peer cannot train this workload. The message says what it lacks."""


def trainings(work: Any, arrays: Mapping[str, np.ndarray], seed: int) -> Iterator[Rows]:
    """Yields what a peer that knows no populations trains in a round: the one training set, or a sample of the folds."""
    if not work.folds:
        yield Rows(*(arrays[name] for name in Rows._fields))
        return
    x, y, folds = arrays["x"], arrays["y"], arrays["folds"]
    for number in range(work.sample):
        repeat, fold = divmod((seed * work.sample + number) % work.members, folds.max() + 1)
        held_out = folds[repeat] == fold
        yield Rows(x[~held_out], y[~held_out], x[held_out], y[held_out])


def mean(rounds: list[Round]) -> Round:
    """Puts several runs, one after the other, together."""
    seconds, accuracy, loss, runs, notes = zip(*rounds, strict=True)
    return Round(sum(seconds), float(np.mean(accuracy)), float(np.mean(loss)), sum(runs), notes[0])


def peak_memory() -> float:
    """Returns the most memory that this process has used so far, in MB. Linux resets this number when a process starts a program."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", help="the module of the peer, such as by_hand")
    parser.add_argument("options", help="the keyword arguments of its function `build`, as JSON")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the packages print is no answer

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        peer, options = importlib.import_module(arguments.peer), json.loads(arguments.options)
        known = {found.metadata["Name"].lower().replace("_", "-"): found.version for found in importlib.metadata.distributions()}
        versions = {name: known[name] for name in peer.PACKAGES if name in known}
        answer(versions=versions, device=peer.device(), python=sys.version.split()[0])
    except Exception as error:
        traceback.print_exc()
        answer(error=f"{type(error).__name__}: {error}")
        return

    def built(work: dict[str, Any], arrays: dict[str, np.ndarray]) -> Run:
        return peer.build(SimpleNamespace(**work), arrays, **options)

    def loaded(work: dict[str, Any]) -> dict[str, np.ndarray]:
        with np.load(work["arrays"]) as file:
            return dict(file)

    run: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                run = built(request["prepare"], loaded(request["prepare"]))
                found = run(0, request["prepare"]["epochs"])
            elif "first" in request:
                arrays, start = loaded(request["first"]), time.perf_counter()
                found = built(request["first"], arrays)(0, request["first"]["epochs"])
                found = found._replace(seconds=time.perf_counter() - start)
            else:
                found = run(request["round"], request["epochs"])
            answer(**found._asdict(), memory=peak_memory(), device_memory=peer.device_memory())
        except Unable as error:
            answer(unable=str(error))
        except Exception as error:
            traceback.print_exc()
            answer(error=" ".join(f"{type(error).__name__}: {error}".split())[:300])


if __name__ == "__main__":
    import serve  # the module that the peers import, so that both mean the same classes

    serve.main()
