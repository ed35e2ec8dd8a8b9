"""`flaxfit predict` and `flaxfit evaluate`: what a trained model says of rows."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit import data as flaxfit_data
from flaxfit.arguments import unknown
from flaxfit.cli.options import Evaluate, Predict
from flaxfit.cli.source import is_file
from flaxfit.data import Dataset
from flaxfit.data.encoding import Dropped
from flaxfit.data.frames import cells_of
from flaxfit.data.sources.imdb import KERAS
from flaxfit.report.statistics import Interval
from flaxfit.storage.directory import RunDirectory
from flaxfit.storage.predictor import Predictor, load
from flaxfit.train.record import checksum

_MOST_CLASSES = 20


def predict(command: Predict) -> None:
    """Predicts new rows, and writes them as CSV."""
    model, path = load(command.model), command.data
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    columns: dict[str, Any] = {}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            if "x" not in arrays:
                raise ValueError(f"{path} has no array x: it has {', '.join(arrays.files) or 'none'}.")
            x: Any = arrays["x"]
    elif model.encoding is None:
        raise ValueError(f"{command.model} was trained on arrays, not on columns: pass an NPZ file with an array x.")
    else:
        frame = _frame(model, path)
        x, kept = model.encoding(frame), command.keep or _identifying(model)
        cells = cells_of(frame)
        for name in kept:
            if name in cells:
                values = cells[name].values
                columns[name] = ["" if v is None or v != v else f"{v:.15g}" if isinstance(v, float) else v for v in values]
            elif command.keep:
                raise ValueError(f"--keep: {unknown('column', name, cells)}")
    columns |= _predicted(model, x)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    rows = len(next(iter(columns.values())))
    if command.json:
        print(json.dumps([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)], indent=1))
    elif command.output is None:
        sys.stdout.write(text.getvalue())
    if command.output is not None:
        command.output.write_text(text.getvalue())
        if not command.quiet and not command.json:
            print(f"{rows} predictions written to {command.output}.")


def _frame(model: Predictor, path: Path) -> Any:
    """The columns of new rows, which are named as the model names them."""
    names = [name for name, how in model.encoding.columns.items() if not isinstance(how, Dropped)] if model.encoding else []
    numbered = all(name.startswith("column ") for name in names)
    return flaxfit_data.read_frame(path, header=None if numbered or path.suffix == ".parquet" else True)


def _identifying(model: Predictor) -> list[str]:
    """The columns that name the rows."""
    assert model.encoding is not None
    return [name for name, how in model.encoding.columns.items() if isinstance(how, Dropped) and "identif" in how.reason]


def _predicted(model: Predictor, x: Any) -> dict[str, list[Any]]:
    """The columns that a model adds to rows."""
    outputs = model.predict(x)
    if not model.is_classifier:
        outputs = np.asarray(outputs, float)
        outputs = outputs.reshape(len(outputs), -1)
        names = ["prediction"] if outputs.shape[1] == 1 else [f"prediction_{index}" for index in range(outputs.shape[1])]
        return {name: [f"{value:.7g}" for value in column] for name, column in zip(names, outputs.T, strict=True)}
    probabilities = model.probabilities(outputs)
    classes = model.classes or tuple(map(str, range(probabilities.shape[1])))
    best = probabilities.argmax(1)
    columns: dict[str, list[Any]] = {
        "prediction": [classes[index] for index in best],
        "probability": [f"{row[index]:.6g}" for row, index in zip(probabilities, best, strict=True)],
    }
    if len(classes) <= _MOST_CLASSES:
        columns |= {f"probability_{name}": [f"{value:.6g}" for value in probabilities[:, i]] for i, name in enumerate(classes)}
    return columns


def evaluate(command: Evaluate) -> None:
    """Evaluates a model on a file or on a part of a named data set."""
    model = load(command.model)
    if command.data is not None and is_file(command.data):
        name, rows = _of_file(model, Path(command.data), command)
    else:
        name, rows = _of_name(model, command)
    scores = model.evaluate(rows, metrics=_more(model), interval=model.metadata.get("ignore_label") is None)
    if command.json:
        numbers = {metric: value.record() if isinstance(value, Interval) else float(value) for metric, value in scores.items()}
        print(json.dumps({"data": name, "examples": len(rows), "scores": numbers}, indent=1))
        return
    print(f"{name}, {len(rows)} examples; ± and [] are 95% intervals over these:")
    for metric, value in scores.items():
        print(f"  {metric} " + (value.short if isinstance(value, Interval) else f"{value:.6g}"))


def _more(model: Predictor) -> dict[str, Any]:
    from flaxfit import metrics

    return {"rmse": metrics.rmse, "r2": metrics.r2} if model.metadata["loss"] in ("mse", "standardized_mse") else {}


def _of_file(model: Predictor, path: Path, command: Evaluate) -> tuple[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    if path.suffix == ".npz":
        return path.name, flaxfit_data.read_npz(path)
    target = command.target or model.metadata["data"].get("target")
    if target is None:
        raise ValueError(f"name the column to predict: --target COLUMN, because {command.model} does not know it.")
    if model.encoding is None:
        raise ValueError(f"{command.model} was trained on arrays, not on columns: pass an NPZ file with arrays x and y.")
    numbered = target.startswith("column ")
    kind = {} if model.is_classifier else {target: "number"}
    kind = {target: "category"} if model.classes else kind
    where: Any = int(target.removeprefix("column ")) if numbered else int(target) if target.lstrip("-").isdigit() else target
    kinds = {name: "drop" for name, how in model.encoding.columns.items() if isinstance(how, Dropped)}
    frame = _frame(model, path)
    kinds = {name: how for name, how in kinds.items() if name in frame} | ({} if numbered else kind)
    table = flaxfit_data.read_table(path, where, kinds=kinds)  # pyright: ignore[reportArgumentType]
    return path.name, table


def _of_name(model: Predictor, command: Evaluate) -> tuple[str, Dataset]:
    name = command.data or model.metadata["data"]["source"]
    if name not in flaxfit_data.names():
        if command.data is not None:
            raise ValueError(f"there is no file {name}, and {unknown('data set', name, flaxfit_data.names())}")
        raise ValueError(f"{command.model} was not trained on a data set with a name: pass a file, flaxfit evaluate {command.model} DATA.")
    features, options = tuple(model.features or ()), {}
    if name == "imdb":
        options = {"vocabulary": len(features), "layout": "keras" if features[: len(KERAS)] == KERAS else "words"}
    splits = flaxfit_data.load(name, originals=command.originals, **options)
    part = command.part or ("validation" if splits.test is None else "test")
    rows = splits.test
    if part != "test":
        config = RunDirectory(command.model).read_config() or {"data": {}}
        first, _, last = config["data"].get(part, {}).get("rows", "").partition(":")
        if not last.isdecimal():
            raise ValueError(
                f"the {part} examples of {command.model} are not a range of {name}, but were drawn at random: "
                "evaluate them in a script, with flaxfit.load."
            )
        rows = splits.train[int(first) : int(last)]
        recorded = config["data"][part].get("crc32")
        if recorded not in (None, checksum(rows)["crc32"]):
            raise ValueError(f"the {part} examples of {command.model} are not those that {name} has now: evaluate them in a script.")
    if rows is None:
        raise ValueError(f"{name} has no test set of its own: pass --part validation to use the validation examples of this run.")
    return f"{name}, {part}", rows
