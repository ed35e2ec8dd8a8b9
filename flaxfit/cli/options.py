"""The commands and their options. Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
Data = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
Model = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
Column = Annotated[str | None, tyro.conf.arg(metavar="COLUMN")]
Directory = Annotated[Path | None, tyro.conf.arg(metavar="DIRECTORY")]
Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Number = Annotated[int | None, tyro.conf.arg(metavar="N")]
Output = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
Names = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN")]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all commands share."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False  # Print the answer as JSON.
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False  # Report no progress and no warnings.
    debug: tyro.conf.FlagCreatePairsOff[bool] = False  # Show the traceback of an error.


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the examples come from."""

    data: Data  # A CSV, Parquet or NPZ file, or the name of a data set (see `flaxfit data list`).
    target: Column = None  # The column to predict: its name, or its number from 0 (-1 is the last) in a file without a header.
    group: Column = None  # A column of groups, such as patients. All examples of a group stay together.
    time: Column = None  # A column of times. The newest examples test, and validation examples are newer than training examples.
    weight: Column = None  # A column of weights of the examples.
    ignore: Names = ()  # A column to leave out.
    type: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN=KIND")] = ()
    """What a column is: number, boolean, datetime, category, embedding or drop. By default its values decide."""
    originals: Directory = None  # A directory of original files of named data sets. By default it is what FLAXFIT_ORIGINALS names.


@dataclass(frozen=True, kw_only=True)
class Net:
    """The network, if no task is given."""

    hidden: tuple[int, ...] = (64, 64)  # The number of units of each hidden layer.
    learning_rate: float = 1e-3  # The learning rate of Adam.
    epochs: Number = None  # The epochs of each run. By default about 2,500 steps, between 30 and 200 epochs.
    batch_size: int = 32  # The number of examples of a step.
    task: Annotated[str | None, tyro.conf.arg(metavar="MODULE:FUNCTION")] = None
    """Your own model: MODULE:FUNCTION or FILE.py:FUNCTION, a function of hyperparameters that returns a flaxfit.Task."""


@dataclass(frozen=True, kw_only=True)
class Study(Common, Net, Source):
    """Study whether a model overfits, and which fix helps, on examples that it never saw.

    Example: flaxfit study people.csv --target sold
    """

    metric: Name = None  # The metric that decides. By default log loss, or RMSE for numbers.
    margin: Annotated[float | None, tyro.conf.arg(metavar="NUMBER")] = None
    """The smallest difference that matters, in the unit of the metric."""
    budget: Annotated[str, tyro.conf.arg(metavar="TIME")] = "2m"  # How long all of it may take, such as 90s, 2m or 1h.
    folds: Number = None  # The number of folds. By default 10, or 5 if there is no time for 10.
    test: float = 0.2  # The share of the examples to set aside for the final score.
    seed: int = 0  # The seed of splits and runs.
    run_dir: Directory = None  # Where to write the answer and the model. By default runs/NAME-study. The same command resumes a study.
    dask: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """The address of a Dask scheduler, such as tcp://host:8786, whose workers train. By default this machine does."""


@dataclass(frozen=True, kw_only=True)
class Fit(Common, Net, Source):
    """Train one network, and say whether it overfits.

    Example: flaxfit fit people.csv --target sold --dropout 0.5
    """

    dropout: float = 0.0  # The dropout rate of hidden layers.
    l1: float = 0.0  # The strength of the L1 penalty.
    l2: float = 0.0  # The strength of the L2 penalty.
    weight_decay: float = 0.0  # The strength of AdamW's weight decay.
    batch_norm: tyro.conf.FlagCreatePairsOff[bool] = False  # Use batch norm.
    patience: Number = None  # Stop early after so many epochs without improvement on validation examples.
    validation: float = 0.2  # The share of the examples to validate on.
    seed: int = 0  # The seed of the split and of the run.
    run_dir: Directory = None  # Where to write the run. By default runs/NAME. The same command resumes a run.


@dataclass(frozen=True, kw_only=True)
class Predict(Common):
    """Predict new rows with a trained model.

    Example: flaxfit predict runs/people-study new.csv -o predictions.csv
    """

    model: Model  # The directory of a run or study, or a .flaxfit file.
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="NEW")]
    """A CSV or Parquet file with the columns of the training data, in any order, or an NPZ file with an array x."""
    output: Output = None  # The CSV file to write. By default the rows are printed.
    keep: Names = ()  # A column of the new rows to write beside the predictions. By default those that identify the rows.


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Evaluate a trained model on examples.

    Example: flaxfit evaluate runs/people labeled.csv --target sold
    """

    model: Model  # The directory of a run or study, or a .flaxfit file.
    data: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="DATA")] = None
    """A CSV, Parquet or NPZ file, or the name of a data set. By default the named data set that it was trained on."""
    target: Column = None  # The column to predict. By default the one that the model was trained for.
    part: Literal["train", "validation", "test"] | None = None
    """Which examples of a named data set: its own test set (the default), or those that the run was trained or validated on."""
    originals: Directory = None  # A directory of original files of named data sets.


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """Compare runs: their best epochs, verdicts and scores, and where there are several seeds, whether they differ beyond noise.

    Example: flaxfit compare runs/plain runs/dropout
    """

    runs: Runs  # Directories of runs or populations.
    metric: Name = None  # A validation column of their histories. By default the data loss.


@dataclass(frozen=True, kw_only=True)
class Show(Common):
    """Show a run or a study: what was run, how far it is, whether it overfits, and the answer.

    Example: flaxfit show runs/people-study
    """

    run: Run  # The directory of a run, a population or a study.
    member: Name = None  # The name of a member of a population, such as l2=0.001,seed=0. By default all members are listed.
    plot: tyro.conf.FlagCreatePairsOff[bool] = False  # Also draw the learning curves, to plots/learning_curves.png in the run directory.


@dataclass(frozen=True, kw_only=True)
class Report(Common):
    """Write a run, a population or a study as one HTML page to open or to send.

    Example: flaxfit report runs/people-study
    """

    run: Run  # The directory of a run, a population or a study.
    output: Output = None  # The file to write. By default it is report.html in the run directory.


@dataclass(frozen=True, kw_only=True)
class Resume(Common):
    """Resume a run: start its recorded command again, in the directory in which it was started.

    Example: flaxfit resume runs/people --yes
    """

    run: Run  # The directory of a run.
    yes: tyro.conf.FlagCreatePairsOff[bool] = False  # Start the command without asking.


@dataclass(frozen=True, kw_only=True)
class Export(Common):
    """Pack the best model of a run into a single file, for flaxfit.load.

    Example: flaxfit export runs/people --out people.flaxfit
    """

    run: Run  # The directory of a run or study.
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The file to write. By default it is model.flaxfit in the run directory."""


@dataclass(frozen=True, kw_only=True)
class List(Common):
    """List the data sets that have a name.

    Example: flaxfit data list
    """


@dataclass(frozen=True, kw_only=True)
class Describe(Common, Source):
    """Describe a file or a data set: its rows, its columns, and what would be done to each.

    Example: flaxfit data describe people.csv --target sold
    """


@dataclass(frozen=True)
class Doctor(Common):
    """Check this installation: versions, devices, cache, and a small training run.

    Example: flaxfit doctor
    """


def named(kind: type, name: str) -> Any:
    """Returns a command as a subcommand with a name."""
    return Annotated[kind, tyro.conf.subcommand(name=name, prefix_name=False)]


@dataclass(frozen=True)
class DataCommand:
    """List or describe data sets.

    Example: flaxfit data list
    """

    command: tyro.conf.OmitSubcommandPrefixes[named(List, "list") | named(Describe, "describe")] = field()  # pyright: ignore[reportInvalidTypeForm]


COMMANDS: dict[str, type] = {
    "study": Study,
    "fit": Fit,
    "predict": Predict,
    "evaluate": Evaluate,
    "compare": Compare,
    "show": Show,
    "report": Report,
    "resume": Resume,
    "export": Export,
    "data": DataCommand,
    "doctor": Doctor,
}
