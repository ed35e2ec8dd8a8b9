"""`flaxfit show`, `resume` and `export`: runs in their directories."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flaxfit.arguments import unknown
from flaxfit.cli.options import Export, Resume, Show
from flaxfit.history import History
from flaxfit.report.diagnosis import diagnose
from flaxfit.sections import Section, as_text
from flaxfit.storage.directory import HIDDEN, RunDirectory
from flaxfit.storage.store import Store
from flaxfit.sweep.grid import name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def resume(command: Resume) -> None:
    """Starts the recorded command of a run again, after asking.

    Raises:
      PermissionError: the record belongs to somebody else, whose command it would be.
    """
    directory = RunDirectory(command.run)
    recorded = config_of(directory)["environment"]
    owner = os.stat(directory.config_path)
    if hasattr(os, "getuid") and owner.st_uid != os.getuid():
        raise PermissionError(f"{directory.config_path} belongs to another user, and its command could be anything: start it yourself.")
    if stat.S_IMODE(owner.st_mode) & stat.S_IWOTH:
        raise PermissionError(
            f"{directory.config_path} can be written by anybody, so that its command could be anything: start it yourself."
        )
    print(f"in {recorded['directory']}: {shlex.join(recorded['command'])}", flush=True)
    if any(HIDDEN in word for word in recorded["command"]):
        raise ValueError("the command has a secret that was not recorded: start it yourself.")
    if not command.yes:
        if not sys.stdin.isatty():
            raise ValueError("nothing was started: pass --yes to start this command.")
        if input("Start it? [y/N] ").strip().lower() not in ("y", "yes"):
            return
    os.chdir(recorded["directory"])
    os.execvp(recorded["command"][0], recorded["command"])


def show(command: Show) -> None:
    """Prints what a run, a population or a study was, and what it says."""
    directory = RunDirectory(command.run)
    config, history = config_of(directory), directory.read_metrics()
    if config.get("study"):
        _show_study(directory, config, command.json)
        return
    if "population" in config:
        if command.member is None:
            _show_population(directory, config, command.json)
            if command.plot and (curves := curves_of(members_of(directory))):
                from flaxfit.report.plots import study_curves

                _draw(study_curves(curves), directory)
            return
        saved = members_of(directory, command.member)[command.member]
        directory = directory.member(command.member)
        config, history = {**saved.record, "environment": config["environment"]}, saved.history
    if history is not None:
        history.validation_every = config["arguments"].get("validation_every", 1)
        history = history if len(history.epochs) else None
    diagnosis = diagnose(history) if history is not None and config["data"].get("validation") else None
    if command.json:
        last = {} if history is None else _last(history)
        print(json.dumps({"run": str(directory.path), "config": config, "last": last, "diagnosis": diagnosis and str(diagnosis)}, indent=1))
        return
    print(f"{directory.path}\n  model: {config['task']['model']}")
    for name, data in config["data"].items():
        print(f"  {name}: {data['count']} examples of {data['source']} {data.get('rows', '')}")
    print("  " + ", ".join(f"{name} {value}" for name, value in config["arguments"].items()))
    print(f"  {_began(config)}")
    if history is None:
        print("No epoch is finished yet.")
        return
    print(f"Epoch {history.epochs[-1]} of {config['arguments']['epochs']}, best epoch {history.best_epoch}")
    print("  " + ", ".join(f"{name} {value:.4g}" for name, value in _last(history).items()))
    if diagnosis is not None:
        print(diagnosis)
    if command.plot:
        from flaxfit.report.plots import learning_curves

        _draw(learning_curves({directory.path.name: history}), directory)


def _draw(figure: Figure, directory: RunDirectory) -> None:
    directory.plots.mkdir(exist_ok=True)
    figure.savefig(file := directory.plots / "learning_curves.png")
    print(file)


def _last(history: History) -> dict[str, float]:
    return {name: value for name, value in history.row(-1).items() if name != "best_epoch"}


def _began(config: dict[str, Any]) -> str:
    environment = config["environment"]
    return f"started {environment['started']} on {environment['device']['kind']}: {' '.join(environment['command'])}"


def _show_study(directory: RunDirectory, config: dict[str, Any], as_json: bool) -> None:
    file = directory.path / "study.json"
    if not file.is_file():
        raise ValueError(f"the study in {directory.path} has not ended yet: flaxfit resume {directory.path} goes on with it.")
    record = json.loads(file.read_text())
    if as_json:
        print(json.dumps(record, indent=1))
        return
    print(f"{directory.path}\n  a study, {_began(config)}\n")
    print(as_text([Section(**section) for section in record["sections"]]))


def _show_population(directory: RunDirectory, config: dict[str, Any], as_json: bool) -> None:
    rows = []
    for name, saved in members_of(directory).items():
        history, row = saved.history, {"member": name, "epochs": 0, "finished": saved.finished}
        if len(history.epochs):
            column = f"val_{history.data_loss}" if f"val_{history.data_loss}" in history else str(history.data_loss)
            row |= {"epochs": int(history.epochs[-1]), "best_epoch": history.best_epoch, "column": column}
            row["best"] = None if history.best_epoch is None else float(history[column][history.best_epoch - 1])
        rows.append(row)
    if as_json:
        print(json.dumps({"population": str(directory.path), "members": rows}, indent=1))
        return
    print(f"{directory.path}\n  a population, {_began(config)}")
    for row in rows:
        if not row["epochs"]:
            print(f"  {row['member']}: no epoch is finished yet")
            continue
        score = "" if row["best"] is None else f", best epoch {row['best_epoch']}: {row['column']} {row['best']:.4g}"
        print(f"  {row['member']}: {row['epochs']} epochs{'' if row['finished'] else ' so far'}{score}")


def export(command: Export) -> None:
    """Packs the model of a run into one file."""
    from flaxfit.programs.export import pack

    directory = RunDirectory(command.run)
    config_of(directory)
    file = pack(directory.export, command.out or directory.path / "model.flaxfit")
    print(json.dumps({"model": str(file)}) if command.json else file)


def members_of(directory: RunDirectory, name: str | None = None) -> dict[str, Any]:
    """Returns what is saved of all members of a population, or of one, by name.

    Raises:
      ValueError: there is no such member.
    """
    with Store(directory.store, write=False) as store:
        if name is not None and name not in store:
            raise ValueError(unknown("member", name, store.names))
        return {each: store[each] for each in ([name] if name is not None else store.names)}


def curves_of(members: Mapping[str, Any]) -> dict[str, list[History]]:
    """Returns the histories of the members that have finished an epoch, by the name of their setting."""
    curves: dict[str, list[History]] = {}
    for saved in members.values():
        saved.history.validation_every = saved.record["arguments"].get("validation_every", 1)
        if len(saved.history.epochs):
            curves.setdefault(name_of(saved.record["arguments"].get("setting", {})) or "all runs", []).append(saved.history)
    return curves


def config_of(directory: RunDirectory) -> dict[str, Any]:
    """Returns the configuration of a run.

    Raises:
      FileNotFoundError: the directory has none.
    """
    config = directory.read_config()
    if config is None:
        raise FileNotFoundError(f"{directory.path} is not a run directory: it has no {directory.config_path.name}.")
    return config
