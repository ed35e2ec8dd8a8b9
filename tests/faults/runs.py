"""Starts the program that the faults befall, and reads what it printed."""

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
KINDS = ("fit", "continued", "threads", "vmap", "cross-validation")


class Tally(Counter):
    """Counts outcomes, and keeps what was said of the bad ones."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def add(self, outcome, note=""):
        self[outcome] += 1
        if outcome != "fine":
            self.notes.append(f"{outcome}: {note[-600:]}")


def start(kind, directory, **options):
    command = [sys.executable, str(CHILD), kind, str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(kind, directory):
    """Trains without a fault. Returns the checksum, or None where it failed, what was said, and the seconds it took."""
    began = time.monotonic()
    with start(kind, directory) as process:
        out, said = process.communicate()
    return checksum(out), said, time.monotonic() - began


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


os.environ.setdefault("JAX_PLATFORMS", "cpu")
