"""The history of a run that lies in a directory."""

from __future__ import annotations

import os

from flaxfit.arguments import unknown
from flaxfit.history import History
from flaxfit.storage.directory import RunDirectory
from flaxfit.storage.store import Store


def load_history(run_dir: str | os.PathLike[str], member: str | None = None) -> History:
    """Loads what a run has logged so far, such as to plot it or to `diagnose` it. The run may still be training.

    Args:
      run_dir: the directory of the run, as it was given to `fit`.
      member: the name of a member, if `run_dir` is the directory of a population.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: no epoch is finished yet, or there is no such member.

    Example:
      >>> load_history("runs/absent")
      Traceback (most recent call last):
      FileNotFoundError: there is no run in runs/absent: it has no config.json.
    """
    directory = RunDirectory(run_dir)
    if (config := directory.read_config()) is None:
        raise FileNotFoundError(f"there is no run in {os.fspath(run_dir)}: it has no {directory.config_path.name}.")
    if "population" not in config:
        if member is not None:
            raise ValueError(f"{os.fspath(run_dir)} has a single run: leave out member={member!r}.")
        history = directory.read_metrics()
    else:
        with Store(directory.store, write=False) as store:
            if member is None or member not in store:
                raise ValueError(unknown("member", member or "", sorted(store.names), f"in {os.fspath(run_dir)}"))
            saved = store[member]
        config, history = saved.record, saved.history
    if history is None or not len(history.epochs):
        raise ValueError(f"{os.fspath(run_dir)} has no finished epoch yet.")
    history.validation_every = config["arguments"].get("validation_every", 1)
    counts = [config["data"].get(part, {}).get("count") for part in ("train", "validation")]
    history.rows, history.validation_rows = history.rows or counts[0], history.validation_rows or counts[1]
    return history
