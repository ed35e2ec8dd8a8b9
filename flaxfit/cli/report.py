"""`flaxfit report`: a run or a study as one HTML page."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np

from flaxfit.cli.options import Report
from flaxfit.cli.runs import config_of, curves_of, members_of
from flaxfit.report import html
from flaxfit.report.diagnosis import diagnose, verdicts
from flaxfit.report.statistics import interval
from flaxfit.sections import Section
from flaxfit.storage.directory import RunDirectory


def report(command: Report) -> None:
    """Writes the page, and prints where it is."""
    directory = RunDirectory(command.run)
    config = config_of(directory)
    out = command.output or directory.path / "report.html"
    if config.get("study"):
        written = directory.path / "report.html"
        if not written.is_file():
            raise ValueError(
                f"{directory.path} has no report.html: install plotly (pip install flaxfit[report]) and start the study again."
            )
        if out != written:
            shutil.copyfile(written, out)
    else:
        out.write_text(_population(directory, config) if "population" in config else _run(directory, config), encoding="utf-8")
    print(json.dumps({"report": str(out)}) if command.json else out)


def _run(directory: RunDirectory, config: dict[str, Any]) -> str:
    history = directory.read_metrics()
    if history is None or not len(history.epochs):
        raise ValueError(f"{directory.path} has no finished epoch yet.")
    history.validation_every = config["arguments"].get("validation_every", 1)
    answer, onsets = [f"Epoch {history.epochs[-1]} of {config['arguments']['epochs']}, best epoch {history.best_epoch}."], {}
    if config["data"].get("validation"):
        diagnosis = diagnose(history)
        answer.insert(0, f"{diagnosis}.")
        if diagnosis.epoch is not None:
            onsets[directory.path.name] = diagnosis.epoch
    last = [[name, f"{value:.6g}"] for name, value in history.row(-1).items() if name != "best_epoch"]
    sections = [
        Section("Answer", answer),
        Section("Learning curves", [], figure="curves"),
        Section("Last epoch", [], ["metric", "value"], last),
    ]
    figures = {"curves": html.curves({directory.path.name: [history]}, str(history.data_loss), onsets)}
    return html.page(directory.path.name, f"Run in {directory.path}", sections, figures, _facts(config))


def _population(directory: RunDirectory, config: dict[str, Any]) -> str:
    members = members_of(directory)
    settings = curves_of(members)
    if not settings:
        raise ValueError(f"{directory.path} has no finished epoch yet.")
    first, record = next(iter(settings.values()))[0], next(iter(members.values())).record
    loss = str(first.data_loss)
    validated = f"val_{loss}" in first
    column = f"val_{loss}" if validated else loss
    best = {
        name: interval([np.min(history[column], initial=np.inf, where=np.isfinite(history[column])) for history in runs])
        for name, runs in settings.items()
    }
    found = {name: diagnose(runs) for name, runs in settings.items()} if validated else {}
    onsets = {name: diagnosis.epoch for name, diagnosis in found.items() if diagnosis.epoch is not None}
    lowest = min(best, key=lambda name: best[name].mean)
    count = sum(map(len, settings.values()))
    answer = [f"{len(settings)} settings with {count} runs. The lowest {column} of a run is {best[lowest]} on average for {lowest}."]
    if validated:
        for verdict in dict.fromkeys(diagnosis.verdict for diagnosis in found.values()):
            named = [f"{name} (from epoch {d.epoch})" if d.epoch else name for name, d in found.items() if d.verdict == verdict]
            answer.append(f"{verdict.capitalize()}: {', '.join(named)}.")
        answer.append("The lowest value of a run was chosen on the examples that it is measured on, so it is a little too good.")
    each = [verdicts(map(diagnose, runs)) if validated else "-" for runs in settings.values()]
    rows = [
        [name, str(len(runs)), str(best[name]).rsplit(" (", 1)[0], verdict]
        for (name, runs), verdict in zip(settings.items(), each, strict=True)
    ]
    sections = [
        Section("Answer", answer),
        Section("Learning curves", [], figure="curves"),
        Section("Settings", [], ["setting", "runs", f"lowest {column}, 95% interval", "verdicts of the runs"], rows),
    ]
    figures = {"curves": html.curves(settings, loss, onsets)}
    arguments = {name: value for name, value in record["arguments"].items() if name not in ("seed", "setting", "fold")}
    facts = _facts({**record, "arguments": arguments, "environment": config["environment"]})
    return html.page(directory.path.name, f"Population in {directory.path}", sections, figures, facts)


def _facts(config: dict[str, Any]) -> dict[str, str]:
    about = config["environment"]
    facts = {"arguments": ", ".join(f"{name} {value}" for name, value in config["arguments"].items())}
    shown = ("count", "source", "version", "rows")
    facts |= {f"{name} data": ", ".join(f"{k} {data[k]}" for k in shown if data.get(k)) for name, data in config.get("data", {}).items()}
    facts |= {"command": " ".join(about["command"]), "started": about["started"], "commit": about.get("commit") or "-"}
    facts["device"] = f"{about['device']['count']} x {about['device']['kind']}"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    return facts
