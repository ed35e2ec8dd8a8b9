"""Original files: found in a directory or fetched, and verified."""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxfit.data.sources.source import File, Parts, Source, sha256
from flaxfit.suggest import unknown

ATTEMPTS = 3
"""How often a download that breaks off is begun again."""


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
            return self._persist(lambda: self._read_first_rows(rows))
        paths = {path: where for path, (_, where) in self.local.items()}
        for original in self.source.originals:
            if original.path not in paths:
                paths[original.path] = self._persist(lambda file=original: self._download(file, scratch))
        return self.source.read(lambda path: paths[path].open("rb"), rows), self.checksums

    def _read_first_rows(self, rows: int | None) -> tuple[Parts, dict[str, str]]:
        import requests

        (original,) = self.source.originals
        with requests.get(original.url, stream=True, timeout=60) as response:
            response.raise_for_status()
            prefix = _Prefix(response.raw, self.source.name)
            parts = self.source.read(lambda _: prefix, rows)  # pyright: ignore[reportArgumentType, reportReturnType]
        return parts, {f"{original.path}[:{prefix.size}]": prefix.digest.hexdigest()}

    def _download(self, file: File, scratch: Path) -> Path:
        """Through TFDS, with its progress bars."""
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

        infos = url_infos(self.source)
        manager = tfds.download.DownloadManager(
            download_dir=scratch, url_infos=infos, force_checksums_validation=True, dataset_name=self.source.name
        )
        try:
            return Path(manager.download(file.url))  # pyright: ignore[reportArgumentType]
        except NonMatchingChecksumError as error:
            expected, found = re.findall(r"checksum='(\w+)'", str(error))
            raise ValueError(_mismatch(file.url, found, expected)) from error

    def _persist(self, fetch: Callable[[], Any]) -> Any:
        """What `fetch` gives, begun again where the connection breaks."""
        import requests
        import urllib3
        from tensorflow_datasets.core.download import DownloadError

        cure = f"Or put the file where {self.source.originals[0].path} is below a directory that --originals or FLAXFIT_ORIGINALS names."
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return fetch()
            except (requests.HTTPError, DownloadError) as error:
                raise OSError(f"{self.source.name} cannot be downloaded: {str(error).strip()} {cure}") from error
            except (requests.RequestException, urllib3.exceptions.HTTPError, EOFError, zlib.error) as error:
                if attempt == ATTEMPTS:
                    message = (
                        f"{self.source.name} could not be downloaded in {ATTEMPTS} attempts, the last of which ended so: {error}. {cure}"
                    )
                    raise OSError(message) from error
        raise AssertionError


class _Prefix(io.RawIOBase):
    """The first bytes of a response, counted and summed, with a progress bar."""

    def __init__(self, response: Any, name: str):
        from tqdm.auto import tqdm

        self._response, self.size, self.digest = response, 0, hashlib.sha256()
        self._bar = tqdm(desc=f"{name}: first rows", unit="B", unit_scale=True)

    def read(self, size: int = -1) -> bytes:
        block = self._response.read(size)
        self.size += len(block)
        self.digest.update(block)
        self._bar.update(len(block))
        return block

    def close(self) -> None:
        self._bar.close()
        super().close()


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
