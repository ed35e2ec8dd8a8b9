"""The cache of prepared data sets: arrays that are written once and then mapped into memory."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.data.sources.source import Parts
from flaxfit.durable import sync, sync_tree


def home() -> Path:
    """Returns the directory that `FLAXFIT_CACHE` names, or `flaxfit` in the user's cache directory if that variable is not set."""
    if named := os.environ.get("FLAXFIT_CACHE"):
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flaxfit"


def directory() -> Path:
    """Returns the directory of prepared data sets."""
    return home() / "data"


def prepared(key: str, make: Callable[[Path], tuple[Parts, dict[str, Any]]]) -> tuple[Parts, dict[str, Any]]:
    """Returns the memory-mapped arrays that are kept under `key`, and their description. `make` is called if there are none yet.

    If several processes ask for the same key, one prepares the arrays and the others wait. Nothing is left behind if that fails.

    Args:
      key: the name of the directory in the cache.
      make: a function that takes an empty temporary directory, and returns the arrays and their description as plain values for JSON.
    """
    from filelock import FileLock, Timeout

    home = directory()
    about = home / key / "about.json"
    if (found := _stored(about)) is not None:
        return found
    _make_private(home)
    lock = FileLock(home / f".{key}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        sys.stderr.write(f"waiting for another process that prepares {key}\n")
        held = lock.acquire()
    with held:
        if (found := _stored(about)) is not None:
            return found
        for left in home.glob(f".{key}.*.tmp"):  # Left by a process that was killed: only the owner of the lock makes any.
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{key}.", suffix=".tmp", dir=home, ignore_cleanup_errors=True) as scratch:
            try:
                _write(*make(Path(scratch)), Path(scratch) / "complete", home / key)
            except OSError as error:
                if error.errno is not None or error.__cause__ is None:  # an error of the disk; that of a download says enough
                    free = shutil.disk_usage(home).free / 2**20
                    error.add_note(f"This happened while {key} was prepared in {home}, which has {free:.0f} MB free.")
                    error.add_note("The environment variable FLAXFIT_CACHE can name another directory.")
                raise
    _verified.add(about)
    found = _stored(about)
    assert found is not None
    return found


def _make_private(home: Path) -> None:
    """Makes the directories that are missing, for this user only, whatever the umask."""
    for path in (*reversed(home.parents), home):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)


def _write(parts: Parts, about: dict[str, Any], scratch: Path, path: Path) -> None:
    scratch.mkdir(mode=0o700)
    files = {f"{part}.{name}.npy": array for part, arrays in parts.items() for name, array in arrays.items()}
    for name, array in files.items():
        np.save(scratch / name, array, allow_pickle=False)
    about = {**about, "arrays": {part: list(arrays) for part, arrays in parts.items()}}
    about["crc32"] = {name: _sum(scratch / name) for name in files}
    (scratch / "about.json").write_text(json.dumps(about, indent=1))
    sync_tree(scratch)
    if path.exists():  # damaged
        shutil.rmtree(path)
    scratch.replace(path)
    sync(path.parent)


_verified: set[Path] = set()  # descriptions whose arrays had the right sums when this process first read them


def _stored(path: Path) -> tuple[Parts, dict[str, Any]] | None:
    """Returns the arrays that a description names, or None if there is no description.

    Warns:
      RuntimeWarning: the description or an array is damaged, which counts as none.
    """
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text())
        if path not in _verified:
            for name, crc in about.get("crc32", {}).items():  # older versions wrote none
                if _sum(path.parent / name) != crc:
                    raise ValueError(f"the checksum of {name} is wrong")
        load = functools.partial(np.load, mmap_mode="r")
        parts = {part: {name: load(path.parent / f"{part}.{name}.npy") for name in names} for part, names in about["arrays"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        warnings.warn(f"the cached data in {path.parent} is damaged ({error}) and is prepared anew.", RuntimeWarning, stacklevel=5)
        return None
    _verified.add(path)
    return parts, about


def _sum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc
