"""`flaxfit data`: the data sets with a name, and what a file holds."""

from __future__ import annotations

import json

from flaxfit import data
from flaxfit.cli.options import Describe, List
from flaxfit.cli.source import examples
from flaxfit.data import Dataset, Splits, Table

_WHAT = {
    "breast_cancer": "tumors, 30 numbers, 2 classes; included",
    "diabetes": "patients, 10 numbers, a regression; included",
    "digits": "8 x 8 images of digits; included",
    "wine": "wines, 13 numbers, 3 classes; included",
    "fashion_mnist": "28 x 28 images of clothes; downloaded",
    "higgs": "collisions, 28 numbers, 2 classes; downloaded",
    "imdb": "movie reviews as words, 2 classes; downloaded",
    "mnist": "28 x 28 images of digits; downloaded",
    "sonar": "sonar echoes, 60 numbers, 2 classes; downloaded",
}


def list(command: List) -> None:
    """Prints the names of the data sets."""
    names = {name: _WHAT.get(name, "") for name in data.names()}
    if command.json:
        print(json.dumps(names, indent=1))
        return
    for name, what in names.items():
        print(f"{name:14} {what}")


def describe(command: Describe) -> None:
    """Prints what a file or a data set holds."""
    found = examples(command).data
    if command.json:
        parts = {"train": found} if isinstance(found, Table | Dataset) else dict(found.items())
        about = {name: {"examples": len(part), "text": repr(part)} for name, part in parts.items()}
        columns = {name: str(how) for name, how in found.encoding.columns.items()} if isinstance(found, Table) else None
        print(json.dumps({"parts": about, "columns": columns}, indent=1))
    elif isinstance(found, Splits):
        for name, part in found.items():
            print(f"{name}: {part!r}")
            if part.classes:
                print(f"  classes: {', '.join(part.classes)}")
    else:
        print(found if isinstance(found, Table) else repr(found))
