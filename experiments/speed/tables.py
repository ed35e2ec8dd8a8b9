"""Tables and plots of the benchmark's rounds."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from servers import FLAXFIT, PEERS

MARK = "≠"


class Summary(NamedTuple):
    """What the rounds of a peer say.

    Attributes:
      time: the median of its milliseconds for each epoch, and each member; for a first epoch, of its seconds.
      start: the median of the seconds from the start of the process to the end of the first epoch, if that was measured.
      ratio: the median of the ratios to flaxfit's time in the same round.
      low: their first quartile.
      high: their third quartile.
      accuracy: the mean of the last validation accuracies of runs with all epochs.
      same: whether the accuracy is as near to flaxfit's as the workload asks.
      memory: the largest peak of the process's memory, in MB.
      device_memory: the same of an accelerator's memory, or None.
      share: the share of the rate of products that is reached, for dense networks; else None.
    """

    time: float
    start: float | None
    ratio: float
    low: float
    high: float
    accuracy: float
    same: bool
    memory: float
    device_memory: float | None
    share: float | None


def summaries(measured: Mapping[str, Any]) -> dict[str, Summary]:
    """Returns a summary of each peer of a workload that has finished all rounds."""
    rounds, work = measured["rounds"], measured["work"]
    scale = 1.0 if work["start"] else 1e3
    found: dict[str, Summary] = {}
    own = [each[FLAXFIT] for each in rounds]
    for name in (name for name in PEERS if all(name in each for each in rounds)):
        each = [one[name] for one in rounds]
        times, others = (np.array([scale * one["seconds"] / one["runs"] / one["epochs"] for one in answers]) for answers in (each, own))
        low, ratio, high = np.quantile(times / others, (0.25, 0.5, 0.75))
        accuracy, reference = (reached(measured, peer) for peer in (name, FLAXFIT))
        share = None
        if measured["operations"] and not work["start"]:
            rate = np.array([1 / one["products"]["seconds"] for one in rounds])  # billions of operations a second
            share = float(np.median(measured["operations"] / 1e9 / (times / 1e3) / rate))
        device = [one["device_memory"] for one in each if one["device_memory"] is not None]
        found[name] = Summary(
            time=float(np.median(times)),
            start=float(np.median([one["start"] for one in each])) if work["start"] else None,
            ratio=float(ratio),
            low=float(low),
            high=float(high),
            accuracy=accuracy,
            same=abs(accuracy - reference) <= work["tolerance"],
            memory=max(one["memory"] for one in each),
            device_memory=max(device) if device else None,
            share=share,
        )
    return found


def reached(measured: Mapping[str, Any], name: str) -> float:
    """Returns the mean of a peer's last validation accuracies, over the runs with all epochs."""
    epochs, first = measured["work"]["epochs"], measured.get("prepared", {})
    runs = [each[name] for each in measured["rounds"] if each[name]["epochs"] == epochs]
    return float(np.mean([one["accuracy"] for one in (*([first[name]] if name in first else []), *runs)]))


def show(measured: Mapping[str, Any]) -> None:
    """Prints the table of a workload."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=measured["work"]["title"], title_justify="left")
    columns, rows = details(measured)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    for name, reason in measured["failed"].items():
        print(f"Without {PEERS[name].title}: {reason}")


def details(measured: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and rows of a workload's own table."""
    start = measured["work"]["start"]
    columns = ["peer", "s" if start else "ms per epoch", "peer / flaxfit", "quartiles", "accuracy", "peak memory, MB"]
    columns += ["from process start, s"] if start else ["share of GEMM"]
    rows = []
    for name, found in summaries(measured).items():
        accuracy = f"{found.accuracy:.3f}{'' if found.same else ' ' + MARK}"
        cells = [short(found.time), f"{found.ratio:.2f}", f"{found.low:.2f} to {found.high:.2f}", accuracy, f"{found.memory:.0f}"]
        last = short(found.start) if found.start is not None else percent(found.share)
        rows.append([PEERS[name].title, *cells, last])
    return columns, rows


def short(value: float) -> str:
    """Returns a number with three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2g}%"


def listed(titles: Sequence[str]) -> str:
    return f" ({'; '.join(titles)})" if titles else ""


def columns_of(works: Sequence[Mapping[str, Any]]) -> list[str]:
    """The peers beside flaxfit that finished one of these workloads."""
    finished = {name for measured in works for name in summaries(measured)}
    return [name for name in PEERS if name in finished and name != FLAXFIT]


def pipes(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)) + "\n"


def ratios(works: Sequence[Mapping[str, Any]]) -> str:
    """The table of ratios, a row for each workload."""
    start, names = bool(works[0]["work"]["start"]), columns_of(works)
    columns = ["workload", "flaxfit, s"] if start else ["workload", "flaxfit, ms per epoch", "share of GEMM"]
    rows = []
    for measured in works:
        found = summaries(measured)
        own = found[FLAXFIT]
        cells = [""] * len(names)
        for index, each in enumerate(map(found.get, names)):
            if each:
                cells[index] = f"{short(each.ratio)} ({short(each.low)} to {short(each.high)}){'' if each.same else ' ' + MARK}"
        rows.append([measured["work"]["title"], short(own.time), *([] if start else [percent(own.share)]), *cells])
    return pipes([*columns, *(PEERS[name].title for name in names)], rows)


def starts(works: Sequence[Mapping[str, Any]]) -> str:
    """The table of seconds from the start of a process to the end of the first epoch."""
    names = [FLAXFIT, *columns_of(works)]
    rows = []
    for measured in works:
        found = summaries(measured)
        rows.append([measured["work"]["title"], *(short(found[name].start or 0.0) if name in found else "" for name in names)])
    return pipes(["workload", *(PEERS[name].title for name in names)], rows)


def memory(works: Sequence[Mapping[str, Any]]) -> str:
    """The table of peak memory."""
    names = [FLAXFIT, *columns_of(works)]
    rows = []
    for measured in works:
        found = summaries(measured)
        cells = []
        for each in map(found.get, names):
            device = "" if each is None or each.device_memory is None else f" + {each.device_memory:.0f}"
            cells.append(f"{each.memory:.0f}{device}" if each else "")
        rows.append([measured["work"]["title"], *cells])
    return pipes(["workload", *(PEERS[name].title for name in names)], rows)


def markdown(record: Mapping[str, Any]) -> str:
    """All tables, with versions, device and what was left out."""
    works = record["workloads"]
    usual = [each for each in works if not each["work"]["start"] and not each["work"]["growth"]]
    first = [each for each in works if each["work"]["start"]]
    machine, count = record["machine"], max(len(each["rounds"]) for each in works)
    device = record["peers"][FLAXFIT]["device"]
    where = f"{machine['processor']}, {machine['cores']} cores" + (f", {device}" if device != "cpu" else "")
    parts = [f"`python experiments/speed/suite.py {' '.join(record['command'])}".rstrip() + "`\n"]
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} at the start"
    parts.append(f"{machine['started'][:10]}, {where}{load}; {count} rounds, precision {record['precision']}.\n")
    if usual:
        rate = np.median([1 / each["products"]["seconds"] for work in usual for each in work["rounds"]])
        parts += [f"Products of matrices: {rate:.0f} GFLOP/s.\n", "**Peer / flaxfit: medians of ratios, and quartiles**\n", ratios(usual)]
    if first:
        parts += ["**The first epoch, from before the model is made: peer / flaxfit**\n", ratios(first)]
        parts += ["**Seconds from the start of a process to the end of the first epoch**\n", starts(first)]
    if usual:
        parts += ["**Peak memory of the process, MB**\n", memory(usual)]
    if any(not found.same for each in (*usual, *first) for found in summaries(each).values()):
        parts.append(f"{MARK}: the validation accuracy differs from flaxfit's by more than the workload's tolerance.\n")
    versions: dict[str, dict[str, None]] = {"python": {}}  # as ordered sets: an environment may have another version
    for peer in (record["peers"][name] for name in PEERS if name in record["peers"]):
        for package, version in {"python": peer["python"], **peer["versions"]}.items():
            versions.setdefault(package, {})[version] = None
    parts.append("Versions: " + ", ".join(f"{package} {' and '.join(each)}" for package, each in versions.items()) + ".\n")
    missing: dict[str, list[str]] = {reason: [] for reason in record["skipped"].values()}
    for each in works:
        for name, reason in each["failed"].items():
            missing.setdefault(f"{PEERS[name].title}: {reason.partition(' (see ')[0]}", []).append(each["work"]["title"])
    parts += [f"- Left out: {reason}{listed(titles)}." for reason, titles in missing.items()]
    return "\n".join(parts) + "\n" * bool(missing)


def write(record: Mapping[str, Any], home: Path) -> None:
    """Writes `rounds.json`, `table.md`, `table.csv` and the plots."""
    (home / "rounds.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    (home / "table.md").write_text(markdown(record), encoding="utf-8")
    with (home / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["workload", "peer", *Summary._fields])
        for measured in record["workloads"]:
            writer.writerows([measured["work"]["name"], name, *found] for name, found in summaries(measured).items())
    usual = [each for each in record["workloads"] if not each["work"]["growth"]]
    growth = [each for each in record["workloads"] if each["work"]["growth"]]
    if usual:
        plot_ratios(usual).savefig(home / "ratios.png", dpi=100)
    if growth:
        plot_growth(growth).savefig(home / "growth.png", dpi=100)


def styles() -> dict[str, tuple[str, str]]:
    """The color and the marker of each peer."""
    from itertools import cycle

    from flaxfit.report.plots import PALETTE

    return dict(zip(PEERS, zip(cycle(PALETTE), "oooooooDDDs", strict=False), strict=False))


def plot_ratios(works: Sequence[Mapping[str, Any]]) -> Any:
    """Each peer's ratio in each workload, with its quartiles, on a logarithmic axis."""
    from flaxfit.report.plots import panels

    look, names = styles(), columns_of(works)
    figure, (ax,) = panels(size=(8, 1.6 + 0.38 * len(works)))
    for offset, name in zip(np.linspace(-0.3, 0.3, max(2, len(names))), names, strict=False):
        points = [(row, found[name]) for row, found in enumerate(map(summaries, works)) if name in found]
        places, found = [row + offset for row, _ in points], [each for _, each in points]
        middle = np.array([each.ratio for each in found])
        bars = np.abs(np.array([[each.low for each in found], [each.high for each in found]]) - middle)
        color, marker = look[name]
        ax.errorbar(middle, places, xerr=bars, fmt=marker, color=color, markersize=4, elinewidth=1, label=PEERS[name].title)
    ax.axvline(1, color="black", linewidth=1)
    ax.set(xscale="log", xlabel="time of the peer / time of flaxfit", yticks=range(len(works)))
    ax.set_yticklabels([measured["work"]["title"] for measured in works])
    ax.invert_yaxis()
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.3, 1), fontsize="small")
    return figure


def plot_growth(works: Sequence[Mapping[str, Any]]) -> Any:
    """Milliseconds for each epoch against the quantity that grows, a panel for each quantity."""
    from flaxfit.report.plots import panels

    look, kinds = styles(), list(dict.fromkeys(each["work"]["growth"][0] for each in works))
    figure, axes = panels(len(kinds), size=(3.2 * len(kinds), 4))
    for ax, kind in zip(axes, kinds, strict=True):
        points = [(each["work"]["growth"][1], summaries(each)) for each in works if each["work"]["growth"][0] == kind]
        for name in PEERS:
            line = [(value, found[name].time) for value, found in points if name in found]
            if line:
                color, marker = look[name]
                ax.plot(*zip(*line, strict=True), marker=marker, color=color, markersize=4, label=PEERS[name].title)
        ax.set(xscale="log", yscale="log", xlabel=kind)
    axes[0].set_ylabel("ms per epoch (and member)")
    axes[0].legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
    return figure
