"""Original files: they are found in a directory or downloaded by pooch, and verified."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from flaxfit.arguments import needed, unknown
from flaxfit.data.sources.source import File, Parts, Source, sha256

ATTEMPTS = 3  # how often a download is tried if the connection breaks, or if the file that arrives has another checksum
LONGEST_LINE = 2**24  # the largest number of bytes in a line of a file of which only the first rows are downloaded
TIMEOUT = 30  # how many seconds to wait for the next bytes from a host


@dataclass(frozen=True)
class Originals:
    """The files that a source is read from. An original whose path is not in `local` is downloaded."""

    source: Source
    local: Mapping[str, tuple[File, Path]]

    @property
    def checksums(self) -> dict[str, str]:
        """Path of a file -> the SHA-256 checksum that it must have."""
        files = [self.local.get(original.path, (original,))[0] for original in self.source.originals]
        return {file.path: file.sha256 for file in files}

    @property
    def digest(self) -> str:
        """A short checksum of all the checksums."""
        return hashlib.sha256(json.dumps(self.checksums, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def note(self) -> str:
        """Which files stand in for originals; "" if none do."""
        return "; ".join(f"{file.path} holds {file.note}" for file, _ in self.local.values() if file.note)

    def read(self, rows: int | None, scratch: Path) -> tuple[Parts, dict[str, str]]:
        """Verifies the files and reads the arrays of the source.

        Args:
          rows: how many rows to read, or None for all.
          scratch: a directory for downloads.

        Returns:
          The arrays, and path of a file -> SHA-256 of what was read. If only the first bytes of a file were read, their checksum is under
          `path[:bytes]`.

        Raises:
          ValueError: a file is not the published one.
          OSError: a download failed.
        """
        paths, checksums = {}, {}
        for original in self.source.originals:
            file, path = self.local.get(original.path, (original, None))
            if path is None:
                path = _downloaded(self.source, original, rows, scratch)
            elif (found := sha256(path)) != file.sha256:
                raise ValueError(f"{path} is not the published file: its SHA-256 is {found}, expected {file.sha256}.")
            paths[original.path] = path
            if self.source.first_rows and not self.local:
                checksums[f"{file.path}[:{path.stat().st_size}]"] = sha256(path)
            else:
                checksums[file.path] = file.sha256
        parts = self.source.read(paths, rows)
        _check(self.source, parts, rows if self.source.first_rows and not self.local else None)
        return parts, checksums


def _check(source: Source, parts: Parts, rows: int | None) -> None:
    """Checks arrays before they are kept: that there are as many rows as asked for, finite numbers, and only known labels.

    Raises:
      ValueError: they are wrong.
    """
    for arrays in parts.values():
        for name, array in arrays.items():
            wrong = ""
            if rows is not None and len(array) != rows:
                wrong = f"has {len(array):,} rows where {rows:,} were asked for"
            elif array.dtype.kind == "f" and not np.isfinite(array).all():
                wrong = "has NaN or infinity"
            elif name == "y" and source.classes and not np.isin(array, np.arange(len(source.classes))).all():
                wrong = f"has labels other than 0 to {len(source.classes) - 1}"
            if wrong:
                raise ValueError(f"{source.name}: what was downloaded or read is not the data set: {name} {wrong}. Nothing is kept.")


def find(source: Source, directory: Path | None, name: str | None = None) -> Originals:
    """Looks in a directory for the originals of a source, or for files that may stand in for them.

    If there are several candidates, the file called `name` is used. By default it is the original, or else the first substitute.
    """
    if directory is not None and not directory.is_dir():
        raise FileNotFoundError(f"the directory of originals {directory} does not exist: check --originals or FLAXFIT_ORIGINALS.")
    files, local = (*source.originals, *source.substitutes), {}
    if directory is not None:
        for file in files:
            if (path := directory / file.path).is_file() and name in (None, path.name):
                local.setdefault(file.stands_for or file.path, (file, path))
    if name is not None and all(path.name != name for _, path in local.values()):
        names = [Path(file.path).name for file in files]
        if name not in names:
            raise ValueError(unknown("file", name, names, f"of {source.name}"))
        raise FileNotFoundError(
            f"{source.name} should be read from {name}, which the directory of originals {directory} does not have: add the file there."
        )
    return Originals(source, local)


def _downloaded(source: Source, original: File, rows: int | None, scratch: Path) -> Path:
    """Downloads a file and verifies it. If the source is too large, only the part with the first rows is downloaded."""
    pooch = needed("pooch", f"downloading {source.name}")
    known = {original.path: None if source.first_rows else f"sha256:{original.sha256}"}
    urls = {original.path: original.url}
    downloads = pooch.create(scratch, base_url="", registry=known, urls=urls, retry_if_failed=ATTEMPTS - 1)
    try:
        return Path(downloads.fetch(original.path, downloader=_Downloader(rows if source.first_rows else None)))
    except (OSError, ValueError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk
            raise
        tried = f" in {ATTEMPTS} attempts" if type(error) not in (OSError, zlib.error) else ""  # these are not tried again
        fix = f"If you have the file, save it as {original.path} in a directory, and name that in --originals or FLAXFIT_ORIGINALS."
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(f"{source.name} could not be downloaded{tried} from {original.url}: {str(error).rstrip('.')}. {fix}") from error


@dataclass(frozen=True)
class _Downloader:
    """A downloader for pooch, which tries again after an error of requests or a wrong checksum, but not after a plain `OSError`.

    Attributes:
      rows: how many lines of a gzipped file to download, or None for the whole file.
    """

    rows: int | None

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        requests, tqdm = needed("requests", "downloading"), needed("tqdm.auto", "downloading").tqdm
        how = {"timeout": TIMEOUT, "headers": {"Accept-Encoding": "identity"}, "hooks": {"response": _stay_with_https}}
        unpack, lines, line = zlib.decompressobj(wbits=31), 0, 0
        with requests.get(url, stream=True, **how) as response:
            if 400 <= response.status_code < 500:
                raise OSError(f"the host answered {response.status_code} {response.reason}")
            response.raise_for_status()
            size = int(response.headers.get("Content-Length", 0)) or None
            unit = {"total": size, "unit": "B", "unit_scale": True} if self.rows is None else {"total": self.rows, "unit": " rows"}
            with Path(output_file).open("wb") as file, tqdm(**unit) as progress:
                for block in response.iter_content(2**16):
                    if not file.tell() and url.endswith(".gz") and not block.startswith(b"\x1f\x8b"):
                        raise OSError(f"the host did not send a gzip file, but perhaps a page to sign in: {block[:60]!r}")
                    file.write(block)
                    if self.rows is None:
                        progress.update(len(block))
                        continue
                    content = unpack.decompress(block)
                    found = content.count(b"\n")
                    line = len(content) - content.rfind(b"\n") - 1 + (0 if found else line)
                    if line > LONGEST_LINE:
                        raise OSError(f"the host sent a line of more than {LONGEST_LINE:,} bytes, which is no table")
                    progress.update(found)
                    lines += found
                    if lines >= self.rows:
                        return
                if self.rows is not None and not unpack.eof:
                    raise OSError("the gzip file ends in the middle")


def _stay_with_https(response: Any, **_: Any) -> None:
    """Refuses a redirect from https to http."""
    target = urljoin(response.url, response.headers.get("Location", ""))
    if response.is_redirect and response.url.startswith("https:") and not target.startswith("https:"):
        raise OSError(f"the host redirects from https to {target}")
