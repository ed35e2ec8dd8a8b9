"""Prepared arrays on disk: written once, then mapped into memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.data.sources.source import Parts


def directory() -> Path:
    """`FLAXFIT_CACHE/data`, or `flaxfit/data` where the user's caches are."""
    named = os.environ.get("FLAXFIT_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flaxfit"
    return (Path(named).expanduser().resolve() if named else home) / "data"


def stored(key: str) -> tuple[Parts, dict[str, Any]] | None:
    """The arrays kept under `key`, memory-mapped, and what was noted of them; None where there are none."""
    path = directory() / key
    if not (path / "about.json").is_file():
        return None
    about = json.loads((path / "about.json").read_text())
    parts: Parts = {
        part: {name: np.load(path / f"{part}.{name}.npy", mmap_mode="r") for name in names} for part, names in about["arrays"].items()
    }
    return parts, about


def prepared(key: str, make: Callable[[Path], tuple[Parts, dict[str, Any]]]) -> tuple[Parts, dict[str, Any]]:
    """The arrays kept under `key`; `make` gives them the first time.

    One process prepares, others wait for it. Arrays get their name when they are complete; whatever fails leaves nothing behind.

    Args:
      key: names what is kept; other arrays must have another key.
      make: (an empty scratch directory) -> arrays, and what to note of them, as plain values.

    Raises:
      OSError: they cannot be written.
    """
    from filelock import FileLock, Timeout

    if (found := stored(key)) is not None:
        return found
    home = directory()
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / f".{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.stderr.write(f"waiting for another process, which prepares {key}\n")
        lock.acquire()
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        if (found := stored(key)) is not None:
            return found
        for left in home.glob(f".{key}.*.tmp"):  # by a process that was killed: only the lock's owner makes any
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".tmp", dir=home))
        try:
            parts, about = make(scratch)
            complete = scratch / "complete"
            complete.mkdir()
            for part, arrays in parts.items():
                for name, array in arrays.items():
                    np.save(complete / f"{part}.{name}.npy", array, allow_pickle=False)
            about["arrays"] = {part: list(arrays) for part, arrays in parts.items()}
            (complete / "about.json").write_text(json.dumps(about, indent=1))
            complete.replace(home / key)
        except OSError as error:
            if error.errno is not None or error.__cause__ is None:  # the disk's; a download's tells its own cause and cure
                free = shutil.disk_usage(home).free / 2**20
                error.add_note(f"while {key} was prepared in {home}, with {free:.0f} MB free; FLAXFIT_CACHE names another directory.")
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    found = stored(key)
    assert found is not None
    return found
