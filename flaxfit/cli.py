"""Shows, resumes, evaluates and exports a run from its directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class Resume:
    """Resume a run: start its recorded command again, in the directory in which it was started."""

    run: Run
    """The run directory."""


@dataclass(frozen=True)
class Show:
    """Show what was run, how far it is, and whether it overfits."""

    run: Run
    """The run directory."""
    member: str | None = None
    """The name of a member of a population, such as l2=0.001,seed=0. By default all members are listed."""
    plot: bool = False
    """Also draw the learning curves, to plots/learning_curves.png in the run directory."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the best model of a run on a data set."""

    run: Run
    """The run directory, or a .flaxfit file."""
    data: str | None = None
    """The name of a data set that flaxfit.data.load knows. By default it is the one that the run was trained on."""
    part: Literal["train", "validation", "test"] | None = None
    """Which examples: the data set's own test set (the default), or those that the run was trained or validated on."""
    originals: Path | None = None
    """A directory of original data files. By default it is what the environment variable FLAXFIT_ORIGINALS names."""


@dataclass(frozen=True)
class Export:
    """Pack the best model of a run into a single file, for flaxfit.load."""

    run: Run
    """The run directory."""
    out: Path | None = None
    """The file to write. By default it is model.flaxfit in the run directory."""


def _resume(command: Resume) -> None:
    from flaxfit.storage.directory import RunDirectory

    recorded = _config(RunDirectory(command.run))["environment"]
    print(f"in {recorded['directory']}: {' '.join(recorded['command'])}", flush=True)
    os.chdir(recorded["directory"])
    os.execvp(recorded["command"][0], recorded["command"])


def _show(command: Show) -> None:
    from flaxfit.report.diagnosis import diagnose
    from flaxfit.storage.directory import RunDirectory

    directory = RunDirectory(command.run)
    config, history = _config(directory), directory.read_metrics()
    if "population" in config:
        if command.member is None:
            _show_population(directory, config)
            return
        saved = _members(directory, command.member)[command.member]
        directory = directory.member(command.member)
        config, history = {**saved.record, "environment": config["environment"]}, saved.history
    print(f"{directory.path}\n  model: {config['task']['model']}")
    for name, data in config["data"].items():
        print(f"  {name}: {data['count']} examples of {data['source']} {data.get('rows', '')}")
    print("  " + ", ".join(f"{name} {value}" for name, value in config["arguments"].items()))
    environment = config["environment"]
    print(f"  started {environment['started']} on {environment['device']['kind']}: {' '.join(environment['command'])}")
    if history is None or not len(history.epochs):
        print("No epoch is finished yet.")
        return
    last = {name: value for name, value in history.row(-1).items() if name != "best_epoch"}
    print(f"Epoch {history.epochs[-1]} of {config['arguments']['epochs']}, best epoch {history.best_epoch}")
    print("  " + ", ".join(f"{name} {value:.4g}" for name, value in last.items()))
    if config["data"].get("validation"):
        print(diagnose(history))
    if command.plot:
        from flaxfit.report.plots import learning_curves

        directory.plots.mkdir(exist_ok=True)
        learning_curves({directory.path.name: history}).savefig(file := directory.plots / "learning_curves.png")
        print(file)


def _show_population(directory: Any, config: dict[str, Any]) -> None:
    environment = config["environment"]
    print(f"{directory.path}\n  a population, started {environment['started']}: {' '.join(environment['command'])}")
    for name, saved in _members(directory).items():
        history = saved.history
        if not len(history.epochs):
            print(f"  {name}: no epoch is finished yet")
            continue
        column = f"val_{history.data_loss}" if f"val_{history.data_loss}" in history else history.data_loss
        best = history.best_epoch
        score = "" if best is None else f", best epoch {best}: {column} {history[column][best - 1]:.4g}"
        print(f"  {name}: {history.epochs[-1]} epochs{'' if saved.finished else ' so far'}{score}")


def _members(directory: Any, name: str | None = None) -> dict[str, Any]:
    """Returns what is saved of all members of a population, or of one, by name."""
    from flaxfit.arguments import unknown
    from flaxfit.storage.store import Store

    with Store(directory.store, write=False) as store:
        if name is not None and name not in store:
            raise ValueError(unknown("member", name, store.names))
        return {each: store[each] for each in ([name] if name is not None else store.names)}


def _evaluate(command: Evaluate) -> None:
    from flaxfit import data
    from flaxfit.storage.predictor import load

    model = load(command.run)
    name = command.data or model.metadata["data"]["source"]
    if name == "arrays":
        raise ValueError(
            f"{command.run} was trained on arrays, not on a data set with a name: pass --data, or use flaxfit.load in a script."
        )
    options: dict[str, Any] = {"vocabulary": len(model.features or ())} if name == "imdb" else {}
    splits = data.load(name, originals=command.originals, **options)
    part = command.part or ("validation" if splits.test is None else "test")
    rows = splits.test
    if part != "test":
        from flaxfit.storage.directory import RunDirectory

        first, _, last = _config(RunDirectory(command.run))["data"].get(part, {}).get("rows", "").partition(":")
        if not last.isdecimal():
            raise ValueError(
                f"the {part} examples of {command.run} are not a range of {name}, but were drawn at random: "
                "evaluate them in a script, with flaxfit.load."
            )
        rows = splits.train[int(first) : int(last)]
    if rows is None:
        raise ValueError(f"{name} has no test set of its own: pass --part validation to use the validation examples of this run.")
    scores = ", ".join(f"{metric} {value:.6g}" for metric, value in model.evaluate(rows).items())
    print(f"{name}, {part}, {len(rows)} examples: {scores}")


def _export(command: Export) -> None:
    from flaxfit.storage.directory import RunDirectory
    from flaxfit.train.export import pack

    directory = RunDirectory(command.run)
    _config(directory)
    print(pack(directory.export, command.out or directory.path / "model.flaxfit"))


def _config(directory: Any) -> dict[str, Any]:
    config = directory.read_config()
    if config is None:
        raise FileNotFoundError(f"{directory.path} is not a run directory: it has no {directory.config_path.name}.")
    return config


def script(main: Callable[[Any], object], config: type, description: str | None) -> None:
    """Runs the `main` function of a script with the options from its command line.

    If a file is missing or a download fails, the script ends with the error's message and status 1 instead of a traceback.

    Args:
      main: a function that takes the options.
      config: a dataclass of the options. Its fields have defaults, and their docstrings are shown by `--help`.
      description: the text at the top of `--help`, such as the docstring of the script.

    Example:
      >>> from dataclasses import dataclass
      >>> from unittest import mock
      >>> @dataclass
      ... class Config:
      ...     seeds: int = 5
      >>> with mock.patch("sys.argv", ["study.py", "--seeds", "3"]):
      ...     script(lambda config: print(config.seeds), Config, "A study.")
      3
    """
    try:
        main(tyro.cli(config, description=description))
    except OSError as error:
        if error.errno is not None:  # An error of the operating system, such as a full disk: the traceback says where.
            raise
        raise SystemExit(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `flaxfit`.

    Returns:
      0, or 1 after an error, whose message is written to standard error. Wrong usage exits with status 2.
    """
    command = tyro.cli(Resume | Show | Evaluate | Export, args=arguments, prog="flaxfit", description=__doc__)
    what: dict[type, Any] = {Resume: _resume, Show: _show, Evaluate: _evaluate, Export: _export}
    try:
        what[type(command)](command)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        sys.stderr.write(f"flaxfit: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
