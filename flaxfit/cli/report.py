"""`flaxfit report`: a run or a study as one HTML page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np

from flaxfit.cli.options import Report
from flaxfit.cli.runs import config_of, curves_of, members_of
from flaxfit.cli.suggest import study_of_words
from flaxfit.report import html
from flaxfit.report.conclusion import conclusion
from flaxfit.report.diagnosis import diagnose, verdicts
from flaxfit.report.statistics import interval
from flaxfit.sections import Section
from flaxfit.storage.directory import RunDirectory
from flaxfit.storage.histories import load_history


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
    history = load_history(directory.path)
    diagnosis = diagnose(history) if config["data"].get("validation") else None
    name, told = directory.path.name, [] if diagnosis is None else [f"Diagnosis: {diagnosis}."]
    onsets = {} if diagnosis is None or diagnosis.epoch is None else {name: diagnosis.epoch}
    sections = [
        Section("Answer", conclusion(history, diagnosis, config.get("constant", {}), study_of_words(config["environment"]["command"]))),
        Section("Learning curves", told, figure="curves"),
        *(replace(section, title="Metrics") for section in history.sections()),
    ]
    figures = {"curves": html.curves({name: [history]}, str(history.data_loss), onsets)}
    subtitle = f"Run in {directory.path}, {history.epochs[-1]} of {config['arguments']['epochs']} epochs"
    return html.page(name, subtitle, sections, figures, _facts(config))


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
    rows = [[name, str(len(runs)), best[name].short, verdict] for (name, runs), verdict in zip(settings.items(), each, strict=True)]
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
