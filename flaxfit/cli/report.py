"""`flaxfit report`: a run or a study as one HTML page."""

from __future__ import annotations

import json
import shutil
from typing import Any

from flaxfit.cli.options import Report
from flaxfit.cli.runs import config_of, members_of
from flaxfit.history import History
from flaxfit.report import html
from flaxfit.report.diagnosis import diagnose, verdicts
from flaxfit.report.sections import Section
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
    answer, marks = [f"Epoch {history.epochs[-1]} of {config['arguments']['epochs']}, best epoch {history.best_epoch}."], {}
    if config["data"].get("validation"):
        diagnosis = diagnose(history)
        answer.insert(0, f"{diagnosis}.")
        if diagnosis.epoch is not None:
            marks["run"] = (float(diagnosis.epoch), "overfits from here on")
    last = [[name, f"{value:.6g}"] for name, value in history.row(-1).items() if name != "best_epoch"]
    sections = [
        Section("Answer", answer),
        Section("Learning curves", [], figure="curves"),
        Section("Last epoch", [], ["metric", "value"], last),
    ]
    figures = {"curves": html.curves({directory.path.name: [history]}, str(history.data_loss), marks)}
    return html.page(directory.path.name, f"Run in {directory.path}", sections, figures, _facts(config))


def _population(directory: RunDirectory, config: dict[str, Any]) -> str:
    settings: dict[str, list[History]] = {}
    for saved in members_of(directory).values():
        if len(saved.history.epochs):
            name = ", ".join(f"{key} {value}" for key, value in saved.record["arguments"].get("setting", {}).items()) or "all seeds"
            settings.setdefault(name, []).append(saved.history)
    if not settings:
        raise ValueError(f"{directory.path} has no finished epoch yet.")
    column = next(iter(settings.values()))[0].data_loss
    validated = f"val_{column}" in next(iter(settings.values()))[0]
    rows = [[name, str(len(h)), verdicts(map(diagnose, h)) if validated else "-"] for name, h in settings.items()]
    sections = [
        Section("Answer", ["What the learning curves of each setting say."], ["setting", "runs", "diagnosis"], rows),
        Section("Learning curves", [], figure="curves"),
    ]
    figures = {"curves": html.curves(settings, str(column))}
    return html.page(directory.path.name, f"Population in {directory.path}", sections, figures, _facts(config))


def _facts(config: dict[str, Any]) -> dict[str, str]:
    about = config["environment"]
    facts = {name: ", ".join(f"{key} {value}" for key, value in config.get(name, {}).items()) for name in ("arguments",)}
    facts |= {f"{name} data": ", ".join(f"{k} {v}" for k, v in data.items()) for name, data in config.get("data", {}).items()}
    facts |= {"command": " ".join(about["command"]), "started": about["started"], "commit": about.get("commit") or "-"}
    facts["device"] = f"{about['device']['count']} x {about['device']['kind']}"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    return {name: text for name, text in facts.items() if text}
