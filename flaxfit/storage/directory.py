"""The directory of a run: where its files are, and which process may write them."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.durable import clean, make_directory, write_file
from flaxfit.history import History

FORMAT = 1
_NAME_BYTES = 200  # of a member's directory; tools that put something before or after a file's name need some room
HIDDEN = "(hidden)"
_SECRET = re.compile(
    r"(.*[-_.]|-*)(pass(word|wd|phrase|code)?|pwd|secrets?|token|credentials?|auth|(api|access|private|secret)[-_]?key)", re.I
)
_SIGNED = re.compile(r"//[^/@\s]+:[^/@\s]+@")  # a name and a password in an address
_PACKAGES = ("flaxfit", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")


class RunDirectory:
    """The files of one run, or of a population. No file or directory is created before it is needed.

    Args:
      path: the directory.

    Raises:
      ValueError: the path is empty.

    Example:
      >>> with tempfile.TemporaryDirectory() as home:
      ...     run = RunDirectory(Path(home) / "run")
      ...     with run.lock():
      ...         run.write_config({"batch_size": 32})
      ...         run.append_metrics(History({"loss": [0.7, 0.5]}))
      ...     run.read_config(), run.read_metrics()
      ({'batch_size': 32}, History(2 epochs of loss))
    """

    def __init__(self, path: str | os.PathLike[str]):
        if os.fspath(path) == "":
            raise ValueError('the run directory must have a name, got "": pass "." for the current directory, or None for no directory.')
        self.path = Path(path).expanduser().resolve()
        self.config_path = self.path / "config.json"  # describes the run as plain values
        self.metrics_path = self.path / "metrics.jsonl"  # one line for each epoch
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"  # the exported model
        self.plots = self.path / "plots"
        self.tensorboard = self.path / "tensorboard"  # of the callback `TensorBoard`
        self.weights = self.path / "weights"  # of the callback `SaveWeights`
        self.store = self.path / "members.sqlite"  # the members of a population
        self.members = self.path / "members"  # what callbacks and exports write for members of a population

    def member(self, name: str) -> RunDirectory:
        """The directory of a population's member. File systems take names of 255 bytes, so a longer one ends in a checksum instead."""
        content = name.encode()
        if len(content) > _NAME_BYTES:
            name = f"{content[: _NAME_BYTES - 9].decode(errors='ignore')}-{zlib.crc32(content):08x}"
        return RunDirectory(self.members / name)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Creates the directory and keeps other processes from running in it. The lock of a process that has died is void.

        Raises:
          RuntimeError: another process holds the lock.
          OSError: the directory cannot be created or written.
        """
        from filelock import FileLock, Timeout

        held, owner = FileLock(self.path / ".lock", timeout=0), self.path / ".owner"
        try:
            make_directory(self.path)
            held.acquire()
            clean(self.path, 0)
            write_file(owner, str(os.getpid()).encode())
        except Timeout:
            process = f"process {owner.read_text()}" if owner.exists() else "another process"
            raise RuntimeError(f"{process} is running in {self.path}: wait until it ends, or use another directory.") from None
        except OSError as error:
            held.release()
            raise OSError(error.errno, f"the run directory cannot be written ({error.strerror})", str(self.path)) from error
        try:
            yield
        finally:
            held.release()

    def read_config(self) -> dict[str, Any] | None:
        """Returns what `write_config` wrote, or None if there is no configuration.

        Raises:
          ValueError: the file is not the configuration of a run, or has another format.
        """
        try:
            config = json.loads(self.config_path.read_text(encoding="utf-8"))
            if config.pop("crc32", None) not in (None, seal(config)):  # older versions wrote none
                raise ValueError("its checksum is wrong")
            found = config.pop("format")
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.config_path} is not the configuration of a run, or is damaged ({error}): restore it, or use another directory."
            ) from error
        if found != FORMAT:
            raise ValueError(
                f"{self.path} is a run directory of format {found}, but this version of flaxfit reads format {FORMAT}: "
                "use the version that wrote it, or another directory."
            )
        return config

    @property
    def identity(self) -> str | None:
        """The identity of the run, which its configuration holds; None for a run that was started before runs had one."""
        return (self.read_config() or {}).get("run")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes the configuration, as plain values for JSON. The file is replaced as a whole, and only the user may read it."""
        whole = json.loads(json.dumps({"format": FORMAT, **config}))  # as it will be when it is read
        text = json.dumps(whole | {"crc32": seal(whole)}, indent=1) + "\n"
        write_file(self.config_path, text.encode(), private=True)

    def read_metrics(self) -> History | None:
        """Returns the logged epochs, or None if there is no file. A last line that is incomplete after a power loss is left out.

        Raises:
          ValueError: another line is damaged (the message gives its number), or the epochs are not those of the newest checkpoint.
        """
        if not self.metrics_path.exists():
            return None
        content = self.metrics_path.read_bytes()
        if content.endswith(b"\n"):
            history = History.from_jsonl(self.metrics_path)
        else:
            with tempfile.NamedTemporaryFile() as whole:
                whole.write(content[: content.rfind(b"\n") + 1])
                whole.flush()
                history = History.from_jsonl(whole.name)
        saved = self._saved_epochs()
        if saved is not None and len(history.epochs) >= saved[0]:
            rows = np.stack([*history.values()], axis=1)[: saved[0]] if len(history) else np.empty((0, 0))
            if checksum_of_rows(rows) != saved[1]:
                raise ValueError(
                    f"{self.metrics_path} is damaged: its first {saved[0]} epochs are not those of the newest checkpoint. Resume the run "
                    "to write it again."
                )
        return history

    def _saved_epochs(self) -> tuple[int, int] | None:
        """Returns the number of epochs of the newest readable checkpoint and the checksum of what they logged, if it has one."""
        positions = [int(path.name) for path in self.checkpoints.glob("*") if path.name.isdecimal()]
        for position in sorted(positions, reverse=True):
            with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
                about = json.loads((self.checkpoints / str(position) / "about" / "metadata").read_bytes())
                if about.pop("seal") == seal(about):
                    return about["history"][0], about["rows"]
        return None

    def write_metrics(self, history: History) -> None:
        """Replaces all logged epochs, so that a run which is resumed from a checkpoint logs no epoch twice."""
        write_file(self.metrics_path, "".join(line + "\n" for line in history.lines()).encode())

    def append_metrics(self, history: History) -> None:
        """Appends epochs. If the disk is full, none of them is written.

        Raises:
          OSError: they cannot be written.
        """
        lines = "".join(line + "\n" for line in history.lines()).encode()
        with self.metrics_path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                if file.write(lines) < len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.metrics_path))
            except OSError:
                file.truncate(size)
                raise


def checksum_of_rows(rows: np.ndarray) -> int:
    """Returns the checksum of logged metrics, shape (epochs, columns), as they are when JSON has read them."""
    return zlib.crc32(np.where(np.isnan(rows), np.nan, rows).astype("<f8").tobytes())


def seal(values: Mapping[str, Any]) -> int:
    """Returns the checksum of plain values, as they are when JSON has read them."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = ()) -> list[str]:
    """Lists the differences between two configurations, one line for each value.

    Args:
      old: the configuration from a file.
      new: the new configuration, as plain values. A tuple equals the list that JSON makes of it.
      ignore: names of values that may differ, such as `epochs` or `data.train`, including everything below them.

    Example:
      >>> differences({"batch_size": 32, "data": {"rows": "0:100"}}, {"batch_size": 64, "data": {"rows": "0:90"}, "seed": 0})
      ['batch_size: 32 -> 64', 'data.rows: 0:100 -> 0:90', 'seed: (missing) -> 0']
    """
    before, after = _flat(old), _flat(new)

    def ignored(name: str) -> bool:
        return any(f"{name}.".startswith(f"{other}.") for other in ignore)

    def shown(flat: Mapping[str, str], name: str, other: Mapping[str, str]) -> str:
        first, *lines = flat.get(name, "(missing)").strip('"').split("\\n")
        if lines and (own := [line.strip() for line in lines if line not in other.get(name, "").strip('"').split("\\n")]):
            return f"{first}..., {', '.join(own)}, ...)"  # of a long repr, such as that of a module, what differs
        return " ".join([first, *map(str.strip, lines)])

    changed = [name for name in before | after if before.get(name) != after.get(name) and not ignored(name)]
    return [f"{name}: {shown(before, name, after)} -> {shown(after, name, before)}" for name in changed]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns dotted name -> JSON of the value."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": json.dumps(value, ensure_ascii=False)}
    return flat


def environment() -> dict[str, Any]:
    """Describes how and where this process runs: versions, device, git commit, command, directory, and the time."""
    import jax

    devices = jax.devices()
    return {
        "versions": versions(),
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "commit": _commit(),
        "command": without_secrets(sys.orig_argv),
        "directory": os.getcwd(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def without_secrets(command: Iterable[str]) -> list[str]:
    """Returns a command with `HIDDEN` in place of values that look like secrets: of options such as `--api-key`, and in addresses.

    Example:
      >>> without_secrets(["train.py", "--hf-token=abc", "--password", "abc", "--max-tokens", "9", "https://me:abc@host/x"])
      ['train.py', '--hf-token=(hidden)', '--password', '(hidden)', '--max-tokens', '9', 'https://(hidden)@host/x']
    """
    shown, secret = [], False
    for argument in command:
        name, equal, _ = argument.partition("=")
        if secret and not argument.startswith("--"):
            argument = HIDDEN
        elif equal and _SECRET.fullmatch(name):
            argument = f"{name}={HIDDEN}"
        secret = not equal and argument.startswith("-") and _SECRET.fullmatch(argument) is not None
        shown.append(_SIGNED.sub(f"//{HIDDEN}@", argument))
    return shown


@functools.cache
def versions() -> dict[str, str | None]:
    """The version of Python and of each package that a run depends on; None where a package is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _commit() -> str | None:
    """Returns the git commit of the current directory, with `-dirty` if tracked files have changed, or None outside of git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
