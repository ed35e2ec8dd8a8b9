"""Starts what the faults befall, and judges what became of it."""

import hashlib
import itertools
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults import child

KINDS = ("fit", "continued", "threads", "vmap", "cross-validation")
_context = multiprocessing.get_context("forkserver")  # imports once, which takes longer than the training
_context.set_forkserver_preload(["tests.faults.child"])
_numbers, _logs = itertools.count(), Path(tempfile.gettempdir())


class Tally(Counter):
    """Counts outcomes, and keeps what was said of the bad ones."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def add(self, outcome, note=""):
        self[outcome] += 1
        if outcome != "fine":
            self.notes.append(f"{outcome}: {note[-600:]}")


class Child:
    """A process that trains. Its context ends with it."""

    def __init__(self, kind, directory):
        self._log = _logs / f"faults-{os.getpid()}-{next(_numbers)}.log"
        self._process = _context.Process(target=child.forked, args=(kind, str(directory), str(self._log)))
        self._process.start()
        while self.running and "ready" not in self.said:
            time.sleep(0.005)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.join()
        self._last = self.said
        self._log.unlink(missing_ok=True)

    @property
    def said(self):
        return self._log.read_text(errors="replace") if self._log.exists() else getattr(self, "_last", "")

    @property
    def running(self):
        return self._process.is_alive()

    def send(self, number):
        if self.running:
            os.kill(self._process.pid, number)


def run(kind, directory):
    """Trains without a fault. Returns the checksum, or None where it failed, what was said, and the seconds it took."""
    began = time.monotonic()
    with Child(kind, directory) as process:
        pass
    return checksum(process.said), process.said, time.monotonic() - began


def checksum(out):
    return next((int(line.split()[1]) for line in out.splitlines() if line.startswith("done")), None)


def begin(kind, directory):
    """Makes what has to be there before a kind of training."""
    if kind == "continued":
        run("begun", directory)


def whole_export(directory):
    """Whether an export is there with the right sums. It needs no flaxfit."""
    try:
        lines = (directory / "export" / "SHA256SUMS").read_text().splitlines()
        return len(lines) == 4 and all(
            hashlib.sha256((directory / "export" / name).read_bytes()).hexdigest() == digest for digest, name in map(str.split, lines)
        )
    except OSError:
        return False


def judge(tally, directory, kind, reference):
    """Trains on after a fault and counts whether the result is right."""
    found, said, _ = run(kind, directory)
    exported = kind not in ("fit", "continued") or whole_export(directory)
    if found is None:
        tally.add("refused", said)
    elif found != reference:
        tally.add("wrong", said)
    elif not exported or "damaged" in said:
        tally.add("lost", said)
    else:
        tally.add("fine")
