"""`flaxfit compare`: several runs side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.cli.options import Compare
from flaxfit.cli.runs import config_of, members_of
from flaxfit.history import History
from flaxfit.report.diagnosis import diagnose, verdicts
from flaxfit.report.statistics import compare as compared
from flaxfit.report.statistics import family, interval
from flaxfit.sections import table
from flaxfit.storage.directory import RunDirectory
from flaxfit.storage.histories import load_history


@dataclass(frozen=True)
class _Setting:
    """Runs that differ in their seeds only."""

    name: str
    histories: dict[int, History]


def compare(command: Compare) -> None:
    """Prints the settings of several runs with their scores, and whether they differ from the first one beyond noise."""
    if not command.runs:
        raise ValueError("name two or more runs: flaxfit compare RUN RUN...")
    settings = _settings(command.runs)
    if sum(len(s.histories) for s in settings) < 2:
        raise ValueError("there is nothing to compare with one run: name another one.")
    losses = {history.data_loss for setting in settings for history in setting.histories.values()}
    if command.metric is None and len(losses) > 1:
        raise ValueError(f"these runs have different losses ({', '.join(map(str, losses))}): name a metric, --metric val_accuracy.")
    metric = f"val_{(command.metric or losses.pop()).removeprefix('val_')}"
    scores = {setting.name: {seed: _best(setting.name, h, metric) for seed, h in setting.histories.items()} for setting in settings}
    larger = next(iter(settings[0].histories.values())).mode(metric) == "max"
    first = settings[0]
    tests = {s.name: _test(scores[first.name], scores[s.name], (first.name, s.name), larger) for s in settings[1:]}
    known = [name for name, test in tests.items() if test is not None]
    corrected = dict(zip(known, family([tests[name] for name in known]), strict=True)) if known else {}
    rows, records = [], []
    for setting in settings:
        values, epochs = list(scores[setting.name].values()), [h.best_epoch for h in setting.histories.values()]
        mean, test = interval(values), corrected.get(setting.name)
        verdict = verdicts(diagnose(h) for h in setting.histories.values() if metric in h)
        judged = "" if setting is first else "one run each" if test is None else test.verdict
        rows.append([setting.name, str(len(values)), mean.short, _median(epochs), verdict, judged])
        records.append({"setting": setting.name, "scores": values, "best_epochs": epochs, "diagnosis": verdict, "against_first": judged})
    if command.json:
        print(json.dumps({"metric": metric, "settings": records}, indent=1))
        return
    print(f"{metric} at its best epoch; {'larger' if larger else 'smaller'} is better")
    print(table(["setting", "seeds", "mean (95%)", "best epoch", "diagnosis", f"against {first.name}"], rows))
    if any(test is None for test in tests.values()):
        print("With one run of a setting nothing is known of its noise: train several seeds, ff.fit_many(..., seeds=5).")
    for test in corrected.values():
        print(f"{test}.")


def _test(a: dict[int, float], b: dict[int, float], names: tuple[str, str], larger: bool) -> Any:
    common = [seed for seed in a if seed in b]
    if len(common) > 1:
        return compared([a[s] for s in common], [b[s] for s in common], names=names, larger_is_better=larger)
    if len(a) > 1 and len(b) > 1:
        return compared([*a.values()], [*b.values()], names=names, larger_is_better=larger, method="unpaired")
    return None


def _settings(paths: tuple[Path, ...]) -> list[_Setting]:
    settings: dict[str, _Setting] = {}
    for path in paths:
        directory = RunDirectory(path)
        config = config_of(directory)
        if config.get("study"):
            raise ValueError(f"{path} is a study, which has compared its settings already: flaxfit show {path}.")
        if "population" in config:
            for saved in members_of(directory).values():
                arguments = saved.record["arguments"]
                name = ",".join(f"{k}={v}" for k, v in arguments.get("setting", {}).items()) or path.name
                name = f"{path.name} {name}" if len(paths) > 1 else name
                settings.setdefault(name, _Setting(name, {})).histories[_key(arguments)] = saved.history
            continue
        history = load_history(path)
        settings.setdefault(str(path), _Setting(path.name, {})).histories[config["arguments"].get("seed", 0)] = history
    return list(settings.values())


def _key(arguments: dict[str, Any]) -> int:
    return arguments.get("seed", 0) + 10**6 * (arguments.get("fold") or 0)


def _best(name: str, history: History, metric: str) -> float:
    if metric not in history:
        raise ValueError(f"{name}: {unknown('metric', metric, [n for n in history if n.startswith('val_')])}")
    values = history[metric]
    return float(np.nanmax(values) if history.mode(metric) == "max" else np.nanmin(values))


def _median(epochs: list[int | None]) -> str:
    known = [epoch for epoch in epochs if epoch is not None]
    return f"{np.median(known):.0f}" if known else "-"
