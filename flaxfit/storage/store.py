"""The members of a population on disk, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from flaxfit.history import History
from flaxfit.storage.weights import pack_arrays, unpack_arrays

FORMAT = 1
PART_BYTES = 2**28  # the size of the parts in which states are stored, because SQLite takes no value above a gigabyte
_TABLES = """
CREATE TABLE IF NOT EXISTS members (name TEXT PRIMARY KEY, record TEXT, about TEXT, history BLOB, crc INTEGER);
CREATE TABLE IF NOT EXISTS states (name TEXT, part INTEGER, content BLOB, PRIMARY KEY (name, part));
"""


@dataclass(frozen=True)
class Saved:
    """A member as it was last saved."""

    record: Mapping[str, Any]  # the description of the member, as plain values
    position: int  # the number of steps it has trained
    finished: bool  # whether it has ended
    history: History  # its logged epochs
    notes: Mapping[str, Any]  # the states of its callbacks

    def packed(self) -> tuple[dict[str, Any], np.ndarray]:
        """Returns the member without its record and its logged values as plain values, and these, float64 of shape (epochs, columns)."""
        columns = list(self.history)
        about = {"position": self.position, "finished": self.finished, "columns": columns, "notes": dict(self.notes)}
        return about, np.stack([self.history[column] for column in columns], axis=1)

    @classmethod
    def unpacked(cls, record: Mapping[str, Any], about: Mapping[str, Any], rows: np.ndarray) -> Saved:
        """Returns the member of which `packed` returned the other two."""
        history = History(dict(zip(about["columns"], rows.T, strict=True)))
        return cls(record, about["position"], about["finished"], history, about["notes"])


class Store:
    """The saved members of a population by name, finished or not. It is a context manager for any thread of one process at a time.

    A member is saved as a whole or not at all, even if the process is killed. Checksums find bits that have changed on the disk.

    Args:
      path: the file. It is created when the context is entered.
      write: whether to write. Without, the file can be read while another process writes it.

    Raises:
      ValueError: the file is damaged, or is not such a file.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as home, Store(Path(home) / "members.sqlite") as store:
      ...     store.put("seed=0", Saved({"seed": 0}, 10, True, History({"loss": [0.7, 0.5]}), {}), {"w": np.ones(2)})
      ...     store["seed=0"].history["loss"].tolist(), store.arrays("seed=0")["w"].tolist(), "seed=1" in store
      ([0.7, 0.5], [1.0, 1.0], False)
    """

    def __init__(self, path: Path, *, write: bool = True):
        self.path, self._write, self._lock = path, write, threading.RLock()
        self._together, self._failed = False, False

    def __enter__(self) -> Self:
        with self._named():
            mode = "rwc" if self._write else "ro"
            self._database = sqlite3.connect(f"{self.path.as_uri()}?mode={mode}", uri=True, check_same_thread=False, timeout=60)
            self._database.execute("PRAGMA trusted_schema = OFF")
            if self._write:
                self._database.executescript(_TABLES)
            self.names = [name for (name,) in self._database.execute("SELECT name FROM members ORDER BY rowid")]
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._database.close()

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Saved:
        """Returns a member, without its state.

        Raises:
          ValueError: it is damaged.
        """
        with self._named(), self._lock:
            record, text, history, crc = self._database.execute(
                "SELECT record, about, history, crc FROM members WHERE name = ?", (name,)
            ).fetchone()
            if crc != _crc(record, text, history):
                raise ValueError(f"the checksum of {name} is wrong")
            about = json.loads(text)
            if about["format"] != FORMAT:
                raise ValueError(f"{name} has format {about['format']}, but this version of flaxfit reads format {FORMAT}")
        return Saved.unpacked(json.loads(record), about, np.frombuffer(history).reshape(-1, len(about["columns"])))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Returns the state of a member as arrays by path.

        Raises:
          ValueError: it is damaged.
        """
        with self._named(), self._lock:
            (text,) = self._database.execute("SELECT about FROM members WHERE name = ?", (name,)).fetchone()
            parts = self._database.execute("SELECT content FROM states WHERE name = ? ORDER BY part", (name,)).fetchall()
            content = b"".join(part for (part,) in parts)
            if zlib.crc32(content) != json.loads(text)["state"]:
                raise ValueError(f"the checksum of the state of {name} is wrong")
            return unpack_arrays(content)

    def put(self, name: str, saved: Saved, arrays: Mapping[str, np.ndarray]) -> None:
        """Saves a member, in place of what was saved of it before.

        Args:
          name: its name.
          saved: the member.
          arrays: its state by path.

        Warns:
          RuntimeWarning: it could not be written. What was saved before is still there.
        """
        content, (about, history) = pack_arrays(arrays), saved.packed()
        texts = json.dumps(dict(saved.record)), json.dumps({"format": FORMAT, **about, "state": zlib.crc32(content)})
        rows = history.tobytes()
        parts = [(name, n, content[first : first + PART_BYTES]) for n, first in enumerate(range(0, len(content), PART_BYTES))]
        with self._lock:
            if self._together and self._failed:
                return
            try:
                self._database.execute("SAVEPOINT put")
                self._database.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)", (name, *texts, rows, _crc(*texts, rows)))
                self._database.execute("DELETE FROM states WHERE name = ?", (name,))
                self._database.executemany("INSERT INTO states VALUES (?, ?, ?)", parts)
                self._database.execute("RELEASE put")
            except sqlite3.Error as error:
                self._failed = True
                if self._database.in_transaction:
                    self._database.rollback()
                self._warn(name, error)
                return
            self.names = [*dict.fromkeys([*self.names, name])]

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context in which members are saved together or not at all.

        Warns:
          RuntimeWarning: they could not be written. What was saved before is still there.
        """
        with self._lock:
            self._together, self._failed = True, False
            self._database.execute("SAVEPOINT together")
            try:
                yield
            except BaseException:
                self._failed = True
                raise
            finally:
                self._together = False
                try:
                    if self._failed and self._database.in_transaction:
                        self._database.rollback()
                    elif self._database.in_transaction:
                        self._database.execute("RELEASE together")  # which writes it to the disk
                except sqlite3.Error as error:
                    if self._database.in_transaction:
                        self._database.rollback()
                    self._warn("the newest members", error)

    def _warn(self, what: str, error: Exception) -> None:
        warnings.warn(f"{self.path}: {what} could not be saved ({error}). Training continues.", RuntimeWarning, stacklevel=4)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turns the errors of a damaged file into one kind, which names the file and says what to do."""
        try:
            yield
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged or does not hold a population ({error}): move it away to train anew.") from error


def _crc(record: str, about: str, history: bytes) -> int:
    return zlib.crc32(history, zlib.crc32(about.encode(), zlib.crc32(record.encode())))
