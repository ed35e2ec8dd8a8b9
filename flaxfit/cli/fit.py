"""`flaxfit fit`: train one network, and say whether it overfits."""

from __future__ import annotations

import json
from typing import Any

from flaxfit.arguments import check_count
from flaxfit.callbacks import Checkpoint
from flaxfit.cli.options import Fit
from flaxfit.cli.source import directory_for, examples, task_of
from flaxfit.cli.suggest import study_of
from flaxfit.overfitting.fixes import NEUTRAL
from flaxfit.overfitting.network import Network, names_for
from flaxfit.overfitting.plan import epochs_for
from flaxfit.overfitting.problem import problem_of, scaling_of
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.report.diagnosis import diagnose
from flaxfit.task.task import Task
from flaxfit.train.fit import fit as train
from flaxfit.train.result import Result


def fit(command: Fit) -> None:
    """Trains one network on a file or a data set, and prints its scores and the diagnosis."""
    found, network = examples(command), task_of(command)
    problem, warnings = problem_of(found.data, found.groups, found.times, command.validation, 2, command.seed)
    data, _, validation, _ = problem.final(False)
    chosen = {name: getattr(command, name) for name in ("dropout", "l1", "l2", "weight_decay", "batch_norm")}
    if isinstance(network, Network):
        scaling = {} if problem.encoding is not None else {"scaling": scaling_of(data.x)}
        make: Any = network.task_maker(data)
        task = make({name: chosen.get(name, NEUTRAL[name]) for name in names_for(data)} | scaling)
    elif changed := [name for name, value in chosen.items() if value != NEUTRAL[name] and isinstance(network, Task)]:
        raise ValueError(f"--{changed[0].replace('_', '-')} needs a function of hyperparameters as --task, not a Task.")
    else:
        task = network if isinstance(network, Task) else network({**NEUTRAL, **chosen, "scaling": scaling_of(data.x)})
    epochs = epochs_for(len(data), command.batch_size) if command.epochs is None else check_count("--epochs", command.epochs, 1, "epochs")
    directory = command.run_dir or directory_for(found.name)
    if not command.quiet:
        import sys

        for warning in [*warnings, *problem.leaks()]:
            sys.stderr.write(f"Warning: {warning}\n")
        sys.stderr.write(f"Training on {len(data)} examples, {epochs} epochs, validating on {len(validation)} others.\n")
    result = train(
        task,
        data,
        validation=validation,
        epochs=epochs,
        batch_size=command.batch_size,
        early_stopping=None if command.patience is None else EarlyStopping(patience=command.patience),
        seed=command.seed,
        run_dir=directory,
        resume="auto",
        callbacks=[Checkpoint(every_seconds=60)],
    )
    diagnosis = diagnose(result)
    scores = _scores(result)
    if command.json:
        verdict = {"verdict": diagnosis.verdict, "epoch": diagnosis.epoch, "text": str(diagnosis)}
        print(json.dumps({"run_dir": str(directory), "best_epoch": result.best_epoch, "scores": scores, "diagnosis": verdict}, indent=1))
        return
    print(f"Best epoch {result.best_epoch} of {len(result.history.epochs)}: " + ", ".join(f"{n} {v:.4g}" for n, v in scores.items()))
    print(f"Verdict: {diagnosis}.")
    print(f"Written to {directory}. Which fix helps: {study_of(command)}")


def _scores(result: Result) -> dict[str, float]:
    """The validation scores of the best epoch."""
    place = (result.best_epoch or len(result.history.epochs)) - 1
    names = [name for name in result.history if name.startswith("val_") and name not in ("val_loss", "val_penalty")]
    return {name: float(result.history[name][place]) for name in names}
