"""Compiled programs on disk, so that the next process only traces: JAX's persistent compilation cache, on by default.

JAX writes its entries in place, never deletes them, and warns at each program that it cannot read or write. A cache that nobody asked for
must be quieter and must not grow without end. It is therefore switched on only while flaxfit compiles. At the first error it is emptied
and the process goes on without it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jaxlib.version import __version__ as JAXLIB

from flaxfit.data import cache

MOST_BYTES = 2**30
"""How large the cache may be when a process starts to use it. Then it is halved; what was not used for the longest time goes first."""
_OLDEST = (0, 10, 2)  # jaxlib before this one prints errors when it loads an entry on many CPUs (jax issue 38445)
_lock = threading.Lock()
_users = 0
_failed = False
_before: dict[str, Any] = {}


def compiled(lowered: Any) -> Any:
    """Compiles a program that `jax.jit` has lowered, or loads it from disk."""
    with _cache() as directory:
        if directory is None:
            return lowered.compile()
        try:
            return lowered.compile()
        except Exception:  # the cache may be at fault: an entry that is torn or was deleted meanwhile, a full disk
            _switch_off()
    program = lowered.compile()  # raises the error again if the program is at fault
    shutil.rmtree(directory, ignore_errors=True)
    return program


@contextmanager
def _cache() -> Iterator[Path | None]:
    """JAX's cache as long as any thread is in here: its directory, or None if it is not to be used or the user has chosen another."""
    global _users
    with _lock:
        directory = None if _failed else (_directory() if _users or _wanted() else None)
        if directory is not None:
            _users += 1
            if _users == 1:
                _switch_on(directory)
    try:
        yield directory
    finally:
        if directory is not None:
            with _lock:
                _users -= 1
                if not _users:
                    _restore()


def _wanted() -> bool:
    values = jax.config.values
    return values["jax_enable_compilation_cache"] and not values["jax_compilation_cache_dir"] and jax.process_count() == 1


def _switch_on(directory: Path) -> None:
    options = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_raise_persistent_cache_errors": True,
    }
    for name, value in options.items():
        _before[name] = jax.config.values[name]
        jax.config.update(name, value)


def _restore() -> None:
    for name, value in _before.items():
        jax.config.update(name, value)
    _before.clear()
    compilation_cache.reset_cache()  # JAX would keep the directory, whatever the user says later


def _switch_off() -> None:
    global _failed
    with _lock:
        _failed = True
        _restore()


@functools.cache
def _directory() -> Path | None:
    """The directory for this version of jaxlib and this kind of CPU, or None if there can be none. What is too much is deleted."""
    if tuple(map(int, re.findall(r"\d+", JAXLIB)[:3])) < _OLDEST:
        return None
    try:
        programs = cache.home() / "programs"
        directory = programs / f"jaxlib-{JAXLIB}-{_cpu()}"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
        # Whoever can write there can make this process run anything.
        own = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        if not own or not os.access(directory, os.W_OK | os.X_OK):
            return None
        _shorten(programs)
    except (OSError, RuntimeError):  # no home, a read-only disk
        return None
    return directory


def _cpu() -> str:
    """Eight digits that stand for the kind of CPU and its features. JAX's keys cover them, too, but this is what a shared home needs."""
    kinds = {platform.machine(), platform.processor()}
    with suppress(OSError):
        kinds |= set(re.findall(r"^(?:model name|flags|Features)\s*:.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    return hashlib.sha256("\n".join(sorted(kinds)).encode()).hexdigest()[:8]


def _shorten(programs: Path) -> None:
    """Deletes the entries that were not used for the longest time if there is more than `MOST_BYTES`."""
    entries = []
    for path in programs.glob("*/*-cache"):
        with suppress(OSError):  # another process deletes, too
            about = path.stat()
            entries.append((max(about.st_atime, about.st_mtime), about.st_size, path))
    total = sum(size for _, size, _ in entries)
    if total > MOST_BYTES:
        for _, size, path in sorted(entries):
            if total <= MOST_BYTES // 2:
                break
            with suppress(OSError):
                path.unlink()
            total -= size
