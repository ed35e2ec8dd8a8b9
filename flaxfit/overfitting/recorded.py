"""The plan of a study in its directory, so that a resumed study keeps it, and the log of what it reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flaxfit.durable import write_file
from flaxfit.overfitting.plan import Plan
from flaxfit.storage.directory import RunDirectory, environment


class Recorded:
    """The record of a study.

    Args:
      run_dir: the directory of the study, or None.
      asked: what was asked for, which must be the same when the study is resumed.
      report: a function that is called with each line of progress. The lines are also written to `study.log`.

    Raises:
      ValueError: the directory has another study.
      FileExistsError: it has other files.
    """

    def __init__(self, run_dir: str | os.PathLike[str] | None, asked: Mapping[str, Any], report: Callable[[str], None]):
        self._directory = None if run_dir is None else RunDirectory(run_dir)
        self._asked, self._report = json.loads(json.dumps(asked)), report
        self.plan: Plan | None = None  # None if there is none yet
        self.resumed = False  # whether the plan is that of an earlier call
        if self._directory is None:
            return
        path = self._directory.path
        if self._file.is_file():
            found = json.loads(self._file.read_text())
            if other := [name for name, value in self._asked.items() if found["asked"].get(name) != value]:
                raise ValueError(f"{path} has a study with another {' and '.join(other)}: use another directory.")
            self.plan = None if found["plan"] is None else Plan(**found["plan"])
            self.resumed = self.plan is not None
        elif path.exists() and any(path.iterdir()):
            raise FileExistsError(f"{path} has other files: use an empty directory for the study.")
        else:
            self._directory.write_config({"study": True, "environment": environment()})
            self._write()

    def say(self, line: str) -> None:
        """Reports a line, and writes it to the log."""
        self._report(line)
        if self._directory is not None:
            with (self._directory.path / "study.log").open("a", encoding="utf-8") as log:
                log.write(f"{line}\n")

    def keep(self, plan: Plan) -> None:
        """Writes the plan, which at the end is what was done."""
        self.plan = plan
        if self._directory is not None:
            self._write()

    @property
    def _file(self) -> Path:
        assert self._directory is not None
        return self._directory.path / "plan.json"

    def _write(self) -> None:
        plan = None if self.plan is None else self.plan.record()
        write_file(self._file, json.dumps({"asked": self._asked, "plan": plan}, indent=1).encode())
