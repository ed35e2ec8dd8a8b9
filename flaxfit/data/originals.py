"""Original files: found in a directory or fetched, and verified."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxfit.arguments import unknown
from flaxfit.data.sources.source import File, Parts, Source, sha256

ATTEMPTS = 3
"""How often a download is begun, if it breaks off."""
TIMEOUT = 30
"""Seconds to wait for a host's next bytes."""


@dataclass(frozen=True)
class Originals:
    """The files that a source is read from.

    Attributes:
      source: the source.
      local: original's path -> the declared file that is there, and where it is. The others are fetched.
    """

    source: Source
    local: Mapping[str, tuple[File, Path]]

    @property
    def checksums(self) -> dict[str, str]:
        """File -> the SHA-256 it must have."""
        files = [self.local.get(original.path, (original,))[0] for original in self.source.originals]
        return {file.path: file.sha256 for file in files}

    @property
    def digest(self) -> str:
        """Short, of all checksums."""
        return hashlib.sha256(json.dumps(self.checksums, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def note(self) -> str:
        """What stands in for an original, "" where nothing does."""
        return "; ".join(f"{file.path} holds {file.note}" for file, _ in self.local.values() if file.note)

    @property
    def fetches_first_rows(self) -> bool:
        """Whether the original is too large to be fetched whole."""
        return self.source.first_rows is not None and not self.local

    def read(self, rows: int | None, scratch: Path) -> tuple[Parts, dict[str, str]]:
        """The source's arrays, from verified files.

        Args:
          rows: how many rows are wanted, None for all.
          scratch: a directory for downloads, which the caller removes.

        Returns:
          The arrays, and file -> SHA-256 of what was read; of a file's first bytes the SHA-256 under `path[:bytes]`.

        Raises:
          ValueError: a file is not the declared one.
          OSError: a download failed.
        """
        for file, path in self.local.values():
            if (found := sha256(path)) != file.sha256:
                raise ValueError(_mismatch(str(path), found, file.sha256))
        if self.fetches_first_rows:
            (original,) = self.source.originals
            return _fetched(self.source, original, functools.partial(self._first_rows, original, rows))
        paths = {path: where for path, (_, where) in self.local.items()}
        for original in self.source.originals:
            if original.path not in paths:
                paths[original.path] = scratch / Path(original.path).name
                _fetched(self.source, original, functools.partial(_save, original, paths[original.path]))
        return self.source.read(lambda path: paths[path].open("rb"), rows), self.checksums

    def _first_rows(self, original: File, rows: int | None, download: _Download) -> tuple[Parts, dict[str, str]]:
        parts = self.source.read(lambda _: download, rows)  # pyright: ignore[reportArgumentType, reportReturnType]
        return parts, {f"{original.path}[:{download.size}]": download.digest.hexdigest()}


class _Download(io.RawIOBase):
    """What a host sends, counted and summed, with a progress bar."""

    def __init__(self, name: str, response: Any):
        from tqdm.auto import tqdm

        self._response, self.size, self.digest = response.raw, 0, hashlib.sha256()
        self._bar = tqdm(desc=name, total=int(response.headers.get("Content-Length") or 0) or None, unit="B", unit_scale=True)

    def read(self, size: int = -1) -> bytes:
        block = self._response.read(size)
        self.size += len(block)
        self.digest.update(block)
        self._bar.update(len(block))
        return block

    def close(self) -> None:
        self._bar.close()
        super().close()


def _save(original: File, path: Path, download: _Download) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(download, file, 2**18)
    if (found := download.digest.hexdigest()) != original.sha256:
        raise ValueError(_mismatch(original.url, found, original.sha256))


def _fetched(source: Source, original: File, take: Callable[[_Download], Any]) -> Any:
    """What `take` makes of a download, begun again where the connection breaks.

    Not by TFDS's download manager: that has no timeout, and without a network it tries for minutes, with a page of warnings.
    """
    import requests
    import urllib3

    cure = f"To do without: put it below a directory, as {original.path}, and name that by --originals or FLAXFIT_ORIGINALS."
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with requests.get(original.url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as response:
                response.raise_for_status()
                with contextlib.closing(_Download(Path(original.path).name, response)) as download:
                    return take(download)
        except (requests.HTTPError, gzip.BadGzipFile) as error:
            raise OSError(f"{source.name} cannot be downloaded: {original.url}: {error}. {cure}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, EOFError, zlib.error) as error:
            if attempt == ATTEMPTS:
                why = f"{original.url}, the last of {ATTEMPTS} attempts: {error}"
                raise OSError(f"{source.name} could not be downloaded: {why}. {cure}") from error
    raise AssertionError


def find(source: Source, directory: Path | None, name: str | None = None) -> Originals:
    """Looks for a source's originals, or for what may stand in for them.

    Args:
      source: the source.
      directory: laid out as the files' declared paths, or None.
      name: of the file to take where there are several candidates; None: the original, else the first substitute.

    Raises:
      FileNotFoundError: there is no such directory, or no file of that name in it.
      ValueError: the source has no file of that name.
    """
    if directory is not None and not directory.is_dir():
        raise FileNotFoundError(f"no directory of originals {directory}: mind --originals or FLAXFIT_ORIGINALS.")
    local = {}
    for wanted in source.originals:
        candidates = [wanted, *(file for file in source.substitutes if file.stands_for == wanted.path)]
        there = [(file, directory / file.path) for file in candidates if directory is not None and (directory / file.path).is_file()]
        if chosen := [(file, path) for file, path in there if name in (None, path.name)]:
            local[wanted.path] = chosen[0]
    if name is not None and all(path.name != name for _, path in local.values()):
        names = [Path(file.path).name for file in (*source.originals, *source.substitutes)]
        if name not in names:
            raise ValueError(unknown("file", name, names, f"of {source.name}"))
        raise FileNotFoundError(f"no {name} for {source.name}: a directory of originals must have it, and {directory} has not.")
    return Originals(source, local)


def url_infos(source: Source) -> dict[str, Any]:
    """What TFDS expects at each URL."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    return {file.url: UrlInfo(Size(file.size), file.sha256, Path(file.path).name) for file in source.originals}


def _mismatch(what: str, found: str, expected: str) -> str:
    return f"{what} is not the published file: its SHA-256 is {found}, expected {expected}."
