"""`flaxfit study`: which fix helps my model?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from flaxfit import cli
from flaxfit.cli.options import Study
from flaxfit.cli.source import directory_for, examples, task_of


@contextmanager
def executor_of(address: str | None, make_task: Any) -> Iterator[Executor | None]:
    """The executor of a Dask cluster, or None without an address.

    Raises:
      ImportError: Dask is not installed.
      OSError: there is no scheduler at the address.
    """
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("--dask needs Dask: pip install flaxfit[dask].") from error
    import cloudpickle

    module = sys.modules.get(getattr(make_task, "__module__", ""))
    if module is not None and not module.__name__.startswith("flaxfit."):  # a file of the user's, which workers may not have
        cloudpickle.register_pickle_by_value(module)
    with Client(address) as client:
        yield client.get_executor()


def study(command: Study) -> None:
    """Studies a file or a data set, and prints the answer."""
    from flaxfit.overfitting import overfitting_study

    found, make_task = examples(command), task_of(command)
    directory = command.run_dir or directory_for(f"{found.name}-study")

    with executor_of(command.dask, make_task) as executor:
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
            progress=not command.quiet,
            began=cli.BEGAN,
            executor=executor,
        )
    if command.json:
        print(json.dumps(answer.record(), indent=1))
        return
    print(answer)
    page = "report.html to open, " if (directory / "report.html").is_file() else ""
    print(f"\nWritten to {directory}: {page}study.md, and the recommended model. Predict new rows with it:")
    print(f"  flaxfit predict {directory} NEW.csv -o predictions.csv")
