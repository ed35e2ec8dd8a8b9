"""Files and directories that appear as a whole or not at all, and that are on the disk, power loss or not, once they have appeared."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED_SECONDS = 3600.0  # a temporary directory this old belongs to no process that still writes
_PREFIX = ".flaxfit-"
_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF, errno.EISDIR)  # what systems answer that cannot sync a directory


def sync(path: Path) -> None:
    """Waits until the content of a file, or the entries of a directory, are on the disk.

    Raises:
      OSError: they cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


def sync_tree(directory: Path) -> None:
    """Waits until a directory is on the disk with everything in it."""
    for path in (*directory.rglob("*"), directory):
        sync(path)


def make_directory(path: Path) -> None:
    """Makes a directory and its parents, so that they are still there after a power loss."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync(each.parent)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Makes a directory in `parent` for this block, which nobody else may enter. Its name is new, so that no link can stand there.

    What killed processes left is deleted.
    """
    clean(parent, ABANDONED_SECONDS)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)


def clean(parent: Path, seconds: float) -> None:
    """Deletes temporary directories that are older. The only process that may write in `parent` passes 0."""
    for left in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime >= seconds:
                shutil.rmtree(left, ignore_errors=True)


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Writes a file in place of what has its name.

    Args:
      path: the file, whose directory is made if it is missing.
      content: the content.
      private: whether only the user may read it.

    Raises:
      OSError: it cannot be written. What was there is still there.

    Example:
      >>> with tempfile.TemporaryDirectory() as home:
      ...     write_file(file := Path(home) / "new" / "file", b"content")
      ...     file.read_bytes(), [path.name for path in file.parent.iterdir()]
      (b'content', ['file'])
    """
    make_directory(path.parent)
    with scratch(path.parent) as place:
        _create(place / "file", content, 0o600 if private else 0o666)
        (place / "file").replace(path)
        sync(path.parent)


def write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a directory of files in place of the directory that has its name.

    Raises:
      OSError: it cannot be written. What was there is still there.
    """
    make_directory(path.parent)
    with scratch(path.parent) as place:
        new = place / "new"
        new.mkdir()
        for name, content in files.items():
            _create(new / name, content, 0o666)
        sync(new)
        if path.exists():
            _exchange(new, path)
        else:
            new.rename(path)
        sync(path.parent)


@contextmanager
def warned(path: Path) -> Iterator[None]:
    """Turns the error that a file cannot be written into a warning, because a run goes on without the file.

    Warns:
      RuntimeWarning: it could not be written.
    """
    try:
        yield
    except OSError as error:
        warnings.warn(f"{path} could not be written ({error}). Training continues.", RuntimeWarning, stacklevel=4)


def _create(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _exchange(new: Path, old: Path) -> None:
    """Swaps two directories: at once on Linux; elsewhere there is no `old` for a moment."""
    with suppress(AttributeError, OSError, TypeError):
        rename = ctypes.CDLL(None).renameat2
        if rename(-100, os.fsencode(new), -100, os.fsencode(old), 2) == 0:  # AT_FDCWD, RENAME_EXCHANGE
            return
    aside = new.with_name("old")
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
