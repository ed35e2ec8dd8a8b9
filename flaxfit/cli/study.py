"""`flaxfit study`: which fix helps my model?"""

from __future__ import annotations

import json
import sys

from flaxfit import cli
from flaxfit.cli.options import Study
from flaxfit.cli.source import directory_for, examples, task_of


def study(command: Study) -> None:
    """Studies a file or a data set, and prints the answer."""
    from flaxfit.overfitting import overfitting_study

    found, make_task = examples(command), task_of(command)
    directory = command.run_dir or directory_for(f"{found.name}-study")

    def say(line: str) -> None:
        if not command.quiet:
            sys.stderr.write(f"{line}\n")

    answer = overfitting_study(
        make_task,
        found.data,
        metric=command.metric,
        margin=command.margin,
        groups=found.groups,
        times=found.times,
        test=command.test,
        folds=command.folds,
        epochs=command.epochs,
        batch_size=command.batch_size,
        budget=command.budget,
        seed=command.seed,
        run_dir=directory,
        progress=say,
        began=cli.BEGAN,
    )
    if command.json:
        print(json.dumps(answer.record(), indent=1))
        return
    print(answer)
    page = "report.html to open, " if (directory / "report.html").is_file() else ""
    print(f"\nWritten to {directory}: {page}study.md, and the recommended model. Predict new rows with it:")
    print(f"  flaxfit predict {directory} NEW.csv -o predictions.csv")
