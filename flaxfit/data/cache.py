"""Prepared arrays on disk: written once, then mapped into memory."""

from __future__ import annotations

import functools
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


def prepared(key: str, make: Callable[[Path], tuple[Parts, dict[str, Any]]]) -> tuple[Parts, dict[str, Any]]:
    """The arrays kept under `key`, memory-mapped, and what was noted of them; `make` gives them the first time.

    It takes an empty scratch directory, and gives the arrays and what to note of them, as plain values. One process prepares, others
    wait for it. Arrays get their name when they are complete; whatever fails leaves nothing behind.
    """
    from filelock import FileLock, Timeout

    home = directory()
    about = home / key / "about.json"
    if about.is_file():
        return _stored(about)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / f".{key}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        sys.stderr.write(f"waiting for another process, which prepares {key}\n")
        held = lock.acquire()
    with held:
        if about.is_file():
            return _stored(about)
        for left in home.glob(f".{key}.*.tmp"):  # by a process that was killed: only the lock's owner makes any
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{key}.", suffix=".tmp", dir=home, ignore_cleanup_errors=True) as scratch:
            try:
                _write(*make(Path(scratch)), Path(scratch) / "complete", home / key)
            except OSError as error:
                if error.errno is not None or error.__cause__ is None:  # the disk's; a download's tells its own cause and cure
                    free = shutil.disk_usage(home).free / 2**20
                    error.add_note(f"while {key} was prepared in {home}, with {free:.0f} MB free; FLAXFIT_CACHE names another directory.")
                raise
    return _stored(about)


def _write(parts: Parts, about: dict[str, Any], scratch: Path, path: Path) -> None:
    scratch.mkdir()
    for part, arrays in parts.items():
        for name, array in arrays.items():
            np.save(scratch / f"{part}.{name}.npy", array, allow_pickle=False)
    about = {**about, "arrays": {part: list(arrays) for part, arrays in parts.items()}}
    (scratch / "about.json").write_text(json.dumps(about, indent=1))
    scratch.replace(path)


def _stored(path: Path) -> tuple[Parts, dict[str, Any]]:
    about = json.loads(path.read_text())
    load = functools.partial(np.load, mmap_mode="r")
    return {part: {name: load(path.parent / f"{part}.{name}.npy") for name in names} for part, names in about["arrays"].items()}, about
